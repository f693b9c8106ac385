"""Latency tables: every option measured once, architectures by addition."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, final

import numpy as np
import numpy.typing as npt
import torch

from manyshot.cost.recording import Recording
from manyshot.cost.runtimes import Job, RuntimeName, runtime_of
from manyshot.cost.tables import Archs, CostTable
from manyshot.cost.timing import (
    Stopwatch,
    check_counts,
    default_clock,
    describe,
    device_of,
    inputs_to_time,
    on_threads,
    prepared,
    round_robin,
)
from manyshot.cost.units import UnitPlan, make_jobs, plan, statistics
from manyshot.nn.inputs import (
    Inputs,
    as_call,
    model_dtype,
    shapes_in_words,
    with_samples,
    without_values,
)
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace
from manyshot.supernet import Supernet

FITTED = 5
"""How many random architectures give the fixed part; a third of all in a tiny space."""


@final
@dataclass(frozen=True)
class LatencyCheck:
    """A latency table against direct measurements of architectures it was not made from.

    Attributes:
        archs: distinct random architectures, none of which gave the fixed part.
        measured_ms: medians of the extracted subnets, measured in the same rounds as the table.
        predicted_ms: what the table says.
        median_error: median of |predicted - measured| / measured; None for no architectures.
        kendall_tau: tau-b between the two; None if either is constant.
    """

    archs: tuple[Arch, ...]
    measured_ms: tuple[float, ...]
    predicted_ms: tuple[float, ...]
    median_error: float | None
    kendall_tau: float | None


@final
@dataclass(frozen=True, eq=False)
class LatencyTable:
    """The latency of any architecture of a space for one batch, in eval mode; a record of a run.

    Attributes:
        table: milliseconds as sums; its constant is the part that no decision changes.
        decisions: the names of the decisions, in the order of the space.
        inputs: the shapes of one sample, with a batch of one in front, as text.
        batch_size: samples at once.
        threads: the number of threads on the CPU.
        device: the hardware, as text.
        clock: `thread` (time of the one thread), `wall`, or `given`.
        torch_version: the version of torch.
        dtype: the floating-point type of the network.
        warmup: untimed rounds.
        repeats: timed rounds.
        cells: how many distinct things were timed.
        spread: the median over them of interquartile range / median.
        runtime: what ran them: `torch` or `onnxruntime`.
        runtime_version: the version of that.
        check: how well the table predicts.
    """

    table: CostTable
    decisions: tuple[str, ...]
    inputs: str
    batch_size: int
    threads: int
    device: str
    clock: str
    torch_version: str
    dtype: str
    warmup: int
    repeats: int
    cells: int
    spread: float
    runtime: str
    runtime_version: str
    check: LatencyCheck

    def __call__(self, archs: Archs) -> npt.NDArray[np.float64]:
        """The milliseconds of architectures, (N,)."""
        return self.table(archs)

    def range(self) -> tuple[float, float]:
        """The least and the greatest latency in the space, by the table."""
        return self.table.range()

    def to_dict(self) -> dict[str, Any]:
        """A record that JSON can hold; `from_dict` restores an equal table."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        record = {"schema": 1, **fields, "table": self.table.to_dict()}
        return {**record, "check": asdict(self.check)}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The table that `to_dict` described.

        Raises:
            ValueError: if the record has an unknown schema.
        """
        if record.get("schema") != 1:
            raise ValueError(f"latency table has schema {record.get('schema')!r}; this reads 1")
        fields = {name: record[name] for name in cls.__dataclass_fields__}
        check = dict(record["check"])
        check["archs"] = tuple(map(tuple, check["archs"]))
        for name in ("measured_ms", "predicted_ms"):
            check[name] = tuple(check[name])
        fields |= {"check": LatencyCheck(**check), "table": CostTable.from_dict(record["table"])}
        fields["decisions"] = tuple(fields["decisions"])
        return cls(**fields)


def latency_ms(net: Supernet, archs: Archs, table: LatencyTable) -> npt.NDArray[np.float64]:
    """The milliseconds of architectures by a table that `latency_table` made, (N,).

    Args:
        net: the supernet that the table was made for.
        archs: N architectures.
        table: the latency table.

    Raises:
        ValueError: if the table was made for another search space.
    """
    names = _names(net.space)
    counts = tuple(net.space.counts.tolist())
    if (table.decisions, table.table.counts) != (names, counts):
        raise ValueError(
            f"this latency table is of a space with decisions {', '.join(table.decisions)}, the "
            f"network has {', '.join(names)}: make a new one with ms.cost.latency_table(net, ...)"
        )
    return table(archs)


def latency_table(
    net: Supernet,
    input_shape: Sequence[int] | None = None,
    *,
    example_inputs: Inputs = None,
    batch_size: int = 1,
    threads: int = 1,
    warmup: int = 5,
    repeats: int = 30,
    checked: int = 10,
    max_cells: int | None = None,
    runtime: RuntimeName = "torch",
    progress: Callable[[int, int], None] | None = None,
    stopwatch: Stopwatch | None = None,
) -> LatencyTable:
    """Measures every option of `net` where it is, and adds up.

    Choice blocks, blocks of an elastic depth and elastic layers are extracted at all options that
    matter to them, and timed on the activations that they see. The rest of the network is the
    median, over a few random architectures, of what a direct measurement leaves. All of these are
    timed in turn, one run each per round. The table then predicts other random architectures.

    With `runtime="onnxruntime"` each of them is exported for this batch first, and run by ONNX
    Runtime on the CPU, which takes 0.1 to 0.7 s for a layer or a block.

    Args:
        net: the supernet, which is measured on the device where it is, and not changed.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs, whose samples fill the batch in turn. Without both, those that
            the supernet was made with (see `manyshot.cost.timing.inputs_to_time`).
        batch_size: samples at once; a latency is that of the batch.
        threads: the number of threads while measuring.
        warmup: untimed rounds.
        repeats: timed rounds; entries are medians over them.
        checked: how many random architectures the table is checked on; fewer in a tiny space.
        max_cells: the most things to time; by default 4000, and 1000 with `onnxruntime`.
        runtime: what runs them: `torch`, or `onnxruntime` with the packages of the extra `onnx`.
        progress: called as `progress(steps done, steps)`; a step is a round, or an export.
        stopwatch: what times one run; by default the time of the thread on the CPU with one
            thread, else wall-clock time.

    Returns:
        The table, with how well it predicts.

    Raises:
        ValueError: if there is too much to time, a number is too small, or the runtime cannot run
            a part of the network, which the message names.
        ImportError: for `onnxruntime` without its packages.
    """
    check_counts(
        batch_size=batch_size, threads=threads, warmup=warmup, repeats=repeats, checked=checked
    )
    device = device_of(net)
    runs = runtime_of(runtime, net, device)
    example = inputs_to_time(net, batch_size, input_shape, example_inputs, device)
    recording = Recording(net.model, net.space, without_values(example), watch_inputs=True)
    way_out = "raise max_cells, or measure extracted subnets with ms.cost.measure"
    if runs.exports:
        way_out = f"each is exported for {runs.name}: take runtime = 'torch', {way_out}"
    planned = plan(recording, runs.max_cells if max_cells is None else max_cells, way_out)
    archs = _distinct(net.space, FITTED + checked)
    fitted = min(FITTED, -(-len(archs) // 3))
    clock, default = default_clock(device, threads)
    with on_threads(threads):
        jobs = make_jobs(net, recording, planned, example, device)
        jobs += [_subnet(net, arch, example, device) for arch in archs]
        exports = len(jobs) if runs.exports else 0

        def advance(done: int) -> None:
            if progress is not None:
                progress(done, exports + warmup + repeats)

        jobs = runs.opened(jobs, threads, advance)
        watch = stopwatch or default
        times = round_robin(jobs, warmup, repeats, watch, lambda done, _: advance(exports + done))
    table, direct = _table(recording, planned, archs[:fitted], np.median(times, axis=0))
    return LatencyTable(
        table=table,
        decisions=_names(net.space),
        inputs=shapes_in_words(without_values(with_samples(example, 1))),
        batch_size=batch_size,
        threads=threads,
        device=describe(device),
        clock=clock if stopwatch is None else "given",
        torch_version=torch.__version__,
        dtype=str(model_dtype(net)),
        warmup=warmup,
        repeats=repeats,
        cells=len(planned.jobs),
        spread=_spread(times[:, : len(planned.jobs)]),
        runtime=runs.name,
        runtime_version=runs.version,
        check=_check(table, archs[fitted:], direct[fitted:]),
    )


def _names(space: SearchSpace) -> tuple[str, ...]:
    return tuple(str(decision.name) for decision in space.decisions)


def _table(
    recording: Recording, planned: UnitPlan, archs: list[Arch], medians: npt.NDArray[np.float64]
) -> tuple[CostTable, npt.NDArray[np.float64]]:
    """The table, and what was measured directly; `archs`, the first of it, give the fixed part."""
    units, direct = medians[: len(planned.jobs)], medians[len(planned.jobs) :]
    time_of = dict(zip(planned.jobs, units.tolist(), strict=True))
    parts = [
        recording.expand(unit, axes, {cell: time_of[key] for cell, key in cells.items()})
        for unit, (axes, cells) in planned.cells.items()
    ]
    table = CostTable.of("latency_ms", tuple(recording.space.counts.tolist()), parts)
    rest = direct[: len(archs)] - table(archs)
    # The sum may hold a constant already: that of units that no decision changes.
    return replace(table, constant=table.constant + float(np.median(rest))), direct


def _subnet(net: Supernet, arch: Arch, example: Inputs, device: torch.device) -> Job:
    stats = None if net.stands_in(arch) else statistics(net, arch, example)
    subnet = net.extract(arch, stats=stats)
    name = f"architecture {net.space.to_text(arch)}"
    return Job(name, prepared(subnet, device), [as_call(example)])


def _distinct(space: SearchSpace, count: int) -> list[Arch]:
    """Random architectures, distinct as far as the space has so many."""
    rng = numpy_rng("latency", "checks")
    archs = dict.fromkeys(space.sample(rng) for _ in range(20 * count))
    return list(archs)[:count]


def _spread(times: npt.NDArray[np.float64]) -> float:
    low, middle, high = np.percentile(times, (25, 50, 75), axis=0)
    relative = (high - low)[middle > 0] / middle[middle > 0]
    return float(np.median(relative)) if len(relative) else 0.0


def _check(table: CostTable, archs: list[Arch], direct: npt.NDArray[np.float64]) -> LatencyCheck:
    from scipy.stats import kendalltau  # slow to import

    predicted = table(archs)
    error = float(np.median(np.abs(predicted - direct) / direct)) if len(archs) else None
    constant = len({*predicted.tolist()}) < 2 or len({*direct.tolist()}) < 2
    tau = None if constant else float(kendalltau(predicted, direct).statistic)
    return LatencyCheck(tuple(archs), tuple(direct.tolist()), tuple(predicted.tolist()), error, tau)
