"""Pages hold what records say, and nothing of them is ever markup."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import plotly.graph_objects
import plotly.offline
import pytest
import report_samples as samples
from report_parsed import Parsed

import manyshot.report as report
from manyshot import records

NAMES = ("<b>bold</b>", "</script><script>alert(2)</script>", "sep3", "%{x} & <!--")


def page_of(folder: Path) -> Parsed:
    """The page of a folder, which is written atomically."""
    with pytest.MonkeyPatch.context() as patch:
        wrote: list[Path] = []
        patch.setattr(records, "wrote", wrote.append)
        path = report.write(folder)
    assert wrote == [path]
    assert path == folder / "report.html"
    return Parsed(path.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages without their megabytes of plotly; browsers get the whole."""
    monkeypatch.setattr(plotly.offline, "get_plotlyjs", lambda: "/* plotly */")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return samples.write_run(tmp_path / "run")


def trace(figure: dict[str, Any], name: str = "") -> dict[str, Any]:
    [found] = [t for t in figure["data"] if t.get("name", "") == name]
    return found


def test_a_run_has_all_its_figures(run: Path) -> None:
    page = page_of(run)
    assert list(page.figures) == [
        "Cost against accuracy",
        "Search progress",
        "First generation",
        "Last generation",
        "Watched architectures, before and after",
        "Loss of shifting",
        "Variety of proposals",
        "Training loss",
        "Learning rate",
        "Images per second",
        "Entropy of codes",
        "Spread of codes",
        "Distance between copies",
        "Share of each copy of the weights in each path",
        "Entropy of the code of each path",
        "Probability of target costs over time",
        "Steps trained per target",
        "How far the generator misses its targets",
        "Images forwarded by stage",
    ]
    assert page.count("svg", role="img") == 2  # one network won two budgets
    assert page.count("a", href="subnets/0-1-1-2.pt2") == 2


def test_figures_of_a_run_hold_the_numbers_of_its_records(run: Path) -> None:
    figures = page_of(run).figures
    trade = figures["Cost against accuracy"]
    scored = trace(trade, "scored")
    assert dict(zip(scored["text"], scored["y"], strict=True))["3-1-2-0"] == 0.55
    assert trace(trade, "Pareto front")["x"] == [20_000, 29_000, 90_000]
    assert [s["x0"] for s in trade["layout"]["shapes"]] == [30_000, 120_000]  # 15, 60 % of 200 K
    stars = [t for t in trade["data"] if t.get("marker", {}).get("symbol") == "star"]
    assert [(t["x"], t["y"]) for t in stars] == [([29_000], [0.50]), ([90_000], [0.55])]
    loss = figures["Training loss"]["data"]
    assert loss[0]["x"][-1] == 25_600 and loss[0]["y"][-1] == pytest.approx(1.3)
    assert loss[1]["y"][-1] == pytest.approx(1.6)
    heat = figures["Probability of target costs over time"]["data"][0]
    assert heat["x"] == [50, 100, 150, 200] and heat["y"] == [7e5, 1.1e6, 1.5e6]
    assert [row[-1] for row in heat["z"]] == pytest.approx([1 / 3 - 0.2, 1 / 3, 1 / 3 + 0.2])
    watched = trace(figures["Watched architectures, before and after"], "watched")
    assert watched["x"] == pytest.approx([0.3, 0.35, 0.4])
    assert watched["y"] == pytest.approx([0.265, 0.385, 0.505])
    spent = figures["Images forwarded by stage"]["data"][0]
    assert dict(zip(spent["y"], spent["x"], strict=True)) == {
        "training": 25_600,
        "scoring": 4692,
        "shifting": 15_360,
    }


def test_progress_stays_within_each_budget(run: Path) -> None:
    progress = page_of(run).figures["Search progress"]
    curves = {t["name"].split("\u00a0")[-1]: t for t in progress["data"][1:]}
    assert curves["15%"]["y"][-1] == 0.50 and curves["60%"]["y"][-1] == 0.55
    assert curves["15%"]["x"][-1] == 6


def test_limits_that_no_record_tells_are_said_to_be_missing(run: Path) -> None:
    record = samples.space()
    del record["largest"]
    samples.write_json(run / "space.json", record)
    page = page_of(run)
    assert page.figures["Cost against accuracy"]["layout"]["shapes"] == []
    assert "the cost of the largest network is not on record" in page.words


def test_scores_taken_after_the_search_are_no_progress_but_the_latest(run: Path) -> None:
    last = {**samples.scores()[0], "role": "final", "proxy_accuracy": 0.58}
    samples.write_lines(run / "search.jsonl", [*samples.scores(), last])
    figures = page_of(run).figures
    assert max(trace(figures["Search progress"], "scored")["y"]) == 0.55
    scored = trace(figures["Cost against accuracy"], "scored")
    assert dict(zip(scored["text"], scored["y"], strict=True))["0-0-1-0"] == 0.58


