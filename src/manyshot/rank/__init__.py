"""How far the order of proxy scores can be trusted: numbers in, numbers out. No torch here."""

from manyshot.rank.compare import compare
from manyshot.rank.correlation import (
    Interval,
    best_rank,
    bootstrap,
    clear_pairs,
    kendall,
    null_sd,
    overlap,
    pearson,
    regret,
    run_to_run,
    spearman,
)
from manyshot.rank.judge import Judged, judge, judged_sets
from manyshot.rank.published import PUBLISHED, SPACES, load_truth
from manyshot.rank.selection import FrozenSet
from manyshot.rank.truth import TruthError, TruthTable

__all__ = [
    "PUBLISHED",
    "SPACES",
    "FrozenSet",
    "Interval",
    "Judged",
    "TruthError",
    "TruthTable",
    "best_rank",
    "bootstrap",
    "clear_pairs",
    "compare",
    "judge",
    "judged_sets",
    "kendall",
    "load_truth",
    "null_sd",
    "overlap",
    "pearson",
    "regret",
    "run_to_run",
    "spearman",
]
