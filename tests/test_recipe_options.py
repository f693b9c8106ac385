"""Every option that a method's recipe sets has an effect in it: another value, another run.

Networks are made, searches are told made-up scores, and samplers are rehearsed without a network,
for steps enough that each option comes to act. The rest takes runs, which are for the slow tests.
"""

import functools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

import manyshot as ms
from manyshot import pipeline, records
from manyshot.cost import CostTable, macs_table
from manyshot.recipe import Recipe
from manyshot.run_folder import RunFolder
from manyshot.search import Limit, make_searcher
from manyshot.testing import samplers
from manyshot.train import make_sampler
from manyshot.train.checkpoint import digest
from manyshot.zoo import NETWORKS
from measured_once import looks_of

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
RECIPES = {path.stem: path for path in Path(__file__).parents[1].glob("recipes/methods/*.toml")}
SLOW = {"darts_cell", "ista_nas"}
"""Recipes of a network of very many layers, whose costs take long to record."""
STEPS = 64
"""In a rehearsal of a sampler."""
FEWER = {
    "data.train_size": 128, "data.validation": 64, "train.batch_size": 32, "train.epochs": 5,
}  # fmt: skip
"""What makes a training short."""
WHOLE = {
    **FEWER, "train.epochs": 2, "evaluate.calibration_images": 64, "finish.training.epochs": 1,
    "controls.random": 0, "controls.largest": False, "export.formats": [],
}  # fmt: skip
"""What makes a whole run short."""

NETWORK = {
    "depth": 2, "cells": 4, "channels": 2, "layers": [1, 2], "image_size": 64, "width": 6,
    "none": False, "affine": True, "linear_skips": False,
}  # fmt: skip
"""Other values of options of networks."""
SEARCH = {
    "population": 35, "parents": 2, "mutants": 4, "crossovers": 3, "tournament": 2, "initial": 60,
    "top": 5, "samples": 3, "clusters": 2, "mutation_probability": 0.9, "lr": 0.5,
    "sampler": "cma_es",
}  # fmt: skip
"""Other values of options of searchers."""
SAMPLER = {
    "choose": "worst", "of": 2, "images": 10, "lr": 0.2, "estimator": "softmax", "summed": [],
    "exclude": [], "every": 1, "period": 3, "skip": "avg_pool_3x3", "schedule": "bilevel",
    "tau": 1.0, "tau_end": 1.0, "cost_weight": 9.0, "cost_target": 0.9, "prune": 0.3,
    "prune_every": 7, "proposed": 4, "trained": 1, "size": 2, "sets": [], "edges": [],
    "partial": {"edge*": 2}, "warmup": 0.8, "random": 1, "prior": "frequency",
}  # fmt: skip
"""Other values of options of samplers."""
TRAINING: dict[str, Any] = {
    "sampler.held_out": 0.2, "shrink.options.drop": 1, "shrink.options.samples": 10,
    "shrink.options.keep": [2, 2], "shrink.options.population": 5, "shrink.options.patience": 1,
    "shrink.options.opens": ["layer2", "layer3", "layer[01]:2", "layer[01]"],
    "shrink.at": [0.3, 0.4, 0.9, 0.95],
    "sharing.options.copies": 3, "sharing.options.codes": "simplex",
    "sharing.options.code_every": 3, "sharing.options.start": "independent",
    "sharing.options.warm_frac": 0.25, "sharing.options.split": "layer0",
    "sharing.options.split_batches": 1, "sharing.options.offset": 2, "sharing.options.tries": 1,
    "train.sgld": 1e-3, "train.snapshots.number": 1, "train.snapshots.epochs": 1.5,
    "train.snapshots.weight": 0.1,
}  # fmt: skip
"""Other values of what else training depends on."""
REST: dict[str, Any] = {
    "finish.teacher": "none", "finish.taught_by": ["largest", "1-1-1-1"],
    "finish.distillation.options.temperature": 8.0, "finish.distillation.options.labels": 0.1,
    "search.reward.target": "macs<=50%", "search.reward.below": -0.9, "search.reward.above": -0.9,
    "shifting.steps": 1, "shifting.update": "per_generation", "shifting.elites": "score",
}  # fmt: skip
"""Other values of what only a whole run depends on."""
METHODS = ("network.options.", "search.options.", "search.reward.", "sampler.options.",
           "sampler.held_out", "shrink.options.", "shrink.at", "sharing.options.", "shifting.",
           "finish.teacher", "finish.taught_by", "finish.distillation.options.", "train.sgld",
           "train.snapshots.")  # fmt: skip
"""How keys begin that are a method's own; what is left is which method, and how long it takes."""


def told(stem: str) -> dict[str, Any]:
    """What a recipe sets, by dotted keys."""

    def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
        keys: dict[str, Any] = {}
        for key, value in values.items():
            is_section = isinstance(value, dict) and before + key != "sampler.options.partial"
            keys |= flat(value, f"{before}{key}.") if is_section else {before + key: value}
        return keys

    return flat(tomllib.loads(RECIPES[stem].read_text()))


def options(stem: str, section: str) -> dict[str, Any]:
    before = f"{section}.options."
    return {k.removeprefix(before): v for k, v in told(stem).items() if k.startswith(before)}


