"""Budgets as text."""

import pytest

from manyshot.space import Budget


@pytest.mark.parametrize(
    ("text", "metric", "absolute"),
    [
        ("macs<=30M", "macs", 30e6),
        (" macs <= 1.5 G ", "macs", 1.5e9),
        ("params<=800K", "params", 800e3),
        ("params<=60%", "params", 120.0),
        ("latency_ms<=2.5", "latency_ms", 2.5),
    ],
)
def test_forms(text: str, metric: str, absolute: float) -> None:
    budget = Budget.parse(text)
    assert (budget.metric, budget.absolute(200.0)) == (metric, pytest.approx(absolute))
    assert budget.text == text.replace(" ", "") and budget.relative == ("%" in text)


@pytest.mark.parametrize("text", ["", "macs<30M", "flops<=30M", "macs<=", "macs<=-3", "macs<=3T"])
def test_other_forms_are_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"not understood.*'macs<=30M'.*latency_ms"):
        Budget.parse(text)


def test_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="must be above zero"):
        Budget.parse("macs<=0")
