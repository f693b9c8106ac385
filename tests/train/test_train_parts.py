"""Decisions between sets of parts, which are summed while the parts learn."""

import functools

import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.cost import CostTable
from manyshot.space import SearchSpace, choose
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import Relaxed, RelaxedOptions
from manyshot.train.gradients import accumulate
from manyshot.train.parts import Parts
from manyshot.zoo.darts import KINDS, PAIRS, darts, to_genotype

OPERATIONS = ("none", "skip", "conv")


def node(edges: int = 3) -> SearchSpace:
    """A node that sums two of its edges; of a convolution there are two widths."""
    pairs = [(i, j) for i in range(edges) for j in range(i + 1, edges)]
    inputs = choose([f"{i}+{j}" for i, j in pairs], "inputs")
    ops = [choose(OPERATIONS, f"edge{i}") for i in range(edges)]
    widths = [choose([2, 4], f"width{i}") for i in range(edges)]
    uses = {}
    for i, (op, width) in enumerate(zip(ops, widths, strict=True)):
        held = [(inputs, frozenset({k})) for k, pair in enumerate(pairs) if i in pair]
        uses[op] = [(condition,) for condition in held]
        uses[width] = [(condition, (op, frozenset({2}))) for condition in held]
    return SearchSpace([inputs, *ops, *widths], uses=uses)


def costs(space: SearchSpace) -> dict[str, CostTable]:
    tables = {(i,): np.arange(n) for i, n in enumerate(space.counts.tolist())}
    return {"macs": CostTable.of("macs", tuple(space.counts.tolist()), tables.items())}


def relaxed(space: SearchSpace, **options) -> Relaxed:
    return Relaxed(space, costs(space), RelaxedOptions(**options), seed=1)


class TestSummed(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        return [node(3), node(4)]

    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, summed=["in*"], lr=0.1, entropy_weight=0.1, cost_weight=0.1, period=3)


