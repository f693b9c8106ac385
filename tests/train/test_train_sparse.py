"""Sparse codes against the conditions of a solution, coordinate descent and the paper's formula."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso
from torch import nn

import manyshot as ms
from manyshot.cost import CostTable
from manyshot.space import SearchSpace, choose
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import Sparse, SparseOptions
from manyshot.train.gradients import accumulate
from manyshot.train.samplers import Generates
from manyshot.train.sparse_coding import sparse_code, violation

OPERATIONS = ("none", "skip", "conv")


def node(edges: int = 3) -> SearchSpace:
    """A node that sums two of its edges, and one decision more."""
    pairs = [(i, j) for i in range(edges) for j in range(i + 1, edges)]
    inputs = choose([f"{i}+{j}" for i, j in pairs], "inputs")
    ops = [choose(OPERATIONS, f"edge{i}") for i in range(edges)]
    uses = {
        op: [((inputs, frozenset({k})),) for k, pair in enumerate(pairs) if i in pair]
        for i, op in enumerate(ops)
    }
    return SearchSpace([inputs, *ops, choose(["a", "b"], "alone")], uses=uses)


def sparse(space: SearchSpace, **options: Any) -> Sparse:
    tables = {(i,): np.arange(n) for i, n in enumerate(space.counts.tolist())}
    costs = {"macs": CostTable.of("macs", tuple(space.counts.tolist()), tables.items())}
    return Sparse(space, costs, SparseOptions(**options), seed=1)


class TestSparse(SamplerSuite):
    def spaces(self) -> list[SearchSpace]:
        return [node(3), node(4)]

    def make_sampler(self, space: SearchSpace) -> Sparse:
        return sparse(space, sets=["inputs"], exclude=["none"], lr=0.1, every=4)


class TestAlone(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Sparse:
        return sparse(space, lr=0.1, every=4)


def test_numbers_have_weight_one_and_a_gradient():
    space = SearchSpace([choose([1, 2, 3], "width")])
    sampler = sparse(space, spread=1.0)
    weights = sampler.mixture()[space.decisions[0]]
    assert weights.tolist() == [float(i == sampler.architecture()[0]) for i in range(3)]
    weights.sum().backward()
    assert sampler.compressed.grad is not None
    assert sampler.compressed.grad.any()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 24), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_codes_satisfy_the_conditions_of_a_solution(seed, size, penalty):
    rng = torch.Generator().manual_seed(seed)
    a = torch.rand(7, size, generator=rng, dtype=torch.float64)
    b = torch.randn(7, generator=rng, dtype=torch.float64)
    code = sparse_code(a, b, penalty)
    assert violation(a, b, code, penalty) <= 1e-6 * penalty
    correlation = (a.T @ (b - a @ code)).numpy()  # the conditions written out
    for entry, own in zip(code.tolist(), correlation, strict=True):
        if entry:
            assert own == pytest.approx(np.sign(entry) * penalty, rel=1e-5)
        else:
            assert abs(own) <= penalty * (1 + 1e-5)
    assert (code != 0).sum() <= 7


def test_codes_are_those_of_coordinate_descent():
    rng = torch.Generator().manual_seed(3)
    a = torch.rand(7, 12, generator=rng, dtype=torch.float64)
    b = torch.randn(7, generator=rng, dtype=torch.float64)
    model = Lasso(alpha=0.05 / 7, fit_intercept=False, tol=1e-12, max_iter=10**6)
    model.fit(a.numpy(), b.numpy())
    np.testing.assert_allclose(sparse_code(a, b, 0.05).numpy(), model.coef_, atol=1e-6)


def test_a_large_penalty_leaves_nothing():
    assert not sparse_code(torch.eye(3).double(), torch.ones(3).double(), 1.5).any()


def test_weights_are_one_step_on_the_chosen_entries_and_nothing_else():
    space = node(3)
    sampler = sparse(space, sets=["inputs"], spread=1.0)
    mixture = sampler.mixture()
    arch = dict(zip(space.decisions, sampler.architecture(), strict=True))
    [inputs, *edges, alone] = space.decisions
    pair = [int(i) for i in str(inputs.options[arch[inputs]]).split("+")]
    a, b, z = sampler._dictionaries[0], sampler.compressed[0], sampler.codes[0]
    sizes = z.abs().view(3, 3).amax(1)
    assert set(pair) == set(sizes.topk(2).indices.tolist())
    at = [3 * i + int(z.view(3, 3)[i].abs().argmax()) for i in pair]
    kept = torch.zeros_like(z)
    kept[at] = z[at]
    full = (a.T @ (b - a @ kept) + kept).float()
    for i, entry in zip(pair, at, strict=True):
        weights = mixture[edges[i]]
        assert weights.count_nonzero() == 1
        torch.testing.assert_close(weights[entry - 3 * i], full[entry])
    assert mixture[inputs].tolist() == [float(k == arch[inputs]) for k in range(3)]
    assert mixture[alone].count_nonzero() == 1
    mixture[edges[pair[0]]].sum().backward()
    assert sampler.compressed.grad is not None
    torch.testing.assert_close(sampler.compressed.grad[0], a[:, at[0]])


def test_only_what_is_chosen_runs():
    class Node(nn.Module):
        def __init__(self):
            super().__init__()
            ops = [choose(["none", "conv"], f"edge{i}") for i in range(3)]
            inputs = choose(["0+1", "0+2", "1+2"], "inputs")
            self.edges = nn.ModuleList()
            for i, op in enumerate(ops):
                edge = ms.nn.Choice([nn.Identity(), nn.Linear(4, 4)], op)
                held = [edge if str(i) in str(name) else Zero() for name in inputs.options]
                self.edges.append(ms.nn.Choice(held, inputs))

        def forward(self, x):
            return sum(edge(x) for edge in self.edges)

    class Zero(nn.Module):
        def forward(self, x):
            return torch.zeros_like(x)

    net = ms.Supernet(Node())
    sampler = sparse(net.space, sets=["inputs"], exclude=["none"])
    [path] = sampler.plan(np.random.default_rng(0), 0).paths
    x, y = torch.randn(6, 4), torch.arange(6) % 4
    accumulate(net, sampler.plan(np.random.default_rng(0), 0), x, y, largest=net.space.largest)
    learnt = {i for i, edge in enumerate(net.model.edges) if _reached(edge)}
    named = str(
        net.space.decisions[net.space.index[net.model.edges[0].decision]].options[
            path.arch[net.space.index[net.model.edges[0].decision]]
        ]
    )
    assert learnt == {int(i) for i in named.split("+")}


def _reached(edge: nn.Module) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in edge.parameters())


def test_excluded_options_win_nothing_and_a_limit_is_kept():
    space = node(4)
    sampler = sparse(space, sets=["inputs"], exclude=["none"], spread=1.0)
    assert isinstance(sampler, Generates)
    assert all(option > 0 for option in sampler.generate(1e9).arch[1:5])
    assert sampler.generate(1e9).arch == sampler.architecture()
    within = sampler.generate(6.0)
    assert within.within and within.cost <= 6
    assert all(0 not in arch[1:5] for arch in sampler.sampled(1e9, 0))


def test_codes_are_recovered_when_it_is_time():
    space = node(3)
    sampler = sparse(space, sets=["inputs"], every=2)
    before = [code.clone() for code in sampler.codes]
    with torch.no_grad():
        sampler.compressed.add_(1.0)
    sampler.probe(np.random.default_rng(0), 1, 10)
    assert all(map(torch.equal, before, sampler.codes))
    assert sampler.report() is None
    sampler.probe(np.random.default_rng(0), 2, 10)
    fresh = sparse_code(sampler._dictionaries[0], sampler.compressed[0].detach(), 1e-5)
    assert torch.equal(sampler.codes[0], fresh)
    report = sampler.report()
    assert report is not None
    assert report["largest_move"] > 0


def test_what_does_not_fit_is_refused():
    space = node(3)
    for of, options, message in (
        (space, {"sets": ["x"]}, "sets = 'x': no decision has such a name"),
        (space, {"sets": ["alone"]}, "are no sets of parts"),
        (space, {"exclude": ["x"]}, "exclude = 'x': there is no such option"),
        (space, {"exclude": ["a", "b"]}, "'alone' is left no option"),
        (space, {"metric": "x"}, "metric = 'x': there are no such costs, have macs"),
    ):
        with pytest.raises(ValueError, match=message):
            sparse(of, **options)
