"""Options of K-shot sharing that would have no effect together: what each of them needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

GRADIENTS = "gradients"
"""The `split` that gradients choose."""

Options = Mapping[str, Any]


class Need(NamedTuple):
    """What an option needs to have an effect.

    Attributes:
        words: what it needs.
        way_out: which values of other options give it that.
        looks_at: the options that decide whether it is there, which a message shows.
        is_met: whether it is there.
    """

    words: str
    way_out: str
    looks_at: tuple[str, ...]
    is_met: Callable[[Options], bool]


def _one_of(option: str, words: str, *values: object) -> Need:
    """A need that some values of one option meet."""
    way_out = f"{option} = " + " or ".join(map(repr, values))
    return Need(words, way_out, (option,), lambda options: options[option] in values)


_LEARNT = _one_of("codes", "codes that are learnt", "learnt")
_NET = _one_of("codes", "codes that a simplex-net makes", "learnt", "random")
_CODE_STEPS = _one_of("update_mode", "steps that move the codes alone", "alternate")
_APART = _one_of("codes", "codes that tell slices apart", "learnt", "random", "one_hot")
_PENALISED = Need(
    "a loss of width settings",
    "regulariser = 'target' and beta = 0.1",
    ("regulariser", "beta"),
    lambda options: options["regulariser"] != "none" and options["beta"] > 0,
)
_WIDTHS = Need(
    "decisions about widths, whose codes it compares",
    "a network that has some",
    ("widths",),
    lambda options: options["widths"] is None or options["widths"] > 0,
)

NEEDS: Mapping[str, tuple[Need, ...]] = {
    "code_scope": (_NET,),
    "start": (_APART,),
    "update_mode": (_LEARNT,),
    "code_every": (_LEARNT, _CODE_STEPS),
    "compensate": (
        Need(
            "codes that mix slices, in some steps at least",
            "other codes, or warm_frac above 0",
            ("codes", "warm_frac"),
            lambda options: options["codes"] != "one_hot" or bool(options["warm_frac"]),
        ),
    ),
    "warm_frac": (
        _APART,
        Need(
            "steps after the warm-up, in which paths have codes of their own",
            "warm_frac below 1",
            (),
            lambda options: options["warm_frac"] < 1,
        ),
    ),
    "m": (_LEARNT, _CODE_STEPS),
    "hidden": (_NET,),
    "tau": (_NET,),
    "last_std": (
        _NET,
        Need(
            "to be above 0 unless learnt codes have independent slices to tell apart: else codes "
            "are uniform for ever",
            "last_std above 0",
            ("codes", "start"),
            lambda options: (
                options["last_std"] > 0
                or (options["codes"] == "learnt" and options["start"] == "independent")
            ),
        ),
    ),
    "split": (
        _one_of("codes", "codes that give every path one slice", "one_hot"),
        Need(
            "one copy that trains before it is split",
            "start = 'equal' and warm_frac between 0 and 1",
            ("start", "warm_frac"),
            lambda options: (
                options["split"] != GRADIENTS
                or (options["start"] == "equal" and 0 < (options["warm_frac"] or 0) < 1)
            ),
        ),
        Need(
            "copies that halving gives, since it splits in two again and again",
            "copies = 2, 4, 8, ...",
            ("copies",),
            lambda options: (
                options["split"] != GRADIENTS or options["copies"] & (options["copies"] - 1) == 0
            ),
        ),
    ),
    "split_batches": (_one_of("split", "a split that gradients choose", GRADIENTS),),
    "regulariser": (
        _LEARNT,
        Need("a factor above 0", "beta above 0", ("beta",), lambda options: options["beta"] > 0),
        _WIDTHS,
    ),
    "beta": (
        _LEARNT,
        _one_of("regulariser", "a loss that it is the factor of", "target", "cos", "instance"),
        _WIDTHS,
    ),
    "width_settings": (_LEARNT, _PENALISED, _WIDTHS),
    "entropy_floor": (_LEARNT,),
    "optimizer": (_LEARNT,),
    "lr": (_LEARNT,),
}
"""By option what it needs beside it. Options that are not here always have an effect."""


def refuse_without_effect(options: Options, defaults: Options, widths: int | None = None) -> None:
    """Refuses an option that was set and lacks what it needs, by the table `NEEDS`.

    One copy is the control of everything, to be had by `copies = 1` alone whatever else is set, so
    that nothing is refused then. An option that has its default counts as not set.

    Args:
        options: all options of a scheme.
        defaults: what they are by default.
        widths: how many decisions about widths the space has; None if it is not known yet.

    Raises:
        ValueError: then, with the option, what it needs and the way out.
    """
    if options["copies"] == 1:
        return
    known = {**options, "widths": widths}
    for option, needs in NEEDS.items():
        if options[option] == defaults[option]:
            continue
        for need in needs:
            if not need.is_met(known):
                there = ", ".join(f"{name} = {known[name]!r}" for name in need.looks_at)
                raise ValueError(
                    f"KShot: {option} = {options[option]!r} needs {need.words}"
                    f"{there and ', and here '}{there}: take {need.way_out}, or leave {option} out"
                )
