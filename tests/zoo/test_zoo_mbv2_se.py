"""`mbv2_se` against the sizes of the published description."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot import cost
from manyshot.zoo import mbv2_se

OPERATIONS = [
    f"mb{t}_k{k}{se}" for t, k, se in itertools.product((3, 6), (3, 5, 7), ("", "_se"))
] + ["identity"]
STAGES = ((32, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))
SMALL = {"widths": (24, 32), "repeats": (2, 3), "strides": (2, 1), "stem_stride": 1}


def on_meta(**options) -> ms.Supernet:
    with torch.device("meta"):
        return ms.Supernet(mbv2_se(**options))


@pytest.fixture(scope="module")
def net() -> ms.Supernet:
    return on_meta()


def layers():
    """Channels in and out, stride, side of the input at 224 pixels."""
    into, side = 16, 112
    for out, count, stride in STAGES:
        for i in range(count):
            yield into, out, stride if i == 0 else 1, side
            into, side = out, side // stride if i == 0 else side


def of_operation(operation: str, into: int, out: int, stride: int, side: int) -> tuple[int, int]:
    """Parameters and multiply-adds, written out."""
    after = (side // stride) ** 2
    if operation == "identity":
        moves = into != out or stride != 1
        return (into * out + 2 * out, into * out * after) if moves else (0, 0)
    expansion, kernel, squeezed = int(operation[2]), int(operation[5]), operation.endswith("se")
    mid = into * expansion
    params = into * mid + mid * kernel**2 + mid * out + 2 * (mid + mid + out)
    macs = into * mid * side**2 + mid * kernel**2 * after + mid * out * after
    if squeezed:
        params += 2 * mid * (mid // 4) + mid // 4 + mid
        macs += 2 * mid * (mid // 4)
    return params, macs


FIXED = (
    (3 * 32 * 9 + 64) + (32 * 9 + 64 + 32 * 16 + 32) + (320 * 1280 + 2560) + 1280 * 1000 + 1000,
    (3 * 32 * 9 + 32 * 9 + 32 * 16) * 112**2 + 320 * 1280 * 7**2 + 1280 * 1000,
)


class TestSizes:
    def test_published_parameters(self, net):
        """44.0 M in operations and 1.69 M elsewhere."""
        searched = sum(of_operation(op, *layer)[0] for layer in layers() for op in OPERATIONS)
        assert searched == pytest.approx(44.0e6, rel=1e-3)
        assert FIXED[0] == pytest.approx(1.69e6, rel=3e-3)  # printed with three digits
        assert sum(p.numel() for p in net.parameters()) == searched + FIXED[0]

    def test_architectures(self, net):
        rng = np.random.default_rng(0)
        archs = [net.space.smallest, *(net.space.sample(rng) for _ in range(2))]
        for arch in archs:
            pairs = zip(layers(), arch, strict=True)
            sizes = [of_operation(OPERATIONS[o], *layer) for layer, o in pairs]
            params, macs = np.sum([FIXED, *sizes], axis=0)
            subnet = net.extract(arch)
            assert sum(p.numel() for p in subnet.parameters()) == params
            assert cost.subnet_macs(subnet, (3, 224, 224)) == macs

    def test_decisions(self, net):
        assert [d.name for d in net.space.decisions] == [f"layer{i}" for i in range(21)]
        assert all(list(d.options) == OPERATIONS for d in net.space.decisions)


def test_identities_commute_but_for_the_first_of_a_stage():
    space = on_meta(**SMALL).space
    assert space.canonical((12, 12, 12, 12, 3)) == (12, 12, 12, 3, 12)
    assert space.canonical((12, 3, 3, 12, 12)) == (12, 3, 3, 12, 12)


def test_extracted_subnet_is_bit_equal_and_of_the_described_functions():
    torch.manual_seed(0)
    net = ms.Supernet(mbv2_se(classes=5, **SMALL))
    images, rng = torch.randn(4, 3, 16, 16), np.random.default_rng(0)
    with torch.no_grad():
        for arch in ((0,) * 5, (11,) * 5, (12,) * 5, net.space.sample(rng)):
            assert torch.equal(net(images, arch), net.extract(arch)(images))
    kinds = {type(m) for m in net.extract((11,) * 5).modules()}
    assert {nn.Hardswish, nn.Hardsigmoid} <= kinds
    assert not kinds & {nn.ReLU, nn.SiLU, nn.Sigmoid}


def test_a_block_adds_its_input_where_shapes_agree():
    torch.manual_seed(0)
    net = ms.Supernet(mbv2_se(**SMALL))
    second = net.extract((0,) * 5).chain[2].eval()
    x = torch.randn(2, 24, 8, 8)
    with torch.no_grad():
        assert torch.equal(second(x), second.body(x) + x)
    assert net.extract((0,) * 5).chain[1].shortcut is None
    expand, norm, act = second.body[:3]
    with torch.no_grad():
        assert torch.equal(act(norm(expand(x))), F.hardswish(norm(F.conv2d(x, expand.weight))))


def test_stages_have_equally_many_entries():
    with pytest.raises(ValueError, match="mbv2_se: .*one entry per stage"):
        mbv2_se(**{**SMALL, "repeats": (2,)})
