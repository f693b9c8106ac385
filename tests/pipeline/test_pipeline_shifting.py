"""Searches that train the supernet, against what their own records and weights say."""

import collections
import copy
import io
import shutil

import numpy as np
import pytest
import scipy.stats
from pipeline_runs import lines, outcome, small
from rich.console import Console
from safetensors.torch import load_file

from manyshot import evaluate, records
from manyshot.pipeline import Workspace, run
from manyshot.pipeline.order import Watched
from manyshot.pipeline.run import begin, export_architecture
from manyshot.pipeline.scoring import RUNNING, Images
from manyshot.pipeline.searching import search
from manyshot.pipeline.shifting import SHIFTED, STATE, Shifting, operations
from manyshot.pipeline.workspace import pick_device
from manyshot.progress import Silent
from manyshot.recipe import Recipe, RecipeError
from manyshot.recipe import Shifting as Settings
from manyshot.search import best
from manyshot.show import shift_tables
from manyshot.train import (
    CheckpointError,
    NonFiniteLoss,
    digest,
    engine,
    load_weights,
    save_weights,
)
from manyshot.train.shifting import Shifter

BUDGET = "macs<=60%"
SHIFT = (
    f"search.budgets=['{BUDGET}']",
    "search.candidates=12",
    "search.generation=4",
    "search.options={population=4, parents=2, mutants=2, crossovers=1}",
    "shift.name=population",
    "shift.steps=2",
    "shift.batch_size=16",
    "shift.rescored=3",
    "shift.watched=10",
    "shift.watched_best=4",
    "finish.mode=inherit",
)
P, G, S, B = 4, 3, 2, 16
KEPT = ("shift.elites=keep", "search.options.stale_scores=true")


@pytest.fixture(scope="session")
def shifted(tmp_path_factory):
    """A finished run whose supernet shifted, which tests only read."""
    folder = tmp_path_factory.mktemp("shifted")
    recipe = small(folder, *SHIFT)
    return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="session")
def ws(shifted):
    """The shifted run's workspace; tests leave its weights alone."""
    return Workspace.build(shifted[1])


def again(shifted, folder, *overrides):
    """The search of the shifted run's supernet under other settings."""
    recipe = small(folder / "recipe", *SHIFT, *overrides)
    return run(recipe, folder / "run", trained=shifted[0])


def archs_of(ws, rows):
    return [ws.net.space.from_text(row["arch"]) for row in rows]


# -- what is trained -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("update", "steps"),
    [("per_step", P * S), ("per_candidate", P), ("per_generation", S)],
)
def test_optimiser_steps_and_images_of_a_generation(shifted, tmp_path, update, steps):
    result = again(shifted, tmp_path, f"shift.update={update}")
    rows = lines(tmp_path / "run", "shift.jsonl")
    assert [row["weights_version"] for row in rows] == [steps * (g + 1) for g in range(G)]
    assert [row["images"] for row in rows] == [P * S * B * (g + 1) for g in range(G)]
    assert result["images_forwarded"]["shift"] == P * G * S * B
    before, after = (load_file(tmp_path / "run" / f) for f in ("supernet.safetensors", SHIFTED))
    assert digest(before) != digest(after)
    assert digest(before) == digest(load_file(shifted[0] / "supernet.safetensors"))


def test_frozen_weights_do_not_move(shifted, tmp_path):
    recipe = small(tmp_path / "recipe", *SHIFT, "shift.name=none")
    ws, accelerator = begin(recipe, tmp_path / "run", Silent(), trained=shifted[0])
    before = copy.deepcopy(ws.net.state_dict())
    found = search(ws, accelerator, tmp_path / "run", Silent())
    assert all(bool((tensor == before[name]).all()) for name, tensor in ws.net.state_dict().items())
    assert {row["weights_version"] for row in lines(tmp_path / "run", "search.jsonl")} == {0}
    assert found.images["shift"] == 0
    assert not (tmp_path / "run" / SHIFTED).exists()
    assert not (tmp_path / "run" / STATE).exists()
    order = found.order["global"]
    assert order["mean_accuracy_before"] == order["mean_accuracy_after"]
    assert order["tau_before_after"] == pytest.approx(1)


