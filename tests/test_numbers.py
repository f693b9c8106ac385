import pytest

from manyshot.run_folder import Statistic
from manyshot.tables import numbers


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (29_680, "29.7 K"),
        (32_000, "32.0 K"),
        (999_960, "1.00 M"),
        (1_914_000, "1.91 M"),
        (123_400_000, "123 M"),
        (3_000_000_000, "3.00 G"),
        (None, "undefined"),
    ],
)
def test_counts_have_three_digits(number: float | None, text: str) -> None:
    assert numbers.count(number).replace("\u202f", " ") == text


def test_undefined_is_never_zero() -> None:
    nothing = Statistic(value=None, low=None, high=None)
    shown = {
        numbers.count(None),
        numbers.whole(None),
        numbers.percent(None),
        numbers.decimal(None),
        numbers.milliseconds(None),
        numbers.seconds(None),
        numbers.statistic(nothing),
        numbers.share_statistic(nothing),
    }
    assert shown == {"undefined"}


def test_statistics_show_their_interval_if_they_have_one() -> None:
    found = Statistic(value=-0.0456, low=-0.104, high=0.016)
    assert numbers.statistic(found) == "−0.046 [−0.10, 0.02]"
    assert numbers.statistic(found.model_copy(update={"low": None})) == "−0.046"
    shares = Statistic(value=0.0123, low=0.01, high=0.02)
    assert numbers.share_statistic(shares, 2).replace("\u202f", " ") == "1.23 % [1.00, 2.00]"


@pytest.mark.parametrize(
    ("number", "text"),
    [(3.14, "3.14 s"), (59.97, "60 s"), (245.2, "4 min 5 s"), (7380, "2 h 3 min")],
)
def test_durations(number: float, text: str) -> None:
    assert numbers.seconds(number).replace("\u202f", " ") == text


def test_budgets_are_written_as_people_do() -> None:
    assert numbers.budget("macs<=15%").split() == ["macs", "≤", "15%"]
    assert numbers.budget("macs <= 15%") == numbers.budget("macs<=15%")
    assert numbers.limit_of("macs<=15%").split() == ["≤", "15%"]
    assert numbers.limit_of("anything") == "anything"


def test_names_in_a_row() -> None:
    assert [numbers.listed(list(n)) for n in ("a", "ab", "abc")] == ["a", "a and b", "a, b and c"]


def test_long_names_keep_their_end() -> None:
    assert numbers.shortened("abcdefghij", 5) == "…ghij"
    assert numbers.shortened("abcde", 5) == "abcde"


def test_sentences() -> None:
    assert numbers.sentence("all of them.") == numbers.sentence("all of them") == "All of them."
    assert numbers.sentence("") == "."
