"""Times exported files by the runtime that opens them, in turn, so that drift hits all alike."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from manyshot.cost.runtimes import Call, Job, RuntimeName, Session
from manyshot.cost.timing import (
    Stopwatch,
    check_counts,
    default_clock,
    describe,
    on_threads,
    round_robin,
)
from manyshot.nn.inputs import batch_of, is_batched
from manyshot.seeding import torch_generator

RUNTIMES: dict[str, RuntimeName] = {".pt2": "torch", ".onnx": "onnxruntime"}
"""What opens a file, by its ending."""

_TYPES = {
    "tensor(float)": torch.float32,
    "tensor(double)": torch.float64,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(uint8)": torch.uint8,
    "tensor(int8)": torch.int8,
    "tensor(bool)": torch.bool,
}
"""The types of ONNX inputs that can be made up."""


@dataclass(frozen=True)
class FileTiming:
    """The latency of an exported file for one batch.

    Attributes:
        file: its path.
        runtime: what ran it.
        version: of the runtime.
        median_ms: the median over the repeats.
        iqr_ms: the interquartile range over the repeats.
        per_second: samples in a second, at the median.
        repeats: how many runs were timed.
        warmup: how many ran before, untimed.
        batch_size: samples at once.
        threads: of the runtime.
        clock: `thread` (time of the one thread), `wall`, or `given`.
        device: the hardware, as text.
    """

    file: str
    runtime: RuntimeName
    version: str
    median_ms: float
    iqr_ms: float
    per_second: float
    repeats: int
    warmup: int
    batch_size: int
    threads: int
    clock: str
    device: str


def measure_files(
    files: Sequence[Path | str],
    *,
    runtime: RuntimeName | None = None,
    batch_size: int = 1,
    threads: int = 1,
    warmup: int = 5,
    repeats: int = 30,
    stopwatch: Stopwatch | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[FileTiming]:
    """Measures the latency of `.pt2` and `.onnx` files on the CPU.

    All are timed in turn, one run each per round. Floating-point inputs are uniform noise from 0 to
    1, others zeros.

    Args:
        files: the files.
        runtime: what is to run them; by default torch for `.pt2` and ONNX Runtime for `.onnx`,
            which is all that they can be run by.
        batch_size: samples at once; a latency is that of the batch.
        threads: of the runtime.
        warmup: untimed rounds.
        repeats: timed rounds.
        stopwatch: what times one run; by default the time of the thread with one thread, else
            wall-clock time.
        progress: called as `progress(rounds done, rounds)`.

    Returns:
        A latency for each file.

    Raises:
        ValueError: for a file that the runtime does not run, or whose inputs cannot be made up.
        FileNotFoundError: if there is none.
        ImportError: for an `.onnx` file without ONNX Runtime.
    """
    check_counts(batch_size=batch_size, threads=threads, warmup=warmup, repeats=repeats)
    paths = [Path(file) for file in files]
    runtimes = [_runtime_of(path, runtime) for path in paths]
    cpu = torch.device("cpu")
    clock, default = default_clock(cpu, threads)
    with on_threads(threads):
        opened = [
            _opened_by_torch(path, batch_size)
            if by == "torch"
            else _opened_by_onnxruntime(path, batch_size, threads)
            for path, by in zip(paths, runtimes, strict=True)
        ]
        jobs = [job for job, _ in opened]
        for path, job in zip(paths, jobs, strict=True):
            _try(path, job, batch_size)
        times = round_robin(jobs, warmup, repeats, stopwatch or default, progress)
    timings = []
    for i, path in enumerate(paths):
        quarter, median, three_quarters = np.percentile(times[:, i], (25, 50, 75)).tolist()
        timings.append(
            FileTiming(
                file=str(path),
                runtime=runtimes[i],
                version=opened[i][1],
                median_ms=median,
                iqr_ms=three_quarters - quarter,
                per_second=1000 * batch_size / median if median else float("inf"),
                repeats=repeats,
                warmup=warmup,
                batch_size=batch_size,
                threads=threads,
                clock=clock if stopwatch is None else "given",
                device=describe(cpu),
            )
        )
    return timings


def _runtime_of(path: Path, asked: RuntimeName | None) -> RuntimeName:
    """What runs a file.

    Raises:
        ValueError: if nothing does, or not what was asked for.
    """
    able = RUNTIMES.get(path.suffix)
    if able is None:
        raise ValueError(
            f"{path} cannot be timed: files that end with {' or '.join(RUNTIMES)} can, which "
            "manyshot export writes"
        )
    if asked is not None and asked != able:
        ending = next(suffix for suffix, by in RUNTIMES.items() if by == asked)
        raise ValueError(
            f"{path} is run by {able}, and not by {asked}: give a file that ends with {ending} "
            f"(manyshot export RUN --arch ARCH --format {ending[1:]}), or leave --runtime out"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or no file")
    return able


def _opened_by_torch(path: Path, batch_size: int) -> tuple[Job, str]:
    """A `.pt2` file as what is timed, with inputs like those that it was traced with."""
    program = torch.export.load(path)
    if program.example_inputs is None:
        raise ValueError(f"{path} does not say what it takes: it was saved without example inputs")
    args, kwargs = program.example_inputs
    rows = batch_of((args, kwargs))

    def made(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        shape = (batch_size, *value.shape[1:]) if is_batched(value, rows) else value.shape
        return _noise(tuple(shape), value.dtype)

    call: Call = pytree.tree_map(made, (tuple(args), dict(kwargs)))
    return Job(str(path), program.module(), [call]), torch.__version__


def _opened_by_onnxruntime(path: Path, batch_size: int, threads: int) -> tuple[Job, str]:
    """An `.onnx` file as what is timed."""
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            f"{path} needs onnxruntime ({error}): pip install manyshot[onnx]"
        ) from error
    session = Session(str(path), threads)
    inputs: dict[str, Tensor] = {}
    for node in session.session.get_inputs():
        sides = [
            batch_size if i == 0 and isinstance(s, str) else s for i, s in enumerate(node.shape)
        ]
        if node.type not in _TYPES or not all(isinstance(side, int) for side in sides):
            raise ValueError(
                f"{path} takes {node.name!r} of type {node.type} and shape {node.shape}: only the "
                f"first side may be free, and types are {', '.join(_TYPES)}"
            )
        inputs[node.name] = _noise(tuple(sides), _TYPES[node.type])
    return Job(str(path), session, [((), inputs)]), onnxruntime.__version__


def _noise(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.rand(shape, generator=torch_generator("timing", "checks")).to(dtype)


def _try(path: Path, job: Job, batch_size: int) -> None:
    """Runs a file once.

    Raises:
        ValueError: if it fails, such as on another batch size than its own.
    """
    try:
        with torch.inference_mode():
            for args, kwargs in job.calls:
                job.module(*args, **kwargs)
    except Exception as error:  # of whatever somebody's program is made of
        words = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{path} does not run on a batch of {batch_size} ({type(error).__name__}: {words}): it "
            "may take another batch size alone, which --batch gives"
        ) from error
