"""One call that writes a network in several formats."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from manyshot import records
from manyshot.export.card import carried, normalised_inside, write_card
from manyshot.export.normalised import Normalised
from manyshot.export.programs import to_int8, to_onnx, to_pt2
from manyshot.nn.inputs import Inputs

_TEXT = Path(__file__).with_name("script.py")
"""What is written beside an ONNX file of a network that classifies images."""


@dataclass(frozen=True)
class Job:
    """What is written in one format.

    Attributes:
        module: the network.
        example: what it takes.
        record: the card.
        calibration: batches of inputs, for `int8`.
    """

    module: nn.Module
    example: Inputs
    record: Mapping[str, Any]
    calibration: Iterable[Inputs] = ()

    @property
    def about(self) -> str | None:
        """What the file of a network carries."""
        return carried(self.record)


Format = Callable[[Job, Path], Path]

FORMATS: dict[str, Format] = {
    "pt2": lambda job, path: to_pt2(job.module, job.example, path, job.about),
    "onnx": lambda job, path: to_onnx(job.module, job.example, path, job.about),
    "int8": lambda job, path: to_int8(job.module, job.example, path, job.calibration, job.about),
    "predict": lambda job, path: write_script(path, job.record),
    "json": lambda job, path: write_card(path, job.record),
}
"""What `export` can write: functions of what is to be written and of the path, which they return.
Those below need those above them."""

ENDINGS = {"int8": "int8.onnx", "predict": "predict.py"}
"""The endings of files that are not named after their format."""

SCRIPT = "predict"
"""The format of the script."""

INT8 = "int8"
"""The format of the ONNX file of 8-bit integers."""

CARD = "json"
"""The format of the card, which is written last, since it lists the others."""


def write_script(path: Path, record: Mapping[str, Any]) -> Path:
    """Writes the script that names the class of images, beside the ONNX file that it uses.

    Raises:
        ValueError: if the card does not say what images the network takes.
    """
    missing = sorted({"image_shape", "resize", "normalised_by"} - set(record.get("data") or {}))
    if missing:
        raise ValueError(
            f"a script that predicts needs {', '.join(missing)} in data of the card, as "
            "ms.export.about_images(splits) gives them"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    records.write_text(path, _TEXT.read_text(encoding="utf-8"))
    return path


def export(
    module: nn.Module,
    *,
    example: Inputs,
    folder: str | os.PathLike[str],
    stem: str,
    formats: Sequence[str] = ("pt2", "onnx", "json"),
    card: Mapping[str, Any] | None = None,
    normalise: tuple[Sequence[float], Sequence[float]] | None = None,
    calibration: Iterable[Inputs] = (),
    failures: dict[str, str] | None = None,
) -> dict[str, Path]:
    """Writes `folder/stem.FORMAT` for each format; returns the paths by format.

    `predict` is a script, `stem.predict.py`, that names the class of images by the ONNX file beside
    it; it needs Pillow, numpy and ONNX Runtime, and a card with the `data` of `about_images`.

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
        calibration: for `int8`, batches of what the files take, such as training images; see
            `to_int8`.
        failures: if given, a format that fails is noted here with the reason, and the others are
            written; by default it is an error.

    Raises:
        ValueError: for an unknown format, listing what exists, a stem with a folder in it, or a
            mean and std that do not fit each other, or `int8` without calibration.
        ExportMismatch: if a reloaded program disagrees with the module.
        ImportError: for `onnx` and `int8` without its optional packages.
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
    paths = {kind: Path(folder) / f"{stem}.{ENDINGS.get(kind, kind)}" for kind in kinds}
    written: dict[str, Path] = {}
    for kind, path in paths.items():
        record = dict(card)
        names = {**(record.get("files") or {}), **{key: at.name for key, at in written.items()}}
        record["files"] = {key: names[key] for key in sorted(names, key=list(FORMATS).index)}
        try:
            written[kind] = FORMATS[kind](Job(module, example, record, calibration), path)
        except Exception as error:  # tracing somebody's network may raise anything
            if failures is None:
                raise
            failures[kind] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return written
