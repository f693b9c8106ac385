"""What layers remember of architectures never serves another one."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn import layer as layers
from manyshot.nn.layer import Cut, crop


class Net(nn.Module):
    """A convolution, a norm and a linear layer, whose sizes depend on several decisions."""

    def __init__(self):
        super().__init__()
        self.width, self.ratio = ms.choose((2, 4, 3), "width"), ms.choose((1, 2), "ratio")
        kernel = ms.choose((1, 3, 5), "kernel")
        hidden = self.width * self.ratio
        self.conv = ms.nn.Conv2d(2, hidden, kernel, padding=kernel // 2)
        self.deep = ms.nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = ms.nn.LayerNorm(hidden)
        self.linear = ms.nn.Linear(ms.concat(hidden, self.width), 3)

    def forward(self, x):
        x = self.deep(self.conv(x)).mean((2, 3))
        return self.linear(torch.cat([self.norm(x), x[:, : ms.value(self.width)]], 1))


ARCHS = st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2))


def by_hand(state, arch, x, room=(8, 4)):
    """What an architecture computes, from the stored tensors by plain slices."""
    width, ratio, kernel = ((2, 4, 3)[arch[0]], (1, 2)[arch[1]], (1, 3, 5)[arch[2]])
    n, edge = width * ratio, (5 - kernel) // 2
    inner = slice(edge, edge + kernel)
    x = F.conv2d(
        x, state["conv.weight"][:n, :, inner, inner], state["conv.bias"][:n], padding=kernel // 2
    )
    x = F.conv2d(x, state["deep.weight"][:n], state["deep.bias"][:n], padding=1, groups=n)
    x = x.mean((2, 3))
    normed = F.layer_norm(x, (n,), state["norm.weight"][:n], state["norm.bias"][:n])
    weight = state["linear.weight"]
    weight = torch.cat([weight[:, :n], weight[:, room[0] : room[0] + width]], 1)
    return F.linear(torch.cat([normed, x[:, :width]], 1), weight, state["linear.bias"])


def moved(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn_like(parameter))
    return net


def loaded(net, assign):
    net.load_state_dict(
        {k: torch.randn_like(v) for k, v in net.state_dict().items()}, assign=assign
    )
    return net


EVENTS = {
    "nothing": lambda net: net,
    "weights move": moved,
    "weights are loaded": lambda net: loaded(net, False),
    "weights are replaced": lambda net: loaded(net, True),
    "copied": copy.deepcopy,
    "pickled": lambda net: pickle.loads(pickle.dumps(net)),  # noqa: S301 - made just now
    "channels last": lambda net: net.to(memory_format=torch.channels_last),
    "contiguous": lambda net: net.to(memory_format=torch.contiguous_format),
    "eval mode": lambda net: net.eval(),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ARCHS, st.sampled_from(sorted(EVENTS))), max_size=8), st.integers(0, 99))
def test_a_forward_is_of_its_own_architecture_whatever_ran_before(steps, seed):
    torch.manual_seed(seed)
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    for arch, event in steps:
        net = EVENTS[event](net)
        state = {name: p.detach() for name, p in net.model.named_parameters()}
        torch.testing.assert_close(net(x, arch), by_hand(state, arch, x))
        assert torch.equal(net(x, arch), net.extract(arch)(x))


@settings(max_examples=20, deadline=None)
@given(st.lists(ARCHS, min_size=2, max_size=6), st.integers(0, 99))
def test_a_forward_of_mixed_slices_is_of_its_own_architecture(archs, seed):
    torch.manual_seed(seed)
    net = ms.Supernet(Net(), sharing=ms.sharing.KShot(3, codes="random", mix_fixed_layers=True))
    x = torch.randn(3, 2, 6, 6)
    with torch.no_grad():
        for arch in archs:
            [code] = net.sharing.code([arch])
            stacks = dict(net.model.named_parameters())
            state = {name: torch.einsum("k,k...->...", code, s) for name, s in stacks.items()}
            torch.testing.assert_close(net(x, arch), by_hand(state, arch, x))
            assert torch.equal(net(x, arch), net.extract(arch)(x))


def test_what_is_merged_once_is_of_the_part_that_is_asked_for():
    net = ms.Supernet(Net(), sharing=ms.sharing.KShot(2, codes="uniform"))
    linear, arch = net.model.deep, (1, 1, 0)
    mixture = net.mixture(arch)
    mean = linear._parameters["weight"].detach().mean(0)
    with torch.no_grad():
        few = mixture.merge(linear, "weight", (slice(2),))
        assert mixture.merge(linear, "weight", (slice(2),)) is few
        many = mixture.merge(linear, "weight", (slice(4),))
    torch.testing.assert_close(few, mean[:2])
    torch.testing.assert_close(many, mean[:4])


@pytest.mark.parametrize("mode", ["full", "active"])
def test_masks_in_between_change_nothing(mode):
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    state = {name: p.detach() for name, p in net.model.named_parameters()}
    for arch in [(0, 0, 0), (2, 1, 1), (0, 0, 0), (1, 1, 2)]:
        policy = {
            d: F.one_hot(torch.tensor(i), len(d.options)).float().requires_grad_()
            for d, i in zip(net.space.decisions, arch, strict=True)
        }
        for _ in range(2):
            expected = by_hand(state, arch, x)
            torch.testing.assert_close(net(x, arch), expected)
            if mode == "active":
                masked = net(x, arch, policy=policy, masks=mode)
                torch.testing.assert_close(masked, expected)


def test_gradients_are_those_of_slices():
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    net.to(memory_format=torch.channels_last)
    for arch in [(0, 0, 1), (2, 1, 0), (0, 0, 1)]:
        net.zero_grad()
        net(x, arch).square().sum().backward()
        state = {n: p.detach().requires_grad_() for n, p in net.model.named_parameters()}
        by_hand(state, arch, x).square().sum().backward()
        for name, parameter in net.model.named_parameters():
            torch.testing.assert_close(parameter.grad, state[name].grad)


def test_other_options_and_another_stored_shape_are_seen():
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    before = net(x, (1, 0, 0))
    net.model.linear.weight = nn.Parameter(torch.zeros(3, 12))
    assert torch.equal(net(x, (1, 0, 0)), net.model.linear.bias.expand(3, 3))
    assert not torch.equal(before, net(x, (1, 0, 0)))
    width = net.model.width
    width.options = (2, 3, 4)  # nobody should, and yet nothing stale is used
    state = {name: p.detach() for name, p in net.model.named_parameters()}
    torch.testing.assert_close(net(x, (1, 1, 0)), by_hand(state, (2, 1, 0), x))


def test_a_layer_remembers_a_bounded_number_of_architectures(monkeypatch):
    monkeypatch.setattr(layers, "KNOWN", 2)
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    state = {name: p.detach() for name, p in net.model.named_parameters()}
    for arch in [(i, j, k) for i in range(3) for j in range(2) for k in range(3)]:
        torch.testing.assert_close(net(x, arch), by_hand(state, arch, x))
        assert all(len(m._known.used) <= 2 for m in net.modules() if getattr(m, "_known", None))
    assert len(net.model.conv._known.used) == 2


def test_train_and_eval_forget_nothing():
    net, x = ms.Supernet(Net()), torch.randn(3, 2, 6, 6)
    net(x)
    known = net.model.conv._known
    assert known is net.eval().model.conv._known is net.train().model.conv._known
    net.model.conv.kernel_size = 3
    assert net.model.conv._known is None


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_cut_is_a_slice_of_each_dimension(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    index = []
    for length in shape[: data.draw(st.integers(0, len(shape)))]:
        stop = data.draw(st.integers(1, length))
        start = data.draw(st.integers(0, stop - 1))
        index.append(data.draw(st.sampled_from([slice(None), slice(stop), slice(start, stop)])))
    tensor = torch.randn(shape)
    if len(shape) == 4 and data.draw(st.booleans()):
        tensor = tensor.to(memory_format=torch.channels_last)
    tensor.requires_grad_()
    cut, expected = crop(tensor, tuple(index)), tensor.detach()[tuple(index)]
    assert torch.equal(cut, expected)
    last = len(shape) == 4 and not tensor.is_contiguous()
    kept = torch.channels_last if last else torch.contiguous_format
    assert cut.is_contiguous(memory_format=kept)
    grad = torch.randn_like(cut)
    cut.backward(grad)
    whole = torch.zeros(shape)
    whole[tuple(index)] = grad
    assert torch.equal(tensor.grad, whole)


def test_a_cut_of_a_tensor_of_another_shape_is_its_slice():
    cut = Cut((slice(2), slice(1)), torch.Size((3, 3)))
    larger = torch.arange(20).view(4, 5)
    assert torch.equal(cut.of(larger), larger[:2, :1])
