"""The largest network first, then smaller ones, decision by decision (once-for-all)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import final

from manyshot.plugins import checked, nearest
from manyshot.space import Decision, SearchSpace
from manyshot.supernet import Supernet
from manyshot.train.shrinking import Forgetful, Shrunk, Stage


@final
class Progressive(Forgetful):
    """Trains the largest network first, and opens smaller options in stages.

    What `opens` names has the largest option alone at first, and all other decisions are free from
    the beginning. Each time the next entry opens: a pattern of names of decisions, such as
    `"*kernel*"`, or with a number, `"depth*:2"`, their so many largest options. Views grow, so that
    what is learnt first goes on to be trained.

    Reference: progressive shrinking, Cai et al. 2020, "Once-for-All: Train One Network and
    Specialize it for Efficient Deployment", arXiv:1908.09791, section 3.3: after the largest,
    kernels, then depths, then widths, the latter two in two phases each. Which decisions open when
    is an option here. What else theirs does is not here: kernels that are transformed, channels
    sorted by importance before widths open, and the largest network's predictions as targets, for
    which there are `sandwich` and `train.teacher`.
    """

    measure = "none, since options open by a schedule"
    judges = False

    @checked
    def __init__(self, space: SearchSpace, *, opens: Sequence[str]) -> None:
        """Reads the schedule.

        Args:
            space: the whole space.
            opens: what opens each time: `"PATTERN"` or `"PATTERN:NUMBER"`.

        Raises:
            ValueError: for an entry that no decision fits, or that opens nothing.
        """
        self.schedule: list[Mapping[Decision, int]] = []
        largest: dict[Decision, int] = {}
        for entry in opens:
            opened = _opened(space, entry)
            if all(number <= largest.get(decision, 1) for decision, number in opened.items()):
                raise ValueError(
                    f"opens has {entry!r}, which opens nothing that is not open before it: name "
                    "decisions of several options, and their numbers in ascending order"
                )
            largest |= opened
            self.schedule.append(dict(largest))
        if not self.schedule:
            raise ValueError("opens names nothing: give patterns of decisions, such as ['*']")
        self.stages: int | None = len(self.schedule)

    def begin(self, net: Supernet) -> SearchSpace:
        """The largest option alone of all that will open."""
        return self._view(net.space, dict.fromkeys(self.schedule[-1], 1))

    def shrink(self, stage: Stage) -> Shrunk:
        """Opens what is next."""
        every = dict.fromkeys(self.schedule[-1], 1)
        opened = {**every, **self.schedule[stage.number - 1]}
        return Shrunk(self._view(stage.net.space, opened))

    @staticmethod
    def _view(space: SearchSpace, numbers: Mapping[Decision, int]) -> SearchSpace:
        """The view with so many of the largest options of decisions, which count by name."""
        named = {decision.name: number for decision, number in numbers.items()}
        allowed = {}
        for decision in space.decisions:
            if decision.name in named:
                ranks = space.ranks(decision)
                order = sorted(range(len(ranks)), key=lambda option: (-ranks[option], option))
                allowed[decision] = order[: named[decision.name]]
        return space.restricted(allowed)


def _opened(space: SearchSpace, entry: str) -> dict[Decision, int]:
    """The decisions that an entry names, with how many of their options are open then."""
    pattern, colon, number = entry.rpartition(":")
    if not colon:
        pattern, number = entry, ""
    if colon and (not number.isascii() or not number.isdigit() or int(number) < 2):
        raise ValueError(
            f"opens has {entry!r}: after the colon give how many options are open, 2 or more"
        )
    names = [str(decision.name) for decision in space.decisions]
    fits = [d for d, name in zip(space.decisions, names, strict=True) if fnmatchcase(name, pattern)]
    if not fits:
        raise ValueError(
            f"opens has {entry!r}, and no decision is named so; {nearest(pattern, names)}have "
            f"{', '.join(names)}"
        )
    return {d: min(len(d.options), int(number)) if colon else len(d.options) for d in fits}
