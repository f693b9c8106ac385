"""The page of `run.py`: what every arm gives at each cost, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.checklist import Design, with_checklist
from benchmarks.lib.pages import markdown, with_reading

Rows = list[dict[str, Any]]
COLUMNS = [
    "arm",
    "epochs of finishing",
    "test accuracy",
    "validation, before finishing",
    "MACs",
    "parameters",
    "ms, 1 image",
    "ms, 64 images",
]
TAKES = [
    "arm",
    "lines of code",
    "CPU seconds to make the networks of all costs",
    "CPU seconds of finishing them",
    "seconds by the clock, of both",
]
SETTING = """\
A ResNet-18 of torchvision with a quarter of its channels (16, 32, 64, 128), a first convolution \
of 3x3 with stride 2 and no pooling after it, is trained once on 15,000 images of Fashion-MNIST \
of 28x28 pixels, shifted and mirrored: 10 epochs of SGD, rate 0.1 falling as a cosine, batch 128. \
All networks below are made of it, and then finished alike: 3 epochs from a rate of 0.05, on the \
same images. What is chosen is chosen on 2,000 other images of the training set. The 10,000 test \
images are touched once per network. Seeds decide everything but the original, which is one and \
the same: its own training is no part of the spread."""
ARMS = """\
- *original*: it only trains on for the epochs of finishing.
- *convert, untrained*: `ms.convert` with its defaults, evolution of 120 candidates with batch \
norms calibrated on 512 training images, for both costs together.
- *convert, trained*: the same after 3 epochs of the sandwich rule (the largest, the smallest and \
two random networks a step, rate 0.05), in which the others learn from the largest, which begins \
as the original.
- *torch-pruning* (1.6.1): groups of channels of least L1 norm are cut in 200 small steps until \
the cost is reached; *global* over all layers, *layerwise* the same share of every layer; \
*longer*: layerwise, with 9 epochs of finishing.
- *convert, longer*: as untrained, with 9 epochs of finishing.
- *scaled*: the same family with as many channels as the cost allows, from new weights, 13 epochs \
at the original's rate: those of the original's training and of finishing together. Once the \
original is there, these networks train for more than four times as long as the others; *short*: \
3 epochs, no longer than the others.
- *FastNAS* of nvidia-modelopt (0.47.0): channels in steps of 8, batch norms calibrated on 1,000 \
training images, the same images to choose by."""
UNCERTAINTY = """\
Accuracies are in %, mean ± standard deviation over seeds, or all of them if there are fewer than \
three. One of 88 % on 10,000 images has a \
standard error of 0.32 points besides; all networks are tested on the same images. Multiply-adds \
of all are counted by `ms.cost`. Latency is the time of one thread, the median of 100 runs in \
turn with the original; the median over seeds, and beside it the ratio to the original's, which \
the load of the machine moves less. A line of code is one that is no import, comment or \
docstring, in the functions that make both networks out of the original; finishing is the same \
call for all. Seconds are medians over seeds, on a machine with other work."""


DESIGN = Design(
    primary="test accuracy of the finished network within each share of multiply-adds",
    same="the digits, the network and the recipe of finishing in `common`, for all arms",
    budgets="multiply-adds of the finished network; epochs of finishing are columns",
    protocol="all networks are finished and tested by the same function",
    controls=("convert, untrained", "scaled", "scaled, short"),
)


def write_page(path: Path) -> Path:
    """Writes the page beside the records, and returns it."""
    rows = kept.rows(path)
    [original] = [row for row in rows if row["measure"] == "original"]
    arms = [row for row in rows if row["measure"] == "arm"]
    parts = [
        "# Converting a trained network, against pruning it and against training a smaller one\n",
        "Written by `python -m benchmarks.studies.convert.run` from its records.\n",
        f"{SETTING}\n",
        f"The original has {_millions(original['macs'])} multiply-adds and "
        f"{_thousands(original['params'])} parameters; after its training, of "
        f"{original['train_cpu_seconds']:.0f} s of CPU time, it is right on "
        f"{original['accuracy']:.2%} of the test images.\n",
        f"{ARMS}\n",
        f"{UNCERTAINTY}\n",
    ]
    for share in sorted({row["share"] for row in arms}, reverse=True):
        here = [row for row in arms if row["share"] == share]
        parts += [f"## {share:.0%} of the multiply-adds\n", markdown(COLUMNS, _networks(here))]
    parts += ["## What it takes\n", markdown(TAKES, _efforts(arms))]
    return with_checklist(with_reading(path, parts, arms), DESIGN, arms)


def _names(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _networks(rows: Rows) -> list[list[str]]:
    table = []
    for arm in _names(rows):
        own = [row for row in rows if row["arm"] == arm]
        table.append(
            [
                f"{arm} ({_seeds(len(own))})",
                _range(f"{row['epochs']}" for row in own),
                _spread([100 * row["accuracy"] for row in own]),
                _spread([100 * row["validation_before"] for row in own], 1),
                _from_to([row["macs"] / 1e6 for row in own], "M"),
                _from_to([row["params"] / 1e3 for row in own], "K", 0),
                *(_latency(own, batch) for batch in (1, 64)),
            ]
        )
    return table


def _efforts(rows: Rows) -> list[list[str]]:
    table = []
    for arm in _names(rows):
        seeds = sorted({row["seed"] for row in rows if row["arm"] == arm})
        own = [[r for r in rows if r["arm"] == arm and r["seed"] == seed] for seed in seeds]
        method = [of_seed[0]["method_cpu_seconds"] for of_seed in own]
        finish = [sum(row["finish_cpu_seconds"] for row in of_seed) for of_seed in own]
        clock = [
            of_seed[0]["method_seconds"] + sum(row["finish_seconds"] for row in of_seed)
            for of_seed in own
        ]
        table.append(
            [
                arm,
                _range(str(of_seed[0]["lines"]) for of_seed in own),
                *(f"{np.median(seconds):.0f}" for seconds in (method, finish, clock)),
            ]
        )
    return table


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _latency(rows: Rows, batch: int) -> str:
    """The median over seeds of a network's time as a part of the original's, timed in turn."""
    own = [row[f"ms_{batch}"] for row in rows]
    parts = [row[f"ms_{batch}"] / row[f"original_ms_{batch}"] for row in rows]
    return f"{np.median(own):.2f} ({np.median(parts):.2f} of the original's)"


def _range(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _from_to(values: list[float], unit: str, digits: int = 2) -> str:
    return _range(f"{value:.{digits}f} {unit}" for value in (min(values), max(values)))


def _millions(number: int) -> str:
    return f"{number / 1e6:.2f} M"


def _thousands(number: int) -> str:
    return f"{number / 1e3:.0f} K"


def _spread(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation; of fewer than three values, all of them."""
    if len(values) < 3:
        return ", ".join(f"{value:.{digits}f}" for value in values)
    return f"{np.mean(values):.{digits}f} ± {np.std(values, ddof=1):.{digits}f}"
