"""Costs that are functions, and the size of weights, in Python and in recipes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import manyshot as ms
from manyshot.cost import FunctionCost, params_table, size_table
from manyshot.pipeline import Workspace, survey
from manyshot.pipeline.beforehand import check
from manyshot.recipe import Recipe, RecipeError
from pipeline_runs import lines, run, small
from plain_nets import Plain


def layers(module) -> int:
    """How many convolutions an extracted network has."""
    return sum(isinstance(m, nn.Conv2d) for m in module.modules())


def depth_and_width(choices, scale=2):
    return scale * choices["blocks.depth"] + choices["hidden.width"] / 8


@pytest.fixture(scope="module")
def net():
    return ms.convert(Plain(3, 3, 16), torch.rand(2, 3, 8, 8))


def test_a_function_of_the_module(net) -> None:
    cost = FunctionCost(net, layers, "layers")
    shallow, deep = net.space.smallest, net.space.largest
    assert cost([shallow, deep]).tolist() == [2, 3]
    cost([deep, shallow, deep])
    assert cost.calls == 2


def test_a_function_of_the_choices(net) -> None:
    cost = FunctionCost(net, depth_and_width, "sum")
    archs = list(net.space.enumerate())
    by_hand = []
    for arch in archs:
        module = net.extract(arch)
        by_hand.append(2 * layers(module) + module.hidden.out_features / 8)
    assert len(set(by_hand)) > 4
    assert np.allclose(np.diff(cost(archs)), np.diff(by_hand))  # but for the stem's layer


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda images: 1.0, "its function takes images; let it take"),
        (lambda: 1.0, "its function takes nothing"),
        (lambda module, images: 1.0, "takes module, images"),
        (lambda module, /: 1.0, "takes module; let it take, by these names"),
        (lambda *archs: 1.0, "takes nothing"),
    ],
)
def test_a_function_takes_what_is_offered(function, words, net) -> None:
    with pytest.raises(ValueError, match=words):
        FunctionCost(net, function, "mine")


@pytest.mark.parametrize("value", [float("nan"), "3", None, True, -1.0, torch.tensor(2.0)])
def test_a_function_gives_a_number(value, net) -> None:
    cost = FunctionCost(net, lambda arch: value, "mine")
    with pytest.raises(ValueError, match="must give a finite number of at least 0"):
        cost([net.space.smallest])


def test_a_function_that_fails_is_named(net) -> None:
    cost = FunctionCost(net, lambda choices: choices["nothing"], "mine")
    text = net.space.to_text(net.space.smallest)
    with pytest.raises(
        ValueError, match=f"cost 'mine' of architecture {text}: KeyError: 'nothing'"
    ):
        cost([net.space.smallest])


def test_a_function_is_told_what_any_network_takes(net) -> None:
    from token_nets import Tokens, batch

    tokens = ms.Supernet(Tokens(), example_inputs=batch(2)[0])
    cost = FunctionCost(tokens, lambda example_inputs: example_inputs["tokens"].shape[1], "length")
    assert cost([tokens.space.smallest]).tolist() == [6]
    with pytest.raises(ValueError, match="takes input_shape, .*let it take example_inputs"):
        FunctionCost(tokens, lambda input_shape: 1.0, "mine")
    with pytest.raises(ValueError, match="what the network takes is not known"):
        FunctionCost(ms.Supernet(Tokens()), lambda example_inputs: 1.0, "mine")
    shape = FunctionCost(net, lambda example_inputs: example_inputs.shape[-1], "side")
    assert shape([net.space.smallest]).tolist() == [8]


def test_the_size_is_that_of_the_parameters_on_file(net) -> None:
    table = size_table(net)
    archs = [net.space.smallest, net.space.largest, tuple([1] * len(net.space))]
    for arch, size in zip(archs, table(archs).tolist(), strict=True):
        parameters = dict(net.extract(arch).named_parameters())
        header = len(save({n: torch.empty(0) for n in parameters}))
        assert size == sum(len(p.detach().numpy().tobytes()) for p in parameters.values())
        file = len(save({n: p.detach() for n, p in parameters.items()}))
        assert 0 <= file - size <= 2 * header
    halves = ms.convert(Plain(3, 3, 16).double(), torch.rand(2, 3, 8, 8).double())
    assert size_table(halves)(archs).tolist() == [2 * s for s in table(archs).tolist()]


def test_a_search_within_a_cost_of_ones_own(net) -> None:
    found = ms.find(
        net,
        budgets=["layers<=2", "layers<=70%", "size<=30KB and layers<=2"],
        score=lambda arch: sum(arch),
        costs={"layers": layers},
        searcher="random",
        candidates=12,
        generation=6,
    )
    for winner in found.winners:
        assert winner.costs["layers"] == layers(net.extract(winner.arch)) <= 2
    [*_, joint] = found.winners
    assert joint.costs["size"] == 4 * params_table(net)([joint.arch])[0] <= 30_000


def test_costs_without_any_are_those_of_ours(net) -> None:
    shaped = ms.Supernet(net.model, input_shape=(3, 8, 8))
    [winner] = ms.find(shaped, budgets=["macs<=90%"], score=sum, candidates=70).winners
    assert set(winner.costs) == {"macs", "params"}
    with pytest.raises(ValueError, match="no costs for flops, have macs, params"):
        ms.find(shaped, budgets=["flops<=3"], score=sum)


# -- recipes ---------------------------------------------------------------------------------------

OWN = "costs.convolutions=test_cost_functions:convolutions"


def convolutions(module) -> float:
    """What a recipe names."""
    return sum(p.numel() for p in module.parameters() if p.dim() == 4) / 1000


def test_a_run_within_a_cost_of_ones_own_and_a_size(tmp_path) -> None:
    budgets = 'search.budgets=["convolutions<=60%", "size<=4KB,macs<=50%"]'
    recipe = small(OWN, budgets, "search.candidates=9")
    result = run(recipe, tmp_path)
    ws = Workspace.build(recipe)
    largest = convolutions(ws.net.extract(ws.net.space.largest))
    assert [w["budget"] for w in result["winners"]] == [
        "convolutions<=60%",
        "size<=4KB and macs<=50%",
    ]
    for line in [*lines(tmp_path, "search.jsonl"), *result["winners"]]:
        module = ws.net.extract(ws.net.space.from_text(line["arch"]))
        assert line["costs"] == {
            "convolutions": convolutions(module),
            "size": 4 * sum(p.numel() for p in module.parameters()),
        }
    first, second = result["winners"]
    assert first["costs"]["convolutions"] <= 0.6 * largest
    assert second["costs"]["size"] <= 4000
    card = json.loads((tmp_path / "subnets" / f"{first['arch']}.json").read_text())
    assert card["costs"]["convolutions"] == first["costs"]["convolutions"]
    assert ms.Run(tmp_path).winners[0].costs["convolutions"] == first["costs"]["convolutions"]
    assert (tmp_path / "report.html").exists() or ms.Run(tmp_path).report().exists()


def test_the_space_has_costs_of_ones_own_at_its_ends() -> None:
    recipe = small(OWN)
    ws = Workspace.build(recipe)
    cost = survey(recipe, 10)["costs"]["convolutions"]
    ends = [convolutions(ws.net.extract(a)) for a in (ws.net.space.smallest, ws.net.space.largest)]
    assert [cost["smallest"], cost["largest"]] == ends and cost["least"] is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["search.budgets=['flops<=3']"], "is on 'flops', which is no cost; .*have macs, params"),
        (["search.budgets=['convolution<=3']", OWN], "did you mean 'convolutions'"),
        (["costs.macs=a:b"], "'macs' cannot name a cost"),
        (["costs.mine=here"], "give package.module:function"),
    ],
)
def test_recipes_that_cannot_be(overrides, words) -> None:
    with pytest.raises(RecipeError, match=words):
        small(*overrides)


def test_a_cost_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(RecipeError, match="costs: cost 'nowhere:f' cannot be imported"):
        Workspace.build(small("costs.mine=nowhere:f"))


def test_a_budget_that_no_network_meets_is_refused_before_training() -> None:
    recipe = small(OWN, "search.budgets=['convolutions<=0.001']")
    with pytest.raises(RecipeError, match="none was found within all of it among 1,0"):
        check(Workspace.build(recipe))


def test_costs_of_ones_own_are_code() -> None:
    assert small(OWN).named_code == {"costs.convolutions": OWN.partition("=")[2]}
    assert Recipe.load(None).named_code == {}
