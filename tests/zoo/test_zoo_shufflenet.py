"""Sizes and construction of `shufflenet`, against published numbers and by behaviour."""

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms
from manyshot import cost
from manyshot.zoo import shufflenet
from manyshot.zoo.shufflenet import SplitBlock, WideningBlock
from published_tables import shufflenet_counts

IMAGE = (3, 224, 224)
OPERATIONS = ("shuffle3", "shuffle5", "shuffle7", "xception")
SPOS = (2, 1, 0, 1, 2, 0, 2, 0, 2, 0, 2, 3, 0, 0, 0, 0, 3, 2, 3, 3)
SMALL = {"widths": (8, 12), "repeats": (2, 1), "strides": (2, 1), "stem": 4, "tail": 16}

# Millions of multiply-adds of each operation, for the first and the other blocks of each stage.
FIRST = (
    (13.397, 15.805, 19.418, 13.146),
    (26.305, 28.111, 30.821, 20.296),
    (30.670, 31.674, 33.179, 21.199),
    (30.388, 30.890, 31.642, 20.635),
)
OTHER = (
    (7.326, 8.931, 11.340, 12.343),
    (10.600, 11.603, 13.108, 16.746),
    (10.317, 10.819, 11.572, 15.900),
    (10.176, 10.427, 10.804, 15.476),
)


def on_meta(**options) -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(shufflenet(**options))


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    return on_meta()


