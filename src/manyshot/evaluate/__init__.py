"""Batch-norm calibration and scores. Nothing here changes what it evaluates."""

from manyshot.evaluate.prefix import Account, Population
from manyshot.evaluate.running import RunningStatistics, shared_statistics
from manyshot.evaluate.score import Score, calibrate, score, score_module
from manyshot.evaluate.spread import Spread
from manyshot.nn.modes import evaluating

__all__ = [
    "Account",
    "Population",
    "RunningStatistics",
    "Score",
    "Spread",
    "calibrate",
    "evaluating",
    "score",
    "score_module",
    "shared_statistics",
]
