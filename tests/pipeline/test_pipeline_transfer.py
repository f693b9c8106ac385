"""Supernets moved to other images, by the library and by the command line."""

import functools
import json
import math
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from safetensors.torch import load_file
from test_pipeline_resume import snapshot

import manyshot as ms
from kills import EVERY, left_by_kills
from manyshot import cli, records
from manyshot.cost import macs
from manyshot.data import DATASETS, Batches, ImageSet, fixed, load
from manyshot.nn import BatchNorm2d
from manyshot.pipeline import Workspace, train_only, transfer_recipe
from manyshot.pipeline.stages import order
from manyshot.pipeline.verbs.compare_spent import spent_by
from manyshot.pipeline.verbs.run import begin
from manyshot.progress import Silent
from manyshot.recipe import (
    DataSettings,
    Recipe,
    RecipeError,
    SamplerSettings,
    SearchSettings,
    SupernetSettings,
)
from manyshot.run_folder import SHIFTED, RunFolder
from manyshot.seeding import numpy_rng
from manyshot.train import CheckpointError, NonFiniteLoss, load_weights
from manyshot.train.checkpoint import digest
from pipeline_runs import export_architecture, lines, outcome, run, small, timeless

WEIGHTS, SOURCE = "supernet.safetensors", "source.safetensors"
HEAD = ("model.chain.5.2.weight", "model.chain.5.2.bias")
QUICK = (
    "search.budgets=['macs<=90%']",
    "search.candidates=4",
    "search.generation=2",
    "search.options={population=2, parents=1, mutants=1, crossovers=1}",
    "shifting.steps=1",
    "shifting.batch_size=16",
    "shifting.rescored=2",
    "finish.mode=inherit",
)
SHORT = ("transfer.body_epochs=0", "shifting.watched=0")
"""Of a transfer to the classifier alone, in which nothing is watched."""
RANDOM = ("search.name=random", "search.options={}")
NEAR = "search.budgets=['macs<=60%']"


def levels(classes, root, image_size, download):
    """Grey images of 8x8 pixels whose class is their brightness: train, test."""
    parts = []
    for seed, count in enumerate((max(200, 3 * classes), 40)):
        labels = np.arange(count) % classes
        bright = (labels * (190 / classes)).astype(np.uint8)[:, None, None, None]
        noise = np.random.default_rng(seed).integers(0, 64, (count, 1, 8, 8), dtype=np.uint8)
        images, labels = torch.from_numpy(noise + bright), torch.from_numpy(labels)
        parts.append(ImageSet(images=images, labels=labels, classes=classes))
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
    recipe = transfer_recipe(source, None, data, [*SHORT, *overrides])
    if whole:
        return recipe, run(recipe, folder, source=source)
    begin(recipe, folder, Silent(), source=source)
    return recipe, None


@pytest.fixture(scope="module")
def moved(base, tmp_path_factory):
    """The finished run moved with no settings but the target and `SHORT`; tests only read it."""
    folder = tmp_path_factory.mktemp("moved")
    return folder, *move(base[0], folder)


def changed(before: Path, after: Path) -> set[str]:
    """Names of the tensors whose bytes differ between two files of the same names."""
    one, two = load_file(before), load_file(after)
    assert one.keys() == two.keys()
    return {n for n in one if one[n].numpy().tobytes() != two[n].numpy().tobytes()}


def subnet_of(folder, text):
    """Parameters of a finished network, by their names in the supernet."""
    found = load_file(folder / "subnets" / f"{text}.safetensors")
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return {f"model.{name}": t for name, t in found.items() if not name.endswith(buffers)}


# -- what a transfer leaves ----------------------------------------------------------------------


def test_it_goes_the_whole_way(base, moved):
    folder, recipe, result = moved
    assert (folder / SOURCE).read_bytes() == (base[0] / WEIGHTS).read_bytes()
    assert Recipe.load(folder / "recipe.toml") == recipe
    assert recipe.transfer.source == digest(load_file(base[0] / WEIGHTS))
    assert {"schema": 2, **result} == records.read_json(folder / "result.json")
    assert result.keys() == base[2].keys() | {"dose"}
    assert [winner["budget"] for winner in result["winners"]] == ["macs<=20%", "macs<=90%"]
    for own, other in zip(result["winners"], base[2]["winners"], strict=True):
        assert own.keys() == other.keys()
        assert (folder / own["files"]["json"]).exists()
        subnet = subnet_of(folder, own["arch"])
        assert [subnet[name].shape for name in HEAD] == [(4, 9), (4,)]
        assert own["params"] == sum(t.numel() for t in subnet.values())
        assert json.loads((folder / own["files"]["json"]).read_text())["data"]["classes"] == 4
    assert result["shifting"] == "population"
    rows = lines(folder, "train.jsonl")
    assert [row["images"] for row in rows] == [128, 256, 384, 512, 640]  # 4 batches of 32 of 136
    assert result["images_forwarded"]["train"] == 640
    assert {row["lr"] for row in rows} == {0.1}


