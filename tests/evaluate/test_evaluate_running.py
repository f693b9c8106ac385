"""Running batch-norm statistics against torch's own, closed forms, and feature by feature."""

import copy

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.evaluate import RunningStatistics, calibrate
from manyshot.nn.batch_norm import BatchNorm
from manyshot.train.checkpoint import load_checkpoint, save_checkpoint

A, B = (3, 0, 3, 0), (3, 1, 2, 0)
"""Paths of `tiny` with some layers in common."""
CLOSE = {"rtol": 1e-12, "atol": 1e-13}
"""In float64: averages of at most 40 batches of numbers near 1, each step rounded at 1e-16."""


class First(nn.Module):
    """A batch norm of the images as they are, before a choice."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.op = norm, ms.nn.Choice([nn.Identity(), nn.Tanh()], "op")

    def forward(self, x):
        return self.op(self.norm(x))


class Wide(nn.Module):
    """An elastic convolution and its batch norm."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 3, 5), "width")
        self.conv, self.norm = ms.nn.Conv2d(1, width, 3), ms.nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x))


def made(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ms.Supernet(make()).double().train()


@pytest.fixture
def net():
    return made(lambda: ms.zoo.tiny(width=3))


def batches(count, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn((count, *shape), generator=generator, dtype=torch.float64) + 0.5)


def images(count, seed=0):
    return batches(count, 6, 1, 8, 8, seed=seed)


def watch(running, arch, seen):
    with running.watching():
        for x in seen:
            running.net(x, arch)


def inputs(net):
    """What each batch norm gets from now on, by path."""
    found = {}
    for module in net.modules():
        if isinstance(module, BatchNorm):
            own = found.setdefault(module.path, [])
            module.register_forward_pre_hook(lambda _, xs, own=own: own.append(xs[0].detach()))
    return found


def assert_same(one, other, **close):
    torch.testing.assert_close(dict(one), dict(other), **close or {"rtol": 0, "atol": 0})


def torchs(norm, seen):
    """`torch`'s statistics of inputs, when the first batch's are those that it starts from."""
    norm = norm.double().train()
    for i, x in enumerate(seen):
        norm.momentum = 0.1 if i else 1.0
        norm(x)
    return norm.running_mean, norm.running_var


def test_averages_are_those_of_torchs_batch_norm(net):
    """In every layer, over the batches of whatever paths run it."""
    running, got = RunningStatistics(net), inputs(net)
    for i, arch in enumerate((A, A, B, A, B, B)):
        watch(running, arch, images(2, seed=i))
    got = {path: seen for path, seen in got.items() if seen}
    assert {len(seen) for seen in got.values()} == {6, 12}  # of one path, and of both
    expected = {p: torchs(nn.BatchNorm2d(s[0].shape[1]), s) for p, s in got.items()}
    assert_same(running.tensors, expected, **CLOSE)
    assert not any(t.requires_grad for pair in running.tensors.values() for t in pair)


@pytest.mark.parametrize("momentum", [0.1, 0.3])
@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d, (6, 3)),
        (nn.BatchNorm1d, (6, 3, 5)),
        (nn.BatchNorm2d, (6, 3, 4, 2)),
        (nn.BatchNorm3d, (6, 3, 2, 4, 2)),
    ],
    ids=["1d", "1d long", "2d", "3d"],
)
def test_what_was_before_n_batches_weighs_less_by_the_power_of_n(norm, shape, momentum):
    """Images shifted by 7 and three times as wide: 0.9^20 = 0.1216 of the old ones is left."""
    net = made(lambda: First(norm(3)))
    running, [x] = RunningStatistics(net, momentum), batches(1, *shape)
    watch(running, (0,), [x] * 5)
    mean, variance = x.transpose(0, 1).flatten(1).mean(1), x.transpose(0, 1).flatten(1).var(1)
    assert_same(running.tensors, {"norm": (mean, variance)}, **CLOSE)
    watch(running, (1,), [3 * x + 7] * 20)
    left = (1 - momentum) ** 20
    assert momentum != 0.1 or left == pytest.approx(0.1216, abs=5e-5)
    new = 3 * mean + 7
    means, variances = running.tensors["norm"]
    torch.testing.assert_close(means, left * mean + (1 - left) * new, **CLOSE)
    torch.testing.assert_close(variances, left * variance + (1 - left) * 9 * variance, **CLOSE)


def test_elastic_features_one_by_one():
    """A feature starts from its first batch, and a batch in which it is not active leaves it."""
    net = made(Wide)
    running, got, seen = RunningStatistics(net), inputs(net), images(9)
    known: dict[int, list[torch.Tensor]] = {}
    for option, x in zip((1, 0, 0, 1, 2, 0, 2, 1, 2), seen, strict=True):
        watch(running, (option,), [x])
        y = got["norm"][-1]
        for i, feature in enumerate(y.unbind(1)):
            new = torch.stack([feature.mean(), feature.var()])
            known[i] = 0.9 * known[i] + 0.1 * new if i in known else new
        ours, unseen = torch.stack(running.tensors["norm"], 1).split([len(known), 5 - len(known)])
        assert unseen.isnan().all()
        torch.testing.assert_close(ours, torch.stack([known[i] for i in sorted(known)]), **CLOSE)
        own = running.of((option,)).tensors
        assert_same(own, {"norm": tuple(ours[: y.shape[1]].unbind(1))})


