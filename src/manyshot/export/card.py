"""The card of a network: what it is, what it costs, how good it is, and what it was made with."""

from __future__ import annotations

import json
import numbers
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

from manyshot import records
from manyshot._version import __version__
from manyshot.data import Splits
from manyshot.export.check import with_suffix
from manyshot.export.programs import ONNX_OPSET
from manyshot.nn.inputs import shapes_in_words, with_samples
from manyshot.space import Arch, SearchSpace

CARD_SCHEMA = 3
"""Of cards and of what files carry. Since 3 these may normalise their inputs, and then say so."""
BY_THE_FILES, BY_THE_CALLER = "the files", "the caller"
"""Who normalises images, under `normalised_by` in `data` of a card."""
CARRIED = ("architecture", "choices", "data")
FIELDS = ("architecture", "choices", "costs", "scores", "data", "checks", "files")


def card(
    space: SearchSpace,
    arch: Arch,
    *,
    costs: Mapping[str, float] | None = None,
    scores: Mapping[str, float | None] | None = None,
    data: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The record of one architecture, for `write_card` or `export(..., card=...)`.

    Args:
        space: the search space.
        arch: an architecture of it.
        costs: its costs by name, such as `macs`, `params`, `latency_ms`.
        scores: its scores by name, such as `proxy accuracy`, `test accuracy`, `test mean IoU`.
        data: `name` and `fingerprint` of the data set, and what else `about_images` says of it.

    Raises:
        ValueError: if `arch` is not in the space.
    """
    return {
        "architecture": space.to_text(arch),
        "choices": space.choices(arch),
        "costs": dict(costs or {}),
        "scores": dict(scores or {}),
        "data": None if data is None else dict(data),
    }


def about_images(splits: Splits, tested_on: str | None = None) -> dict[str, Any]:
    """What whoever uses a network must know of the images it was trained on: `data` of a card.

    Args:
        splits: the data set.
        tested_on: the digest of the test images that its scores are of, if it was tested.
    """
    if splits.example is not None:
        return {
            "name": splits.name,
            "fingerprint": splits.training_fingerprint,
            **({} if tested_on is None else {"tested_on": tested_on}),
            "inputs": shapes_in_words(with_samples(splits.example, 1)),
        }
    channels, *size = splits.image_shape
    names = {} if splits.class_names is None else {"class_names": list(splits.class_names)}
    return {
        **names,
        "name": splits.name,
        "fingerprint": splits.training_fingerprint,
        **({} if tested_on is None else {"tested_on": tested_on}),
        "image_shape": list(splits.image_shape),
        "classes": splits.classes,
        "mean": list(splits.mean),
        "std": list(splits.std),
        "colours": "grey" if channels == 1 else "RGB",
        "resize": {
            "size": size,
            "interpolation": "bilinear, antialiased",
            "aspect": "kept" if splits.keeps_aspect else "not kept",
            "crop": "centre" if splits.keeps_aspect else "none",
            "how": (
                "scaled to cover height x width, then cut in the centre"
                if splits.keeps_aspect
                else "the whole image scaled to height x width"
            ),
        },
        "pixels": "divided by 255, minus mean, divided by std",
        "normalised_by": BY_THE_CALLER,
    }


def normalised_inside(
    data: Mapping[str, Any], mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """`data` of a card, for files that normalise their inputs themselves.

    Args:
        data: what `about_images` says.
        mean: what the files subtract, per channel.
        std: what they divide by then.
    """
    return {
        **data,
        "mean": list(mean),
        "std": list(std),
        "pixels": "divided by 255",
        "input": "floating-point pixels from 0 (black) to 1, (batch, channels, height, width), of "
        "any batch size",
        "normalised_by": BY_THE_FILES,
    }


def carried(record: Mapping[str, Any]) -> str | None:
    """What of a card goes into the file of a network itself, as JSON; None if there is nothing.

    It is `schema`, `architecture`, `choices` and `data`: what using the network needs, and nothing
    that may be found out later.
    """
    content = {key: record[key] for key in CARRIED if record.get(key) is not None}
    if "data" in content:
        content["data"] = {k: v for k, v in content["data"].items() if k != "tested_on"}
    if not content:
        return None
    text = {"schema": CARD_SCHEMA, **content}
    return json.dumps(text, allow_nan=False, ensure_ascii=False, default=_plain)


def write_card(path: str | os.PathLike[str], record: Mapping[str, Any]) -> Path:
    """Writes a JSON card atomically; returns its path.

    The card has `schema`, then `architecture` (text), `choices`, `costs`, `scores`, `data`,
    `checks` and `files` as in `record` (null where it has none), then the `versions` of python,
    torch and manyshot that write it, and of ONNX's operators if there is such a file.

    Args:
        path: where to write; it ends with `.json`, and folders are made.
        record: any of the fields above but `schema` and `versions`, as `card` gives them. `files`
            maps a kind to a path relative to the card, `checks` a kind to what was compared.

    Raises:
        ValueError: for an unknown field, incomplete `data`, or a number
            that is not finite.
        TypeError: for something that JSON cannot hold.
    """
    path = with_suffix(path, ".json")
    _check(record)
    listed = record.get("files") or {}
    content = {
        "schema": CARD_SCHEMA,
        **{field: record.get(field) for field in FIELDS},
        "versions": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "manyshot": __version__,
            **({"onnx_opset": ONNX_OPSET} if {"onnx", "int8"} & set(listed) else {}),
        },
    }
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False, default=_plain)
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.atomic(path) as temporary:
        temporary.write_bytes(f"{text}\n".encode())
    return path


def _check(record: Mapping[str, Any]) -> None:
    unknown = sorted(set(record) - set(FIELDS))
    if unknown:
        raise ValueError(f"a card has no field {unknown[0]!r}; have {list(FIELDS)}")
    data = record.get("data")
    if data is not None and not {"name", "fingerprint"} <= set(data):
        raise ValueError(f"data needs 'name' and 'fingerprint', got {sorted(data)}")


def _plain(value: object) -> int | float | str:
    if isinstance(value, numbers.Integral):  # numpy's numbers register as these
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, PurePath):
        return value.as_posix()
    raise TypeError(f"a card cannot hold {value!r} of type {type(value).__name__}")
