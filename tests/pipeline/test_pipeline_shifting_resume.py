"""Searches that train the supernet: killed, misused, and together with the rest."""

import copy
import functools
import io
import shutil

import pytest
from rich.console import Console
from safetensors.torch import load_file

from kills import left_by_kills
from manyshot import evaluate, records
from manyshot.pipeline import Workspace
from manyshot.pipeline.identity import weights_fingerprint
from manyshot.pipeline.stages.shift import ShiftingStage
from manyshot.pipeline.verbs.run import begin
from manyshot.progress import Silent
from manyshot.recipe import Recipe, RecipeError
from manyshot.recipe import ShiftingSettings as Settings
from manyshot.run_folder import SHIFTED, Result
from manyshot.run_folder import SHIFTING_STATE as STATE
from manyshot.show import shift_tables
from manyshot.train import CheckpointError, NonFiniteLoss, engine, load_weights, save_weights
from manyshot.train.checkpoint import digest, load_checkpoint, save_checkpoint
from manyshot.train.shifting import Shifter
from pipeline_runs import (
    SHIFT,
    P,
    S,
    Stopped,
    again,
    export_architecture,
    lines,
    outcome,
    run,
    small,
)

# -- resuming ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("built_once")
@pytest.mark.parametrize("which", [-1, pytest.param(0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "switches",
    [
        (),
        ("shifting.timing=after_candidate", "shifting.statistics=running", "shifting.elites=train"),
        (
            "shifting.update=per_generation",
            "shifting.optimizer=adamw",
            "shifting.elites=train",
            "shifting.average=0.9",
            "search.options.dedupe=per_generation",
        ),
    ],
    ids=["after a generation", "in turn", "adamw, as by default, averaged"],
)
def test_stopped_after_durable_writes(shifted, tmp_path, switches, which):
    """After the last or the first of every kind of file, and after two scores between.

    With other switches: where the state is saved, and in the middle of the second generation.
    """
    recipe = small(*SHIFT, *switches)
    ready = tmp_path / "ready"
    begin(recipe, ready, Silent(), trained=shifted[0])
    left = left_by_kills(ready, functools.partial(run, recipe, ready))
    names = [name for name, _ in left]
    whole = outcome(ready)
    weights = digest(load_file(ready / SHIFTED))
    numbers = {kind: [i for i, name in enumerate(names) if name == kind] for kind in names}
    kinds = {"order.jsonl", "search.jsonl", "shifting.jsonl", STATE, SHIFTED, "result.json"}
    assert kinds <= numbers.keys()
    stops = {own[which] for own in numbers.values()}
    stops |= {numbers["search.jsonl"][5], numbers["search.jsonl"][P + 3]}
    if switches:
        stops = {numbers["search.jsonl"][P + 3], numbers[STATE][which]}
    for stop in sorted(stops):
        name, folder = left[stop]
        run(recipe, folder)
        assert outcome(folder) == whole, name
        assert digest(load_file(folder / SHIFTED)) == weights


def test_a_generation_that_was_not_saved_is_made_again(shifted, tmp_path, monkeypatch):
    """Killed between two scores of the second generation: the first is replayed, not trained."""
    recipe, folder = small(*SHIFT), tmp_path / "run"
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
        Shifter,
        "shift",
        lambda self, paths, span: steps.append(self.step) or shift(self, paths, span),
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
    recipe, folder = small(*SHIFT), tmp_path / "run"
    begin(recipe, folder, Silent(), trained=shifted[0])
    with pytest.raises(records.RecordError, match="is not done, finish it with manyshot run"):
        export_architecture(recipe, folder, text)
    frozen = small(*SHIFT, "shifting.name=none")
    begin(frozen, tmp_path / "frozen", Silent(), trained=shifted[0])
    export_architecture(frozen, tmp_path / "frozen", text, test=True)
    shutil.copytree(tmp_path / "frozen" / "subnets", folder / "subnets", dirs_exist_ok=True)
    line = lines(tmp_path / "frozen", "exported.jsonl")[0]
    records.append(folder / "finish.jsonl", line)
    run(recipe, folder)
    file = f"subnets/{text}.safetensors"
    after, expected, before = (
        digest(load_file(run_of / file)) for run_of in (folder, shifted[0], tmp_path / "frozen")
    )
    assert after == expected != before


def of_others(path):
    save_checkpoint(path, {**load_checkpoint(path), "fingerprint": "f" * 16})


def of_two_processes(path):
    save_checkpoint(path, {**load_checkpoint(path), "processes": 2})
    (path.parent / SHIFTED).unlink()


def test_states_that_cannot_be_used_are_refused(shifted, tmp_path):
    recipe = shifted[1]
    for name, damage, error, message in (
        (STATE, lambda p: p.write_bytes(p.read_bytes()[:-100]), CheckpointError, "cannot be read"),
        (STATE, of_others, CheckpointError, "shifting.pt belongs to other settings"),
        (STATE, of_two_processes, CheckpointError, "a training by 2 processes, and now there is 1"),
        ("shifting.jsonl", lambda p: p.unlink(), records.RecordError, "has 0 of the 3 generations"),
        ("search.jsonl", lambda p: p.unlink(), records.RecordError, "weights have moved since"),
    ):
        folder = tmp_path / message / name
        shutil.copytree(shifted[0], folder)
        damage(folder / name)
        with pytest.raises(error, match=message):
            run(recipe, folder)
    folder = tmp_path / "other"
    shutil.copytree(shifted[0], folder)
    path = folder / "supernet.safetensors"
    net = Workspace.build(small(*SHIFT, "seed=5")).net
    save_weights(path, net, weights_fingerprint(Workspace.build(recipe)))
    with pytest.raises(records.RecordError, match="made with other weights"):
        run(recipe, folder)


def test_divergence_names_the_way_out_and_keeps_what_was(shifted, tmp_path):
    with pytest.raises(NonFiniteLoss, match="lower shifting.lr, or set shifting.clip_norm"):
        again(shifted, tmp_path, "shifting.lr=1e30")
    assert not (tmp_path / "run" / SHIFTED).exists()
    assert (tmp_path / "run" / "supernet.safetensors").exists()


# -- settings ------------------------------------------------------------------------------------

CHANGES = {
    "name": "uniform_finetune",
    "update": "per_candidate",
    "steps": "1",
    "batch_size": "8",
    "lr": "0.05",
    "schedule": "constant",
    "average": "0.5",
    "head_lr": "0.5",
    "freeze_body": "true",
    "optimizer": "adamw",
    "momentum": "0.0",
    "weight_decay": "0.1",
    "label_smoothing": "0.3",
    "clip_norm": "0.01",
    "precision": "bf16",
    "sgld": "1e-4",
    "elites": "train",
    "timing": "after_candidate",
    "rescored": "1",
    "watched": "8",
    "watched_best": "5",
}
ELSEWHERE = {"codes": "below", "statistics": "above"}


def test_no_setting_is_forgotten():
    assert set(Settings.model_fields) == CHANGES.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("setting", list(CHANGES))
def test_changing_it_changes_the_search(shifted, tmp_path, setting):
    again(shifted, tmp_path, f"shifting.{setting}={CHANGES[setting]}")
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
        (
            ["statistics=running", "timing=after_candidate", "elites=score"],
            "elites = 'train', or",
        ),
        (
            [
                "statistics=running",
                "name=uniform_finetune",
                "timing=after_candidate",
                "elites=keep",
            ],
            "name = 'uniform_finetune' trains others",
        ),
        (["nam=population"], "unknown key 'shifting.nam'; did you mean 'shifting.name'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(overrides, message):
    with pytest.raises(RecipeError, match=message):
        Recipe.load(None, [f"shifting.{override}" for override in overrides])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["shifting.elites=keep"], "set search.options.stale_scores = true"),
        (
            ["shifting.freeze_body=true", "transfer.classifier=nope"],
            "transfer.classifier: classifier",
        ),
        (["search.name=generator", "search.options={}"], "trains what a search proposes, and"),
    ],
)
def test_what_would_fail_in_the_search_is_refused_before_training(tmp_path, overrides, message):
    with pytest.raises(RecipeError, match=message):
        run(small(*SHIFT, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_set_is_refused_before_training(tmp_path):
    with pytest.raises(RecipeError, match="shifting.batch_size = 500 is more than the 128"):
        run(small("shifting.name=population", "shifting.batch_size=500"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


# -- with the other papers -----------------------------------------------------------------------


def test_a_simplex_net_shifts_too_or_stays(tmp_path):
    k_shot = ("sharing.name=k_shot", "sharing.options={copies=2, m=2, code_every=2, lr=0.5}")
    base = small(*k_shot, *SHIFT)
    run(base, tmp_path / "true")
    run(small(*k_shot, *SHIFT, "shifting.codes=false"), tmp_path / "false")
    moved = {}
    for codes in ("true", "false"):
        before, after = (
            load_file(tmp_path / codes / name) for name in ("supernet.safetensors", SHIFTED)
        )
        changed = {name for name in before if not before[name].equal(after[name])}
        moved[codes] = {"simplex_net" in name for name in changed}
    assert moved == {"true": {True, False}, "false": {False}}


def test_codes_keep_their_rate_relative_to_that_of_the_weights(tmp_path):
    sharing = "sharing={name='k_shot', options={copies=2, code_every=2, optimizer='sgd', lr=0.5}}"
    recipe = small(*SHIFT, sharing, "train.lr=0.2", "train.momentum=0.7")
    ws = Workspace.build(recipe)
    shifting = ShiftingStage(ws, engine(ws.device, recipe.train), tmp_path)
    [group] = shifting.shifter.optimisation.codes.param_groups
    assert (group["scale"], group["momentum"]) == (pytest.approx(2.5), 0.7)


def test_what_was_forwarded_and_how_the_order_changed_are_shown(shifted):
    console = Console(record=True, width=120, file=io.StringIO())
    result = copy.deepcopy(shifted[2])
    result["order"]["local"]["tau_before_after"] = None
    console.print(*shift_tables(Result.of(result)))
    text = console.export_text()
    for images in result["images_forwarded"].values():
        assert f" {images:,} " in text or not images
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
