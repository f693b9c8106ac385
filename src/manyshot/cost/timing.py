"""Times modules: medians of repeated runs, with everything that decides what they mean."""

from __future__ import annotations

import contextlib
import copy
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from manyshot.cost.runtimes import Call, Job, RuntimeName, runtime_of
from manyshot.nn.inputs import Inputs, as_call, inputs_of, model_dtype, to_device, with_samples
from manyshot.seeding import torch_generator

Stopwatch: TypeAlias = Callable[[nn.Module, Sequence[Call]], float]
"""Runs a module on calls, one after the other, and returns the milliseconds that it took."""


@dataclass(frozen=True)
class Measurement:
    """The latency of one module for one batch.

    Attributes:
        median_ms: the median over the repeats.
        iqr_ms: the interquartile range over the repeats.
        repeats: how many runs were timed.
        warmup: how many ran before, untimed.
        batch_size: samples at once.
        threads: the number of threads on the CPU.
        device: the hardware, as text.
        clock: `thread` (time of the one thread), `wall`, or `given`.
        torch_version: the version of torch.
        dtype: the floating-point type of the network.
        runtime: what ran it.
        runtime_version: the version of that.
    """

    median_ms: float
    iqr_ms: float
    repeats: int
    warmup: int
    batch_size: int
    threads: int
    device: str
    clock: str
    torch_version: str
    dtype: str
    runtime: str
    runtime_version: str


def measure(
    module: nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    example_inputs: Inputs = None,
    batch_size: int = 1,
    threads: int | None = None,
    warmup: int = 5,
    repeats: int = 30,
    device: torch.device | str | None = None,
    runtime: RuntimeName = "torch",
    stopwatch: Stopwatch | None = None,
) -> Measurement:
    """Measures the latency of a plain module, such as `net.extract(arch)`, in eval mode.

    A copy of the module is timed: by torch in channels-last format on the CPU, synchronised on a
    GPU; by ONNX Runtime, on the CPU alone, after an export for this batch.

    Args:
        module: the module, which is not changed.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs, whose samples fill the batch in turn (see `inputs_to_time`).
        batch_size: samples at once; the latency is that of the batch.
        threads: the number of threads while measuring; by default as many as torch has now.
        warmup: untimed runs.
        repeats: timed runs.
        device: where to measure; by default where the module is.
        runtime: what runs the module: `torch`, or `onnxruntime` with the packages of the extra
            `onnx`.
        stopwatch: what times one run; by default the time of the thread on the CPU with one
            thread, else wall-clock time.

    Returns:
        The latency, with what decides its meaning.

    Raises:
        ValueError: if a number is too small, or the runtime cannot run the module.
        ImportError: for `onnxruntime` without its packages.
    """
    threads = torch.get_num_threads() if threads is None else threads
    check_counts(batch_size=batch_size, repeats=repeats, warmup=warmup, threads=threads)
    place = torch.device(device) if device is not None else device_of(module)
    runs = runtime_of(runtime, module, place)
    timed = prepared(copy.deepcopy(module), place)
    inputs = inputs_to_time(module, batch_size, input_shape, example_inputs, place)
    clock, default = default_clock(place, threads)
    with on_threads(threads):
        job = Job(f"this {type(module).__name__}", timed, [as_call(inputs)])
        jobs = runs.opened([job], threads, lambda done: None)
        times = round_robin(jobs, warmup, repeats, stopwatch or default)[:, 0]
    quarter, median, three_quarters = np.percentile(times, (25, 50, 75)).tolist()
    return Measurement(
        median,
        three_quarters - quarter,
        repeats,
        warmup,
        batch_size,
        threads,
        describe(place),
        clock if stopwatch is None else "given",
        torch.__version__,
        str(model_dtype(module)),
        runs.name,
        runs.version,
    )


