"""How far the order of proxy scores can be trusted: numbers in, numbers out. No torch here."""

from manyshot.rank.compare import compare
from manyshot.rank.correlation import (
    Interval,
    best_rank,
    bootstrap,
    clear_pairs,
    jackknife,
    kendall,
    null_sd,
    overlap,
    pearson,
    regret,
    run_to_run,
    sparse_tau,
    spearman,
    weighted_tau,
)
from manyshot.rank.published import PUBLISHED, SPACES, load_truth
from manyshot.rank.reliability import judges, reliability
from manyshot.rank.selection import FrozenSet
from manyshot.rank.sets import RankSet, rank_sets
from manyshot.rank.statistics import rank_set
from manyshot.rank.truth import TruthError, TruthTable

__all__ = [
    "PUBLISHED",
    "SPACES",
    "FrozenSet",
    "Interval",
    "RankSet",
    "TruthError",
    "TruthTable",
    "best_rank",
    "bootstrap",
    "clear_pairs",
    "compare",
    "jackknife",
    "judges",
    "kendall",
    "load_truth",
    "null_sd",
    "overlap",
    "pearson",
    "rank_set",
    "rank_sets",
    "regret",
    "reliability",
    "run_to_run",
    "sparse_tau",
    "spearman",
    "weighted_tau",
]
