"""What holds for every network of the zoo, and the promise of `tiny`."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.nn.layer import Layer
from manyshot.zoo import NETWORKS, tiny
from small_zoo import SMALL, small, supernet


def test_every_network_is_tested():
    assert set(SMALL) == set(NETWORKS)


@pytest.mark.parametrize("name", NETWORKS)
class TestNetworks:
    @pytest.fixture
    def net(self, name) -> ms.Supernet:
        net = copy.deepcopy(supernet(name))
        torch.manual_seed(0)
        return net

    def test_stages_chained_are_the_forward(self, net):
        net.eval()
        images = torch.randn(3, 3, 16, 16)
        for arch in (net.space.smallest, net.space.sample(np.random.default_rng(0))):
            with torch.no_grad(), net.selecting(arch, "batch"):
                x = images
                for stage in net.model.stages():
                    x = stage(x)
            with torch.no_grad():
                assert torch.equal(x, net(images, arch, stats="batch"))

    def test_extracted_stages_are_plain_and_chained(self, net, statistics):
        arch = net.space.largest
        subnet = net.extract(arch, stats=statistics(net, arch, (3, 16, 16))).eval()
        images = x = torch.randn(3, 3, 16, 16)
        with torch.no_grad():
            for stage in subnet.stages():
                x = stage(x)
            assert torch.equal(x, subnet(images))
        assert not any(isinstance(module, Layer) for module in subnet.modules())

    def test_every_parameter_of_a_path_learns(self, net):
        arch = net.space.largest
        images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 5
        nn.functional.cross_entropy(net(images, arch), labels).backward()
        used = [p for p in net.parameters() if p.grad is not None]
        assert len(used) == len(list(net.extract(arch).parameters()))
        assert all(p.grad.isfinite().all() and p.grad.any() for p in used)

    def test_extracted_subnet_can_be_part_of_another_network(self, net):
        fixed = net.extract(net.space.largest)
        other = ms.Supernet(nn.Sequential(fixed, ms.nn.Choice([nn.Identity(), nn.ReLU()], "op")))
        assert [d.name for d in other.space.decisions] == ["op"]
        assert other.space.canonical((1,)) == (1,)

    def test_is_a_function_of_the_seed(self, name):
        states = []
        for _ in range(2):
            torch.manual_seed(3)
            states.append(small(name).state_dict())
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_tiny_has_256_distinct_networks():
    with torch.device("meta"):
        net = ms.Supernet(tiny())
    networks = set()
    for arch in net.space.enumerate():
        leaves = (m for m in net.extract(arch).modules() if not list(m.children()))
        networks.add(tuple(map(repr, leaves)))
        assert net.space.canonical(arch) == arch
    assert len(networks) == net.space.size == 256