def test_codes_are_sorted_by_cost(run: Path) -> None:
    samples.write_lines(run / "codes.jsonl", samples.codes()[::-1])
    figures = page_of(run).figures
    [heat] = figures["Share of each copy of the weights in each path"]["data"]
    assert heat["z"][0] == pytest.approx([i / 12 for i in range(12)])
    [entropy] = figures["Entropy of the code of each path"]["data"]
    assert entropy["y"][6] == pytest.approx(0.6931, abs=1e-4) and entropy["y"][0] == 0


def test_undefined_is_written_out(run: Path) -> None:
    page = page_of(run)
    start = page.words.index("Kendall's τ, before with after")
    assert "undefined" in page.words[start : start + 120]


@pytest.mark.parametrize("name", [samples.EVIL, "</title><img src=x onerror=alert(1)>", "a & b"])
def test_the_name_of_a_run_is_text(tmp_path: Path, name: str) -> None:
    folder = samples.write_run(tmp_path / "run", name=name)
    page = page_of(folder)
    plain = page_of(samples.write_run(tmp_path / "plain"))
    assert name in page.words
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


def test_options_are_text_in_pages_pictures_and_figures(tmp_path: Path) -> None:
    folder = samples.write_run(tmp_path / "run", options=NAMES)
    page = page_of(folder)
    plain = page_of(samples.write_run(tmp_path / "plain"))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    shown = {word for t in page.figures["First generation"]["data"] for word in t["text"]}
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown  # plotly would read tags
    assert not any("<" in word for word in shown)


def test_every_text_of_every_record_is_text(tmp_path: Path) -> None:
    """All strings of a comparison and a rank that people choose are replaced by markup."""
    chosen = {"name", "source", "run", "method", "folder", "why", "sentence", "first", "second"}

    def evil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: evil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [evil(v, key) for v in value]
        return f"{value}{samples.EVIL}" if isinstance(value, str) and key in chosen else value

    for file, record in (("rank.json", samples.ranking()), ("compare.json", samples.comparison())):
        baselines = {"baselines": record["baselines"]} if "baselines" in record else {}
        for name, content in (("plain", record), ("evil", {**evil(record), **baselines})):
            samples.write_json(tmp_path / name / file, content)
        plain, page = page_of(tmp_path / "plain"), page_of(tmp_path / "evil")
        assert samples.EVIL in page.words
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
        assert samples.EVIL not in json.dumps(list(page.figures.values()))
        (tmp_path / "plain" / file).unlink()
        (tmp_path / "evil" / file).unlink()


