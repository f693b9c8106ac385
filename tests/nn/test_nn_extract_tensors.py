"""The tensors of an extracted network: whose, of what type, and which statistics."""

import copy

import pytest
import torch
from nn_nets import (
    INPUT,
    NETWORKS,
    archs,
    calibrated,
    hand,
    images,
    make,
    same_snapshot,
    snapshot,
)
from torch import nn

import manyshot as ms


def test_storage_is_independent():
    net = make("nasty").eval()
    arch, x = net.space.largest, images(4)
    stats = calibrated(net, arch, x)
    before, kept = snapshot(net), {k: (m.clone(), v.clone()) for k, (m, v) in stats.tensors.items()}
    subnet = net.extract(arch, stats=stats).train()
    subnet(x).sum().backward()
    with torch.no_grad():
        for tensor in subnet.state_dict(keep_vars=True).values():
            tensor.fill_(7)
    assert same_snapshot(before, snapshot(net))
    assert all(p.grad is None for p in net.parameters())
    for path, (mean, variance) in stats.tensors.items():
        assert torch.equal(mean, kept[path][0]) and torch.equal(variance, kept[path][1])


def test_modes_dtype_layout_and_frozen_parameters_are_kept():
    net = make("nasty").to(torch.float64, memory_format=torch.channels_last)
    net.train()
    net.model.shared.eval()
    net.model.tail.eval()
    net.model.tail.blocks[0].train()
    net.model.embed.weight.requires_grad_(False)
    net.model.project.weight.requires_grad_(False)
    subnet = net.extract(hand(net, width=8, ratio=2, kernel=3, op=1, nested=0, depth=3))
    assert subnet.training and subnet.stem.training and not subnet.shared.norm.training
    assert not subnet.tail.training and subnet.tail[0].training and not subnet.tail[1].training
    frozen = {name for name, p in subnet.named_parameters() if not p.requires_grad}
    assert frozen == {"embed.weight", "project.weight"}
    floating = [t for t in subnet.state_dict().values() if t.is_floating_point()]
    assert {t.dtype for t in floating} == {torch.float64}
    assert subnet.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not subnet.stem[0].weight.is_contiguous()


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("elastic", [True, False])
def test_batch_norm_without_statistics_starts_fresh_in_the_type_of_the_network(affine, elastic):
    width = ms.choose((2, 4), "width")
    norm = ms.nn.BatchNorm2d(width, affine=affine) if elastic else nn.BatchNorm2d(4, affine=affine)
    net = ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, width, 1), norm)).to(torch.float64)
    plain = net.extract((1,))[1]
    assert type(plain) is nn.BatchNorm2d and plain.track_running_stats
    assert plain.running_mean.dtype == plain.running_var.dtype == torch.float64
    assert plain.running_mean.tolist() == [0] * 4 and plain.running_var.tolist() == [1] * 4
    assert plain.num_batches_tracked == 0 and plain.momentum == norm.momentum == 0.1
    x = images(4, dtype=torch.float64)
    net.eval()
    stats = calibrated(net, (1,), x)
    assert torch.equal(net(x, (1,), stats=stats), net.extract((1,), stats=stats)(x))


def test_meta_networks_extract_on_meta():
    with torch.device("meta"):
        net = ms.Supernet(NETWORKS["nasty"](), input_shape=INPUT)
    subnet = net.extract(net.space.smallest)
    assert {t.device.type for t in subnet.state_dict().values()} == {"meta"}
    assert subnet(torch.empty(2, *INPUT, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_loads_in_a_fresh_extraction(name):
    net, other, x = make(name).eval(), make(name, seed=1).eval(), images(4)
    for arch in archs(net, 0):
        stats, foreign = calibrated(net, arch, x), calibrated(other, arch, x)
        subnet, fresh = net.extract(arch, stats=stats), other.extract(arch, stats=foreign)
        assert not torch.equal(subnet(x), fresh(x))
        fresh.load_state_dict(subnet.state_dict())
        assert torch.equal(subnet(x), fresh(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_of_an_extracted_network_work(name):
    net, x = make(name), images(4)
    arch = net.space.smallest
    subnet = net.extract(arch)
    assert torch.equal(copy.deepcopy(subnet)(x), subnet(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_extraction_from_a_copy_equals_extraction(name):
    net, x = make(name), images(4)
    arch = net.space.smallest
    assert torch.equal(copy.deepcopy(net).extract(arch)(x), net.extract(arch)(x))


@pytest.mark.parametrize("name", ["tiny", "nasty"])
def test_extracted_networks_export(name):
    net, x = make(name).eval(), images(4)
    arch = net.space.largest
    subnet = net.extract(arch, stats=calibrated(net, arch, x))
    program = torch.export.export(subnet, (x,))
    assert torch.equal(program.module()(x), subnet(x))
    targets = [str(node.target) for node in program.graph.nodes]
    assert not [t for t in targets if "manyshot" in t]


def test_extracting_changes_nothing_and_needs_no_random_numbers():
    net = make("nasty").eval()
    before, state = snapshot(net), torch.get_rng_state()
    net.extract(net.space.largest)
    assert same_snapshot(before, snapshot(net))
    assert torch.equal(state, torch.get_rng_state())


def test_statistics_of_another_architecture_or_network_are_refused():
    net, x = make("nasty").eval(), images(4)
    a, b = net.space.smallest, net.space.largest
    stats = calibrated(net, a, x)
    with pytest.raises(ValueError, match=r"calibrated for architecture .*ms\.evaluate\.calibrate"):
        net.extract(b, stats=stats)
    stats.tensors["elsewhere.norm"] = stats.tensors["post"]
    with pytest.raises(LookupError, match=r"another network.*'elsewhere\.norm'.*calibrate"):
        net.extract(a, stats=stats)


def test_a_batch_norm_that_evaluation_skips_is_extracted_fresh():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = ms.nn.Conv2d(3, ms.choose((2, 4), "width"), 1)
            self.auxiliary = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.stem(self.auxiliary(x) if self.training else x)

    net, x = ms.Supernet(Net()).eval(), images(4)
    subnet = net.extract((0,), stats=calibrated(net, (0,), x))
    assert torch.equal(subnet(x), net(x, (0,)))
    assert subnet.auxiliary.running_mean.tolist() == [0, 0, 0]


class Mixed(nn.Module):
    """A weight computed from two copies, as weight-sharing schemes do."""

    def __init__(self):
        super().__init__()
        self.share = nn.Parameter(torch.tensor(0.3))

    def forward(self, copies):
        return self.share * copies[0] + (1 - self.share) * copies[1]

    def right_inverse(self, weight):
        return torch.stack([weight, torch.randn_like(weight)])


def test_parametrised_layers_are_extracted_each_with_its_own_weights():
    torch.manual_seed(0)
    width = ms.choose((4, 8), "width")
    convs = [ms.nn.Conv2d(3, width, 3, padding=1, bias=False)]
    convs += [ms.nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(11)]
    for conv in convs:
        nn.utils.parametrize.register_parametrization(conv, "weight", Mixed(), unsafe=True)
    net = ms.Supernet(nn.Sequential(*convs)).eval()
    images = torch.randn(2, 3, 6, 6)
    for arch in net.space.enumerate():
        subnet = net.extract(arch)
        assert len(list(subnet.parameters())) == 12
        assert torch.equal(net(images, arch), subnet(images))
        expected = sum(p.numel() for p in subnet.parameters())
        assert ms.cost.params(net, [arch]).tolist() == [expected]
