"""Ranking a run against a truth, and comparing runs: what is scored, recorded, refused."""

import importlib
import itertools
import json
import re
import shutil
import warnings

import numpy as np
import pytest
from scipy import stats

from few_draws import few_draws
from manyshot import evaluate, records
from manyshot.evaluate.zero_cost import synflow
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages.score import Images
from manyshot.pipeline.verbs.rank import in_space
from manyshot.rank import TruthError, TruthTable, load_truth
from manyshot.recipe import Recipe, RecipeError
from manyshot.space import Decision, SearchSpace
from manyshot.train import load_weights
from pipeline_runs import (
    Stages,
    compare_runs,
    lines,
    random_truth,
    rank_run,
    run,
    small,
    stopped,
    truth_of_24,
)


@pytest.fixture(scope="module", autouse=True)
def quick_rankings():
    with few_draws():
        yield


@pytest.fixture(scope="module")
def truth():
    return truth_of_24()


@pytest.fixture(scope="module")
def copied(base, tmp_path_factory):
    """A copy of the finished run, ranked: its folder, its recipe and its record."""
    folder = tmp_path_factory.mktemp("ranked") / "run"
    shutil.copytree(base[0], folder)
    return folder, base[1]


@pytest.fixture(scope="module")
def ranked(copied, truth):
    return rank_run(copied[1], copied[0], truth, uncalibrated=len(truth))


@pytest.fixture(scope="module")
def net(copied):
    ws = Workspace.build(copied[1])
    load_weights(copied[0] / "supernet.safetensors", ws.net)
    return ws


def test_scores_are_those_of_score(ranked, truth, net):
    images = Images(net)
    for point, arch in zip(ranked["points"], truth.archs, strict=True):
        own = evaluate.score(
            net.net, arch, calibration=images.calibration, validation=images.validation
        )
        assert point["arch"] == net.net.space.to_text(arch)
        assert point["proxy_score"] == own.value
        assert point["proxy_loss"] == pytest.approx(own.loss, rel=1e-6)
        assert point["macs"] == net.costs["macs"]([arch])[0]
        assert point["params"] == net.costs["params"]([arch])[0]
    images_each = images.calibration.images + images.validation.images
    assert ranked["evaluation"]["images_forwarded"] == len(truth.archs) * images_each


def test_a_truth_of_other_images_is_warned_of(copied, truth, tmp_path):
    """Whether it is read from a folder of ours, and whoever calls."""
    folder, recipe = copied
    same = {"schema": 2, "metric": truth.metric.plain()}
    rows = [
        {**same, "arch": "-".join(map(str, arch)), "seed": seed, "test_score": accuracy}
        for arch, accuracies in zip(truth.archs, truth.scores_NR.tolist(), strict=True)
        for seed, accuracy in enumerate(accuracies[:1])
    ]
    for name, of in (("same", "digits"), ("other", "mnist")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "truth.jsonl").write_text("".join(f"{json.dumps(r)}\n" for r in rows))
        text = Recipe.load(None, [f"data.name={of}"]).to_toml()
        (tmp_path / name / "recipe.toml").write_text(text)
    same, other = (load_truth(tmp_path / name) for name in ("same", "other"))
    with pytest.warns(UserWarning, match="of the images 'mnist', the run of 'digits'") as caught:
        rank_run(recipe, folder, other, uncalibrated=0, out=tmp_path / "a")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rank_run(recipe, folder, same, uncalibrated=0, out=tmp_path / "b")


def test_statistics_are_of_these_scores(ranked, truth):
    [everything] = [own for own in ranked["sets"] if own["name"] == "global"]
    truth_N = truth.scores_NR.mean(1)
    for name, key, sign in (
        ("proxy", "proxy_score", 1),
        ("proxy loss", "proxy_loss", -1),
        ("without recalibration", "shared_statistics_score", 1),
        ("macs", "macs", 1),
        ("params", "params", 1),
    ):
        scores = [sign * point[key] for point in ranked["points"]]
        expected = stats.kendalltau(scores, truth_N).statistic
        found = everything["predictors"][name]["kendall"]["value"]
        assert found == pytest.approx(expected) if np.isfinite(expected) else found is None
    assert [point["truth"] for point in ranked["points"]] == pytest.approx(truth_N.tolist())


