"""Which channels a width uses: parts, concatenations, gradients, extraction, refusals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nn_nets import archs, calibrated, images, make, same_snapshot, snapshot
from torch import nn

import manyshot as ms
from manyshot.nn.layer import joined, take
from manyshot.nn.policy import Policies
from manyshot.nn.selection import Selection

LEFT, RIGHT = ms.nn.LEFT, ms.nn.RIGHT


class Odd:
    """The first channels but some, and as many at the end, in steps that all widths have."""

    def part(self, size, count, room):
        unit = math.gcd(*size.over_options())
        rooms = [count - unit, room - count, unit]
        return joined(rooms, [slice(None), slice(0), slice(None)])


ODD = Odd()


@given(
    st.lists(
        st.lists(st.booleans(), min_size=0, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_segments_are_joined_as_their_entries_are_concatenated(marks):
    """The oracle marks entries one by one."""
    rooms = [len(segment) for segment in marks]
    parts = [joined([1] * len(s), [slice(int(m)) for m in s]) for s in marks]
    part = joined(rooms, parts)
    [kept] = [take(torch.arange(sum(rooms)), (part,))]
    assert kept.tolist() == np.flatnonzero([m for s in marks for m in s]).tolist()
    runs = part if isinstance(part, tuple) else (part,)
    assert all(a.stop < b.start for a, b in zip(runs, runs[1:], strict=False))


class Joining(nn.Module):
    """Two widths that are concatenated, flattened, and summed over; one has a residual."""

    def __init__(self):
        super().__init__()
        self.a, self.b = ms.choose((2, 4, 6), "a"), ms.choose((3, 5), "b")
        both = ms.concat(self.a, self.b)
        self.one = ms.nn.Conv2d(3, self.a, 3, padding=1)
        self.two = ms.nn.Conv2d(3, self.b, 1)
        self.norm = ms.nn.BatchNorm2d(both)
        self.depthwise = ms.nn.Conv2d(both, both, 3, padding=1, groups=both)
        self.mix = ms.nn.Conv2d(both, self.a, 1, bias=False)
        self.scale = ms.nn.Parameter((1, self.a, 1, 1), nn.init.normal_)
        self.head = ms.nn.Linear(self.a * 4, 5)

    def forward(self, x):
        x = nn.functional.adaptive_avg_pool2d(x, 2)
        first = self.one(x)
        joined_ = self.norm(torch.cat([first, self.two(x)], 1))
        y = first + self.scale() * self.mix(torch.relu(self.depthwise(joined_)))
        return self.head(y.flatten(1))


def channels_of(placement, room, count):
    if placement is LEFT:
        return list(range(count))
    if placement is RIGHT:
        return list(range(room - count, room))
    unit = {6: 2, 5: 1}[room]
    return [*range(count - unit), *range(room - unit, room)]


@pytest.mark.parametrize("placement", [LEFT, RIGHT, ODD], ids=["left", "right", "odd"])
def test_a_network_is_that_of_its_channels_chosen_by_hand(placement):
    """Concatenated channels part by part, flattened ones with the places of each."""
    net = ms.Supernet(Joining()).eval()
    model, x = net.model, torch.randn(4, 3, 4, 4)
    for arch in net.space.enumerate():
        values = dict(
            zip(
                "ab",
                (d.values[i] for d, i in zip(net.space.decisions, arch, strict=True)),
                strict=True,
            )
        )
        a = channels_of(placement, 6, values["a"])
        b = channels_of(placement, 5, values["b"])
        both = [*a, *(6 + i for i in b)]
        flat = [4 * i + j for i in a for j in range(4)]
        expected = {
            "one.weight": model.one.weight[a],
            "one.bias": model.one.bias[a],
            "two.weight": model.two.weight[b],
            "two.bias": model.two.bias[b],
            "norm.weight": model.norm.weight[both],
            "norm.bias": model.norm.bias[both],
            "depthwise.weight": model.depthwise.weight[both],
            "depthwise.bias": model.depthwise.bias[both],
            "mix.weight": model.mix.weight[a][:, both],
            "scale.weight": model.scale.weight[:, a],
            "head.weight": model.head.weight[:, flat],
            "head.bias": model.head.bias,
        }
        stats = ms.evaluate.calibrate(net, arch, [x], placement=placement)
        plain = net.extract(arch, stats=stats, placement=placement)
        assert {name: p.shape for name, p in plain.named_parameters()} == {
            name: p.shape for name, p in expected.items()
        }
        for name, parameter in plain.named_parameters():
            assert torch.equal(parameter, expected[name]), name
        assert torch.equal(plain(x), net(x, arch, stats=stats, placement=placement))


@pytest.mark.parametrize("name", ["nasty", "macro"])
@pytest.mark.parametrize("placement", [RIGHT, ODD], ids=["right", "odd"])
def test_extracted_networks_are_the_path_bit_for_bit(name, placement):
    """Tied weights, groups, choices, depths, free tensors, and a network without any width."""
    net, x = make(name).eval(), images(4)
    before = snapshot(net)
    for arch in archs(net, 4):
        stats = ms.evaluate.calibrate(net, arch, [x], placement=placement)
        with torch.no_grad():
            logits = net(x, arch, stats=stats, placement=placement)
            assert torch.equal(net.extract(arch, stats=stats, placement=placement)(x), logits)
            assert torch.equal(
                net(x, net.space.largest, stats="batch"),
                net(x, net.space.largest, stats="batch", placement=placement),
            )
    assert same_snapshot(snapshot(net), before)


def test_gradients_reach_the_channels_that_are_used_alone():
    width = ms.choose((2, 4, 6), "width")
    net = ms.Supernet(nn.Sequential(ms.nn.Linear(3, width), ms.nn.Linear(width, 1)))
    for placement, used in ((LEFT, [0, 1]), (RIGHT, [4, 5]), (ODD, [4, 5])):
        net.zero_grad()
        net(torch.rand(5, 3) + 1, (0,), placement=placement).sum().backward()
        for grad in (net.model[0].weight.grad.abs().sum(1), net.model[1].weight.grad.abs()[0]):
            assert grad.nonzero().flatten().tolist() == used


def test_policies_are_of_the_first_channels_alone():
    width = ms.choose((2, 4), "width")
    net = ms.Supernet(nn.Sequential(ms.nn.Linear(3, width), ms.nn.Linear(width, 1)))
    policy = {width: torch.tensor([1.0, 0.0], requires_grad=True)}
    x = torch.randn(2, 3)
    for masks in ("full", "active"):
        net(x, policy=policy, masks=masks, placement=LEFT)
        with pytest.raises(ValueError, match=r"masks the first channels .* \(Side.RIGHT\)"):
            net(x, policy=policy, masks=masks, placement=RIGHT)
    selection = Selection(net.space.decisions, (0,), policies=Policies(policy, "full"))
    assert selection.placement is LEFT


def test_statistics_belong_to_the_channels_they_were_calibrated_for():
    net, x = make("nasty").eval(), images(4)
    arch = net.space.smallest
    right = ms.evaluate.calibrate(net, arch, [x], placement=RIGHT)
    assert right.placement is RIGHT and calibrated(net, arch, x).placement is LEFT
    assert right.to("cpu").placement is RIGHT
    with pytest.raises(ValueError, match=r"calibrated for other channels \(Side.RIGHT\) than"):
        net(x, arch, stats=right)
    with pytest.raises(ValueError, match="calibrated for other channels"):
        net.extract(arch, stats=right)


@pytest.mark.parametrize("placement", [RIGHT, ODD], ids=["right", "odd"])
def test_heads_are_placed_whole(placement):
    """Attention with elastic width and heads, ours and what a conversion made of torch's."""
    ours = ms.Supernet(ms.zoo.tiny_vit(channels=1)).eval()
    x = torch.randn(3, 1, 8, 8)
    layer = nn.TransformerEncoderLayer(12, 4, 16, 0.0, batch_first=True)
    tokens = torch.randn(2, 5, 12)
    theirs = ms.convert(layer, tokens, ratios=(0.5, 1.0)).eval()
    for net, inputs in ((ours, x), (theirs, tokens)):
        for arch in archs(net, 2):
            found = net(inputs, arch, placement=placement)  # with gradients: no path of torch's own
            assert torch.equal(net.extract(arch, placement=placement)(inputs), found)
    arch = theirs.space.smallest
    attention = theirs.extract(arch, placement=RIGHT).self_attn
    heads = attention.num_heads
    stored = theirs.model.self_attn._parameters["in_proj_weight"].view(3, 4, 3, 12)
    kept = attention.in_proj_weight.view(3, heads, 3, -1)
    assert torch.equal(kept, stored[:, 4 - heads :, :, 12 - kept.shape[-1] :])