class TestSummedAndPruned(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        return [node(3)]

    def make_sampler(self, space: SearchSpace) -> Relaxed:
        options = {"estimator": "sigmoid", "schedule": "one_level", "prune": 0.45, "spread": 1.0}
        return relaxed(space, summed=["inputs"], prune_every=4, cost_weight=0.1, **options)


class TestPartial(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        return [node(3)]

    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, partial={"edge*": 4}, edges=[["edge0", "edge2"]], lr=0.1)


@functools.cache
def cell_space() -> SearchSpace:
    with torch.device("meta"):
        return ms.Supernet(darts(width=2, cells=3, none=True)).space


def test_parts_are_what_matters_only_with_a_set():
    space = node(4)
    parts = Parts.of(space, space.decisions[0])
    assert parts.members == (1, 2, 3, 4)  # the widths belong to the edges that they are of
    assert parts.weight == pytest.approx(1 / 3)
    shares = parts.shares(torch.tensor([0.2, 0.3, 0.5, 0.7]))
    products = torch.tensor([0.06, 0.10, 0.14, 0.15, 0.21, 0.35])
    torch.testing.assert_close(shares, products / products.sum())


def test_every_edge_has_weight_one_and_sets_do_not_learn():
    space = node(4)
    sampler = relaxed(space, summed=["inputs"], spread=1.0)
    settled = sampler.settled()
    assert settled is not None and settled.policy is not None
    for mixture in (sampler.mixture(torch.Generator()), settled.policy):
        torch.testing.assert_close(mixture[space.decisions[0]], torch.full((6,), 1 / 3))
        assert not mixture[space.decisions[0]].requires_grad
        softmax = torch.split(sampler.logits, space.counts.tolist())[1].softmax(0)
        torch.testing.assert_close(mixture[space.decisions[1]].detach(), softmax.detach())
    plain = relaxed(space, spread=1.0)
    learnt = plain.mixture(torch.Generator())[space.decisions[0]]
    assert learnt.requires_grad
    assert float(learnt.detach().sum()) == pytest.approx(1)


@pytest.mark.parametrize("edges", [False, True])
def test_the_final_architecture_is_by_the_rule_of_the_authors(edges):
    """Of each node the two edges whose strongest operation other than none is strongest."""
    space = cell_space()
    names = [str(d.name) for d in space.decisions]
    groups = [[f"{k}.edge{s}{n}" for s in range(n)] for k in KINDS for n in PAIRS]
    options = {"summed": ["*.inputs*"], "exclude": ["none"], "edges": groups if edges else []}
    sampler = relaxed(space, **options)
    rng = torch.Generator().manual_seed(3)
    for _ in range(20):
        with torch.no_grad():
            sampler.logits.copy_(torch.randn(sampler.logits.shape, generator=rng))
            shape = sampler._edge_logits.shape
            sampler._edge_logits.copy_(torch.randn(shape, generator=rng))
        alphas = dict(zip(names, torch.split(sampler.logits, space.counts.tolist()), strict=True))
        betas = iter(sampler._edge_logits.tolist())
        by_edge = {name: next(betas) if edges else 0.0 for group in groups for name in group}
        genotype = to_genotype(sampler.generate(1e9).arch, none=True)
        for kind in KINDS:
            for number, n in enumerate(PAIRS):
                share = torch.tensor([by_edge[f"{kind}.edge{s}{n}"] for s in range(n)]).softmax(0)
                weights = [
                    (alphas[f"{kind}.edge{s}{n}"].softmax(0) * share[s]).detach() for s in range(n)
                ]
                order = sorted(range(n), key=lambda s, w=weights: -float(w[s][1:].max()))
                kept = sorted(order[:2])
                got = genotype[kind][2 * number : 2 * number + 2]
                assert [source for _, source in got] == kept
                operations = space.decisions[names.index(f"{kind}.edge0{n}")].options
                best = [operations[1 + int(weights[s][1:].argmax())] for s in kept]
                assert [name for name, _ in got] == best


def test_sets_are_never_left_out():
    space = node(3)
    options = {"estimator": "sigmoid", "schedule": "one_level", "prune": 0.3, "prune_every": 1}
    sampler = relaxed(space, summed=["inputs"], **options)
    with torch.no_grad():
        sampler.logits.fill_(-5.0)
    sampler.probe(np.random.default_rng(0), 1, 10)
    assert sampler.alive[:3].all()
    assert sampler.alive[3:].sum() == 6  # one of each other decision


def test_the_entropy_is_of_what_learns():
    space = node(3)
    sampler = relaxed(space, summed=["inputs"], entropy_weight=1.0, spread=1.0)
    parts = [p.detach().softmax(0) for p in torch.split(sampler.logits, space.counts.tolist())]
    expected = torch.stack([-(p * p.log()).sum() for p in parts[1:]]).mean()
    penalty = sampler.penalty(sampler.mixture(torch.Generator()))
    assert penalty is not None
    torch.testing.assert_close(penalty.detach(), expected)


def test_partial_goes_through_the_loop_and_the_probe():
    torch.manual_seed(0)
    convs = [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)]
    net = ms.Supernet(nn.Sequential(ms.nn.Choice(convs, "edge"), *head))
    sampler = relaxed(net.space, partial={"edge": 4}, edges=[["edge"]])
    x, y = torch.randn(5, 8, 6, 6), torch.arange(5) % 3
    plan = sampler.plan(np.random.default_rng(0), 0)
    accumulate(net, plan, x, y, largest=net.space.largest)
    choice = net.model[0]
    for conv in choice.options.values():
        reached = conv.weight.grad.abs().sum((2, 3)) > 0
        assert reached[:2, :2].all()
        assert reached.sum() == 4
    probe = sampler.probe(np.random.default_rng(0), 1, 10)
    assert probe is not None
    assert probe.paths[0].partial == {choice.decision: 4}
    settled = sampler.settled()
    assert settled is not None
    assert settled.partial == {choice.decision: 4}


def test_what_are_no_sets_is_refused():
    space = node(3)
    odd = choose(["a", "b"], "odd")
    part, other = choose(["x", "y"], "part"), choose(["x", "y"], "other")
    held = {part: [((odd, frozenset({0})),)], other: [((odd, frozenset({0, 1})),)]}
    uneven = SearchSpace([odd, part, other], uses=held)
    for of, options, message in (
        (
            space,
            {"summed": ["edges*"]},
            r"summed = 'edges\*': no decision has such a name; they are in",
        ),
        (space, {"summed": ["width0"]}, "no decision matters only under some options of 'width0'"),
        (uneven, {"summed": ["odd"]}, "more often than others .'part' by 1, 'other' by 2"),
        (space, {"summed": ["inputs"], "estimator": "hard"}, "summed lets all parts run"),
        (space, {"edges": [["edge0"], ["edge0"]]}, "edges name 'edge0' 2 times"),
        (space, {"partial": {"edges": 4}}, "partial = 'edges': no decision has such a name"),
        (space, {"partial": {"edge0": 4}, "estimator": "hard"}, "partial is of options that are"),
    ):
        with pytest.raises(ValueError, match=message):
            relaxed(of, **options)
