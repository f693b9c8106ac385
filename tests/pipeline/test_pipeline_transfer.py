"""Supernets moved to other images, by the library and by the command line."""

import functools
import json
import math
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from pipeline_runs import lines, outcome, small, timeless
from safetensors.torch import load_file

import manyshot as ms
from manyshot import cli, records
from manyshot.data import DATASETS, DataNotFound, ImageSet, fixed, load
from manyshot.pipeline import Workspace, export_architecture, run, train_only, transfer_recipe
from manyshot.pipeline.run import begin
from manyshot.pipeline.shifting import SHIFTED
from manyshot.progress import Silent
from manyshot.recipe import Data, Recipe, RecipeError, Sampling, Searching, Training
from manyshot.train import CheckpointError, digest, load_weights

WEIGHTS, SOURCE = "supernet.safetensors", "source.safetensors"
HEAD = ("model.chain.5.2.weight", "model.chain.5.2.bias")
QUICK = (
    "search.budgets=['macs<=90%']",
    "search.candidates=4",
    "search.generation=2",
    "search.options={population=2, parents=1, mutants=1, crossovers=1}",
    "shift.steps=1",
    "shift.batch_size=16",
    "shift.rescored=2",
    "finish.mode=inherit",
)
K_SHOT = "sharing={name='k_shot', options={copies=2, m=2, mix_fixed_layers=%s}}"
GENERATOR = ("search.name=generator", "sampler.name=shift", "sampler.held_out=0.1")


def levels(classes, root, image_size, download):
    """Grey images of 8x8 pixels whose class is their brightness: train, test."""
    parts = []
    for seed, count in enumerate((200, 40)):
        labels = np.arange(count) % classes
        bright = (labels * (190 / classes)).astype(np.uint8)[:, None, None, None]
        noise = np.random.default_rng(seed).integers(0, 64, (count, 1, 8, 8), dtype=np.uint8)
        pair = (torch.from_numpy(noise + bright), torch.from_numpy(labels))
        parts.append(ImageSet(images=pair[0], labels=pair[1], classes=classes))
    return tuple(parts)


@pytest.fixture(scope="module", autouse=True)
def targets():
    """Offline sets of 4 and of 500 classes, whose images fit a network for digits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DATASETS, "levels", functools.partial(levels, 4))
        patch.setitem(DATASETS, "many", functools.partial(levels, 500))
        yield


def move(source, folder, *overrides, data="levels", whole=True):
    """Moves a run to other images, or no further than its new classifier: recipe, result."""
    recipe = transfer_recipe(source, None, data, list(overrides))
    if whole:
        return recipe, run(recipe, folder, source=source)
    begin(recipe, folder, Silent(), source=source)
    return recipe, None


@pytest.fixture(scope="module")
def moved(base, tmp_path_factory):
    """The finished run moved with no setting but the target; tests only read it."""
    folder = tmp_path_factory.mktemp("moved")
    return folder, *move(base[0], folder)


def like(base, folder, *overrides):
    """A folder with the supernet of the finished run, and a recipe with overrides."""
    recipe = Recipe.load(base[0] / "recipe.toml", overrides)
    records.write_text(folder / "recipe.toml", recipe.to_toml())
    shutil.copy(base[0] / WEIGHTS, folder)
    return folder


def snapshot(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors that are not the same bytes in two files of the same names."""
    one, two = load_file(before), load_file(after)
    assert one.keys() == two.keys()
    return {n for n in one if one[n].numpy().tobytes() != two[n].numpy().tobytes()}


# -- what a transfer leaves ----------------------------------------------------------------------


