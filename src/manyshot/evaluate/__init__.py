"""Batch-norm calibration and accuracy. Nothing here changes what it evaluates."""

from manyshot.evaluate.prefix import Account, Population, score_many
from manyshot.evaluate.running import RunningStatistics
from manyshot.evaluate.score import Score, accuracy, calibrate, evaluating, predict, score

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
    "score_many",
]
