"""Whole networks with masks and with slices, and what is said where the two cannot agree."""

import numpy as np
import pytest
import torch
from nn_masked import NETWORKS, filled, images, policies
from nn_nets import archs, calibrated, same_snapshot, snapshot
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot import supernet
from manyshot.nn.agreement import MaskError, MasksDisagree, check_agreement
from manyshot.nn.batch_norm import Collector
from manyshot.nn.selection import current
from manyshot.watching import watched

# float64: what a few layers leave of rounding, in logits of size 1 to 100.
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_with_masks_are_those_with_slices(name, masks):
    net = filled(name)
    decisions = net.space.decisions
    with torch.no_grad():
        for i, arch in enumerate(archs(net, 3)):
            some = [d for j, d in enumerate(decisions) if (i + j) % 3]
            expected = net(images(), arch)
            for only in (decisions, some):
                given = policies(net, arch, only)
                torch.testing.assert_close(
                    net(images(), arch, policy=given, masks=masks), expected, **CLOSE
                )
            given = policies(net, arch)
            assert torch.equal(
                net(images(), policy=given, masks=masks),
                net(images(), arch, policy=given, masks=masks),
            )


@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("name", ["convolutions", "nasty", "macro"])
def test_in_eval_mode_with_statistics_too(name, masks):
    net = filled(name).eval()
    for arch in archs(net, 2):
        stats = calibrated(net, arch, images(6, 1), images(6, 2))
        given = policies(net, arch)
        with torch.no_grad():
            for used in (stats, "batch"):
                torch.testing.assert_close(
                    net(images(), arch, stats=used, policy=given, masks=masks),
                    net(images(), arch, stats=used),
                    **CLOSE,
                )


def test_statistics_of_another_network_are_refused():
    net, arch = filled("convolutions").eval(), filled("convolutions").space.largest
    stats = calibrated(net, arch, images(6))
    del stats.tensors["blocks.blocks.2.body.8"]
    for options in ({}, {"policy": policies(net, arch)}):
        with pytest.raises(
            LookupError, match=r"have none for batch norm 'blocks\.blocks\.2\.body\.8'"
        ):
            net(images(), arch, stats=stats, **options)


class Features(nn.Module):
    """A stem of elastic width, a user's `body`, a head."""

    def __init__(self, body, head_in=lambda w: w):
        super().__init__()
        width = ms.choose((4, 6, 8), "width")
        self.stem, self.body = ms.nn.Linear(12, width), body(width)
        self.head = ms.nn.Linear(head_in(width), 5)

    def forward(self, x):
        return self.head(self.body(torch.relu(self.stem(x))))


class Body(nn.Module):
    """A function of a tensor and of the number of its features."""

    def __init__(self, function, width):
        super().__init__()
        self.function, self.width = function, width

    def forward(self, x):
        return self.function(x, ms.value(self.width))


def body(function, head_in=lambda w: w):
    return ms.Supernet(Features(lambda width: Body(function, width), head_in))


X = torch.randn((6, 12), generator=torch.Generator().manual_seed(0))

MIXING = {
    "softmax": (lambda x, n: x.softmax(-1), lambda w: w),
    "layer norm": (lambda x, n: F.layer_norm(x, (n,)), lambda w: w),
    "mean": (lambda x, n: x.mean(-1, keepdim=True), lambda w: 1),
    "concatenation": (lambda x, n: torch.cat([x, x.square()], -1), lambda w: 2 * w),
    "flip": (lambda x, n: x.flip(-1), lambda w: w),
}


@pytest.mark.parametrize("name", MIXING)
def test_a_module_that_mixes_elastic_channels_is_named(name):
    net = body(*MIXING[name])
    arch = net.space.largest  # for which masks and slices agree
    before = snapshot(net)
    for _ in range(2):  # a network that failed is compared again
        with pytest.raises(MasksDisagree, match="architecture 0: .* module 'body' gives other"):
            net(X, arch, policy=single(net, arch))
        assert current() is None and same_snapshot(before, snapshot(net))
    sliced = net(X, (0,))
    assert torch.equal(net(X, (0,), policy=single(net, (0,)), masks="active"), sliced)


def single(net, arch):
    return {d: p.float() for d, p in policies(net, arch).items()}


