"""Every random stream of the project, by name: a function of a seed, never of a global state.

A stream is named by an entry of `STREAMS` and, where one consumer needs many, by further numbers:
`numpy_rng(seed, "plan", step)`. Streams of different names, or of one name with other
parts, are unrelated, also where one list of parts begins with another.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

STREAMS = {
    "weights": "initial weights of a network",
    "copies": "initial weights of further slices of K-shot sharing, by slice",
    "simplex_net": "initial weights of a simplex-net",
    "generator": "initial weights of an architecture generator",
    "logits": "the first logits of options that are mixed",
    "dictionaries": "dictionaries of sparse codes, and what these are compressed to at first",
    "classifier": "initial weights of a new classifier",
    "order": "the order of training images, by epoch",
    "shift": "random shifts of images, by epoch",
    "flip": "random flips of images, by epoch",
    "crop": "random crops of images, by epoch",
    "jitter": "random changes of brightness, contrast and saturation of images, by epoch",
    "rand_augment": "where the draws of RandAugment begin, of every image, by epoch",
    "random_erasing": "random rectangles that are erased from images, by epoch",
    "sample": "what data of one's own draw, by epoch and index",
    "look": "what data of one's own draw when samples are looked at, by index",
    "workers": "what the processes that read images draw, by epoch",
    "test": "which images of a set without a test part are that",
    "validation": "which training images candidates are scored on",
    "held_out": "which training images a sampler learns from",
    "train_size": "which images a smaller training set keeps",
    "parts": "in which part an image is scored",
    "fixed": "which images a fixed class-balanced set has",
    "moments": "which images mean and standard deviation are estimated on",
    "plan": "the paths of a training step, by step and chunk",
    "placements": "which channels paths are tried with in a training step, by step",
    "mix": "how the images of a training step are mixed, by step",
    "step": "dropout and the like in a training step, by step and process",
    "noise": "the noise of Langevin dynamics, by step of a training or of a search that trains",
    "probe": "what a sampler asks, by step",
    "probed": "architectures whose held-out losses speak of a target cost",
    "probe_images": "which held-out images a probe sees, by step",
    "draw": "draws of an architecture generator",
    "costs": "architectures whose costs a sampler's table or grid is made from",
    "proposals": "the proposals of a searcher, by what it was told",
    "clusters": "where the means of clusters of architectures begin",
    "perturbation": "the order in which decisions are taken one by one",
    "neighbours": "the order in which local search looks at neighbours, by architecture",
    "visits": "the order and the paths of a generation that trains, by generation",
    "shifting_step": "dropout and the like in a shifting step, by step and process",
    "head": "paths on which a new classifier trains",
    "body": "paths on which a supernet that was moved trains after it",
    "watched": "architectures watched before and after a search",
    "described_codes": "architectures whose codes are recorded",
    "evidence": "paths on which codes are compared",
    "evidence_images": "held-out images on which codes are compared, by path",
    "deal": "the order of options that are dealt out, by beginning, decision and round",
    "shrink": "what a shrinker draws, by the number of its stage",
    "split": "paths whose gradients say what one copy is split by",
    "width_settings": "width settings of a path whose codes are told apart, by architecture",
    "shared_statistics": "paths whose batch norms share their statistics",
    "controls": "random networks that winners have to beat, by budget",
    "truth_plan": "architectures that are trained alone",
    "survey": "architectures that show how uniform sampling spreads",
    "resamples": "bootstrap resamples",
    "checks": "architectures and inputs of checks that do not depend on a run's seed",
}
"""All names, each with what it is for. A new consumer adds its own."""


Stream = tuple[int | str, str, *tuple[int, ...]]
"""The arguments of `stream`, for what adds parts of its own."""


def stream(seed: int | str, name: str, *parts: int) -> int:
    """A 63-bit number: the seed of the stream.

    Args:
        seed: of the run; a word for what does not depend on one.
        name: a key of `STREAMS`.
        *parts: which of the consumer's streams.

    Raises:
        ValueError: for a name that is not in the table.
    """
    if name not in STREAMS:
        raise ValueError(
            f"random stream {name!r} is not in manyshot.seeding.STREAMS: add it there, with what "
            "it is for"
        )
    text = "/".join(map(str, (seed, *parts, name)))  # numbers and words without a slash
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_rng(seed: int | str, name: str, *parts: int) -> np.random.Generator:
    """The NumPy generator of a stream; the arguments are those of `stream`."""
    return np.random.default_rng(stream(seed, name, *parts))


def torch_generator(seed: int | str, name: str, *parts: int) -> torch.Generator:
    """The torch generator of a stream, on the CPU; the arguments are those of `stream`."""
    import torch  # not for those who only search

    return torch.Generator().manual_seed(stream(seed, name, *parts))


def seed_torch(seed: int | str, name: str, *parts: int) -> None:
    """Seeds torch's global state, for what draws from nothing else, such as dropout.

    To be called where that state is restored afterwards, as in `torch.random.fork_rng()`. The
    arguments are those of `stream`. A GPU that this process has not used is left as it is:
    `torch.manual_seed` would write down for its sake where it was called from, which takes longer
    than a small training step has.
    """
    import torch

    number = stream(seed, name, *parts)
    device = torch.accelerator.current_accelerator()
    if device is None or (device.type == "cuda" and not torch.cuda.is_initialized()):  # type: ignore[no-untyped-call]
        torch.default_generator.manual_seed(number)
    else:
        torch.manual_seed(number)


@contextlib.contextmanager
def all_seeded(seed: int | str, name: str, *parts: int) -> Iterator[None]:
    """The global states of torch on the CPU, NumPy and Python are seeded inside the block.

    They are restored after it. The arguments are those of `stream`.
    """
    import torch

    number = stream(seed, name, *parts)
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        random.seed(number)
        try:
            yield
        finally:
            np.random.set_state(of_numpy)  # noqa: NPY002
            random.setstate(of_python)


@contextlib.contextmanager
def cpu_seeded(number: int) -> Iterator[None]:
    """What is drawn from torch's global generator of the CPU inside the block follows a number.

    It is for transforms of torchvision, which draw from nothing else. The generator is restored
    after the block; no other device is touched, so that processes which read images may do this.

    Args:
        number: that of a `stream`, or one that was drawn from a stream.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(number)
        yield


@contextlib.contextmanager
def seeded(seed: int | str, name: str, *parts: int) -> Iterator[None]:
    """Torch's global state is seeded inside the block, and restored after it.

    The arguments are those of `stream`.
    """
    import torch

    with torch.random.fork_rng():
        seed_torch(seed, name, *parts)
        yield
