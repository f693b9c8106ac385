"""One call that writes a network in several formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from manyshot.export.card import carried, normalised_inside, write_card
from manyshot.export.normalised import Normalised
from manyshot.export.programs import to_onnx, to_pt2
from manyshot.nn.inputs import Inputs

Format = Callable[[nn.Module, Inputs, Path, Mapping[str, Any]], Path]

FORMATS: dict[str, Format] = {
    "pt2": lambda module, example, path, record: to_pt2(module, example, path, carried(record)),
    "onnx": lambda module, example, path, record: to_onnx(module, example, path, carried(record)),
    "json": lambda module, example, path, record: write_card(path, record),
}
"""What `export` can write: functions of module, example, path and card that return the path."""

CARD = "json"
"""The format of the card, which is written last, since it lists the others."""


def export(
    module: nn.Module,
    *,
    example: Inputs,
    folder: str | os.PathLike[str],
    stem: str,
    formats: Sequence[str] = ("pt2", "onnx", "json"),
    card: Mapping[str, Any] | None = None,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
    failures: dict[str, str] | None = None,
) -> dict[str, Path]:
    """Writes `folder/stem.FORMAT` for each format; returns the paths by format.

    Every file is checked before it gets its name. The card is written last and lists the others,
    beside those that it is given under `files`; if a format fails, those before it stay and there
    is no new card.

    Args:
        module: a plain network, as `net.extract(arch, stats=stats)` gives.
        example: what its `forward` takes, with any batch in front, see `to_pt2`.
        folder: where the files go; it is made if missing.
        stem: the file name without suffix, usually the architecture's text.
        formats: keys of `FORMATS`.
        card: the record for the JSON card (see `ms.export.card`); what is written is added to its
            `files`. What using the network needs (architecture, choices, data) goes into its own
            files too.
        normalise: the mean and the std per channel, as `(splits.mean, splits.std)`, if the files
            are to normalise images themselves: they take pixels in [0, 1], which the card then
            says, and so does `example`. By default they take what the module takes.
        failures: if given, a format that fails is noted here with the reason, and the others are
            written; by default it is an error.

    Raises:
        ValueError: for an unknown format, listing what exists, a stem with a folder in it, or a
            mean and std that do not fit each other.
        ExportMismatch: if a reloaded program disagrees with the module.
        ImportError: for `onnx` without its optional packages.
    """
    unknown = sorted(set(formats) - set(FORMATS))
    if unknown:
        raise ValueError(f"unknown format {unknown[0]!r}; have {list(FORMATS)}")
    if not stem or Path(stem).name != stem:
        raise ValueError(f"stem must be a file name without folders, got {stem!r}")
    card = dict(card or {})
    if normalise is not None:
        module = Normalised(module, *normalise)
        if card.get("data") is not None:
            card["data"] = normalised_inside(card["data"], *normalise)
    kinds = [kind for kind in FORMATS if kind in formats]  # the card is the last
    paths = {kind: Path(folder) / f"{stem}.{kind}" for kind in kinds}
    written: dict[str, Path] = {}
    for kind, path in paths.items():
        record = dict(card)
        names = {**(record.get("files") or {}), **{key: at.name for key, at in written.items()}}
        record["files"] = {key: names[key] for key in sorted(names, key=list(FORMATS).index)}
        try:
            written[kind] = FORMATS[kind](module, example, path, record)
        except Exception as error:  # tracing somebody's network may raise anything
            if failures is None:
                raise
            failures[kind] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return written
