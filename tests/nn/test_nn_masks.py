"""Mask matrices, and every layer by itself: the leading part of what it gives with masks is what it
gives with slices, whatever the tail of its input."""

import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_masked import policies
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn.batch_norm import Collector
from manyshot.space import Size

# float64 sums of at most a few hundred numbers of size 1 to 100: about 1e-13 of rounding.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


class Holder(nn.Module):
    def __init__(self, layer, *sizes):
        super().__init__()
        self.layer, self.sizes = layer, sizes

    def forward(self, x):
        return self.layer(x)


def held(layer, *sizes):
    """A supernet of one layer in float64, without zeros and ones; `sizes` become its decisions."""
    net = ms.Supernet(Holder(layer, *sizes)).double()
    for i, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, 0.2, 1.0, generator=torch.Generator().manual_seed(i))
    return net


def masks_of(net, size, arch, kind="mask", masks="full"):
    """The mask of a size and, by option of each decision, how it changes with its policy."""
    given_policies = policies(net, arch)
    with net.selecting(arch, policy=given_policies, masks=masks) as selection:
        mask = getattr(selection, kind)(size)
    own = [given_policies[d] for d in size.decisions()]
    # The mask is linear in every policy, so its derivatives are the columns of M.
    rows = [torch.autograd.grad(u, own, retain_graph=True) for u in mask.flatten()]
    columns = [torch.stack(parts).view(*mask.shape, -1) for parts in zip(*rows, strict=True)]
    return mask.detach(), columns