def test_the_local_sets(ranked, truth):
    found = {own["name"]: own for own in ranked["sets"]}
    assert set(found) == {"global", "local by truth", "local by prediction"}
    assert set(ranked["absent"]) == {"local by search"}
    turns = found["local by truth"]["turns"]
    assert [turn["by"] for turn in turns] == list(truth.runs)
    assert [turn["judged_by"] for turn in turns] == [
        [run for run in truth.runs if run != own] for own in truth.runs
    ]
    proxy = {point["arch"]: point["proxy_score"] for point in ranked["points"]}
    chosen = found["local by prediction"]["archs"]
    assert sorted(proxy[a] for a in chosen) == sorted(proxy.values())[-len(chosen) :]


def test_scores_without_training_are_baselines_on_record(copied, truth, tmp_path, monkeypatch):
    folder = shutil.copytree(copied[0], tmp_path / "run")
    found = rank_run(copied[1], folder, truth, uncalibrated=0, zero_cost=True)
    path = folder / "rank" / "made" / "zero_cost.jsonl"
    rows = lines(path.parent, path.name)
    assert [row["arch"] for row in rows] == [point["arch"] for point in found["points"]]
    ws = Workspace.build(copied[1])
    given = next(iter(ws.fixed("train", 64)))[0]
    assert rows[0]["scores"]["synflow"] == pytest.approx(
        synflow(ws.net.extract(truth.archs[0]), given)  # new weights of the same seed
    )
    assert not found["left_out"] and set(rows[0]["scores"]) == {"synflow", "naswot", "grad norm"}
    for name in rows[0]["scores"]:
        values = [point["zero_cost"][name] for point in found["points"]]
        assert values == [row["scores"][name] for row in rows]
        expected = stats.kendalltau(values, truth.scores_NR.mean(1)).statistic
        own = found["sets"][0]["predictors"][name]
        assert own["kendall"]["value"] == pytest.approx(expected) and "beats_free" not in own
    free = ("macs", "params", *rows[0]["scores"])
    taus = {name: found["sets"][0]["predictors"][name]["kendall"]["value"] for name in free}
    assert found["sets"][0]["best_free"] == max(taus, key=taus.get)
    before = path.read_bytes()
    monkeypatch.setattr(importlib.import_module("manyshot.pipeline.stages.untrained"),
                        "zero_cost", None)  # fmt: skip
    again = rank_run(copied[1], folder, truth, uncalibrated=0, zero_cost=True)
    assert again["points"] == found["points"] and path.read_bytes() == before


def test_points_say_how_many_runs_and_how_far_off(copied, ranked, truth, tmp_path):
    folder = shutil.copytree(copied[0], tmp_path / "run")
    scores_NR = truth.scores_NR.copy()
    scores_NR[3, 1:] = np.nan
    uneven = TruthTable(truth.name, truth.archs, truth.runs, scores_NR)
    points = rank_run(copied[1], folder, uneven)["points"]
    assert [point["runs"] for point in points] == [3, 3, 3, 1] + [3] * (len(points) - 4)
    assert points[3]["truth"] == scores_NR[3, 0]
    known_NR = np.delete(scores_NR, 3, axis=0)
    pooled = np.sqrt(known_NR.var(axis=1, ddof=1).mean())  # one spread for all networks
    for point in points:
        assert point["error"] == pytest.approx(pooled / np.sqrt(point["runs"]))


def test_a_reference_chooses_the_local_set_by_prediction(copied, ranked, truth, tmp_path):
    other = tmp_path / "run"
    shutil.copytree(copied[0], other)
    for name in ("new", "made"):
        more = random_truth([*truth.archs, *({(3, 3, 3, 3)} - {*truth.archs})], name=name)
        with pytest.raises(records.RecordError, match="it is the reference"):
            rank_run(copied[1], copied[0], more, references=[other])
    path = other / "rank" / "made" / "scores.jsonl"
    rows = lines(path.parent, path.name)
    for i, row in enumerate(rows):  # as if the reference ranked in the order of the table
        row["proxy_score"] = 0.5 - i / 500 if row["calibrated"] else 0.5 + i / 500
    records.write_lines(path, rows)
    calibrated = [row["arch"] for row in rows if row["calibrated"]]
    again = rank_run(copied[1], copied[0], truth, references=[other])
    [local] = [own for own in again["sets"] if own["name"] == "local by prediction"]
    assert local["archs"] == calibrated[: len(local["archs"])] and "reference" in local["why"]


def test_a_run_is_no_reference_of_its_own(copied, ranked, truth):
    again = rank_run(copied[1], copied[0], truth, references=[copied[0]])
    [local] = [own for own in again["sets"] if own["name"] == "local by prediction"]
    assert "favours" in local["why"]


