import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_parsed import Parsed

from manyshot import run_folder
from manyshot.report import derived, html_of
from manyshot.report.picture import Picture, blocks
from manyshot.run_folder import CodesLine, SearchLine, WinnerRecord, cost_of
from manyshot.space import Decision, SearchSpace

BY_ACCURACY = run_folder.TaskRecord(
    name="classification", metric=run_folder.ACCURACY, fitness="metric"
)
OPTIONS = ("project", "conv1", "sep3", "conv3")
SCORES = (
    ("0-0-1-0", 0.30, 20_000),
    ("1-1-1-1", 0.45, 40_000),
    ("3-1-2-0", 0.40, 90_000),
    ("0-1-1-2", 0.50, 29_000),
    ("3-1-2-0", 0.55, 90_000),
    ("3-3-0-0", 0.52, 150_000),
)


def space() -> SearchSpace:
    """Four layers of four options; the last matters only if the third is not the first option."""
    layers = [Decision(OPTIONS, f"layer{i}") for i in range(4)]
    ranks = {layer: (0, 1, 2, 3) for layer in layers}
    return SearchSpace(
        layers, uses={layers[3]: [((layers[2], frozenset({1, 2, 3})),)]}, ranks=ranks
    )


def score(arch: str, accuracy: float, macs: int) -> SearchLine:
    return SearchLine(
        generation=0,
        role="candidate",
        arch=arch,
        proxy_score=accuracy,
        proxy_loss=1.0,
        macs=macs,
        params=macs // 20,
        weights_version=0,
        calibration="",
        validation_images=0,
        weights="",
        images_forwarded=0,
    )


def winner(budget: str, arch: str, **choices: object) -> WinnerRecord:
    return WinnerRecord(
        budget=budget,
        arch=arch,
        choices=choices,
        macs=1,
        params=1,
        latency_ms=1.0,
        proxy_score=0.5,
        proxy_loss=1.0,
        test_score=0.5,
        test_loss=1.0,
        test_metrics={},
        files={},
    )


POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


def test_costs_are_looked_up_in_the_same_way_for_all_networks() -> None:
    line = score("0", 0.5, 60).model_copy(update={"costs": {"size": 7.0, "macs": 5.0}})
    assert [cost_of(line, name) for name in ("macs", "params", "size")] == [60, 3, 7.0]
    assert cost_of(line, "latency_ms") is None and cost_of(line, "energy") is None
    won = winner("macs<=1", "0")
    assert cost_of(won, "latency_ms") == 1.0 and cost_of(won, "size") is None


@given(POINTS)
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    scores = [score("0", accuracy / 6, macs) for macs, accuracy in points]
    drawn = [(p.macs, round(6 * p.proxy_score)) for p in derived.front(scores, BY_ACCURACY)]
    free = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)}
    assert drawn == sorted(free)


ERROR = run_folder.MetricRecord(name="MAE", higher_is_better=False, share=False)
BY_ERROR = run_folder.TaskRecord(name="regression", metric=ERROR, fitness="metric")
BY_LOSS = run_folder.TaskRecord(name="regression", metric=ERROR, fitness="loss")


@given(POINTS)
def test_the_front_of_an_error_is_that_of_low_ones(points: list[tuple[int, int]]) -> None:
    scores = [score("0", error / 6, macs) for macs, error in points]
    drawn = [(p.macs, round(6 * p.proxy_score)) for p in derived.front(scores, BY_ERROR)]
    free = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert drawn == sorted(free)


def test_by_the_loss_the_best_so_far_is_that_of_the_least_loss() -> None:
    losses = (0.9, 0.4, 0.6, 0.3)
    lines = [score("0", s, 1).model_copy(update={"proxy_loss": x}) for s, x in enumerate(losses)]
    assert derived.best_so_far(lines, None, BY_LOSS) == [(1, 0), (2, 1), (4, 3)]
    assert derived.best_so_far(lines, None, BY_ERROR) == [(1, 0)]


