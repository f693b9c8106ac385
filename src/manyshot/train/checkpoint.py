"""Checkpoints: one atomic file that holds all that a training run needs to go on."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from manyshot.records import SCHEMA, atomic
from manyshot.train.plan import Sampler

_METADATA, _DIGEST = "__metadata__", "digest"
_WAY_OUT = "delete the file and resume: it is made again from trainer.pt, or restore it from a copy"


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message names the file and the way out."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes tensors and plain values atomically, to be read by `load_checkpoint`.

    Raises:
        OSError: if the disk is full, or may not be written to.
    """
    with atomic(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save({"schema": SCHEMA, **state}, file)
        except RuntimeError as error:  # torch's, of the cut file, in place of what cut it
            cause = error.__context__
            if isinstance(cause, OSError) or not isinstance(cause, Exception | None):
                raise cause from error
            raise


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


def check_processes(path: Path, before: int, now: int) -> None:
    """Refuses to go on in the middle of a training with another number of processes.

    Every process normalises its own share of a batch, and sums are in another order: weights would
    be those of neither number.

    Args:
        path: the checkpoint.
        before: how many processes wrote it.
        now: how many there are.

    Raises:
        CheckpointError: if these differ.
    """
    if before != now:
        raise CheckpointError(
            f"checkpoint {path} is of a training by {before} process{'es' * (before > 1)}, and now "
            f"there {'are' if now > 1 else 'is'} {now}: how many share a batch is part of what "
            f"weights come out, so go on with {before}, or delete the file to train from the start"
        )


def restore_sampler(sampler: Sampler, state: Mapping[str, Any], path: Path, way_out: str) -> None:
    """Restores what a sampler has learnt, from the checkpoint at `path`.

    Args:
        sampler: what is restored.
        state: the checkpoint.
        path: where it was read.
        way_out: what a message says to do.

    Raises:
        CheckpointError: if it is not what this sampler keeps.
    """
    try:
        sampler.load_state_dict(state["sampler"])
    except (KeyError, RuntimeError, ValueError) as error:
        lacks = isinstance(error, KeyError)
        words = f"it has no entry {error}" if lacks else " ".join(str(error).split())
        raise CheckpointError(
            f"{path} is not what the sampler of this version, with these options, has learnt "
            f"({words}): {way_out}"
        ) from error


def save_weights(path: Path, net: nn.Module, fingerprint: str = "") -> None:
    """The weights as a safetensors file, each tensor contiguous, atomically; tied ones once.

    Equal weights give equal files, byte for byte. The file has a digest of all that is in it.

    Args:
        path: the file.
        net: the network.
        fingerprint: identifies what the weights depend on.
    """
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
    metadata = {"schema": str(SCHEMA), "fingerprint": fingerprint}
    metadata |= {f"tied:{name}": first for name, first in tied.items()}
    metadata |= {f"memory_format:{name}": kept for name, kept in formats.items()}
    header, data = _split(save(tensors, metadata))
    header[_METADATA][_DIGEST] = _digest_of_file(header, data)
    text = _canonical(header)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    with atomic(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + data)


def load_weights(path: Path, net: nn.Module, fingerprint: str | None = None) -> None:
    """Loads `save_weights` into a network of the same structure.

    Args:
        path: the file.
        net: the network.
        fingerprint: what the weights must depend on; None if that is not known.

    Raises:
        CheckpointError: if the file is damaged, has another fingerprint, or tensors are missing,
            unknown or of other shapes.
    """
    tensors, metadata = read_weights(path)
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
            + ("; these images have another number of channels" * _other_channels(shapes.values()))
        )
    if fingerprint is not None and metadata["fingerprint"] != fingerprint:
        raise CheckpointError(
            f"weights {path} belong to other settings, another seed or other images (fingerprint "
            f"{metadata['fingerprint']}, here {fingerprint}): restore the file of this run, or "
            "delete it and resume, so that it is made again"
        )
    net.load_state_dict({n: t for n, t in complete.items() if t is not None})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors in a file of `save_weights`, by name, and what it says beside them.

    Raises:
        CheckpointError: if the file is damaged, was changed, or is of another schema.
    """
    content = path.read_bytes()
    try:
        tensors = load(content)
        header, data = _split(content)
        metadata: dict[str, str] = header.get(_METADATA, {})
        kept = metadata.pop(_DIGEST, None)
    except Exception as error:  # safetensors raises its own type, which is not exported for typing
        raise CheckpointError(f"weights {path} cannot be read ({error}); {_WAY_OUT}") from error
    if metadata.get("schema") != str(SCHEMA):
        raise CheckpointError(
            f"weights {path} have schema {metadata.get('schema')}; this version reads {SCHEMA}"
        )
    if kept != _digest_of_file(header, data):
        raise CheckpointError(
            f"weights {path} are damaged: their content is not what was written; {_WAY_OUT}"
        )
    return tensors, metadata


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def _canonical(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def _digest_of_file(header: Mapping[str, Any], data: bytes) -> str:
    """Of everything in the file; the header is without its digest."""
    sha = hashlib.sha256(_canonical(header))
    sha.update(data)
    return sha.hexdigest()


def _other_channels(shapes: Iterable[tuple[Sequence[int], Sequence[int]]]) -> bool:
    """Whether shapes look like those of one first convolution, of another number of channels."""
    return [
        [i for i, (a, b) in enumerate(zip(*pair, strict=True)) if a != b] for pair in shapes
    ] == [[1]]


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