def test_zeros_of_a_fresh_network_do_not_hide_it():
    net = body(*MIXING["softmax"])
    for parameter in net.model.head.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(MasksDisagree):
        net(X, (0,), policy=single(net, (0,)))
    assert not net.model.head.weight.any()


class Images(nn.Module):
    def __init__(self, stem, forward):
        super().__init__()
        self.width, self.side = ms.choose((4, 6), "width"), ms.choose((6, 8), "side")
        self.depth = ms.choose((1, 2), "depth")
        self.stem = stem(self.width)
        self.head = ms.nn.Linear(self.width, 5)
        self.own = forward

    def forward(self, x):
        return self.own(self, x)


def stem(width):
    return ms.nn.Conv2d(3, width, 3)


def interpolated(net, x):
    side = ms.value(net.side)
    return net.head(net.stem(F.interpolate(x, (side, side))).mean((2, 3)))


def mean_of_logits(net, x):
    features = net.stem(x).mean((2, 3))
    return net.head(features) + features.mean(1, keepdim=True)


def counted(net, x):
    x = net.stem(x)
    for _ in range(ms.value(net.depth)):
        x = torch.tanh(x)
    return net.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (interpolated, "module 'stem' gives other"),
        (mean_of_logits, r"module '\(the network\)' gives other"),
        (counted, "module 'head' gives other"),
        (lambda net, x: net.stem(x), "the network's output with masks is not that with slices"),
    ],
)
def test_what_a_network_itself_does_is_compared(forward, message):
    net = ms.Supernet(Images(stem, forward)).double()
    with pytest.raises(MasksDisagree, match=message):
        net(images(), net.space.largest, policy=policies(net, net.space.largest))


GOOD = {
    "elementwise": (lambda x, n: F.gelu(x) * x, lambda w: w),
    "heads of a fixed size": (
        lambda x, n: x.view(len(x), n // 2, 2).flip(-1).flatten(1),
        lambda w: w,
    ),
    "interleaved": (lambda x, n: x.repeat_interleave(3, -1), lambda w: 3 * w),
}


@pytest.mark.parametrize("name", GOOD)
def test_ordinary_modules_are_masked(name):
    net = body(*GOOD[name]).double()
    for arch in net.space.enumerate():
        with torch.no_grad():
            expected = net(X.double(), arch)
            masked = net(X.double(), arch, policy=policies(net, arch))
        torch.testing.assert_close(masked, expected, **CLOSE)


class Noisy(nn.Module):
    """Inputs by keyword, dropout, a batch norm, a frozen tensor, and what is shared."""

    def __init__(self):
        super().__init__()
        width = ms.choose((4, 8), "width")
        self.stem, self.norm = ms.nn.Linear(12, width), nn.BatchNorm1d(12)
        self.drop, self.head = nn.Dropout(0.5), ms.nn.Linear(width, 5)
        self.register_buffer("scale", torch.tensor([2.0]))
        self.stem.bias.requires_grad_(False)

    def forward(self, x, weight):
        x = self.norm(x) * self.scale
        return self.head(self.drop(self.stem(x))) * weight


def test_comparing_runs_once_and_touches_nothing(monkeypatch):
    calls = []

    def counted(*args):
        calls.append(args)
        return check_agreement(*args)

    monkeypatch.setattr(supernet, "check_agreement", counted)
    net, inputs = ms.Supernet(Noisy()), {"x": X, "weight": torch.tensor(3)}
    net.model.head.eval()
    net(inputs, (0,)).sum().backward()
    before, grads = snapshot(net), [p.grad for p in net.parameters()]
    held = [None if g is None else g.clone() for g in grads]
    trained = [p.requires_grad for p in net.parameters()]
    outputs, states = [], []
    for _ in range(2):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        outputs.append(net(inputs, (0,), policy=single(net, (0,))))
        states.append((torch.get_rng_state().tolist(), np.random.rand()))  # noqa: NPY002
    assert len(calls) == 1
    assert torch.equal(*outputs) and states[0] == states[1]
    assert same_snapshot(before, snapshot(net)) and current() is None
    assert [p.requires_grad for p in net.parameters()] == trained
    for parameter, grad, copy in zip(net.parameters(), grads, held, strict=True):
        assert parameter.grad is grad and (grad is None or torch.equal(grad, copy))
    net(inputs, (1,), policy=single(net, (1,)))
    net(inputs, (1,), policy=single(net, (1,)), masks="active")
    assert len(calls) == 1


def test_comparing_tells_how_far_it_is():
    told, net = [], ms.Supernet(Noisy())
    with watched(lambda *news: told.append(news)):
        net({"x": X, "weight": torch.tensor(3)}, (0,), policy=single(net, (0,)))
    assert told == [("masks compared with slices", i, 2) for i in range(2)]


def test_slices_and_active_masks_are_not_compared(monkeypatch):
    monkeypatch.setattr(supernet, "check_agreement", None)
    net = body(*MIXING["softmax"])
    net(X, (0,))
    net(X, (0,), policy=single(net, (0,)), masks="active")


def test_half_precision_is_compared_in_double():
    net = body(*GOOD["elementwise"]).bfloat16()
    given = {d: p.bfloat16() for d, p in policies(net, (1,)).items()}
    out = net(X.bfloat16(), (1,), policy=given)
    assert out.dtype == torch.bfloat16 and net.model.stem.weight.dtype == torch.bfloat16


def convolved(conv):
    """A convolution of elastic width or kernel that full masks cannot express."""
    return ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, 12, 1), conv, ms.nn.Conv2d(12, 3, 1))).double()


