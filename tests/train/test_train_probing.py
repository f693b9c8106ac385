"""Probes: what they answer, against losses by hand, and what they leave as it was: everything."""

import copy
import hashlib

import pytest
import torch
from shift_nets import APART, Conv, Vit, held_out, k_shot, policy_of, shifting, splits, supernet
from torch.nn import functional as F
from train_nets import random_states, same, weights

import manyshot as ms
from manyshot.train import Plan, PlannedPath, Probe, train
from manyshot.train.probing import at_weights

ARCHS = [(0, 1, 1, 2, 0, 1), (2, 2, 0, 0, 1, 0), (1, 0, 1, 1, 1, 1)]


def with_k_shot():
    return supernet(sharing=k_shot())


def trained(net=None, steps=2, dtype=torch.float64, **options):
    """A run that has trained for some steps, saved its weights, and trained on."""
    run = shifting(net=net, dtype=dtype, epochs=1, **options)
    learn(run, steps)
    answer(run, Probe(save=True))
    before = copy.deepcopy(run.net)
    learn(run, steps)
    return run, before


def answer(run, probe):
    return run.prober.answer(probe, run.step)


def learn(run, steps):
    """Plain steps on the largest architecture; the sampler has no part in it."""
    run.net.train()
    for images, labels in [*run.batches.epoch(run.step)][:steps]:
        F.cross_entropy(run.net(images), labels).backward()
        run.optimisation.weights.step()
        run.optimisation.weights.zero_grad(set_to_none=True)
    run.step += 1


def by_hand(net, arch, batches):
    """The mean loss over all images of a network in eval mode."""
    logits = torch.cat([net.eval()(images, arch, stats="batch") for images, _ in batches])
    return F.cross_entropy(logits, torch.cat([labels for _, labels in batches]))


def batches_of(run, images=2048):
    return list(held_out(images, run.prober.image_seed(run.step), torch.float64))


def paths(net, gradients=True):
    return tuple(
        PlannedPath(arch, policy_of(net, arch, torch.float64) if gradients else None)
        for arch in ARCHS
    )


# -- what is answered --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "images"), [(Vit, 2048), (Vit, 50), (Conv, 50), (with_k_shot, 2048)]
)
def test_losses_are_those_by_hand_now_and_then(make, images):
    """With batch norm by the batch; with K copies those of the path, with codes as they are."""
    net = make() if make is with_k_shot else supernet(make)
    run, before = trained(net.double(), make=Conv if make is Conv else Vit)
    archs = [(0, 0, 1), (1, 1, 0)] if make is Conv else ARCHS
    probed = answer(run, Probe(tuple(map(PlannedPath, archs)), images=images, since=True))
    batches = batches_of(run, images)
    assert [len(labels) for _, labels in batches] == [32, min(images, APART) - 32]
    for i, arch in enumerate(archs):
        with torch.no_grad():
            now, then = (by_hand(net, arch, batches) for net in (copy.deepcopy(run.net), before))
        # 1e-6: probes take the softmax in float32, whatever the network's type
        assert probed.losses[i].item() == pytest.approx(now.item(), rel=1e-6)
        assert probed.before[i].item() == pytest.approx(then.item(), rel=1e-6)
        assert now != then
    assert probed.losses.dtype == probed.before.dtype == torch.float64
    assert probed.gradients == ()


@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("since", [False, True])
def test_gradients_are_those_of_autograd_through_the_network(since, masks):
    run, before = trained()
    own = tuple(PlannedPath(p.arch, p.policy, masks=masks) for p in paths(run.net))
    probed = answer(run, Probe(own, since=since, gradients=True))
    batches = batches_of(run)
    nets = [(copy.deepcopy(run.net), 1.0), *([(before, -1.0)] if since else [])]
    for path, found in zip(own, probed.gradients, strict=True):
        assert list(found) == list(path.policy) == list(run.net.space.decisions)
        total = [torch.zeros(len(d.options), dtype=torch.float64) for d in found]
        for net, sign in nets:
            policy = policy_of(net, path.arch, torch.float64)
            parts = []
            for images, labels in batches:
                logits = net.eval()(images, path.arch, stats="batch", policy=policy, masks=masks)
                parts.append(F.cross_entropy(logits, labels, reduction="sum"))
            grads = torch.autograd.grad(
                sum(parts) / APART, list(policy.values()), allow_unused=True
            )
            total = [t + sign * (0 if g is None else g) for t, g in zip(total, grads, strict=True)]
        for one, other in zip(found.values(), total, strict=True):
            # the softmax of float32 has rounding of 1e-7, of gradients of order 0.1
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert all(p.grad is None for path in own for p in path.policy.values())