def test_nothing_is_loaded_from_anywhere(run: Path) -> None:
    page = page_of(run)
    assert not [own for _, own in page.elements if own.get("src")]
    links = [own["href"] for _, own in page.elements if own.get("href")]
    assert links and not [link for link in links if not link.startswith(("#", "subnets/"))]
    [policy] = [o["content"] for t, o in page.elements if o.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_a_torn_run_gets_a_page_of_what_is_there(run: Path) -> None:
    (run / "result.json").unlink()
    with (run / "search.jsonl").open("a") as file:
        file.write('{"schema": 1, "generation": 1, "arch"')
    page = page_of(run)
    assert "This run is not finished" in page.words
    assert len(trace(page.figures["Cost against accuracy"], "scored")["x"]) == 5
    assert "Images forwarded by stage" not in page.figures


@pytest.mark.parametrize("name", ["train", "search"])
def test_empty_records_make_no_empty_figures(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.jsonl").touch()
    page = page_of(tmp_path)
    assert page.figures == {} and "is not finished" in page.words
    assert page.count("script") == 0


def test_every_record_may_be_missing_alone(run: Path) -> None:
    for path in sorted(run.glob("*.json*")) + [run / "recipe.toml"]:
        content = path.read_bytes()
        path.unlink()
        page_of(run)
        path.write_bytes(content)


def test_a_missing_space_is_said(run: Path) -> None:
    (run / "space.json").unlink()
    page = page_of(run)
    assert "which this folder lacks" in page.words and "First generation" not in page.figures
    assert page.count("svg", role="img") == 2  # by the names of choices


def test_a_budget_without_a_winner_is_said(run: Path) -> None:
    result = samples.result()
    del result["winners"][1]
    samples.write_json(run / "result.json", result)
    assert "No scored network is within macs\u00a0≤\u00a060%" in page_of(run).words


def test_a_run_shows_its_ranks(run: Path) -> None:
    samples.write_json(run / "rank" / "tiny" / "rank.json", samples.ranking())
    page = page_of(run)
    assert "Ranking against tiny-digits" in page.words
    assert len(page.figures["Proxy accuracy against truth"]["data"][0]["x"]) == 120


def test_a_rank_holds_its_numbers(tmp_path: Path) -> None:
    record = samples.ranking()
    samples.write_json(tmp_path / "rank.json", record)
    page = page_of(tmp_path)
    points = page.figures["Proxy accuracy against truth"]["data"][0]
    assert points["y"] == [p["truth"] for p in record["points"]]
    assert points["error_y"]["array"] == [0.012] * 120
    bars = page.figures["Global"]
    assert bars["data"][0]["x"] == [0.612, 0.588, 0.417, 0.433, 0.391]
    assert bars["data"][0]["error_x"]["array"] == pytest.approx([0.04] * 5)
    band, ceiling = bars["layout"]["shapes"]
    assert (band["x0"], band["x1"]) == (-0.124, 0.124) and ceiling["x0"] == 0.871
    unknown = page.figures["Local by prediction"]
    assert unknown["data"][0]["x"][3] is None and unknown["layout"]["shapes"] == []
    assert [a["y"] for a in unknown["layout"]["annotations"]] == ["MACs"]
    assert "0.612 [0.57, 0.65]" in page.words and "17, 3, 1" in page.words
    assert "3.0 times fewer MACs" in page.words
    assert "0.195" in page.words  # with recalibration minus without


def test_a_rank_of_many_is_thinned_out_and_says_so(tmp_path: Path) -> None:
    samples.write_json(tmp_path / "rank.json", samples.ranking(4100))
    page = page_of(tmp_path)
    points = page.figures["Proxy accuracy against truth"]["data"][0]
    assert len(points["x"]) == 4000 and "4,000 of 4,100" in page.words
    assert "error_y" not in points


def test_a_comparison_holds_its_numbers(tmp_path: Path) -> None:
    samples.write_json(tmp_path / "compare.json", samples.comparison())
    page = page_of(tmp_path)
    figure = page.figures["Tau global"]
    means, seeds = figure["data"]
    assert means["x"] == [0.61, 0.65] and means["text"] == ["one-shot", "k-shot"]
    assert means["error_x"]["array"] == pytest.approx([0.07 * 0.61, 0.07 * 0.65])
    assert seeds["x"] == pytest.approx(
        [0.61 * f for f in (0.97, 1, 1.03)] + [0.65 * f for f in (0.97, 1, 1.03)]
    )
    names = ["one-shot", "k-shot", "supernet shifting"]
    assert [a["text"] for a in figure["layout"]["annotations"]] == [*names, "undefined"]
    assert [s["x0"] for s in figure["layout"]["shapes"]] == [0.433, 0.871]
    assert "one-shot against k-shot over 3 seeds: better." in page.words
    assert "Not at equal cost" in page.words and "one-shot and supernet shifting" in page.words
    assert "one-shot and k-shot" not in page.words


def test_a_comparison_at_equal_cost_warns_of_nothing(tmp_path: Path) -> None:
    record = samples.comparison()
    del record["pairs"][1], record["baselines"]
    samples.write_json(tmp_path / "compare.json", {**record, "truth": None})
    page = page_of(tmp_path)
    assert page.count("p", class_="warning") == 0 and "no truth" in page.words


def test_plotly_accepts_every_figure(run: Path, tmp_path: Path) -> None:
    samples.write_json(run / "rank" / "tiny" / "rank.json", samples.ranking())
    samples.write_json(tmp_path / "c" / "compare.json", samples.comparison())
    figures = [*page_of(run).figures.values(), *page_of(tmp_path / "c").figures.values()]
    assert len(figures) > 25

    def painted(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: painted(v) for k, v in value.items()}
        if isinstance(value, list):
            return [painted(v) for v in value]
        return "#123456" if isinstance(value, str) and value.startswith("--") else value

    for figure in figures:
        plotly.graph_objects.Figure(**painted(figure))


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(ValueError, match=r"result.json.*rank.json.*compare.json") as caught:
        report.write(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_damaged_record_is_named_and_the_old_page_stays(run: Path) -> None:
    report.write(run)
    before = (run / "report.html").read_bytes()
    (run / "result.json").write_text('{"schema": 1,')
    with pytest.raises(records.RecordError, match="result.json"):
        report.write(run)
    assert (run / "report.html").read_bytes() == before


def test_a_page_is_a_function_of_its_records(run: Path) -> None:
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


def test_reports_need_no_torch(run: Path) -> None:
    code = f"import sys, manyshot.report as r; r.write({str(run)!r}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ast.literal_eval(done.stdout)
    assert "torch" not in modules and "plotly.offline" in modules
