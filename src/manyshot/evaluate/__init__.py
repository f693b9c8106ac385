"""Batch-norm calibration and accuracy. Nothing here changes what it evaluates."""

from manyshot.evaluate.prefix import Account, Population
from manyshot.evaluate.running import RunningStatistics
from manyshot.evaluate.score import Score, accuracy, calibrate, evaluating, predict, score
from manyshot.evaluate.shared import shared_statistics

__all__ = [
    "Account",
    "Population",
    "RunningStatistics",
    "Score",
    "accuracy",
    "calibrate",
    "evaluating",
    "predict",
    "score",
    "shared_statistics",
]
