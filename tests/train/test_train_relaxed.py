"""The differentiable family against gradients, schedules and architectures written out."""

import functools
import itertools
import types
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from train_nets import LOOK, Dropping, Stopped, digits, same, seeded, weights

import manyshot as ms
from manyshot import records
from manyshot.cost import CostTable
from manyshot.pipeline.stages.generate import _proposal
from manyshot.recipe import SupernetSettings
from manyshot.report.relaxation import selected
from manyshot.search import Limit
from manyshot.space import SearchSpace, choose
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import (
    Relaxed,
    RelaxedOptions,
    Taught,
    Trainer,
    TrainingSettings,
    engine,
    relaxation,
    train,
    unrolled,
)
from manyshot.train.pruning import Pruning
from manyshot.train.relaxation import ESTIMATORS, likeliest_within
from manyshot.train.unrolled import check_unrolled, unrolled_gradients


def additive(space: SearchSpace, step: int = 3) -> dict[str, CostTable]:
    tables = {(i,): step * np.arange(n) + i for i, n in enumerate(space.counts.tolist())}
    return {"macs": CostTable.of("macs", tuple(space.counts.tolist()), tables.items())}


def relaxed(space: SearchSpace, **options: Any) -> Relaxed:
    return Relaxed(space, additive(space), RelaxedOptions(**options), seed=1)


class TestBilevel(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, lr=0.1, period=3)


class TestHard(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, estimator="hard", lr=0.1, tau=10.0, tau_end=0.1, warmup=0.2)


class TestHardBesideOthers(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, estimator="hard", others=True, schedule="one_level", tau=5.0)


class TestOneLevelSigmoidsPruned(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(
            space,
            estimator="sigmoid",
            schedule="one_level",
            prune=0.45,
            prune_every=4,
            cost_weight=0.1,
            spread=1.0,
        )


class TestTwoWithCosts(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, estimator="two", cost_weight=2.0, cost_target=0.5, every=2)


class TestTwoInterpolated(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, estimator="two", widths="interpolated", lr=0.1)


class TestUnrolled(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, schedule="unrolled", lr=0.1)


class TestGumbelOneLevel(SamplerSuite):
    def make_sampler(self, space: SearchSpace) -> Relaxed:
        return relaxed(space, estimator="gumbel", schedule="one_level", entropy_weight=0.1)


def three(names: tuple[str, ...] = ("none", "skip", "conv")) -> SearchSpace:
    return SearchSpace([choose(names, f"edge{i}") for i in range(3)])


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


# -- weights of options ----------------------------------------------------------------------


def test_edges_of_equal_logits_change_nothing():
    """PC-DARTS with equal edge weights is DARTS."""
    space = three()
    plain, normalised = relaxed(space), relaxed(space, edges=[["edge0", "edge2"]])
    ours, theirs = plain.mixture(rng()), normalised.mixture(rng())
    assert all(torch.equal(ours[d], theirs[d]) for d in space.decisions)


def test_edges_multiply_by_the_size_of_their_group_times_a_softmax():
    space = three()
    sampler = relaxed(space, edges=[["edge0", "edge2"]])
    with torch.no_grad():
        sampler._edge_logits.copy_(torch.tensor([0.3, -0.8]))
    share = F.softmax(torch.tensor([0.3, -0.8]), 0)
    got, plain = sampler.mixture(rng()), relaxed(space).mixture(rng())
    for i, factor in enumerate([2 * share[0], torch.tensor(1.0), 2 * share[1]]):
        decision = space.decisions[i]
        torch.testing.assert_close(got[decision], factor * plain[decision])


def test_what_does_nothing_gets_a_weight_that_falls_to_zero():
    """DARTS- at the end is DARTS."""
    space = three()
    plain, helped = relaxed(space), relaxed(space, skip="skip", skip_weight=2.0)
    for progress in (0.0, 0.25, 1.0):
        helped.progress = progress
        ours, theirs = plain.mixture(rng()), helped.mixture(rng())
        for d in space.decisions:
            added = torch.tensor([0.0, 2 * (1 - progress), 0.0])
            torch.testing.assert_close(theirs[d], ours[d] + added)


def test_two_are_the_largest_of_logits_with_noise_and_sum_to_one():
    logits = torch.tensor([0.1, 2.0, -1.0, 0.5])
    counts = torch.zeros(4)
    noise = rng()
    for _ in range(4000):
        w = ESTIMATORS["two"](logits, 1.0, noise)
        assert (w > 0).sum() == 2
        kept = w.nonzero()[:, 0]
        torch.testing.assert_close(w[kept], logits[kept].softmax(0))
        counts[kept] += 1
    p = logits.double().softmax(0).tolist()  # without replacement: first i, or first j and then i
    chances = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i) for i in range(4)]
    torch.testing.assert_close(
        counts / 4000, torch.tensor(chances), rtol=0, atol=5 * 0.5 / 4000**0.5
    )