def test_settings_are_the_runs_but_for_its_images(base, moved):
    own, recipe = base[1], moved[1]
    for part in ("seed", "network", "sharing", "train", "evaluate", "finish", "export"):
        assert getattr(recipe, part) == getattr(own, part)
    again = {"dedupe": "per_generation"}  # since the weights move
    assert recipe.search.model_dump() == {
        **own.search.model_dump(),
        "options": {**own.search.options, **again},
    }
    assert recipe.data == DataSettings(name="levels", validation=64)  # without train_size
    assert recipe.sampler == SamplerSettings()
    assert recipe.name == "small-levels"
    assert (recipe.shifting.name, recipe.shifting.lr, recipe.shifting.head_lr) == (
        "population",
        0.005,
        0.05,
    )


def test_what_a_moved_run_spent_is_said_as_it_is(moved):
    """Its steps and its multiply-adds are on record."""
    folder, recipe, result = moved
    spent = spent_by(folder, RunFolder(folder).result())
    per_epoch = len(Workspace.build(recipe).batches(recipe.train))
    epochs = recipe.transfer.head_epochs + recipe.transfer.body_epochs
    shifting = result["images_forwarded"]["shifting"] // recipe.shifting.batch_size
    assert spent.weight_steps == epochs * per_epoch + shifting > shifting > 0
    assert spent.macs["training"] == lines(folder, "train.jsonl")[-1]["macs"] > 0
    assert spent.macs["shifting"] > 0 and not spent.missing


def test_a_moved_run_is_a_run_like_any_other(base, moved, tmp_path):
    """It is searched again, exported from, and moved on, from the weights before it shifted."""
    recipe = Recipe.load(moved[0] / "recipe.toml", QUICK)
    again = run(recipe, tmp_path / "again", trained=moved[0])
    assert 2 <= again["searched"] <= 4
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (moved[0] / WEIGHTS).read_bytes()
    shutil.copytree(moved[0], tmp_path / "copy")
    export_architecture(moved[1], tmp_path / "copy", "1-1-1-1")
    assert subnet_of(tmp_path / "copy", "1-1-1-1")[HEAD[0]].shape == (4, 9)
    onward, _ = move(moved[0], tmp_path / "back", data="digits", whole=False)
    assert onward.transfer.source == digest(load_file(moved[0] / WEIGHTS))
    assert onward.name == "small-levels-digits"
    weights = load_file(tmp_path / "back" / WEIGHTS)
    assert weights[HEAD[0]].shape == (10, 9)
    assert changed(base[0] / WEIGHTS, tmp_path / "back" / WEIGHTS) == set(HEAD)


# -- the new classifier --------------------------------------------------------------------------


def test_only_the_classifier_learns_before_the_search(base, moved, tmp_path):
    assert changed(base[0] / WEIGHTS, moved[0] / WEIGHTS) == set(HEAD)
    move(base[0], tmp_path, "transfer.head_epochs=0", whole=False)
    assert changed(tmp_path / WEIGHTS, moved[0] / WEIGHTS) == set(HEAD)
    assert not (tmp_path / "train.jsonl").exists()


def test_an_untrained_classifier_is_as_it_was_drawn(base, tmp_path):
    """4,500 weights: a deviation of 0.0095 or 0.0105 is 4.7 standard errors away."""
    drawn = []
    for seed in (1, 1, 2):
        folder, own = tmp_path / str(len(drawn)), ("transfer.head_epochs=0", f"seed={seed}")
        move(base[0], folder, *own, QUICK[0], data="many", whole=False)
        weights = load_file(folder / WEIGHTS)
        drawn.append(weights[HEAD[0]].double().numpy())
        assert weights[HEAD[1]].equal(torch.zeros(500))
    assert drawn[0].shape == (500, 9)
    assert drawn[0].std() == pytest.approx(0.01, rel=0.05)
    assert scipy.stats.kstest(drawn[0].ravel() / 0.01, "norm").pvalue > 0.001
    assert (drawn[0] == drawn[1]).all()
    assert (drawn[0] != drawn[2]).mean() > 0.99


