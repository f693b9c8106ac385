"""Draws the first figure of the README from the records that are kept.

    python -m benchmarks.studies.emoji.figure

It writes `docs/figures/emoji.svg`: accuracy against latency, of the winners of one run, and of
plain networks that are trained one by one in the same time in all, by a plain loop and as winners
are.
"""

from __future__ import annotations

import argparse
import io
import math
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.lib import kept
from benchmarks.studies.emoji.run import KEPT, Arm
from manyshot import records

FIGURE = kept.ROOT / "docs" / "figures" / "emoji.svg"
WORDS = "#010203"
"""A colour that nothing else has, in whose place comes that of words on the reader's page."""
COLOURS = ("#2f81f7", "#8b949e", "#db6d28")
"""Of winners and of plain networks, to be seen on light and on dark pages."""
NAMES = {
    "plain networks, each a third of the time, trained as winners are": Arm(1 / 3, True),
    "plain networks, each a third of the time, by a plain loop": Arm(1 / 3, False),
}
STYLE = """\
<style>
svg { color: #1f2328 }
@media (prefers-color-scheme: dark) { svg { color: #e6edf3 } }
</style>
"""
TESTED = 1903
TITLE = "Emoji of a vendor never seen, nine classes, 32 pixels; bars are 95 % intervals"


def points(seed: int = 0) -> dict[str, list[tuple[float, float]]]:
    """Milliseconds and accuracies of winners, and of plain networks by how they are trained."""
    rows = [r for r in kept.rows(KEPT) if (r["images"], r["seed"]) == ("emoji", seed)]
    named: dict[str, Any] = {row["measure"]: row for row in rows}
    ms, winners = named["latency"]["ms"], named["run"]["winners"]
    some = {
        "one run: supernet, search, three winners": [
            (ms[f"winner {w['budget']}"], w["test_score"]) for w in winners
        ]
    }
    for name, arm in NAMES.items():
        plains = [row for row in rows if arm._asdict().items() <= row.items()]
        some[name] = [(ms[f"plain {p['budget']}"], p["accuracy"]) for p in plains]
    return some


def drawn() -> str:
    """The figure, as text."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "emoji", "font.family": "sans-serif"}
    style |= {key: WORDS for key in ("text.color", "xtick.color", "ytick.color", "grid.color")}
    style |= {"axes.edgecolor": WORDS, "axes.labelcolor": WORDS, "font.size": 11}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for (name, some), colour, marker in zip(points().items(), COLOURS, "osD", strict=True):
            x, y = zip(*sorted(some), strict=True)
            errors = [100 * 1.96 * math.sqrt(p * (1 - p) / TESTED) for p in y]
            lines: Any = {"marker": marker, "color": colour, "linewidth": 1.8}
            bars: Any = {"yerr": errors, "elinewidth": 1, "capsize": 3}
            axes.errorbar(x, [100 * p for p in y], label=name, **lines, **bars)
        axes.set_xlabel("milliseconds for one image, one thread")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(TITLE, fontsize=12, loc="left")
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(frameon=False, loc="outside lower left")
        file = io.StringIO()
        figure.savefig(
            file,
            format="svg",
            transparent=True,
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    text = file.getvalue().replace(WORDS, "currentColor")
    start = text.index("<defs>")
    return text[:start] + STYLE + text[start:]


def main() -> None:
    """Draws the figure."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    FIGURE.parent.mkdir(exist_ok=True)
    records.write_text(FIGURE, drawn())


if __name__ == "__main__":
    main()