def test_a_soft_draw_is_the_softmax_of_logits_with_the_noise_of_its_stream():
    """FBNetV2 weighs masks by such draws; which one is largest has the chance of the softmax."""
    space = SearchSpace([choose([4, 8, 12], "width")])
    sampler = relaxed(space, estimator="gumbel", tau=0.7, spread=1.0)
    logits = sampler.logits.detach()
    noise = -torch.log(-torch.log(torch.rand(4000, 3, generator=rng())))
    drawn = ((logits + noise) / 0.7).softmax(1).argmax(1).bincount(minlength=3) / 4000
    ours, counts = rng(), torch.zeros(3)
    for _ in range(4000):
        [w] = sampler.mixture(ours).values()
        assert float(w.detach().sum()) == pytest.approx(1, abs=1e-6)
        counts[int(w.argmax())] += 1
    chances = logits.softmax(0)
    for shares in (drawn, counts / 4000):
        torch.testing.assert_close(shares, chances, rtol=0, atol=5 * 0.5 / 4000**0.5)


def test_hard_is_the_forward_of_the_chosen_architecture_and_has_a_gradient():
    """GDAS: the value is that of the path, and the gradient of logits is not zero."""
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))
    sampler = relaxed(net.space, estimator="hard", schedule="one_level", tau=5.0)
    [path] = sampler.plan(np.random.default_rng(3), 0).paths
    x = torch.randn(6, 1, 8, 8)
    masked = net(x, path.arch, policy=path.policy, masks=path.masks)
    assert torch.equal(masked, net(x, path.arch))
    masked.square().sum().backward()
    assert sampler.logits.grad is not None and sampler.logits.grad.abs().sum() > 0


def gradients_of_draws(net: ms.Supernet, **options: Any) -> tuple[Tensor, list[Tensor]]:
    """A loss, and its gradients in the weights of options of a hard draw."""
    sampler = relaxed(net.space, estimator="hard", schedule="one_level", **options)
    [path] = sampler.plan(np.random.default_rng(3), 0).paths
    leaves = {d: p.detach().double().requires_grad_() for d, p in path.policy.items()}
    torch.manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8).double(), torch.arange(32) % 10
    loss = F.cross_entropy(net(x, path.arch, policy=leaves, masks=path.masks), y)
    return loss, list(torch.autograd.grad(loss, list(leaves.values())))


def test_a_draw_alone_teaches_nothing_where_a_batch_norm_follows():
    """What multiplies the input of a convolution before a batch norm matters by its eps alone."""
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)).double())
    *before, last = gradients_of_draws(net)[1]
    assert last.abs().max() > 1e-2  # a linear layer follows
    assert all(each.abs().max() < 1e-4 for each in before)


def smooth_chain() -> nn.Module:
    """Three layers of three options, each with a batch norm, without kinks."""

    def layer(into: int, name: str) -> ms.nn.Choice:
        convs = (nn.Conv2d(into, 4, k, padding=k // 2) for k in (1, 3, 5))
        options = [nn.Sequential(conv, nn.BatchNorm2d(4), nn.Tanh()) for conv in convs]
        return ms.nn.Choice(options, name)

    layers = [layer(into, f"layer{i}") for i, into in enumerate((1, 4, 4))]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 10))