@pytest.fixture(scope="module")
def counted(net):
    """Multiply-adds by torch's counter: (rest of the network, table of (layer, operation))."""
    table, rest = np.zeros((20, 4), np.int64), set()
    for operation in range(4):
        subnet = net.extract((operation,) * 20).eval()
        with FlopCounterMode(display=False) as counter:
            subnet(torch.empty(1, *IMAGE, device="meta"))
        counts = counter.get_flop_counts()
        for layer in range(20):
            table[layer, operation] = sum(counts[f"ShuffleNet.chain.{layer + 1}"].values()) // 2
        rest.add(counter.get_total_flops() // 2 - int(table[:, operation].sum()))
    assert len(rest) == 1
    return rest.pop(), table


def sampled_macs(counted, n: int) -> np.ndarray:
    rest, table = counted
    archs = np.random.default_rng(0).integers(4, size=(n, 20))
    return rest + table[np.arange(20), archs].sum(1)


class TestPublishedSizes:
    def test_supernet(self, net):
        parameters = list(net.parameters())
        assert sum(p.numel() for p in parameters) == 8_388_176
        assert len(parameters) == 335
        assert sum(isinstance(m, ms.nn.BatchNorm2d) for m in net.modules()) == 334
        assert net.space.size == 4**20
        assert all(d.options == OPERATIONS for d in net.space.decisions)
        assert [d.name for d in net.space.decisions] == [f"layer{i}" for i in range(20)]

    def test_whole_architectures(self, net, counted):
        rest, table = counted
        assert rest == 38_555_648
        uniform = [295_842_496, 313_654_976, 340_373_696, 358_825_920]
        assert (table.sum(0) + rest).tolist() == uniform
        assert rest + table[np.arange(20), SPOS].sum() == 322_918_720
        archs = [*((operation,) * 20 for operation in range(4)), SPOS]
        assert cost.macs(net, archs, IMAGE).tolist() == [*uniform, 322_918_720]

    def test_ends(self, net, counted):
        rest, table = counted
        ends = [tuple(table.argmin(1).tolist()), tuple(table.argmax(1).tolist())]
        assert [rest + table.min(1).sum(), rest + table.max(1).sum()] == [270_359_360, 398_609_216]
        assert cost.macs(net, ends, IMAGE).tolist() == [270_359_360, 398_609_216]

    def test_operations(self, counted):
        table = counted[1] / 1e6
        starts = np.array([0, 4, 8, 16])
        np.testing.assert_allclose(table[starts], FIRST, atol=5e-4, rtol=0)  # printed to 3 places
        for start, end, other in zip(starts, (4, 8, 16, 20), OTHER, strict=True):
            for layer in range(start + 1, end):
                np.testing.assert_allclose(table[layer], other, atol=5e-4, rtol=0)

    def test_weights_of_the_spos_architecture(self, net):
        assert cost.params(net, [SPOS]).tolist() == [3_529_312]
        assert cost.params(on_meta(affine=True), [SPOS]).tolist() == [3_558_464]

    def test_table(self, net, counted):
        record = shufflenet_counts()
        rest, table = counted
        parts = ("stem_macs", "conv_last_macs", "classifier_macs")
        assert rest == sum(record[part] for part in parts)
        assert table.tolist() == [[op["macs"] for op in row["ops"]] for row in record["layers"]]
        rng = np.random.default_rng(0)
        drawn = [net.space.sample(rng) for _ in range(50)]
        sums = [rest + table[np.arange(20), arch].sum() for arch in drawn]
        assert cost.macs(net, drawn, IMAGE).tolist() == sums
        affine = on_meta(affine=True)
        params = [[op["params"] for op in row["ops"]] for row in record["layers"]]
        archs = [(operation,) * 20 for operation in range(4)]
        expected = record["fixed_params"] + np.sum(params, 0)
        assert cost.params(affine, archs).tolist() == expected.tolist()

    def test_uniform_sampling(self, counted):
        rest, table = counted
        # Exact moments, against ones that were estimated from samples (mean 327.19, sd 11.83).
        assert (rest + table.mean(1).sum()) / 1e6 == pytest.approx(327.19, abs=0.05)
        assert np.sqrt(table.var(1).sum()) / 1e6 == pytest.approx(11.83, abs=0.05)
        macs = sampled_macs(counted, 50_000) / 1e6
        assert np.mean(macs <= 330) == pytest.approx(0.588, abs=0.005)
        shares = np.histogram(macs, bins=np.arange(290, 370, 10))[0] / len(macs)
        published = [0.011, 0.064, 0.194, 0.318, 0.272, 0.115, 0.023]
        np.testing.assert_allclose(shares, published, atol=0.005)


class TestBlocks:
    def test_split_block_passes_even_channels_and_processes_odd_ones(self):
        block = shufflenet(**SMALL).chain[2].option(0).eval()
        assert isinstance(block, SplitBlock)
        x, other = torch.randn(2, 2, 8, 6, 6).unbind()
        mixed = x.clone()
        mixed[:, 0::2] = other[:, 0::2]
        out, changed = block(x), block(mixed)
        assert torch.equal(out[:, :4], x[:, 0::2])
        assert torch.equal(changed[:, :4], other[:, 0::2])
        assert torch.equal(changed[:, 4:], out[:, 4:])
        assert not torch.equal(out[:, 4:], block(other)[:, 4:])

    @pytest.mark.parametrize("layer", [0, 2], ids=["stride 2", "stride 1"])
    @pytest.mark.parametrize("operation", range(4))
    def test_first_block_of_a_stage_sees_all_channels_twice(self, layer, operation):
        into, stride = ((4, 2), (8, 1))[layer // 2]
        block = shufflenet(**SMALL).chain[layer + 1].option(operation).eval()
        assert isinstance(block, WideningBlock)
        x = torch.randn(1, into, 7, 7, requires_grad=True)
        out = block(x)
        assert out.shape == (1, (8, 12)[layer // 2], *(2 * ((7 + stride - 1) // stride,)))
        assert torch.equal(out[:, :into], block.projection(x))
        assert torch.equal(out[:, into:], block.main(x))
        for branch in (out[:, :into], out[:, into:]):
            (gradient,) = torch.autograd.grad(branch.sum(), x, retain_graph=True)
            assert (gradient.abs().sum((0, 2, 3)) > 0).all()

    @pytest.mark.parametrize(("operation", "field"), [(0, 3), (1, 5), (2, 7), (3, 7)])
    def test_receptive_field(self, operation, field):
        block = shufflenet(**SMALL).chain[2].option(operation).eval()
        for module in block.modules():  # every weight positive: what is seen, changes the output
            if isinstance(module, nn.Conv2d):
                nn.init.ones_(module.weight)
        x = torch.ones(1, 8, 15, 15, requires_grad=True)
        (gradient,) = torch.autograd.grad(block(x)[:, 4:, 7, 7].sum(), x)
        seen = gradient.abs().sum((0, 1)) > 0
        assert seen.any(0).sum() == seen.any(1).sum() == field

    def test_layers_of_each_operation(self):
        def layers(module):
            return " ".join(
                f"{m.kernel_size[0]}{'d' if m.groups > 1 else ''}"
                if isinstance(m, nn.Conv2d)
                else {"BatchNorm2d": "n", "ReLU": "r"}[type(m).__name__]
                for m in module.modules()
                if not list(m.children())
            )

        first = shufflenet(**SMALL).chain[1]
        for operation, kernel in enumerate((3, 5, 7)):
            assert layers(first.option(operation).main) == f"1 n r {kernel}d n 1 n r"
            assert layers(first.option(operation).projection) == f"{kernel}d n 1 n r"
        assert layers(first.option(3).main) == " ".join(["3d n 1 n r"] * 3)
        assert layers(first.option(3).projection) == "3d n 1 n r"


class TestInitialisation:
    def test_standard_deviations(self):
        torch.manual_seed(0)
        network = shufflenet()
        convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
        expected = [0.01, *(1 / (m.in_channels // m.groups) for m in convolutions[1:])]
        for convolution, deviation in zip(convolutions, expected, strict=True):
            # The spread of an estimate from n normal draws is sd / sqrt(2n); 5 of them.
            bound = 5 * (2 * convolution.weight.numel()) ** -0.5
            assert convolution.weight.std().item() == pytest.approx(deviation, rel=bound)
        head = network.chain[-1][-1]
        assert head.bias is None
        assert head.weight.std().item() == pytest.approx(0.01, rel=0.01)

    def test_affine(self):
        for affine in (True, False):
            modules = shufflenet(**SMALL, affine=affine).modules()
            norms = [m for m in modules if isinstance(m, nn.BatchNorm2d)]
            assert len(norms) > 50
            for norm in norms:
                assert (norm.weight is not None) == affine
                assert not affine or ((norm.weight == 1).all() and (norm.bias == 1e-4).all())

    def test_is_a_function_of_the_seed(self):
        first, second, third = [], [], []
        for seed, states in ((0, first), (0, second), (1, third)):
            torch.manual_seed(seed)
            states += shufflenet(**SMALL).state_dict().values()
        assert all(map(torch.equal, first, second))
        weights = [(a, b) for a, b in zip(first, third, strict=True) if a.dim() > 1]
        assert weights
        assert not any(itertools.starmap(torch.equal, weights))


class TestUse:
    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    def test_extracted_subnet_is_bit_equal(self, memory_format, statistics):
        torch.manual_seed(0)
        widths = (16, 32, 48, 64)
        model = shufflenet(classes=10, widths=widths, stem=8, tail=64, stem_stride=1)
        net = ms.Supernet(model).to(memory_format=memory_format).eval()
        images = torch.randn(8, 3, 32, 32).contiguous(memory_format=memory_format)
        for arch in (SPOS, net.space.sample(np.random.default_rng(0))):
            stats = statistics(net, arch, (3, 32, 32))
            subnet = net.extract(arch, stats=stats)
            assert not any(isinstance(m, ms.nn.Choice) for m in subnet.modules())
            for batch in (images, images[:1]):
                with torch.no_grad():
                    logits = net(batch, arch, stats=stats)
                    assert logits.shape == (len(batch), 10)
                    assert torch.equal(logits, subnet(batch))

    def test_only_the_active_path_has_gradients(self):
        net = ms.Supernet(shufflenet(**SMALL, classes=5, dropout=0.0))
        arch = (0, 3, 1)
        net(torch.randn(4, 3, 16, 16), arch).square().sum().backward()
        for name, parameter in net.named_parameters():
            option = re.search(r"chain\.(\d+)\.options\.(\w+)", name)
            active = option is None or option[2] == OPERATIONS[arch[int(option[1]) - 1]]
            assert (parameter.grad is not None) == active, name

    def test_dropout_is_before_the_classifier(self):
        dropout = shufflenet(**SMALL, dropout=0.3).chain[-1][-2]
        assert isinstance(dropout, nn.Dropout)
        assert dropout.p == 0.3

    @pytest.mark.parametrize(
        ("options", "shape"),
        [
            ({"channels": 1}, (1, 28, 28)),
            ({"strides": (1, 2, 2, 2)}, (3, 32, 32)),
            ({}, IMAGE),
        ],
    )
    def test_images(self, options, shape):
        with torch.device("meta"):
            model = shufflenet(classes=7, repeats=(1, 1, 1, 1), **options)
            net = ms.Supernet(model, input_shape=shape)
            assert net(torch.empty(2, *shape), (2, 1, 0, 3)).shape == (2, 7)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"widths": (64, 160)}, "one entry per stage"),
            ({"widths": (64, 161, 320, 640)}, "even"),
            ({"widths": (64, 160, 160, 640)}, "must grow"),
            ({"stem": 64}, "must grow"),
        ],
    )
    def test_bad_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            shufflenet(**options)
