"""Draws the first figure of the README from the records that are kept.

    python -m benchmarks.studies.emoji.figure

It writes `docs/figures/emoji.svg` and `docs/figures/emoji_dark.svg`: accuracy against latency, of
the winners of one run, and of plain networks that are trained one by one in the same time in all.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.lib import kept
from benchmarks.studies.emoji.run import ARMS, KEPT
from manyshot import records

FOLDER = kept.ROOT / "docs" / "figures"
STYLES = {
    "emoji.svg": ("#1f2328", "#0b6bcb", "#c2410c"),
    "emoji_dark.svg": ("#e6edf3", "#6cb6ff", "#f0883e"),
}
"""Of each file the colours of words and lines, of winners and of plain networks."""
TESTED = 1903
TITLE = "Emoji of a vendor never seen, nine classes, 32 pixels"


def points(seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds and accuracies of winners, and of plain networks as a loop trains them."""
    rows = [r for r in kept.rows(KEPT) if (r["images"], r["seed"]) == ("emoji", seed)]
    named: dict[str, Any] = {row["measure"]: row for row in rows}
    ms, arm = named["latency"]["ms"], ARMS[0]._asdict().items()
    plains = [row for row in rows if row["measure"] == "plain" and arm <= row.items()]
    winners = named["run"]["winners"]
    return {
        "one run: supernet, search, three winners": [
            (ms[f"winner {w['budget']}"], w["test_score"]) for w in winners
        ],
        "plain networks, each trained for a third of its time": [
            (ms[f"plain {p['budget']}"], p["accuracy"]) for p in plains
        ],
    }


def draw(path: Path, words: str, *colours: str) -> None:
    """Writes the figure in some colours, on a transparent ground."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "emoji", "font.family": "sans-serif"}
    style |= {key: words for key in ("text.color", "xtick.color", "ytick.color")}
    style |= {"axes.edgecolor": words, "axes.labelcolor": words, "font.size": 11}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, 3.6), layout="constrained")
        axes = figure.subplots()
        for (name, some), colour, marker in zip(points().items(), colours, "os", strict=True):
            x, y = zip(*sorted(some), strict=True)
            errors = [100 * 1.96 * math.sqrt(p * (1 - p) / TESTED) for p in y]
            axes.errorbar(
                x,
                [100 * p for p in y],
                yerr=errors,
                marker=marker,
                color=colour,
                linewidth=1.8,
                elinewidth=1,
                capsize=3,
                label=name,
            )
        axes.set_xlabel("milliseconds for one image, one thread")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(TITLE, fontsize=12, loc="left")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        with records.atomic(path) as temporary:
            figure.savefig(temporary, format="svg", transparent=True, metadata={"Date": None})


def main() -> None:
    """Draws both files."""
    FOLDER.mkdir(exist_ok=True)
    for name, colours in STYLES.items():
        draw(FOLDER / name, *colours)


if __name__ == "__main__":
    main()