def test_others_beside_a_draw_have_the_gradient_of_the_sum_of_all_options():
    """The oracle moves each weight a little in the weighted sum, where all options run."""
    net = seeded(lambda: ms.Supernet(smooth_chain()).double())
    loss, got = gradients_of_draws(net, others=True)
    sampler = relaxed(net.space, estimator="hard", schedule="one_level")
    [path] = sampler.plan(np.random.default_rng(3), 0).paths
    torch.manual_seed(0)
    x, y = torch.randn(32, 1, 8, 8).double(), torch.arange(32) % 10
    torch.testing.assert_close(loss.detach(), F.cross_entropy(net(x, path.arch), y).detach())
    for d, gradient in zip(net.space.decisions, got, strict=True):
        for option in range(len(d.options)):
            ends = []
            for sign in (1, -1):
                weights = {e: p.detach().double() for e, p in path.policy.items()}
                weights[d][option] += sign * 1e-5
                with torch.no_grad():
                    ends.append(F.cross_entropy(net(x, policy=weights, masks="mixed"), y))
            assert float(gradient[option]) == pytest.approx(
                float(ends[0] - ends[1]) / 2e-5, rel=1e-4, abs=1e-7
            )
        assert gradient.abs().max() > 1e-3


# -- what logits learn from ------------------------------------------------------------------


def held_out(images: int, seed: int, dtype: torch.dtype = torch.float32) -> Any:
    part = ms.data.load("digits", train_size=160, held_out=64).held_out
    return ms.data.fixed(part, images, 64, dtype=dtype, **{**LOOK, "seed": seed})


def training(
    net: ms.Supernet, sampler: Relaxed, folder: Any = None, dtype: Any = torch.float32, **more: Any
) -> Trainer:
    made = TrainingSettings(**{"epochs": 2, "batch_size": 32, "checkpoint_steps": 3} | more)
    return Trainer(
        net=net,
        sampler=sampler,
        batches=ms.data.Batches(digits().train, 32, dtype=dtype, **LOOK),
        settings=made,
        seed=5,
        largest=net.space.largest,
        accelerator=engine(torch.device("cpu"), made),
        folder=folder,
        held_out=functools.partial(held_out, dtype=dtype),
    )


def expected_logits(net: ms.Supernet, before: Relaxed, run: Trainer, lr: float) -> Tensor:
    """Logits after Adam's first step on the gradient of one graph through everything."""
    twin = before.logits.detach().clone().requires_grad_()
    parts = torch.split(twin, net.space.counts.tolist())
    policy = {d: p.softmax(0) for d, p in zip(net.space.decisions, parts, strict=True)}
    step_seed = run.prober.image_seed(0)
    net.eval()
    total = 0
    for x, y in held_out(48, step_seed, torch.float64):
        loss = F.cross_entropy(net(x, policy=policy, masks="mixed", stats="batch"), y)
        total = total + loss * len(y) / 48
    total.backward()
    optimizer = torch.optim.Adam([twin], lr, betas=(0.5, 0.999), weight_decay=1e-3)
    optimizer.step()
    return twin.detach()


def test_logits_move_by_the_gradient_of_the_held_out_loss():
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0)).double())
    sampler = relaxed(net.space, lr=0.1, images=48)
    before = relaxed(net.space, lr=0.1, images=48)
    run = training(net, sampler, dtype=torch.float64, epochs=1)
    run.steps, run.weight_steps = 1, 1  # type: ignore[misc]
    train(run)
    expected = expected_logits(net, before, run, 0.1)
    torch.testing.assert_close(sampler.logits.detach(), expected, rtol=0, atol=1e-6)


