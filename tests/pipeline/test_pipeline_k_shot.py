"""K-shot runs by recipe: to the end, the same twice, every control a switch."""

import functools
import inspect

import pytest
import torch

import manyshot as ms
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.identity import fingerprint, weights_fingerprint
from manyshot.pipeline.networks import make_network
from manyshot.recipe import Recipe, RecipeError
from manyshot.seeding import seeded
from manyshot.sharing.dictionary import rows
from manyshot.train import load_weights
from pipeline_runs import lines, outcome, run, small

K_SHOT = ("sharing.name=k_shot", "sharing.options={copies = 2, m = 2}")
SHORT = (*K_SHOT, "sharing.options.code_every=2")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("k_shot")
    recipe = small(*SHORT)
    return folder, recipe, run(recipe, folder)


def test_a_run_goes_the_whole_way(finished):
    folder, recipe, result = finished
    assert [winner["budget"] for winner in result["winners"]] == ["macs<=20%", "macs<=90%"]
    assert all(
        set(row) >= {"code_entropy_share", "slice_distance"} for row in lines(folder, "train.jsonl")
    )
    ws = Workspace.build(recipe)
    load_weights(folder / "supernet.safetensors", ws.net)
    record = lines(folder, "search.jsonl")[0]
    arch = ws.net.space.from_text(record["arch"])
    score = ms.evaluate.score(
        ws.net, arch, calibration=ws.calibration(), validation=ws.fixed("validation", None)
    )
    assert score.value == record["proxy_score"]


def test_the_same_recipe_gives_the_same_run(finished, tmp_path):
    run(small(*SHORT), tmp_path)
    assert outcome(tmp_path) == outcome(finished[0])


@pytest.mark.parametrize(("searcher", "options"), [("nsga2", "{population = 3}"), ("random", "{}")])
def test_other_searchers_take_its_supernet(finished, tmp_path, searcher, options):
    recipe = small(*SHORT, f"search.name={searcher}", f"search.options={options}",
                   "search.budgets=['macs<=90%']", "finish.mode=inherit")  # fmt: skip
    result = run(recipe, tmp_path, trained=finished[0])
    [winner] = result["winners"]
    assert 0 <= winner["test_score"] <= 1


def test_splits_by_gradients_are_among_the_weights(tmp_path):
    options = "{copies=2, codes='one_hot', split='gradients', start='equal', warm_frac=0.5}"
    sharing = ("sharing.name=k_shot", f"sharing.options={options}")
    recipe = small(*sharing, "sharing.options.split_batches=1")
    train_only(recipe, tmp_path)
    ws = Workspace.build(recipe)
    load_weights(tmp_path / "supernet.safetensors", ws.net, weights_fingerprint(ws))
    [told] = [row["splits"] for row in lines(tmp_path, "train.jsonl") if "splits" in row]
    [(decision, groups)] = ws.net.sharing.chosen()
    assert told == [{"decision": decision.name, "groups": list(groups)}]
    assert set(groups) == {0, 1}
    codes = {tuple(row["code"]) for row in lines(tmp_path, "codes.jsonl")}
    assert codes == {(1.0, 0.0), (0.0, 1.0)}


def test_slices_are_networks_made_from_other_seeds():
    ws = Workspace.build(Recipe.load(None, K_SHOT))
    plain = Workspace.build(Recipe()).net.state_dict()
    name = "model.chain.1.options.conv3.0.weight"
    with seeded(0, "copies", 1):
        other = make_network(ws.recipe, ws.splits).state_dict()
    stack = ws.net.state_dict()[name]
    assert torch.equal(stack[0], plain[name])
    assert torch.equal(stack[1], other[name.removeprefix("model.")])