def test_its_loss_begins_at_the_logarithm_of_the_classes(base, tmp_path):
    """A new classifier knows nothing. How far the loss falls on a random body is luck."""
    settings = ("transfer.head_lr=0.05", "transfer.head_epochs=3", "train.batch_size=16")
    move(base[0], tmp_path, *settings, whole=False)
    rows = lines(tmp_path, "train.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(4), abs=0.1)
    assert [(row["epoch"], row["step"]) for row in rows] == [(e, 8 * e) for e in range(1, 4)]


# -- all of it, before the search ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "factors"),
    [
        ((), [(1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]),
        (("train.warmup_epochs=1", "train.ema=0.6"), [1 / 3, 2 / 3, 1, 1 / 2]),
    ],
)
def test_all_weights_learn_on_uniform_paths_as_in_training(base, tmp_path, settings, factors):
    """After the classifier, from its weights, on later epochs; against plain torch."""
    how = ("transfer.head_epochs=1", "train.batch_size=64", "train.lr=0.02", "data.pad=0")
    how = (*how, *settings)
    move(base[0], tmp_path / "head", *how, whole=False)
    recipe, _ = move(base[0], tmp_path / "body", *how, "transfer.body_epochs=2", whole=False)
    rows = lines(tmp_path / "body", "train.jsonl")
    assert [(row["step"], row["epoch"], row["images"]) for row in rows] == [
        (2 * e, e, 128 * e) for e in (1, 2, 3)
    ]
    assert [row["lr"] for row in rows] == pytest.approx([0.1, 0.02 * factors[0], 0.02 * factors[2]])
    ws = Workspace.build(recipe)
    spent = []  # the body runs backward only where it moves
    for name, epochs, passes in (("head", 1, 1), ("body", 2, 3)):
        draws = numpy_rng(1, name)
        for _ in range(epochs):
            archs = [ws.net.space.sample(draws) for _ in range(2)]
            spent.append(passes * 64 * int(macs(ws.net, archs, (1, 8, 8)).sum()))
    assert [row["macs"] for row in rows] == np.cumsum(spent).tolist()
    assert [row["weight_steps"] for row in rows] == [2, 4, 6]
    load_weights(tmp_path / "head" / WEIGHTS, ws.net)
    net, rng = ws.net.train(), numpy_rng(1, "body")
    norms = {id(p) for m in net.modules() if isinstance(m, BatchNorm2d) for p in m.parameters()}
    free = norms | {id(p) for name, p in net.named_parameters() if name.endswith("bias")}
    groups = [
        {"params": [p for p in net.parameters() if (id(p) in free) == is_free], "weight_decay": w}
        for is_free, w in ((False, 5e-4), (True, 0.0))
    ]
    optimizer = torch.optim.SGD(groups, 0.02, 0.9, nesterov=True)
    batches, losses = ws.batches(recipe.train), []
    paths = [net.space.sample(rng) for _ in range(4)]
    images = [batch for epoch in (1, 2) for batch in batches.epoch(epoch)]
    average = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for step, (arch, (inputs, labels)) in enumerate(zip(paths, images, strict=True)):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * factors[step]
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(inputs, arch), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        kept = min(0.6, (step + 1) / (10 + step)) if settings else 0.0
        for name, tensor in net.state_dict().items():
            average[name] = kept * average[name] + (1 - kept) * tensor
    expected = [np.mean(losses[:2]), np.mean(losses[2:])]
    assert [row["loss"] for row in rows[1:]] == pytest.approx(expected, rel=1e-4)
    after = load_file(tmp_path / "body" / WEIGHTS)
    for name, tensor in average.items():
        if name in after:
            torch.testing.assert_close(after[name], tensor, rtol=1e-4, atol=1e-6)


def test_the_dose_is_beside_the_training_of_the_body(base, moved, tmp_path):
    how = ("transfer.body_epochs=1", "train.lr=0.02", "train.warmup_epochs=0.5")
    _, result = move(base[0], tmp_path, *QUICK, *how)
    rates = [0.02 * factor for factor in (1 / 3, 2 / 3, 1, 1 / 2)]
    assert result["dose"]["training"] == pytest.approx(sum(rates))
    assert result["dose"]["relative"] == pytest.approx(result["dose"]["shifting"] / sum(rates))
    assert "relative" not in moved[2]["dose"]  # nothing but the classifier trained


def test_a_supernet_that_does_not_order_is_warned_of(base, tmp_path, monkeypatch):
    """Once, before the search: of halves that disagree, here planted."""
    watched = ("shifting.watched=12", "search.budgets=['macs<=90%']")
    monkeypatch.setattr(order, "halves_tau", lambda lines: 0.25)
    with pytest.warns(
        UserWarning, match=r"order the 12 .* \(tau 0.25\).* \(transfer.body_epochs\)"
    ):
        recipe, result = move(base[0], tmp_path, *QUICK, *watched)
    assert result["order"]["global"]["halves_tau_before"] == 0.25
    run(recipe, tmp_path)  # which would warn
    monkeypatch.setattr(order, "halves_tau", lambda lines: 0.9)
    move(base[0], tmp_path / "other", *QUICK, *watched)


def test_by_default_enough_is_watched_to_see_it(base, moved):
    for source in (base[0], moved[0]):
        assert transfer_recipe(source, None, "levels", []).shifting.watched == 50
    said = transfer_recipe(base[0], None, "levels", ["shifting.watched=3"])
    assert said.shifting.watched == 3


def test_sizes_that_images_grew_through_are_left_behind(base, tmp_path):
    """They end at the size of the run's images, and a body does not grow."""
    moved = shutil.copytree(base[0], tmp_path / "moved")
    sizes = ("train.image_sizes=[6, 8]", "finish.training.image_sizes=[6, 8]")
    (moved / "recipe.toml").write_text(small(*sizes).to_toml())
    recipe = transfer_recipe(moved, None, "mnist", [])
    assert (recipe.train.image_sizes, recipe.finish.training.image_sizes) == (None, None)


# -- the search on the target --------------------------------------------------------------------


def test_all_moves_in_the_search_or_only_the_classifier(base, moved, tmp_path):
    assert HEAD[0] in changed(moved[0] / WEIGHTS, moved[0] / SHIFTED)
    assert "model.chain.0.0.weight" in changed(moved[0] / WEIGHTS, moved[0] / SHIFTED)
    move(base[0], tmp_path, *QUICK, "shifting.freeze_body=true")
    assert changed(tmp_path / WEIGHTS, tmp_path / SHIFTED) == set(HEAD)
    assert changed(base[0] / WEIGHTS, tmp_path / SHIFTED) == set(HEAD)


def test_the_classifier_moves_ten_times_as_fast(base, tmp_path):
    """One step of plain SGD is the rate times the gradient; weights below 1 round by 3e-8."""
    once = ("search.candidates=1", "shifting.momentum=0.0", "shifting.weight_decay=0.0")
    steps = []
    for folder, rate in ((tmp_path / "10", ()), (tmp_path / "1", ("shifting.head_lr=0.005",))):
        move(base[0], folder, *QUICK, *RANDOM, *once, *rate)
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
    assert (record["proxy_score"], record["proxy_loss"]) == (on_target.value, on_target.loss)
    assert winner["proxy_score"] == on_target.value
    assert on_source.loss != on_target.loss


@pytest.mark.parametrize("mixed", ["false", "true"])
def test_a_supernet_of_two_copies_moves_too(tmp_path, mixed):
    """With one classifier for both, or a stack; its simplex-net is kept as all else is."""
    options = f"{{copies=2, m=2, code_every=2, mix_fixed_layers={mixed}}}"
    k_shot = f"sharing={{name='k_shot', options={options}}}"
    train_only(small(k_shot), tmp_path / "source")
    _, result = move(tmp_path / "source", tmp_path / "run", *QUICK)
    assert changed(tmp_path / "source" / WEIGHTS, tmp_path / "run" / WEIGHTS) == set(HEAD)
    weights = load_file(tmp_path / "run" / WEIGHTS)
    assert any("simplex_net" in name for name in weights)
    assert weights[HEAD[0]].shape == ((2, 4, 9) if mixed == "true" else (4, 9))
    [winner] = result["winners"]
    assert subnet_of(tmp_path / "run", winner["arch"])[HEAD[0]].shape == (4, 9)


def test_what_slices_of_the_source_began_as_is_of_the_source_alone(tmp_path):
    """Those of the target begin as the source's are now; to say anything else is an error."""
    one, two = tmp_path / "one", tmp_path / "two"
    train_only(small("train.epochs=1"), one)
    inherits = f"sharing.inherit={str(one)!r}"
    k_shot = "sharing={name='k_shot', options={copies=2, code_every=2, start='equal'}}"
    train_only(small(k_shot, inherits, "train.epochs=1"), two)
    recipe = transfer_recipe(two, None, "levels", [*SHORT])
    assert recipe.sharing == Recipe.load(two / "recipe.toml").sharing.model_copy(
        update={"inherit": None}
    )
    with pytest.raises(RecipeError, match="in a transfer they begin as those of the run that is m"):
        transfer_recipe(two, None, "levels", [*SHORT, inherits])


# -- resuming ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("built_once")
@EVERY
def test_stopped_after_every_durable_write(base, tmp_path, of):
    """Before the source's weights are copied it is begun again; from then on they are enough."""
    short = ["search.candidates=2", "search.generation=1", "shifting.rescored=1"]
    short += ["transfer.head_epochs=1", "train.batch_size=64", "transfer.classifier=chain.5.2"]
    short += ["transfer.body_epochs=1", "shifting.watched=0"]
    recipe = transfer_recipe(base[0], None, "levels", [*QUICK, *RANDOM, *short])
    work = functools.partial(run, recipe, tmp_path / "whole", source=base[0])
    left = left_by_kills(tmp_path / "whole", work)

    def everything(folder):
        return outcome(folder), digest(load_file(folder / SHIFTED)), (folder / SOURCE).read_bytes()

    whole, written = everything(tmp_path / "whole"), [name for name, _ in left]
    for name, folder in of(left):
        resumed = Recipe.load(folder / "recipe.toml")
        if (folder / SOURCE).exists():
            run(resumed, folder)
        else:
            with pytest.raises(records.RecordError, match="start it with manyshot transfer RUN"):
                run(resumed, folder)
            run(resumed, folder, source=base[0])
        assert everything(folder) == whole, name
        shutil.rmtree(folder)
    assert written[:8] == [
        "recipe.toml", "environment.json", "recipe.sig", "space.json", SOURCE, "train.jsonl",
        "train.jsonl", WEIGHTS,
    ]  # fmt: skip
    assert {"search.jsonl", "shifting.jsonl", "shifting.pt", SHIFTED, "finish.jsonl"} <= set(
        written
    )
    assert written[-1] == "result.json"


# -- what to do on the target --------------------------------------------------------------------


def put(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_sections_of_a_recipe_win_and_the_network_is_the_runs(base, tmp_path):
    text = "data={name='levels', validation=32}\ntrain.lr=0.3\nshifting.lr=0.002"
    path = put(tmp_path / "own.toml", text)
    recipe = transfer_recipe(base[0], path, None, ["train.epochs=7", "seed=9"])
    assert (recipe.network, recipe.sharing) == (base[1].network, base[1].sharing)
    assert recipe.data == DataSettings(name="levels", validation=32)
    assert recipe.train == SupernetSettings(
        lr=0.3, epochs=7
    )  # all else as in no recipe, not as in the run
    search = SearchSettings.model_validate({"options": {"dedupe": "per_generation"}})
    assert (recipe.search, recipe.name, recipe.seed) == (search, "levels", 9)
    shifting = recipe.shifting
    assert (shifting.name, shifting.lr, shifting.head_lr) == (
        "population",
        0.002,
        pytest.approx(0.02),
    )
    over = transfer_recipe(base[0], path, "digits", ["data.validation=16", "name=mine"])
    assert (over.data, over.name) == (DataSettings(name="digits", validation=16), "mine")


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("shifting.name='none'", ("none", 0.05)),
        ("shifting={name='uniform_finetune', head_lr=0.3}", ("uniform_finetune", 0.3)),
        ("shifting.steps=2", ("population", 0.05)),
    ],
)
def test_a_recipe_may_say_how_to_shift(base, tmp_path, section, expected):
    path = put(tmp_path / "own.toml", f"data.name='levels'\n{section}\n")
    shifting = transfer_recipe(base[0], path, None, []).shifting
    assert (shifting.name, shifting.head_lr) == expected


