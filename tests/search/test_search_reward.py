"""The reward by its formula, written out."""

import pytest

from manyshot.search import Limit, Reward

SIZE = Limit("size<=4", lambda archs: [arch[0] for arch in archs], 4)
ARCHS = [(1,), (4,), (8,)]


@pytest.mark.parametrize(
    ("exponents", "factors"),
    [
        ((-1.0, -2.0), [4.0, 1.0, 0.25]),
        ((-0.5, -0.5), [2.0, 1.0, 0.5**0.5]),
        ((0.0, -1.0), [1.0, 1.0, 0.5]),
        ((-1.0, 0.0), [4.0, 1.0, 1.0]),
    ],
)
def test_a_score_times_a_power_of_the_cost_by_its_target(exponents, factors) -> None:
    reward = Reward("size<=4", below=exponents[0], above=exponents[1])
    assert reward.of(SIZE, ARCHS, [0.5, 0.25, 1.0]) == pytest.approx(
        [0.5 * factors[0], 0.25 * factors[1], factors[2]]
    )
    assert reward.of(SIZE, ARCHS, [0.0] * 3) == [0.0] * 3


def test_the_exponents_of_the_paper_are_the_defaults() -> None:
    """Twice the latency is worth 5 % of accuracy, which is how the paper chooses -0.07."""
    assert Reward("latency_ms<=80") == Reward("latency_ms<=80", below=-0.07, above=-0.07)
    [one, two] = Reward("size<=4").of(SIZE, [(4,), (8,)], [0.7, 0.7])
    assert one == 0.7 and two / one == pytest.approx(2**-0.07) == pytest.approx(0.95, abs=0.003)


def test_a_target_in_percent_is_of_the_largest() -> None:
    reward = Reward("size<=25%")
    limit = reward.limit({"size": SIZE.cost}, (40,))
    assert (limit.limit, reward.metric) == (10.0, "size")
    with pytest.raises(ValueError, match="no costs for size, have params"):
        reward.limit({"params": SIZE.cost}, (40,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "macs"}, "'macs' is not understood"),
        ({"target": "macs<=1M and params<=3"}, "is not understood"),
        ({"below": 0.07}, "below"),
        ({"below": 0.0, "above": 0.0}, "below = 0 and above = 0 leave scores as they are"),
        ({"above": float("-inf")}, "above"),
        ({"above": "-1"}, "above"),
    ],
)
def test_what_has_no_meaning_is_refused(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        Reward(**{"target": "macs<=1M", **arguments})


def test_scores_and_costs_without_such_a_power_are_refused() -> None:
    with pytest.raises(ValueError, match=r"architecture \(8,\) has score -1, .*at least 0"):
        Reward("size<=4").of(SIZE, ARCHS, [1.0, 1.0, -1.0])
    with pytest.raises(ValueError, match=r"architecture \(0,\) has a cost of 0 by size"):
        Reward("size<=4").of(SIZE, [(0,)], [1.0])
    assert Reward("size<=4", below=0.0, above=-1.0).of(SIZE, [(0,)], [0.5]) == [0.5]