def test_it_goes_the_whole_way(base, moved):
    folder, recipe, result = moved
    assert (folder / SOURCE).read_bytes() == (base[0] / WEIGHTS).read_bytes()
    assert Recipe.load(folder / "recipe.toml") == recipe
    assert recipe.transfer.source == digest(load_file(base[0] / WEIGHTS))
    assert {"schema": 1, **result} == records.read_json(folder / "result.json")
    assert result.keys() == base[2].keys()
    assert [winner["budget"] for winner in result["winners"]] == ["macs<=20%", "macs<=90%"]
    for own, other in zip(result["winners"], base[2]["winners"], strict=True):
        assert own.keys() == other.keys()
        assert (folder / own["files"]["json"]).exists()
        subnet = load_file(folder / "subnets" / f"{own['arch']}.safetensors")
        assert [tuple(subnet[n.removeprefix("model.")].shape) for n in HEAD] == [(4, 9), (4,)]
        assert records.read_json(folder / own["files"]["json"])["data"]["classes"] == 4
    assert result["shift"] == "population"
    rows = lines(folder, "train.jsonl")
    assert [row["images"] for row in rows] == [128, 256, 384, 512, 640]  # 4 batches of 32 of 136
    assert result["images_forwarded"]["train"] == 640
    assert {row["lr"] for row in rows} == {0.1}


def test_costs_are_those_with_the_new_classifier(base, moved):
    """Of the largest, by hand: 6 classes fewer, each of 9 weights and a bias."""
    arch = [(3, 3, 3, 3)]
    params, macs = (
        [Workspace.build(recipe).costs[metric](arch)[0].item() for recipe in (base[1], moved[1])]
        for metric in ("params", "macs")
    )
    assert (params[0] - params[1], macs[0] - macs[1]) == (60, 54)


def test_settings_are_the_runs_but_for_its_images(base, moved):
    own, recipe = base[1], moved[1]
    for part in ("seed", "network", "sharing", "train", "evaluate", "search", "finish", "export"):
        assert getattr(recipe, part) == getattr(own, part)
    assert recipe.data == Data(name="levels", validation=64)  # without train_size
    assert recipe.sampler == Sampling()
    assert recipe.name == "small-levels"
    assert (recipe.shift.name, recipe.shift.lr, recipe.shift.head_lr) == ("population", 0.005, 0.05)


def test_a_moved_run_is_a_run_like_any_other(base, moved, tmp_path):
    """It is searched again, exported from, and moved on, from the weights before it shifted."""
    recipe = Recipe.load(moved[0] / "recipe.toml", [*QUICK, "search.name=random"][:3])
    again = run(recipe, tmp_path / "again", trained=moved[0])
    assert again["searched"] <= 4
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (moved[0] / WEIGHTS).read_bytes()
    shutil.copytree(moved[0], tmp_path / "copy")
    export_architecture(moved[1], tmp_path / "copy", "1-1-1-1")
    assert load_file(tmp_path / "copy/subnets/1-1-1-1.safetensors")[HEAD[1][6:]].shape == (4,)
    onward, _ = move(moved[0], tmp_path / "back", data="digits", whole=False)
    assert onward.transfer.source == digest(load_file(moved[0] / WEIGHTS))
    assert onward.name == "small-levels-digits"
    weights = load_file(tmp_path / "back" / WEIGHTS)
    assert weights[HEAD[0]].shape == (10, 9)
    assert weights["model.chain.0.0.weight"].equal(
        load_file(base[0] / WEIGHTS)["model.chain.0.0.weight"]
    )


# -- the new classifier --------------------------------------------------------------------------


def test_only_the_classifier_learns_before_the_search(base, moved, tmp_path):
    own, source = load_file(moved[0] / WEIGHTS), load_file(base[0] / WEIGHTS)
    assert own.keys() == source.keys()
    for name in source.keys() - set(HEAD):
        assert own[name].numpy().tobytes() == source[name].numpy().tobytes(), name
    move(base[0], tmp_path, "transfer.head_epochs=0", whole=False)
    assert changed(tmp_path / WEIGHTS, moved[0] / WEIGHTS) == set(HEAD)
    assert not (tmp_path / "train.jsonl").exists()