def test_how_the_run_itself_shifted_goes_on(base, tmp_path):
    own = ["shifting.name=uniform_finetune", "shifting.lr=0.02", "data.pad=0", "data.image_size=8"]
    recipe = Recipe.load(base[0] / "recipe.toml", [*own, "sampler.name=fair"])
    put(tmp_path / "recipe.toml", recipe.to_toml())
    shutil.copy(base[0] / WEIGHTS, tmp_path)
    recipe = transfer_recipe(tmp_path, None, "levels", [])
    assert (recipe.shifting.name, recipe.shifting.head_lr) == ("uniform_finetune", 0.2)
    assert recipe.data == DataSettings(name="levels", validation=64, pad=0, image_size=8)
    assert recipe.sampler == SamplerSettings()


def test_a_search_of_frozen_weights_may_follow(base, tmp_path):
    _, result = move(base[0], tmp_path, *QUICK, "shifting.name=none")
    assert (result["shifting"], result["images_forwarded"]["shifting"]) == ("none", 0)
    assert not (tmp_path / SHIFTED).exists()
    assert {row["weights_version"] for row in lines(tmp_path, "search.jsonl")} == {0}


# -- what is refused -----------------------------------------------------------------------------


@pytest.fixture
def call(capsys, monkeypatch, tmp_path):
    """Runs the command line in an empty folder: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MANYSHOT_DATA", raising=False)

    def command(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main([str(word) for word in arguments])
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return command


def sets(*overrides):
    return [word for override in overrides for word in ("--set", override)]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "--data=levels"], 2, "there is no folder nowhere"),
        (["untrained", "--data=levels"], 1, "untrained has no supernet.safetensors: train it first "
         "with manyshot train"),
        (["damaged", "--data=levels"], 1, "weights damaged/supernet.safetensors cannot be read"),
        (["RUN"], 2, "give the target: --data NAME, or a recipe with data.name"),
        (["RUN", "bare.toml"], 2, "give the target: --data NAME, or a recipe with data.name"),
        (["RUN", "none.toml"], 2, "there is no recipe none.toml"),
        (["RUN", "--data=level"], 1, "unknown data set 'level'; did you mean 'levels'?"),
        (["RUN", "--data=folder"], 1, "'folder' needs data.root"),
        (["RUN", "net.toml"], 2, "net.toml: network is not that of the supernet in RUN: leave it "
         "out, the run's is taken"),
        (["RUN", "--data=levels", *sets("sharing.name=k_shot")], 2, "RUN with --set "
         "'sharing.name=k_shot': sharing is not that of the supernet in RUN: leave it out"),
        (["RUN", "--data=levels", *sets(NEAR, "search.name=generator", "search.options={}")], 2,
         "takes winners from a trained sampler, and a transfer trains none"),
        (["RUN", "--data=levels", *sets(NEAR, "search.name=generator", "search.options={}",
          "sampler={name='shiftnas', held_out=0.2}", "shifting.name=none")], 2,
         "[sampler] says which paths train a supernet"),
        (["RUN", "--data=levels", *sets("transfer.classifier=chain.5.3")], 2,
         "transfer.classifier: classifier 'chain.5.3': the network has no such module; did you "
         "mean 'chain.5.2'?"),
        (["RUN", "--data=levels", *sets("transfer.classifier=chain.5.0")], 2, "not a linear layer"),
        (["RUN", "--data=levels", *sets("transfer.head_epoch=1")], 2, "'transfer.head_epochs'?"),
        (["RUN", "--data=levels", *sets("shifting=3")], 2, "shifting = 3: Input should be"),
        (["RUN", "odd.toml"], 2, "data = 'levels': Input should be"),
        (["RUN", "--nope"], 2, "No such option: --nope"),
        ([], 2, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_errors_come_in_one_line_before_anything_is_written(
    call, base, tmp_path, arguments, code, message
):
    for name in ("untrained", "damaged"):
        (tmp_path / name).mkdir()
        shutil.copy(base[0] / "recipe.toml", tmp_path / name)
    (tmp_path / "damaged" / WEIGHTS).write_bytes(b"damaged")
    put(tmp_path / "bare.toml", "train.epochs=1")
    put(tmp_path / "odd.toml", "data='levels'")
    put(tmp_path / "net.toml", "data.name='levels'\nnetwork={name='tiny', options={width=4}}")
    words = [str(base[0]) if word == "RUN" else word for word in arguments]
    before = snapshot(tmp_path), snapshot(base[0])
    left, out, err = call("transfer", *words, "--quiet")
    assert (left, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message.replace("RUN", str(base[0])) in err
    assert (snapshot(tmp_path), snapshot(base[0])) == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path, other: path.unlink(), "it with manyshot transfer RUN"),
        (lambda path, other: path.write_bytes(b"x"), "source.safetensors cannot be read"),
        (lambda path, other: shutil.copy(other, path), "is not what the recipe was made for"),
    ],
    ids=["missing", "damaged", "of another run"],
)
def test_weights_to_begin_with_must_be_those_of_the_recipe(call, moved, tmp_path, damage, message):
    for name in ("lock", "recipe.toml", SOURCE):
        shutil.copy(moved[0] / name, tmp_path)
    damage(tmp_path / SOURCE, moved[0] / WEIGHTS)
    code, out, err = call("run", "--resume", tmp_path, "--quiet")
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / WEIGHTS).exists()


def test_nothing_else_takes_weights_of_other_classes(base, tmp_path, monkeypatch):
    """Not from another run, nor from the folder itself; the way out is named."""
    other = small("data.name=levels", "data.train_size=100")
    with pytest.raises(RecipeError, match="data is not as the supernet of .* was trained with"):
        run(other, tmp_path / "run", trained=base[0])
    message = r"5.2.weight \(10, 9\) instead of \(4, 9\).*; for other classes, manyshot transfer "
    with pytest.raises(CheckpointError, match=message):
        load_weights(base[0] / WEIGHTS, Workspace.build(other).net)
    shutil.copy(base[0] / WEIGHTS, tmp_path)
    (tmp_path / "lock").touch()
    with pytest.raises(CheckpointError, match=message):
        run(other, tmp_path)
    monkeypatch.setitem(DATASETS, "digits", functools.partial(levels, 4))  # the set has changed
    with pytest.raises(CheckpointError, match=message):
        run(base[1], tmp_path / "again", trained=base[0])


# -- the command line, on files ------------------------------------------------------------------


def image_folders(root, classes):
    """Colour images of 8x8 pixels, which classes differ in."""
    for part, each in (("train", 24), ("test", 4)):
        pixels = np.random.default_rng(each).integers(0, 64, (classes, each, 8, 8, 3), np.uint8)
        for label in range(classes):
            (root / part / str(label)).mkdir(parents=True)
            for i in range(each):
                image = Image.fromarray(pixels[label, i] + np.uint8(30 * label))
                image.save(root / part / str(label) / f"{i}.png")
    return root


def test_help(call):
    code, out, err = call("transfer", "--help")
    assert (code, err) == (0, "")
    for word in ("Usage: ", "--data", "--set", "--out", "--json", "--quiet"):
        assert word in out


def test_missing_images_leave_nothing_behind_and_the_result_is_printed(call, base, tmp_path):
    before = snapshot(base[0])
    command = ["transfer", base[0], "--data=mnist", "--out=there", "--json", "--quiet"]
    code, out, err = call(*command, *sets(*QUICK))
    assert (code, out) == (1, "")
    assert "data set 'mnist' was not found" in err
    assert "root=" in err
    assert not Path("there").exists()
    for name, count in (("train", 200), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.random.default_rng(count).integers(0, 256, (count, 8, 8), dtype=np.uint8)
        for kind, array in (("images", pixels), ("labels", labels)):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            path = tmp_path / f"{name}-{kind}-idx{array.ndim}-ubyte"
            path.write_bytes(header + array.tobytes())
    command += sets(*SHORT, *QUICK, f"data.root={tmp_path}")
    code, out, err = call(*command)
    assert (code, err) == (0, "")
    assert {"schema": 1, **json.loads(out)} == records.read_json(Path("there/result.json"))
    again = json.loads(call(*command)[1])
    assert timeless(again) == timeless(json.loads(out))
    assert changed(base[0] / WEIGHTS, Path("there") / WEIGHTS) == set(HEAD)
    code, out, err = call(*command, "--set=seed=2")
    assert (code, out) == (1, "")
    assert "there holds a run of another recipe" in err
    assert snapshot(base[0]) == before


def test_image_files_of_other_classes(call, base, tmp_path):
    """The size of images is the run's; images of other channels do not fit its stem."""
    root, target = image_folders(tmp_path / "3", 3), image_folders(tmp_path / "5", 5)
    on = ("data.name=folder", f"data.root={root}", "data.image_size=8", "data.train_size=40")
    smaller = ("data.validation=16", "train.batch_size=16", "data.jitter=0.1", *QUICK)
    train_only(small(*on, *smaller), tmp_path / "source")
    words = ("--data=folder", *sets(f"data.root={target}", *SHORT))
    code, out, err = call("transfer", tmp_path / "source", *words)
    assert code == 0
    assert re.search(r"small-folder: [34] of 256 architectures scored", out)
    assert all(stage in err for stage in ("head", "search", "rescore"))
    folder = Path("runs/small-folder")
    [winner] = records.read_json(folder / "result.json")["winners"]
    assert subnet_of(folder, winner["arch"])[HEAD[0]].shape == (5, 9)
    assert json.loads((folder / winner["files"]["json"]).read_text())["data"]["image_shape"] == [
        3,
        8,
        8,
    ]
    images = records.read_json(folder / "space.json")["images"]
    assert images["class_names"] == ["0", "1", "2", "3", "4"]
    assert images["class_counts"]["test"] == [4] * 5
    assert sum(images["class_counts"]["validation"]) == 16
    assert images["notes"][0] == "140 used"
    size = ("data.image_size=8", *smaller[:2], QUICK[0])
    code, out, err = call("transfer", base[0], *words, *sets(*size), "--quiet", "--out=grey")
    assert (code, out) == (2, "")
    assert "data.name = 'folder' has images of 3 channels, and the supernet in " in err
    assert "was trained on 1 (digits): " in err
    assert err.count("\n") == 1
    assert not (tmp_path / "grey").exists()


