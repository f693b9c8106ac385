"""Runs the script beside an ONNX file, as its user would, and reads what it prints."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor

from manyshot.data import ImageFolderSet, ImageSet, LabelledImages

SCRIPT_TOLERANCE = 0.02
"""The largest accepted difference of a probability that the script gives.

It resizes by Pillow, and networks are scored on images that torchvision resized: pixels may differ
by 1 of 255, in a percent of them or less.
"""

_PATIENCE = 600
"""Seconds after which a script is given up."""


class ScriptFailed(RuntimeError):
    """The script does not run, or gives other classes or probabilities than the network."""


@dataclass(frozen=True)
class Trial:
    """How what a script printed compares with the network.

    Attributes:
        images: how many images it was given.
        agree: for how many of them it named the class that the network does.
        largest_difference: of the probabilities of the classes that it named.
    """

    images: int
    agree: int
    largest_difference: float


def tried(script: Path, images: Sequence[Path], logits: Tensor, names: Sequence[str]) -> Trial:
    """Runs a script on image files, and compares it with the network.

    Args:
        script: the script, beside its ONNX file.
        images: the files.
        logits: what the network gives for each, (images, classes).
        names: the names of the classes.

    Raises:
        ScriptFailed: if it ends with an error, prints something else than a line per image, or a
            probability differs by more than `SCRIPT_TOLERANCE`, so that another class can be named
            only where two are as likely.
    """
    printed = _printed(script, images)
    probabilities = logits.double().softmax(1)
    agree, largest = 0, 0.0
    for path, (name, value), expected in zip(images, printed, probabilities, strict=True):
        if name not in names:
            raise ScriptFailed(f"{script.name} names {name!r} for {path}, which is no class")
        best = int(expected.argmax())
        agree += name == names[best]
        of_name = max(float(expected[i]) for i, other in enumerate(names) if other == name)
        difference = abs(value - of_name)
        if not max(difference, float(expected[best]) - of_name) <= SCRIPT_TOLERANCE:
            raise ScriptFailed(
                f"{script.name} says {name!r} with {value:.4f} for {path}, and the network "
                f"{names[best]!r} with {float(expected[best]):.4f}"
            )
        largest = max(largest, difference)
    return Trial(len(images), agree, largest)


def _printed(script: Path, images: Sequence[Path]) -> list[tuple[str, float]]:
    """The class and the probability that a script prints for each image."""
    command = [sys.executable, str(script.absolute()), *(str(path.absolute()) for path in images)]
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise ScriptFailed(f"{script.name} took more than {_PATIENCE} seconds") from error
    out, err = (text.decode(errors="surrogateescape") for text in (done.stdout, done.stderr))
    if done.returncode:
        raise ScriptFailed(f"{script.name} fails: {(err.strip().splitlines() or ['no words'])[-1]}")
    lines = [line.split("\t") for line in out.rstrip("\r\n").split("\n")]
    if len(lines) != len(images) or any(len(line) != 3 for line in lines):
        raise ScriptFailed(f"{script.name} prints {out!r} in place of a line per image")
    try:
        values = [(_text(name), float(value)) for _, name, value in lines]
    except ValueError as error:
        raise ScriptFailed(
            f"{script.name} prints {out!r}, in which a class or a probability is none: {error}"
        ) from error
    if not all(math.isfinite(value) for _, value in values):
        raise ScriptFailed(f"{script.name} prints probabilities that are no numbers: {out!r}")
    return values


def _text(field: str) -> str:
    """What a column holds, which is JSON if it begins with a quotation mark.

    Raises:
        ValueError: if it is no JSON then.
    """
    return str(json.loads(field)) if field.startswith('"') else field


@contextmanager
def image_files(dataset: LabelledImages, most: int) -> Iterator[tuple[list[int], list[Path]]]:
    """Files of some images of a set, spread over it: where they are, or as temporary PNG files.

    Args:
        dataset: the images.
        most: how many at most.

    Yields:
        The indices of the images, and a file for each.

    Raises:
        ValueError: if its images are in no files and cannot be written as PNG.
    """
    count = min(most, len(dataset))
    indices = torch.linspace(0, len(dataset) - 1, count).round().long().tolist()
    if isinstance(dataset, ImageFolderSet) and dataset.pieces is None:
        yield indices, [dataset.root / dataset.paths[i] for i in indices]
        return
    if isinstance(dataset, ImageFolderSet):  # in shards
        with TemporaryDirectory(prefix="manyshot-script-") as folder:
            endings = [os.path.splitext(dataset.paths[i])[1] for i in indices]
            paths = [Path(folder) / f"{i}{end}" for i, end in zip(indices, endings, strict=True)]
            for index, path in zip(indices, paths, strict=True):
                path.write_bytes(dataset.encoded(index))
            yield indices, paths
        return
    if not isinstance(dataset, ImageSet) or dataset.image_shape[0] not in (1, 3):
        raise ValueError("images are in no files, and have other channels than a PNG file")
    from PIL import Image

    with TemporaryDirectory(prefix="manyshot-script-") as folder:
        paths = [Path(folder) / f"{i}.png" for i in indices]
        for index, path in zip(indices, paths, strict=True):
            pixels = dataset.read(index).permute(1, 2, 0).numpy()
            pixels = pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        yield indices, paths
