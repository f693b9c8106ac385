"""Latency in a run: a table measured once, kept as a record, and reused when the run goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from manyshot import records
from manyshot.cost import LatencyTable, latency_table, measure
from manyshot.pipeline.workspace import Workspace
from manyshot.progress import Progress
from manyshot.space import Budget

FILE = "latency.json"


def needs_latency(ws: Workspace) -> bool:
    """Whether a budget of the recipe is in milliseconds."""
    return any(Budget.parse(text).metric == "latency_ms" for text in ws.recipe.search.budgets)


def measured(ws: Workspace, progress: Progress) -> LatencyTable:
    """The latency table of the supernet on this machine, as the recipe says to measure."""
    settings = ws.recipe.latency
    with progress.stage("latency", settings.warmup + settings.repeats) as advance:
        return latency_table(
            ws.net,
            ws.splits.image_shape,
            batch_size=settings.batch_size,
            threads=settings.threads,
            warmup=settings.warmup,
            repeats=settings.repeats,
            progress=lambda done, total: advance(done, ""),
        )


def add_latency(ws: Workspace, accelerator: Accelerator, folder: Path, progress: Progress) -> None:
    """Adds `latency_ms` to the workspace's costs from `latency.json`, which is made if missing.

    Raises:
        RecordError: if the record is of another space.
    """
    path = folder / FILE
    if accelerator.is_main_process and not path.exists():
        records.write_json(path, measured(ws, progress).to_dict())
    accelerator.wait_for_everyone()
    table = LatencyTable.from_dict(records.read_json(path))
    if table.decisions != tuple(str(d.name) for d in ws.net.space.decisions):
        raise records.RecordError(
            f"{path} was measured for another space ({', '.join(table.decisions)}): delete it to "
            "measure again"
        )
    ws.costs["latency_ms"] = table.table


def latency_of(ws: Workspace, subnet: nn.Module) -> dict[str, Any]:
    """A direct measurement of a plain subnet, with what decides its meaning."""
    settings = ws.recipe.latency
    timing = measure(
        subnet,
        ws.splits.image_shape,
        batch_size=settings.batch_size,
        threads=settings.threads,
        warmup=settings.warmup,
        repeats=settings.repeats,
        device=ws.device,
    )
    return {
        "median_ms": timing.median_ms,
        "iqr_ms": timing.iqr_ms,
        "batch_size": timing.batch_size,
        "threads": timing.threads,
        "repeats": timing.repeats,
        "clock": timing.clock,
        "device": timing.device,
    }
