"""Every option of networks, searches and samplers that a method's recipe sets has an effect in it.

Networks are made, searches are told made-up scores, and samplers are rehearsed without a network,
for steps enough that each option comes to act. Another value gives another outcome, or is refused.
"""

import functools
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import manyshot as ms
from manyshot.cost import CostTable, macs_table
from manyshot.recipe import Recipe
from manyshot.search import Limit, make_searcher
from manyshot.testing import samplers
from manyshot.train import make_sampler
from manyshot.zoo import NETWORKS
from measured_once import looks_of

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
RECIPES = {path.stem: path for path in Path(__file__).parents[1].glob("recipes/methods/*.toml")}
for slow in ("darts_cell", "ista_nas"):  # whose costs take long to record
    del RECIPES[slow]
STEPS = 64
"""In a rehearsal of a sampler."""
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
    "every": 1, "period": 3, "skip": "avg_pool_3x3", "schedule": "bilevel",
    "tau": 1.0, "tau_end": 1.0, "cost_weight": 9.0, "cost_target": 0.9, "prune": 0.3,
    "prune_every": 7, "proposed": 4, "trained": 1, "size": 2, "sets": [], "edges": [],
    "partial": {"edge*": 2}, "warmup": 0.8, "random": 1, "prior": "frequency",
    "others": False, "widths": "masked",
}  # fmt: skip
"""Other values of options of samplers; `exclude` is about what is selected in the end."""


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
    return {"macs": macs_table(supernet(stem), (1, 8, 8))}


def plans(stem: str, monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Any:
    """What the recipe's sampler plans and asks in a rehearsal."""
    monkeypatch.setattr(samplers, "STEPS", STEPS // 2)  # of which a rehearsal has twice as many
    all_of_them = {**options(stem, "sampler"), **changed}
    try:
        sampler = make_sampler(
            told(stem)["sampler.name"], supernet(stem).space, all_of_them, costs=costs(stem)
        )
    except ValueError as refused:
        return str(refused)
    run = samplers.Rehearsal(sampler)
    return samplers._plain([run.go(steps=STEPS), run.probes])


@pytest.mark.parametrize(("stem", "key"), cases(*(f"sampler.options.{k}" for k in SAMPLER)))
def test_options_of_samplers_have_an_effect(stem, key, monkeypatch):
    name = key.rpartition(".")[2]
    other = {name: SAMPLER[name]}
    assert plans(stem, monkeypatch) != plans(stem, monkeypatch, **other)
