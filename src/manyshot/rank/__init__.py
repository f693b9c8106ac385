"""How far the order of proxy scores can be trusted: numbers in, numbers out. No torch here."""

from manyshot.rank.correlation import (
    Interval,
    best_rank,
    bootstrap,
    clear_pairs,
    kendall,
    null_sd,
    overlap,
    regret,
    run_to_run,
    spearman,
)
from manyshot.rank.selection import FrozenSet

__all__ = [
    "FrozenSet",
    "Interval",
    "best_rank",
    "bootstrap",
    "clear_pairs",
    "kendall",
    "null_sd",
    "overlap",
    "regret",
    "run_to_run",
    "spearman",
]