def test_an_unrolled_gradient_is_that_of_a_graph_through_the_step():
    """The oracle differentiates through the step; the finite difference is off by its curvature."""
    torch.manual_seed(0)
    a, b = torch.randn(20, 3).double(), torch.randn(20, 3).double()
    y, z = torch.randn(20).double(), torch.randn(20).double()
    w = nn.Parameter(torch.randn(3).double())
    p = torch.tensor([0.3, 0.7]).double().requires_grad_()

    def loss(inputs: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        linear = inputs @ weight
        return ((p[0] * linear.tanh() + p[1] * linear - target) ** 2).mean()

    rate = 0.05
    [slope] = torch.autograd.grad(loss(a, y, w), w, create_graph=True)
    after = loss(b, z, w - rate * slope)
    [exact] = torch.autograd.grad(after, p)
    value, [got] = unrolled_gradients(lambda: loss(a, y, w), lambda: loss(b, z, w), [w], [p], rate)
    torch.testing.assert_close(value, after.detach())
    torch.testing.assert_close(got, exact, rtol=1e-4, atol=1e-6)
    [first] = torch.autograd.grad(loss(b, z, w), p)
    assert not torch.allclose(first, exact, rtol=1e-2)  # the second order is not nothing


def test_the_loop_unrolls_and_leaves_weights_as_they_were():
    ends = []
    for schedule in ("bilevel", "unrolled"):
        net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))
        sampler = relaxed(net.space, schedule=schedule, lr=0.1)
        run = training(net, sampler, epochs=1, lr=0.5)
        run.steps, run.weight_steps = 1, 1  # type: ignore[misc]
        train(run)
        ends.append((weights(net), sampler.logits.detach().clone()))
    assert same(ends[0][0], ends[1][0])  # the first step of weights comes before any of logits
    assert not torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("more", [{}, {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1}])
def test_the_loop_unrolls_the_step_that_it_took(more, monkeypatch):
    """On the images and targets of that step, mixed and smoothed if they were.

    The finite difference is a short one here, since the oracle differentiates.
    """
    monkeypatch.setattr(unrolled, "REACH", 1e-4)
    net = seeded(lambda: ms.Supernet(Dropping(dropout=0.0)).double())
    run = training(net, relaxed(net.space, schedule="unrolled"), dtype=torch.float64, **more)
    batch, plan, answers = next(run.batches.from_step(0)), run.plan(), []
    run.sampler.feedback = lambda plan, losses, probed: answers.append(probed)  # type: ignore[method-assign]
    net.eval()
    leaves = {d: p.detach().double().requires_grad_() for d, p in plan.paths[0].policy.items()}
    policy = {"policy": leaves, "masks": "mixed"}
    images, targets = run.mixer(0, *batch)
    weights = dict(net.named_parameters())
    if more:
        own, other, share = targets
        hot = F.one_hot(own, 10).double() * share[:, None]
        hot += F.one_hot(other, 10).double() * (1 - share)[:, None]
        targets = 0.9 * hot + 0.1 / 10
    loss = F.cross_entropy(net(images, **policy), targets)
    rate = run.optimisation.weights.param_groups[0]["lr"]
    slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    moved = {
        name: w if slope is None else w - rate * slope
        for (name, w), slope in zip(weights.items(), slopes, strict=True)
    }
    [(x, y)] = held_out(64, run.prober.image_seed(0), torch.float64)
    after = F.cross_entropy(torch.func.functional_call(net, moved, (x,), policy), y)
    expected = torch.autograd.grad(after, list(leaves.values()))
    net.train()
    run.teach([types.SimpleNamespace(plan=plan, losses=[loss.detach()])], batch)
    [got] = answers[0].gradients
    for d, exact in zip(leaves, expected, strict=True):
        torch.testing.assert_close(got[d], exact, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(answers[0].losses[0], after.detach())


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"processes": 2},
            "is of one process, and 2 train together: take one, or take a schedule of",
        ),
        ({"taught": True}, "paths learn from a teacher: set teacher = 'none', or take a schedule"),
        ({"settings": SupernetSettings(snapshots={"number": 2})}, "set snapshots.number = 0, or"),
    ],
)
def test_an_unrolled_step_that_was_another_is_refused(asked, message):
    sampler = relaxed(three(), schedule="unrolled")
    check = {"settings": SupernetSettings(), "processes": 1, **asked}
    with pytest.raises(ValueError, match=message):
        check_unrolled(Taught(sampler, "labels"), **check)
    check_unrolled(relaxed(three()), **check)


