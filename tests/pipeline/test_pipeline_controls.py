"""Controls and verdict of whole runs."""

import numpy as np
import pytest

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages.controls import choose_controls
from manyshot.pipeline.stages.score import Images
from pipeline_runs import lines, outcome, run, small

WITH = ("controls={largest = true, random = 2}", "export.formats=['json', 'pt2']")


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("controls") / "run"
    return run(small(*WITH), folder), folder


def test_every_budget_has_its_controls_within_it(controlled):
    result, _ = controlled
    ws = Workspace.build(small(*WITH))
    for limit in ws.limits():
        beside = [c for c in result["controls"] if c["budget"] == limit.name]
        assert sorted(c["kind"] for c in beside) == ["largest", "random", "random"]
        archs = [ws.net.space.from_text(c["arch"]) for c in beside]
        assert limit.satisfied(archs).all()
        costs = dict(zip((c["kind"] for c in beside), limit.costs(archs), strict=True))
        assert costs["largest"] == max(limit.costs(archs))


def test_proxy_scores_are_those_of_each_alone(controlled):
    result, folder = controlled
    images, net = Images(Workspace.build(small(*WITH))), ms.Run(folder).net
    look = {"calibration": images.calibration, "validation": images.validation}
    for control in result["controls"]:
        score = ms.evaluate.score(net, net.space.from_text(control["arch"]), **look)
        assert score.value == control["proxy_score"]


def test_they_are_finished_and_tested_as_winners_are_and_not_exported(controlled):
    result, folder = controlled
    won = {w["arch"] for w in result["winners"]}
    finished = {row["arch"]: row for row in lines(folder, "controls.jsonl")}
    assert set(finished) == {c["arch"] for c in result["controls"]} - won
    for arch, row in finished.items():
        assert row["files"] == {} and row["mode"] == "finetune"
        assert (folder / row["weights"]).exists()
        assert not (folder / "subnets" / f"{arch}.pt2").exists()
        module = ms.Run(folder).finished(tuple(map(int, arch.split("-"))))
        splits = ms.data.load("digits", validation=64, train_size=128, seed=1)
        test = ms.data.fixed(splits.test, None, 64, mean=splits.mean, std=splits.std, seed=0)
        score = ms.evaluate.score_module(module, test)
        assert score.value == pytest.approx(row["test_score"])
        assert row["test_images"] == len(splits.test)
        assert np.mean(row["test_parts"]) == pytest.approx(score.value, abs=0.01)


def test_the_verdict_is_of_what_is_on_record(controlled):
    result, folder = controlled
    verdict = result["verdict"]
    assert set(verdict["controls"]) == {"largest", "random"}
    gaps = [
        winner["test_score"] - control["test_score"]
        for winner in result["winners"]
        for control in result["controls"]
        if control["budget"] == winner["budget"] and control["kind"] == "largest"
    ]
    assert verdict["controls"]["largest"]["value"] == pytest.approx(np.mean(gaps))
    counts = Workspace.build(small()).splits.class_counts["validation"]
    assert verdict["chance"] == max(counts) / sum(counts)
    assert verdict["random_networks"] == 3  # the random start
    for row in lines(folder, "search.jsonl"):
        assert np.mean(row["halves"]) == pytest.approx(row["proxy_score"])


def test_resuming_changes_nothing(controlled):
    _, folder = controlled
    before = outcome(folder)
    run(small(*WITH), folder)
    assert outcome(folder) == before


def test_they_do_not_depend_on_the_search():
    ws = Workspace.build(small(*WITH))
    assert choose_controls(ws, []) == choose_controls(ws, [ws.net.space.largest])
    other = Workspace.build(small(*WITH, "seed=2"))
    assert choose_controls(ws, []) != choose_controls(other, [])


def test_a_random_search_is_not_said_to_improve_on_the_networks_that_it_drew(tmp_path):
    random = ("search.name=random", "search.options={}", "controls.random=1")
    verdict = run(small("finish.mode=inherit", *random), tmp_path / "run")["verdict"]
    assert verdict["random_networks"] == 6 and "improved" not in verdict
    assert "random" in verdict["controls"]
    assert not any("its 6 random networks" in words for words in verdict["words"])


def test_without_controls_nothing_is_said_of_the_worth(tmp_path):
    result = run(small("finish.mode=inherit"), tmp_path / "run")
    assert result["controls"] == [] and result["verdict"]["worth"] in ("unknown", "nothing")
    assert not lines(tmp_path / "run", "controls.jsonl")