KERNEL = "masking its elastic kernel .* needs a padding that grows"
GROUPS = "its channels per group are elastic"


@pytest.mark.parametrize(
    ("conv", "message"),
    [
        (lambda: ms.nn.Conv2d(12, 12, ms.choose((3, 5), "k"), padding=1), KERNEL),
        (lambda: ms.nn.Conv2d(12, 12, ms.choose((3, 5), "k"), padding=(2, 2)), KERNEL),
        (lambda: ms.nn.Conv2d(12, 12, ms.choose((3, 5), "k"), padding="valid"), KERNEL),
        (lambda: ms.nn.Conv2d(12, 12, ms.choose((3, 5), "k"), padding=1, dilation=2), KERNEL),
        (lambda: ms.nn.Conv2d(12, 12, 3, padding=1, groups=ms.choose((1, 2, 4), "g")), GROUPS),
    ],
)
def test_convolutions_that_masks_cannot_express_are_refused(conv, message):
    net = convolved(conv())
    for arch in net.space.enumerate():
        with pytest.raises(ValueError, match=f"Conv2d '1': .*{message}"):
            net(images(), arch, policy=policies(net, arch))
        with torch.no_grad():
            active = net(images(), arch, policy=policies(net, arch), masks="active")
            torch.testing.assert_close(active, net(images(), arch), **CLOSE)


@pytest.mark.parametrize("side", ["in", "out"])
def test_a_fixed_number_of_groups_of_elastic_channels_is_refused(side):
    width = ms.choose((4, 8), "width")
    into, out = (width, 8) if side == "in" else (8, width)
    conv = ms.nn.Conv2d(into, out, 1, groups=4)
    net = ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, into, 1), conv, ms.nn.Conv2d(out, 3, 1)))
    with pytest.raises(ValueError, match=f"Conv2d '1': with 4 groups {GROUPS}"):
        net(images().float(), (1,), policy=policies(net, (1,)))


def one_hot(*entries):
    return torch.tensor(entries, dtype=torch.float64)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda d: {d: one_hot(0.5, 0.5, 0)}, r"\[0.5, 0.5, 0.0\], not the one-hot vector of opti"),
        (lambda d: {d: one_hot(1, 1, 0)}, "not the one-hot vector of option 1"),
        (lambda d: {d: one_hot(0, 0, 0)}, "not the one-hot vector of option 1"),
        (lambda d: {d: one_hot(0, 1 + 1e-7, 0)}, "exactly one-hot"),
        (lambda d: {d: one_hot(0, float("nan"), 0)}, "not the one-hot vector of option 1"),
        (lambda d: {d: one_hot(0, 0, 1)}, "not the one-hot vector of option 1, which the arch"),
        (lambda d: {d: one_hot(0, 1)}, r"has shape \(2,\); it needs .* \(3,\)"),
        (lambda d: {d: one_hot(0, 1, 0)[None]}, r"has shape \(1, 3\)"),
        (lambda d: {ms.choose((1, 2, 3), "w"): one_hot(0, 1, 0)}, "w.*is not in this network"),
        (lambda d: {"width": one_hot(0, 1, 0)}, "'width', which is not in this network"),
    ],
)
def test_policies_that_do_not_fit_are_refused(policy, message):
    net = body(*GOOD["elementwise"])
    with pytest.raises(ValueError, match=message):
        net(X, (1,), policy=policy(net.space.decisions[0]))
    assert current() is None