def test_other_batches_of_evaluation_are_other_scores(copied, ranked, truth, tmp_path):
    """Smaller ones than those of training leave enough for shared statistics, too."""
    folder = tmp_path / "run"
    shutil.copytree(copied[0], folder)
    recipe = small("evaluate.batch_size=16")
    found = rank_run(recipe, folder, truth)
    assert found["evaluation"]["architectures"] == len(truth)
    for key in ("proxy_loss", "shared_statistics_score"):
        values = [point[key] for point in found["points"]]
        assert None not in values
        assert key != "proxy_loss" or values != [point[key] for point in ranked["points"]]


def test_shared_statistics_are_of_all_training_images_in_turn(copied, truth, tmp_path, monkeypatch):
    folder, seen = shutil.copytree(copied[0], tmp_path / "run"), []
    shutil.rmtree(folder / "rank", ignore_errors=True)
    real = evaluate.shared_statistics

    def watched(net, batches, rng):
        seen.extend(batches)
        return real(net, batches, rng)

    monkeypatch.setattr(evaluate, "shared_statistics", watched)
    rank_run(copied[1], folder, truth)
    size = copied[1].train.batch_size
    turn = len(Workspace.build(copied[1]).splits.train) // size
    assert len(seen) == 128 and turn > 1
    assert {len(batch) for batch in seen} == {size}
    for i in range(turn):
        assert all((seen[i] != other).any() for other in seen[:i])
        assert all((seen[i] == other).all() for other in seen[i::turn])


def test_nothing_on_record_is_scored_again(copied, ranked, truth, monkeypatch):
    before = (copied[0] / "rank" / "made" / "scores.jsonl").read_bytes()
    monkeypatch.setattr(evaluate, "score", None)
    again = rank_run(copied[1], copied[0], truth)
    assert again["points"] == ranked["points"] and again["sets"] == ranked["sets"]
    assert again["evaluation"] == ranked["evaluation"]
    assert (copied[0] / "rank" / "made" / "scores.jsonl").read_bytes() == before


