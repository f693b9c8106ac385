"""Slices for the weights, masks on a part of the batch for the policy."""

import functools

import numpy as np
import pytest
import torch
from shift_nets import Conv, Vit, policy_of, shift, shifting, supernet
from torch.nn import functional as F
from train_nets import same, weights

from manyshot.train import Plan, PlannedPath, Stateless, train
from manyshot.train.gradients import accumulate, policy_rows

IMAGES = torch.randn((40, 1, 8, 8), generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(40) % 10
ARCHS = {Vit: (1, 0, 1, 2, 0, 1), Conv: (0, 1, 1)}


def grads(tensors):
    return [None if t.grad is None else t.grad.clone() for t in tensors]


def accumulated(net, path, seed=3, **options):
    """Gradients of the weights, and the loss, after a plan of one path."""
    net.train().zero_grad(set_to_none=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        plan = Plan((path,))
        [loss] = accumulate(net, plan, IMAGES, LABELS, largest=net.space.largest, **options)
    return grads(net.parameters()), loss


@pytest.mark.parametrize(
    ("batch", "share", "rows"),
    [(64, 0.25, 16), (128, 0.25, 32), (100, 1 / 3, 34), (8, 0.25, 8), (40, 0.1, 16), (40, 1, 40)],
)
def test_how_many_samples_a_policy_has(batch, share, rows):
    assert policy_rows(batch, share) == rows


@pytest.mark.parametrize("make", [Vit, functools.partial(Vit, dropout=0.3), Conv])
def test_weights_learn_from_slices_of_the_whole_batch_to_the_last_bit(make):
    """Dropout and batch statistics included: they are those of a plan without policies."""
    net = supernet(make)
    arch = ARCHS[Conv if make is Conv else Vit]
    sliced, loss = accumulated(net, PlannedPath(arch), share=0.5)
    path = PlannedPath(arch, policy_of(net, arch), policy_share=0.5)
    shared, same_loss = accumulated(net, path, share=0.5)
    assert torch.equal(loss, same_loss)
    for one, other in zip(sliced, shared, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)
    other_seed, _ = accumulated(net, PlannedPath(arch), seed=4, share=0.5)
    if make not in (Vit, Conv):  # what dropout draws matters
        alike = zip(sliced, other_seed, strict=True)
        assert not all(a is b is None or torch.equal(a, b) for a, b in alike)


@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("make", [Vit, Conv])
def test_the_policy_learns_from_masks_on_the_first_samples(make, masks):
    """By autograd through the network in training mode, on a batch of these samples alone."""
    net, arch = supernet(make).double().train(), ARCHS[make]
    policy = policy_of(net, arch, torch.float64)
    path = PlannedPath(arch, policy, weight=2.0, masks=masks, policy_share=0.5)
    plan = Plan((path,))
    accumulate(net, plan, IMAGES.double(), LABELS, largest=net.space.largest, share=0.5)
    by_hand = policy_of(net, arch, torch.float64)
    logits = net(IMAGES[:20].double(), arch, policy=by_hand, masks=masks)
    F.cross_entropy(logits, LABELS[:20]).backward()  # weight and share are 2 and 1 / 2
    for decision, own in policy.items():
        theirs = by_hand[decision].grad
        assert (own.grad is None) == (theirs is None)
        if theirs is not None:
            # the same operations, but for a factor of one
            torch.testing.assert_close(own.grad, theirs, rtol=1e-12, atol=1e-15)
    assert any((own.grad != 0).any() for own in policy.values() if own.grad is not None)


def test_a_taught_policy_has_the_teachers_answers_on_its_samples():
    net = supernet().double().train()
    arch, largest = ARCHS[Vit], net.space.largest
    policy = policy_of(net, arch, torch.float64)
    paths = (PlannedPath(largest), PlannedPath(arch, policy, target="largest", policy_share=0.5))
    accumulate(net, Plan(paths), IMAGES.double(), LABELS, largest=largest)
    by_hand = policy_of(net, arch, torch.float64)
    teacher = net(IMAGES.double(), largest).detach()[:20].softmax(1)
    F.cross_entropy(net(IMAGES[:20].double(), arch, policy=by_hand), teacher).backward()
    for decision, own in policy.items():
        # softmax and its logarithm in another order
        torch.testing.assert_close(own.grad, by_hand[decision].grad, rtol=1e-9, atol=1e-12)


class Replayed(Stateless):
    """Given architectures, one after the other, by option indices."""

    def __init__(self, archs):
        self.archs = archs

    def plan(self, rng, step):
        return Plan((PlannedPath(self.archs[step]),))


@pytest.mark.parametrize("make", [functools.partial(Vit, dropout=0.3), Conv])
def test_a_run_has_the_weights_of_one_that_slices_the_same_paths(make):
    """Twelve steps with optimiser, dropout and batch norm, to the last bit."""
    known = Conv if make is Conv else Vit
    options = {"policy_share": 0.5, "policy_every": 2, "mix_uniform": 0.3, "entropy_weight": 0.1}
    net, archs = supernet(make), []
    run = shifting(shift(net, known, **options), net, make=known, epochs=3)
    plan = run.sampler.plan

    def planning(rng, step):
        planned = plan(rng, step)
        archs.extend(path.arch for path in planned.paths)
        return planned

    run.sampler.plan = planning
    before = [p.detach().clone() for p in run.sampler.generator.parameters()]
    train(run)
    net = supernet(make)
    again = shifting(Replayed(archs), net, make=known, probes=False, epochs=3)
    train(again)
    assert len(set(archs)) > 3
    assert same(weights(run.net), weights(again.net))
    now = run.sampler.generator.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, now, strict=True))


def test_the_generator_gets_the_gradient_of_its_samples_and_of_the_penalty():
    net = supernet().double()
    sampler = shift(net, policy_share=0.5, entropy_weight=0.1)
    held = list(sampler.generator.parameters())
    plan = sampler.plan(np.random.default_rng(3), 0)
    accumulate(net, plan, IMAGES.double(), LABELS, largest=net.space.largest, share=0.5)
    ours = grads(held)
    for parameter in held:
        parameter.grad = None
    plan = sampler.plan(np.random.default_rng(3), 0)
    [own] = plan.paths
    logits = net(IMAGES[:20].double(), own.arch, policy=own.policy)
    (0.5 * (F.cross_entropy(logits, LABELS[:20]) + plan.penalty)).backward()
    for one, other in zip(ours, grads(held), strict=True):
        # float32: sums over four targets and six decisions in another order
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)
