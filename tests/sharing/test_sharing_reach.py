"""The share of a gradient that codes can reach, against least squares on plain tensors."""

import pytest
import torch
from sharing_nets import ConvNorm, Mixed, k_shot, vary_codes
from torch.nn import functional as F

from manyshot.nn.mixing import Kept
from manyshot.sharing import Reach

ARCH = (1, 0)


def reached(net, arch, images, labels):
    [code] = net.sharing.code([arch]).detach()
    reach = Reach(net.sharing.by_code(code))
    return reach.share(F.cross_entropy(net(images, arch, mixture=Kept(arch, reach)), labels))


def pieces(net, images, labels):
    """Gradients of an extracted network, with the slices of each tensor, by layer and channel."""
    subnet = net.extract(ARCH)
    F.cross_entropy(subnet(images), labels).backward()
    for layer, option in enumerate(ARCH):
        for i, module in enumerate(net.model.layers[layer].options[str(option)]):
            for name, stack in module._parameters.items():
                if stack is not None:
                    grad = subnet.layers[layer][i]._parameters[name].grad
                    for channel in range(4):
                        where = {"path": 0, "layer": layer, "channel": (layer, i, channel)}
                        yield (
                            where,
                            grad[channel].flatten(),
                            stack.detach()[:, channel].reshape(3, -1),
                        )


@pytest.mark.parametrize("scope", ["path", "layer", "channel"])
def test_it_is_the_projection_onto_the_differences_of_slices(scope):
    net = k_shot(ConvNorm, 3, code_scope=scope).double()
    vary_codes(net)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # norms start equal
        for parameter in net.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    images = torch.randn((8, 1, 8, 8), dtype=torch.float64, generator=generator)
    labels = torch.randint(10, (8,), generator=generator)
    groups = {}
    for where, grad, slices in pieces(net, images, labels):
        groups.setdefault(where[scope], []).append((grad, slices))
    inside = whole = 0.0
    for parts in groups.values():
        grad = torch.cat([g for g, _ in parts])
        slices = torch.cat([s for _, s in parts], 1)
        apart = (slices[1:] - slices[:1]).T  # K - 1 differences, not centred
        fitted = apart @ torch.linalg.lstsq(apart, grad[:, None]).solution
        inside, whole = inside + float(fitted.square().sum()), whole + float(grad.square().sum())
    found = reached(net, ARCH, images, labels)
    assert 0.001 < found < 1
    assert found == pytest.approx(inside / whole, rel=1e-6)


def test_equal_slices_reach_nothing():
    net = k_shot(ConvNorm, 3, start="equal")
    assert reached(net, ARCH, torch.randn(4, 1, 8, 8), torch.arange(4)) == 0


@pytest.mark.parametrize("scope", ["path", "channel"])
def test_everything_can_be_looked_at(scope):
    """Elastic sizes, ties, parametrisations: nothing moves, and no gradient is left behind."""
    net = k_shot(Mixed, 2, code_scope=scope)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for arch in (net.space.smallest, net.space.largest):
        share = reached(net, arch, torch.randn(4, 3, 8, 8), torch.arange(4))
        assert 0 < share < 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())
