"""`autoformer` and `tiny_vit` against published numbers, a closed form and plain torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from zoo_counting import distinct_networks

import manyshot as ms
from manyshot import cost
from manyshot.nn.agreement import check_agreement
from manyshot.train.generator import head_key
from manyshot.zoo import autoformer, tiny_vit
from manyshot.zoo.autoformer import AutoFormer, Scale

IMAGE = (3, 224, 224)

# (least GMACs, greatest, sizes of the space and its parameters in millions, decisions).
PUBLISHED = {
    "tiny": (1.1668, 2.2629, 1.1e9, (5.4, 10.5), 30),
    "small": (2.767, 7.197, 7.7e13, (13.1, 34.8), 30),
    "base": (8.674, 15.743, 1.0e13, (41.7, 76.9), 34),
}

# Width, GMACs, millions of parameters, heads, MLP ratios. The first has ratios of 3, which the
# published space of its scale does not have.
SUBNETS = {
    "tiny": (
        (192, 1.283, 5.87),
        (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3),
        (3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5),
    ),
    "small": (
        (384, 4.774, 22.89),
        (6, 6, 5, 7, 5, 5, 5, 6, 6, 7, 7, 6, 7),
        (3, 3.5, 3, 3.5, 4, 4, 4, 4, 4, 4, 4, 3.5, 4),
    ),
    "base": (
        (576, 11.045, 53.69),
        (9, 9, 9, 9, 9, 10, 9, 9, 10, 9, 10, 9, 9, 10),
        (3.5, 3.5, 4, 3.5, 4, 3.5, 3.5, 3, 4, 4, 3, 4, 3, 3.5),
    ),
}


def on_meta(network, *args, **options) -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(network(*args, **options))


def closed_form(net: ms.Supernet, arch: ms.Arch, relative: bool) -> tuple[int, int]:
    """Multiply-adds without relative positions, and parameters, at 224 pixels."""
    options = {d.name: d.options[i] for d, i in zip(net.space.decisions, arch, strict=True)}
    e, macs = options["embed"], 196 * 768 * options["embed"] + 1000 * options["embed"]
    params = 768 * e + e + e + 197 * e + 2 * e + 1000 * e + 1000
    for i in range(options["depth"]):
        q, m = 64 * options[f"heads{i}"], int(e * options[f"ratio{i}"])
        macs += 4 * 197 * e * q + 2 * 197**2 * q + 2 * 197 * e * m
        params += 3 * e * q + 3 * q + q * e + e + 2 * e * m + m + e + 4 * e
        params += 4 * 30 * 64 if relative else 0
    return macs, params


@pytest.fixture(scope="module")
def tiny() -> ms.Supernet:
    return on_meta(autoformer, "tiny", relative_position=False)


@pytest.mark.parametrize("scale", PUBLISHED)
class TestScales:
    def test_ranges(self, scale):
        """Of the small and the base scale by extracted subnets, as making tables takes long."""
        least, most, _, millions, _ = PUBLISHED[scale]
        net = on_meta(autoformer, scale, relative_position=False)
        ends = [net.space.smallest, net.space.largest]
        macs = [cost.subnet_macs(net.extract(arch), IMAGE) for arch in ends]
        assert [m / 1e9 for m in macs] == pytest.approx([least, most], rel=1e-3)
        # Printed with a decimal; the paper's own count differs from its code's by up to 0.8 %.
        params = cost.params(on_meta(autoformer, scale), ends) / 1e6
        assert params.tolist() == pytest.approx(millions, rel=0.01)

    def test_decisions(self, scale):
        size, count = PUBLISHED[scale][2], PUBLISHED[scale][4]
        space = on_meta(autoformer, scale).space
        blocks = (count - 2) // 2
        names = [f"{what}{i}" for i in range(blocks) for what in ("heads", "ratio")]
        assert [d.name for d in space.decisions] == ["embed", "depth", *names]
        assert len({head_key(d) for d in space.decisions}) == 4
        assert distinct_networks(space) == pytest.approx(size, rel=0.05)  # printed with two digits

    def test_published_subnet(self, scale):
        (embed, gmacs, millions), heads, ratios = SUBNETS[scale]
        space = Scale((embed, 8), (len(heads), 1), tuple(set(heads)), tuple(set(ratios)))
        pairs = zip(heads, ratios, strict=True)
        own = [(space.heads.index(h), space.ratios.index(r)) for h, r in pairs]
        arch = (0, 0, *(option for pair in own for option in pair))
        net = on_meta(AutoFormer, space, 224, 16, 3, 1000, relative_position=True)
        assert cost.params(net, [arch])[0] / 1e6 == pytest.approx(millions, rel=1e-3)
        net = on_meta(AutoFormer, space, 224, 16, 3, 1000, relative_position=False)
        macs = cost.subnet_macs(net.extract(arch), IMAGE)
        assert macs / 1e9 == pytest.approx(gmacs, rel=1e-3)


class TestTables:
    def test_closed_form(self, tiny):
        """Multiply-adds of extracted subnets that have every option of every decision."""
        rng = np.random.default_rng(0)
        for arch in tiny.space.cover(rng, 4):
            assert cost.subnet_macs(tiny.extract(arch), IMAGE) == closed_form(tiny, arch, False)[0]
        archs = [tiny.space.smallest, tiny.space.largest]
        archs += [tiny.space.sample(rng) for _ in range(200)]
        expected = [closed_form(tiny, arch, False)[1] for arch in archs]
        assert cost.params(tiny, archs).tolist() == expected

    def test_parameters_with_relative_positions(self):
        net = on_meta(autoformer, "small")
        rng = np.random.default_rng(0)
        archs = [net.space.sample(rng) for _ in range(200)]
        expected = [closed_form(net, arch, True)[1] for arch in archs]
        assert cost.params(net, archs).tolist() == expected

    def test_relative_positions_cost_products(self, tiny):
        """Of queries and of attention with two tables of 30 vectors each, in every block."""
        net = on_meta(autoformer, "tiny")
        for arch in (net.space.smallest, net.space.largest):
            heads = [net.space.decisions[i].options[arch[i]] for i in range(2, 30, 2)]
            depth = net.space.decisions[1].options[arch[1]]
            more = 4 * 30 * 64 * 197 * sum(heads[:depth])
            macs = [cost.subnet_macs(n.extract(arch), IMAGE) for n in (net, tiny)]
            assert macs[0] - macs[1] == more

    def test_uniform_sampling(self, tiny):
        rng = np.random.default_rng(0)
        archs = rng.integers(tiny.space.counts, size=(20_000, 30)).tolist()
        macs = np.array([closed_form(tiny, arch, False)[0] for arch in archs]) / 1e9
        assert macs.mean() == pytest.approx(1.66, abs=0.01)  # standard error 0.002
        assert macs.std() == pytest.approx(0.238, abs=0.005)
        assert (macs < 1.2).mean() < 1e-3
        assert ((macs >= 1.2) & (macs < 1.3)).mean() == pytest.approx(0.063, abs=0.008)
        assert (macs >= 2.1).mean() == pytest.approx(0.02, abs=0.005)  # 4 standard deviations

    @pytest.mark.parametrize(
        ("options", "least", "most"),
        [((32, 4, 3), 2.51, 18.88), ((8, 2, 1), 0.476, 4.368)],
    )
    def test_tiny_vit(self, options, least, most):
        net = on_meta(tiny_vit, *options)
        image = (options[2], options[0], options[0])
        ends = (net.space.smallest, net.space.largest)
        macs = [cost.subnet_macs(net.extract(arch), image) / 1e6 for arch in ends]
        assert macs == pytest.approx([least, most], rel=2e-3)  # 2.51 has three digits
        assert len(net.space) == 12
        assert len({head_key(d) for d in net.space.decisions}) == 4


def by_torch(subnet: nn.Module, images: torch.Tensor, head_dim: int) -> torch.Tensor:
    """The logits of an extracted network without relative positions, by torch's own attention."""
    tokens, blocks, (norm, _, linear) = subnet.chain
    x = tokens.patches(images).flatten(2).transpose(1, 2)
    x = torch.cat((tokens.class_token().expand(len(x), -1, -1), x), 1) + tokens.position()
    for block in blocks:
        (before, attention), mlp = block.attention, block.mlp
        weight, bias = attention.qkv.weight, attention.qkv.bias  # (3, heads * head_dim, width)
        y = before(x)
        q, k, v = (F.linear(y, w, b) for w, b in zip(weight, bias, strict=True))
        out = []
        for h in range(weight.shape[1] // head_dim):
            own = slice(h * head_dim, (h + 1) * head_dim)
            scores = q[..., own] @ k[..., own].transpose(1, 2) / head_dim**0.5
            out.append(scores.softmax(-1) @ v[..., own])
        x = x + F.linear(torch.cat(out, -1), attention.project.weight, attention.project.bias)
        y = F.layer_norm(x, x.shape[-1:], mlp[0].weight, mlp[0].bias)
        y = F.gelu(F.linear(y, mlp[1].weight, mlp[1].bias))
        x = x + F.linear(y, mlp[3].weight, mlp[3].bias)
    return linear(norm(x)[:, 1:].mean(1))


def perturbed(net: ms.Supernet) -> ms.Supernet:
    """Without zeros and ones, which hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return net


class TestFunction:
    def test_is_a_pre_norm_transformer_that_averages_patches(self):
        torch.manual_seed(0)
        net = perturbed(ms.Supernet(tiny_vit())).double()
        images = torch.randn(3, 1, 8, 8, dtype=torch.float64)
        rng = np.random.default_rng(0)
        for arch in (net.space.smallest, net.space.sample(rng), net.space.sample(rng)):
            expected = by_torch(net.extract(arch), images, 16)
            torch.testing.assert_close(net(images, arch), expected, rtol=0, atol=1e-10)  # float64

    @pytest.mark.parametrize("relative", [False, True])
    def test_masks_slices_and_extracted_subnets_agree(self, relative):
        torch.manual_seed(0)
        net = perturbed(ms.Supernet(tiny_vit(relative_position=relative), input_shape=(1, 8, 8)))
        images, rng = torch.randn(4, 1, 8, 8), np.random.default_rng(0)
        random = (net.space.sample(rng) for _ in range(4))
        with torch.no_grad():
            for arch in (net.space.smallest, net.space.largest, *random):
                assert torch.equal(net(images, arch), net.extract(arch)(images))
        check_agreement(net, images)

    def test_autoformer(self):
        torch.manual_seed(0)
        net = ms.Supernet(autoformer("tiny", image_size=16, patch=8, classes=5))
        images, arch = torch.randn(2, 3, 16, 16), net.space.sample(np.random.default_rng(0))
        with torch.no_grad():
            assert torch.equal(net(images, arch), net.extract(arch)(images))
        check_agreement(net, images, [arch])

    def test_positions_and_class_token_are_drawn(self):
        torch.manual_seed(0)
        tokens = tiny_vit().chain[0]
        for parameter in (tokens.position.weight, tokens.class_token.weight):
            assert 0.01 < parameter.std() < 0.03


def test_patches_must_divide_images():
    with pytest.raises(ValueError, match="autoformer: patches of 16 do not divide images of 30"):
        autoformer(image_size=30)
    with pytest.raises(ValueError, match="tiny_vit: patches of 3 do not divide images of 8"):
        tiny_vit(patch=3)


def test_images_of_another_size():
    net = ms.Supernet(tiny_vit())
    with pytest.raises(ValueError, match="images are 8x9, the network is made for 8x8"):
        net(torch.zeros(1, 1, 8, 9))
