"""Concatenated channels: every part keeps its weights, whatever the parts before it are.

The oracles are networks written out by hand at their largest widths, whose unused channels are
multiplied by zero, and lists of the rows and columns that a layer should use.
"""

import itertools
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nn_masked import policies, prefix
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.evaluate.running import RunningStatistics
from manyshot.nn.agreement import MasksDisagree
from manyshot.space import Size

# float64 sums of at most a few hundred numbers of size 1 to 100: about 1e-13 of rounding.
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def normal(x, norm):
    return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


def along(mask):
    return mask[:, None, None]


class UNet(nn.Module):
    """Two scales whose channels meet again in a skip connection, beside the image itself."""

    def __init__(self):
        super().__init__()
        a, b, c = (ms.choose(o, n) for o, n in (((2, 4), "a"), ((3, 5, 6), "b"), ((4, 6), "c")))
        joined = ms.concat(a, b, 3)
        self.down, self.norm_a = ms.nn.Conv2d(3, a, 3, padding=1), ms.nn.BatchNorm2d(a)
        self.deep = ms.nn.Conv2d(a, b, 3, stride=2, padding=1)
        self.norm = ms.nn.BatchNorm2d(joined)
        self.own = ms.nn.Conv2d(joined, joined, 3, padding=1, groups=joined, bias=False)
        self.mix = ms.nn.Conv2d((a, b, 3), c, 1)
        self.head = ms.nn.Linear(c, 5)
        self.joined, self.seen = joined, None

    def forward(self, x):
        skip = torch.relu(self.norm_a(self.down(x)))
        deep = F.interpolate(torch.relu(self.deep(skip)), scale_factor=2.0)
        joined = torch.cat([skip, deep, x], 1)
        assert joined.shape[1] == ms.value(self.joined)
        return self.head(torch.relu(self.mix(self.own(self.norm(joined)))).mean((2, 3)))

    def by_hand(self, x, p):
        a, b, c = prefix((2, 4), p["a"]), prefix((3, 5, 6), p["b"]), prefix((4, 6), p["c"])
        skip = F.conv2d(x, self.down.weight, self.down.bias, padding=1)
        skip = normal(skip, self.norm_a).relu()
        deep = F.conv2d(skip * along(a), self.deep.weight, self.deep.bias, stride=2, padding=1)
        deep = F.interpolate(deep.relu(), scale_factor=2.0)
        joined = normal(torch.cat([skip, deep, x], 1), self.norm)
        joined = F.conv2d(joined, self.own.weight, padding=1, groups=13)
        joined = joined * along(torch.cat([a, b, torch.ones(3)]))
        mixed = F.conv2d(joined, self.mix.weight, self.mix.bias).relu().mean((2, 3))
        return F.linear(mixed * c, self.head.weight, self.head.bias)


class DenseNet(nn.Module):
    """Layers that take all that came before, and a transition of half the width."""

    def __init__(self):
        super().__init__()
        growths = [ms.choose((2, 3), f"growth{i}") for i in range(3)]
        width = ms.choose((2, 4), "width")
        self.stem = ms.nn.Conv2d(3, width, 1)
        layers = []
        for growth in growths:
            layers.append(
                nn.Sequential(
                    ms.nn.BatchNorm2d(width), nn.ReLU(), ms.nn.Conv2d(width, growth, 3, padding=1)
                )
            )
            width = ms.concat(width, growth)
        self.layers = nn.ModuleList(layers)
        self.transition = ms.nn.Conv2d(width, ms.round_to(width * 0.5, 1), 1)
        self.flat = ms.nn.Linear(4 * ms.round_to(width * 0.5, 1), 5)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.flat(F.adaptive_avg_pool2d(self.transition(x), 2).flatten(1))

    def by_hand(self, x, p):
        masks = [prefix((2, 4), p["width"])]
        x = F.conv2d(x, self.stem.weight, self.stem.bias)
        for i, (norm, _, conv) in enumerate(self.layers):
            hidden = normal(x, norm).relu() * along(torch.cat(masks))
            x = torch.cat([x, F.conv2d(hidden, conv.weight, conv.bias, padding=1)], 1)
            masks.append(prefix((2, 3), p[f"growth{i}"]))
        x = F.conv2d(x * along(torch.cat(masks)), self.transition.weight, self.transition.bias)
        # The number of channels of the transition is rounded: for other sums of products of p.
        cells = list(itertools.product((0, 1), repeat=4))
        halves = [ms.round_to((2 + 2 * w + sum(2 + g for g in gs)) * 0.5, 1) for w, *gs in cells]
        shares = [
            p["width"][w] * torch.stack([p[f"growth{i}"][g] for i, g in enumerate(gs)]).prod()
            for w, *gs in cells
        ]
        x = F.adaptive_avg_pool2d(x, 2) * along(prefix(halves, shares))
        return F.linear(x.flatten(1), self.flat.weight, self.flat.bias)


