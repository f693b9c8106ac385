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


@pytest.mark.parametrize(
    ("text", "plain", "limit"),
    [
        ("macs<=1.5e6", "macs<=1500000", 1_500_000),
        ("macs<=25E-1", "macs<=2.5", 2.5),
        ("macs <= 30m", "macs<=30M", 30_000_000),
        ("params<=1k", "params<=1K", 1_000),
        ("energy<=030.50", "energy<=30.5", 30.5),
        ("size<=5MB", "size<=5MB", 5_000_000),
        ("size<=5 mb", "size<=5MB", 5_000_000),
        ("size<=800kB", "size<=800KB", 800_000),
        ("size<=1.5MiB", "size<=1.5MiB", 1_572_864),
        ("size<=1GiB", "size<=1GiB", 1_073_741_824),
        ("size<=64KiB", "size<=64KiB", 65_536),
        ("size<=512b", "size<=512B", 512),
        ("size<=5M", "size<=5M", 5_000_000),
    ],
)
def test_numbers_and_units(text: str, plain: str, limit: float) -> None:
    budget = Budget.parse(text)
    assert (budget.text, budget.limit) == (plain, pytest.approx(limit, rel=1e-12))
    assert Budget.parse(plain) == budget


@pytest.mark.parametrize("text", ["macs<=5MB", "params<=4KiB", "latency_ms<=2B"])
def test_bytes_are_of_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="is in bytes, and only size is"):
        Budget.parse(text)


@pytest.mark.parametrize("text", ["macs<=1e18", "macs<=1e999999999", "macs<=1e-400", "macs<=0e5"])
def test_numbers_out_of_reach(text: str) -> None:
    with pytest.raises(ValueError, match="must be above zero, and below"):
        Budget.parse(text)


@pytest.mark.parametrize(
    "text", ["", "macs<30M", "macs>=30M", "macs<=", "macs<=-3", "macs<=3T", "macs<=3i", "3<=4"]
)
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


@pytest.mark.parametrize("text", ["macs<=1M and macs<=2M", "macs<=1M and", "macs<=1M, flops<2"])
def test_several_at_once_may_be_wrong(text: str) -> None:
    with pytest.raises(ValueError, match="limits a metric twice|is not understood"):
        Budget.parse_all(text)
