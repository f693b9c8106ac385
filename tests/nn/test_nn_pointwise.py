"""Strided 1x1 convolutions of few channels: never torch's unsafe gradient, on any x86 CPU.

Unsafe calls crash the process, hang it, or give wrong numbers: sizes are those at which they do.
`make test` runs this folder once more under ONEDNN_MAX_CPU_ISA=AVX2.
"""

import itertools

import pytest
import torch
from nn_nets import archs, make
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn.pointwise import SAFE_CHANNELS, training_format, unsafe_layers
from manyshot.train import Standalone
from manyshot.train.gradients import accumulate
from manyshot.train.optimisation import as_trained, make_safe
from manyshot.train.plan import Plan, PlannedPath

CPU = torch.device("cpu")
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def gradients(run, *tensors):
    """The output of `run` and the gradients of the inputs, for a fixed gradient of the output."""
    leaves = [t.detach().clone(memory_format=torch.preserve_format) for t in tensors]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    out = run(*leaves)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(direction.to(out))
    return out.detach(), [leaf.grad for leaf in leaves]


CHANNELS, STRIDES = (1, 2, 3, 5, 6, 7, 8, 12, 15, 16), (2, (1, 2), 3)


def settings():
    """All channels, strides, formats and threads, most of them slow.

    The others have every number of channels with every stride, in channels_last with one thread
    and with two, and contiguous.
    """
    for i, channels in enumerate(CHANNELS):
        for j, stride in enumerate(STRIDES):
            for layout, threads in itertools.product(FORMATS, (1, 2)):
                three = [("contiguous", 1 + i % 2), ("channels_last", 1), ("channels_last", 2)]
                marks = () if (layout, threads) == three[(i + j) % 3] else pytest.mark.slow
                yield pytest.param(channels, stride, layout, threads, marks=marks)


@pytest.mark.parametrize(("channels", "stride", "layout", "threads"), list(settings()))
def test_gradients_are_those_of_float64(channels, stride, layout, threads):
    conv = ms.nn.Conv2d(channels, 16, 1, stride).to(memory_format=FORMATS[layout])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, channels, 48, 48, generator=generator)
    x = x.contiguous(memory_format=FORMATS[layout])

    def layer(x, weight, bias):
        return torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x,))

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(4):  # the fault writes where it happens to be harmless at first
            out, grads = gradients(layer, x, conv.weight, conv.bias)
    finally:
        torch.set_num_threads(before)
    double = [t.detach().double() for t in (x, conv.weight, conv.bias)]
    exact, exact_grads = gradients(lambda x, w, b: F.conv2d(x, w, b, stride), *double)
    assert torch.equal(out, F.conv2d(x, conv.weight, conv.bias, stride))
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)
    for grad, reference in zip(grads, exact_grads, strict=True):
        worst = (grad.double() - reference).abs().max() / reference.abs().max()
        assert worst < 1e-5  # float32 rounding of sums over up to 32 * 48 * 48 pixels