NETWORKS = {"unet": UNet, "densenet": DenseNet}


def make(name, dtype=torch.float64, **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = ms.Supernet(NETWORKS[name](), input_shape=(3, 8, 8), **options).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.model.parameters():
        nn.init.normal_(parameter, 0.1, 0.3, generator=generator)
    return net


def images(n=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((n, 3, 8, 8), generator=generator, dtype=torch.float64).to(dtype)


def named(given_policies):
    return {decision.name: policy for decision, policy in given_policies.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_slice_is_the_largest_network_with_unused_channels_at_zero(name):
    net = make(name)
    for arch in net.space.enumerate():
        with torch.no_grad():
            expected = net.model.by_hand(images(), named(policies(net, arch)))
            torch.testing.assert_close(net(images(), arch), expected, **CLOSE)


@pytest.mark.parametrize("name", NETWORKS)
def test_masks_give_the_values_of_slices_and_the_gradients_by_hand(name):
    net = make(name)
    weights = torch.randn((5, 5), generator=torch.Generator().manual_seed(4)).double()
    for arch in net.space.enumerate():
        ours, theirs = policies(net, arch), policies(net, arch)
        (net(images(), arch, policy=ours) * weights).sum().backward()
        (net.model.by_hand(images(), named(theirs)) * weights).sum().backward()
        for decision, policy in ours.items():
            assert policy.grad.abs().min() > 0  # every option has one, the larger ones too
            torch.testing.assert_close(policy.grad, theirs[decision].grad, rtol=1e-8, atol=1e-8)
        with torch.no_grad():
            masked = net(images(), arch, policy=policies(net, arch))
            active = net(images(), arch, policy=policies(net, arch), masks="active")
            torch.testing.assert_close(masked, net(images(), arch), **CLOSE)
            torch.testing.assert_close(active, net(images(), arch), **CLOSE)


@pytest.mark.parametrize(
    ("name", "sharing"),
    [
        pytest.param(name, sharing, marks=() if i == j % 2 else pytest.mark.slow)
        for j, name in enumerate(NETWORKS)
        for i, sharing in enumerate((None, "k_shot"))
    ],
)
def test_extracted_subnets_are_bit_equal_and_cost_what_the_tables_say(name, sharing):
    scheme = None if sharing is None else ms.sharing.KShot(3, last_std=1.0)
    net = make(name, torch.float32, sharing=scheme).eval()
    x = images(dtype=torch.float32)
    archs = list(net.space.enumerate())
    macs, params = ms.cost.macs(net, archs, (3, 8, 8)), ms.cost.params(net, archs)
    for i, arch in enumerate(archs):
        stats = ms.evaluate.calibrate(net, arch, [x, x * 2])
        subnet = net.extract(arch, stats=stats).eval()
        assert torch.equal(subnet(x), net(x, arch, stats=stats))
        assert params[i] == sum(p.numel() for p in subnet.parameters())
        with torch.no_grad():
            masked = net(x, arch, stats=stats, policy=as_float(policies(net, arch)))
        # float32 sums in another order.
        torch.testing.assert_close(masked, subnet(x), rtol=1e-4, atol=1e-4)
        if name == "unet":
            a, b, c = (d.options[o] for d, o in zip(net.space.decisions, arch, strict=True))
            n = a + b + 3
            assert macs[i] == 27 * a * 64 + 9 * a * b * 16 + 9 * n * 64 + n * c * 64 + 5 * c
            assert params[i] == 28 * a + 2 * a + (9 * a + 1) * b + 11 * n + (n + 1) * c + 5 * c + 5


def as_float(given_policies):
    return {decision: policy.detach().float() for decision, policy in given_policies.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_k_shot_mixes_whole_tensors_and_then_cuts_them(name):
    net = make(name, sharing=ms.sharing.KShot(3, last_std=1.0))
    plain = make(name)
    for arch in [net.space.smallest, net.space.largest, (0, 1, 0, 1)[: len(net.space)]]:
        plain.load_state_dict(ms.sharing.bake(net, arch))
        with torch.no_grad():
            expected = plain.model.by_hand(images(), named(policies(plain, arch)))
            torch.testing.assert_close(net(images(), arch), expected, **CLOSE)


def test_parts_that_no_path_uses_get_no_gradient():
    net = make("unet")
    net(images(), (0, 0, 0)).square().sum().backward()
    used = [*range(2), *range(4, 7), *range(10, 13)]
    grad = net.model.mix.weight.grad
    unused = [i for i in range(13) if i not in used]
    assert grad[:4, used].abs().min() > 0
    assert not grad[:, unused].any() and not grad[4:].any()


# -- one layer at a time ---------------------------------------------------------------------


class Holder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def held(layer):
    net = ms.Supernet(Holder(layer)).double()
    for i, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, 0.2, 1.0, generator=torch.Generator().manual_seed(i))
    return net


def used(parts, values):
    """The entries of the largest tensor that are in use: of each part the first."""
    entries, start = [], 0
    for part in parts:
        numbers = list(part.over_options()) if isinstance(part, Size) else [part]
        number = part.evaluate(values) if isinstance(part, Size) else part
        entries += range(start, start + int(number))
        start += int(max(numbers))
    return entries


def linear(parts):
    layer = ms.nn.Linear(tuple(parts), ms.concat(*reversed(parts)))
    return layer, (6,), lambda x, i, o: F.linear(x, layer.weight[o][:, i], layer.bias[o])


def layer_norm(parts):
    layer = ms.nn.LayerNorm(tuple(parts))
    return layer, (6,), lambda x, i, o: F.layer_norm(x, x.shape[1:], layer.weight[i], layer.bias[i])


def batch_norm(parts):
    layer = ms.nn.BatchNorm1d(tuple(parts))
    return layer, (6,), lambda x, i, o: normal_1d(x, layer.weight[i], layer.bias[i], layer.eps)


def normal_1d(x, weight, bias, eps):
    return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def conv(parts):
    layer = ms.nn.Conv2d(tuple(parts), tuple(reversed(parts)), 1)
    return layer, (6, 2, 2), lambda x, i, o: F.conv2d(x, layer.weight[o][:, i], layer.bias[o])


def spatial(parts, kind, d, sides):
    layer = kind(tuple(parts), tuple(reversed(parts)), 2)
    function = getattr(F, f"conv{'_transpose' if kind.__name__.startswith('ConvT') else ''}{d}d")
    rows = (lambda i, o: (i, o)) if "transpose" in function.__name__ else (lambda i, o: (o, i))

    def by_hand(x, i, o):
        first, second = rows(i, o)
        return function(x, layer.weight[first][:, second], layer.bias[o])

    return layer, (6, *sides), by_hand


def conv_1d(parts):
    return spatial(parts, ms.nn.Conv1d, 1, (4,))


def conv_3d(parts):
    return spatial(parts, ms.nn.Conv3d, 3, (3, 2, 2))


def transposed(parts):
    return spatial(parts, ms.nn.ConvTranspose2d, 2, (3, 2))


def transposed_depthwise(parts):
    channels = ms.concat(*parts)
    layer = ms.nn.ConvTranspose1d(channels, channels, 2, groups=channels)

    def by_hand(x, i, o):
        return F.conv_transpose1d(x, layer.weight[i], layer.bias[i], groups=len(i))

    return layer, (6, 3), by_hand


def group_norm(parts):
    channels = ms.concat(*parts)
    layer = ms.nn.GroupNorm(channels, channels)

    def by_hand(x, i, o):
        return F.group_norm(x, len(i), layer.weight[i], layer.bias[i], layer.eps)

    return layer, (6, 3, 2), by_hand


def instance_norm(parts):
    layer = ms.nn.InstanceNorm1d(tuple(parts), affine=True)

    def by_hand(x, i, o):
        return F.instance_norm(x, None, None, layer.weight[i], layer.bias[i], eps=layer.eps)

    return layer, (6, 5), by_hand


def rms_norm(parts):
    layer = ms.nn.RMSNorm(tuple(parts), eps=1e-3)
    return layer, (6,), lambda x, i, o: F.rms_norm(x, x.shape[1:], layer.weight[i], 1e-3)


def prelu(parts):
    layer = ms.nn.PReLU(tuple(parts))
    return layer, (6,), lambda x, i, o: torch.where(x > 0, x, x * layer.weight[i])


def depthwise(parts):
    channels = ms.concat(*parts)
    layer = ms.nn.Conv2d(channels, channels, 1, groups=channels)
    return (
        layer,
        (6, 2, 2),
        lambda x, i, o: F.conv2d(x, layer.weight[i], layer.bias[i], groups=len(i)),
    )


def multiplied(parts):
    channels = ms.concat(*parts)
    layer = ms.nn.Conv2d(channels, channels * 2, 1, groups=channels)

    def by_hand(x, i, o):
        rows = [2 * entry + j for entry in i for j in (0, 1)]
        return F.conv2d(x, layer.weight[rows], layer.bias[rows], groups=len(i))

    return layer, (6, 2, 2), by_hand


def attention(parts):
    layer = ms.nn.SelfAttention(ms.concat(*parts), 2, 2)

    def by_hand(x, i, o):
        weight, bias = layer.qkv.weight[:, :, i], layer.qkv.bias
        parts = [F.linear(x, w, b).unflatten(-1, (2, 2)) for w, b in zip(weight, bias, strict=True)]
        q, k, v = (part.transpose(1, 2) for part in parts)
        out = (q @ k.transpose(-1, -2) / 2**0.5).softmax(-1) @ v
        project = layer.project
        return F.linear(out.transpose(1, 2).flatten(2), project.weight[i], project.bias[i])

    return layer, (6, 3, None), by_hand


class Scaled(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.scale = ms.nn.Parameter((1, tuple(parts)))

    def forward(self, x):
        return x * self.scale()


def parameter(parts):
    layer = Scaled(parts)
    return layer, (6,), lambda x, i, o: x * layer.scale.weight[:, i]


LAYERS = [
    *(linear, layer_norm, batch_norm, conv, depthwise, multiplied, attention, parameter),
    *(conv_1d, conv_3d, transposed, transposed_depthwise, group_norm, instance_norm, rms_norm),
    prelu,
]
MIXING = (linear, conv, conv_1d, conv_3d, transposed)


@st.composite
def parts_of(draw):
    """Numbers, decisions and expressions; some share a decision."""
    widths = [
        ms.choose(tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=3, unique=True))), n)
        for n in "vw"
    ]
    kinds = st.sampled_from(["number", "v", "w", "twice", "rounded", "reversed"])
    sizes = {
        "number": 2,
        "v": widths[0],
        "w": widths[1],
        "twice": widths[0] * 2,
        "rounded": ms.round_to(widths[1] * 1.5, 2),
        "reversed": 5 - widths[0],
    }
    return [widths[0], *(sizes[kind] for kind in draw(st.lists(kinds, min_size=1, max_size=3)))]


@settings(max_examples=8, deadline=None, derandomize=True)
@given(parts_of(), st.data())
@pytest.mark.parametrize("make_layer", LAYERS)
def test_every_layer_uses_the_first_entries_of_every_part(make_layer, parts, data):
    layer, shape, by_hand = make_layer(parts)
    net = held(layer)
    arch = tuple(data.draw(st.integers(0, len(d.options) - 1)) for d in net.space.decisions)
    values = {d: d.values[o] for d, o in zip(net.space.decisions, arch, strict=True)}
    rows, columns = used(reversed(parts), values), used(parts, values)
    batch, *rest = shape
    generator = torch.Generator().manual_seed(2)
    sides = (len(columns), *rest) if None not in rest else (*rest[:-1], len(columns))
    x = torch.randn((batch, *sides), generator=generator, dtype=torch.float64)
    with torch.no_grad():
        expected = by_hand(x, columns, rows)
        outputs = rows_of(make_layer, columns, rows)
        torch.testing.assert_close(net(x, arch), expected, **CLOSE)
        torch.testing.assert_close(net.extract(arch)(x), expected, **CLOSE)
        check_masks(net, arch, parts, x, expected, columns, outputs)


def rows_of(make_layer, columns, rows):
    """Where a layer's active outputs are among the largest."""
    if make_layer is multiplied:
        return [2 * entry + j for entry in columns for j in (0, 1)]
    return rows if make_layer in MIXING else columns


def check_masks(net, arch, parts, x, expected, columns, rows):
    """With masks, whatever is where the unused channels are; their numbers are large."""
    dim = 2 if isinstance(net.model.layer, ms.nn.SelfAttention) else 1
    full = list(x.shape)
    full[dim] = sum(max(p.over_options()) if isinstance(p, Size) else p for p in parts)
    wide = 30 * torch.randn(full, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    wide.index_copy_(dim, torch.tensor(columns), x)
    with net.selecting(arch, policy=policies(net, arch)):
        out = net.model(wide)
    torch.testing.assert_close(out.index_select(dim, torch.tensor(rows)), expected, **CLOSE)
    with net.selecting(arch, policy=policies(net, arch), masks="active"):
        torch.testing.assert_close(net.model(x), expected, **CLOSE)


# -- sizes -----------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(parts_of(), st.data())
def test_a_concatenation_is_the_sum_of_its_parts(parts, data):
    size = ms.concat(*parts)
    values = {d: data.draw(st.sampled_from(d.values)) for d in size.decisions()}
    numbers = [p.evaluate(values) if isinstance(p, Size) else p for p in parts]
    assert size.evaluate(values) == sum(numbers)
    assert (size * 3).evaluate(values) == (3 * size).evaluate(values) == 3 * sum(numbers)
    assert (size // 2).evaluate(values) == sum(numbers) // 2
    assert (20 - size).evaluate(values) == 20 - sum(numbers)
    assert ms.concat(1, size).evaluate(values) == 1 + sum(numbers)
    every = itertools.product(*(d.values for d in size.decisions()))
    sums = {size.evaluate(dict(zip(size.decisions(), v, strict=True))) for v in every}
    assert set(size.over_options()) == sums


def test_many_parts_are_not_combined_one_by_one():
    parts = [ms.choose((2, 3, 5), f"part{i}") for i in range(30)]  # 2e14 combinations
    size = ms.concat(*parts)
    assert set(size.over_options()) == {*range(60, 151)} - {149}
    layer = ms.nn.Conv2d(size, ms.round_to(size * 0.5, 8), 1)
    assert layer.weight.shape == (72, 150, 1, 1)  # 75 rounded


def test_embeddings_of_concatenated_entries():
    a, b = ms.choose((1, 2), "a"), ms.choose((1, 3), "b")
    net = held(ms.nn.Embedding(4, (a, b)))
    indices, table = torch.tensor([[0, 3], [2, 2]]), net.model.layer.weight
    for arch, entries in {(0, 0): [0, 2], (1, 0): [0, 1, 2], (0, 1): [0, 2, 3, 4]}.items():
        assert torch.equal(net(indices, arch), table[:, entries][indices])
        assert torch.equal(net.extract(arch)(indices), table[:, entries][indices])


def test_flattened_channels_are_multiples_of_every_part():
    a, b = ms.choose((1, 2), "a"), ms.choose((1, 3), "b")
    net = held(ms.nn.Linear(ms.concat(a, b) * 4, 2))
    x = torch.randn((3, 2, 2, 2), dtype=torch.float64)
    columns = [0, 1, 2, 3, 8, 9, 10, 11]
    layer = net.model.layer
    expected = F.linear(x.flatten(1), layer.weight[:, columns], layer.bias)
    torch.testing.assert_close(net(x.flatten(1), (0, 0)), expected, **CLOSE)


def test_concatenations_of_numbers_are_numbers():
    assert ms.concat(3, 5) == 8 and ms.nn.Linear((3, 5), 2).weight.shape == (2, 8)


A, B = ms.choose((4, 8), "a"), ms.choose((4, 8), "b")


@pytest.mark.parametrize(
    "size", [A + B, A + 3, 3 + A, A + B + 1, (A + B) * 2, ms.concat(A + B, 2), ms.concat(A, B) + A]
)
@pytest.mark.parametrize(
    "make_layer",
    [
        lambda n: ms.nn.Conv2d(n, 2, 1),
        lambda n: ms.nn.Conv2d(2, n, 1),
        lambda n: ms.nn.Linear(n, 2),
        lambda n: ms.nn.Linear(2, n),
        lambda n: ms.nn.BatchNorm2d(n),
        lambda n: ms.nn.LayerNorm(n),
        lambda n: ms.nn.RMSNorm(n),
        lambda n: ms.nn.GroupNorm(1, n),
        lambda n: ms.nn.InstanceNorm2d(n),
        lambda n: ms.nn.ConvTranspose3d(2, n, 1),
        lambda n: ms.nn.PReLU(n),
        lambda n: ms.nn.Embedding(2, n),
        lambda n: ms.nn.SelfAttention(n, 2, 2),
        lambda n: ms.nn.Parameter((1, n)),
    ],
)
def test_a_sum_of_sizes_is_refused_and_the_way_out_is_named(make_layer, size):
    with pytest.raises(ValueError, match=r"is a sum of sizes.*by ms\.concat\(a, b\) in place of a"):
        make_layer(size)


@pytest.mark.parametrize("size", [A * 3, ms.round_to(A + B, 8), (A + B) // 2, 16 - A, A * B])
def test_other_arithmetic_is_one_run_of_channels(size):
    assert ms.nn.Linear(size, 2).weight.shape == (2, max(size.over_options()))


AB = ms.concat(A, B)


@pytest.mark.parametrize(
    ("into", "out", "groups"),
    [
        (AB, ms.concat(B, A), AB),  # the same sum in another order
        (AB, AB, 2),
        (AB, AB, A),
        (A, AB, A),
        (AB, ms.concat(A, B * 2), AB),
        (AB, AB, ms.concat(A // 2, B)),
        (AB, ms.concat(8, 8), AB),
    ],
)
def test_groups_do_not_reach_across_parts(into, out, groups):
    with pytest.raises(ValueError, match=r"reach across concatenated channels.*groups=ms\.concat"):
        ms.nn.Conv2d(into, out, 1, groups=groups)


def test_groups_of_every_part():
    parts = ms.concat(A // 4, B // 4)
    net = held(ms.nn.Conv2d(AB, AB, 1, groups=parts))
    for arch, (a, b) in {(0, 0): (4, 4), (0, 1): (4, 8), (1, 0): (8, 4)}.items():
        x = torch.randn((2, a + b, 3, 3), dtype=torch.float64)
        rows, layer = [*range(a), *range(8, 8 + b)], net.model.layer
        expected = F.conv2d(x, layer.weight[rows], layer.bias[rows], groups=(a + b) // 4)
        torch.testing.assert_close(net(x, arch), expected, **CLOSE)


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ((), ValueError, "concat has no parts"),
        ((A, -1), ValueError, "at least 0 and sizes, got -1"),
        ((A, 2.5), ValueError, "at least 0 and sizes, got 2.5"),
        ((A, True), TypeError, "whole numbers and sizes, got True"),
        ((A, "b"), TypeError, "whole numbers and sizes, got 'b'"),
        ((ms.choose(("x", "y"), "op"), A), TypeError, "chooses between names"),
    ],
)
def test_what_is_no_part_is_named(parts, error, message):
    with pytest.raises(error, match=message):
        ms.concat(*parts)


# -- what else reads widths --------------------------------------------------------------------


class Ordered(nn.Module):
    """The parts in the order that the layer was told, or not; then a module that may mix."""

    def __init__(self, swap=False, tail=None):
        super().__init__()
        a, b = ms.choose((2, 4), "a"), ms.choose((3, 4), "b")
        self.a, self.b = ms.nn.Linear(4, a), ms.nn.Linear(4, b)
        self.norm = ms.nn.LayerNorm(ms.concat(a, b))
        self.tail = nn.Identity() if tail is None else tail
        self.head = ms.nn.Linear(ms.concat(a, b), 3)
        self.swap = swap

    def forward(self, x):
        parts = [self.a(x), self.b(x)]
        joined = torch.cat(parts[::-1] if self.swap else parts, -1)
        return self.head(self.tail(self.norm(joined)))


@pytest.mark.parametrize(
    ("model", "named_module"),
    [(Ordered(swap=True), "norm"), (Ordered(tail=nn.Softmax(-1)), "tail")],
)
def test_masks_name_the_module_that_mixes_concatenated_channels(model, named_module):
    net, x = ms.Supernet(model).double(), torch.randn((6, 4), dtype=torch.float64)
    with pytest.raises(MasksDisagree, match=rf"module '{named_module}' gives other.*ms\.concat"):
        net(x, (0, 0), policy=policies(net, (0, 0)))


def test_running_statistics_are_those_of_each_part():
    a, b = ms.choose((1, 2), "a"), ms.choose((1, 2), "b")
    net = held(ms.nn.BatchNorm1d(ms.concat(a, b))).train()
    averages = RunningStatistics(net, momentum=0.5)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((8, 4), generator=generator, dtype=torch.float64) + torch.arange(4) * 10
    with averages.watching():
        net(x[:, [0, 1, 2]], (1, 0))
        net(3 * x[:, [0, 2, 3]], (0, 1))
    mean, _ = averages.tensors["layer"]
    m = x.mean(0)
    expected = torch.stack([2 * m[0], m[1], 2 * m[2], 3 * m[3]])
    torch.testing.assert_close(mean, expected, **CLOSE)
    torch.testing.assert_close(averages.of((0, 1)).of("layer")[0], expected[[0, 2, 3]], **CLOSE)


def test_no_warning_comes_of_it():
    net = make("unet")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(images(), policy=policies(net, net.space.largest))
