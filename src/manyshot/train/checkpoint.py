"""Checkpoints: one atomic file that holds all that a training run needs to go on."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from manyshot.records import SCHEMA, atomic


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the way out."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values atomically, to be read by `load_checkpoint`."""
    with atomic(path) as temporary:
        torch.save({"schema": SCHEMA, **state}, temporary)


def load_checkpoint(path: Path, fingerprint: str | None = None) -> dict[str, Any]:
    """Reads a checkpoint, tensors on the CPU; no pickled code is run.

    Raises:
        CheckpointError: if the file is damaged, of another schema, or of another `fingerprint`.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch writes checksums, but does not look at them
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # torch raises half a dozen types for a damaged file
        raise CheckpointError(
            f"checkpoint {path} cannot be read ({error}); delete it to train from the start, or "
            "restore it from a copy"
        ) from error
    if not isinstance(state, dict) or state.get("schema") != SCHEMA:
        raise CheckpointError(
            f"checkpoint {path} is of another schema; this version reads {SCHEMA}"
        )
    if fingerprint is not None and state["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"checkpoint {path} belongs to other settings ({state['fingerprint']}, now "
            f"{fingerprint}): use its own recipe, or another --out folder"
        )
    return state


def save_weights(path: Path, net: nn.Module) -> None:
    """The weights as a safetensors file, each tensor contiguous, atomically; tied ones once."""
    tensors: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    tied: dict[str, str] = {}
    formats: dict[str, str] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        first = seen.setdefault(id(tensor), name)
        if first != name:
            tied[name] = first
            continue
        if tensor.dim() == 4 and not tensor.is_contiguous():
            formats[name] = "channels_last"
        tensors[name] = tensor.detach().cpu().contiguous()
    metadata = {"schema": str(SCHEMA)}
    metadata |= {f"tied:{name}": first for name, first in tied.items()}
    metadata |= {f"memory_format:{name}": kept for name, kept in formats.items()}
    with atomic(path) as temporary:
        save_file(tensors, temporary, metadata)


def load_weights(path: Path, net: nn.Module) -> None:
    """Loads `save_weights` into a network of the same structure.

    Raises:
        CheckpointError: if the file is damaged, or tensors are missing, unknown or of other shapes.
    """
    try:
        with safe_open(path, "pt") as file:
            schema = (file.metadata() or {}).get("schema")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:  # safetensors raises its own type, which is not exported for typing
        raise CheckpointError(
            f"weights {path} cannot be read ({error}); delete the file and resume: it is made "
            "again from trainer.pt, or restore it from a copy"
        ) from error
    if schema != str(SCHEMA):
        raise CheckpointError(f"weights {path} have schema {schema}; this version reads {SCHEMA}")
    held = net.state_dict(keep_vars=True)
    by_tensor = {id(held[name]): tensor for name, tensor in tensors.items() if name in held}
    complete = {name: by_tensor.get(id(tensor)) for name, tensor in held.items()}
    missing = [name for name, tensor in complete.items() if tensor is None]
    unknown = [name for name in tensors if name not in held]
    shapes = {
        name: (tuple(tensor.shape), tuple(held[name].shape))
        for name, tensor in complete.items()
        if tensor is not None and tensor.shape != held[name].shape
    }
    wrong = [f"{name} {on_file} instead of {wanted}" for name, (on_file, wanted) in shapes.items()]
    if missing or unknown or wrong:
        classes = not missing and not unknown and _other_classes(list(shapes.values()))
        raise CheckpointError(
            f"weights {path} are of another network: missing {missing[:3]}, unknown {unknown[:3]}, "
            f"other shapes {wrong[:3]} ({len(missing)}, {len(unknown)}, {len(wrong)} in all)"
            + ("; for other classes, manyshot transfer gives it a new classifier" * classes)
        )
    net.load_state_dict({n: t for n, t in complete.items() if t is not None})


def _other_classes(shapes: Sequence[tuple[Sequence[int], Sequence[int]]]) -> bool:
    """Whether shapes look like those of one linear layer, of another number of outputs."""
    changes = {
        change for pair in shapes for change in zip(*pair, strict=False) if change[0] != change[1]
    }
    return len(changes) == 1 and all(len(a) == len(b) < 4 for a, b in shapes)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A short fingerprint of named tensors, for records."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        sha.update(name.encode())
        sha.update(
            tensors[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return sha.hexdigest()[:16]
