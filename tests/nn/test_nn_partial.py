"""Options mixed on a part of the channels, against networks of that many channels."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.cost.masked import MaskedMacs
from manyshot.zoo import cell, darts


def relu_conv_bn(width: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(width, width, kernel, stride, kernel // 2)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(width))


def separable(width: int, stride: int = 1) -> nn.Sequential:
    depthwise = nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False)
    grouped = nn.Conv2d(width, width, 1, groups=width // 2, bias=False)
    return nn.Sequential(nn.ReLU(), depthwise, grouped, nn.BatchNorm2d(width))


def cut(module: nn.Module, wide: nn.Module) -> nn.Module:
    """`module` with the first slices of the weights of a wider one."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = wide.get_parameter(name)
            parameter.copy_(values[tuple(map(slice, parameter.shape))])
    return module.double()


def weights_of(space: ms.SearchSpace, seed: int) -> dict:
    rng = torch.Generator().manual_seed(seed)
    return {
        d: torch.randn(len(d.options), generator=rng, dtype=torch.float64).softmax(0)
        for d in space.decisions
    }


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("parts", [2, 4])
def test_options_are_those_of_fewer_channels_with_slices_of_the_weights(stride, parts):
    """The mixed operation of the authors' code: options of C / K channels, a pool, a shuffle."""
    torch.manual_seed(0)
    pool = nn.MaxPool2d(3, stride, 1)
    wide = [relu_conv_bn(8, 3, stride), separable(8, stride), pool]
    narrow = [relu_conv_bn(8 // parts, 3, stride), separable(8 // parts, stride), pool]
    for module in wide:
        for parameter in module.parameters():
            nn.init.normal_(parameter)
    narrow = [cut(n, w) for n, w in zip(narrow, wide, strict=True)]
    net = ms.Supernet(ms.nn.Choice(copy.deepcopy(wide), "edge")).double()
    [edge] = net.space.decisions
    x = torch.randn(3, 8, 6, 6, dtype=torch.float64)
    w = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64, requires_grad=True)
    got = net(x, policy={edge: w}, masks="mixed", partial={edge: parts})
    v = w.detach().clone().requires_grad_()
    inside, outside = x[:, : 8 // parts], x[:, 8 // parts :]
    mixed = sum(weight * option(inside) for weight, option in zip(v, narrow, strict=True))
    rest = v.sum() * (F.max_pool2d(outside, 2, 2) if stride == 2 else outside)
    joined = torch.cat([mixed, rest], 1)
    side = 6 // stride
    shuffled = joined.view(3, parts, 8 // parts, side, side).transpose(1, 2)
    expected = shuffled.reshape(3, 8, side, side)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    (got * direction).sum().backward()
    (expected * direction).sum().backward()
    torch.testing.assert_close(w.grad, v.grad, rtol=1e-11, atol=1e-11)
    for index, small in enumerate(narrow):
        for name, parameter in small.named_parameters():
            gradient = net.model.option(index).get_parameter(name).grad
            inner = gradient[tuple(map(slice, parameter.shape))]
            torch.testing.assert_close(inner, parameter.grad, rtol=1e-10, atol=1e-10)
            assert gradient.count_nonzero() == inner.count_nonzero()


@pytest.mark.parametrize("training", [True, False])
def test_one_part_is_as_without_bit_for_bit(training):
    """PC-DARTS with K = 1 and equal edges is DARTS."""
    torch.manual_seed(1)
    net = ms.Supernet(cell(width=4, cells=1, classes=3)).double().train(training)
    policy, stats = weights_of(net.space, 0), None if training else "batch"
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    plain = net(x, policy=policy, masks="mixed", stats=stats)
    one = net(x, policy=policy, masks="mixed", stats=stats, partial=dict.fromkeys(policy, 1))
    assert torch.equal(plain, one)
    four = net(x, policy=policy, masks="mixed", stats=stats, partial=dict.fromkeys(policy, 4))
    assert not torch.allclose(plain, four)


def test_the_cells_of_darts_run_partly_and_leave_no_state():
    torch.manual_seed(2)
    net = ms.Supernet(darts(width=8, cells=3, none=True, affine=False)).double()
    policy = weights_of(net.space, 1)
    edges = {d: 4 for d in policy if "edge" in str(d.name)}
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    before = net(x, policy=policy, masks="mixed")
    net(x, policy=policy, masks="mixed", partial=edges).sum().backward()
    assert torch.equal(before, net(x, policy=policy, masks="mixed"))


def test_multiply_adds_are_those_of_the_slices():
    options = [relu_conv_bn(8, 3), separable(8), nn.Identity()]
    net = ms.Supernet(ms.nn.Choice(options, "edge"), example_inputs=torch.empty(1, 8, 6, 6))
    masked = MaskedMacs(net, torch.empty(1, 8, 6, 6))
    [edge] = net.space.decisions
    policy = {edge: torch.tensor([0.2, 0.3, 0.5])}
    for parts, width in ((1, 8), (2, 4), (4, 2)):
        per_pixel = 9 * width * width + 9 * width + 2 * width
        counted = masked.mixed(net.space.smallest, policy, {edge: parts})
        assert counted == 36 * per_pixel


def test_checkpointed_options_are_run_again_on_the_same_part():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = relu_conv_bn(4, 3)

        def forward(self, x):
            return ms.nn.checkpoint(self.body, x)

    torch.manual_seed(3)
    body = Again()
    twin = copy.deepcopy(body.body)
    grads = []
    for option in (body, twin):
        net = ms.Supernet(ms.nn.Choice([option, nn.Identity()], "edge")).double()
        [edge] = net.space.decisions
        x = torch.linspace(-1, 1, 2 * 4 * 16, dtype=torch.float64).view(2, 4, 4, 4)
        w = torch.tensor([0.4, 0.6], dtype=torch.float64)
        out = net(x, policy={edge: w}, masks="mixed", partial={edge: 2})
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        grads.append(option.parameters())
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


class Wider(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 1)

    def forward(self, x):
        return self.conv(x)


@pytest.mark.parametrize(
    ("options", "shape", "parts", "message"),
    [
        ([nn.Identity(), nn.ReLU()], (2, 4, 4, 4), 3, "4 channels are not 3 equal parts"),
        ([nn.Identity(), nn.ReLU()], (2, 4), 2, "something else than one tensor"),
        ([Wider(), Wider()], (2, 4, 4, 4), 2, "of 2 of 4 channels options make .2, 4,"),
        (
            [nn.Flatten(2), nn.Sequential(nn.ReLU(), nn.Flatten(2))],
            (2, 4, 4, 4),
            2,
            "options make .2, 2, 16., which those that pass by do not fit",
        ),
        (
            [nn.Conv2d(4, 4, 1, groups=2), nn.Identity()],
            (2, 4, 4, 4),
            4,
            "2 groups of a convolution are not 4 equal parts",
        ),
        (
            [nn.AvgPool2d(2, 3), nn.MaxPool2d(2, 3)],
            (2, 4, 8, 8),
            2,
            "no max pool of a whole factor",
        ),
        ([nn.GroupNorm(1, 4), nn.Identity()], (2, 4, 4, 4), 2, "cannot run on 2 of 4 channels"),
    ],
)
def test_what_has_no_part_is_refused(options, shape, parts, message):
    net = ms.Supernet(ms.nn.Choice(options, "edge"))
    [edge] = net.space.decisions
    w = torch.tensor([0.5, 0.5])
    with pytest.raises(ValueError, match=message):
        net(torch.randn(shape), policy={edge: w}, masks="mixed", partial={edge: parts})


def test_partial_of_what_is_not_mixed_is_refused():
    width = ms.choose([2, 4], "width")
    elastic = nn.Sequential(ms.nn.Conv2d(4, width, 1), ms.nn.Conv2d(width, 4, 1))
    inner = ms.nn.Choice([nn.ReLU(), nn.Tanh()], "inner")
    outer = ms.nn.Choice([nn.Sequential(inner), elastic], "outer")
    net = ms.Supernet(outer)
    by_name = {str(d.name): d for d in net.space.decisions}
    policy = {d: torch.tensor([0.5, 0.5]) for d in net.space.decisions}
    x = torch.randn(2, 4, 4, 4)
    for partial, masks, message in (
        ({by_name["inner"]: 2}, "full", "whose options are not mixed"),
        ({by_name["width"]: 2}, "mixed", "needs a decision between names"),
        ({by_name["inner"]: 0}, "mixed", "a number of parts of at least 1"),
        ({by_name["outer"]: 2}, "mixed", "has elastic sizes"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x, (0, 0, 0), policy=policy, masks=masks, partial=partial)
    nested = ms.Supernet(ms.nn.Choice([ms.nn.Choice([nn.ReLU(), nn.Tanh()], "a"), nn.ReLU()], "b"))
    policy = {d: torch.tensor([0.5, 0.5]) for d in nested.space.decisions}
    with pytest.raises(ValueError, match="leave one of the two out of partial"):
        nested(x, policy=policy, masks="mixed", partial=dict.fromkeys(policy, 2))
