"""Named random streams: a generator is a function of a few values, never of a global state."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def stream(*parts: int | str) -> int:
    """A 63-bit number derived from `parts`; different parts give unrelated numbers."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(*parts: int | str) -> np.random.Generator:
    """The NumPy generator of the stream named by `parts`."""
    return np.random.default_rng(stream(*parts))


def torch_generator(*parts: int | str) -> torch.Generator:
    """The CPU torch generator of the stream named by `parts`; the same numbers on every device."""
    return torch.Generator().manual_seed(stream(*parts))
