"""The page of `run.py`: winners beside plain networks of their size and of the run's time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading

Row = dict[str, Any]
TITLES = {
    "emoji": "Emoji of 32 pixels in nine classes: 5,667 images by three vendors to train on, 1,903 "
    "by a fourth to test on",
    "shapes": "Drawn circles, squares and triangles of 32 pixels: 1,500 images to train on, 600 to "
    "test on",
}
COLUMNS = ["network", "test accuracy", "parameters", "MACs", "epochs", "CPU seconds"]
SETTING = """\
`manyshot run recipes/folder.toml` serves three budgets. A plain network has six convolutions of \
3x3 with batch norm and ReLU in three stages, in the width that comes nearest to a winner's number \
of parameters. A *plain loop* is some fifteen lines of PyTorch: AdamW, one cycle up to a rate of \
0.004, batches of 64, flips, and shifts of a batch by up to 3 pixels. *As the recipe* is the same \
network with the optimiser, the precision, the smoothed targets and the changes of images that \
winners are finished with. All learn from every image but the test images. Times are CPU seconds \
of one thread: of the whole run without controls for a plain loop *in all of the time*, and \
a third of that, the share of one budget of three, for the others."""
UNCERTAINTY = """\
One seed each unless more are named. An accuracy of 75 % on 1,903 images has a standard error of \
1.0 point, one of 95 % on 600 images 0.9; all networks of a set are tested on the same images."""


DESIGN = Design(
    primary="test accuracy of the finished networks",
    same="the same images and splits for a plain loop and for runs",
    protocol="all networks are tested on the same test images",
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    parts = [
        "# A folder of colour images, beside a plain loop at the same size and time\n",
        "Written by `python -m benchmarks.studies.emoji.run` from its records.\n",
        f"{SETTING}\n",
        f"{UNCERTAINTY}\n",
    ]
    for name, title in TITLES.items():
        for seed in sorted({row["seed"] for row in rows if row["images"] == name}):
            own = [row for row in rows if (row["images"], row["seed"]) == (name, seed)]
            parts += [f"## {title}; seed {seed}\n", *_of_a_run(own)]
    return with_checklist(with_reading(path, parts, rows), DESIGN, rows)


def _of_a_run(rows: list[Row]) -> list[str]:
    measured = {row["measure"]: row for row in rows}
    run, controlled = measured["run"], measured.get("controls")
    said = f"The run takes {run['cpu_seconds']:,.0f} s of CPU time."
    if controlled is not None:
        said += (
            f" A search of the same supernet with controls, and finishing all, takes "
            f"{controlled['cpu_seconds']:,.0f} s, and says of what its result is worth: "
            f"{controlled['worth']}."
        )
    table = []
    for winner in run["winners"]:
        budget = winner["budget"]
        table.append(_line(f"**{budget}: winner**", winner["test_score"], winner))
        for row in rows:
            if row["measure"] == "plain" and row["budget"] == budget:
                name = "as the recipe" if row["as_recipe"] else "plain loop"
                time = "all of the time" if row["share"] == 1 else "a third of the time"
                table.append(_line(f"{name}, {time}", row["accuracy"], row))
        for control in controlled["controls"] if controlled is not None else ():
            if control["budget"] == budget:
                table.append(_line(f"control: {control['kind']}", control["test_score"], control))
    return [f"{said}\n", markdown(COLUMNS, table)]


def _line(name: str, accuracy: float, row: Row) -> list[str]:
    epochs, seconds = row.get("epochs"), row.get("cpu_seconds")
    return [
        name,
        f"{accuracy:.1%}",
        f"{row['params'] / 1e3:,.0f} K",
        f"{row['macs'] / 1e6:.2f} M",
        "" if epochs is None else f"{epochs}",
        "" if seconds is None else f"{seconds:,.0f}",
    ]