def test_a_ranking_by_loss_uses_the_scores_on_record(copied, truth, tmp_path, monkeypatch):
    """Those of the same weights and images, whatever truth they were made for."""
    folder, of_ours = shutil.copytree(copied[0], tmp_path / "run"), tmp_path / "ours"
    shutil.rmtree(folder / "rank", ignore_errors=True)
    of_ours.mkdir()
    losses = np.random.default_rng(4).uniform(0.5, 2, truth.scores_NR.shape)
    rows = [
        {"schema": 2, "metric": truth.metric.plain(), "arch": "-".join(map(str, arch)), "seed": s,
         "test_score": truth.scores_NR[i, s], "test_loss": losses[i, s]}
        for i, arch in enumerate(truth.archs)
        for s in range(3)
    ]  # fmt: skip
    (of_ours / "truth.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    by_score = rank_run(copied[1], folder, load_truth(of_ours), zero_cost=True)
    logs = [folder / "rank" / "ours" / name for name in ("scores.jsonl", "zero_cost.jsonl")]
    before = [log.read_bytes() for log in logs]
    prefix = importlib.import_module("manyshot.evaluate.prefix")
    monkeypatch.setattr(prefix.Population, "_forward", None)  # a forward would be an error
    monkeypatch.setattr(prefix, "score", None)
    monkeypatch.setattr(evaluate, "shared_statistics", None)
    monkeypatch.setattr(
        importlib.import_module("manyshot.pipeline.stages.untrained"), "zero_cost", None
    )
    found = rank_run(copied[1], folder, load_truth(of_ours, by="loss"), zero_cost=True)
    proxies = [point["proxy_loss"] for point in found["points"]]
    assert proxies == [point["proxy_loss"] for point in by_score["points"]]
    assert [p["zero_cost"] for p in found["points"]] == [p["zero_cost"] for p in by_score["points"]]
    expected = stats.kendalltau([p["proxy_score"] for p in found["points"]], -losses.mean(1))
    own = found["sets"][0]["predictors"]
    assert own["proxy"]["kendall"]["value"] == pytest.approx(expected.statistic)
    assert own["without recalibration"] and found["evaluation"] == by_score["evaluation"]
    assert [log.read_bytes() for log in logs] == before
    again = [folder / "rank" / "ours-loss" / log.name for log in logs]
    assert [log.read_bytes() for log in again] == before


def timeless(record):
    return {key: value for key, value in record.items() if key != "seconds"}


@pytest.mark.parametrize("writes", [3, 30])
def test_killed_and_ranked_again(copied, ranked, truth, tmp_path, monkeypatch, writes):
    folder = tmp_path / "run"
    shutil.copytree(copied[0], folder)
    shutil.rmtree(folder / "rank")

    def work():
        rank_run(copied[1], folder, truth)

    assert stopped(monkeypatch, writes, work) == "scores.jsonl"
    calibrated = [row["calibrated"] for row in lines(folder / "rank" / "made", "scores.jsonl")]
    n, stages = len(truth), Stages()
    again = rank_run(copied[1], folder, truth, stages)
    assert stages.seen == [
        ("rank", n, list(range(sum(calibrated), n + 1))),
        ("without", n, list(range(len(calibrated) - sum(calibrated), n + 1))),
    ]
    rows = lines(folder / "rank" / "made", "scores.jsonl")
    took = sum(row["seconds"] for row in rows if row["calibrated"])
    assert again["evaluation"].pop("seconds") == pytest.approx(took, abs=0.006)
    assert again == ranked | {"evaluation": timeless(ranked["evaluation"])}
    whole = lines(copied[0] / "rank" / "made", "scores.jsonl")
    assert [timeless(row) for row in rows] == [timeless(row) for row in whole]


def test_scores_of_other_weights_or_images_are_dropped(copied, ranked, truth, tmp_path):
    """Every row has one thing changed, in turn, and a score that would be seen if it were kept."""
    folder = tmp_path / "run"
    shutil.copytree(copied[0], folder)
    path = folder / "rank" / "made" / "scores.jsonl"
    rows = lines(path.parent, path.name)
    whats = itertools.cycle(["weights", "calibration", "validation_images", "batch_size"])
    for row, what in zip(rows, whats, strict=False):
        row |= {what: "other" if isinstance(row[what], str) else 7, "proxy_score": 0.0}
    records.write_lines(path, rows)
    assert rank_run(copied[1], folder, truth)["points"] == ranked["points"]


def test_the_final_weights_of_a_shifted_run_are_ranked(shifted, truth, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(shifted[0], folder)
    found = rank_run(shifted[1], folder, truth, uncalibrated=0)
    assert found["weights"] == lines(folder, "search.jsonl")[-1]["weights"]
    assert found["points"][0]["shared_statistics_score"] is None
    assert "without recalibration" not in found["sets"][0]["predictors"]
    assert not [row for row in lines(folder / "rank/made", "scores.jsonl") if not row["calibrated"]]


def test_k_shot_runs_are_scored_one_by_one_and_tell_their_codes(truth, tmp_path):
    """Weights depend on the whole path: T14 of K-shot sharing."""
    recipe = small(
        "sharing.name=k_shot",
        "sharing.options={copies=2, m=2, code_every=2}",
        "finish.mode=inherit",
        "export.formats=[]",
    )
    run(recipe, tmp_path / "run")
    found = rank_run(recipe, tmp_path / "run", truth)
    assert found["evaluation"]["method"].startswith("one by one: ")
    ws = Workspace.build(recipe)
    load_weights(tmp_path / "run" / "supernet.safetensors", ws.net)
    images = Images(ws)
    for point, arch in list(zip(found["points"], truth.archs, strict=True))[:4]:
        own = evaluate.score(
            ws.net, arch, calibration=images.calibration, validation=images.validation
        )
        assert (point["proxy_score"], point["proxy_loss"]) == (own.value, own.loss)
    rows = lines(tmp_path / "run", "codes.jsonl")
    assert len(rows) > 30 and len({row["arch"] for row in rows}) == len(rows)
    assert [r["macs"] for r in rows] == sorted(r["macs"] for r in rows)
    for row in rows[:3]:
        [code] = ws.net.sharing.code([ws.net.space.from_text(row["arch"])]).tolist()
        assert row["code"] == pytest.approx(code) and sum(code) == pytest.approx(1)


def test_an_untrained_run(tmp_path, truth):
    with pytest.raises(records.RecordError, match="train it first"):
        rank_run(small(), tmp_path, truth)


class TestInSpace:
    space = SearchSpace([Decision(("a", "b"), "x"), Decision((1, 2, 3), "y")])

    def test_another_space(self):
        with pytest.raises(TruthError, match="of another space.*2 decisions"):
            in_space(random_truth([(0, 1, 1)]), self.space)
        with pytest.raises(TruthError, match="of another space.*option 3"):
            in_space(random_truth([(0, 3)]), self.space)

    def test_aliases(self, net):
        uses = {self.space.decisions[1]: [((self.space.decisions[0], frozenset({1})),)]}
        space = SearchSpace(self.space.decisions, uses=uses)
        assert in_space(random_truth([(0, 2), (1, 2)]), space).archs == ((0, 0), (1, 2))
        with pytest.raises(TruthError, match="0-1 and 0-2, which are one network, 0-0"):
            in_space(random_truth([(0, 1), (0, 2)]), space)


class TestCompare:
    @pytest.fixture(scope="class")
    @classmethod
    def runs(cls, compared_runs):
        """Two methods with two seeds each, ranked; tests only read them."""
        return compared_runs

    def test_runs_of_one_recipe_are_one_method(self, runs, truth, tmp_path):
        found = compare_runs(runs, tmp_path)
        assert found == {k: v for k, v in records.read_json(tmp_path / "compare.json").items()
                         if k != "schema"}  # fmt: skip
        assert [(own["method"], own["seeds"]) for own in found["methods"]] == [
            ("one", [1, 2]),
            ("two", [1, 2]),
        ]
        for own, folder in zip(found["runs"], runs, strict=True):
            ranking = records.read_json(folder / "rank" / "made" / "rank.json")
            tau = ranking["sets"][0]["predictors"]["proxy"]["kendall"]["value"]
            assert own["metrics"]["tau global"] == tau
            spent = records.read_json(folder / "result.json")["images_forwarded"]
            assert own["images"]["total"] == sum(spent.values())
            trained = spent["train"] + spent["shifting"] + spent["probe"]
            assert own["images"]["trained"] == trained
        assert "tau local by truth" in found["runs"][0]["metrics"]
        assert "tau local by other seeds" in found["runs"][0]["metrics"]
        # what each run chose for itself is another set in each
        assert not any("prediction" in metric for metric in found["runs"][0]["metrics"])
        macs = {own["name"]: own["metrics"] for own in found["baselines"]}["macs"]
        assert macs["tau global"] == ranking["sets"][0]["predictors"]["macs"]["kendall"]["value"]
        assert not any("prediction" in metric for metric in macs)
        assert any(not pair["equal_images"] for pair in found["pairs"])

    def test_taus_and_truths_are_those_of_every_run(self, runs, truth, tmp_path):
        found = compare_runs(runs, tmp_path, primary="regret global")
        assert (found["primary"], found["reference"]) == ("regret global", "one")
        ranking = records.read_json(runs[0] / "rank" / "made" / "rank.json")
        assert [point["scores"] for point in ranking["points"]] == truth.scores_NR.tolist()
        assert not any(own["whole"] for own in ranking["sets"])  # of 256 networks
        assert found["reliability"]["global"] == ranking["sets"][0]["reliability"]
        for pair in found["pairs"]:
            if pair["metric"].startswith(("tau ", "regret ")) and pair["low"] is not None:
                assert pair["verdict"] == "cannot judge"  # a random truth
        with pytest.raises(ValueError, match="no run has the primary metric 'tau'"):
            compare_runs(runs, tmp_path, primary="tau")

    def test_a_set_that_a_reference_chose_is_compared(self, runs, truth, tmp_path):
        copies = [shutil.copytree(run, tmp_path / run.name) for run in runs[:3]]
        for folder in copies[1:]:
            recipe = Recipe.load(folder / "recipe.toml")
            rank_run(recipe, folder, truth, uncalibrated=0, references=[copies[0]])
        found = compare_runs(copies[1:], tmp_path / "out")
        assert "tau local by prediction" in found["runs"][0]["metrics"]
        macs = {own["name"]: own["metrics"] for own in found["baselines"]}["macs"]
        assert "tau local by prediction" in macs

    def test_winners_have_their_truth(self, runs, truth, tmp_path):
        folder = shutil.copytree(runs[0], tmp_path / "run")
        [won] = records.read_json(folder / "result.json")["winners"]
        arch = tuple(map(int, won["arch"].split("-")))
        for archs, expected in (({arch, (0, 0, 0, 0)}, True), ({(3, 3, 3, 3)} - {arch}, False)):
            table = random_truth(sorted(archs), name=f"has it: {expected}")
            rank_run(Recipe.load(folder / "recipe.toml"), folder, table, uncalibrated=0)
            [row] = compare_runs([folder], tmp_path / "out", table.name)["runs"]
            known = dict(zip(table.archs, table.scores_N, strict=True)).get(arch)
            assert (known is not None) == expected
            assert [winner["truth"] for winner in row["winners"]] == [known]
            assert row["metrics"][f"winner accuracy {won['budget']}"] == known

    def test_probes_and_shifting_are_training_and_scores_are_not(self, runs, tmp_path):
        folder = shutil.copytree(runs[0], tmp_path / "run")
        path = folder / "result.json"
        spent = {"train": 1, "probe": 20, "shifting": 300, "search": 4000}
        records.write_json(path, {**records.read_json(path), "images_forwarded": spent})
        [row] = compare_runs([folder], tmp_path / "out")["runs"]
        assert (row["images"]["trained"], row["images"]["total"]) == (321, 4321)

    def test_one_name_for_two_methods(self, runs, tmp_path):
        folder = tmp_path / "three"
        shutil.copytree(runs[0], folder)
        path = folder / "recipe.toml"
        text = path.read_text()
        for key, value in (("train.lr", 0.2), ("train.momentum", 0.8)):
            name = key.rpartition(".")[2]
            assert f"\n{name} = " in text
            text = re.sub(rf"\n{name} = .*", f"\n{name} = {value}", text, count=1)
        path.write_text(text)
        found = compare_runs([runs[0], folder], tmp_path / "out")
        assert [own["method"] for own in found["methods"]] == [
            "one (train.lr=0.1, train.momentum=0.9)",
            "one (train.lr=0.2, train.momentum=0.8)",
        ]

    def test_other_images_or_networks(self, runs, tmp_path):
        folder = tmp_path / "other"
        shutil.copytree(runs[0], folder)
        path = folder / "recipe.toml"
        path.write_text(path.read_text().replace("train_size = 128", "train_size = 64"))
        with pytest.raises(RecipeError, match="data of"):
            compare_runs([runs[0], folder], tmp_path / "out")
        path.write_text((runs[0] / path.name).read_text().replace("width = 3", "width = 4"))
        with pytest.raises(RecipeError, match="network of"):
            compare_runs([runs[0], folder], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_where_the_images_lie_makes_no_difference(self, runs, tmp_path):
        folder = tmp_path / "moved"
        shutil.copytree(runs[1], folder)
        path = folder / "recipe.toml"
        path.write_text(path.read_text().replace("workers = 0", 'workers = 0\nroot = "elsewhere"'))
        found = compare_runs([runs[0], folder], tmp_path / "out")
        assert len(found["methods"]) == 1

    def test_unranked_runs_compare_by_what_they_have(self, runs, base, tmp_path):
        found = compare_runs([base[0]], tmp_path)
        assert found["truth"] is None and found["baselines"] == []
        assert not any(metric.startswith("tau") for metric in found["runs"][0]["metrics"])
        with pytest.raises(records.RecordError, match=f"against made, and {base[0]} not"):
            compare_runs([runs[0], base[0]], tmp_path)
        with pytest.raises(records.RecordError, match="is not ranked against 'made'"):
            compare_runs([runs[0], base[0]], tmp_path, "made")

    def test_two_truths_must_be_told_apart(self, runs, truth, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(runs[0], folder)
        shutil.copytree(folder / "rank" / "made", folder / "rank" / "other")
        with pytest.raises(records.RecordError, match="made, other: say which"):
            compare_runs([folder], tmp_path / "out")
        for same in ("other", "truth/other", "elsewhere/other/truth.jsonl", "other.csv"):
            found = compare_runs([folder], tmp_path / "out", same)
            assert found["truth"]["name"] == "made"  # that of the table

    def test_tables_of_one_name_must_be_one(self, runs, truth, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(runs[1], folder)
        recipe = Recipe.load(folder / "recipe.toml")
        rank_run(recipe, folder, truth.without_run(0), uncalibrated=0)
        with pytest.raises(records.RecordError, match="rank them again, alike"):
            compare_runs([runs[0], folder], tmp_path / "out")
        rank_run(recipe, folder, truth, uncalibrated=0, share=0.5)
        with pytest.raises(records.RecordError, match="rank them again, alike"):
            compare_runs([runs[0], folder], tmp_path / "out")

    def test_an_unfinished_run(self, runs, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(runs[0], folder)
        (folder / "result.json").unlink()
        with pytest.raises(records.RecordError, match=r"no result\.json"):
            compare_runs([folder], tmp_path / "out")
