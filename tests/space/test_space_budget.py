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


@pytest.mark.parametrize(
    "text", ["macs<=30M,params <= 60.0%", "macs<=30M and params<=60%", " macs<=30M & params<=60% "]
)
def test_several_at_once(text: str) -> None:
    parts = Budget.parse_all(text)
    assert [part.text for part in parts] == ["macs<=30M", "params<=60%"]
    assert Budget.parse_all("macs<=30M") == (Budget.parse("macs<=30M"),)


@pytest.mark.parametrize("text", ["macs<=1M and macs<=2M", "macs<=1M and", "macs<=1M, flops<=2"])
def test_several_at_once_may_be_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="limits a metric twice|is not understood"):
        Budget.parse_all(text)
