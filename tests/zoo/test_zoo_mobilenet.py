"""`bignas`, `attentivenas` and `tiny_cnn` against published numbers and by behaviour."""

import math

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
from manyshot.zoo import attentivenas, bignas, tiny_cnn
from manyshot.zoo.mobilenet_blocks import FitChannels, InvertedResidual, pooled_shortcut
from small_zoo import small as small_one

IMAGE = (3, 224, 224)

# Name, MMACs, resolution, widths of mb4, mb6, mb7 and last; depths, kernels, expansions.
ATTENTIVE = """
    a0 203.4 192 64 192 216 1792 1333331 3333333 1444466
    a1 279.2 224 64 192 216 1984 1333331 3335353 1444466
    a2 316.7 224 64 200 224 1984 1333341 3333353 1454466
    a3 356.5 224 64 208 224 1984 2334351 3335333 1444466
    a4 443.5 256 64 192 216 1984 1334351 3335353 1445466
    a5 490.5 256 72 192 216 1792 1333461 3335333 1454466
    a6 709.0 288 64 216 224 1984 1334461 3333353 1465466
"""


def on_meta(network, **options) -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(network(**options))


@pytest.fixture(scope="module")
def big() -> ms.Supernet:
    return on_meta(bignas)


@pytest.fixture(scope="module")
def attentive() -> ms.Supernet:
    return on_meta(attentivenas)


@pytest.fixture(scope="module")
def small() -> ms.Supernet:
    return on_meta(tiny_cnn)


def encoded(net: ms.Supernet, values: dict[str, int]) -> ms.Arch:
    """The architecture with the given options, and the first option of other decisions."""
    options = {d.name: d.options for d in net.space.decisions}
    assert values.keys() <= options.keys()
    return tuple(options[n].index(values.get(n, options[n][0])) for n in options)


# The closed form: the formulas of the counter that gives the authors' numbers, by decision names.


