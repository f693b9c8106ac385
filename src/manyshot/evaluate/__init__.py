"""Batch-norm calibration and accuracy. Nothing here changes what it evaluates."""

from manyshot.evaluate.prefix import Account, Population
from manyshot.evaluate.running import RunningStatistics, shared_statistics
from manyshot.evaluate.score import Score, accuracy, calibrate, score
from manyshot.nn.modes import evaluating

__all__ = [
    "Account",
    "Population",
    "RunningStatistics",
    "Score",
    "accuracy",
    "calibrate",
    "evaluating",
    "score",
    "shared_statistics",
]
