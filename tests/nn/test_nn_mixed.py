"""Options mixed by weights, against architectures, sums and formulas written out."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.cost.masked import MaskedMacs
from manyshot.space import SearchSpace
from manyshot.zoo import cell


def one_hots(space: SearchSpace, arch):
    return {
        d: F.one_hot(torch.tensor(o), len(d.options)).double()
        for d, o in zip(space.decisions, arch, strict=True)
    }


def weights(space: SearchSpace, seed: int):
    rng = torch.Generator().manual_seed(seed)
    return {
        d: torch.randn(len(d.options), generator=rng, dtype=torch.float64).softmax(0)
        for d in space.decisions
    }


@pytest.fixture(scope="module")
def cells():
    """Batch norms have shifts, so that what nothing reaches is told from what is zero."""
    torch.manual_seed(0)
    net = ms.Supernet(cell(width=2, cells=1, classes=3)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return net


@pytest.mark.parametrize("training", [True, False])
@settings(max_examples=20, deadline=None)
@given(st.data())
def test_one_hot_weights_give_their_architecture_bit_for_bit(cells, training, data):
    net = cells.train(training)
    arch = tuple(data.draw(st.integers(0, n - 1)) for n in net.space.counts.tolist())
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    stats = None if training else "batch"
    expected = net(x, arch, stats=stats)
    policy = one_hots(net.space, arch)
    for masks in ("mixed", "active", "full"):
        assert torch.equal(expected, net(x, policy=policy, masks=masks, stats=stats))


def test_a_choice_gives_the_sum_of_options_times_weights_and_its_gradient():
    torch.manual_seed(1)
    options = [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(4, 5)]
    net = ms.Supernet(ms.nn.Choice(copy.deepcopy(options), "layer")).double()
    [decision] = net.space.decisions
    x = torch.randn(3, 4, dtype=torch.float64)
    w = torch.tensor([0.2, -0.7, 1.4], dtype=torch.float64, requires_grad=True)
    outputs = [option.double()(x) for option in options]
    expected = sum(weight * out for weight, out in zip(w.tolist(), outputs, strict=True))
    mixed = net(x, policy={decision: w}, masks="mixed")
    torch.testing.assert_close(mixed, expected, rtol=1e-13, atol=1e-13)
    mixed.sum().backward()
    slopes = torch.stack([out.sum() for out in outputs])
    torch.testing.assert_close(w.grad, slopes, rtol=1e-12, atol=1e-12)


def test_an_option_without_weight_does_not_run():
    class Never(nn.Module):
        def forward(self, x):
            raise AssertionError("it ran")

    net = ms.Supernet(ms.nn.Choice([nn.Identity(), Never(), nn.Tanh()], "layer"))
    w = torch.tensor([0.5, 0.0, 0.5], requires_grad=True)
    x = torch.randn(2, 3)
    mixed = net(x, policy={net.space.decisions[0]: w}, masks="mixed")
    torch.testing.assert_close(mixed, 0.5 * x + 0.5 * x.tanh())
    mixed.sum().backward()
    assert w.grad[1] == 0


def test_options_that_are_one_module_run_once_with_their_weights_added():
    torch.manual_seed(5)
    calls = []

    class Counted(nn.Linear):
        def forward(self, x):
            calls.append(self)
            return super().forward(x)

    shared, other = Counted(3, 3), Counted(3, 3)
    net = ms.Supernet(ms.nn.Choice([shared, other, shared], "layer")).double()
    [decision] = net.space.decisions
    x = torch.randn(2, 3, dtype=torch.float64)
    w = torch.tensor([0.2, 0.5, 0.4], dtype=torch.float64, requires_grad=True)
    mixed = net(x, policy={decision: w}, masks="mixed")
    assert calls == [shared, other]
    torch.testing.assert_close(mixed, 0.6 * shared(x) + 0.5 * other(x))
    mixed.sum().backward()
    slopes = [shared(x).sum(), other(x).sum(), shared(x).sum()]
    torch.testing.assert_close(w.grad, torch.stack(slopes).detach())
    calls.clear()
    one_hot = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    with net.selecting((2,), policy={decision: one_hot}):
        masked = net.model(x)
    assert calls == [shared, other]
    assert torch.equal(masked, shared(x))
    masked.sum().backward()
    torch.testing.assert_close(one_hot.grad, torch.stack(slopes).detach())
    assert list(net.extract((0,)).state_dict()) == list(net.extract((2,)).state_dict())


def test_choices_inside_options_are_mixed_too():
    inner = ms.nn.Choice([nn.Tanh(), nn.Identity()], "inner")
    net = ms.Supernet(ms.nn.Choice([nn.Sequential(inner), nn.Sigmoid()], "outer")).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    by_name = {"outer": [0.25, 0.75], "inner": [0.4, 0.6]}
    policy = {d: torch.tensor(by_name[d.name], dtype=torch.float64) for d in net.space.decisions}
    expected = 0.25 * (0.4 * x.tanh() + 0.6 * x) + 0.75 * x.sigmoid()
    torch.testing.assert_close(net(x, policy=policy, masks="mixed"), expected)


def test_blocks_of_a_depth_run_in_the_share_of_the_depths_that_have_them():
    torch.manual_seed(2)
    blocks = [nn.Linear(3, 3) for _ in range(3)]
    net = ms.Supernet(ms.nn.Depth(copy.deepcopy(blocks), [1, 2, 3], "depth")).double()
    first, second, third = (block.double() for block in blocks)
    x = torch.randn(2, 3, dtype=torch.float64)
    w = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    one = first(x)
    two = 0.8 * second(one) + 0.2 * one
    three = 0.5 * third(two) + 0.5 * two
    mixed = net(x, policy={net.space.decisions[0]: w}, masks="mixed")
    torch.testing.assert_close(mixed, three, rtol=1e-13, atol=1e-13)


def test_sizes_are_masked_by_the_weighted_sum_of_their_masks():
    """Wan et al. 2020, FBNetV2, figure 3: one convolution, its channels times the sum of masks."""

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.width = ms.choose([2, 4, 6], "width")
            self.a = ms.nn.Linear(3, self.width)
            self.b = ms.nn.Linear(self.width, 5)

        def forward(self, x):
            return self.b(self.a(x).tanh())

    torch.manual_seed(3)
    net = ms.Supernet(Two()).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    mask = torch.tensor([1, 1, 0.5, 0.5, 0.2, 0.2], dtype=torch.float64)
    hidden = F.linear(x, net.model.a.weight, net.model.a.bias).tanh() * mask
    expected = F.linear(hidden, net.model.b.weight, net.model.b.bias)
    mixed = net(x, policy={net.space.decisions[0]: w}, masks="mixed")
    torch.testing.assert_close(mixed, expected, rtol=1e-13, atol=1e-13)


class Widths(nn.Module):
    """Three widths with batch norm and a residual, concatenated with a fixed one, and a head."""

    def __init__(self):
        super().__init__()
        width, factor = ms.choose([2, 3, 6], "width"), ms.choose([1, 2], "factor")
        hidden = ms.round_to(width * factor, 1)
        self.into = ms.nn.Conv2d(3, width, 3, padding=1)
        self.norm = ms.nn.BatchNorm2d(width)
        self.depthwise = ms.nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.beside = nn.Conv2d(3, 2, 1)
        self.wide = ms.nn.Conv2d(ms.concat(width, 2), hidden, 1)
        self.head = ms.nn.Linear(hidden, 5)

    def forward(self, x):
        y = self.norm(self.into(x)).relu()
        y = torch.cat([y + self.depthwise(y), self.beside(x)], 1)
        return self.head(self.wide(y).relu().mean((2, 3)))


@pytest.fixture(scope="module")
def widths():
    torch.manual_seed(5)
    return ms.Supernet(Widths()).double()


def test_one_width_interpolated_is_its_architecture(widths):
    x = torch.randn(4, 3, 6, 6, dtype=torch.float64)
    for arch in widths.space.enumerate():
        got = widths(x, policy=one_hots(widths.space, arch), masks="interpolated")
        torch.testing.assert_close(got, widths(x, arch), rtol=1e-12, atol=1e-12)


def resampled(x, channels):
    """As the authors' code of TAS: a mean over a third dimension, which are the channels."""
    return F.adaptive_avg_pool3d(x, (channels, *x.shape[2:]))