@pytest.mark.parametrize("make", [Vit, Conv])
def test_between_equal_weights_there_is_no_change_at_all(make):
    net = supernet(make).double()
    run, _ = trained(net, steps=1, make=make)
    answer(run, Probe(save=True))
    own = (PlannedPath(net.space.largest, policy_of(net, net.space.largest, torch.float64)),)
    probed = answer(run, Probe(own, since=True, gradients=True))
    assert torch.equal(probed.losses, probed.before)
    assert all((g == 0).all() for g in probed.gradients[0].values())


def test_with_now_and_then_swapped_the_sign_flips():
    run, before = trained()
    probe = Probe(paths(run.net), since=True, gradients=True)
    one = answer(run, probe)
    now = {name: p.detach().clone() for name, p in run.net.named_parameters()}
    run.net.load_state_dict(run.prober.saved)
    run.prober.saved = now
    other = answer(run, probe)
    assert torch.equal(one.losses, other.before)
    assert torch.equal(one.before, other.losses)
    for first, second in zip(one.gradients, other.gradients, strict=True):
        assert all(torch.equal(first[d], -second[d]) for d in first)
    assert any((g != 0).any() for g in one.gradients[0].values())


def test_before_anything_was_saved_there_is_no_then():
    run = shifting(dtype=torch.float64)
    own = paths(run.net)
    probed = answer(run, Probe(own, since=True, gradients=True, save=True))
    assert probed.before is None
    alone = answer(run, Probe(own, gradients=True))
    assert torch.equal(probed.losses, alone.losses)
    for one, other in zip(probed.gradients, alone.gradients, strict=True):
        assert all(torch.equal(one[d], other[d]) for d in one)


def test_paths_without_policies_have_no_gradient_and_policies_without_a_wish_slice():
    run, _ = trained()
    mixed = (PlannedPath(ARCHS[0]), *paths(run.net)[1:])
    probed = answer(run, Probe(mixed, gradients=True))
    assert [len(g) for g in probed.gradients] == [0, 6, 6]
    unwanted = answer(run, Probe(mixed))
    assert unwanted.gradients == ()
    # masks and slices: float64, but for the softmax
    torch.testing.assert_close(unwanted.losses, probed.losses, rtol=1e-6, atol=0)


# -- what is left as it was --------------------------------------------------------------------


def hashed(run) -> str:
    """Of tensors, their storage, gradients and modes, and of the random streams."""
    sha = hashlib.sha256()
    for name, tensor in [*run.net.named_parameters(), *run.net.named_buffers()]:
        grad = None if tensor.grad is None else tensor.grad.tolist()
        known = (name, tensor.data_ptr(), tensor.stride(), tensor._version, grad)
        sha.update(repr((known, tensor.tolist())).encode())
    modes = [(name, module.training) for name, module in run.net.named_modules()]
    requires = [(name, p.requires_grad) for name, p in run.net.named_parameters()]
    sha.update(repr((modes, requires, random_states())).encode())
    return sha.hexdigest()


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        lambda: supernet(lambda: Vit(dropout=0.3)),
        lambda: supernet(Conv),
        with_k_shot,
        lambda: supernet(lambda: ms.zoo.tiny(width=3)),
    ],
    ids=["dropout", "batch norm", "k-shot", "choices"],
)
def test_nothing_is_changed(net, gradients):
    net = net()
    run, _ = trained(net, dtype=torch.float32, sampler=Nobody())
    F.cross_entropy(net(torch.ones(4, 1, 8, 8)), torch.arange(4)).backward()  # a .grad to keep
    next(net.model.children()).eval()  # modes that differ
    arch = net.space.smallest
    own = (PlannedPath(arch, policy_of(net, arch)), PlannedPath(net.space.largest))
    before, kept = hashed(run), {n: t.clone() for n, t in run.prober.saved.items()}
    answer(run, Probe(own, since=True, gradients=gradients))
    assert hashed(run) == before
    assert same(run.prober.saved, kept)
    answer(run, Probe(save=True))
    assert hashed(run) == before


