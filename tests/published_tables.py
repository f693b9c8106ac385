"""Published tables that tests compare with, read by the standard library alone."""

import csv
import gzip
import json
from importlib import resources
from pathlib import Path

TABLES = Path(str(resources.files("manyshot.rank"))) / "tables"
SHUFFLENET = Path(__file__).parent / "data" / "spos_shufflenet_macs.json"


def rows_of(table: str) -> list[dict[str, str]]:
    """All rows of a table that comes with the package."""
    with gzip.open(TABLES / f"{table}.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def shufflenet_counts() -> dict:
    """Multiply-adds and parameters of every choice block of the SPOS network."""
    return json.loads(SHUFFLENET.read_text())