def test_augmentation_goes_to_the_target_and_what_is_of_files_to_files_alone(base, tmp_path):
    looks = ["data.jitter=0.1", "data.crop_scale=[0.5, 1.0]", "data.bad=skip"]
    recipe = Recipe.load(base[0] / "recipe.toml", looks)
    put(tmp_path / "recipe.toml", recipe.to_toml())
    shutil.copy(base[0] / WEIGHTS, tmp_path)
    assert transfer_recipe(tmp_path, None, "levels", []).data == DataSettings(
        name="levels", validation=64, jitter=0.1, crop_scale=[0.5, 1.0]
    )
    own = transfer_recipe(tmp_path, None, "folder", []).data
    assert (own.jitter, own.crop_scale, own.bad) == (0.1, [0.5, 1.0], "skip")


def test_images_known_to_have_other_channels_are_refused_before_they_are_loaded(
    call, base, monkeypatch
):
    monkeypatch.setattr("manyshot.pipeline.build.load_data", None)
    code, out, err = call("transfer", base[0], "--data=cifar10")
    assert (code, out) == (2, "")
    assert "data.name = 'cifar10' has images of 3 channels" in err
    assert "a transfer keeps all weights but the classifier's" in err


def test_budgets_that_nobody_wrote_are_chosen_for_the_target(tmp_path):
    values = small("data.name=levels").model_dump(by_alias=True)
    del values["search"]["budgets"]  # of which the first default one cannot be met
    recipe = Recipe.build(values, (), "without budgets")
    with pytest.warns(UserWarning, match="search.budgets is not set, and the default ones .macs<="):
        train_only(recipe, tmp_path / "source")
    chosen = Recipe.load(tmp_path / "source" / "recipe.toml").search.budgets
    assert chosen != recipe.search.budgets
    assert records.read_json(tmp_path / "source" / "space.json")["default_budgets"] == chosen
    target = transfer_recipe(tmp_path / "source", None, "digits", [])
    assert "budgets" not in target.search.model_fields_set
    assert target.search.candidates == 6
    asked = transfer_recipe(tmp_path / "source", None, "digits", [f"search.budgets={chosen}"])
    assert asked.search.budgets == chosen and "budgets" in asked.search.model_fields_set


