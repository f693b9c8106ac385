"""Ranking a run before and after its search moved the weights."""

import json
import math
import shutil

import numpy as np
import pytest
from scipy import stats

from few_draws import few_draws
from manyshot import evaluate, pipeline, records, report
from manyshot.cli import main
from manyshot.evaluate.zero_cost import ZeroCost
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages import untrained
from manyshot.pipeline.stages.score import Images
from manyshot.rank import load_truth, reliability
from manyshot.tables import rank as tables
from manyshot.train import load_weights
from pipeline_runs import SHIFT, small, truth_of_24


@pytest.fixture(scope="module", autouse=True)
def quick_rankings():
    with few_draws():
        yield


@pytest.fixture(scope="module")
def both(shifted, tmp_path_factory):
    """The folder of a copied run, its recipe, and the three records."""
    folder = tmp_path_factory.mktemp("moved") / "run"
    shutil.copytree(shifted[0], folder)
    ranked = pipeline.rank_both(shifted[1], folder, truth_of_24(), uncalibrated=0, share=0.3)
    return folder, shifted[1], ranked


def test_each_ranking_has_the_scores_of_its_weights(both):
    folder, recipe, (before, after, moved) = both
    ws = Workspace.build(recipe)
    images = Images(ws)
    for ranking, name in ((before, "supernet.safetensors"), (after, "shifted.safetensors")):
        load_weights(folder / name, ws.net)
        for point in ranking.points[:4]:
            own = evaluate.score(
                ws.net,
                ws.net.space.from_text(point.arch),
                calibration=images.calibration,
                validation=images.validation,
            )
            assert point.proxy_score == own.value
    assert (before.moment, after.moment) == ("before", "after")
    assert (moved.before, moved.after) == (before.weights, after.weights)
    assert before.weights != after.weights
    assert [p.arch for p in before.points] == [p.arch for p in after.points]


def test_the_difference_is_that_of_the_taus_on_sets_that_neither_chose(both):
    """Without another run as reference, no set is chosen by a proxy score."""
    _, _, (before, after, moved) = both
    truth = truth_of_24()
    assert [each.name for each in moved.sets] == ["global", "local by truth"]
    assert set(moved.absent) == {"local by prediction", "local by search"}
    everything, best = moved.sets
    runs, count = truth.scores_NR.shape[1], math.ceil(0.3 * len(truth))
    rows = np.arange(len(after.points))
    top = [np.argsort(-truth.scores_NR[:, run], kind="stable")[:count] for run in range(runs)]
    others = [np.delete(truth.scores_NR, run, axis=1) for run in range(runs)]
    for each, turns in (
        (everything, [(rows, truth.scores_NR)]),
        (best, list(zip(top, others, strict=True))),  # every run chooses, the others judge
    ):
        taus = []
        for ranking in (before, after):
            scores = np.array([point.proxy_score for point in ranking.points])
            of_turns = [
                stats.kendalltau(scores[own], judges[own].mean(1)).statistic
                for own, judges in turns
            ]
            taus.append(np.mean(of_turns))
        assert [each.before, each.after] == pytest.approx(taus)
        assert each.gain.value == pytest.approx(taus[1] - taus[0])
        assert each.gain.low < each.gain.value < each.gain.high


def test_of_a_set_that_cannot_judge_no_order_is_called_better(both):
    """However large the change is: by Spearman and Brown from variances that are planted here."""
    *_, moved = both[2]
    far = moved.sets[0].gain.model_copy(update={"value": 0.4, "low": 0.3, "high": 0.5})
    rng = np.random.default_rng(0)
    verdicts = []
    for noise in (0.01, 3.0):
        runs_NR = rng.normal(size=(900, 1)) + noise * rng.normal(size=(900, 3))
        known = reliability(runs_NR)
        assert known.mean.value == pytest.approx(1 / (1 + noise**2 / 3), abs=0.1)
        one = moved.sets[0].model_copy(update={"gain": far, "reliability": known})
        [row] = tables.moved(moved.model_copy(update={"sets": (one,)})).rows
        verdicts.append(row["Verdict"])
    assert verdicts == ["better after", "cannot judge"]
    truth = truth_of_24().scores_NR
    assert moved.sets[0].reliability.between == pytest.approx(reliability(truth).between)


def test_a_set_by_prediction_is_chosen_by_another_run(both, base, tmp_path):
    """By the run itself it stays absent: either of its weights would be favoured."""
    folder, recipe, (before, _, _) = both
    truth, other = truth_of_24(), tmp_path / "other"
    shutil.copytree(base[0], other)
    reference = pipeline.rank_run(base[1], other, truth, uncalibrated=0)
    how = {"uncalibrated": 0, "share": 0.3}
    *_, moved = pipeline.rank_both(recipe, folder, truth, references=[other], **how)
    [own] = [each for each in moved.sets if each.name == "local by prediction"]
    order = sorted(reference.points, key=lambda p: (-p.proxy_score, p.arch))
    top = {point.arch for point in order[: own.architectures]}
    [same] = [each for each in before.sets if each.name == "global"]
    assert top <= set(same.archs)
    scores = {p.arch: p.proxy_score for p in before.points}
    means = dict(zip((p.arch for p in before.points), truth.scores_N.tolist(), strict=True))
    archs = sorted(top)
    expected = stats.kendalltau([scores[a] for a in archs], [means[a] for a in archs]).statistic
    assert own.before == pytest.approx(expected)
    *_, itself = pipeline.rank_both(recipe, folder, truth, references=[folder], **how)
    assert "local by prediction" in itself.absent