def test_an_untrained_classifier_is_as_it_was_drawn(base, tmp_path):
    """4,500 weights: a deviation of 0.0095 or 0.0105 is five standard errors away."""
    drawn = []
    for seed in (1, 1, 2):
        folder = tmp_path / str(len(drawn))
        move(base[0], folder, "transfer.head_epochs=0", f"seed={seed}", data="many", whole=False)
        weights = load_file(folder / WEIGHTS)
        drawn.append(weights[HEAD[0]])
        assert weights[HEAD[1]].equal(torch.zeros(500))
    values = drawn[0].double().flatten().numpy()
    assert values.shape == (4500,)
    assert values.std() == pytest.approx(0.01, rel=0.05)
    assert scipy.stats.kstest(values / 0.01, "norm").pvalue > 0.001
    assert drawn[0].equal(drawn[1])
    assert not drawn[0].equal(drawn[2])


def test_its_loss_falls_before_the_search(base, tmp_path):
    """Brightness is easy to see, and on a fixed body the loss of a path is convex in its weights.

    It begins at the logarithm of 4 classes. Over ten seeds it falls by 0.21 and more.
    """
    settings = ("transfer.head_lr=0.05", "transfer.head_epochs=8", "train.batch_size=16")
    move(base[0], tmp_path, *settings, whole=False)
    rows = lines(tmp_path, "train.jsonl")
    losses = [row["loss"] for row in rows]
    assert losses[0] == pytest.approx(math.log(4), abs=0.1)
    assert losses[-1] < losses[0] - 0.1
    assert [(row["epoch"], row["step"]) for row in rows] == [(e, 8 * e) for e in range(1, 9)]


# -- the search on the target --------------------------------------------------------------------


def test_all_moves_in_the_search_or_only_the_classifier(base, moved, tmp_path):
    assert HEAD[0] in changed(moved[0] / WEIGHTS, moved[0] / SHIFTED)
    assert "model.chain.0.0.weight" in changed(moved[0] / WEIGHTS, moved[0] / SHIFTED)
    move(base[0], tmp_path, *QUICK, "shift.freeze_body=true")
    assert changed(tmp_path / WEIGHTS, tmp_path / SHIFTED) == set(HEAD)
    own, source = load_file(tmp_path / SHIFTED), load_file(base[0] / WEIGHTS)
    for name in source.keys() - set(HEAD):
        assert own[name].numpy().tobytes() == source[name].numpy().tobytes(), name


def test_the_classifier_moves_ten_times_as_fast(base, tmp_path):
    """One step of plain SGD is the rate times the gradient; rounding is 1e-8 of steps near 1e-3."""
    once = ("search.name=random", "search.options={}", "search.candidates=1", "shift.steps=1",
            "shift.momentum=0.0", "shift.weight_decay=0.0", "search.budgets=['macs<=90%']",
            "finish.mode=inherit")  # fmt: skip
    steps = []
    for folder, rate in ((tmp_path / "10", ()), (tmp_path / "1", ("shift.head_lr=0.005",))):
        move(base[0], folder, *once, *rate)
        before, after = load_file(folder / WEIGHTS), load_file(folder / SHIFTED)
        steps.append({name: after[name] - before[name] for name in before})
    for name, step in steps[0].items():
        if name in HEAD:
            torch.testing.assert_close(step, 10 * steps[1][name], rtol=1e-3, atol=1e-6)
            assert step.abs().max() > 1e-4
        else:
            assert step.equal(steps[1][name])


def test_batch_norms_are_calibrated_on_the_target(base, moved):
    folder, _, result = moved
    winner = result["winners"][1]
    final = [row for row in lines(folder, "search.jsonl") if row["role"] == "final"]
    [record] = [row for row in final if row["arch"] == winner["arch"]]
    net = ms.Supernet(ms.zoo.tiny(width=3, channels=1, classes=4))
    load_weights(folder / SHIFTED, net)
    net.to(memory_format=torch.channels_last)

    def batches(splits, part, images):
        own = getattr(splits, part)
        return fixed(own, images, 64, mean=splits.mean, std=splits.std, seed=1)

    target = load("levels", validation=64, seed=1)
    source = load("digits", validation=64, train_size=128, seed=1)
    on_target, on_source = (
        ms.evaluate.score(
            net,
            net.space.from_text(winner["arch"]),
            calibration=batches(images, "train", 64),
            validation=batches(target, "validation", None),
        )
        for images in (target, source)
    )
    assert (record["proxy_accuracy"], record["proxy_loss"]) == (on_target.accuracy, on_target.loss)
    assert winner["proxy_accuracy"] == on_target.accuracy
    assert on_source.loss != on_target.loss


