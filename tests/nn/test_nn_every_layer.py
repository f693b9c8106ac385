"""Every elastic layer against its `torch.nn` namesake made by hand: slices, extraction, costs,
masks and mixtures.

A case says how the layer is made of two widths `a` and `b` and a kernel `k`, which plain layer it
is in an architecture, and what of its stored tensors that plain layer has, written out by hand.
"""

import copy
import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn.pointwise import training_format

A, B, K = (4, 8), (6, 9, 12), (1, 3, 5)


@dataclasses.dataclass
class Case:
    """One layer: `a`, `b`, `k` are sizes when it is made, numbers in all that is by hand."""

    make: Callable[[Any, Any, Any], nn.Module]
    plain: Callable[[int, int, int], nn.Module]
    parts: Callable[[int, int, int], dict[str, Any]]
    shape: Callable[[int, int, int], tuple[int, ...]]
    macs: Callable[[int, int, int], int] = lambda a, b, k: 0


def all_of(*_):
    return slice(None)


def centre(k, d):
    """The centre of a stored kernel of side 5, in d dimensions."""
    start = (5 - k) // 2
    return (slice(start, start + k),) * d


def convolution(d, **more):
    """Stride 1 and a padding that keeps the sides, which are 7, 6 and 5."""
    ours, plain = getattr(ms.nn, f"Conv{d}d"), getattr(nn, f"Conv{d}d")
    sides = (7, 6, 5)[:d]
    positions = int(torch.tensor(sides).prod())
    return Case(
        lambda a, b, k: ours(a, b, k, padding=k // 2, **more),
        lambda a, b, k: plain(a, b, k, padding=k // 2, **more),
        lambda a, b, k: {
            "weight": (slice(b), slice(a), *centre(k, d)),
            **({"bias": slice(b)} if more.get("bias", True) else {}),
        },
        lambda a, b, k: (2, a, *sides),
        lambda a, b, k: positions * a * b * k**d,
    )


def transposed(d, **more):
    ours, plain = getattr(ms.nn, f"ConvTranspose{d}d"), getattr(nn, f"ConvTranspose{d}d")
    sides = (5, 4, 3)[:d]
    positions = int(torch.tensor(sides).prod())
    rest = {"stride": 2, "output_padding": 1, **more}
    return Case(
        lambda a, b, k: ours(a, b, k, padding=k // 2, **rest),
        lambda a, b, k: plain(a, b, k, padding=k // 2, **rest),
        lambda a, b, k: {
            "weight": (slice(a), slice(b), *centre(k, d)),
            **({"bias": slice(b)} if more.get("bias", True) else {}),
        },
        lambda a, b, k: (2, a, *sides),
        lambda a, b, k: positions * a * b * k**d,
    )


def norm(ours, plain, *sides, affine=True):
    return Case(
        lambda a, b, k: ours(b, eps=1e-3, affine=affine),
        lambda a, b, k: plain(b, eps=1e-3, affine=affine),
        lambda a, b, k: {"weight": slice(b), "bias": slice(b)} if affine else {},
        lambda a, b, k: (3, b, *sides),
    )


def transposed_depthwise(a, b, k):
    return ms.nn.ConvTranspose2d(b, b * 2, k, stride=2, padding=k // 2, groups=b)


CASES = {
    "conv1d": convolution(1),
    "conv2d": convolution(2),
    "conv3d": convolution(3, bias=False),
    **{
        f"conv{d}d, {mode}": convolution(d, padding_mode=mode)
        for d in (1, 2, 3)
        for mode in ("reflect", "replicate", "circular")
    },
    "conv1d, dilated": Case(
        lambda a, b, k: ms.nn.Conv1d(a, b, k, stride=(2,), padding=k // 2 * 2, dilation=(2,)),
        lambda a, b, k: nn.Conv1d(a, b, k, stride=2, padding=k // 2 * 2, dilation=2),
        lambda a, b, k: {"weight": (slice(b), slice(a), *centre(k, 1)), "bias": slice(b)},
        lambda a, b, k: (2, a, 11),
        lambda a, b, k: 6 * a * b * k,
    ),
    "conv3d, sides of its own": Case(
        lambda a, b, k: ms.nn.Conv3d(a, b, (k, 2, 1), padding=(k // 2, 0, 1), stride=(1, 2, 1)),
        lambda a, b, k: nn.Conv3d(a, b, (k, 2, 1), padding=(k // 2, 0, 1), stride=(1, 2, 1)),
        lambda a, b, k: {"weight": (slice(b), slice(a), *centre(k, 1)), "bias": slice(b)},
        lambda a, b, k: (2, a, 5, 4, 3),
        lambda a, b, k: 5 * 2 * 5 * a * b * k * 2,
    ),
    "conv2d, same and circular": Case(
        lambda a, b, k: ms.nn.Conv2d(a, b, k, padding="same", padding_mode="circular"),
        lambda a, b, k: nn.Conv2d(a, b, k, padding="same", padding_mode="circular"),
        lambda a, b, k: {"weight": (slice(b), slice(a), *centre(k, 2)), "bias": slice(b)},
        lambda a, b, k: (2, a, 6, 5),
        lambda a, b, k: 30 * a * b * k * k,
    ),
    "conv1d, fixed groups": Case(
        lambda a, b, k: ms.nn.Conv1d(a, a * 2, 3, groups=4),
        lambda a, b, k: nn.Conv1d(a, a * 2, 3, groups=4),
        lambda a, b, k: {"weight": (slice(2 * a), slice(a // 4)), "bias": slice(2 * a)},
        lambda a, b, k: (2, a, 6),
        lambda a, b, k: 4 * 2 * a * (a // 4) * 3,
    ),
    "conv3d, depthwise": Case(
        lambda a, b, k: ms.nn.Conv3d(b, b, k, padding=k // 2, groups=b),
        lambda a, b, k: nn.Conv3d(b, b, k, padding=k // 2, groups=b),
        lambda a, b, k: {"weight": (slice(b), slice(1), *centre(k, 3)), "bias": slice(b)},
        lambda a, b, k: (2, b, 4, 3, 3),
        lambda a, b, k: 36 * b * k**3,
    ),
    "transposed1d": transposed(1),
    "transposed2d": transposed(2),
    "transposed2d, dilated": transposed(2, stride=(2, 3), dilation=1, output_padding=(0, 2)),
    "transposed3d": transposed(3, bias=False),
    "transposed2d, depthwise": Case(
        transposed_depthwise,
        lambda a, b, k: nn.ConvTranspose2d(b, 2 * b, k, stride=2, padding=k // 2, groups=b),
        lambda a, b, k: {"weight": (slice(b), slice(2), *centre(k, 2)), "bias": slice(2 * b)},
        lambda a, b, k: (2, b, 3, 4),
        lambda a, b, k: 12 * b * 2 * k * k,
    ),
    "transposed1d, groups of two": Case(
        lambda a, b, k: ms.nn.ConvTranspose1d(a, a, 2, groups=a // 2),
        lambda a, b, k: nn.ConvTranspose1d(a, a, 2, groups=a // 2),
        lambda a, b, k: {"weight": (slice(a), slice(2)), "bias": slice(a)},
        lambda a, b, k: (2, a, 6),
        lambda a, b, k: 6 * a * 2 * 2,
    ),
    "group norm": Case(
        lambda a, b, k: ms.nn.GroupNorm(b // 3, b, eps=1e-3),
        lambda a, b, k: nn.GroupNorm(b // 3, b, eps=1e-3),
        lambda a, b, k: {"weight": slice(b), "bias": slice(b)},
        lambda a, b, k: (2, b, 4, 4),
    ),
    "group norm, fixed groups": Case(
        lambda a, b, k: ms.nn.GroupNorm(3, b, affine=False),
        lambda a, b, k: nn.GroupNorm(3, b, affine=False),
        lambda a, b, k: {},
        lambda a, b, k: (2, b, 5),
    ),
    "instance norm 1d": norm(ms.nn.InstanceNorm1d, nn.InstanceNorm1d, 6),
    "instance norm 2d": norm(ms.nn.InstanceNorm2d, nn.InstanceNorm2d, 3, 4, affine=False),
    "instance norm 3d": norm(ms.nn.InstanceNorm3d, nn.InstanceNorm3d, 2, 3, 2),
    "batch norm 2d": norm(ms.nn.BatchNorm2d, nn.BatchNorm2d, 3, 3),
    "layer norm": Case(
        lambda a, b, k: ms.nn.LayerNorm(b, eps=1e-2),
        lambda a, b, k: nn.LayerNorm(b, eps=1e-2),
        lambda a, b, k: {"weight": slice(b), "bias": slice(b)},
        lambda a, b, k: (2, 3, b),
    ),
    "rms norm": Case(
        lambda a, b, k: ms.nn.RMSNorm(b),
        lambda a, b, k: nn.RMSNorm(b),
        lambda a, b, k: {"weight": slice(b)},
        lambda a, b, k: (2, 3, b),
    ),
    "rms norm, not affine": Case(
        lambda a, b, k: ms.nn.RMSNorm(b, eps=0.1, elementwise_affine=False),
        lambda a, b, k: nn.RMSNorm(b, eps=0.1, elementwise_affine=False),
        lambda a, b, k: {},
        lambda a, b, k: (2, 3, b),
    ),
    "prelu": Case(
        lambda a, b, k: ms.nn.PReLU(b),
        lambda a, b, k: nn.PReLU(b),
        lambda a, b, k: {"weight": slice(b)},
        lambda a, b, k: (2, b, 3, 3),
    ),
    "linear": Case(
        lambda a, b, k: ms.nn.Linear(a, b),
        lambda a, b, k: nn.Linear(a, b),
        lambda a, b, k: {"weight": (slice(b), slice(a)), "bias": slice(b)},
        lambda a, b, k: (2, 3, a),
        lambda a, b, k: 3 * a * b,
    ),
}
FIXED_GROUPS = ("conv1d, fixed groups", "group norm, fixed groups")


class Holder(nn.Module):
    def __init__(self, layer, *sizes):
        super().__init__()
        self.layer, self.sizes = layer, sizes

    def forward(self, x):
        return self.layer(x)


def supernet(name, dtype=torch.float32, **options):
    """A supernet of the layer alone, without zeros and ones."""
    a, b, k = ms.choose(A, "a"), ms.choose(B, "b"), ms.choose(K, "k")
    net = ms.Supernet(Holder(CASES[name].make(a, b, k), a, b, k), **options).to(dtype)
    for i, parameter in enumerate(net.model.parameters()):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.7 + 0.2)
    return net.train()


def numbers(net):
    """Architectures, each with its three numbers."""
    for arch in net.space.enumerate():
        chosen = {d.name: d.options[o] for d, o in zip(net.space.decisions, arch, strict=True)}
        yield arch, (chosen["a"], chosen["b"], chosen["k"])


def last(index, shape):
    """The last channels of a tensor in place of the first; its kernel is cut as before."""
    parts = index if isinstance(index, tuple) else (index,)
    ends = [slice(n - len(range(n)[part]), n) for part, n in zip(parts, shape, strict=False)]
    return (*ends[:2], *parts[2:])


def by_hand(name, tensors, *sizes, right=False):
    """The plain layer whose tensors are the parts of the stored ones."""
    plain = CASES[name].plain(*sizes).to(next(iter(tensors.values()), torch.zeros(1)).dtype)
    with torch.no_grad():
        for key, index in CASES[name].parts(*sizes).items():
            index = last(index, tensors[key].shape) if right else index
            parameter = getattr(plain, key)
            assert tensors[key][index].shape == parameter.shape
            parameter.copy_(tensors[key][index])
    assert {key for key, _ in plain.named_parameters()} == set(CASES[name].parts(*sizes))
    return plain


def image(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("name", CASES)
def test_slices_and_extracted_layers_are_the_plain_layer_by_hand(name):
    net = supernet(name)
    tensors = dict(net.model.layer.named_parameters())
    for arch, sizes in numbers(net):
        x, plain = image(CASES[name].shape(*sizes)), by_hand(name, tensors, *sizes)
        small = net.extract(arch)
        assert type(small.layer) is type(plain) and repr(small.layer) == repr(plain)
        expected = plain(x)
        assert torch.equal(net(x, arch), expected)
        assert torch.equal(small(x), expected)


@pytest.mark.parametrize("name", CASES)
def test_with_the_last_channels_it_is_the_plain_layer_by_hand_too(name):
    net = supernet(name)
    tensors = dict(net.model.layer.named_parameters())
    for arch, sizes in numbers(net):
        x = image(CASES[name].shape(*sizes))
        left, right = (by_hand(name, tensors, *sizes, right=side) for side in (False, True))
        for _ in range(2):  # what is remembered of one is not taken for the other
            assert torch.equal(net(x, arch, placement=ms.nn.RIGHT), right(x))
            assert torch.equal(net(x, arch), left(x))
        assert torch.equal(net.extract(arch, placement=ms.nn.RIGHT)(x), right(x))


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_plain_layer_by_hand(name):
    net = supernet(name, torch.float64)
    tensors = dict(net.model.layer.named_parameters())
    for arch, sizes in numbers(net):
        x, plain = image(CASES[name].shape(*sizes), torch.float64), by_hand(name, tensors, *sizes)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        net.zero_grad()
        for out in (net(inputs[0], arch), plain(inputs[1])):
            (out * image(out.shape, torch.float64, 1)).sum().backward()
        # float64 rounding of sums of a few thousand numbers of size one, in another order
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-10, atol=1e-10)
        for key, index in CASES[name].parts(*sizes).items():
            expected = torch.zeros_like(tensors[key])
            expected[index] = getattr(plain, key).grad
            torch.testing.assert_close(tensors[key].grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_costs_are_closed_forms(name):
    net = supernet(name)
    archs, sizes = zip(*numbers(net), strict=True)
    params = ms.cost.params(net, archs)
    for found, arch, values in zip(params, archs, sizes, strict=True):
        plain = CASES[name].plain(*values)
        assert found == sum(p.numel() for p in plain.parameters())
        assert found == sum(p.numel() for p in net.extract(arch).parameters())


class Entry(nn.Module):
    """Gives a layer as many channels as it takes, of an input that has them all."""

    def __init__(self, layer, shape, a, b, k):
        super().__init__()
        self.layer, self.shape, self.sizes = layer, shape, (a, b, k)

    def forward(self, x):
        shape = self.shape(*map(ms.value, self.sizes))
        return self.layer(x[tuple(map(slice, (len(x), *shape[1:])))])


@pytest.mark.parametrize("name", CASES)
def test_multiply_adds_are_closed_forms(name):
    a, b, k = ms.choose(A, "a"), ms.choose(B, "b"), ms.choose(K, "k")
    case = CASES[name]
    net = ms.Supernet(Entry(case.make(a, b, k), case.shape, a, b, k)).eval()
    archs, sizes = zip(*numbers(net), strict=True)
    macs = ms.cost.macs(net, archs, case.shape(max(A), max(B), max(K))[1:])
    assert list(macs) == [case.macs(*values) for values in sizes]


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.parts(4, 6, 1)])
def test_k_shot_mixes_the_whole_tensors(name):
    """The convex combination of the slices, then the parts by hand."""
    net = supernet(name, torch.float64, sharing=ms.sharing.KShot(3, last_std=1.0))
    stacks = {key: p.detach() for key, p in net.model.layer._parameters.items() if p is not None}
    codes = []
    for arch, sizes in numbers(net):
        [code] = net.sharing.code([arch]).detach()
        codes.append(code)
        tensors = {key: torch.einsum("k,k...->...", code, stack) for key, stack in stacks.items()}
        x = image(CASES[name].shape(*sizes), torch.float64)
        expected = by_hand(name, tensors, *sizes)(x)
        # float64 rounding of sums of a few thousand numbers of size one
        torch.testing.assert_close(net(x, arch), expected, rtol=1e-10, atol=1e-10)
        assert torch.equal(net(x, arch), net.extract(arch)(x))
    assert not torch.allclose(codes[0], codes[-1]), "the codes must differ to matter"


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("name", CASES)
def test_masked_layers_are_the_sliced_ones(name, masks, every):
    """With any subset of policies, and large numbers where channels are not active.

    Every third pair of an architecture and a subset has all of both, and is quick.
    """
    net = supernet(name, torch.float64)
    case = CASES[name]
    wide = 30 * image(case.shape(max(A), max(B), max(K)), torch.float64)
    small = case.shape(min(A), min(B), min(K))
    wide[tuple(map(slice, small))] /= 30
    sizes = net.model.sizes
    decisions = net.space.decisions
    subsets = [s for n in range(4) for s in itertools.combinations(decisions, n)]
    for arch, only in list(itertools.product(net.space.enumerate(), subsets))[::every]:
        policy = one_hot(net, arch, only)
        with torch.no_grad():
            with net.selecting(arch):
                sliced = net.model(cut(wide, case.shape, sizes))
            if name in FIXED_GROUPS and masks == "full" and policy:
                refused(net, arch, policy, wide)
                continue
            with net.selecting(arch, policy=policy, masks=masks):
                masked = net.model(cut(wide, case.shape, sizes))
        active = masked[tuple(map(slice, sliced.shape))]
        torch.testing.assert_close(active, sliced, rtol=1e-10, atol=1e-10)


def cut(wide, shape, sizes):
    return wide[tuple(map(slice, shape(*map(ms.value, sizes))))]


def one_hot(net, arch, only):
    pairs = zip(net.space.decisions, arch, strict=True)
    return {d: torch.eye(len(d.options), dtype=torch.float64)[i] for d, i in pairs if d in only}


def refused(net, arch, policy, wide):
    """A fixed number of groups of elastic channels, where a policy decides the channels."""
    widths = {decision.name for decision in policy}
    elastic = "a" if isinstance(net.model.layer, ms.nn.Conv1d) else "b"
    position = {d.name: o for d, o in zip(net.space.decisions, arch, strict=True)}[elastic]
    largest = position == len({"a": A, "b": B}[elastic]) - 1
    if elastic in widths and not largest:
        with (
            net.selecting(arch, policy=policy),
            pytest.raises(ValueError, match=r"'layer': with . groups its channels per group are"),
        ):
            net.model(wide)


# -- policies ----------------------------------------------------------------------------------


def kernel_by_hand(weight, p, sides, d):
    """A stored kernel of side 5, of which every option of its size has the centre, by p."""
    mask = 0
    for q, side in zip(p, sides, strict=True):
        cube = torch.zeros((5,) * d, dtype=weight.dtype)
        cube[centre(side, d)] = 1
        mask = mask + q * cube
    return weight * mask


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("transpose", [False, True])
def test_policies_of_channels_and_kernels_have_the_gradient_of_masks_by_hand(d, transpose):
    name = f"transposed{d}d" if transpose else f"conv{d}d"
    net = supernet(name, torch.float64)
    layer, case = net.model.layer, CASES[name]
    into = torch.stack([(torch.arange(max(A)) < a).double() for a in A])
    function = getattr(F, f"conv_transpose{d}d" if transpose else f"conv{d}d")
    more = {"stride": 2, "output_padding": 1} if transpose else {}
    x = image(case.shape(max(A), max(B), max(K)), torch.float64)
    for arch, _ in numbers(net):
        ours = {
            n.name: q.requires_grad_() for n, q in one_hot(net, arch, net.space.decisions).items()
        }
        given = {decision: ours[decision.name] for decision in net.space.decisions}
        theirs = {key: q.detach().clone().requires_grad_() for key, q in ours.items()}
        with net.selecting(arch, policy=given):
            out = net.model(x)
        channels = theirs["a"] @ into
        shape = (-1, *(1,) * (d + 1)) if transpose else (1, -1, *(1,) * d)
        weight = kernel_by_hand(layer.weight * channels.view(shape), theirs["k"], K, d)
        expected = function(x, weight, layer.bias, padding=2, **more)
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
        direction = image(out.shape, torch.float64, 3)
        (out * direction).sum().backward()
        (expected * direction).sum().backward()
        for key in ("a", "k"):
            torch.testing.assert_close(ours[key].grad, theirs[key].grad, rtol=1e-9, atol=1e-9)
            assert ours[key].grad.abs().min() > 0


def test_policies_of_rms_norm_have_the_gradient_by_hand():
    net = supernet("rms norm", torch.float64)
    x = image((2, 3, 12), torch.float64)
    rows = torch.stack([(torch.arange(12) < b).double() for b in B])
    for arch, _ in numbers(net):
        ours = {
            n.name: q.requires_grad_() for n, q in one_hot(net, arch, net.space.decisions).items()
        }
        given = {decision: ours[decision.name] for decision in net.space.decisions}
        theirs = ours["b"].detach().clone().requires_grad_()
        with net.selecting(arch, policy=given):
            out = net.model(x)
        mask = theirs @ rows
        square = (x.square() * mask).sum(-1, keepdim=True) / mask.sum()
        root = (square + torch.finfo(torch.float64).eps).sqrt()
        expected = x / root * net.model.layer.weight
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
        direction = image(out.shape, torch.float64, 3)
        for result in (out, expected):
            (result * direction).sum().backward()
        torch.testing.assert_close(ours["b"].grad, theirs.grad, rtol=1e-9, atol=1e-9)


def test_sides_of_a_kernel_may_be_sizes_of_their_own():
    h, w = ms.choose((1, 3), "h"), ms.choose((3, 5), "w")
    layer = ms.nn.Conv2d(2, 3, (h, w), padding=(h // 2, w // 2))
    net = ms.Supernet(Holder(layer)).double()
    assert [d.name for d in net.space.decisions] == ["h", "w"]
    x = image((2, 2, 6, 7), torch.float64)
    for arch in net.space.enumerate():
        high, wide = (d.options[o] for d, o in zip(net.space.decisions, arch, strict=True))
        rows, columns = (
            slice((3 - high) // 2, (3 + high) // 2),
            slice((5 - wide) // 2, (5 + wide) // 2),
        )
        small = net.extract(arch)
        assert small.layer.kernel_size == (high, wide)
        expected = F.conv2d(
            x, layer.weight[:, :, rows, columns], layer.bias, padding=(high // 2, wide // 2)
        )
        torch.testing.assert_close(net(x, arch), expected, rtol=1e-12, atol=1e-12)
        assert torch.equal(net(x, arch), small(x))
        masked = net(x, arch, policy=one_hot(net, arch, net.space.decisions))
        torch.testing.assert_close(masked, expected, rtol=1e-10, atol=1e-10)
    assert ms.cost.params(net, [(0, 0), (1, 1)]).tolist() == [3 * 2 * 3 + 3, 3 * 2 * 15 + 3]


def test_masks_refuse_sides_that_are_other_sizes_of_one_decision():
    k = ms.choose((1, 3), "k")
    net = ms.Supernet(Holder(ms.nn.Conv2d(2, 3, (k, k + 2), padding=(k // 2, k // 2 + 1)))).double()
    x = image((2, 2, 6, 7), torch.float64)
    assert torch.equal(net(x, (0,)), net.extract((0,))(x))
    policy = one_hot(net, (0,), net.space.decisions)
    with (
        net.selecting((0,), policy=policy),
        pytest.raises(ValueError, match="one size or depend on different decisions"),
    ):
        net.model(x)


# -- embeddings --------------------------------------------------------------------------------


class Words(nn.Module):
    def __init__(self, padding_idx=None, fixed=False):
        super().__init__()
        self.width = 6 if fixed else ms.choose((2, 4, 6), "width")
        self.table = ms.nn.Embedding(5, self.width, padding_idx)
        hidden = ms.choose((2, 3), "hidden")
        self.head = ms.nn.Linear(self.width, hidden)
        self.tail = ms.nn.Linear(hidden, 2)

    def forward(self, indices):
        return self.tail(torch.tanh(self.head(self.table(indices).mean(1))))


WORDS = torch.tensor([[0, 1, 4], [3, 3, 2]])


@pytest.mark.parametrize("padding_idx", [None, 3, -2])
def test_embeddings_use_the_first_entries(padding_idx):
    net = ms.Supernet(Words(padding_idx))
    table = net.model.table
    for arch in net.space.enumerate():
        width, hidden = (d.options[o] for d, o in zip(net.space.decisions, arch, strict=True))
        small = net.extract(arch)
        assert type(small.table) is nn.Embedding and small.table.weight.shape == (5, width)
        assert small.table.padding_idx == (None if padding_idx is None else 3)
        with net.selecting(arch):
            assert torch.equal(net.model.table(WORDS), table.weight[:, :width][WORDS])
        assert torch.equal(net(WORDS, arch), small(WORDS))
        [params] = ms.cost.params(net, [arch])
        assert params == 5 * width + width * hidden + hidden + 2 * hidden + 2
    assert torch.equal(net.model.table.weight[3] == 0, torch.full((6,), padding_idx is not None))


def test_embeddings_start_as_those_of_torch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Embedding(5, 4, padding_idx=1)
        torch.manual_seed(0)
        ours = ms.nn.Embedding(5, 4, padding_idx=1)
    assert torch.equal(plain.weight, ours.weight) and torch.equal(plain(WORDS), ours(WORDS))


@pytest.mark.parametrize("fixed", [False, True])
def test_the_vector_of_the_padding_stays_zero_in_every_slice(fixed):
    sharing = ms.sharing.KShot(3, last_std=1.0, mix_fixed_layers=True)
    net = ms.Supernet(Words(3, fixed), sharing=sharing)
    stack = net.model.table._parameters["weight"]
    assert stack.shape == (3, 5, 6) and not stack[:, 3].any()
    assert not torch.equal(stack[0], stack[1])
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    for arch in net.space.enumerate():
        optimizer.zero_grad()
        before = stack.detach().clone()
        net(WORDS, arch).square().sum().backward()
        optimizer.step()
        assert not torch.equal(before, stack) and not stack[:, 3].any()
        with net.selecting(arch):
            assert not net.model.table(torch.tensor([3])).any()
        assert torch.equal(net(WORDS, arch), net.extract(arch)(WORDS))


def test_masked_embeddings_are_the_sliced_ones():
    net = ms.Supernet(Words(3)).double()
    for arch in net.space.enumerate():
        policy = one_hot(net, arch, net.space.decisions)
        masked, sliced = net(WORDS, arch, policy=policy), net(WORDS, arch)
        torch.testing.assert_close(masked, sliced, rtol=1e-12, atol=1e-12)


# -- what else there is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("d", "layout"), [(2, torch.channels_last), (3, torch.channels_last_3d)], ids=["2d", "3d"]
)
@pytest.mark.parametrize("transpose", [False, True])
def test_extracted_layers_are_bit_equal_in_channels_last(d, layout, transpose):
    name = f"transposed{d}d" if transpose else f"conv{d}d"
    for sharing in (None, ms.sharing.KShot(2, last_std=1.0)):
        if sharing is not None and d == 3:
            continue  # of five dimensions torch converts no stack
        net = supernet(name, sharing=sharing).to(memory_format=layout)
        for arch, sizes in numbers(net):
            x = image(CASES[name].shape(*sizes)).contiguous(memory_format=layout)
            assert torch.equal(net(x, arch), net.extract(arch)(x))


def test_a_network_with_a_3d_convolution_trains_contiguous():
    k = ms.choose((1, 3), "k")
    nets = [
        nn.Sequential(ms.nn.Conv2d(1, 2, k, padding=k // 2), nn.Unflatten(1, (1, 2)), last)
        for last in (ms.nn.Conv3d(1, 2, k, padding=k // 2), nn.Conv3d(1, 2, 1), nn.Identity())
    ]
    for sharing in (None, ms.sharing.KShot(2)):
        for model, is_last in zip(nets, (False, False, True), strict=True):
            net = ms.Supernet(copy.deepcopy(model), sharing=copy.deepcopy(sharing))
            kind = training_format(net, torch.device("cpu"))
            assert kind.is_channels_last is is_last
            assert is_last or "'model.2' holds a tensor of five dimensions" in kind.why
            net.to(memory_format=kind.torch_format)  # torch refuses channels last of five


def test_images_of_an_instance_norm_may_be_missing():
    net = supernet("instance norm 2d")
    for arch, sizes in numbers(net):
        x = image((sizes[1], 3, 4))
        assert torch.equal(net(x, arch), nn.InstanceNorm2d(sizes[1], eps=1e-3)(x))


def test_a_slope_for_all_channels():
    ours, plain = ms.nn.PReLU(init=0.5), nn.PReLU(init=0.5)
    x = image((2, 3, 4))
    assert torch.equal(ours(x), plain(x)) and ours.weight.shape == (1,)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_convolutions_start_as_those_of_torch(kind, d):
    name = f"{kind}{d}d"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = getattr(nn, name)(6, 4, 3, groups=2)
        torch.manual_seed(0)
        ours = getattr(ms.nn, name)(6, 4, 3, groups=2)
    assert torch.equal(plain.weight, ours.weight) and torch.equal(plain.bias, ours.bias)


WIDTH = ms.choose((4, 6), "width")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.nn.Conv1d(2, 3, (3, 3)), r"Conv1d: kernel_size \(3, 3\) must be .* of 1"),
        (lambda: ms.nn.Conv3d(2, 3, 3, stride=(1, 2)), r"Conv3d: stride \(1, 2\) .* of 3"),
        (lambda: ms.nn.Conv2d(2, 3, 3, padding="half"), "'same', 'valid' or sizes, got 'half'"),
        (lambda: ms.nn.Conv2d(2, 3, 3, padding_mode="mirror"), "zeros, reflect, .*got 'mirror'"),
        (lambda: ms.nn.ConvTranspose2d(2, 3, 3, padding="same"), "must be sizes, got 'same'"),
        (lambda: ms.nn.ConvTranspose1d(2, 3, 3, output_padding=(1, 1)), r"output_padding .* of 1"),
        (lambda: ms.nn.ConvTranspose3d(2, 3, (1, ms.choose((2, 3)), 1)), "mixes odd and even"),
        (lambda: ms.nn.GroupNorm(4, WIDTH), "num_channels .*4, 6.* not divided by groups 4"),
        (lambda: ms.nn.GroupNorm(WIDTH // 8, WIDTH), "at least 1"),
        (lambda: ms.nn.GroupNorm(2, ms.concat(WIDTH, 4)), "across concatenated channels"),
        (lambda: ms.nn.InstanceNorm2d(4, track_running_stats=True), "keeps running statistics"),
        (lambda: ms.nn.Embedding(4, 4, max_norm=1.0), "max_norm=1.0 changes stored vectors"),
        (lambda: ms.nn.Embedding(4, 4, padding_idx=4), "padding_idx 4 must be within the 4"),
    ],
)
def test_impossible_layers_are_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "transposed2d", "prelu", "instance norm 2d"])
def test_channels_that_are_not_those_of_the_input_are_named(name):
    case = CASES[name]

    class Wrong(nn.Module):
        def __init__(self):
            super().__init__()
            self.width, self.kernel = ms.choose(A, "a"), ms.choose((1, 3), "k")
            self.layer = case.make(self.width, self.width, self.kernel)

        def forward(self, x):
            return self.layer(x[:, :3])

    with pytest.raises(ms.cost.DryRunError, match=r"'layer'.* (takes|failed)"):
        ms.Supernet(Wrong(), input_shape=case.shape(8, 12, 3)[1:])
