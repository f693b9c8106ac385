"""Tables are made once: terminal, notebook and page show the same cells."""

import html
import io
import re

import pytest
from rich.console import Console

from manyshot.report import html_of
from manyshot.run_folder import CompareFolder, Ranking, Result, RunFolder
from manyshot.show import _drawn, compare_tables, rank_tables, survey_tables, winners_table
from manyshot.tables import compare, numbers, rank, run
from manyshot.tables.table import Table
from pipeline_runs import compare_runs


@pytest.fixture(scope="module")
def result(everything) -> Result:
    return RunFolder(everything).result()


@pytest.fixture(scope="module")
def ranking(compared_runs) -> Ranking:
    [ranked] = RunFolder(compared_runs[0]).ranks()
    return ranked.ranking()


def printed(*drawn, width: int = 160) -> str:
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(*drawn)
    return console.export_text()


def cells_of(table: Table) -> list[str]:
    return [cell for row in table.rows for cell in row.values() if isinstance(cell, str)]


def ascii_of(cell: str) -> str:
    """A cell as a terminal shows it, by the characters that the tests' records lead to."""
    for character, plain in (
        ("\u00a0≤\u00a0", "<="),
        ("\u202f", ""),
        ("\u00a0", " "),
        ("−", "-"),
        ("–", "-"),
    ):
        cell = cell.replace(character, plain)
    return cell


def test_columns_can_be_chosen() -> None:
    table = Table([{"a": "1", "b": "2", "c": "3"}, {"a": "4", "b": "5", "c": "6"}], ("a",))
    chosen = table.only("c", "a")
    assert chosen.head == ["c", "a"] and table.without("b").head == ["a", "c"]
    assert [list(row.values()) for row in chosen.rows] == [["3", "1"], ["6", "4"]]
    assert Table([], ()).only("a").head == []


def test_what_stands_above_and_below_a_table_begins_where_it_does() -> None:
    table = Table([{"a": "a cell that is wide enough for words around it"}], ("a",), note="a note")
    console = Console(record=True, width=60, file=io.StringIO())
    console.print(_drawn(table, "a title", "a caption"))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert [lines[0], *lines[-2:]] == ["a title", "a note", "a caption"]


def test_what_a_row_lacks_is_empty_and_the_rest_stays_under_its_title() -> None:
    """As methods of which one took time for something that the other never did."""
    table = Table([{"Method": "first", "a": "1"}, {"b": "2", "Method": "second"}], ("Method",))
    assert table.head == ["Method", "a", "b"]
    expected = [["first", "1", ""], ["second", "", "2"]]
    assert [list(row.values()) for row in table.cells()] == expected
    assert [row["b"] for row in table.only("b").rows] == ["", "2"]
    page = str(html_of(table))
    rows = [re.findall(r">([^<]*)</td>", row) for row in page.split("<tr>")[2:]]
    assert rows == expected
    shown = _drawn(table, "a title")
    columns = [[str(cell) for cell in column.cells] for column in shown.columns]
    assert columns == [["first", "second"], ["1", ""], ["", "2"]]


def test_winners_have_the_same_cells_everywhere(result, everything) -> None:
    table = run.winners(result)
    terminal = printed(winners_table(result, everything / "report.html"))
    page = html_of(table)
    assert len(table.rows) == len(result.winners) == 3
    for cell in cells_of(table):
        assert ascii_of(cell) in terminal
        assert cell in page
    for winner in result.winners:
        assert winner.budget in terminal
        assert f"{winner.test_score:.2%}" in terminal


def test_a_rank_has_the_same_cells_everywhere(ranking, tmp_path) -> None:
    terminal = printed(*rank_tables(ranking, tmp_path / "report.html"))
    for ranked in ranking.sets:
        table = rank.statistics(ranked, ranking)
        assert table.note in html.unescape(html_of(table))
        for cell in cells_of(table.only("Predictor", rank.TAU, "Regret")):
            assert ascii_of(cell) in terminal
        tau = ranked.predictors["proxy"].kendall.value
        assert f" {tau:.3f} " in terminal
    assert str(tmp_path / "report.html") in terminal.replace("\n", "")


def test_every_word_of_a_comparison_fits_a_terminal_of_ascii(compared_runs, tmp_path) -> None:
    compare_runs(compared_runs, tmp_path)
    comparison = CompareFolder(tmp_path).comparison()
    better = comparison.pairs[0].model_copy(update={"verdict": "better"})
    comparison = comparison.model_copy(update={"pairs": (better, *comparison.pairs[1:])})
    drawn = compare_tables(comparison, tmp_path / "report.html")
    terminal = printed(*drawn)
    assert re.sub("[─-╿]", "", terminal).isascii()
    for cell in cells_of(compare.pairs([better], comparison)):
        assert ascii_of(cell).lstrip("▲ ") in terminal
    assert f"{len(comparison.pairs) - 1} comparisons are not distinguishable" in terminal
    assert [own.name for own in comparison.baselines] == ["macs", "params", "ceiling"]
    for own in comparison.baselines:
        assert compare.BASELINES[own.name] in terminal
    assert "global: this set cannot judge" in terminal.lower().replace("\n", " ")


def test_baselines_without_a_value_have_no_row(compared_runs, tmp_path) -> None:
    compare_runs(compared_runs, tmp_path)
    comparison = CompareFolder(tmp_path).comparison()
    finished = [m for m in compare.metrics_of(comparison) if m.startswith("finished accuracy")]
    assert finished
    rows = compare.methods(comparison, finished).rows
    assert [row["Method"] for row in rows] == ["one", "two"]


def test_names_are_no_markup_in_the_terminal() -> None:
    survey = {
        "name": "[red]net",
        "size": 4,
        "decisions": [{"name": "[b]layer", "options": ["[/b]", "<i>"]}],
        "costs": {},
        "conversion": None,
    }
    terminal = printed(*survey_tables(survey))
    for name in ("[red]net", "[b]layer", "[/b], <i>"):
        assert name in terminal


@pytest.mark.parametrize(
    ("bounds", "is_share", "said"),
    [
        ((0.912, 0.934), True, "91.2–93.4"),
        ((-0.128, -0.062), True, "−12.8 to −6.2"),
        ((-0.5, 1.25), False, "−0.5 to 1.25"),
    ],
)
def test_bounds_below_zero_have_no_dash_between(bounds, is_share, said) -> None:
    assert numbers.bounds(bounds, is_share) == said
