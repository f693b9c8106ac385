"""Attention against torch's own, relative positions against tensors (N, N, head_dim)."""

import itertools

import pytest
import torch
from nn_masked import policies
from torch import nn

import manyshot as ms
from manyshot.cost import macs
from manyshot.nn.attention import PlainQueryKeyValue

# float64: a few products of some dozen numbers.
CLOSE = {"rtol": 1e-11, "atol": 1e-11}
HEAD_DIM = 4
WIDTHS, HEADS = (8, 12), (2, 3)


class Attention(nn.Module):
    """Elastic attention between two fixed layers, on 3x2 patches and a token."""

    def __init__(self, relative=None, bias=True):
        super().__init__()
        width, heads = ms.choose(WIDTHS, "width"), ms.choose(HEADS, "heads")
        self.stem = ms.nn.Linear(5, width)
        self.attention = ms.nn.SelfAttention(width, heads, HEAD_DIM, bias=bias, relative=relative)
        self.head = ms.nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.attention(self.stem(x)))


def relative(**options):
    return ms.nn.RelativePosition((3, 2), HEAD_DIM, **{"max_distance": 1, **options})


def filled(*args, **options):
    net = ms.Supernet(Attention(*args, **options)).double()
    for i, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, 0.1, 0.5, generator=torch.Generator().manual_seed(i))
    return net