def round_robin(
    jobs: Sequence[Job],
    warmup: int,
    repeats: int,
    stopwatch: Stopwatch,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.float64]:
    """Times every job once per round, so that drift hits all alike.

    Inputs are copied before each run, because a module may change its input.

    Args:
        jobs: what is timed.
        warmup: untimed rounds.
        repeats: timed rounds.
        stopwatch: what times one run of a job.
        progress: called as `progress(rounds done, rounds)`.

    Returns:
        Times in ms, (repeats, jobs).
    """
    times = np.zeros((repeats, len(jobs)))
    with torch.inference_mode():
        for turn in range(-warmup, repeats):
            for j, job in enumerate(jobs):
                elapsed = stopwatch(job.module, copied(job.calls))
                if turn >= 0:
                    times[turn, j] = elapsed
            if progress is not None:
                progress(turn + warmup + 1, repeats + warmup)
    return times


def default_clock(device: torch.device, threads: int) -> tuple[str, Stopwatch]:
    """The stopwatch that latency is read from, with its name.

    With one thread on the CPU it is the time of that thread, which other programs on the machine
    do not lengthen as they do wall-clock time; otherwise it is wall-clock time, synchronised with a
    GPU.
    """
    if device.type == "cuda":
        return "wall", _clock(time.perf_counter_ns, lambda: torch.cuda.synchronize(device))
    if threads == 1 and time.get_clock_info("thread_time").resolution < 1e-6:
        return "thread", _clock(time.thread_time_ns, lambda: None)
    return "wall", _clock(time.perf_counter_ns, lambda: None)


def _clock(now: Callable[[], int], synchronize: Callable[[], None]) -> Stopwatch:
    def run(module: nn.Module, calls: Sequence[Call]) -> float:
        synchronize()
        start = now()
        for args, kwargs in calls:
            module(*args, **kwargs)
        synchronize()
        return (now() - start) / 1e6

    return run


def copied(calls: Sequence[Call], device: torch.device | None = None) -> list[Call]:
    """The calls with fresh tensors; with a `device`, in the memory format that is timed there."""

    def fresh(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if device is not None and device.type == "cpu" and value.dim() == 4:
            return value.detach().clone(memory_format=torch.channels_last)
        return value.detach().clone()

    return [tree_map(fresh, call) for call in calls]


def prepared(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` in eval mode on `device`, in channels last on the CPU."""
    module = module.to(device).eval()
    if device.type == "cpu":
        module = module.to(memory_format=torch.channels_last)
    return module


def inputs_to_time(
    module: nn.Module,
    batch_size: int,
    input_shape: Sequence[int] | None,
    example_inputs: Inputs,
    device: torch.device,
) -> Inputs:
    """A batch to time on, in the memory format that is timed.

    What has values keeps them. Of images, and of inputs that a supernet remembers without values,
    floating-point tensors are seeded normal noise, and others (indices, masks) are zeros.

    Args:
        module: what the inputs are for.
        batch_size: how many samples.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs.
        device: where they go.
    """
    inputs = inputs_of(module, input_shape, example_inputs)
    inputs = with_samples(inputs if example_inputs is None else example_inputs, batch_size)
    generator = torch_generator("timing", "checks")

    def valued(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_meta:
            return value
        if not value.is_floating_point():
            return torch.zeros(value.shape, dtype=value.dtype)
        return torch.randn(value.shape, generator=generator).to(value.dtype)

    inputs = to_device(tree_map(valued, inputs), device)
    return copied([((inputs,), {})], device)[0][0][0]


@contextlib.contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """Sets the number of torch's threads inside the block."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        yield
    finally:
        torch.set_num_threads(before)


def device_of(module: nn.Module) -> torch.device:
    """The device of the module's first parameter; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))


def describe(device: torch.device) -> str:
    """The hardware of a device, as text."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if "model name" in line)
    return f"{device.type}: {name}"


def check_counts(**counts: int) -> None:
    """Refuses a count below one; `warmup` may be zero.

    Raises:
        ValueError: for such a count.
    """
    for name, count in counts.items():
        least = 0 if name == "warmup" else 1
        if count < least:
            raise ValueError(f"{name} must be at least {least}, got {count}")
