"""ShiftNAS's sampler by itself: plans, probes, updates, networks."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from shift_nets import Vit, known_costs, probes_of, shift, shifting, supernet
from torch.nn import functional as F

from manyshot.cost.policy import PolicyCost
from manyshot.train import Probed, ShiftNAS, ShiftNASOptions, train, uniform_cost
from manyshot.train.gumbel import gumbel
from manyshot.train.samplers.complexity import ComplexityDistribution
from manyshot.train.samplers.shift import Generates


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def net():
    return supernet()


def spied(sampler: ShiftNAS) -> list:
    """What its generator is asked, and answers: (weights of targets, temperature, policies)."""
    seen = []

    def noting(module, args, kwargs, out):
        seen.append((args[0], kwargs.get("tau"), out))

    sampler.generator.register_forward_hook(noting, with_kwargs=True)
    return seen


def planned(sampler: ShiftNAS, seed: int = 0):
    """A plan, what the generator decoded for it, and the target it is for."""
    seen, counts = spied(sampler), sampler.counts.clone()
    plan = sampler.plan(rng(seed), 0)
    sampler.feedback(plan, [torch.tensor(1.0)])
    [target] = (sampler.counts - counts).nonzero().flatten().tolist()
    [(o, tau, decoded)] = seen
    return plan, o, decoded, target


# -- plans -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_plan_is_one_path_and_the_distances_of_all_targets(net, seed):
    """Lambda times the mean over targets of ((F - c_k) / step)^2, F from the cost table."""
    sampler = shift(net, resource_weight=0.7)
    plan, _, decoded, target = planned(sampler, seed)
    archs = [
        tuple(int(decoded.policies[d][k].argmax()) for d in net.space.decisions) for k in range(4)
    ]
    costs = known_costs(Vit)["macs"](archs)
    distances = ((costs - sampler.grid.centres) / sampler.grid.step) ** 2
    # the cost of policies is exact in float64, so only the mean rounds
    assert plan.penalty.item() == pytest.approx(0.7 * distances.mean(), rel=1e-12)
    [path] = plan.paths
    assert path.arch == archs[target]
    assert all(torch.equal(path.policy[d], decoded.policies[d][target]) for d in path.policy)
    assert (path.weight, path.target, path.masks) == (1.0, "labels", "full")


def test_the_resource_loss_of_the_drawn_target_alone(net):
    sampler = shift(net, all_bins=False, metric="params", masks="active")
    plan, _, _, target = planned(sampler, 5)
    [cost] = known_costs(Vit)["params"]([plan.paths[0].arch])
    distance = (cost - sampler.grid.centres[target]) / sampler.grid.step
    assert plan.penalty.item() == pytest.approx(0.5 * distance**2, rel=1e-12)
    assert plan.paths[0].masks == "active"


@pytest.mark.parametrize("all_bins", [True, False])
def test_jitter_draws_targets_within_half_a_step_and_the_grid(net, all_bins):
    sampler = shift(net, jitter=True, all_bins=all_bins)
    grid, offsets = sampler.grid, []
    for seed in range(60):
        plan, o, _, target = planned(sampler, seed)
        assert len(o) == (5 if all_bins else 1)
        # the last row is the target's: weights of its two neighbours in float32
        wanted = float(o[-1].double() @ torch.from_numpy(grid.centres).double())
        offsets.append((wanted - grid.centres[target]) / grid.step)
        assert grid.lo - 1e-3 <= wanted <= grid.hi + 1e-3
        if not all_bins:
            [cost] = known_costs(Vit)["macs"]([plan.paths[0].arch])
            distance = (cost - wanted) / grid.step
            assert plan.penalty.item() == pytest.approx(0.5 * distance**2, rel=1e-4, abs=1e-4)
    assert -0.5 <= min(offsets) < -0.3 < 0.3 < max(offsets) <= 0.5


@pytest.mark.parametrize("form", ["exact", "additive"])
def test_the_form_of_costs_is_an_option(net, form):
    sampler = shift(net, cost_form=form)
    plan, _, decoded, _ = planned(sampler, 2)
    costs = PolicyCost(known_costs(Vit)["macs"], net.space, form=form)(decoded.policies)
    distances = (costs.detach().numpy() - sampler.grid.centres) / sampler.grid.step
    assert plan.penalty.item() == pytest.approx(0.5 * (distances**2).mean(), rel=1e-12)


# -- probes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warmup", "period", "saved", "updated"),
    [
        (0.2, 3, [4], [7, 10, 13, 16, 19]),
        (0.5, 5, [10], [15, 20]),
        (0.9, 5, [18], []),
        (0.0, 5, [5], [10, 15, 20]),  # at the first there is nothing yet to compare with
    ],
)
@pytest.mark.filterwarnings("ignore:the distribution over costs will not move")
@pytest.mark.parametrize("estimator", ["enumerated", "pathwise"])
def test_when_it_probes(estimator, warmup, period, saved, updated):
    run = shifting(shifts={"warmup": warmup, "period": period, "estimator": estimator, "images": 9})
    probes = dict(probes_of(run))
    assert sorted(probes) == sorted(saved + updated)
    for step, probe in probes.items():
        assert probe.save
        assert (probe.since, bool(probe.paths)) == (step in updated,) * 2
        assert probe.gradients == (step in updated and estimator == "pathwise")
        assert probe.images == (9 if step in updated else 2048)


def test_a_distribution_that_will_not_move_is_a_warning(net):
    sampler = shift(net, warmup=0.5, period=6)
    with pytest.warns(UserWarning, match="11 weight steps, the first 6 without it, have no 6 left"):
        sampler.probe(rng(), 1, 11)
    sampler.probe(rng(), 1, 12)  # one update, after the last


def test_enumerated_probes_are_of_the_likeliest_architectures(net):
    sampler = shift(net)
    sampler.probe(rng(), 4, 20)
    probe = sampler.probe(rng(), 7, 20)
    assert [path.arch for path in probe.paths] == [
        sampler.generator.archs(
            sampler.generator(sampler.generator.encode([c]), greedy=True).policies
        )[0]
        for c in sampler.grid.centres
    ]
    assert all(path.policy is None for path in probe.paths)


def test_of_many_targets_eight_are_probed(net):
    sampler = shift(net, bins=24)
    before = sampler.distribution.averages.clone()
    assert before.isnan().all()
    probe = sampler.probe(rng(), 7, 20)
    assert len(probe.paths) == 8
    deltas = torch.linspace(-1, 1, 8, dtype=torch.float64)
    sampler.feedback(sampler.plan(rng(), 7), [torch.ones(())], Probed(deltas, torch.zeros(8)))
    known = (~sampler.distribution.averages.isnan()).nonzero().flatten()
    assert [k // 3 for k in known.tolist()] == list(range(8))
    assert torch.equal(sampler.distribution.averages[known], deltas)
    report = sampler.report()
    assert (report["bins"], report["change"]) == (known.tolist(), deltas.tolist())


def test_drawn_probes_have_policies_of_their_architectures(net):
    sampler = shift(net, estimator="pathwise", draws=7, masks="active")
    probe = sampler.probe(rng(3), 7, 20)
    assert len(probe.paths) == 7
    assert len({path.arch for path in probe.paths}) > 2
    for path in probe.paths:
        assert path.masks == "active"
        for i, decision in zip(path.arch, net.space.decisions, strict=True):
            one_hot = F.one_hot(torch.tensor(i), len(decision.options)).float()
            assert torch.equal(path.policy[decision], one_hot)


def test_the_enumerated_update_is_that_of_the_distribution(net):
    options = {"rule": "paper", "ema": 0.5, "floor": 0.1}
    sampler, twin = shift(net, **options), ComplexityDistribution(4, **options)
    twin.lr = 0.05  # five updates of 20 steps: 5 / 5 is beyond the largest rate
    for step in (7, 10, 13, 16, 19):
        sampler.probe(rng(), step, 20)
        now, then = torch.rand(2, 4, generator=torch.Generator().manual_seed(step)).double()
        sampler.feedback(sampler.plan(rng(), 7), [torch.ones(())], Probed(now, then))
        twin.update(now - then)
        assert torch.equal(sampler.distribution.logits, twin.logits)
    assert not torch.equal(twin.logits, torch.zeros(4))


def test_the_pathwise_gradient_goes_through_generator_and_draws(net):
    """Of sum_s <policy_s, G_s> / S for given G: back to o, then through softmax(B + noise)."""
    sampler = shift(net, estimator="pathwise", draws=5)
    given, seen, steps = torch.Generator().manual_seed(9), spied(sampler), []
    sampler.distribution.update_from = steps.append
    probe = sampler.probe(rng(3), 7, 20)
    grads = [
        {d: torch.randn(len(d.options), generator=given).double() for d in path.policy}
        for path in probe.paths
    ]
    [(o, _, decoded)] = seen
    total = sum(
        (policy * torch.stack([own[d] for own in grads])).sum()
        for d, policy in decoded.policies.items()
    )
    [to_targets] = torch.autograd.grad(total, o, retain_graph=True)
    noise = gumbel((5, 4), torch.Generator().manual_seed(int(rng(3).integers(2**63))))
    soft = noise.double().softmax(1)
    assert torch.equal(o.argmax(1), soft.argmax(1))
    centred = to_targets - (to_targets * soft).sum(1, keepdim=True)
    expected = (soft * centred).sum(0) / 5
    probed = Probed(torch.ones(5), torch.zeros(5), tuple(grads))
    sampler.feedback(sampler.plan(rng(), 7), [torch.ones(())], probed)
    # the generator is float32
    torch.testing.assert_close(steps[0], expected, rtol=1e-5, atol=1e-7)
    assert all(p.grad is None for p in sampler.generator.parameters())


@pytest.mark.parametrize(
    ("options", "rate"),
    [({"period": 10}, 5 / 180), ({"period": 20}, 0.05), ({"distribution_lr": 1e-3}, 1e-3)],
)
def test_the_rate_of_the_distribution_goes_by_the_number_of_updates(net, options, rate):
    """2000 steps less 200: 180 updates of 5 / 180, or 90, which would be 5 / 90 > 0.05."""
    sampler = shift(net, **{"warmup": 0.1, "period": 10, **options})
    sampler.probe(rng(), 220, 2000)
    assert sampler.distribution.lr == pytest.approx(rate, rel=1e-12)


# -- what it refuses and gives -----------------------------------------------------------------


def test_a_state_of_other_targets_is_refused(net):
    state = shift(net).state_dict()
    with pytest.raises(ValueError, match=r"state is of targets .* use the recipe it was trained"):
        shift(net, bins=5).load_state_dict(state)
    shift(net).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "flops"}, "no costs for metric 'flops', have macs, params; latency is"),
        ({"grid": (1, 900, 899), "bins": None}, "not all within the reachable"),
        ({"grid": (1, 900, 899)}, "are of an automatic grid; leave them or grid out"),
        ({"estimator": "pathwise", "signal": "abs"}, "signal = 'abs' is of the enumerated"),
        ({"estimator": "pathwise", "ema": 0.5}, "ema = 0.5 is of the enumerated estimator, not"),
        ({"estimator": "pathwise", "window": 4}, "window = 4 is of the enumerated estimator"),
        ({"estimator": "pathwise", "rule": "bounded"}, "take rule = 'paper', or estimator = 'enu"),
        ({"rule": "bounded", "distribution_lr": 1e-3}, "distribution_lr = 0.001 is of the paper"),
        ({"rule": "bounded", "ema": 0.0}, "ema = 0.0 is of the paper's rule, and rule = 'bounded'"),
        ({"rule": "bounded", "floor": 0.05}, "floor = 0.05 is of the paper's rule, and rule"),
        ({"rule": "bounded", "logit_clip": 0.0}, "leave it out, or take rule = 'paper'"),
        ({"draws": 3}, "draws = 3 is of the pathwise estimator, and estimator = 'enumerated'"),
        (
            {"anneal": 0.5, "dead_zone": 0, "entropy_weight": 0},
            "anneal = 0.5 is of dead_zone and entropy_weight, which are both 0",
        ),
        ({"window": 1}, "window must be at least 2"),
        ({"policy_share": 1.5}, "policy_share = 1.5 is a share: at most 1"),
        ({"estimator": "pathwise", "kept": "answers"}, "kept = 'answers' is of the enumerated"),
    ],
)
def test_what_is_refused(net, options, message):
    with pytest.raises(ValueError, match=message):
        shift(net, **options)


def test_it_gives_networks_without_a_search(net):
    sampler = shift(net)
    assert isinstance(sampler, Generates)
    found = sampler.generate(sampler.grid.hi)
    assert net.space.check(found.arch) == found.arch
    assert found.cost == known_costs(Vit)["macs"]([found.arch])[0]
    drawn = sampler.sampled(sampler.grid.hi, seed=1)
    assert drawn == sampler.sampled(sampler.grid.hi, seed=1) != sampler.sampled(8000.0, seed=2)
    assert all(known_costs(Vit)["macs"](drawn) <= sampler.grid.hi)


# -- uniform costs -----------------------------------------------------------------------------


def test_uniform_costs_stay_uniform_and_never_probe(net):
    config = ShiftNASOptions(bins=4, hidden=8, warmup=0.2, period=3, all_bins=False)
    sampler = uniform_cost(net.space, known_costs(Vit), config)
    for seed in range(400):
        sampler.feedback(sampler.plan(rng(seed), 0), [torch.ones(())])
    assert sampler.counts.sum() == 400
    assert chisquare(sampler.counts.numpy()).pvalue > 1e-3
    run = shifting(sampler, net)
    run.prober.held_out = None
    assert list(probes_of(run)) == []
    run.step = run.weight_step = 0
    train(run)
    assert not sampler.probes
    assert torch.equal(sampler.distribution.logits, torch.zeros(4))
    assert run.probed_images == 0