def test_the_latest_score_counts() -> None:
    lines = derived.latest([score(*own) for own in SCORES])
    assert [line.arch for line in lines] == [
        "0-0-1-0",
        "1-1-1-1",
        "3-1-2-0",
        "0-1-1-2",
        "3-3-0-0",
    ]
    assert lines[2].proxy_score == 0.55


def test_progress_counts_all_scores_but_only_those_within_a_limit_rise() -> None:
    lines = [score(*own) for own in SCORES]
    assert derived.best_so_far(lines, None, BY_ACCURACY) == [
        (1, 0.30),
        (2, 0.45),
        (4, 0.50),
        (5, 0.55),
    ]
    assert derived.best_so_far(lines, ("macs", 29_000), BY_ACCURACY) == [(1, 0.30), (4, 0.50)]
    assert derived.best_so_far(lines, ("macs", 1), BY_ACCURACY) == []


def test_shares_leave_out_decisions_that_do_not_matter() -> None:
    found = derived.shares(space(), [(0, 0, 0, 3), (1, 0, 2, 3), (1, 1, 2, 0)])
    assert found[0] == [1 / 3, 2 / 3, 0, 0]
    assert found[3] == [1 / 2, 0, 0, 1 / 2]  # not of the first: its third option hides the last
    assert derived.shares(space(), [(0, 0, 0, 3)])[3] == [0, 0, 0, 0]


def test_entropy_of_codes_is_a_share_of_the_largest() -> None:
    assert derived.entropy_share([0.0, 1.0]) == 0
    assert derived.entropy_share([0.25] * 4) == pytest.approx(1)
    assert derived.entropy_share([-1.0, 1.0, 0.0, 0.0]) == pytest.approx(1 / 2)  # 1 of 2 bits
    assert derived.entropy_share([0.0, 0.0]) == derived.entropy_share([1.0]) == 0
    nested = CodesLine(arch="0", macs=1, code=((1.0, 0.0), (0.5, 0.5)))
    assert derived.code_of(nested) == [0.75, 0.25]
    assert derived.code_of(CodesLine(arch="0", macs=1, code=(0.1, 0.9))) == [0.1, 0.9]


def test_one_network_may_win_several_budgets() -> None:
    won = (("macs<=15%", "0-1-1-2"), ("macs<=60%", "3-1-2-0"), ("params<=4K", "0-1-1-2"))
    found = derived.merged([winner(*own) for own in won])
    assert [(budgets, w.arch) for budgets, w in found] == [
        (["macs<=15%", "params<=4K"], "0-1-1-2"),
        (["macs<=60%"], "3-1-2-0"),
    ]


@given(st.lists(st.floats(0, 1), max_size=50), st.integers(2, 20))
def test_thinning_keeps_the_ends(values: list[float], most: int) -> None:
    rows = derived.chosen_rows(values, most)
    assert rows == sorted(set(rows)) and len(rows) == min(most, len(values))
    if values:
        kept = [values[i] for i in rows]
        assert (min(kept), max(kept)) == (min(values), max(values))


def test_pictures_show_chosen_options_and_leave_inactive_ones_hollow() -> None:
    column = blocks(space(), winner("", "3-1-0-0"))
    assert [b.option for b in column] == ["conv3", "conv1", "project", "project"]
    assert [b.active for b in column] == [True, True, True, False]
    assert column[0].size == 1 and column[2].size == 0
    parsed = Parsed(html_of(Picture("title <&>", winner("", "3-1-0-0"), column, "50 %")))
    assert parsed.count("span", class_="block") == 3
    assert parsed.count("span", class_="hollow") == 1
    assert parsed.count("ol", role="img") == 1
    assert "title <&>" in parsed.words and "not used" in parsed.words


def test_pictures_need_no_space() -> None:
    column = blocks(None, winner("", "0-1", a="x", b=3))
    assert [(b.name, b.option, b.active) for b in column] == [("a", "x", True), ("b", "3", True)]
