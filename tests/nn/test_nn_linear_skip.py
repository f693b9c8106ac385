"""The linear stand-in for a skip: what it computes, what absorbs it, how it is taken out."""

import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.zoo import macro

F64 = torch.float64


def random_skip(channels):
    skip = ms.nn.LinearSkip(channels).to(F64)
    with torch.no_grad():
        skip.weight.copy_(torch.randn_like(skip.weight))
    return skip


def test_it_begins_as_an_identity_and_is_one_when_extracted():
    skip, x = ms.nn.LinearSkip(4), torch.randn(2, 4, 3, 3)
    assert torch.equal(skip(x), x)
    net = ms.Supernet(nn.Sequential(ms.nn.Choice([skip, nn.Conv2d(4, 4, 1)], "op")))
    assert type(net.extract((0,))[0]) is nn.Identity
    assert not list(net.extract((0,)).parameters())


def test_a_plain_pointwise_convolution_behind_it_absorbs_it():
    """conv(W)(A x) = conv(W A) x, to the rounding of float64."""
    skip, conv = random_skip(5), nn.Conv2d(5, 7, 1).to(F64)
    x = torch.randn(2, 5, 4, 3, dtype=F64)
    absorbed = nn.Conv2d(5, 7, 1).to(F64)
    with torch.no_grad():
        absorbed.weight.copy_((conv.weight[:, :, 0, 0] @ skip.weight[:, :, 0, 0])[..., None, None])
        absorbed.bias.copy_(conv.bias)
        torch.testing.assert_close(absorbed(x), conv(skip(x)), rtol=1e-12, atol=1e-12)


def test_a_residual_block_behind_it_cannot_absorb_it():
    """The branch can: A x + f(A x) and x + f'(x) with f'(x) = f(A x) differ by A x - x alone."""
    skip, x = random_skip(5), torch.randn(2, 5, 4, 3, dtype=F64)
    branch = nn.Sequential(nn.Conv2d(5, 9, 1), nn.ReLU(), nn.Conv2d(9, 5, 1)).to(F64)
    absorbed = nn.Sequential(nn.Conv2d(5, 9, 1), nn.ReLU(), branch[2]).to(F64)
    with torch.no_grad():
        product = branch[0].weight[:, :, 0, 0] @ skip.weight[:, :, 0, 0]
        absorbed[0].weight.copy_(product[..., None, None])
        absorbed[0].bias.copy_(branch[0].bias)
        path = skip(x) + branch(skip(x))
        torch.testing.assert_close(absorbed(x), branch(skip(x)), rtol=1e-12, atol=1e-12)
        plain = x + absorbed(x)
        torch.testing.assert_close(path - plain, skip(x) - x, rtol=1e-12, atol=1e-12)
        assert (path - plain).abs().max() > 0.1


def test_costs_are_those_of_networks_with_identities():
    plain, other = (ms.Supernet(macro(width=2, linear_skips=skips)) for skips in (False, True))
    archs = [plain.space.sample(np.random.default_rng(seed)) for seed in range(20)]
    shape = (3, 16, 16)
    assert list(ms.cost.macs(plain, archs, shape)) == list(ms.cost.macs(other, archs, shape))
    assert list(ms.cost.params(plain, archs)) == list(ms.cost.params(other, archs))
    assert {plain.space.canonical(a) for a in archs} == {other.space.canonical(a) for a in archs}


def moved(**options):
    """A supernet of the macro space whose stand-ins are no identities any more."""
    net = ms.Supernet(macro(width=2, layers=(2, 2), linear_skips=True), **options)
    for module in net.modules():
        if isinstance(module, ms.nn.LinearSkip):
            nn.init.normal_(module._parameters["weight"], 0.3, 0.5)
    return net.eval()


def test_a_path_with_one_says_so_and_one_without_is_what_it_extracts():
    net, x = moved(), torch.randn(4, 3, 8, 8)
    assert net.stands_in() == ["chain.2.options.identity.0", "chain.4.options.identity.0"]
    with_one, without = (1, 0, 2, 1), (0, 1, 0, 2)
    assert net.stands_in(with_one) == ["chain.2.options.identity.0"]
    assert net.stands_in(without) == []
    for arch in (with_one, without):
        stats = ms.evaluate.calibrate(net, arch, [x])
        if net.stands_in(arch):
            with pytest.raises(ValueError, match=r"identity.0 stands in for .* extract it without"):
                net.extract(arch, stats=stats)
            small = net.extract(arch)
            assert not torch.allclose(net(x, arch, stats="batch"), small.train()(x), atol=1e-3)
        else:
            assert torch.equal(net(x, arch, stats=stats), net.extract(arch, stats=stats)(x))


def test_every_slice_of_k_shot_has_one():
    """Unlike an identity it has weights, which codes mix."""
    net = moved(sharing=ms.sharing.KShot(3, last_std=1.0, start="equal"))
    skip = net.model.chain[2].options["identity"][0]
    assert skip._parameters["weight"].shape[0] == 3
    x, arch = torch.randn(4, 3, 8, 8), (1, 0, 2, 1)
    net(x, arch, stats="batch").square().sum().backward()
    assert skip._parameters["weight"].grad.abs().sum((1, 2, 3, 4)).min() > 0