def cases(*keys: str) -> list[Any]:
    """The recipe, with each of these keys that it sets."""
    return [
        pytest.param(stem, key, id=f"{stem}-{key}")
        for stem in sorted(RECIPES)
        for key in told(stem)
        if key in keys
    ]


def recipe(stem: str, less: dict[str, Any], **changed: Any) -> Recipe:
    values: dict[str, Any] = {}
    for key, value in {**told(stem), **less, **changed}.items():
        *sections, last = key.split(".")
        place = functools.reduce(lambda into, name: into.setdefault(name, {}), sections, values)
        place[last] = value
    if "shrink.at" in changed:  # as many times as the shrinker has
        values["shrink"]["at"] = changed["shrink.at"][: len(told(stem)["shrink.at"])]
    return Recipe.build(values, (), stem)


def test_every_option_of_every_recipe_is_tried():
    known = {*TRAINING, *REST, *(f"network.options.{key}" for key in NETWORK)}
    known |= {f"search.options.{key}" for key in SEARCH} | {"shifting.name"}
    known |= {f"sampler.options.{key}" for key in SAMPLER}
    for stem in RECIPES:
        for key, value in told(stem).items():
            if key.startswith(METHODS):
                assert key in known, f"{stem} sets {key}: add another value of it to this file"
                assert value not in [t[key] for t in (TRAINING, REST) if key in t], (stem, key)


# -- without a run ---------------------------------------------------------------------------------


def network(stem: str, **changed: Any) -> Any:
    given = {"channels": 1, **options(stem, "network"), **changed}
    return NETWORKS[told(stem)["network.name"]](**given)


@pytest.mark.parametrize(("stem", "key"), cases(*(f"network.options.{k}" for k in NETWORK)))
def test_options_of_networks_have_an_effect(stem, key):
    name = key.rpartition(".")[2]
    assert looks_of(network(stem)) != looks_of(network(stem, **{name: NETWORK[name]}))


@functools.cache
def supernet(stem: str) -> ms.Supernet:
    return ms.Supernet(network(stem))


def proposals(stem: str, **changed: Any) -> list[Any]:
    """What the recipe's search proposes, told scores that are a fixed function of networks."""
    settings, net = Recipe.load(RECIPES[stem]).search, supernet(stem)
    weights = np.random.default_rng(0).normal(size=(2, len(net.space)))
    limit = Limit("sum", lambda archs: [float(sum(arch)) for arch in archs], sum(net.space.largest))
    searcher = make_searcher(
        settings.name,
        net.space,
        seed=0,
        limits=[limit],
        options={**options(stem, "search"), **changed},
    )
    asked: list[Any] = []
    while len(asked) < settings.candidates:
        archs = searcher.ask(min(settings.generation, settings.candidates - len(asked)))
        if not archs:
            break
        searcher.tell(archs, [float(np.sin(weights @ arch).sum()) for arch in archs])
        asked += archs
    return asked


@pytest.mark.parametrize(("stem", "key"), cases(*(f"search.options.{k}" for k in SEARCH)))
def test_options_of_searches_have_an_effect(stem, key):
    name = key.rpartition(".")[2]
    assert proposals(stem) != proposals(stem, **{name: SEARCH[name]})


@functools.cache
def costs(stem: str) -> dict[str, CostTable]:
    return {} if stem in SLOW else {"macs": macs_table(supernet(stem), (1, 8, 8))}


def plans(stem: str, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Any:
    """What the recipe's sampler plans and asks in a rehearsal."""
    monkeypatch.setattr(samplers, "STEPS", STEPS // 2)  # of which a rehearsal has twice as many
    all_of_them = {**options(stem, "sampler"), **changed}
    sampler = make_sampler(
        told(stem)["sampler.name"], supernet(stem).space, all_of_them, costs=costs(stem)
    )
    run = samplers.Rehearsal(sampler)
    return samplers._plain([run.go(steps=STEPS), run.probes])


@pytest.mark.parametrize(("stem", "key"), cases(*(f"sampler.options.{k}" for k in SAMPLER)))
def test_options_of_samplers_have_an_effect(stem, key, monkeypatch):
    name = key.rpartition(".")[2]
    other = {name: SAMPLER[name]}
    assert plans(stem, monkeypatch) != plans(stem, monkeypatch, **other)


# -- by runs ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    @functools.cache
    def trained(stem, key=None):
        folder = tmp_path_factory.mktemp("trained")
        changed = {} if key is None else {key: TRAINING[key]}
        pipeline.train_only(recipe(stem, FEWER, **changed), folder)
        return digest(load_file(RunFolder(folder).weights))

    return trained


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "key"), cases(*TRAINING))
def test_options_of_training_have_an_effect(stem, key, trainings):
    assert trainings(stem) != trainings(stem, key)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    @functools.cache
    def done(stem, key=None):
        folder = tmp_path_factory.mktemp("run")
        changed = {} if key is None else {key: REST[key]}
        result = pipeline.run(recipe(stem, WHOLE, **changed), folder).plain()
        searched = records.read_lines(RunFolder(folder).search_log)
        told = [{k: v for k, v in line.items() if k != "seconds"} for line in searched]
        return told, [(winner["arch"], winner["test_loss"]) for winner in result["winners"]]

    return done


@pytest.mark.slow
@pytest.mark.parametrize(("stem", "key"), cases(*REST))
def test_options_of_whole_runs_have_an_effect(stem, key, runs):
    assert runs(stem) != runs(stem, key)