def test_features_beyond_the_active_ones_are_not_touched():
    net = made(Wide)
    running = RunningStatistics(net)
    watch(running, (2,), images(2))
    before = copy.deepcopy(running.tensors)
    watch(running, (0,), images(2, seed=1))
    for now, old in zip(running.tensors["norm"], before["norm"], strict=True):
        assert torch.equal(now[2:], old[2:])
        assert not torch.isclose(now[:2], old[:2]).any()


def test_one_batch_is_a_calibration_with_one(net):
    """The statistics of a path alone, of its layers alone, and in eval mode its logits."""
    running = RunningStatistics(net)
    for arch in (A, B):
        running.tensors.clear()
        watch(running, arch, images(1))
        net.eval()
        ours, expected = running.of(arch), calibrate(net, arch, images(1))
        assert ours.arch == arch
        assert_same(ours.tensors, expected.tensors, **CLOSE)
        [x] = images(1, seed=2)
        logits = [net(x, arch, stats=stats) for stats in (ours, expected)]
        torch.testing.assert_close(*logits, rtol=1e-10, atol=1e-12)
        net.train()


def test_another_path_forgets_the_last_one_and_goes_on_with_its_averages(net):
    running = RunningStatistics(net)
    watch(running, A, images(3))
    first, before = running.of(A), copy.deepcopy(running.tensors)
    assert_same(first.tensors, before)
    watch(running, B, images(3, seed=1))
    second = running.of(B)
    assert second.tensors.keys() == calibrate(net, B, images(1)).tensors.keys()
    assert_same(second.tensors, {path: running.tensors[path] for path in second.tensors})
    alone = before.keys() - second.tensors.keys()
    assert alone
    assert_same(
        {path: running.tensors[path] for path in alone}, {path: before[path] for path in alone}
    )
    assert_same(first.tensors, before)  # what was given away stays as it was
    net.eval()
    with pytest.raises(LookupError, match=r"the statistics of \(3, 0, 3, 0\) have none for batch"):
        net(images(1)[0], A, stats=running.of(A))


def test_only_training_batches_that_are_watched_count(net):
    running = RunningStatistics(net)
    watch(running, A, images(2))
    before = copy.deepcopy(running.tensors)
    net(images(1, seed=1)[0], A)  # not watched
    net.eval()
    with running.watching(), torch.no_grad():
        net(images(1, seed=1)[0], A, stats="batch")
    assert_same(running.tensors, before)
    assert running.of(A).tensors == {}


def test_after_an_error_nothing_is_watched(net):
    running = RunningStatistics(net)
    hooks = [len(module._forward_pre_hooks) for module in net.modules()]
    with pytest.raises(OSError, match="a disk is gone"), running.watching():
        net(images(1)[0], A)
        raise OSError("a disk is gone")
    before = copy.deepcopy(running.tensors)
    assert before
    net(images(1, seed=1)[0], A)
    assert_same(running.tensors, before)
    assert [len(module._forward_pre_hooks) for module in net.modules()] == hooks


def test_half_precision_is_averaged_in_single():
    """Sums of 8-bit mantissas would be off by a percent."""
    net = made(lambda: First(nn.BatchNorm2d(3))).float()
    running, [x] = RunningStatistics(net), batches(1, 64, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        watch(running, (0,), [x.bfloat16()])
    rounded = x.bfloat16().double().transpose(0, 1).flatten(1)
    assert {t.dtype for t in running.tensors["norm"]} == {torch.float32}
    for ours, own in zip(running.tensors["norm"], (rounded.mean(1), rounded.var(1)), strict=True):
        torch.testing.assert_close(ours.double(), own, rtol=1e-5, atol=1e-6)


def test_saved_and_loaded_it_goes_on_the_same(net, tmp_path):
    whole = RunningStatistics(net)
    for i, arch in enumerate((A, B, A)):
        watch(whole, arch, images(2, seed=i))
    save_checkpoint(tmp_path / "running.pt", whole.state_dict())
    assert whole.state_dict().keys() == {
        f"{path}.{kind}" for path in whole.tensors for kind in ("mean", "variance")
    }
    resumed = RunningStatistics(net)
    watch(resumed, B, images(1, seed=9))  # what it knew goes
    state = load_checkpoint(tmp_path / "running.pt")
    del state["schema"]
    resumed.load_state_dict(state)
    assert_same(resumed.tensors, whole.tensors)
    assert resumed.of(B).tensors == {}
    for running in (whole, resumed):
        watch(running, B, images(2, seed=4))
    assert_same(resumed.tensors, whole.tensors)
    assert_same(resumed.of(B).tensors, whole.of(B).tensors)