def tokens(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


def run(net, x, arch, form):
    """The attention layer alone, by slices or masks; what is active of its output."""
    options = {} if form == "sliced" else {"policy": policies(net, arch), "masks": form}
    width = WIDTHS[arch[0]]
    with torch.no_grad(), net.selecting(arch, **options) as selection:
        return net.model.attention(x[..., : selection.extent(net.space.decisions[0])])[..., :width]


@pytest.mark.parametrize("form", ["sliced", "full", "active"])
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_the_attention_of_torch(bias, form):
    net, x = filled(bias=bias), tokens(2, 7, 12)
    for option, width in enumerate(WIDTHS):  # torch's has heads * head_dim features: 2 * 4, 3 * 4
        attention = net.model.attention
        theirs = nn.MultiheadAttention(width, HEADS[option], bias=True, batch_first=True).double()
        with torch.no_grad():
            weight = attention.qkv.weight[:, :width, :width]
            theirs.in_proj_weight.copy_(weight.reshape(-1, width))
            theirs.in_proj_bias.zero_()
            if bias:
                theirs.in_proj_bias.copy_(attention.qkv.bias[:, :width].reshape(-1))
            theirs.out_proj.weight.copy_(attention.project.weight[:width, :width])
            theirs.out_proj.bias.copy_(attention.project.bias[:width])
            expected, _ = theirs(*[x[..., :width]] * 3, need_weights=False)
        found = run(net, x, (option, option), form)
        torch.testing.assert_close(found, expected, **CLOSE)


def by_hand(attention, x, width, heads, keys, values):
    """Softmax attention with a vector per pair of tokens for keys, and one for values."""
    features = heads * HEAD_DIM
    weight, bias = attention.qkv.weight[:, :features, :width], attention.qkv.bias[:, :features]
    q, k, v = (
        (x[..., :width] @ w.T + b).unflatten(-1, (heads, HEAD_DIM))
        for w, b in zip(weight, bias, strict=True)
    )
    scores = torch.einsum("bihd,bjhd->bhij", q, k) + torch.einsum("bihd,ijd->bhij", q, keys)
    weights = (scores / HEAD_DIM**0.5).softmax(-1)
    out = torch.einsum("bhij,bjhd->bihd", weights, v)
    out = (out + torch.einsum("bhij,ijd->bihd", weights, values)).flatten(2)
    project = attention.project
    return out @ project.weight[:width, :features].T + project.bias[:width]


@pytest.mark.parametrize("form", ["sliced", "full", "active"])
@pytest.mark.parametrize("extra", [0, 1, 2])
@pytest.mark.parametrize("far", [1, 2, 5])
def test_relative_positions_are_vectors_per_pair_of_tokens(far, extra, form):
    layer = relative(max_distance=far, extra_tokens=extra)
    net, x = filled(layer), tokens(2, 6 + extra, 12)
    pairs = torch.zeros(2, 6 + extra, 6 + extra, HEAD_DIM, dtype=torch.float64)
    assert layer.key_rows.shape == (2 * far + 2, HEAD_DIM)
    for i, j in itertools.product(range(6 + extra), repeat=2):
        row = column = 0
        if min(i, j) >= extra:  # both on the grid, of 3 rows of 2
            rows, columns = zip(divmod(i - extra, 2), divmod(j - extra, 2), strict=True)
            row = max(-far, min(far, rows[1] - rows[0])) + far + 1
            column = max(-far, min(far, columns[1] - columns[0])) + far + 1
        pairs[0, i, j] = layer.key_rows[row].detach() + layer.key_columns[column].detach()
        pairs[1, i, j] = layer.value_rows[row].detach() + layer.value_columns[column].detach()
    for arch in net.space.enumerate():
        width, heads = WIDTHS[arch[0]], HEADS[arch[1]]
        with torch.no_grad():
            expected = by_hand(net.model.attention, x, width, heads, *pairs)
        torch.testing.assert_close(run(net, x, arch, form), expected, **CLOSE)


def test_gradients_reach_every_table():
    net, x = filled(relative()), tokens(2, 7, 5)
    for arch in net.space.enumerate():
        net(x, arch).square().sum().backward()
        expected = [table.grad for table in net.model.attention.relative.parameters()]
        net.zero_grad()
        net(x, arch, policy=policies(net, arch)).square().sum().backward()
        for table, gradient in zip(
            net.model.attention.relative.parameters(), expected, strict=True
        ):
            assert table.grad.shape == (4, HEAD_DIM) and (gradient != 0).all()
            torch.testing.assert_close(table.grad, gradient, rtol=1e-9, atol=1e-9)
        net.zero_grad()


@pytest.mark.parametrize("of", [None, relative])
@pytest.mark.parametrize("bias", [True, False])
def test_extracted_attention_is_equal_bit_for_bit(of, bias):
    net = filled(of and of(), bias=bias).float()
    x = tokens(2, 7, 5).float()
    for arch in net.space.enumerate():
        plain = net.extract(arch)
        assert torch.equal(plain(x), net(x, arch))
        width, features = WIDTHS[arch[0]], HEADS[arch[1]] * HEAD_DIM
        assert type(plain.attention.qkv) is PlainQueryKeyValue
        assert plain.attention.qkv.weight.shape == (3, features, width)
        assert type(plain.attention.project) is nn.Linear
        assert plain.attention.project.weight.shape == (width, features)
        shapes = [tuple(p.shape) for p in plain.parameters()]
        shared = [tuple(p.shape) for p in net.model.attention.relative.parameters()] if of else []
        assert shapes.count((4, HEAD_DIM)) == len(shared)


def test_relative_positions_may_be_shared_by_blocks():
    positions, width = relative(), ms.choose(WIDTHS, "width")
    blocks = [ms.nn.SelfAttention(width, 2, HEAD_DIM, relative=positions) for _ in range(2)]
    net = ms.Supernet(nn.Sequential(ms.nn.Linear(5, width), *blocks, ms.nn.Linear(width, 3)))
    x = tokens(2, 7, 5).float()
    plain = net.extract((0,))
    assert plain[1].relative is plain[2].relative is not positions
    assert torch.equal(plain(x), net(x, (0,)))


def test_state_dicts_have_no_tables_of_distances():
    keys = filled(relative()).state_dict().keys()
    names = {key.rpartition(".")[2] for key in keys if ".relative." in key}
    assert names == {"key_rows", "key_columns", "value_rows", "value_columns"}


class Patches(nn.Module):
    """Tokens of 2x2 patches; `layer` on them."""

    def __init__(self, layer, width):
        super().__init__()
        self.embed, self.layer = ms.nn.Conv2d(3, width, 2, stride=2), layer

    def forward(self, x):
        return self.layer(self.embed(x).flatten(2).transpose(1, 2)).mean(1)


def test_multiply_adds_are_those_of_the_formula():
    width, heads = ms.choose(WIDTHS, "width"), ms.choose(HEADS, "heads")
    layer = ms.nn.SelfAttention(width, heads, HEAD_DIM)
    net, n = ms.Supernet(Patches(layer, width)), 12  # 8x6 images
    archs = list(net.space.enumerate())
    for arch, found in zip(archs, macs(net, archs, (3, 8, 6)), strict=True):
        e, q = WIDTHS[arch[0]], HEADS[arch[1]] * HEAD_DIM
        assert found == n * 12 * e + 4 * n * e * q + 2 * n**2 * q


def test_relative_positions_cost_products_with_their_tables():
    width, heads = ms.choose(WIDTHS, "width"), ms.choose(HEADS, "heads")
    position = ms.nn.RelativePosition((4, 3), HEAD_DIM, max_distance=2, extra_tokens=0)
    layer = ms.nn.SelfAttention(width, heads, HEAD_DIM, relative=position)
    net, n, entries = ms.Supernet(Patches(layer, width)), 12, 2 * 2 + 2
    archs = list(net.space.enumerate())
    for arch, found in zip(archs, macs(net, archs, (3, 8, 6)), strict=True):
        e, q = WIDTHS[arch[0]], HEADS[arch[1]] * HEAD_DIM
        tables = 4 * n * q * entries  # keys and values, rows and columns
        assert found == n * 12 * e + 4 * n * e * q + 2 * n**2 * q + tables


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.nn.SelfAttention(8, 2, 0), "head_dim must be at least 1, got 0"),
        (lambda: relative(max_distance=0), "max_distance 0 must be at least 1"),
        (lambda: relative(extra_tokens=-1), "extra_tokens -1 at least 0"),
        (lambda: ms.nn.RelativePosition((0, 2), 4), r"grid \(0, 2\)"),
    ],
)
def test_impossible_attention_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
