"""Distinctness, entropy, spread and slice distance on codes made by hand (T8, T10)."""

import math

import pytest
import torch
from sharing_nets import ConvNorm, Mixed, k_shot, vary_codes
from torch import nn

import manyshot as ms
from manyshot.sharing import (
    distinctness,
    effective_sharing,
    entropy,
    slice_distance,
    spread,
)
from manyshot.sharing.penalties import below_floor, settings_independent

WIDTHS = torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])


def test_distinctness_of_equal_codes():
    codes = torch.full((5, 4), 0.25)
    assert float(distinctness(codes, WIDTHS, "cos")) == pytest.approx(1)
    pairs = [(1 - math.exp(-abs(a - b) / 0.5)) ** 2
             for a in WIDTHS.tolist() for b in WIDTHS.tolist() if a != b]  # fmt: skip
    expected = sum(pairs) / len(pairs)
    assert float(distinctness(codes, WIDTHS, "target")) == pytest.approx(expected, rel=1e-5)
    assert float(distinctness(codes, WIDTHS, "instance")) == pytest.approx(math.log(5), rel=1e-5)


def test_distinctness_of_one_hot_codes():
    codes = torch.eye(5)
    assert float(distinctness(codes, WIDTHS, "cos")) == 0
    assert float(distinctness(codes, WIDTHS, "target")) == 0
    expected = math.log(1 + 4 * math.exp(-10))
    assert float(distinctness(codes, WIDTHS, "instance")) == pytest.approx(expected, abs=1e-6)


def test_layers_are_averaged():
    codes = torch.stack([torch.eye(5), torch.full((5, 5), 0.2)])
    for kind in ("cos", "target", "instance"):
        apart = [float(distinctness(own, WIDTHS, kind)) for own in codes]
        assert float(distinctness(codes, WIDTHS, kind)) == pytest.approx(sum(apart) / 2, rel=1e-5)


@pytest.mark.parametrize("copies", [2, 4, 8])
def test_cosines_have_a_floor(copies):
    """Non-negative unit vectors: Σ_ij G_ij = |Σ u|² ≥ W²/K, so the mean over pairs is bounded."""
    floor = max(0.0, (5 / copies - 1) / 4)
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        codes = torch.softmax(3 * torch.randn((5, copies), generator=generator), -1)
        for kind in ("cos", "target", "instance"):
            assert float(distinctness(codes, WIDTHS, kind)) >= (
                floor - 1e-6 if kind == "cos" else 0
            )


@pytest.mark.parametrize(("copies", "cosine"), [(2, 0.6), (4, 0.31), (8, 0.36)])
def test_target_separates_widths_without_collapse(copies, cosine):
    """500 steps of Adam; over four seeds cosines were within 0.07 of these, entropies above 0.4."""
    operations = [ms.choose("abc", f"layer{i}") for i in range(8)]
    width = ms.choose((0.2, 0.4, 0.6, 0.8, 1.0), "width")
    space = ms.SearchSpace([*operations, width])
    net = ms.sharing.SimplexNet(space, copies, widths=[width], seed=1)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    encoded = net.encode([(*[0] * 8, i) for i in range(5)])
    assert float(distinctness(net(encoded).detach(), WIDTHS, "cos")) > 0.99
    for _ in range(500):
        optimizer.zero_grad()
        distinctness(net(encoded), WIDTHS, "target").backward()
        optimizer.step()
    codes = net(encoded).detach()
    assert float(distinctness(codes, WIDTHS, "cos")) == pytest.approx(cosine, abs=0.1)
    assert entropy(codes) > 0.3