def rounded(number: float) -> int:
    """To a multiple of 8, at least 8, and not more than a tenth below."""
    near = max(8, int(number + 4) // 8 * 8)
    return near + 8 if near < 0.9 * number else near


def conv(into: int, out: int, side: int, kernel: int = 1, groups: int = 1) -> int:
    return into * out * side**2 * kernel**2 // groups


def closed_form(
    options: dict[str, int], strides: str, squeezed: str, expansion: int, head: str, classes: int
) -> int:
    """Multiply-adds; `squeezed` lists the stages with squeeze-and-excitation."""
    side, width = (options["resolution"] + 1) // 2, options["first"]
    total = conv(3, width, side, 3)
    for stage, stride in enumerate(map(int, strides), 1):
        out = options[f"mb{stage}.width"]
        given = 1 if stage == 1 and head != "tiny" else options.get(f"mb{stage}.expand", expansion)
        for block in range(options[f"mb{stage}.depth"]):
            kernels = (options.get(f"mb{stage}.{name}kernel") for name in (f"block{block}.", ""))
            kernel, hidden = next(filter(None, kernels), 3), rounded(width * given)
            after = (side + 1) // 2 if stride == 2 and block == 0 else side
            total += conv(width, hidden, side) if given > 1 else 0
            total += conv(hidden, hidden, after, kernel, hidden) + conv(hidden, out, after)
            total += 2 * hidden * rounded(hidden // 4) if str(stage) in squeezed else 0
            total += conv(width, out, after) if head == "attentive" and width != out else 0
            side, width = after, out
    last = options.get("last", 96)
    if head == "attentive":
        return total + conv(width, 6 * width, side) + 6 * width * last + last * classes
    return total + conv(width, last, side) + last * classes


FORMS = {
    "big": ("1222121", "1234567", 6, "pool", 1000),
    "attentive": ("1222121", "3567", 6, "attentive", 1000),
    "small": ("122", "", 6, "tiny", 10),
}


def chosen(net: ms.Supernet, arch: ms.Arch) -> dict[str, int]:
    return {d.name: d.options[i] for d, i in zip(net.space.decisions, arch, strict=True)}


class TestBigNAS:
    """Multiply-adds are those of extracted subnets, as making tables takes long.

    That tables agree with extracted subnets is tested for every network of the zoo.
    """

    def test_range(self, big):
        ends = (big.space.smallest, big.space.largest)
        least, most = (cost.subnet_macs(big.extract(a), IMAGE) / 1e9 for a in ends)
        assert least == pytest.approx(0.2085, rel=1e-3)
        assert most == pytest.approx(1.8513, rel=1e-3)

    def test_closed_form(self, big):
        """Four architectures that have every option of every decision."""
        for arch in big.space.cover(np.random.default_rng(0), 4):
            expected = closed_form(chosen(big, arch), *FORMS["big"])
            assert cost.subnet_macs(big.extract(arch), IMAGE) == expected

    def test_uniform_sampling_hardly_meets_small_networks(self, big):
        """0.035 % below 0.25 GMACs: of 20,000 draws 7, with a standard deviation of 2.6."""
        rng = np.random.default_rng(0)
        archs = rng.integers(big.space.counts, size=(20_000, 38)).tolist()
        macs = np.array([closed_form(chosen(big, a), *FORMS["big"]) for a in archs]) / 1e9
        assert 0 < (macs < 0.25).mean() < 0.001
        assert (macs < 0.3).mean() == pytest.approx(0.008, abs=0.003)  # 4 standard deviations
        assert (macs >= 1.4).mean() == pytest.approx(0.018, abs=0.004)
        # Standard error 0.002; the reference's own draws add as much.
        assert macs.mean() == pytest.approx(0.761, abs=0.01)
        assert macs.std() == pytest.approx(0.313, abs=0.01)

    def test_decisions(self, big):
        kernels = {3: 3, 4: 4, 5: 6, 6: 6, 7: 2}
        names = ["resolution", "first"]
        for stage in range(1, 8):
            names += [f"mb{stage}.width", f"mb{stage}.depth"]
            names += [f"mb{stage}.block{block}.kernel" for block in range(kernels.get(stage, 0))]
        assert [d.name for d in big.space.decisions] == [*names, "last"]
        assert len(names) + 1 == 38
        heads = {f"width_{n}" for n in (2, 3, 4)} | {f"depth_{n}" for n in (2, 3, 5)}
        heads |= {"resolution_4", "first_2", "last_2", "kernel_2"}
        assert {head_key(d) for d in big.space.decisions} == heads

    def test_distinct_networks(self, big):
        assert distinct_networks(big.space) == pytest.approx(7.6e11, rel=0.01)

    def test_only_later_blocks_add_their_input(self, big):
        for stage, block in ((s, b) for s in range(1, 8) for b in range(2)):
            residual = big.model.chain[stage].blocks[block]
            assert isinstance(residual, InvertedResidual)
            assert (residual.shortcut is not None) == (block > 0)


class TestAttentiveNAS:
    """Multiply-adds are those of extracted subnets, as making tables takes long.

    That tables agree with extracted subnets is tested for every network of the zoo.
    """

    def test_published_subnets(self, attentive):
        for line in ATTENTIVE.split("\n")[1:-1]:
            name, millions, resolution, mb4, mb6, mb7, last, *digits = line.split()
            depths, kernels, expands = digits
            widths = (16, 24, 32, int(mb4), 112, int(mb6), int(mb7))
            values = {"resolution": int(resolution), "first": 16, "last": int(last)}
            for i, width in enumerate(widths):
                values[f"mb{i + 1}.width"] = width
                values[f"mb{i + 1}.depth"] = int(depths[i])
                values[f"mb{i + 1}.kernel"] = int(kernels[i])
            values |= {f"mb{i}.expand": int(expands[i - 1]) for i in range(2, 6)}
            assert expands[0] + expands[5:] == "166"
            subnet = attentive.extract(encoded(attentive, values))
            macs = cost.subnet_macs(subnet, IMAGE)
            assert macs / 1e6 == pytest.approx(float(millions), rel=1e-3), name

    def test_range(self, attentive):
        ends = (attentive.space.smallest, attentive.space.largest)
        least, most = (cost.subnet_macs(attentive.extract(a), IMAGE) / 1e9 for a in ends)
        assert least == pytest.approx(0.2034, rel=1e-3)
        assert most == pytest.approx(1.9393, rel=1e-3)

    def test_closed_form(self, attentive):
        """With and without a convolution in the two shortcuts whose widths may be equal."""
        rng = np.random.default_rng(0)
        for first, out, mb6, mb7 in ((16, 24, 216, 216), (24, 16, 208, 216), (24, 24, 216, 224)):
            options = chosen(attentive, attentive.space.sample(rng)) | {"first": first}
            options |= {"mb1.width": out, "mb6.width": mb6, "mb7.width": mb7}
            expected = closed_form(options, *FORMS["attentive"])
            subnet = attentive.extract(encoded(attentive, options))
            assert cost.subnet_macs(subnet, IMAGE) == expected

    def test_decisions(self, attentive):
        names = ["resolution", "first"]
        for stage in range(1, 8):
            names += [f"mb{stage}.{what}" for what in ("width", "depth", "kernel")]
            names += [f"mb{stage}.expand"] if 2 <= stage <= 5 else []
        assert [d.name for d in attentive.space.decisions] == [*names, "last"]
        assert attentive.space.size == pytest.approx(4.4e11, rel=0.01)

    def test_squeeze_and_excitation(self, attentive):
        def gated(stage: nn.Module) -> bool:
            return any(isinstance(m, nn.Sigmoid) for m in stage.modules())

        assert [gated(s) for s in attentive.model.stages()[1:8]] == [False, False, True, False] + [
            True
        ] * 3


class TestTinyCNN:
    def test_closed_form(self, small):
        rng = np.random.default_rng(0)
        archs = [small.space.smallest, small.space.largest]
        archs += [small.space.sample(rng) for _ in range(300)]
        expected = [closed_form(chosen(small, arch), *FORMS["small"]) for arch in archs]
        assert cost.macs(small, archs, (3, 32, 32)).tolist() == expected

    def test_decisions(self, small):
        names = ["resolution", "first"]
        for stage, blocks in ((1, 2), (2, 3), (3, 2)):
            names += [f"mb{stage}.{what}" for what in ("width", "depth", "expand")]
            names += [f"mb{stage}.block{block}.kernel" for block in range(blocks)]
        assert [d.name for d in small.space.decisions] == names

    def test_one_resolution_is_no_decision(self):
        net = ms.Supernet(tiny_cnn(resolutions=[20], stem_stride=1), input_shape=(3, 28, 28))
        assert net.space.decisions[0].name == "first"
        resized: list[torch.Size] = []
        net.model.chain[0][0].register_forward_hook(lambda m, a, out: resized.append(out.shape))
        net.model.chain[0].register_forward_hook(lambda m, a, out: resized.append(out.shape))
        net(torch.randn(2, 3, 28, 28), net.space.smallest)
        assert [tuple(shape[-2:]) for shape in resized] == [(20, 20), (20, 20)]

    def test_sizes_at_the_ends(self):
        subnet = on_meta(tiny_cnn, channels=1, classes=7, last=64).extract((0,) * 18)
        convolutions = [m for m in subnet.modules() if isinstance(m, nn.Conv2d)]
        assert (convolutions[0].in_channels, convolutions[-1].out_channels) == (1, 64)
        assert subnet(torch.empty(2, 1, 28, 28, device="meta")).shape == (2, 7)


@pytest.mark.parametrize("name", ["bignas", "attentivenas", "tiny_cnn"])
def test_masks_slices_and_extracted_subnets_agree(name):
    torch.manual_seed(0)
    net = ms.Supernet(small_one(name, classes=5))
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():  # no zeros and ones, which hide mistakes
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 0.5, 0.5, generator)
    images = torch.randn(4, 3, 20, 20, generator=generator)
    rng = np.random.default_rng(0)
    random = [net.space.sample(rng) for _ in range(2)]
    with torch.no_grad():
        for arch in (net.space.smallest, net.space.largest, *random):
            assert torch.equal(net(images, arch), net.extract(arch)(images))
    check_agreement(net, images, random)


def test_inverted_residual_by_hand():
    torch.manual_seed(0)
    block = InvertedResidual(6, 6, 5, 1, 3, squeeze=8, shortcut=nn.Identity())
    net = ms.Supernet(nn.Sequential(block, ms.nn.Choice([nn.Identity()], "op"))).double()
    x = torch.randn(2, 6, 7, 7, dtype=torch.float64)
    weights = [p.detach() for p in block.parameters() if p.dim() > 1]
    biases = [p for name, p in block.named_parameters() if "gate" in name and "bias" in name]

    def norm(y: torch.Tensor) -> torch.Tensor:  # scale one and shift zero, as made
        return F.batch_norm(y, None, None, training=True)

    expand, depthwise, squeeze, excite, project = weights
    assert expand.shape[0] == 24  # 18, rounded to a multiple of 8, would be a tenth less
    assert squeeze.shape[0] == 8
    y = F.silu(norm(F.conv2d(x, expand)))
    y = F.silu(norm(F.conv2d(y, depthwise, padding=2, groups=24)))
    hidden = F.silu(y.mean((2, 3)) @ squeeze[:, :, 0, 0].T + biases[0])
    y = y * torch.sigmoid(hidden @ excite[:, :, 0, 0].T + biases[1])[:, :, None, None]
    expected = norm(F.conv2d(y, project)) + x
    torch.testing.assert_close(net(x, (0,)), expected, rtol=0, atol=1e-12)  # float64


class TestPooledShortcut:
    WIDTHS = (4, 6), (4, 6, 8)

    @pytest.fixture
    def net(self) -> ms.Supernet:
        torch.manual_seed(0)
        into, out = (ms.choose(w, n) for w, n in zip(self.WIDTHS, ("into", "out"), strict=True))
        shortcut = pooled_shortcut(into, out, 2)
        layers = (ms.nn.Conv2d(3, into, 1), shortcut, ms.nn.Conv2d(out, 5, 1))
        return ms.Supernet(nn.Sequential(*layers), input_shape=(3, 9, 9))

    def test_is_a_pool_and_a_convolution_where_widths_differ(self, net):
        images = torch.randn(2, 3, 8, 8)
        for i, j in net.space.enumerate():
            into, out = self.WIDTHS[0][i], self.WIDTHS[1][j]
            stem, shortcut, head = net.extract((i, j))
            expected = F.avg_pool2d(stem(images), 2)
            if into == out:
                assert isinstance(shortcut[1], FitChannels)
                assert not list(shortcut.parameters())
            else:
                assert isinstance(shortcut[1], nn.Conv2d)
                expected = F.conv2d(expected, shortcut[1].weight)
            assert torch.equal(net(images, (i, j)), head(expected))

    def test_one_weight_for_all_widths(self, net):
        shapes = [tuple(p.shape) for p in net.model[1].parameters()]
        assert shapes == [(8, 6, 1, 1)]

    def test_masks(self, net):
        check_agreement(net, torch.randn(2, 3, 8, 8), net.space.enumerate())

    def test_odd_sizes(self):
        x = torch.randn(1, 4, 5, 5)
        pooled = pooled_shortcut(4, 4, 2)(x)
        assert pooled.shape == (1, 4, 3, 3)
        assert torch.equal(pooled[..., -1, -1], x[..., -1, -1])

    def test_widths_that_are_always_equal(self):
        assert not list(pooled_shortcut(4, 4, 1).parameters())
        assert math.prod(pooled_shortcut(4, 6, 1)[0].weight.shape) == 24
