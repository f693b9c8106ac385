"""Pages hold what records say, and nothing of them is ever markup."""

import ast
import copy
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest
from report_folders import (
    EVIL,
    copy_of,
    many_points,
    named,
    read_json,
    read_lines,
    undefined_macs,
    with_options,
    write_json,
    write_lines,
)
from report_parsed import Parsed

import manyshot.report as report
from manyshot import records
from manyshot.report import plotly_js
from manyshot.report import rank as rank_page
from manyshot.run_folder import Comparison
from manyshot.tables import compare as tables

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
    """Pages without most of their bytes, the script that draws; browsers get the whole."""
    monkeypatch.setattr(plotly_js, "packed", lambda: "")


@pytest.fixture
def run(everything: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with every record there is but a rank."""
    return copy_of(everything, tmp_path / "run")


def trace(figure: dict[str, Any], name: str = "") -> dict[str, Any]:
    [found] = [t for t in figure["data"] if t.get("name", "") == name]
    return found


def edited(path: Path, **changes: Any) -> None:
    write_json(path, {**read_json(path), **changes})


def test_a_run_has_all_its_figures(run: Path) -> None:
    page = page_of(run)
    assert list(page.figures) == [
        "Cost against accuracy on test images",
        "Accuracy by class",
        "Which class is taken for which",
        "Cost against accuracy",
        "Search progress",
        "First generation",
        "Last generation",
        "Best 5 scored",
        "Watched architectures, before and after",
        "Loss of shifting",
        "Variety of proposals",
        "Training loss",
        "Learning rate",
        "Images per second",
        "Entropy of codes",
        "Spread of codes",
        "Effective sharing",
        "Distance between copies",
        "Share of each copy of the weights in each path",
        "Entropy of the code of each path",
        "Probability of target costs over time",
        "Signal to noise of the updates",
        "Gain per draw of each target",
        "Steps trained per target",
        "How far the generator misses its targets",
        "How varied the generator's draws are",
        "Images forwarded by stage",
    ]
    winners = read_json(run / "result.json")["winners"]
    networks = {winner["arch"] for winner in winners}
    assert len(networks) < len(winners) == 3, "else no network has won two budgets"
    assert page.count("ol", role="img") == len(networks)
    for arch in networks:
        assert page.count("a", href=f"subnets/{arch}.json") == [
            winner["arch"] for winner in winners
        ].count(arch)


def test_figures_of_a_search_hold_the_numbers_of_its_records(run: Path) -> None:
    figures, result = page_of(run).figures, read_json(run / "result.json")
    trade, lines = figures["Cost against accuracy"], read_lines(run / "search.jsonl")
    scored = trace(trade, "scored")
    last = {line["arch"]: (line["macs"], line["proxy_score"]) for line in lines}
    drawn = zip(scored["text"], zip(scored["x"], scored["y"], strict=True), strict=True)
    assert dict(drawn) == last
    best = trace(trade, "Pareto front")
    for x, y in zip(best["x"], best["y"], strict=True):
        assert not [p for p in last.values() if p != (x, y) and p[0] <= x and p[1] >= y]
    largest = read_json(run / "space.json")["largest"]["macs"]
    expected = [0.2 * largest, 0.9 * largest]  # the third budget is on parameters
    assert [shape["x0"] for shape in trade["layout"]["shapes"]] == pytest.approx(expected)
    stars = [t for t in trade["data"] if t.get("marker", {}).get("symbol") == "star"]
    won = {winner["arch"]: winner for winner in result["winners"]}.values()
    assert [(t["x"], t["y"]) for t in stars] == [([w["macs"]], [w["proxy_score"]]) for w in won]
    watched = trace(figures["Watched architectures, before and after"], "watched")
    order = read_lines(run / "order.jsonl")
    for axis, role in (("x", "before"), ("y", "after")):
        scores = {s["arch"]: s["proxy_score"] for s in order if s["role"] == role}
        assert dict(zip(watched["text"], watched[axis], strict=True)) == scores
    generations = read_lines(run / "shifting.jsonl")
    variety = figures["Variety of proposals"]
    assert variety["data"][0]["y"] == pytest.approx(
        [np.mean(line["proposed"]["entropy_nats"]) for line in generations]
    )
    assert variety["layout"]["yaxis"]["title"]["text"] == "mean entropy (nats)"
    spent = figures["Images forwarded by stage"]["data"][0]
    names = {"train": "training", "search": "scoring", "order": "watched networks"}
    names |= {"probe": "probes of the sampler"}
    assert dict(zip(spent["y"], spent["x"], strict=True)) == {
        names.get(stage, stage): images for stage, images in result["images_forwarded"].items()
    }


def as_view(figure: dict[str, Any], name: str, buttons: list[str]) -> dict[str, dict[str, Any]]:
    """The traces of a figure by their names when a button is pressed."""
    changes = figure["views"][buttons.index(name)]["traces"]
    drawn = [{**t, **c} for t, c in zip(figure["data"], changes, strict=True)]
    return {t["name"]: t for t in drawn}


def test_a_button_for_each_cost_and_all_limits(run: Path) -> None:
    kinds = ("largest", "random")
    result = read_json(run / "result.json")
    costs = {"size": 3500.0}
    controls = [
        network(f"{i}-0-0-0", 0.5 + i / 10, 0.4, 0.9, budget="macs<=20%", kind=kind, costs=costs)
        for i, kind in enumerate(kinds)
    ]
    edited(run / "result.json", controls=controls)
    text = (run / "recipe.toml").read_text().replace('"params<=90%"', '"params<=90% and size<=7KB"')
    assert "size<=7KB" in text
    (run / "recipe.toml").write_text(text)
    page = page_of(run)
    lines = {line["arch"]: line for line in read_lines(run / "search.jsonl")}
    buttons = ["MACs", "Parameters", "Size", "Latency"]
    figure = page.figures["Cost against accuracy"]
    assert len(figure["views"]) == len(buttons)
    assert all(word in page.words for word in buttons)
    by_params = as_view(figure, "Parameters", buttons)
    scored = by_params["scored"]
    assert dict(zip(scored["text"], scored["x"], strict=True)) == {
        arch: line["params"] for arch, line in lines.items()
    }
    best = by_params["Pareto front"]
    points = {(line["params"], line["proxy_score"]) for line in lines.values()}
    assert set(zip(best["x"], best["y"], strict=True)) <= points
    for x, y in zip(best["x"], best["y"], strict=True):
        assert not [p for p in points if p != (x, y) and p[0] <= x and p[1] >= y]
    largest = read_json(run / "space.json")["largest"]
    limits = [[s["x0"] for s in view["layout"]["shapes"]] for view in figure["views"]]
    assert limits[0] == pytest.approx([0.2 * largest["macs"], 0.9 * largest["macs"]])
    assert limits[1:] == [[pytest.approx(0.9 * largest["params"])], [7000], []]
    by_latency = as_view(figure, "Latency", buttons)
    assert by_latency["scored"]["x"] == [None] * len(lines)  # there is no table of latencies
    assert by_latency["largest within a budget"]["x"] == [1.26]
    assert as_view(figure, "Size", buttons)["random within a budget"]["x"] == [3500]
    winner = result["winners"][0]
    star = next(t for name, t in by_latency.items() if name.startswith("winner, macs"))
    assert (star["x"], star["y"]) == ([winner["latency_ms"]], [winner["proxy_score"]])
    on_test = as_view(page.figures["Cost against accuracy on test images"], "MACs", buttons)
    assert on_test["random within a budget"]["y"] == [0.6]
    bars = on_test["random within a budget"]["error_y"]
    assert bars["array"] == pytest.approx([0.3]) and bars["arrayminus"] == pytest.approx([0.2])


def test_figures_of_training_hold_the_numbers_of_its_records(run: Path) -> None:
    figures, lines = page_of(run).figures, read_lines(run / "train.jsonl")
    for title, keys in (
        ("Training loss", ("loss", "code_loss")),
        ("Learning rate", ("lr",)),
        ("Entropy of codes", ("code_entropy_share",)),
        ("Spread of codes", ("code_spread",)),
        ("Effective sharing", ("effective_sharing",)),
        ("Distance between copies", ("slice_distance",)),
    ):
        for key, drawn in zip(keys, figures[title]["data"], strict=True):
            there = [line for line in lines if key in line]
            assert there, f"the run has no {key}"
            assert drawn["x"] == [line["images"] for line in there]
            assert drawn["y"] == [line[key] for line in there]
    reports = read_lines(run / "sampler.jsonl")
    assert len(reports) > 2
    heat = figures["Probability of target costs over time"]["data"][0]
    assert heat["x"] == [line["step"] for line in reports]
    assert heat["y"] == reports[0]["targets"]
    assert np.array(heat["z"]).T.tolist() == [line["probabilities"] for line in reports]
    assert figures["Steps trained per target"]["data"][0]["y"] == reports[-1]["counts"]
    told = [line for line in reports if line.get("signal_to_noise") is not None]
    [ratio] = figures["Signal to noise of the updates"]["data"]
    assert ratio["x"] == [line["step"] for line in told]
    assert ratio["y"] == [line["signal_to_noise"] for line in told]
    assert ratio["text"] == [line["verdict"] for line in told]
    [gained] = figures["Gain per draw of each target"]["data"]
    assert gained["y"] == told[-1]["gain"]
    assert gained["error_y"]["array"] == pytest.approx(told[-1]["standard_error"])
    missed = figures["How far the generator misses its targets"]
    assert missed["data"][0]["y"] == reports[-1]["error_grid_steps"]
    varied, whole = figures["How varied the generator's draws are"]["data"]
    assert varied["y"] == reports[-1]["entropy_nats"]
    assert [text.split()[0] for text in varied["text"]] == list(map(str, reports[-1]["distinct"]))
    assert whole["y"] == reports[-1]["bin_entropy_nats"]


def test_entropies_of_codes_are_shares_of_the_largest_and_say_so(run: Path) -> None:
    figures = page_of(run).figures
    for title in ("Entropy of codes", "Entropy of the code of each path"):
        words = figures[title]["layout"]["yaxis"]["title"]["text"]
        assert "share" in words and "nats" not in words
    lines = read_lines(run / "codes.jsonl")
    code_NK = np.array([line["code"] for line in lines])
    share_NK = code_NK / code_NK.sum(1, keepdims=True)
    expected = -(share_NK * np.log2(share_NK)).sum(1) / np.log2(code_NK.shape[1])
    [drawn] = figures["Entropy of the code of each path"]["data"]
    assert sorted(drawn["y"]) == pytest.approx(sorted(expected))


def test_codes_are_sorted_by_cost(run: Path) -> None:
    lines = read_lines(run / "codes.jsonl")
    assert len({line["macs"] for line in lines}) > 1
    write_lines(run / "codes.jsonl", lines[::-1])
    [heat] = page_of(run).figures["Share of each copy of the weights in each path"]["data"]
    ordered = sorted(lines, key=lambda line: (line["macs"], line["arch"]))
    assert np.array(heat["z"]).T.tolist() == [line["code"] for line in ordered]


def test_progress_stays_within_each_budget(run: Path) -> None:
    progress = page_of(run).figures["Search progress"]
    curves = {t["name"].split("\u00a0")[-1]: t for t in progress["data"][1:] if "macs" in t["name"]}
    largest = read_json(run / "space.json")["largest"]["macs"]
    proposed = [s for s in read_lines(run / "search.jsonl") if s["role"] != "final"]
    for percent in (20, 90):
        within = [s for s in proposed if s["macs"] <= percent / 100 * largest]
        curve = curves[f"{percent}%"]
        assert curve["y"][-1] == max(s["proxy_score"] for s in within)
        assert curve["x"][-1] == len(proposed)
        assert curve["y"] == sorted(curve["y"])


def test_limits_that_no_record_tells_are_said_to_be_missing(run: Path) -> None:
    edited(run / "space.json", largest={})
    page = page_of(run)
    assert page.figures["Cost against accuracy"]["layout"]["shapes"] == []
    assert "the cost of the largest network is not on record" in page.words


def test_scores_taken_after_the_search_are_no_progress_but_the_latest(run: Path) -> None:
    lines = read_lines(run / "search.jsonl")
    assert {line["role"] for line in lines} == {"candidate", "elite", "final"}
    before = [line["proxy_score"] for line in lines if line["role"] != "final"]
    last = lines[-1]
    assert last["role"] == "final"
    write_lines(run / "search.jsonl", [*lines[:-1], {**last, "proxy_score": 0.99}])
    figures = page_of(run).figures
    assert trace(figures["Search progress"], "scored")["y"] == before
    scored = trace(figures["Cost against accuracy"], "scored")
    assert dict(zip(scored["text"], scored["y"], strict=True))[last["arch"]] == 0.99


def test_undefined_is_written_out(run: Path) -> None:
    order = read_json(run / "result.json")["order"]
    order["global"]["tau_before_after"] = None
    edited(run / "result.json", order=order)
    page = page_of(run)
    start = page.words.index("Kendall's τ between")
    assert "undefined" in page.words[start : start + 120]


@pytest.mark.parametrize("name", [EVIL, "</title><img src=x onerror=alert(1)>", "a & b"])
def test_the_name_of_a_run_is_text(everything: Path, tmp_path: Path, name: str) -> None:
    page = page_of(named(copy_of(everything, tmp_path / "run"), name))
    plain = page_of(named(copy_of(everything, tmp_path / "plain"), "plain"))
    assert name in page.words
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]


def test_options_are_text_in_pages_pictures_and_figures(run: Path, tmp_path: Path) -> None:
    plain = page_of(with_options(copy_of(run, tmp_path / "plain"), "a", "b", "c", "d"))
    page = page_of(with_options(run, *NAMES))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    shown = {word for t in page.figures["First generation"]["data"] for word in t["text"]}
    assert "&lt;b&gt;bold&lt;/b&gt;" in shown  # plotly would read tags
    assert not any("<" in word for word in shown)


def test_every_text_of_every_record_is_text(
    ranking: dict[str, Any], comparison: dict[str, Any], tmp_path: Path
) -> None:
    """All strings of a comparison and a rank that people choose are replaced by markup."""
    chosen = {"name", "source", "run", "method", "folder", "why", "sentence", "first", "second"}
    chosen |= {"reference"}  # which is one of the methods

    def evil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: evil(v, k) for k, v in value.items()}
        if isinstance(value, list):
            return [evil(v, key) for v in value]
        return f"{value}{EVIL}" if isinstance(value, str) and key in chosen else value

    for file, record in (("rank.json", ranking), ("compare.json", comparison)):
        baselines = {"baselines": record["baselines"]} if "baselines" in record else {}
        for name, content in (("plain", record), ("evil", {**evil(record), **baselines})):
            write_json(tmp_path / name / file, content)
        plain, page = page_of(tmp_path / "plain"), page_of(tmp_path / "evil")
        assert EVIL in page.words
        assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
        assert EVIL not in json.dumps(list(page.figures.values()))
        (tmp_path / "plain" / file).unlink()
        (tmp_path / "evil" / file).unlink()


def test_nothing_is_loaded_from_anywhere(run: Path) -> None:
    page = page_of(run)
    images = [own["src"] for _, own in page.elements if own.get("src")]
    assert images and all(i is not None and i.startswith("data:image/png;base64,") for i in images)
    links = [own["href"] for _, own in page.elements if own.get("href")]
    assert links and not [link for link in links if not link.startswith(("#", "subnets/"))]
    [policy] = [o["content"] for t, o in page.elements if o.get("http-equiv")]
    assert policy is not None and policy.startswith("default-src 'none'")


def test_a_torn_run_gets_a_page_of_what_is_there(run: Path) -> None:
    (run / "result.json").unlink()
    lines = read_lines(run / "search.jsonl")
    with (run / "search.jsonl").open("a") as file:
        file.write('{"schema": 1, "generation": 1, "arch"')
    page = page_of(run)
    assert "This run is not finished" in page.words
    scored = trace(page.figures["Cost against accuracy"], "scored")
    assert len(scored["x"]) == len({line["arch"] for line in lines})
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
    networks = {winner["arch"] for winner in read_json(run / "result.json")["winners"]}
    assert page.count("ol", role="img") == len(networks)  # by the names of choices


def test_a_budget_without_a_winner_is_said(run: Path) -> None:
    edited(run / "result.json", winners=read_json(run / "result.json")["winners"][:1])
    words = page_of(run).words
    assert "No scored network is within macs\u00a0≤\u00a090% and params\u00a0≤\u00a090%" in words


def test_a_run_shows_its_ranks(compared_runs: list[Path], ranking: dict[str, Any], tmp_path: Path):
    page = page_of(copy_of(compared_runs[0], tmp_path / "run"))
    assert "Ranking against made" in page.words
    drawn = page.figures["Proxy accuracy against truth"]["data"][0]
    assert drawn["x"] == [point["proxy_score"] for point in ranking["points"]]


def reliable(value: float) -> dict[str, Any]:
    """The reliability of a truth."""
    return {
        "mean": {"value": value, "low": value - 0.1, "high": value + 0.05, "interval": "F"},
        "runs": 3.0, "one_run": value / 2, "between": 1.0, "within": 1.0, "needed": 12,
        "ceiling": 0.81,
    }  # fmt: skip


def test_a_rank_holds_its_numbers(ranking: dict[str, Any], tmp_path: Path) -> None:
    record = copy.deepcopy(ranking)
    first, *_, last = record["sets"]
    taus = {name: of["kendall"] for name, of in first["predictors"].items()}
    assert list(taus) == ["proxy", "proxy loss", "without recalibration", "macs", "params"]
    first["predictors"]["proxy"]["kendall"] = {"value": 0.612, "low": 0.57, "high": 0.65}
    undefined_macs(last)
    last["run_to_run"] = last["null_sd"] = last["reliability"] = None
    first["reliability"] = reliable(0.93)
    record["evaluation"] |= {"macs_executed": 3_000_000_000, "macs_plain": 9_000_000_000}
    write_json(tmp_path / "rank.json", record)
    page = page_of(tmp_path)
    drawn = page.figures["Proxy accuracy against truth"]["data"][0]
    assert drawn["y"] == [p["truth"] for p in record["points"]]
    assert drawn["error_y"]["array"] == [2 * p["error"] for p in record["points"]]
    bars = page.figures[first["name"].capitalize()]
    values = [taus[name]["value"] for name in list(taus)[1:]]
    assert bars["data"][0]["x"] == [0.612, *values]
    assert bars["data"][0]["error_x"]["array"][0] == pytest.approx(0.038)
    assert bars["data"][0]["error_x"]["arrayminus"][0] == pytest.approx(0.042)
    band, ceiling = bars["layout"]["shapes"]
    far = 2 * first["null_sd"]
    assert (band["x0"], band["x1"]) == (-far, far) and ceiling["x0"] == 0.81
    unknown = page.figures[last["name"].capitalize()]
    assert unknown["data"][0]["x"][3] is None and unknown["layout"]["shapes"] == []
    assert "MACs" in [a["y"] for a in unknown["layout"]["annotations"]]
    assert "The proxy orders these 21 architectures with tau 0.61" in page.words
    assert "0.612 [0.57, 0.65]" in page.words and "3.0 times fewer MACs" in page.words
    assert ", ".join(map(str, first["predictors"]["proxy"]["best_rank"].values())) in page.words


def test_a_rank_of_many_is_thinned_out_and_says_so(ranking: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "rank.json", many_points(ranking, 4100))
    page = page_of(tmp_path)
    points = page.figures["Proxy accuracy against truth"]["data"][0]
    assert len(points["x"]) == 4000 and "4,000 of 4,100" in page.words
    assert "error_y" not in points


def test_a_comparison_holds_its_numbers(comparison: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "compare.json", comparison)
    page = page_of(tmp_path)
    figure = page.figures["Tau global"]
    means, seeds = figure["data"]
    summaries = [method["metrics"]["tau global"] for method in comparison["methods"]]
    assert means["x"] == [summary["mean"] for summary in summaries]
    assert means["text"] == ["one", "two"]
    assert means["error_x"]["array"] == pytest.approx([s["high"] - s["mean"] for s in summaries])
    assert seeds["x"] == [run["metrics"]["tau global"] for run in comparison["runs"]]
    assert [a["text"] for a in figure["layout"]["annotations"]] == ["one", "two"]
    lines = [own["metrics"].get("tau global") for own in comparison["baselines"]]
    assert [s["x0"] for s in figure["layout"]["shapes"]] == lines and len(lines) == 3
    for pair in comparison["pairs"]:
        assert pair["sentence"].replace("<=", "\u00a0≤\u00a0") in page.words
    assert "Not at equal cost" in page.words and "one and two" in page.words


def test_a_comparison_shows_the_best_by_then_and_what_was_spent(
    comparison: dict[str, Any], tmp_path: Path
) -> None:
    record = copy.deepcopy(comparison)
    record["notes"] = ["Rank the runs again."]
    for i, run in enumerate(record["runs"]):
        run["anytime"] = [
            {"macs": 1000 * (i + 1), "seconds": 2.0, "score": 0.5},
            {"macs": 2000 * (i + 1), "seconds": None, "score": 0.5 + i / 10},
        ]
        macs = {"training": 10**6, "probes": 0, "search": 2000, "shifting": 0, "finishing": 0}
        macs["training"] = None if i == 3 else 10**6
        run["spent"] = {"weight_steps": 40, "macs": macs, "seconds": {"training": 3.0}}
        run["spent"]["missing"] = {"training": "not recorded"} if i == 3 else {}
    write_json(tmp_path / "compare.json", record)
    page = page_of(tmp_path)
    traces = page.figures["Best by compute"]["data"]
    assert [t["x"] for t in traces] == [[1000 * n, 2000 * n] for n in (1, 2, 3, 4)]
    assert [t["y"] for t in traces] == [[0.5, 0.5 + i / 10] for i in range(4)]
    assert [t["showlegend"] for t in traces] == [True, False, True, False]
    assert [t["x"] for t in page.figures["Best by time"]["data"]] == [[2.0]] * 4
    assert "All methods have equal weight steps, within 5 %." in page.words
    assert (
        "multiply-adds of training, probes and shifting is not known, as those of two" in page.words
    )
    assert "Training: not recorded." in page.words and "Rank the runs again." in page.words
    record["runs"][3]["spent"] = None  # of one of the two runs of a method
    write_json(tmp_path / "compare.json", record)
    assert "equal weight steps is not known, as those of two are not on record" in (
        page_of(tmp_path).words
    )
    for name, count in (record["families"] or {}).items():
        assert name in page.words and count


def test_seconds_stand_under_their_own_part_whatever_else_a_method_did(
    comparison: dict[str, Any],
) -> None:
    """Of methods whose runs did other things, in another order, or did not do one at all."""
    record = copy.deepcopy(comparison)
    first, second = ({"training": 3.0, "search": 7.0}, {"latency": 5.0, "search": 2.0})
    for run in record["runs"]:
        macs = dict.fromkeys(("training", "probes", "search", "shifting", "finishing"), 0)
        seconds = first if run["method"] == "one" else second
        run["spent"] = {"weight_steps": 40, "macs": macs, "seconds": seconds, "missing": {}}
    table = tables.spent(Comparison.model_validate_json(json.dumps(record)))
    titles = [title for title in table.head if title.startswith("Time of ")]
    assert {*titles} == {"Time of training", "Time of search", "Time of latency"}
    cells = [[row[title] for title in titles] for row in table.rows]
    shown = [dict(zip(titles, row, strict=True)) for row in cells]
    assert [row["Time of search"] for row in shown] == ["7\u202fs", "2\u202fs"]
    assert [row["Time of latency"] for row in shown] == ["undefined", "5\u202fs"]
    assert [list(row) for row in table.rows] == [table.head] * 2


def test_a_method_without_a_value_is_undefined(comparison: dict[str, Any], tmp_path: Path) -> None:
    record = copy.deepcopy(comparison)
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    record["methods"][1]["metrics"]["tau global"] = nothing
    for run in record["runs"][2:]:
        run["metrics"]["tau global"] = None
    write_json(tmp_path / "compare.json", record)
    figure = page_of(tmp_path).figures["Tau global"]
    assert len(figure["data"][0]["x"]) == 1 and len(figure["data"][1]["x"]) == 2
    words = [a["text"] for a in figure["layout"]["annotations"]]
    assert words == ["one", "two", "undefined"]


def test_a_comparison_at_equal_cost_warns_of_nothing(
    comparison: dict[str, Any], tmp_path: Path
) -> None:
    pairs = [{**pair, "equal_images": True} for pair in comparison["pairs"]]
    changes = {"pairs": pairs, "baselines": [], "truth": None}
    write_json(tmp_path / "compare.json", {**comparison, **changes})
    page = page_of(tmp_path)
    assert page.count("p", class_="warning") == 0 and "no truth" in page.words


def test_plotly_accepts_every_figure(
    run: Path, ranking: dict[str, Any], comparison: dict[str, Any], tmp_path: Path
) -> None:
    write_json(run / "rank" / "made" / "rank.json", ranking)
    write_json(tmp_path / "c" / "compare.json", comparison)
    figures = [*page_of(run).figures.values(), *page_of(tmp_path / "c").figures.values()]
    assert len(figures) > 25

    def painted(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: painted(v) for k, v in value.items()}
        if isinstance(value, list):
            return [painted(v) for v in value]
        return "#123456" if isinstance(value, str) and value.startswith("--") else value

    for figure in figures:
        views = figure.pop("views", [{"traces": [], "layout": figure["layout"]}])
        for view in views:
            changes = view["traces"] or [{}] * len(figure["data"])
            data = [{**t, **c} for t, c in zip(figure["data"], changes, strict=True)]
            plotly.graph_objects.Figure(**painted({"data": data, "layout": view["layout"]}))


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    with pytest.raises(ValueError, match=r"result.json.*rank.json.*compare.json") as caught:
        report.write(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("result.json", '{"schema": 1,', "result.json is not a record"),
        ("result.json", '{"schema": 2}', "result.json has no 'name'"),
        ("search.jsonl", '{"schema": 2, "arch": 5}\n', "search.jsonl, line 1 has "),
        ("train.jsonl", "[]\n", "train.jsonl, line 1 is not a record"),
        ("codes.jsonl", '{"schema": 1, "arch": "0", "macs": 1}\n', "line 1 has no 'code'"),
    ],
)
def test_a_damaged_record_is_named_and_the_old_page_stays(
    run: Path, name: str, text: str, said: str
) -> None:
    report.write(run)
    before = (run / "report.html").read_bytes()
    (run / name).write_text(text)
    with pytest.raises(records.RecordError, match=said):
        report.write(run)
    assert (run / "report.html").read_bytes() == before


def test_a_page_is_a_function_of_its_records(run: Path) -> None:
    first = report.write(run).read_bytes()
    assert report.write(run).read_bytes() == first


def test_reports_need_neither_torch_nor_the_package_plotly(run: Path) -> None:
    code = f"import sys, manyshot.report as r; r.write({str(run)!r}); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = ast.literal_eval(done.stdout)
    assert "jinja2" in modules and not {"torch", "plotly"} & set(modules)


def network(arch: str, score: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    """A finished network of a result."""
    costs = {"macs": 29_700, "params": 1_470, "latency_ms": 1.26}
    scores = {"proxy_score": 0.5, "proxy_loss": 1.0, "test_loss": 1.0, "test_metrics": {}}
    own = {"arch": arch, "test_score": score, "test_interval": [low, high]}
    return {**costs, **scores, **own, **more}


def told(folder: Path, **changes: Any) -> None:
    """Edits what the first winner predicts, of two classes that have names."""
    arch = read_json(folder / "result.json")["winners"][0]["arch"]
    for path in (folder / "subnets").glob("*.tested.json"):
        if path.name != f"{arch}.tested.json":
            path.unlink()
    edited(folder / "subnets" / f"{arch}.tested.json", **changes)
    space = read_json(folder / "space.json")
    space["images"]["class_names"] = [EVIL, "dog"]
    write_json(folder / "space.json", space)


def test_predictions_are_drawn_by_class_and_shown(run: Path) -> None:
    image = "data:image/png;base64,AAAA"
    dog = {"index": 7, "label": 0, "predicted": 1, "probability": 0.876, "image": image}
    told(
        run,
        class_images=[10, 40],
        class_right=[9, 20],
        confusion=[[9, 1], [20, 20]],
        right=[],
        wrong=[dog],
    )
    page = page_of(run)
    [bars] = page.figures["Accuracy by class"]["data"]
    assert bars["x"] == [0.5, 0.9] and bars["text"] == ["20 of 40", "9 of 10"]
    assert bars["y"] == ["dog", "…t&gt;alert(1)&lt;/script&gt;"]
    [heat] = page.figures["Which class is taken for which"]["data"]
    assert heat["text"] == [[9, 1], [20, 20]] and heat["z"] == [[0.9, 0.1], [0.5, 0.5]]
    assert page.count("img", src=image, alt="test image 7") == 1
    assert "dog, 88\u202f%" in page.words and f"it is {EVIL}" in page.words
    assert "Right" not in page.words


def test_many_classes_are_drawn_from_the_lowest_on_without_a_matrix(run: Path) -> None:
    of = list(range(1, 121))
    path = next((run / "subnets").glob("*.tested.json"))
    edited(path, class_images=[1000] * 120, class_right=of, right=[], wrong=[])
    record = read_json(path)
    record.pop("confusion")
    for other in (run / "subnets").glob("*.tested.json"):
        write_json(other, record)
    page = page_of(run)
    bars = page.figures["Accuracy by class"]["data"][0]
    assert bars["x"] == [n / 1000 for n in range(1, 31)] and bars["y"][0] == "0"
    assert "the lowest 30 of 120 classes" in page.words
    assert "Which class is taken for which" not in page.figures


def test_predictions_of_other_test_images_are_not_shown(run: Path) -> None:
    for path in (run / "subnets").glob("*.tested.json"):
        edited(path, tested_on="others")
    page = page_of(run)
    assert "Accuracy by class" not in page.figures and page.count("img") == 0


def test_a_page_says_how_files_are_used(run: Path) -> None:
    winners = read_json(run / "result.json")["winners"]
    files = (
        {"predict": "subnets/a.predict.py", "onnx": "subnets/a.onnx"},
        {"pt2": "subnets/b.pt2", "onnx": "subnets/b.onnx"},
        {"onnx": "subnets/c.onnx"},
    )
    archs = [line["arch"] for line in read_lines(run / "search.jsonl")]
    archs = list(dict.fromkeys(archs))[:3]
    changed = [
        {**winner, "arch": arch, "files": own}
        for winner, arch, own in zip(winners, archs, files, strict=True)
    ]
    edited(run / "result.json", winners=changed)
    page = page_of(run)
    codes = [word for word in page.text if "subnets/" in word and "\n" not in word.strip("\n")]
    assert codes == ["python subnets/a.predict.py photo.png another.jpg"]
    assert 'torch.export.load("subnets/b.pt2")' in page.words
    assert 'onnxruntime.InferenceSession("subnets/c.onnx")' in page.words
    assert "b.onnx" not in page.words
    [shape] = {tuple(read_json(run / "space.json")["images"]["image_shape"])}
    assert f"float32 (batch, {', '.join(map(str, shape))})" in page.words


def test_a_run_opens_with_a_sentence_per_budget(run: Path) -> None:
    arch = read_json(run / "result.json")["winners"][0]["arch"]
    rest = {"choices": {}, "files": {}}
    winners = [
        network(arch, 0.923, 0.912, 0.934, budget="latency_ms<=1.5", **rest),
        network(arch, 0.9, 0.89, 0.91, budget="macs<=15% and params<=2M", **rest),
    ]
    others = [
        network(arch, 0.923, 0.912, 0.934, budget="latency_ms<=1.5", kind="largest"),
        network("0-0", 0.5, 0.4, 0.6, budget="latency_ms<=1.5", kind="random"),
        network("0-0", 0.6, 0.5, 0.7, budget="macs<=15% and params<=2M", kind="random"),
        network("0-1", 0.8, 0.7, 0.9, budget="macs<=15% and params<=2M", kind="random"),
        network("1-1", 0.91, 0.9, 0.92, budget="macs<=15% and params<=2M", kind="largest"),
    ]
    edited(run / "result.json", winners=winners, controls=others)
    lines = read_lines(run / "finish.jsonl")
    write_lines(run / "finish.jsonl", [{**line, "test_images": 600} for line in lines])
    words = page_of(run).words.replace("\u202f", " ")
    assert (
        "Within 1.5 ms: accuracy 92.3 % (91.2–93.4) on 600 test images, 1.26 ms; the largest "
        "network within it is the same network and a random one has 50.0 % (40.0–60.0)."
    ) in words
    assert (
        "Within 15 % of the MACs of the largest network and 2 M parameters: accuracy 90.0 % "
        "(89.0–91.0) on 600 test images, 29.7 K MACs, 1.47 K parameters, 1.26 ms; the largest "
        "network within it has 91.0 % (90.0–92.0) and 2 random ones have 70.0 % on average."
    ) in words
    assert "Brackets hold 95 % intervals" in words
    assert words.index("Within 1.5 ms") < words.index("One supernet of")


def test_a_run_says_how_long_its_parts_took(run: Path) -> None:
    seconds = {"search": 40.0, "training": 723.2, "tests": 3.0, "finishing": 365.0}
    write_json(run / "seconds.json", {"schema": 1, "seconds": seconds})
    words = page_of(run).words.replace("\u202f", " ")
    assert (
        "It took 18 min 51 s: training 12 min 3 s, search 40 s, finishing 6 min 5 s, tests 3 s; "
        "starting Python and drawing the page are not counted. All commands that worked on this "
        "run count."
    ) in words
    (run / "seconds.json").unlink()
    assert "It took" not in page_of(run).words


@pytest.mark.parametrize(
    ("bounds", "worth", "said"),
    [
        ((0.3, 0.5), "good", "orders better than counting MACs (Kendall's τ +0.40, 95 % interval"),
        ((-0.1, 0.9), "doubtful", "is not distinguishable from counting MACs (Kendall's τ +0.40"),
        ((None, None), "unknown", "compares with counting MACs is not known"),
    ],
)
def test_a_rank_opens_with_what_the_order_is_worth(
    ranking: dict[str, Any],
    tmp_path: Path,
    bounds: tuple[float | None, float | None],
    worth: str,
    said: str,
) -> None:
    record = copy.deepcopy(ranking)
    predictors = record["sets"][0]["predictors"]
    low, high = bounds
    predictors["proxy"]["kendall"] = {"value": 0.6, "low": 0.5, "high": 0.7}
    predictors["macs"]["kendall"] = {"value": 0.2, "low": 0.1, "high": 0.3}
    predictors["proxy"]["beats"] = {"value": 0.4, "low": low, "high": high}
    predictors["proxy"]["beats_free"] = predictors["proxy"]["beats"]
    record["sets"][0]["best_free"] = "macs"
    record["sets"][0]["reliability"] = reliable(0.5)
    write_json(tmp_path / "rank.json", record)
    page = page_of(tmp_path)
    assert said not in page.words and page.count("div", class_="verdict unknown") == 1
    assert "This set cannot judge: 3 runs each" in page.words and "12 runs each" in page.words
    record["sets"][0]["reliability"] = reliable(0.93)
    write_json(tmp_path / "rank.json", record)
    page = page_of(tmp_path)
    words = page.words.replace("\u202f", " ")
    assert said in words and page.count("div", class_=f"verdict {worth}") == 1
    assert (
        "puts the better one first in about 80 % of cases, and counting MACs does in 60 %" in words
    )
    predictors["proxy"]["kendall"] = {"value": 0.1, "low": -0.2, "high": 0.4}
    write_json(tmp_path / "rank.json", record)
    page = page_of(tmp_path)
    assert "21 architectures are too few to tell the supernet's order from a random" in page.words
    assert page.count("div", class_="verdict doubtful") == 1


def test_a_comparison_opens_with_what_can_be_told_of_winners(
    comparison: dict[str, Any], tmp_path: Path
) -> None:
    record = copy.deepcopy(comparison)
    record["primary"] = None  # as in older records
    pairs = [p for p in record["pairs"] if p["metric"].startswith("finished ")]
    others = [p for p in record["pairs"] if not p["metric"].startswith(("finished ", "winner "))]
    assert pairs and others
    for verdict, worth in (("better", "good"), ("not distinguishable", "doubtful")):
        told = {**pairs[0], "verdict": verdict, "sentence": "one against two."}
        write_json(tmp_path / "compare.json", {**record, "pairs": [told, *others]})
        page = page_of(tmp_path)
        assert page.count("div", class_=f"verdict {worth}") == 1
        assert page.words.index("one against two.") < page.words.index("2 methods, 4 runs")
    untold = {**pairs[0], "verdict": "undefined", "difference": None, "low": None, "high": None}
    write_json(tmp_path / "compare.json", {**record, "pairs": [untold]})
    assert "cannot be told" in page_of(tmp_path).words


@pytest.mark.parametrize(
    ("verdict", "worth"),
    [
        ("better", "good"),
        ("not distinguishable", "doubtful"),
        ("too few seeds", "unknown"),
        ("cannot judge", "unknown"),
    ],
)
def test_a_comparison_opens_with_its_primary_metric(
    comparison: dict[str, Any], tmp_path: Path, verdict: str, worth: str
) -> None:
    record = copy.deepcopy(comparison)
    assert (record["primary"], record["reference"]) == ("tau global", "one")
    for pair in record["pairs"]:
        pair["verdict"] = verdict if pair["primary"] else "better"
        if pair["primary"]:
            pair["sentence"] = "one against two."
    write_json(tmp_path / "compare.json", record)
    page = page_of(tmp_path)
    assert page.count("div", class_=f"verdict {worth}") == 1
    assert "By tau global, the primary metric, against one:" in page.words
    assert page.words.index("one against two.") < page.words.index("2 methods, 4 runs")
    assert "Global: this set cannot judge" in page.words  # its truth is random


def test_baselines_that_have_no_value_are_on_the_page_of_a_rank() -> None:
    """As NASWOT of a network without ReLU: the page says why there is none."""
    evaluation = SimpleNamespace(
        method="one by one", architectures=1, images_forwarded=1, macs_executed=None,
        macs_plain=None, seconds=1.0,
    )  # fmt: skip
    truth = SimpleNamespace(name="t", source="s", runs=("a",), architectures=1)
    of = {"evaluation": evaluation, "truth": truth, "seed": 0, "weights": "w"}
    [_, bullets] = rank_page._evaluation(SimpleNamespace(**of, left_out={"naswot": "it has none"}))
    assert list(bullets.sentences) == ["There is no naswot: it has none."]
    assert len(rank_page._evaluation(SimpleNamespace(**of, left_out={}))) == 1