HARD, SPLIT = ("codes=one_hot",), ("codes=one_hot", "split=gradients")
EQUAL = ("start=equal", "warm_frac=0.3")
CONTROLS = {
    "copies=1": (),
    "codes=uniform": (),
    "codes=random": (),
    "codes=one_hot": (),
    "split=layer1": HARD,
    "split_batches=5": (*SPLIT, *EQUAL),
    "code_scope=layer": (),
    "update_mode=joint": (),
    "mix_bn_affine=false": (),
    "mix_fixed_layers=true": (),
    "warm_frac=0.5": (),
    "m=3": (),
    "hidden=8": (),
    "tau=2.0": ("codes=random",),
    "start=equal": (),
    "last_std=1.0": (),
    "regulariser=cos": (),
    "beta=0.5": (),
    "width_settings=independent": (),
    "entropy_floor=0.5": (),
    "optimizer=sgd": (),
    "code_every=4": (),
    "compensate=false": ("codes=random",),
    "lr=0.5": (),
}
"""Every option as a control, and what it needs beside it."""
ELASTIC = (
    "network={name='macro', options={width=2, layers=[1, 1], hidden_factors=[0.5, 1.0]}}",
    "search.budgets=['macs<=90%']",
)


@functools.cache
def prepared(*overrides):
    recipe = Recipe.load(None, ["sharing={name='k_shot', options={copies=2}}", *overrides])
    ws = Workspace.build(recipe)
    check(ws)
    return ws


def with_options(*options):
    return prepared(*ELASTIC, *(f"sharing.options.{option}" for option in options))


def test_no_option_is_forgotten():
    takes = set(inspect.signature(ms.sharing.KShot).parameters) - {"seed", "init"}
    assert {control.split("=")[0] for control in CONTROLS} == takes


@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_is_a_switch_of_the_recipe(control):
    """It reaches the scheme, and is in the fingerprint of trained weights."""
    ws, base = with_options(control, *CONTROLS[control]), with_options(*CONTROLS[control])
    assert fingerprint(ws, ws.recipe.train) != fingerprint(base, base.recipe.train)
    name, _, value = control.partition("=")
    held = getattr(ws.net.sharing, {"m": "chunks"}.get(name, name))
    assert str(held).lower() == value


def test_the_seed_of_the_recipe_is_that_of_the_scheme():
    one, other = prepared("seed=1"), prepared("seed=2")
    nets = [ws.net.sharing.simplex_net.state_dict()["last.weight"] for ws in (one, other)]
    assert not torch.equal(*nets)
    slices = [next(iter(rows(ws.net)))[1] for ws in (one, other)]
    assert not torch.equal(*slices)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sharing.name=kshot", "unknown sharing 'kshot'; did you mean 'k_shot'"),
        ("sharing.options.copy=2", "'k_shot' has no option 'copy'; did you mean 'copies'"),
        ("sharing.options.seed=2", "'k_shot' has no option 'seed'"),
        ("sharing.options.copies=many", "sharing 'k_shot': copies = 'many'"),
        ("sharing.options.codes=soft", "sharing 'k_shot': codes = 'soft'"),
        (
            "sharing.options={copies=2, code_every=2, update_mode='joint'}",
            "code_every = 2 needs steps that move the codes alone, and here update_mode = 'joint'",
        ),
        (
            "sharing.options={copies=2, codes='uniform', lr=0.1}",
            "lr = 0.1 needs codes that are lea",
        ),
        ("sharing.options.m=65", r"m = 65 leaves chunks of less than two of the 64 images"),
        ("sharing.options.code_every=4000", r"none of the 1600 optimiser steps of train.epochs"),
        ("sharing.options.m=64", r"m = 64 leaves chunks of less than two"),
        ("sharing.options.mix_bn_affine=False", "mix_bn_affine = 'False'"),
    ],
)
def test_what_does_not_fit_is_found_before_training(override, words):
    with pytest.raises(RecipeError, match=words):
        prepared(override)


def test_width_search_end_to_end(tmp_path):
    """Elastic expansion with five width factors, a channel branch and its regulariser."""
    recipe = small(
        "sharing.name=k_shot",
        "sharing.options={copies = 2, m = 2, code_every = 2, lr = 0.01}",
        "search.budgets=['macs<=50%', 'macs<=90%']",
        "network={name = 'macro', options = {width = 2, layers = [1, 1], "
        "hidden_factors = [0.2, 0.4, 0.6, 0.8, 1.0]}}",
    )
    result = run(recipe, tmp_path)
    ws = Workspace.build(recipe)
    assert [d.name for d in ws.net.sharing.simplex_net.widths] == ["layer0.hidden", "layer1.hidden"]
    assert ws.net.sharing.penalty([ws.net.space.largest]) > 0
    assert "code_loss" in lines(tmp_path, "train.jsonl")[-1]
    assert len(result["winners"]) == 2