@pytest.mark.parametrize("mixed", ["false", "true"])
def test_a_supernet_of_several_copies_moves_too(tmp_path, mixed):
    """With one classifier for all of them, or a stack."""
    train_only(small(tmp_path / "source", K_SHOT % mixed), tmp_path / "source")
    _, result = move(tmp_path / "source", tmp_path / "run", *QUICK)
    source, own = (load_file(tmp_path / "run" / name) for name in (SOURCE, WEIGHTS))
    fixed_ones = source.keys() - set(HEAD)
    assert own.keys() == source.keys()
    assert any("simplex_net" in name for name in fixed_ones)
    for name in fixed_ones:
        assert own[name].numpy().tobytes() == source[name].numpy().tobytes(), name
    stack = (2,) if mixed == "true" else ()
    assert (source[HEAD[0]].shape, own[HEAD[0]].shape) == ((*stack, 10, 9), (*stack, 4, 9))
    assert len({tuple(piece.flatten().tolist()) for piece in own[HEAD[0]].reshape(-1, 4, 9)}) == (
        2 if stack else 1
    )
    [winner] = result["winners"]
    subnet = load_file(tmp_path / "run" / "subnets" / f"{winner['arch']}.safetensors")
    assert subnet[HEAD[0].removeprefix("model.")].shape == (4, 9)


# -- resuming ------------------------------------------------------------------------------------


class Stopped(BaseException):
    """A kill, as far as Python can play one."""


@pytest.fixture
def built_once(monkeypatch):
    """Runs of this test share one supernet, set back to its initial weights: that saves time."""
    build, kept = Workspace.build, {}

    def from_kept(recipe):
        if recipe != kept.get("recipe"):
            kept.update(ws=build(recipe), recipe=recipe)
            kept["state"] = {n: t.clone() for n, t in kept["ws"].net.state_dict().items()}
        kept["ws"].net.load_state_dict(kept["state"])
        kept["ws"].net.train()
        return kept["ws"]

    monkeypatch.setattr(Workspace, "build", from_kept)


@pytest.mark.usefixtures("built_once")
def test_stopped_after_every_durable_write(base, tmp_path, monkeypatch):
    """Before the source's weights are copied it is begun again; from then on they are enough."""
    once = ("search.name=random", "search.options={}", "search.candidates=2", "shift.rescored=1",
            "search.generation=1", "transfer.head_epochs=2")  # fmt: skip
    recipe = transfer_recipe(base[0], None, "levels", [*QUICK, *once])
    run(recipe, tmp_path / "whole", source=base[0])

    def everything(folder):
        return outcome(folder), digest(load_file(folder / SHIFTED)), (folder / SOURCE).read_bytes()

    whole, written = everything(tmp_path / "whole"), []
    while True:
        folder = tmp_path / str(len(written))

        def wrote(path, left=[len(written)]):  # noqa: B006 (counts the writes of this attempt)
            left[0] -= 1
            if left[0] < 0:
                written.append(path.name)
                raise Stopped

        monkeypatch.setattr(records, "wrote", wrote)
        try:
            run(recipe, folder, source=base[0])
        except Stopped:
            monkeypatch.setattr(records, "wrote", lambda path: None)
        else:
            break
        resumed = Recipe.load(folder / "recipe.toml")
        if (folder / SOURCE).exists():
            run(resumed, folder)
        else:
            with pytest.raises(records.RecordError, match="start it with manyshot transfer RUN"):
                run(resumed, folder)
            run(resumed, folder, source=base[0])
        assert everything(folder) == whole, written[-1]
        shutil.rmtree(folder)
    assert written[:6] == [
        "recipe.toml", "environment.json", SOURCE, "train.jsonl", "train.jsonl", WEIGHTS
    ]  # fmt: skip
    assert {"search.jsonl", "shift.jsonl", "shift.pt", SHIFTED, "finish.jsonl"} <= set(written)
    assert written[-1] == "result.json"