def test_several_widths_are_interpolated_to_the_largest_with_a_weight(widths):
    """Dong & Yang 2019, TAS, section 3.1, of widths that are computed one by one, and its gradient.

    The largest of all, 6, has no weight: widths of 2 and 3 meet at 3, hidden ones of 2, 3, 4, 6
    at 6.
    """
    m, x = widths.model, torch.randn(4, 3, 6, 6, dtype=torch.float64)
    width, factor = widths.space.decisions
    w = torch.tensor([0.3, 0.7, 0.0], dtype=torch.float64, requires_grad=True)
    v = torch.tensor([0.6, 0.4], dtype=torch.float64, requires_grad=True)
    both = F.batch_norm(
        F.conv2d(x, m.into.weight, m.into.bias, padding=1),
        None, None, m.norm.weight, m.norm.bias, training=True,
    ).relu()  # fmt: skip
    both = both + F.conv2d(both, m.depthwise.weight, m.depthwise.bias, padding=1, groups=6)
    mixed = w[0] * resampled(both[:, :2], 3) + w[1] * both[:, :3]
    columns = torch.cat([m.wide.weight[:, :3], m.wide.weight[:, 6:]], 1)
    hidden = F.conv2d(torch.cat([mixed, m.beside(x)], 1), columns, m.wide.bias).relu()
    shares = {2: w[0] * v[0], 3: w[1] * v[0], 4: w[0] * v[1], 6: w[1] * v[1]}
    hidden = sum(share * resampled(hidden[:, :n], 6) for n, share in shares.items())
    expected = F.linear(hidden.mean((2, 3)), m.head.weight[:, :6], m.head.bias)
    got = widths(x, policy={width: w, factor: v}, masks="interpolated")
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    ours, theirs = (torch.autograd.grad(out.square().sum(), [w, v]) for out in (got, expected))
    torch.testing.assert_close(ours[0][:2], theirs[0][:2], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-10, atol=1e-10)


