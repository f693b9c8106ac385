"""The table of `manyshot benchmark`: latencies of exported files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from manyshot.tables import numbers
from manyshot.tables.table import Cell, Table


def latencies(timings: Sequence[Mapping[str, Any]]) -> Table:
    """The latencies of files, beside that of the first.

    Args:
        timings: the fields of `manyshot.cost.FileTiming` of each.
    """
    first = timings[0]
    rows: list[dict[str, Cell]] = [
        {
            "File": PurePath(timing["file"]).name,
            "Runtime": f"{timing['runtime']} {timing['version']}",
            "Median": numbers.milliseconds(timing["median_ms"]),
            "IQR": numbers.milliseconds(timing["iqr_ms"]),
            "Samples per second": numbers.count(round(timing["per_second"])),
            **(
                {"Time by the first's": f"{timing['median_ms'] / first['median_ms']:.2f}"}
                if len(timings) > 1
                else {}
            ),
        }
        for timing in timings
    ]
    note = (
        f"{first['repeats']} runs after {first['warmup']}, batch of {first['batch_size']}, "
        f"{numbers.plural(first['threads'], 'thread')}, {first['clock']} clock, {first['device']}"
    )
    return Table(rows, ("File", "Runtime"), ("File",), note)