def test_the_ranking_by_default_is_that_after(both):
    folder, recipe, (_, after, _) = both
    again = pipeline.rank_run(recipe, folder, truth_of_24(), uncalibrated=0, share=0.3)
    assert again == after


def test_weights_that_did_not_move_are_refused(base):
    for ask in (pipeline.rank_both, lambda *a: pipeline.rank_run(*a, weights="before")):
        with pytest.raises(records.RecordError, match="moved no weights .* leave --weights out"):
            ask(base[1], base[0], truth_of_24())


def code_of(arguments):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_the_command_prints_all_three_and_the_page_shows_them(both, tmp_path, capsys):
    folder = both[0]
    table = tmp_path / "made.csv"
    truth = truth_of_24()
    rows = ["arch,accuracy,accuracy2,accuracy3"]
    for arch, scores in zip(truth.archs, truth.scores_NR.tolist(), strict=True):
        rows.append(",".join(["-".join(map(str, arch)), *map(str, scores)]))
    table.write_text("\n".join(rows))
    assert len(load_truth(str(table)).runs) == 3
    own = ["rank", str(folder), "--truth", str(table), "--uncalibrated", "0", "--quiet", "--trust"]
    assert code_of([*own, "--weights", "both", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told.keys() == {"before", "after", "moved"}
    assert code_of([*own, "--weights", "both"]) == 0
    text = capsys.readouterr().out
    assert "What moving the weights did, on sets that neither chose" in text
    assert code_of([*own, "--weights", "other"]) == 2
    page = report.write(folder).read_text()
    assert "What shifting did to the ranking against made" in page
    assert "weights before shifting" in page


def test_with_an_out_folder_the_run_stays_as_it_is(shifted, tmp_path):
    before = sorted(path for path in shifted[0].rglob("*") if path.is_file())
    out = tmp_path / "out"
    pipeline.rank_both(small(*SHIFT), shifted[0], truth_of_24(), uncalibrated=0, out=out)
    after = sorted(path for path in shifted[0].rglob("*") if path.is_file())
    assert {path.name for path in after} - {path.name for path in before} <= {"lock", "lock.json"}
    assert "What shifting did" in report.write(out).read_text()


def variances(scores_NR):
    """Between architectures and within, by the expected mean squares of two crossed factors."""
    n, r = scores_NR.shape
    mean_N, mean_R, mean = scores_NR.mean(1), scores_NR.mean(0), scores_NR.mean()
    rest = scores_NR - mean_N[:, None] - mean_R + mean
    within = (rest**2).sum() / ((n - 1) * (r - 1))
    return mean_N.var(ddof=1) - within / r, within


def test_every_set_has_the_reliability_of_those_who_judge_it(both):
    """In turn, of the mean variances over turns: each run chooses, and the others judge."""
    _, _, (_, _, moved) = both
    truth = truth_of_24()
    scores_NR, count = truth.scores_NR, math.ceil(0.3 * len(truth))
    between, within = variances(scores_NR)
    everything, best = (each.reliability for each in moved.sets)
    runs = scores_NR.shape[1]
    assert everything.mean.value == pytest.approx(max(0, between / (between + within / runs)))
    each = []
    for run in range(runs):
        top = np.argsort(-scores_NR[:, run], kind="stable")[:count]
        each.append(variances(np.delete(scores_NR, run, axis=1)[top]))
    between, within = np.mean(each, axis=0)
    expected = max(0, between / (between + within / (runs - 1)))
    assert best.mean.value == pytest.approx(expected)
    assert best.runs == runs - 1


def test_scores_without_training_are_made_once_for_both_weights(both, tmp_path, monkeypatch):
    """And again where network or task are another, which seed and images do not say."""
    folder, recipe, _ = both
    scored = []

    def counted(module, *_):
        scored.append(module)
        return ZeroCost({"synflow": 1.0 * len(scored)}, {})

    monkeypatch.setattr(untrained, "zero_cost", counted)
    pipeline.rank_both(recipe, folder, truth_of_24(), uncalibrated=0, zero_cost=True, out=tmp_path)
    assert len(scored) == len(truth_of_24())  # before and after together
    assert (tmp_path / "zero_cost.jsonl").exists()
    assert not (tmp_path / "before" / "zero_cost.jsonl").exists()
    other = recipe.model_copy(update={"network": recipe.network.model_copy(update={"name": "x"})})
    assert untrained.digest_of(other) != untrained.digest_of(recipe)
    seed = recipe.model_copy(update={"seed": 5})
    assert untrained.digest_of(seed) == untrained.digest_of(recipe)