def test_what_policies_cannot_be_with():
    net = filled("convolutions").eval()
    arch = net.space.smallest
    given = policies(net, arch)
    with pytest.raises(
        ValueError,
        match="masks must be one of 'full', 'active', 'mixed', 'interpolated', got 'both'",
    ):
        net(images(), arch, policy=given, masks="both", stats="batch")
    with pytest.raises(ValueError, match="collected by option indices: pass no policy"):
        net(images(), arch, policy=given, stats=Collector())
    del given[net.space.decisions[2]]
    with pytest.raises(ValueError, match=r"leaves out Decision\(ratio: .* and 0 more .* arch"):
        net(images(), policy=given, stats="batch")
    with pytest.raises(RuntimeError, match="in eval mode has no statistics"):
        net(images(), arch, policy=given)


class OneOfEight(nn.Module):
    """Options of which one, the fifth, takes a softmax over elastic channels."""

    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((4, 6, 8), "width")
        self.conv = ms.nn.Conv2d(3, width, 1)
        bad = nn.Softmax(1)
        options = [bad if i == 4 else nn.Identity() for i in range(8)]
        self.op = ms.nn.Choice(options, "op")
        self.head = ms.nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.op(self.conv(x)).mean((2, 3)))


def test_every_option_is_compared():
    net = ms.Supernet(OneOfEight())
    arch = net.space.smallest
    with pytest.raises(MasksDisagree, match=r"module 'op"):
        net(images(), arch, policy=policies(net, arch))


class OnlyInTraining(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((4, 6, 8), "width")
        self.conv, self.head = ms.nn.Conv2d(3, width, 1), ms.nn.Linear(width, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        x = self.drop(self.conv(x).mean((2, 3)))
        return self.head(F.normalize(x, dim=1) if self.training else x)


def test_the_mode_of_the_network_is_compared_without_dropout():
    net = ms.Supernet(OnlyInTraining()).double()
    arch = net.space.smallest
    net.eval()(images(), arch, stats="batch", policy=policies(net, arch))
    net = ms.Supernet(OnlyInTraining()).double()
    with pytest.raises(MasksDisagree):
        net(images(), arch, policy=policies(net, arch))


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = ms.choose((4, 6), "width")
        self.conv, self.head = ms.nn.Conv2d(3, width, 1), ms.nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)).float())


class Keeping(Casting):
    def forward(self, x):
        self.kept = self.conv(x).mean((2, 3))
        return self.head(self.kept)


@pytest.mark.parametrize("make", [Casting, Keeping])
def test_what_cannot_be_compared_is_said(make):
    net = ms.Supernet(make())
    arch, small = net.space.smallest, images().float()
    net(small, arch)
    policy = {d: p.float() for d, p in policies(net, arch).items()}
    with pytest.raises(MaskError, match="cannot be compared with slices.*masks='active'"):
        net(small, arch, policy=policy)
    net(small, arch, policy=policy, masks="active")


class Named(Casting):
    def __init__(self) -> None:
        super().__init__()
        self.act = ms.choose(("relu", "tanh"), "act")

    def forward(self, x):
        return self.head(getattr(torch, ms.value(self.act))(self.conv(x).mean((2, 3))))


def test_decisions_without_a_gradient_are_a_warning():
    net = ms.Supernet(Named())
    arch = net.space.smallest
    with pytest.warns(UserWarning, match="reaches the policies of act: these decisions learn"):
        net(images().float(), arch, policy=policies(net, arch))


def test_a_kept_mixture_serves_slices_and_masks():
    net = ms.Supernet(OnlyInTraining(), sharing=ms.sharing.KShot(2)).double().eval()
    arch = net.space.smallest
    kept = net.mixture(arch)
    with torch.no_grad():
        sliced = net(images(), arch, stats="batch", mixture=kept)
        masked = net(images(), arch, stats="batch", mixture=kept, policy=policies(net, arch))
    torch.testing.assert_close(sliced, masked, **CLOSE)