class Nobody(ms.train.Stateless):
    """For networks whose costs are of no interest."""


def test_what_is_saved_is_a_snapshot():
    run, before = trained(steps=1)
    saved = {n: t.clone() for n, t in run.prober.saved.items()}
    assert same(saved, dict(before.named_parameters()))
    learn(run, 2)
    assert same(run.prober.saved, saved)
    answer(run, Probe(paths(run.net), since=True, gradients=True))
    assert same(run.prober.saved, saved)
    answer(run, Probe(save=True))
    assert same(run.prober.saved, dict(run.net.named_parameters()))
    assert not same(run.prober.saved, saved)


def test_saving_comes_after_the_losses():
    run, _ = trained()
    one = answer(run, Probe(paths(run.net, False), since=True, save=True))
    assert not torch.equal(one.losses, one.before)
    assert torch.equal(answer(run, Probe(paths(run.net, False), since=True)).before, one.losses)


class Broken(Exception):
    pass


def test_weights_come_back_after_an_error():
    run, _ = trained()
    before, kept = hashed(run), weights(run.net)
    with pytest.raises(Broken), at_weights(run.net, run.prober.saved):
        assert same(dict(run.net.named_parameters()), run.prober.saved)
        raise Broken
    assert hashed(run) == before
    images, labels = run.prober.held_out(8, 0)._kept[0]
    run.prober.held_out = lambda images, seed: [(images_, labels)]
    images_ = images[:, :, :3]  # of a shape that the network does not take
    with pytest.raises(RuntimeError):
        answer(run, Probe(paths(run.net, False), since=True))
    assert hashed(run) == before
    assert same(weights(run.net), kept)


def test_weights_of_another_network_change_nothing():
    run, _ = trained()
    before = hashed(run)
    with pytest.raises(KeyError), at_weights(run.net, {"other": torch.zeros(1)}):
        pass
    assert hashed(run) == before


def test_without_held_out_images_the_way_out_is_said():
    run = shifting()
    with pytest.raises(ValueError, match=r"ShiftNAS learns from losses .* sampler.held_out in a"):
        shifting(probes=False)
    run.prober.held_out = lambda images, seed: []
    with pytest.raises(ValueError, match="held_out gave no images for a probe"):
        answer(run, Probe((PlannedPath(ARCHS[0]),)))
    answer(run, Probe(save=True))  # which needs none
    assert same(run.prober.saved, dict(run.net.named_parameters()))


# -- which images ------------------------------------------------------------------------------


def test_a_probe_asks_once_for_images_by_a_seed_of_its_step():
    run, asked, make = shifting(), [], held_out

    def noting(images, seed):
        asked.append((run.step, images, seed))
        return make(images, seed)

    run.prober.held_out = noting
    run.sampler.probe = lambda rng, step, steps: Probe(
        (PlannedPath(ARCHS[0]), PlannedPath(ARCHS[1])), images=40, since=True, save=step % 2 == 0
    )
    run.sampler.feedback = lambda *args: None
    train(run)
    assert [(step, images) for step, images, _ in asked] == [(step, 40) for step in range(20)]
    assert len({seed for _, _, seed in asked}) == 20
    again = shifting()
    for step, _, seed in asked:
        assert again.prober.image_seed(step) == seed
    one, other = (next(iter(make(40, seed)))[1] for _, _, seed in asked[:2])
    assert not torch.equal(one, other)
    # two paths, at the weights of now, and from the third on (saved after the second) of then
    assert run.prober.images == 2 * 40 * (20 + 18)


def test_few_are_balanced_and_all_are_all():
    labels = torch.cat([labels for _, labels in held_out(20, 3)])
    assert torch.bincount(labels).tolist() == [2] * 10
    everything = torch.cat([labels for _, labels in held_out(2048, 3)])
    assert torch.equal(everything, splits().held_out.labels)


def test_the_random_stream_of_probes_is_not_that_of_plans():
    run = shifting()
    drawn = []
    run.sampler.probe = lambda rng, step, steps: drawn.append(rng.random())
    nothing = Plan(())
    run.sampler.plan = lambda rng, step: drawn.append(rng.random()) or nothing
    for step in (0, 1):
        run.step = step
        run.plan()
        run.probe()
        run.probe()
    assert len(set(drawn)) == 4
    assert drawn[1] == drawn[2] != drawn[0]
