"""Latency in a run: a table measured once, kept as a record, and reused when the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from manyshot import records
from manyshot.cost import LatencyTable, latency_table, measure
from manyshot.cost.runtimes import runtime_of
from manyshot.cost.timing import default_clock, describe, device_of
from manyshot.nn.inputs import inputs_of, model_dtype, shapes_in_words, with_samples
from manyshot.pipeline.build import Workspace, budget_metrics
from manyshot.progress import Progress, showing
from manyshot.run_folder import LatencyRecord, RunFolder, Timing
from manyshot.watching import tell


def needs_latency(ws: Workspace) -> bool:
    """Whether a budget of the recipe is in milliseconds."""
    return "latency_ms" in budget_metrics(ws.recipe)


def measured(ws: Workspace, progress: Progress) -> LatencyTable:
    """The latency table of the supernet on this machine, as the recipe says to measure."""
    with ws.clock.part("latency"), showing(progress):
        return latency_table(
            ws.net,
            example_inputs=ws.example_inputs(),
            **ws.recipe.latency.model_dump(),
            progress=lambda done, total: tell("latency", done, total),
        )


def check_measurable(ws: Workspace, progress: Progress) -> None:
    """Measures the smallest and the largest network once, unless torch is what runs them.

    What a runtime cannot run would fail when training and search are done. A latency table, which
    is made before them, finds it too.

    Raises:
        ValueError: for a network that the runtime cannot run.
    """
    if ws.recipe.latency.runtime == "torch" or needs_latency(ws):
        return
    space, once = ws.net.space, {"warmup": 0, "repeats": 1}
    ends = list(dict.fromkeys((space.canonical(space.smallest), space.canonical(space.largest))))
    with progress.stage("latency", len(ends)) as advance:
        for number, arch in enumerate(ends, start=1):
            measure(
                ws.net.extract(arch),
                example_inputs=ws.example_inputs(),
                device=ws.device,
                **ws.recipe.latency.model_dump() | once,
            )
            advance(number, "")


def with_latency(
    ws: Workspace,
    accelerator: Accelerator,
    folder: Path,
    progress: Progress,
    trained: Path | None = None,
) -> Workspace:
    """The workspace with costs in `latency_ms` from `latency.json`, which is made if missing.

    The table of the run in `trained` is taken if it is what would be measured now.

    Raises:
        RecordError: if the record was measured otherwise than the recipe says, or elsewhere.
    """
    path = RunFolder(folder).latency_file
    if accelerator.is_main_process and not path.exists():
        table = None if trained is None else _taken(ws, RunFolder(trained).latency_file)
        records.write_json(path, LatencyRecord.of((table or measured(ws, progress)).to_dict()))
    accelerator.wait_for_everyone()
    table = _read(path)
    # Other processes may have other devices: the main one, which measures, decides for all.
    [difference] = broadcast_object_list([_difference(ws, table)])
    if difference is not None:
        name, recorded, own = difference
        raise records.RecordError(
            f"{path} was measured with {name} = {recorded!r}, but now it is {own!r}: go on as it "
            "was measured, or delete the file to measure again"
        )
    return ws.with_costs(latency_ms=table.table)


def _taken(ws: Workspace, path: Path) -> LatencyTable | None:
    """The table of another run, unless it is missing or differs from what would be measured."""
    if not path.exists():
        return None
    table = _read(path)
    return table if _difference(ws, table) is None else None


def _read(path: Path) -> LatencyTable:
    return LatencyTable.from_dict(records.load(path, LatencyRecord).plain())


def _difference(ws: Workspace, table: LatencyTable) -> tuple[str, Any, Any] | None:
    """The first field in which a table is not what would be measured now: name, its, ours."""
    own = {
        "decisions": tuple(str(decision.name) for decision in ws.net.space.decisions),
        "inputs": shapes_in_words(with_samples(inputs_of(ws.net), 1)),
        "device": describe(device_of(ws.net)),
        "dtype": str(model_dtype(ws.net)),
        **ws.recipe.latency.model_dump(),
    }
    for name, value in own.items():
        if getattr(table, name) != value:
            return name, getattr(table, name), value
    return None


def on_record(ws: Workspace, folder: Path) -> Mapping[str, Timing]:
    """The latencies in the result of a run that would be measured in the same way now.

    They are of the plain networks by the text of their architectures, since weights do not matter.

    Raises:
        RecordError: if the result is damaged.
    """
    result, settings = RunFolder(folder).result(), ws.recipe.latency
    if result is None:
        return {}
    now = {
        **settings.model_dump(),
        "clock": default_clock(ws.device, settings.threads)[0],
        "device": describe(ws.device),
        "torch_version": str(torch.__version__),
        "runtime_version": runtime_of(settings.runtime, ws.net, ws.device).version,
    }
    return {
        text: timing
        for text, timing in result.latency.items()
        if all(getattr(timing, name) == value for name, value in now.items())
    }


def latency_of(ws: Workspace, subnet: nn.Module, table_ms: float | None = None) -> Timing:
    """A direct measurement of a plain subnet, beside what the latency table says if there is one.

    Args:
        ws: the run.
        subnet: the network.
        table_ms: its latency by the table.
    """
    settings = ws.recipe.latency
    timing = measure(
        subnet, example_inputs=ws.example_inputs(), device=ws.device, **settings.model_dump()
    )
    return Timing(
        median_ms=timing.median_ms,
        iqr_ms=timing.iqr_ms,
        batch_size=timing.batch_size,
        threads=timing.threads,
        repeats=timing.repeats,
        clock=timing.clock,
        device=timing.device,
        warmup=timing.warmup,
        torch_version=str(timing.torch_version),
        runtime=settings.runtime,
        runtime_version=timing.runtime_version,
        table_ms=table_ms,
    )