class TestMatrices:
    def test_example_of_the_paper(self):
        heads = ms.choose((1, 2, 3), "heads")
        net = held(ms.nn.Linear(heads, 2))
        expected = torch.tensor([[1.0, 0, 0], [1, 1, 0], [1, 1, 1]]).double()
        for option in range(3):
            mask, (columns,) = masks_of(net, heads, (option,))
            assert torch.equal(mask, expected[option])
            assert torch.equal(columns.T, expected)

    @settings(max_examples=40)
    @given(st.lists(st.integers(1, 9), min_size=1, max_size=5, unique=True), st.data())
    def test_columns_are_prefixes_of_their_sizes(self, options, data):
        width = ms.choose(tuple(options), "width")
        chosen = data.draw(st.integers(0, len(options) - 1))
        net = held(ms.nn.Linear(2, width), width)
        mask, (columns,) = masks_of(net, width, (chosen,))
        assert columns.shape == (max(options), len(options))
        assert (columns[1:] <= columns[:-1]).all()  # no one after a zero
        assert columns.sum(0).tolist() == options
        assert torch.equal(mask, columns[:, chosen])  # M @ one-hot
        for active in ("mask", "centre_mask"):
            short, (cut,) = masks_of(net, width, (chosen,), active, "active")
            assert short.shape[0] == options[chosen] and (short == 1).all()
            assert cut.shape[0] == options[chosen]

    def test_a_size_of_two_decisions_is_bilinear(self):
        width, ratio = ms.choose((8, 12, 16), "width"), ms.choose((3, 3.5, 4), "ratio")
        hidden = width * ratio
        net = held(ms.nn.Linear(hidden, 2), width, ratio)
        for e, r in itertools.product(range(3), range(3)):
            wanted = [[int(a * b) for b in ratio.values] for a in width.values]
            mask, (by_width, by_ratio) = masks_of(net, hidden, (e, r))
            assert mask.shape == (64,) and mask.sum() == wanted[e][r]
            assert (mask[: wanted[e][r]] == 1).all()
            assert by_width.sum(0).tolist() == [row[r] for row in wanted]
            assert by_ratio.sum(0).tolist() == wanted[e]

    @pytest.mark.parametrize("options", [(1, 3, 5, 7), (2, 4, 6), (5, 1)])
    def test_centre_squares_are_nested(self, options):
        kernel = ms.choose(options, "kernel")
        net = held(ms.nn.Conv2d(1, 1, kernel, padding=kernel // 2))
        mask, (columns,) = masks_of(net, kernel, (0,), "centre_mask")
        assert torch.equal(mask, columns[..., 0])
        far = max(options)
        for option, k in enumerate(options):
            margin = (far - k) // 2
            expected = F.pad(torch.ones(k, k), (margin,) * 4)
            assert torch.equal(columns[..., option].float(), expected)

    def test_masks_of_undecided_sizes_are_none(self):
        width, other = ms.choose((2, 4), "width"), ms.choose((2, 4), "other")
        net = held(ms.nn.Linear(width, other))
        with net.selecting((0, 0), policy=policies(net, (0, 0), [width])) as selection:
            assert selection.mask(other) is None and selection.mask(3) is None
            assert selection.extent(other) == 2 and selection.extent(width) == 4
            assert ms.value(width) == 4 and selection.count(width) == 2
            assert selection.mask(width * other).shape == (8,)  # 4 * 2, other as it is
        with net.selecting((0, 0)) as selection:
            assert selection.mask(width) is None and selection.policy(width) is None

    def test_decisions_without_policy_keep_their_value(self):
        width, divisor = ms.choose((6, 8), "width"), ms.choose((3, 4), "divisor")
        size = width // divisor
        net = held(ms.nn.Linear(size, 2), width, divisor)
        for arch, expected in {(0, 0): [1, 1], (0, 1): [1, 0], (1, 1): [1, 1]}.items():
            with net.selecting(arch, policy=policies(net, arch, [width])) as selection:
                assert selection.mask(size).tolist() == expected

    def test_autocast_rounds_no_gradient(self):
        width = ms.choose((2, 4), "width")
        net = held(ms.nn.Linear(width, 2)).float()
        given_policies = {width: torch.tensor([1.0, 0.0], requires_grad=True)}
        with torch.autocast("cpu", torch.bfloat16), net.selecting((0,), policy=given_policies) as s:
            mask = s.mask(width)
        assert mask.dtype == torch.float32
        (mask * (1 + 2**-10)).sum().backward()  # bfloat16 has 2**-7
        assert given_policies[width].grad.tolist() == [2 + 2**-9, 4 + 2**-8]

    def test_tables_do_not_keep_decisions_alive(self):
        width = ms.choose((2, 4), "width")
        net = held(ms.nn.Linear(width, 2))
        masks_of(net, width, (0,))
        alive = weakref.ref(width)
        del width, net
        gc.collect()
        assert alive() is None


def a(options, name="a"):
    return ms.choose(options, name)


def linear():
    i, o = a((3, 5)), a((4, 6, 7), "b")
    return ms.nn.Linear(i, o), (2, 3, i)


def hidden_layer():
    e, r = a((4, 6)), a((2, 2.5, 3), "b")
    m = ms.round_to(e * r, 1)
    return nn.Sequential(ms.nn.Linear(e, m), nn.GELU(), ms.nn.Linear(m, e)), (2, e)


def conv(stride=1, **options):
    i, o = a((3, 5)), a((4, 6), "b")
    return ms.nn.Conv2d(i, o, 3, stride, **options), (2, i, 6, 5)


def kernels(options=(1, 3, 5), stride=1, scale=1, offset=0, **more):
    i, k = a((2, 4)), a(options, "k")
    padding = more.pop("padding", (k // 2 - offset) * scale)
    layer = ms.nn.Conv2d(i, 3, k, stride, padding=padding, dilation=scale, **more)
    return layer, (2, i, 9, 8)


def depthwise():
    w, k = a((4, 6)), a((3, 5), "k")
    return ms.nn.Conv2d(w, w, k, 2, padding=k // 2, groups=w), (2, w, 6, 6)


def multiplied():
    w = a((2, 3))
    return ms.nn.Conv2d(w, w * 2, 3, padding=1, groups=w), (2, w, 6, 6)


def groups_of_four():
    w, k = a((4, 8, 12)), a((1, 3), "k")
    return ms.nn.Conv2d(w, w, k, padding=k // 2, groups=w // 4), (2, w, 5, 5)


def fixed_groups():
    k = a((1, 3))
    return ms.nn.Conv2d(4, 6, k, padding=k // 2, groups=2), (2, 4, 5, 5)


def squeeze():
    w = a((4, 8, 12))
    s = ms.round_to(w // 4, 2)
    gate = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), ms.nn.Conv2d(w, s, 1), nn.ReLU(), ms.nn.Conv2d(s, w, 1)
    )

    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = gate

        def forward(self, x):
            return x * torch.sigmoid(self.gate(x))

    return Squeeze(), (2, w, 3, 3)


def norm(**options):
    w = a((4, 6, 9))
    return ms.nn.LayerNorm(w, **options), (2, 3, w)


def batch_norm(layer=ms.nn.BatchNorm2d, spatial=(3, 3), **options):
    w = a((4, 6))
    return layer(w, **options), (5, w, *spatial)


def scaled():
    w, t = a((4, 6)), a((2, 3), "tokens")

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = ms.nn.Parameter((1, t, w))

        def forward(self, x):
            return x * self.scale()

    return Scaled(), (2, t, w)


def depth():
    w = a((4, 6))
    blocks = [nn.Sequential(ms.nn.Linear(w, w), nn.Tanh()) for _ in range(3)]
    return ms.nn.Depth(blocks, (0, 1, 3), "depth"), (2, w)


def choice():
    w, k = a((4, 8)), a((1, 3), "k")
    inner = ms.nn.Choice([nn.Identity(), ms.nn.Conv2d(w, w, 1)], "inner")
    options = [
        nn.Identity(),
        ms.nn.Conv2d(w, w, k, padding=k // 2),
        ms.nn.Depth([ms.nn.BatchNorm2d(w), inner], (0, 2), "depth"),
    ]
    return ms.nn.Choice(options, "op"), (2, w, 4, 4)


LAYERS = {
    "linear": linear,
    "hidden layer": hidden_layer,
    "conv": conv,
    "conv without bias, stride (1, 2)": lambda: conv((1, 2), bias=False, padding=(1, 0)),
    "kernel": kernels,
    "kernel, stride 2": lambda: kernels(stride=2),
    "even kernel": lambda: kernels((2, 4)),
    "even kernel, less padding": lambda: kernels((4, 2), offset=1),
    "kernel, dilation 2": lambda: kernels(scale=2),
    "same": lambda: kernels(padding="same"),
    "same, even": lambda: kernels((2, 4), padding="same"),
    "same, dilation 2": lambda: kernels(scale=2, padding="same"),
    "same, even, dilation 3": lambda: kernels((2, 4), scale=3, padding="same"),
    "depthwise": depthwise,
    "depthwise multiplied": multiplied,
    "groups of four": groups_of_four,
    "fixed groups, elastic kernel": fixed_groups,
    "squeeze": squeeze,
    "layer norm": norm,
    "layer norm, no shift": lambda: norm(bias=False),
    "layer norm, not affine": lambda: norm(elementwise_affine=False, eps=0.1),
    "batch norm": batch_norm,
    "batch norm 1d, not affine": lambda: batch_norm(ms.nn.BatchNorm1d, (), affine=False),
    "batch norm 3d": lambda: batch_norm(ms.nn.BatchNorm3d, (2, 2, 2)),
    "parameter": scaled,
    "depth": depth,
    "choice": choice,
}


def sized(full, shape):
    """The input of a layer: the leading part that tensors have in the active selection."""
    return full[tuple(slice(ms.value(n)) for n in shape)]


def full_input(shape):
    """Of the largest shape; what is beyond the smallest is large, as nothing keeps it small."""
    most = [max(n.over_options()) if isinstance(n, Size) else n for n in shape]
    least = [min(n.over_options()) if isinstance(n, Size) else n for n in shape]
    x = 30 * torch.randn(most, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    x[tuple(map(slice, least))] /= 30
    return x


def subsets(items):
    return itertools.chain.from_iterable(
        itertools.combinations(items, n) for n in range(len(items) + 1)
    )


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("name", LAYERS)
def test_masked_layer_is_the_sliced_layer(name, masks):
    layer, shape = LAYERS[name]()
    net, full = held(layer), full_input(shape)
    archs = list(net.space.enumerate())
    with torch.no_grad():
        largest = [len(d.options) for d in net.space.decisions]
        assert len(archs) == torch.tensor(largest).prod()
        for arch, only in itertools.product(archs, subsets(net.space.decisions)):
            with net.selecting(arch):
                sliced = net.model(sized(full, shape))
            given_policies = policies(net, arch, only)
            with net.selecting(arch, policy=given_policies, masks=masks):
                masked = net.model(sized(full, shape))
            assert masks == "full" or masked.shape == sliced.shape
            active = masked[tuple(map(slice, sliced.shape))]
            torch.testing.assert_close(active, sliced, **CLOSE)


@pytest.mark.parametrize("width", [4, 6, 9])
def test_layer_norm_is_that_of_the_active_features(width):
    layer, shape = norm(eps=1e-3)
    net, x = held(layer), full_input(shape)
    arch = (layer.features.options.index(width),)
    with net.selecting(arch, policy=policies(net, arch)):
        masked = net.model(x)[..., :width]
    weight, bias = layer.weight[:width], layer.bias[:width]
    expected = F.layer_norm(x[..., :width], (width,), weight, bias, 1e-3)
    torch.testing.assert_close(masked, expected, **CLOSE)


def test_layer_norm_is_as_exact_as_torch_under_autocast():
    width = a((96, 160, 217))  # 217 is no bfloat16
    net = ms.Supernet(Holder(ms.nn.LayerNorm(width)))
    x = 50 + torch.randn((16, 217), generator=torch.Generator().manual_seed(0))
    for option, n in enumerate(width.options):
        with torch.autocast("cpu", torch.bfloat16):
            given_policies = {d: p.float() for d, p in policies(net, (option,)).items()}
            with net.selecting((option,), policy=given_policies):
                masked = net.model(x)[:, :n]
        # float32: 50 * 6e-8 of rounding in the mean, over a standard deviation of 1
        torch.testing.assert_close(masked, F.layer_norm(x[:, :n], (n,)), rtol=0, atol=3e-5)
        half = {d: p.bfloat16() for d, p in policies(net, (option,)).items()}
        with net.bfloat16().selecting((option,), policy=half):
            rounded = net.model(x.bfloat16())[:, :n]
        expected = F.layer_norm(x.bfloat16()[:, :n].float(), (n,))
        assert rounded.dtype == torch.bfloat16
        # 2**-8 of relative rounding of numbers up to 4
        torch.testing.assert_close(rounded.float(), expected, rtol=2**-8, atol=1e-2)
        net.float()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_batch_norm_with_calibrated_statistics(dtype):
    w = a((4, 6))
    body = nn.Sequential(ms.nn.Conv2d(3, w, 1), ms.nn.BatchNorm2d(w), ms.nn.Conv2d(w, 2, 1))
    dropped = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2))
    net = held(nn.Sequential(body, ms.nn.Depth([dropped], (0, 1), "depth"))).eval()
    x = torch.randn((6, 3, 4, 4), generator=torch.Generator().manual_seed(0)).double()
    kind = torch.float32 if dtype == torch.bfloat16 else dtype
    net, x = net.to(kind), x.to(kind)
    for arch in net.space.enumerate():
        collector = Collector()
        with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != kind):
            net(x, arch, stats=collector)
            stats = collector.stats(arch)
            before = {path: (m.clone(), v.clone()) for path, (m, v) in stats.tensors.items()}
            sliced = net(x, arch, stats=stats)
            for masks in ("full", "active"):
                given_policies = {d: p.to(kind) for d, p in policies(net, arch).items()}
                masked = net(x, arch, stats=stats, policy=given_policies, masks=masks)
                # bfloat16: the last convolution sums zeros too, in another order
                atol = 1e-10 if dtype == kind else 2**-6 * float(sliced.abs().max())
                torch.testing.assert_close(masked, sliced, rtol=0, atol=atol)
        for path, tensors in stats.tensors.items():
            assert all(map(torch.equal, tensors, before[path]))