def test_the_penalty_varies_all_widths_of_a_path_together():
    class Widths(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = ms.choose((8, 4, 6), "a"), ms.choose((2, 4), "b")
            self.one = ms.nn.Linear(4, self.a)
            self.two = ms.nn.Linear(self.a, self.b)

        def forward(self, x):
            return self.two(self.one(x)).sum(-1)

    for scope in ("path", "layer"):
        net = k_shot(Widths, 3, code_scope=scope, beta=0.5)
        vary_codes(net)
        settings = [(1, 0), (2, 0), (0, 1)]  # 4, 6, 8 with 2, 2, 4: narrow to wide
        widths = torch.tensor([(0.5 + 0.5) / 2, (0.75 + 0.5) / 2, 1.0])
        codes = net.sharing.code(settings)
        if scope == "layer":
            codes = codes.transpose(0, 1)
        expected = 0.5 * distinctness(codes, widths, "target")
        torch.testing.assert_close(net.sharing.penalty([(0, 0)]), expected)
        torch.testing.assert_close(net.sharing.penalty([(0, 0), (1, 1)]), expected)
        net.sharing.penalty([(0, 0)]).backward()
        assert net.sharing.simplex_net.channels.weight.grad.abs().sum() > 0


class TwoWidths(nn.Module):
    """Two widths that vary by themselves."""

    def __init__(self):
        super().__init__()
        self.a, self.b = ms.choose((8, 4, 6), "a"), ms.choose((2, 4), "b")
        self.one = ms.nn.Linear(4, self.a)
        self.two = ms.nn.Linear(self.a, self.b)
        self.three = ms.nn.Linear(self.b, 3)

    def forward(self, x):
        return self.three(self.two(self.one(x)))


def test_widths_that_vary_by_themselves_are_told_apart_pair_by_pair():
    """Every pair of settings by a double loop; over many paths all settings come."""
    net = k_shot(TwoWidths, 3, beta=0.5, width_settings="independent")
    vary_codes(net)
    seen = set()
    for arch in net.space.enumerate():
        settings, widths = settings_independent(net.space, (net.model.a, net.model.b), arch, 1)
        assert len(settings) == 3
        seen |= set(settings)
        codes = net.sharing.code(settings).detach()
        total = 0.0
        for i in range(3):
            by_hand = [(8, 4, 6)[settings[i][0]] / 8, (2, 4)[settings[i][1]] / 4]
            assert widths[i].tolist() == by_hand
            for j in range(3):
                cosine = float(torch.cosine_similarity(codes[i], codes[j], 0))
                apart = sum(abs(float(widths[i][d] - widths[j][d])) for d in range(2)) / 2
                total += 0 if i == j else max(0.0, cosine - math.exp(-apart / 0.5)) ** 2
        penalty = net.sharing.penalty([arch]).detach()
        assert float(penalty) == pytest.approx(0.5 * total / 6, abs=1e-6)
        assert settings_independent(net.space, (net.model.a, net.model.b), arch, 1)[0] == settings
    assert seen == set(net.space.enumerate())
    assert not net.sharing.penalty([(0, 0)]).equal(
        k_shot(TwoWidths, 3, beta=0.5).sharing.penalty([(0, 0)])
    )


def test_the_floor_under_entropy_is_a_loss_below_it_alone():
    """By hand: log 2 / log 4 is a half; gradients are those of finite differences."""
    codes = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25] * 4], dtype=torch.float64)
    assert float(below_floor(codes, 0.4)) == 0
    assert float(below_floor(codes, 0.75)) == pytest.approx(0.125)
    logits = torch.randn((3, 4), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: below_floor(x.softmax(-1), 0.9), (logits,))
    net = k_shot(ConvNorm, 3, entropy_floor=0.8)
    assert float(net.sharing.penalty([(0, 0)]).detach()) == 0  # near uniform at the start
    vary_codes(net, 2.0)
    codes = net.sharing.code([(0, 0), (1, 1)]).detach().double()
    shares = [-sum(p * math.log(p) for p in code if p) / math.log(3) for code in codes.tolist()]
    expected = sum(max(0.0, 0.8 - share) for share in shares) / 2
    assert expected > 0
    penalty = net.sharing.penalty([(0, 0), (1, 1)])
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)
    optimizer = torch.optim.Adam(net.sharing.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        net.sharing.penalty([(0, 0), (1, 1)]).backward()
        optimizer.step()
    assert entropy(net.sharing.code([(0, 0), (1, 1)]).detach()) > 0.7


def test_no_penalty_where_there_is_nothing_to_keep_apart():
    assert k_shot(ConvNorm, 3).sharing.penalty([(0, 0)]) is None
    arch = k_shot(Mixed, 3).space.largest
    assert k_shot(Mixed, 3, beta=0.0).sharing.penalty([arch]) is None
    assert k_shot(Mixed, 3, regulariser="none").sharing.penalty([arch]) is None
    assert k_shot(Mixed, 3, codes="random").sharing.penalty([arch]) is None
    assert k_shot(Mixed, 3).sharing.penalty([arch]) > 0


def test_entropy_and_spread_by_hand():
    assert entropy(torch.full((3, 4), 0.25)) == pytest.approx(1)
    assert entropy(torch.eye(4)) == 0
    half = torch.tensor([[0.5, 0.5, 0, 0]])
    assert entropy(half) == pytest.approx(0.5)
    assert entropy(torch.ones(2, 1)) == 0
    assert spread(torch.full((3, 4), 0.25)) == 0
    assert spread(torch.tensor([[1.0, 0], [0, 1]])) == pytest.approx(0.5)
    moving = torch.tensor(
        [[[0.5, 0.5], [1.0, 0.0]], [[0.5, 0.5], [0.0, 1.0]]]
    )  # (archs, layers, K)
    assert spread(moving) == pytest.approx(0.25)


def test_slice_distance_by_hand():
    assert slice_distance([torch.ones(3, 5)]) == 0
    assert slice_distance([torch.ones(1, 5)]) == 0
    assert slice_distance([]) == 0
    apart = torch.tensor([[3.0, 0], [0, 4]])  # distance 5, norms 3 and 4
    expected = 5 / math.sqrt((9 + 16) / 2)
    assert slice_distance([apart]) == pytest.approx(expected)
    generator = torch.Generator().manual_seed(0)
    independent = [torch.randn((4, 1000), generator=generator) for _ in range(3)]
    assert slice_distance(independent) == pytest.approx(2**0.5, rel=0.05)
    pair = torch.randn((3, 7), generator=generator), torch.randn((3, 2), generator=generator)
    joined = torch.cat(pair, 1)
    distances = [float((joined[i] - joined[j]).square().sum()) for i in range(3) for j in range(i)]
    norms = float(joined.square().sum(1).mean())
    expected = math.sqrt(sum(distances) / 3 / norms)
    assert slice_distance(pair) == pytest.approx(expected, rel=1e-5)


def test_effective_sharing_is_a_mean_over_pairs():
    """By a double loop; with uniform codes all is shared, with other slices nothing."""
    assert effective_sharing(torch.full((5, 4), 0.25)) == pytest.approx(1)
    assert effective_sharing(torch.eye(4)) == 0
    assert effective_sharing(torch.eye(4)[:1]) == 1
    generator = torch.Generator().manual_seed(0)
    codes = torch.softmax(2 * torch.randn((6, 3, 4), generator=generator), -1)
    by_hand = [
        float(codes[a, row] @ codes[b, row] / (codes[a, row] @ codes[a, row]))
        for row in range(3) for a in range(6) for b in range(6) if a != b
    ]  # fmt: skip
    assert effective_sharing(codes) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-5)