def test_widths_are_not_interpolated_where_all_channels_are_looked_at():
    width = ms.choose([2, 4], "width")
    chain = (ms.nn.Linear(3, width), ms.nn.LayerNorm(width), ms.nn.Linear(width, 2))
    net = ms.Supernet(nn.Sequential(*chain))
    policy = {width: torch.tensor([0.5, 0.5])}
    with pytest.raises(ValueError, match=r"such as a layer norm.* take masks='mixed'"):
        net(torch.randn(2, 3), policy=policy, masks="interpolated")


def test_weights_that_mean_nothing_are_refused():
    net = ms.Supernet(ms.nn.Choice([nn.Identity(), nn.Tanh()], "layer"))
    [decision] = net.space.decisions
    x = torch.randn(2, 3)
    for values, message in (
        ([0.0, 0.0], "all zero, so that nothing runs"),
        ([float("nan"), 1.0], "they must be finite"),
        ([1.0], r"has shape \(1,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            net(x, policy={decision: torch.tensor(values)}, masks="mixed")
    depth = ms.Supernet(ms.nn.Depth([nn.Identity(), nn.Tanh()], [1, 2], "depth"))
    with pytest.raises(ValueError, match="sum to 0.7: of sizes they must sum to one"):
        depth(x, policy={depth.space.decisions[0]: torch.tensor([0.4, 0.3])}, masks="mixed")


def test_what_mixed_options_cannot_be_with(cells):
    x, arch = torch.randn(2, 3, 8, 8, dtype=torch.float64), cells.space.largest
    cells.eval()
    stats = ms.evaluate.calibrate(cells, arch, [(x, torch.zeros(2))])
    policy = one_hots(cells.space, arch)
    with pytest.raises(ValueError, match="calibrated statistics are of one architecture"):
        cells(x, arch, policy=policy, masks="mixed", stats=stats)
    k_shot = ms.Supernet(cell(width=2, cells=1), sharing=ms.sharing.KShot(copies=2, seed=0))
    with pytest.raises(ValueError, match="gives every path weights of its own"):
        k_shot(x.float(), policy=weights(k_shot.space, 0), masks="mixed")


def test_an_option_that_changes_its_input_is_named():
    net = ms.Supernet(ms.nn.Choice([nn.ReLU(inplace=True), nn.Tanh()], "layer"))
    with pytest.raises(ValueError, match="changes its input in place"):
        net(torch.randn(2, 3), policy=weights(net.space, 0), masks="mixed")


def test_all_options_are_counted_that_have_a_weight():
    """Of a sample, a linear layer takes inputs times outputs multiply-adds, rank two their sum."""
    ranks = [[1, 3, 7], [2, 5]]
    options = (
        [nn.Sequential(nn.Linear(8, r), nn.Linear(r, 8)) for r in of_layer] for of_layer in ranks
    )
    choices = [ms.nn.Choice([*each, nn.Identity()], f"layer{i}") for i, each in enumerate(options)]
    net = ms.Supernet(nn.Sequential(*choices), example_inputs=torch.empty(1, 8))
    masked = MaskedMacs(net, torch.empty(1, 8))
    rng = np.random.default_rng(0)
    for seed in range(4):
        policy = weights(net.space, seed)
        for w in policy.values():
            w[int(rng.integers(len(w)))] = 0
        expected = sum(
            16 * rank
            for of_layer, w in zip(ranks, policy.values(), strict=True)
            for rank, weight in zip(of_layer, w[:-1].tolist(), strict=True)
            if weight
        )
        assert masked.mixed(net.space.smallest, policy) == expected