def test_budgets_that_somebody_wrote_are_kept(base):
    assert records.read_json(base[0] / "space.json").get("default_budgets") is None
    assert transfer_recipe(base[0], None, "levels", []).search.budgets == base[1].search.budgets


def test_the_rate_of_the_classifier_follows_that_of_all_else(base):
    recipe = transfer_recipe(base[0], None, None, ["data.name=levels", "shifting.lr=0.001"])
    assert (recipe.data.name, recipe.shifting.head_lr) == ("levels", pytest.approx(0.01))
    recipe = transfer_recipe(base[0], None, "levels", ["data={validation=10}"])
    assert recipe.data == DataSettings(name="levels", validation=10)
    recipe = transfer_recipe(base[0], None, None, ["data.name = 'levels'"])
    assert recipe.name == "small-levels"


def test_a_classifier_that_diverges_names_its_own_rate(base, tmp_path):
    with pytest.raises(NonFiniteLoss, match="lower transfer.head_lr, or set train.clip_norm"):
        move(base[0], tmp_path, *QUICK, "transfer.head_lr=1e30")


def test_winners_trained_from_scratch_have_the_classes_of_the_target(base, tmp_path):
    """Also where the network was made for the classes of the source by name."""
    recipe = Recipe.load(base[0] / "recipe.toml", ["network.options={width=3, classes=10}"])
    put(tmp_path / "source" / "recipe.toml", recipe.to_toml())
    shutil.copy(base[0] / WEIGHTS, tmp_path / "source")
    scratch = ("finish.mode=scratch", "finish.training.epochs=1")
    _, result = move(tmp_path / "source", tmp_path / "run", *QUICK, *scratch)
    subnet = subnet_of(tmp_path / "run", result["winners"][0]["arch"])
    assert [subnet[name].shape for name in HEAD] == [(4, 9), (4,)]


def test_the_classifier_and_the_search_see_other_orders_of_the_images(base, tmp_path, monkeypatch):
    """Epochs that a classifier trained on are not those that a search goes on with."""
    seen, epoch = [], Batches.epoch

    def noting(self, number, start=0):
        if self.shuffle:
            seen.append(number)
        return epoch(self, number, start)

    monkeypatch.setattr(Batches, "epoch", noting)
    move(base[0], tmp_path, *QUICK, "train.epochs=1", "transfer.head_epochs=3")
    assert seen[:4] == [0, 1, 2, 3]
    assert len(set(seen)) == len(seen)


def test_another_try_may_follow_into_the_same_folder(base, moved, tmp_path):
    """What was copied before a classifier was trained is no work to keep."""
    for name in ("lock", "recipe.toml", SOURCE):
        shutil.copy(moved[0] / name, tmp_path)
    _, result = move(base[0], tmp_path, *QUICK)
    assert len(result["winners"]) == 1
