"""What full masks cost, against the products that real forwards run."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import manyshot as ms
from manyshot.cost.masked import MaskedMacs

NETS = {
    "macro": (lambda: ms.zoo.macro(width=4, channels=1), (1, 16, 16)),
    "tiny": (lambda: ms.zoo.tiny(width=4), (1, 8, 8)),
    "tiny_vit": (ms.zoo.tiny_vit, (1, 8, 8)),
    "tiny_cnn": (lambda: ms.zoo.tiny_cnn(resolutions=(20, 28)), (3, 28, 28)),
}


class Products(TorchDispatchMode):
    """Multiply-adds by torch's own formulas, in all and where there are gradients."""

    def __init__(self):
        super().__init__()
        self.total = self.learning = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        macs = 0 if formula is None else formula(*args, **(kwargs or {}), out_val=out) // 2
        if func is torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default:
            queries, keys = args[:2]  # torch has no formula: queries by keys, shares by values
            macs = 2 * queries.numel() * keys.shape[-2]
        self.total += macs
        self.learning += macs * torch.is_grad_enabled()
        return out


def ran(net, arch, shape, samples):
    policy = {
        d: F.one_hot(torch.tensor(i), len(d.options)).float().requires_grad_()
        for d, i in zip(net.space.decisions, arch, strict=True)
    }
    with Products() as products:
        net(torch.randn(samples, *shape), arch, policy=policy)
    return np.array([products.total, products.learning])


@pytest.mark.parametrize("name", NETS)
def test_all_that_runs_is_counted(name):
    """Of six samples less those of four, so that what is made once for a batch does not count."""
    make, shape = NETS[name]
    net = ms.Supernet(make(), input_shape=shape)
    costs, rng = MaskedMacs(net, torch.randn(3, *shape)), np.random.default_rng(0)
    net(torch.randn(2, *shape), net.space.largest)
    for arch in (net.space.smallest, net.space.largest, net.space.sample(rng)):
        ran(net, arch, shape, 2)  # compares masks and slices, once
        total, learning = (ran(net, arch, shape, 6) - ran(net, arch, shape, 4)) / 2
        assert costs(arch) == total
        assert int(ms.cost.macs(net, [costs.learning(arch)], shape)[0]) == learning
