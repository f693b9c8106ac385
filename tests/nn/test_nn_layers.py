"""Every layer against a small `torch.nn` layer built by hand, with the slice copied by hand."""

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.nn.layer import crop


class Holder(nn.Module):
    def __init__(self, layer, *more):
        super().__init__()
        self.layer, self.more = layer, more

    def forward(self, x):
        return self.layer(x)


def hand(net, **values):
    """The architecture with these values."""
    return tuple(d.options.index(values[d.name]) for d in net.space.decisions)


def filled(layer):
    net = ms.Supernet(Holder(layer))
    for i, parameter in enumerate(net.parameters()):
        nn.init.normal_(parameter, 0.2, 1.0, generator=torch.Generator().manual_seed(i))
    return net


def copied(small, weight, bias=None):
    with torch.no_grad():
        small.weight.copy_(weight)
        if bias is not None:
            small.bias.copy_(bias)
    return small


@pytest.mark.parametrize("out", [4, 6, 8])
@pytest.mark.parametrize("into", [3, 5])
def test_linear_takes_the_first_rows_and_columns(into, out):
    a, b = ms.choose((3, 5), "in"), ms.choose((4, 6, 8), "out")
    net = filled(ms.nn.Linear(a, b))
    layer, x = net.model.layer, torch.randn(7, into)
    small = copied(nn.Linear(into, out), layer.weight[:out, :into], layer.bias[:out])
    assert torch.equal(net(x, hand(net, **{"in": into, "out": out})), small(x))


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("out", [4, 8])
def test_conv_takes_the_first_channels_and_the_centre_of_the_kernel(out, kernel):
    k, w = ms.choose((1, 3, 5), "kernel"), ms.choose((4, 8), "out")
    net = filled(ms.nn.Conv2d(3, w, k, stride=2, padding=k // 2, dilation=1))
    layer, x = net.model.layer, torch.randn(2, 3, 9, 9)
    lo, hi = {1: (2, 3), 3: (1, 4), 5: (0, 5)}[kernel]
    small = nn.Conv2d(3, out, kernel, stride=2, padding={1: 0, 3: 1, 5: 2}[kernel])
    small = copied(small, layer.weight[:out, :, lo:hi, lo:hi], layer.bias[:out])
    assert torch.equal(net(x, hand(net, kernel=kernel, out=out)), small(x))


def test_even_kernels_are_cropped_in_the_centre_too():
    k = ms.choose((2, 4), "kernel")
    net = filled(ms.nn.Conv2d(3, 4, k))
    layer, x = net.model.layer, torch.randn(2, 3, 9, 9)
    small = copied(nn.Conv2d(3, 4, 2), layer.weight[:, :, 1:3, 1:3], layer.bias)
    assert torch.equal(net(x, hand(net, kernel=2)), small(x))


@pytest.mark.parametrize("width", [8, 12, 16])
@pytest.mark.parametrize(
    ("groups", "per_group"),
    [
        (lambda w: 4, {8: 2, 12: 3, 16: 4}),  # a fixed number of groups: leading rows of each
        (lambda w: w, {8: 1, 12: 1, 16: 1}),  # depthwise
        (lambda w: w // 4, {8: 4, 12: 4, 16: 4}),  # groups of a fixed size
    ],
    ids=["fixed", "depthwise", "of_four"],
)
def test_groups(width, groups, per_group):
    w = ms.choose((8, 12, 16), "width")
    net = filled(ms.nn.Conv2d(w, w, 3, padding=1, groups=groups(w)))
    layer, x = net.model.layer, torch.randn(2, width, 6, 6)
    small = nn.Conv2d(width, width, 3, padding=1, groups=groups(width))
    rows = per_group[width]
    assert small.weight.shape == (width, rows, 3, 3)
    small = copied(small, layer.weight[:width, :rows], layer.bias[:width])
    assert torch.equal(net(x, hand(net, width=width)), small(x))


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_train_mode_takes_the_first_channels(affine):
    w = ms.choose((4, 8), "width")
    net = filled(ms.nn.BatchNorm2d(w, eps=1e-3, affine=affine))
    layer, x = net.model.layer, torch.randn(5, 4, 3, 3)
    small = nn.BatchNorm2d(4, eps=1e-3, affine=affine)
    if affine:
        small = copied(small, layer.weight[:4], layer.bias[:4])
    assert torch.equal(net(x, hand(net, width=4)), small(x))


@pytest.mark.parametrize(
    ("ours", "shape"),
    [(ms.nn.BatchNorm1d, (6, 4)), (ms.nn.BatchNorm3d, (3, 4, 2, 2, 2))],
    ids=["1d", "3d"],
)
def test_other_batch_norms(ours, shape):
    net = filled(ours(ms.choose((4, 8), "width")))
    layer, x = net.model.layer, torch.randn(shape)
    small = net.extract((0,))
    expected = {2: nn.BatchNorm1d, 5: nn.BatchNorm3d}[len(shape)]
    assert type(small.layer) is expected and small.layer.num_features == 4
    by_hand = copied(expected(4), layer.weight[:4], layer.bias[:4])
    assert torch.equal(net(x, (0,)), by_hand(x))
    assert torch.equal(net(x, (0,)), small(x))


def test_parameter_gives_the_leading_part_of_every_dimension():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            w = ms.choose((2, 3), "w")
            self.free = ms.nn.Parameter((1, w, 2 * w), nn.init.normal_)

        def forward(self, x):
            return x * self.free()

    net = ms.Supernet(Net())
    assert net.model.free.weight.shape == (1, 3, 6)
    x = torch.randn(1, 2, 4)
    assert torch.equal(net(x, (0,)), x * net.model.free.weight[:, :2, :4])
    assert list(net.extract((0,)).free.parameters())[0].shape == (1, 2, 4)


def test_depth_runs_the_first_blocks_and_none_at_depth_zero():
    blocks = [nn.Linear(3, 3) for _ in range(3)]
    net = ms.Supernet(Holder(ms.nn.Depth(blocks, (0, 2, 3), "depth")))
    x = torch.randn(2, 3)
    assert torch.equal(net(x, (0,)), x)
    assert torch.equal(net(x, (1,)), blocks[1](blocks[0](x)))
    assert torch.equal(net(x, (2,)), blocks[2](blocks[1](blocks[0](x))))


def test_choice_runs_one_option_with_all_arguments():
    class Scale(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, x, *, plus):
            return x * self.by + plus

    class Net(nn.Module):
        def __init__(self, options):
            super().__init__()
            self.op = ms.nn.Choice(options, "op")

        def forward(self, x):
            return self.op(x, plus=1)

    for options in (
        {"a": Scale(2), "b": Scale(3)},
        nn.ModuleDict({"a": Scale(2), "b": Scale(3)}),
        [Scale(2), Scale(3)],
        nn.ModuleList([Scale(2), Scale(3)]),
    ):
        net = ms.Supernet(Net(options))
        assert net(torch.ones(1), (0,)).item() == 3 and net(torch.ones(1), (1,)).item() == 4


def test_sizes_that_are_all_fixed_need_no_architecture():
    conv = ms.nn.Conv2d(4, 8, (3, 1), padding=(1, 0), groups=2)
    small = copied(
        nn.Conv2d(4, 8, (3, 1), padding=(1, 0), groups=2), conv.weight.detach(), conv.bias.detach()
    )
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(conv(x), small(x))


def test_initialisation_has_the_range_of_torch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain_conv, plain_linear = nn.Conv2d(6, 8, 3, groups=2), nn.Linear(5, 7)
        torch.manual_seed(0)
        conv, linear = ms.nn.Conv2d(6, 8, 3, groups=2), ms.nn.Linear(5, 7)
    for ours, theirs in ((conv, plain_conv), (linear, plain_linear)):
        assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ms.nn.Conv2d(3, 4, ms.choose((3, 4))), "mixes odd and even"),
        (lambda: ms.nn.Conv2d(ms.choose((6, 8)), 8, 3, groups=4), "in_channels .*6, 8.* groups 4"),
        (lambda: ms.nn.Conv2d(8, ms.choose((6, 8)), 3, groups=4), "out_channels .*6, 8"),
        (lambda: ms.nn.Conv2d(6, 8, 3, groups=4), "in_channels 6 are not divided by groups 4"),
        (lambda: ms.nn.Conv2d(4, 4, 3, groups=ms.choose((4, 8)) // 8), "at least 1"),
        (lambda: ms.nn.Linear(ms.choose((4, 8)) * 0.3, 4), r"takes the value .*ms\.round_to"),
        (lambda: ms.nn.Choice([]), "at least one option"),
        (lambda: ms.nn.Choice([nn.ReLU()], ms.choose("ab")), "2 options, this choice block 1"),
        (lambda: ms.nn.Depth([nn.ReLU()] * 2, (1, 3)), "do not fit 2 blocks"),
        (lambda: ms.nn.Depth([nn.ReLU()], (0.5, 1)), "do not fit 1 blocks"),
        (lambda: ms.nn.Depth([nn.ReLU()], ms.choose((0, 1), "d"), "e"), "leave out name='e'"),
    ],
)
def test_impossible_layers_are_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_size_is_no_number():
    with pytest.raises(TypeError, match=r"ms\.value\(size\) inside a forward"):
        range(ms.choose((1, 2), "w"))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_slices_are_dense_and_whole_tensors_are_not_copied(layout):
    # Products may take other kernels for strided weights, which would break bit equality.
    full = torch.randn(8, 6, 5, 5).contiguous(memory_format=layout)
    part = crop(full, (slice(4), slice(3), slice(1, 4), slice(1, 4)))
    assert torch.equal(part, full[:4, :3, 1:4, 1:4]) and part.is_contiguous(memory_format=layout)
    matrix = torch.randn(4, 4)
    assert crop(matrix, (slice(None), slice(3))).stride() == (3, 1)
    assert crop(full, (slice(None),) * 4) is full