def test_costs_and_entropy_push_logits_as_their_formulas_say():
    space = three(("a", "b"))
    sampler = relaxed(space, cost_weight=0.5, entropy_weight=0.2, spread=1.0)
    penalty = sampler.penalty(sampler.mixture(rng()))
    parts = [e.softmax(0) for e in torch.split(sampler.logits.detach().double(), [2, 2, 2])]
    table = additive(space)["macs"]
    cost = sum(
        float(table([arch])[0]) * np.prod([float(p[o]) for p, o in zip(parts, arch, strict=True)])
        for arch in itertools.product(range(2), repeat=3)
    )
    entropy = sum(float(-(p * p.log()).sum()) for p in parts) / 3
    expected = 0.5 * cost / table.range()[1] + 0.2 * entropy
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-6)


def test_costs_within_the_band_are_left_alone():
    space = three(("a", "b"))
    sampler = relaxed(space, cost_weight=2.0, cost_target=0.5)
    table = additive(space)["macs"]
    most = table.range()[1]
    for share in (0.3, 0.49, 0.8):
        p = (share * most - 3) / 9  # costs are 3 + 3 (b's): all decisions have b with chance p
        mixture = {d: torch.tensor([1 - p, p], dtype=torch.float64) for d in space.decisions}
        penalty = sampler.penalty(mixture)
        if share == 0.49:
            assert penalty is None
        else:
            sign = 1 if share > 0.5 else -1
            assert float(penalty) == pytest.approx(sign * 2 * np.log(share), rel=1e-9)


# -- pruning ---------------------------------------------------------------------------------


def test_pruning_replays_its_schedule():
    """Fewer than four: the increment doubles and is added; four or more: half, and begin anew."""
    rounds = Pruning(0.01, 1.0)
    counts, alive = [3, 3, 4], torch.ones(10, dtype=torch.bool)
    none = torch.zeros(10, dtype=torch.bool)
    high = torch.full((10,), 0.5)
    alive = rounds.round(high, alive, counts, none)
    assert alive.all() and rounds.weight == 3.0  # 1 + 2
    alive = rounds.round(high, alive, counts, none)
    assert alive.all() and rounds.weight == 7.0  # 3 + 4
    low = torch.tensor([0.5, 0.03, 0.5, 0.005, 0.04, 0.001, 0.5, 0.02, 0.5, 0.049])
    alive = rounds.round(low, alive, counts, none)
    # 0.001 and 0.005 are below 0.01, 0.02 and 0.03 make four; 0.04 is the last of its decision
    assert alive.tolist() == [True, False, True, False, True, False, True, False, True, True]
    assert rounds.weight == 3.5
    alive = rounds.round(low, alive, counts, none)
    assert alive.tolist() == [True, False, True, False, True, False, True, False, True, False]
    assert rounds.weight == 5.5  # one left out: the increment, begun anew at 1, doubles


def test_pruning_leaves_an_option_that_may_win():
    """Where one that is excluded weighs most, the largest of the others stays besides."""
    sampler = relaxed(
        three(), estimator="sigmoid", schedule="one_level", prune=0.1, exclude=["none"]
    )
    with torch.no_grad():
        sampler.logits.copy_(torch.tensor([0.0, -9, -8] * 3))
    sampler.probe(rng(), step=100, steps=200)
    assert sampler.alive.tolist() == [True, False, True] * 3
    generated = sampler.generate(1e9)
    assert generated.arch == (2, 2, 2) and generated.returned == ()
    assert sampler.sampled(1e9, 0) == [(2, 2, 2)]


def test_what_is_pruned_has_no_weight_and_does_not_come_back():
    space = three()
    sampler = relaxed(space, estimator="sigmoid", schedule="one_level", prune=0.1)
    sampler.alive[1] = False
    mixture = sampler.mixture(rng())
    assert mixture[space.decisions[0]][1] == 0
    sum(w.sum() for w in mixture.values()).backward()
    assert sampler.logits.grad[1] == 0 and sampler.logits.grad.isfinite().all()


def test_costs_have_no_say_once_nothing_is_left_to_choose():
    space = three()
    sampler = relaxed(space, estimator="sigmoid", schedule="one_level", prune=0.1, cost_weight=0.5)
    assert sampler.penalty(sampler.mixture(rng())) is not None
    sampler.alive[:] = torch.tensor([True, False, False] * 3)
    assert sampler.penalty(sampler.mixture(rng())) is None


