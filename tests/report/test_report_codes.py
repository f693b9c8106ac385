"""Figures of whether codes matter hold the numbers of their records."""

import pytest

from manyshot.report import training
from manyshot.run_folder import TrainLine


def line(images: int, codes: dict[str, float] | None = None) -> TrainLine:
    content = {"schema": 1, "step": images, "epoch": 1.0, "images": images, "lr": 0.1, "loss": 1.0}
    return TrainLine.of(content if codes is None else {**content, "codes": codes})


def measured(better: float, error: float) -> dict[str, float]:
    return {
        "paths": 12, "images": 64, "own_loss": 1.0, "mean_minus_own": better,
        "mean_minus_own_error": error, "other_minus_own": 2 * better,
        "other_minus_own_error": 3 * error, "reachable_share": better / 2,
    }  # fmt: skip


@pytest.mark.parametrize(("better", "words"), [(0.03, "is better than"), (0.01, "is no better")])
def test_what_codes_are_worth_is_drawn_with_two_errors(better: float, words: str) -> None:
    lines = [line(10), line(20, measured(0.5, 0.1)), line(30), line(40, measured(better, 0.01))]
    figures = {figure.title: figure for figure in training.curves(lines)}
    worth = figures["What the own code of a path is worth"]
    by_mean, by_other = worth.traces
    assert (by_mean["x"], by_mean["y"]) == ([20, 40], [0.5, better])
    assert by_other["y"] == [1.0, 2 * better]
    assert by_mean["error_y"]["array"] == pytest.approx([0.2, 0.02])
    assert by_other["error_y"]["arrayminus"] == pytest.approx([0.6, 0.06])
    assert words in worth.caption
    [reached] = figures["Gradient that codes can reach"].traces
    assert reached["y"] == [0.25, better / 2]
    assert "What the own code of a path is worth" not in {
        figure.title for figure in training.curves([line(10)])
    }