# -- what to do on the target --------------------------------------------------------------------


def written_to(path, text):
    path.write_text(text)
    return path


def test_sections_of_a_recipe_win_and_the_network_is_the_runs(base, tmp_path):
    path = written_to(
        tmp_path / "own.toml",
        "[data]\nname = 'levels'\nvalidation = 32\n[train]\nlr = 0.3\n[shift]\nlr = 0.002\n",
    )
    recipe = transfer_recipe(base[0], path, None, ["train.epochs=7", "seed=9"])
    assert (recipe.network, recipe.sharing) == (base[1].network, base[1].sharing)
    assert recipe.data == Data(name="levels", validation=32)
    assert recipe.train == Training(lr=0.3, epochs=7)  # all else as in no recipe, not as in the run
    assert (recipe.search, recipe.name, recipe.seed) == (Searching(), "digits", 9)
    shift = recipe.shift
    assert (shift.name, shift.lr, shift.head_lr) == ("population", 0.002, pytest.approx(0.02))
    over = transfer_recipe(base[0], path, "digits", ["data.validation=16", "name=mine"])
    assert (over.data, over.name) == (Data(name="digits", validation=16), "mine")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("name='none'", ("none", 0.05)),
        ("name='uniform_finetune'\nhead_lr=0.3", ("uniform_finetune", 0.3)),
        ("steps=2", ("population", 0.05)),
    ],
)
def test_a_recipe_may_say_how_to_shift(base, tmp_path, section, expected):
    path = written_to(tmp_path / "own.toml", f"[data]\nname='levels'\n[shift]\n{section}\n")
    shift = transfer_recipe(base[0], path, None, []).shift
    assert (shift.name, shift.head_lr) == expected


def test_how_the_run_itself_shifted_goes_on(base, tmp_path):
    source = like(base, tmp_path, "shift.name=uniform_finetune", "shift.lr=0.02", "data.pad=0",
                  "data.image_size=8", "sampler.name=fair")  # fmt: skip
    recipe = transfer_recipe(source, None, "levels", [])
    assert (recipe.shift.name, recipe.shift.head_lr) == ("uniform_finetune", 0.2)
    assert recipe.data == Data(name="levels", validation=64, pad=0, image_size=8)
    assert recipe.sampler == Sampling()


def test_a_search_of_frozen_weights_may_follow(base, tmp_path):
    _, result = move(base[0], tmp_path, *QUICK, "shift.name=none")
    assert (result["shift"], result["images_forwarded"]["shift"]) == ("none", 0)
    assert not (tmp_path / SHIFTED).exists()
    assert {row["weights_version"] for row in lines(tmp_path, "search.jsonl")} == {0}


@pytest.mark.xfail(reason="ten times the rate before overrides")
def test_the_classifiers_rate_follows_an_overridden_one(base):
    shift = transfer_recipe(base[0], None, "levels", ["shift.lr=0.001"]).shift
    assert shift.head_lr == pytest.approx(0.01)


@pytest.mark.xfail(reason="new weights are those of the network as the recipe says")
def test_a_winner_from_scratch_has_the_targets_classes_whatever_the_network_says(base, tmp_path):
    source = like(base, tmp_path / "source", "network.options.classes=10")
    _, result = move(source, tmp_path / "run", *QUICK, "finish.mode=scratch",
                     "finish.training.epochs=1")  # fmt: skip
    path = tmp_path / "run" / "subnets" / f"{result['winners'][0]['arch']}.safetensors"
    assert load_file(path)[HEAD[0].removeprefix("model.")].shape == (4, 9)