# -- final architectures ---------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40))
def test_of_few_the_best_within_the_limit_and_of_many_one_that_no_change_betters(seed, limit):
    """Costs of two decisions interact; some options have no weight, and are never chosen."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(2, 5, size=3).tolist()
    tables = {(i,): draw.integers(0, 12, size=n) for i, n in enumerate(counts)}
    tables[0, 2] = draw.integers(0, 12, size=(counts[0], counts[2]))
    table = CostTable.of("macs", tuple(counts), tables.items())
    logs = [np.where(draw.random(n) < 0.2, -np.inf, draw.normal(size=n)) for n in counts]
    for each in logs:
        each[draw.integers(len(each))] = 0.5
    possible = [np.flatnonzero(each > -np.inf).tolist() for each in logs]
    every = list(itertools.product(*possible))
    legal = [a for a in every if table([a])[0] <= limit]

    def worth(a):
        return sum(log[o] for log, o in zip(logs, a, strict=True))

    arch = likeliest_within(logs, table, limit)
    assert arch in every
    assert arch in legal if legal else table([arch])[0] == min(table(every))
    if legal:
        assert worth(arch) == pytest.approx(max(map(worth, legal)), abs=1e-12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relaxation, "LISTED", 0)
        arch = likeliest_within(logs, table, limit)
    assert arch in every
    if arch in legal:
        near = [a for a in legal if sum(x != y for x, y in zip(a, arch, strict=True)) <= 1]
        assert worth(arch) == pytest.approx(max(map(worth, near)), abs=1e-12)


def test_where_costs_interact_one_change_at_a_time_misses_what_is_within(monkeypatch):
    """Each change alone costs more, both together less: of a small space all are looked at."""
    table = CostTable.of("macs", (2, 2), {(0, 1): np.array([[5, 9], [9, 1]])}.items())
    logs = [np.array([0.0, -1.0])] * 2
    assert likeliest_within(logs, table, 2) == (1, 1)
    monkeypatch.setattr(relaxation, "LISTED", 3)
    assert likeliest_within(logs, table, 2) == (0, 0)  # and says so by its cost


def test_pruned_options_come_back_where_no_network_without_them_is_within():
    sampler = relaxed(three(), estimator="sigmoid", schedule="one_level", prune=0.1)
    low, high = sampler.table.range()
    alive = sampler.generate(high).arch
    sampler.alive[:] = False
    for offset, option in zip((0, 3, 6), alive, strict=True):
        sampler.alive[offset + option] = True
    cost = float(sampler.table([alive])[0])
    kept = sampler.generate(cost)
    assert kept.arch == alive and kept.returned == ()
    assert low < cost
    cheapest = sampler.generate(float(low))
    assert cheapest.within
    assert cheapest.returned == tuple(
        f"edge{i} = {('none', 'skip', 'conv')[option]}"
        for i, option in enumerate(cheapest.arch)
        if option != alive[i]
    )


def test_architectures_are_ordered_by_the_product_of_their_weights():
    """Decisions that do not matter are left out, and what has no weight counts as 1e-12."""
    net = ms.Supernet(ms.zoo.cell(width=2, cells=1))
    sampler = relaxed(net.space, spread=1.0)
    parts = [p.double().softmax(0) for p in sampler.logits.detach().split(5)]
    sampler.alive[0] = False
    parts[0] = sampler.logits.detach()[:5].double().masked_fill(~sampler.alive[:5], -1e9).softmax(0)
    whole, cut = (1, 2, 3, 4, 0, 1), (0, 1, 1, 2, 2, 3)
    chances = [np.prod([float(p[o]) for p, o in zip(parts, whole, strict=True)])]
    # without edge 01 nothing comes from node 1, so that edges 12 and 13 do not matter
    mattering = [float(parts[i][cut[i]]) for i in (1, 3, 5)]
    chances.append(1e-12 * np.prod(mattering))
    assert sampler.log_weights([whole, cut]) == pytest.approx(np.log(chances), rel=1e-5)


def test_excluded_options_win_nothing():
    space = three()
    sampler = relaxed(space, exclude=["none"])
    with torch.no_grad():
        sampler.logits.copy_(torch.tensor([5.0, 1, 2] * 3))
    assert sampler.generate(1e9).arch == (2, 2, 2)
    assert all(0 not in arch for arch in sampler.sampled(1e9, 0))


def test_options_that_contradict_each_other_or_the_space_are_refused():
    space = three()
    for options, message in (
        ({"cost_target": 0.5}, "no effect without cost_weight"),
        ({"prune": 0.1}, "take estimator = 'sigmoid'"),
        ({"schedule": "one_level", "every": 2}, "leave every out"),
        ({"estimator": "hard", "edges": [["edge0"]]}, "edges multiply weights"),
        ({"estimator": "hard", "skip": "skip"}, "skip adds to weights"),
        ({"others": True}, "with estimator = 'softmax' all that have a weight run anyway"),
        ({"estimator": "hard", "widths": "interpolated"}, "take 'two', as TAS does"),
        ({"skip": "identity"}, "no option of this space, which has none, skip, conv"),
        ({"edges": [["edge7"]]}, "edges name 'edge7'; decisions are edge0, edge1, edge2"),
        ({"exclude": ["none", "skip", "conv"]}, "leaves a decision no option"),
        ({"metric": "latency_ms"}, "no costs for metric 'latency_ms', have macs"),
    ):
        with pytest.raises(ValueError, match=message):
            relaxed(space, **options)


# -- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"lr": 0.1},
        {"schedule": "unrolled", "lr": 0.1, "every": 2},
        {"estimator": "hard", "lr": 0.1, "tau": 10.0, "tau_end": 0.1},
        {
            "estimator": "sigmoid",
            "schedule": "one_level",
            "prune": 0.49,
            "prune_every": 2,
            "spread": 0.1,
            "cost_weight": 0.1,
            "lr": 0.1,
        },
    ],
    ids=["bilevel", "unrolled", "hard", "pruned"],
)
def test_broken_off_it_goes_on_to_the_same_end(options, tmp_path, monkeypatch):
    def make(folder):
        net = seeded(lambda: ms.Supernet(Dropping()))
        return training(net, relaxed(net.space, **options), folder)

    whole = make(tmp_path / "whole")
    train(whole)
    left = [4]

    def wrote(path):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    monkeypatch.setattr(records, "wrote", wrote)
    with pytest.raises(Stopped):
        train(make(tmp_path / "again"))
    monkeypatch.undo()
    again = make(tmp_path / "again")
    train(again)
    assert same(weights(whole.net), weights(again.net))
    assert torch.equal(whole.sampler.logits, again.sampler.logits)
    assert torch.equal(whole.sampler.alive, again.sampler.alive)


def test_a_run_says_which_options_come_back_and_records_them():
    space = three()
    sampler = relaxed(space, estimator="sigmoid", schedule="one_level", prune=0.1)
    low, high = (float(each) for each in sampler.table.range())
    arch = sampler.generate(high).arch
    sampler.alive[:] = False
    for offset, option in zip((0, 3, 6), arch, strict=True):
        sampler.alive[offset + option] = True
    ws = types.SimpleNamespace(net=types.SimpleNamespace(space=space))
    with pytest.warns(UserWarning, match=r"'macs<=3': .* these come back, .*: edge\d = \w+"):
        proposal = _proposal(ws, sampler, Limit("macs<=3", sampler.table, low))
    record = proposal.record(proposal.archs[0])
    assert record.returned == sampler.generate(low).returned
    plain = _proposal(ws, sampler, Limit("macs<=30", sampler.table, high)).record(None)
    assert plain.plain() == {"decodes": 1, "drawn": False}
    run = types.SimpleNamespace(winners=[], options=[], space=None)
    rows = selected(run, {"macs<=3": record, "macs<=30": plain}).rows
    assert [row["Came back"] for row in rows] == [", ".join(record.returned), ""]
    assert "Came back" not in selected(run, {"macs<=30": plain}).rows[0]