def test_second_derivatives_and_what_needs_no_gradient():
    conv = ms.nn.Conv2d(3, 4, 1, 2)
    x = torch.randn(2, 3, 6, 6, requires_grad=True)
    out = conv(x).square().sum()
    (first,) = torch.autograd.grad(out, conv.weight, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    weight, leaf = conv.weight.detach().requires_grad_(), x.detach().requires_grad_()
    (plain,) = torch.autograd.grad(
        F.conv2d(leaf, weight, conv.bias, 2).square().sum(), weight, create_graph=True
    )
    torch.testing.assert_close(second, torch.autograd.grad(plain.sum(), leaf)[0])
    conv.weight.requires_grad_(False)
    conv(x).sum().backward()
    assert conv.weight.grad is None and x.grad is not None
    with torch.no_grad():
        assert conv(x).grad_fn is None


def test_an_elastic_layer_in_channels_last():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            width = ms.choose((2, 5, 12, 24), "width")
            self.stem = ms.nn.Conv2d(3, width, 3, padding=1)
            self.down = ms.nn.Conv2d(width, 16, ms.choose((1, 3), "kernel"), 2)
            self.head = nn.Linear(16, 10)

        def forward(self, x):
            return self.head(self.down(self.stem(x)).mean((2, 3)))

    net = ms.Supernet(Net(), input_shape=(3, 32, 32)).to(memory_format=torch.channels_last)
    assert training_format(net, CPU).name == "channels_last"
    x = torch.randn(32, 3, 32, 32)
    for arch in net.space.enumerate():
        subnet = net.extract(arch).double()
        net.zero_grad()
        net(x.contiguous(memory_format=torch.channels_last), arch).square().sum().backward()
        subnet(x.double()).square().sum().backward()
        exact = subnet.down.weight.grad
        out, into, size, _ = exact.shape
        start = (3 - size) // 2
        grad = net.model.down.weight.grad[:out, :into, start : start + size, start : start + size]
        assert (grad.double() - exact).abs().max() / exact.abs().max() < 1e-4


PLAIN = {
    "few channels": (nn.Conv2d(4, 8, 1, 2), True),
    "one stride": (nn.Conv2d(15, 8, 1, (1, 2), padding="valid"), True),
    "no stride": (nn.Conv2d(4, 8, 1), False),
    "enough channels": (nn.Conv2d(SAFE_CHANNELS, 8, 1, 2), False),
    "kernel": (nn.Conv2d(4, 8, 3, 2), False),
    "padding": (nn.Conv2d(4, 8, 1, 2, padding=1), False),
    "groups": (nn.Conv2d(8, 8, 1, 2, groups=2), False),
    "ours": (ms.nn.Conv2d(4, 8, 1, 2), False),
}


@pytest.mark.parametrize("case", PLAIN)
def test_which_layers_are_unsafe(case):
    layer, unsafe = PLAIN[case]
    net = nn.Sequential(nn.Conv2d(3, 4, 3), layer)
    assert unsafe_layers(net) == (["1"] if unsafe else [])
    kept = training_format(net, CPU)
    assert kept.is_channels_last != unsafe and kept.torch_format in FORMATS.values()
    assert ("'1'" in kept.why and "fewer than 16" in kept.why) == unsafe
    assert training_format(net, torch.device("cuda")).is_channels_last


def test_no_network_of_the_zoo_is_unsafe():
    for net in (make("macro"), ms.zoo.mbv2_se(widths=(8, 8, 8, 8, 8, 8), repeats=(1,) * 6)):
        assert unsafe_layers(net) == []


class Plain(nn.Module):
    """A plain strided shortcut of few channels in one option, and layers of few channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.op = ms.nn.Choice({"one": nn.Conv2d(5, 16, 1, 2), "three": nn.Conv2d(5, 16, 3, 2, 1)})
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.op(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize(
    ("threads", "copies"),
    [(1, 1), (2, 2), *(pytest.param(*c, marks=pytest.mark.slow) for c in ((1, 2), (2, 1)))],
)
def test_a_step_on_plain_layers_is_taken_in_contiguous_format(copies, threads):
    sharing = ms.sharing.KShot(copies, codes="uniform", compensate=False)
    net = ms.Supernet(Plain(), sharing=sharing).to(memory_format=torch.channels_last)
    assert unsafe_layers(net) == ["model.op.options.one"]
    images = torch.randn(32, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    labels, arch = torch.arange(32) % 10, (0,)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for trained in (net, Standalone(net.extract(arch))):
            assert make_safe(trained, CPU)
            for _ in range(4):
                trained.zero_grad()
                seen = as_trained(images, True)
                accumulate(trained, Plan((PlannedPath(arch),)), seen, labels, largest=(1,))
            double = net.extract(arch).double()
            F.cross_entropy(double(images.double()), labels).backward()
            exact = double.op.weight.grad
            grads = {n: p.grad for n, p in trained.named_parameters() if p.grad is not None}
            [grad] = [g for n, g in grads.items() if n.endswith(("one.weight", "op.weight"))]
            grad = grad.sum(0) if grad.dim() == 5 else grad  # of slices with codes 1 / K
            assert (grad.double() - exact).abs().max() / exact.abs().max() < 1e-4
    finally:
        torch.set_num_threads(before)


def test_networks_without_such_layers_keep_their_format():
    net = make("nasty").to(memory_format=torch.channels_last)
    assert not make_safe(net, CPU)
    assert net.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert archs(net, 1)
    x = torch.randn(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert as_trained(x, False) is x