def visited(shifting, generation, candidates, best=()):
    order, visits = shifting.visits(generation, candidates, best)
    assert sorted(order) == sorted(candidates)
    assert {len(visit) for visit in visits} == {S}
    assert len(visits) == len(candidates)
    return order, visits


@pytest.fixture
def made(ws, tmp_path):
    """Makes the training of a search under overrides."""

    def make(*overrides):
        recipe = small(tmp_path, *SHIFT, *overrides)
        own = Workspace(recipe, ws.device, ws.splits, ws.net, ws.costs)
        accelerator = engine(pick_device("cpu"), recipe.train)
        return Shifting(own, accelerator, tmp_path / "made", "weights")

    return make


def candidates_of(ws, count):
    within = [a for a in ws.net.space.enumerate() if ws.limits()[0].satisfied([a])[0]]
    return within[:: len(within) // count][:count]


def test_the_population_trains_in_a_fresh_order(ws, made):
    shifting, archs = made(), candidates_of(ws, 12)
    orders = []
    for generation in range(4):
        order, visits = visited(shifting, generation, archs)
        assert visits == [(arch,) * S for arch in order]
        assert (order, visits) == shifting.visits(generation, archs, ())
        orders.append(tuple(order))
    assert len(set(orders)) == 4


def test_uniform_paths_are_drawn_anew_for_every_mini_batch(ws, made):
    """Of all encodings, budgets or not: 8,000 draws of an option are 2,000 ± 4 sd (155)."""
    _, visits = visited(made("shift.name=uniform_finetune"), 0, candidates_of(ws, 10) * 400)
    paths = [arch for visit in visits for arch in visit]
    for position in range(4):
        counts = np.bincount([arch[position] for arch in paths], minlength=4)
        assert abs(counts - 2000).max() < 155
    assert not ws.limits()[0].satisfied(paths).all()
    assert any(len(set(visit)) > 1 for visit in visits)


def test_a_random_population_is_within_the_budgets_and_not_the_proposed(ws, made):
    shifting, archs = made("shift.name=random_population"), candidates_of(ws, 12)
    drawn = []
    for generation in range(2):
        order, visits = visited(shifting, generation, archs)
        trained = [visit[0] for visit in visits]
        assert visits == [(arch,) * S for arch in trained]
        assert len(set(trained)) == 12
        assert ws.limits()[0].satisfied(trained).all()
        assert set(trained) != set(order)
        drawn.append(set(trained))
    assert drawn[0] != drawn[1]


def test_the_best_of_before_train_equally_often(ws, made):
    best_before, archs = candidates_of(ws, 5), candidates_of(ws, 12)
    _, visits = visited(made("shift.name=topk_finetune"), 0, archs, best_before)
    counts = collections.Counter(visit[0] for visit in visits)
    assert set(counts) == set(best_before)
    assert set(counts.values()) <= {2, 3}


@pytest.mark.parametrize("name", ["uniform_finetune", "random_population", "topk_finetune"])
def test_controls_forward_as_many_images(shifted, tmp_path, name):
    own = again(shifted, tmp_path, f"shift.name={name}")
    base = shifted[2]
    for stage in ("train", "shift"):
        assert own["images_forwarded"][stage] == base["images_forwarded"][stage] > 0
    rows = lines(tmp_path / "run", "search.jsonl")
    told = [row for row in rows if row["role"] == "candidate"]
    assert len(told) == P * G
    generations = lines(tmp_path / "run", "shift.jsonl")
    assert any(row["trained"] != row["proposed"] for row in generations)


def test_the_best_of_the_frozen_supernet_are_what_trains(shifted, ws, tmp_path):
    again(shifted, tmp_path, "shift.name=topk_finetune")
    before = [r for r in lines(tmp_path / "run", "order.jsonl") if r["role"] == "before"]
    scores = {ws.net.space.from_text(r["arch"]): r["proxy_accuracy"] for r in before}
    expected = operations(ws, best(scores, k=4))["counts"]
    for row in lines(tmp_path / "run", "shift.jsonl"):  # four candidates, two mini-batches each
        assert row["trained"]["counts"] == [[S * n for n in counts] for counts in expected]


@pytest.mark.parametrize("searcher", ["evolution", "nsga2", "random"])
def test_nothing_beyond_the_budgets_is_trained_or_scored(
    shifted, ws, tmp_path, monkeypatch, searcher
):
    paths, shift = [], Shifter.shift

    def spy(self, steps):
        paths.extend(arch for step in steps for arch in step)
        return shift(self, steps)

    monkeypatch.setattr(Shifter, "shift", spy)
    options = {"random": "{}", "nsga2": "{population=4}"}
    own = [f"search.options={options[searcher]}"] if searcher in options else []
    again(shifted, tmp_path, f"search.name={searcher}", *own)
    scored = archs_of(ws, lines(tmp_path / "run", "search.jsonl"))
    assert len(paths) == P * G * S
    assert ws.limits()[0].satisfied([*paths, *scored]).all()
    assert set(paths) <= set(scored)


def test_operations_and_their_entropy(ws):
    archs = candidates_of(ws, 9)
    found = operations(ws, archs)
    for i, counts in enumerate(found["counts"]):
        own = collections.Counter(arch[i] for arch in archs)
        assert counts == [own[option] for option in range(4)]
        assert found["entropy"][i] == pytest.approx(scipy.stats.entropy(counts), abs=1e-12)
    assert operations(ws, archs[:1])["entropy"] == [0.0] * 4


# -- what is scored, and when --------------------------------------------------------------------


def test_the_records_are_those_of_the_searcher_told_so(shifted, ws):
    """A fresh searcher, told what is on record, proposes what is on record, and elites too."""
    rows = lines(shifted[0], "search.jsonl")
    versions = [row["weights_version"] for row in lines(shifted[0], "shift.jsonl")]
    searcher, rescored = ws.searcher(ws.limits()), 0
    for generation, version in enumerate(versions):
        own = [row for row in rows if row["generation"] == generation and row["role"] != "final"]
        assert {row["weights_version"] for row in own} == {version}
        assert len({row["weights"] for row in own}) == 1
        archs = archs_of(ws, own)
        asked = searcher.ask(P)
        elites = [arch for arch in searcher.elites() if arch not in asked]
        assert archs == [*asked, *elites]
        assert [row["role"] for row in own] == ["candidate"] * P + ["elite"] * len(elites)
        searcher.tell(archs, [row["proxy_accuracy"] for row in own], version)
        rescored += len(elites)
    assert rescored > 0
    assert len({row["weights"] for row in rows}) == G


def test_winners_are_the_best_of_those_scored_again_at_the_final_weights(shifted, ws):
    folder, recipe, result = shifted
    rows = lines(folder, "search.jsonl")
    final = [row for row in rows if row["role"] == "final"]
    latest = {}
    for row in rows:
        if row["role"] != "final":
            latest[ws.net.space.from_text(row["arch"])] = row["proxy_accuracy"]
    assert archs_of(ws, final) == best(latest, ws.limits()[0], 3)
    net = copy.deepcopy(ws.net)
    load_weights(folder / SHIFTED, net)
    scores = {}
    for row in final:
        arch = net.space.from_text(row["arch"])
        score = evaluate.score(
            net, arch, calibration=ws.calibration(), validation=ws.fixed("validation", None)
        )
        assert (row["proxy_accuracy"], row["proxy_loss"]) == (score.accuracy, score.loss)
        assert row["weights_version"] == P * G * S
        scores[arch] = score.accuracy
    [winner] = best(scores, ws.limits()[0])
    assert result["winners"][0]["arch"] == net.space.to_text(winner)
    assert result["winners"][0]["proxy_accuracy"] == scores[winner]
    assert result["searched"] == len(latest)


def test_final_scores_are_on_all_validation_images(shifted, tmp_path):
    again(shifted, tmp_path, "evaluate.images=32")
    rows = lines(tmp_path / "run", "search.jsonl")
    assert {(r["role"] == "final", r["validation"]) for r in rows} == {(False, 32), (True, 64)}
    final = [r for r in rows if r["role"] == "final"]
    assert {r["images_forwarded"] for r in final} == {64 + 64}  # none is that of 32 images


@pytest.fixture
def rising(monkeypatch):
    """A stub of a supernet whose accuracy grows with every optimiser step, whatever the path."""
    steps = [0]

    def shift(self, paths):
        self.step += len(paths)
        self.drawn += sum(map(len, paths))
        steps[0] = self.step
        return 1.0

    def score(net, arch, **_):
        return evaluate.Score(steps[0] / 1000, 1.0, 64)

    monkeypatch.setattr(Shifter, "shift", shift)
    monkeypatch.setattr(evaluate, "score", score)


@pytest.mark.usefixtures("rising")
@pytest.mark.parametrize("timing", ["after_generation", "after_candidate"])
def test_only_in_turn_are_late_candidates_favoured(shifted, tmp_path, timing):
    again(shifted, tmp_path, f"shift.timing={timing}", *KEPT)
    rows = lines(tmp_path / "run", "search.jsonl")
    for generation in range(G):
        own = [
            row["proxy_accuracy"]
            for row in rows
            if row["generation"] == generation and row["role"] == "candidate"
        ]
        first = (generation * P * S) / 1000
        in_turn = [pytest.approx(first + (i + 1) * S / 1000) for i in range(P)]
        assert own == (in_turn if timing == "after_candidate" else [in_turn[-1]] * P)


@pytest.mark.usefixtures("rising")
def test_elites_are_scored_again_or_kept_stale(shifted, ws, tmp_path):
    for elites in ("score", "train", "keep"):
        stale = f"search.options.stale_scores={str(elites == 'keep').lower()}"
        again(shifted, tmp_path / elites, f"shift.elites={elites}", stale)
        folder = tmp_path / elites / "run"
        rows = [r for r in lines(folder, "search.jsonl") if r["role"] == "elite"]
        generations = lines(folder, "shift.jsonl")
        if elites == "keep":
            assert rows == []
        for row in rows:  # at the weights of their generation, as the candidates beside them
            assert row["weights_version"] == generations[row["generation"]]["weights_version"]
        counts = [row["elites"] for row in generations]
        assert (sum(counts) > 0) == (elites != "keep") == bool(rows)
        extra = counts if elites == "train" else [0] * G
        images = np.cumsum([(P + more) * S * B for more in extra]).tolist()
        assert [row["images"] for row in generations] == images


def test_in_turn_with_running_statistics(shifted, tmp_path):
    """The public code's way: each candidate scored as it was left, by averages of its training."""
    switches = ("shift.timing=after_candidate", "shift.statistics=running", "shift.elites=keep")
    again(shifted, tmp_path, *switches, "search.options.stale_scores=true", "shift.watched=0",
          "shift.watched_best=0")  # fmt: skip
    rows = lines(tmp_path / "run", "search.jsonl")
    told = [row for row in rows if row["role"] == "candidate"]
    assert [row["weights_version"] for row in told] == [S * (i + 1) for i in range(P * G)]
    assert {row["calibration"] for row in told} == {RUNNING}
    assert {row["images_forwarded"] for row in told} == {64}
    final = [row for row in rows if row["role"] == "final"]
    assert {row["images_forwarded"] for row in final} == {64 + 64}
    assert RUNNING not in {row["calibration"] for row in final}


def test_what_is_proposed_again_is_scored_again_at_the_weights_of_then(shifted, tmp_path):
    again(shifted, tmp_path, "search.options.dedupe=per_generation", "search.candidates=24")
    seen = collections.defaultdict(list)
    for row in lines(tmp_path / "run", "search.jsonl"):
        if row["role"] == "candidate":
            seen[row["arch"]].append(row)
    repeated = [rows for rows in seen.values() if len(rows) > 1]
    assert repeated
    for rows in repeated:
        versions = [row["weights_version"] for row in rows]
        assert versions == sorted(set(versions))
        assert {row["images_forwarded"] for row in rows} == {128}


# -- sets that are watched -----------------------------------------------------------------------


def test_watched_sets_are_chosen_before_and_scored_twice_alike(shifted, ws):
    folder, _, result = shifted
    rows = lines(folder, "order.jsonl")
    before, after = ([r for r in rows if r["role"] == when] for when in ("before", "after"))
    archs = archs_of(ws, before)
    assert len(set(archs)) == 10
    assert ws.limits()[0].satisfied(archs).all()
    assert archs_of(ws, after) == archs
    assert {(r["weights_version"], r["calibration"], r["validation"]) for r in before} == {
        (0, before[0]["calibration"], 64)
    }
    assert {(r["weights_version"], r["calibration"], r["validation"]) for r in after} == {
        (P * G * S, before[0]["calibration"], 64)
    }
    scores = [np.array([r["proxy_accuracy"] for r in part]) for part in (before, after)]
    own = result["order"]["global"]
    assert own["architectures"] == 10
    expected = scipy.stats.kendalltau(*scores, variant="b").statistic
    assert own["tau_before_after"] == pytest.approx(expected, abs=1e-12)
    local = best(dict(zip(archs, scores[0].tolist(), strict=True)), None, 4)
    chosen = [archs.index(arch) for arch in local]
    expected = scipy.stats.kendalltau(*(s[chosen] for s in scores), variant="b").statistic
    found = result["order"]["local"]["tau_before_after"]
    assert np.isnan(expected) if found is None else found == pytest.approx(expected, abs=1e-12)


def test_what_is_watched_is_not_what_the_search_begins_with(shifted, tmp_path):
    """60 of some 5,000 networks, and 20 others: 0.24 in common on average, 4 by no accident."""
    wide = "network={name='macro', options={width=1}}"
    recipe = small(tmp_path, *SHIFT, wide, "search.budgets=['macs<=100%']", "shift.watched=60")
    ws = Workspace.build(recipe)
    accelerator = engine(pick_device("cpu"), recipe.train)
    watched = Watched(ws, accelerator, tmp_path, Images(ws), {})
    assert len(watched.overall) == 60
    assert len(set(watched.overall) & set(ws.searcher(ws.limits()).ask(20))) < 4


def test_all_networks_are_watched_where_there_are_no_more(shifted, tmp_path):
    result = again(
        shifted, tmp_path, "shift.watched=900", "shift.watched_best=900", "search.candidates=5"
    )
    within = result["order"]["global"]["architectures"]
    assert 100 < within < 256
    assert result["order"]["local"]["architectures"] == within


# -- resuming ------------------------------------------------------------------------------------


class Stopped(BaseException):
    """A kill, as far as Python can play one."""


@pytest.mark.usefixtures("built_once")
@pytest.mark.parametrize(
    "switches",
    [
        (),
        ("shift.timing=after_candidate", "shift.statistics=running", "shift.elites=train"),
        ("shift.update=per_generation", "shift.reset_momentum=true", "shift.optimizer=adamw"),
    ],
    ids=["after a generation", "in turn", "adamw"],
)
def test_stopped_after_durable_writes(shifted, tmp_path, monkeypatch, switches):
    """After the first and last of every kind of file, and after two scores between."""
    recipe = small(tmp_path, *SHIFT, *switches)
    ready = tmp_path / "ready"
    begin(recipe, ready, Silent(), trained=shifted[0])
    shutil.copytree(ready, tmp_path / "whole")
    names: list[str] = []
    monkeypatch.setattr(records, "wrote", lambda path: names.append(path.name))
    run(recipe, tmp_path / "whole")
    monkeypatch.setattr(records, "wrote", lambda path: None)
    whole = outcome(tmp_path / "whole")
    weights = digest(load_file(tmp_path / "whole" / SHIFTED))
    numbers = {kind: [i for i, name in enumerate(names) if name == kind] for kind in names}
    kinds = {"order.jsonl", "search.jsonl", "shift.jsonl", STATE, SHIFTED, "result.json"}
    assert kinds <= numbers.keys()
    stops = {i for own in numbers.values() for i in (own[0], own[-1])}
    stops |= {numbers["search.jsonl"][5], numbers["search.jsonl"][P + 3]}
    for stop in sorted(stops):
        folder, left = tmp_path / str(stop), [stop]
        shutil.copytree(ready, folder)

        def wrote(path, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stopped

        monkeypatch.setattr(records, "wrote", wrote)
        with pytest.raises(Stopped):
            run(recipe, folder)
        monkeypatch.setattr(records, "wrote", lambda path: None)
        run(recipe, folder)
        assert outcome(folder) == whole, names[stop]
        assert digest(load_file(folder / SHIFTED)) == weights
        shutil.rmtree(folder)


def test_a_generation_that_was_not_saved_is_made_again(shifted, tmp_path, monkeypatch):
    """Killed between two scores of the second generation: the first is replayed, not trained."""
    recipe, folder = small(tmp_path, *SHIFT), tmp_path / "run"
    begin(recipe, folder, Silent(), trained=shifted[0])

    def wrote(path):
        if path.name == "search.jsonl" and len(lines(folder, "search.jsonl")) == P + 2:
            raise Stopped

    monkeypatch.setattr(records, "wrote", wrote)
    with pytest.raises(Stopped):
        run(recipe, folder)
    monkeypatch.undo()
    steps, shift = [], Shifter.shift
    monkeypatch.setattr(
        Shifter, "shift", lambda self, paths: steps.append(self.step) or shift(self, paths)
    )
    run(recipe, folder)
    assert steps == [P * S, 2 * P * S]
    whole, resumed = outcome(shifted[0]), outcome(folder)
    assert {name: resumed[name] for name in resumed if name != "files"} == {
        name: whole[name] for name in resumed if name != "files"
    }


def test_a_finished_run_is_not_done_again(shifted, monkeypatch):
    before = outcome(shifted[0])
    monkeypatch.setattr(Shifter, "shift", None)
    monkeypatch.setattr(evaluate, "score", None)
    run(shifted[1], shifted[0])
    assert outcome(shifted[0]) == before


def test_without_its_state_a_search_is_made_anew(shifted, tmp_path):
    """As the error for a damaged one advises; what belonged to it goes with it."""
    folder = tmp_path / "run"
    shutil.copytree(shifted[0], folder)
    (folder / STATE).unlink()
    (folder / SHIFTED).write_bytes(b"of a search that is gone")
    for name in ("order.jsonl", "search.jsonl"):  # nor would a GPU give the same bits again
        text = (folder / name).read_text()
        for row in lines(folder, name):
            if row["weights_version"]:
                text = text.replace(row["weights"], "0" * 16)
        (folder / name).write_text(text)
    run(shifted[1], folder)
    assert outcome(folder) == outcome(shifted[0])
    assert digest(load_file(folder / SHIFTED)) == digest(load_file(shifted[0] / SHIFTED))


def test_winners_are_never_finished_from_the_weights_before(shifted, tmp_path):
    """An export before the search is refused, and what an earlier one left is not taken up."""
    text = shifted[2]["winners"][0]["arch"]
    recipe, folder = small(tmp_path, *SHIFT), tmp_path / "run"
    begin(recipe, folder, Silent(), trained=shifted[0])
    with pytest.raises(records.RecordError, match="is not done, finish it with manyshot run"):
        export_architecture(recipe, folder, text)
    frozen = small(tmp_path, *SHIFT, "shift.name=none")
    begin(frozen, tmp_path / "frozen", Silent(), trained=shifted[0])
    export_architecture(frozen, tmp_path / "frozen", text, test=True)
    shutil.copytree(tmp_path / "frozen" / "subnets", folder / "subnets")
    line = lines(tmp_path / "frozen", "exported.jsonl")[0]
    records.append(folder / "finish.jsonl", line)
    run(recipe, folder)
    file = f"subnets/{text}.safetensors"
    assert (folder / file).read_bytes() == (shifted[0] / file).read_bytes()
    assert (folder / file).read_bytes() != (tmp_path / "frozen" / file).read_bytes()


def test_states_that_cannot_be_used_are_refused(shifted, tmp_path):
    recipe = shifted[1]
    for name, damage, error, message in (
        (STATE, lambda p: p.write_bytes(p.read_bytes()[:-100]), CheckpointError, "cannot be read"),
        ("shift.jsonl", lambda p: p.unlink(), records.RecordError, "has 0 of the 3 generations"),
        ("search.jsonl", lambda p: p.unlink(), records.RecordError, "weights have moved since"),
    ):
        folder = tmp_path / name
        shutil.copytree(shifted[0], folder)
        damage(folder / name)
        with pytest.raises(error, match=message):
            run(recipe, folder)
    folder = tmp_path / "other"
    shutil.copytree(shifted[0], folder)
    path = folder / "supernet.safetensors"
    net = Workspace.build(small(tmp_path, *SHIFT, "seed=5")).net
    save_weights(path, net)
    with pytest.raises(records.RecordError, match="made with other weights"):
        run(recipe, folder)


def test_divergence_names_the_way_out_and_keeps_what_was(shifted, tmp_path):
    with pytest.raises(NonFiniteLoss, match="lower shift.lr, or set shift.clip_norm"):
        again(shifted, tmp_path, "shift.lr=1e30")
    assert not (tmp_path / "run" / SHIFTED).exists()
    assert (tmp_path / "run" / "supernet.safetensors").exists()


# -- settings ------------------------------------------------------------------------------------

CHANGES = {
    "name": "uniform_finetune",
    "update": "per_candidate",
    "steps": "1",
    "batch_size": "8",
    "lr": "0.05",
    "head_lr": "0.5",
    "freeze_body": "true",
    "optimizer": "adamw",
    "momentum": "0.0",
    "weight_decay": "0.1",
    "label_smoothing": "0.3",
    "clip_norm": "0.01",
    "precision": "bf16",
    "reset_momentum": "true",
    "elites": "train",
    "timing": "after_candidate",
    "rescored": "1",
    "watched": "11",
    "watched_best": "5",
}
ELSEWHERE = {"codes": "below", "statistics": "above"}


def test_no_setting_is_forgotten():
    assert set(Settings.model_fields) == CHANGES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("setting", list(CHANGES))
def test_changing_it_changes_the_search(shifted, tmp_path, setting):
    again(shifted, tmp_path, f"shift.{setting}={CHANGES[setting]}")
    base, other = outcome(shifted[0]), outcome(tmp_path / "run")
    assert base["weights"] == other["weights"]  # those before
    changed = [name for name in ("search.jsonl", "order.jsonl") if base[name] != other[name]]
    order = [result["result"]["order"]["local"]["architectures"] for result in (base, other)]
    assert changed or (setting == "watched_best" and order == [4, 5])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["watched=5", "watched_best=6"], "watched_best = 6 are chosen among watched = 5"),
        (["name=topk_finetune"], "trains the best of the frozen supernet"),
        (["timing=after_candidate", "update=per_generation"], "between the updates"),
        (["statistics=running"], "timing = 'after_candidate'"),
        (["statistics=running", "timing=after_candidate"], "elites = 'train', or"),
        (
            [
                "statistics=running",
                "name=uniform_finetune",
                "timing=after_candidate",
                "elites=keep",
            ],
            "name = 'uniform_finetune' trains others",
        ),
        (["nam=population"], "unknown key 'shift.nam'; did you mean 'name'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(None, [f"shift.{override}" for override in overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shift.elites=keep"], "set search.options.stale_scores = true"),
        (["shift.freeze_body=true", "transfer.classifier=nope"], "transfer.classifier: classifier"),
        (["search.name=generator", "search.options={}"], "trains what a search proposes, and"),
    ],
)
def test_what_would_fail_in_the_search_is_refused_before_training(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        run(small(tmp_path, *SHIFT, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_set_is_refused_before_training(tmp_path):
    with pytest.raises(RecipeError, match="shift.batch_size = 500 is more than the 128"):
        run(small(tmp_path, "shift.name=population", "shift.batch_size=500"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- with the other papers -----------------------------------------------------------------------


def test_a_simplex_net_shifts_too_or_stays(tmp_path):
    k_shot = ("sharing.name=k_shot", "sharing.options={copies=2, m=2, warm_frac=0.0, lr=0.5}")
    base = small(tmp_path / "recipe", *k_shot, *SHIFT)
    run(base, tmp_path / "true")
    run(small(tmp_path / "recipe", *k_shot, *SHIFT, "shift.codes=false"), tmp_path / "false")
    moved = {}
    for codes in ("true", "false"):
        before, after = (
            load_file(tmp_path / codes / name) for name in ("supernet.safetensors", SHIFTED)
        )
        changed = {name for name in before if not before[name].equal(after[name])}
        moved[codes] = {"simplex_net" in name for name in changed}
    assert moved == {"true": {True, False}, "false": {False}}


def test_codes_keep_their_rate_relative_to_that_of_the_weights(tmp_path):
    sharing = "sharing={name='k_shot', options={copies=2, lr=0.5}}"
    recipe = small(tmp_path, *SHIFT, sharing, "train.lr=0.2", "train.momentum=0.7")
    ws = Workspace.build(recipe)
    shifting = Shifting(ws, engine(ws.device, recipe.train), tmp_path, "weights")
    [group] = shifting.shifter.code_optimizer.param_groups
    assert (group["scale"], group["momentum"]) == (pytest.approx(2.5), 0.7)


def test_what_was_forwarded_and_how_the_order_changed_are_shown(shifted):
    console = Console(record=True, width=120, file=io.StringIO())
    result = copy.deepcopy(shifted[2])
    result["order"]["local"]["tau_before_after"] = None
    console.print(*shift_tables(result))
    text = console.export_text()
    for images in result["images_forwarded"].values():
        assert f" {images:,} " in text
    assert f" {result['order']['global']['tau_before_after']:.3f} " in text
    assert " undefined " in text
    assert "population" in text


def test_exports_have_the_weights_after_the_search(shifted, ws, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(shifted[0], folder)
    winners = {winner["arch"] for winner in shifted[2]["winners"]}
    text = next(r["arch"] for r in lines(folder, "order.jsonl") if r["arch"] not in winners)
    export_architecture(shifted[1], folder, text)
    net = copy.deepcopy(ws.net)
    load_weights(folder / SHIFTED, net)
    arch = net.space.from_text(text)
    subnet = net.extract(arch, stats=evaluate.calibrate(net, arch, ws.calibration()))
    exported = load_file(folder / "subnets" / f"{text}.safetensors")
    assert digest(exported) == digest(subnet.state_dict())
