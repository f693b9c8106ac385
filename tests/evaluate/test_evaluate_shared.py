"""Batch-norm statistics that all paths share."""

import numpy as np
import pytest
import torch
from evaluate_networks import chain, conv, supernet
from torch import nn

import manyshot as ms
from manyshot.evaluate import shared_statistics

BATCHES = list(torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(0)).split(16))
ARCH = (1, 2, 3, 1)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ms.Supernet(ms.zoo.tiny(width=3))


class One:
    """Draws one architecture only."""

    integers = staticmethod(lambda counts: np.array(ARCH))


def equal(one, other):
    """Whether two statistics have the same means and variances."""
    pairs = zip(one.tensors.values(), other.tensors.values(), strict=True)
    return all(torch.equal(torch.stack(own), torch.stack(others)) for own, others in pairs)


def test_what_one_path_leaves_is_its_running_average(net):
    """With one path only, torch's own batch norms hold the same averages."""
    found = list(shared_statistics(net, BATCHES, One())(ARCH).tensors.values())
    module = net.extract(ARCH).train()
    norms = [m for m in module.modules() if hasattr(m, "running_mean")]
    for number, batch in enumerate(BATCHES):
        for norm in norms:
            norm.momentum = 1.0 if number == 0 else 0.1
        module(batch)
    assert len(found) == len(norms) > 3
    for (mean, variance), norm in zip(found, norms, strict=True):
        torch.testing.assert_close(mean, norm.running_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, norm.running_var, rtol=1e-4, atol=1e-5)


def test_the_net_and_later_statistics_stay_as_they_are(net):
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stats_of = shared_statistics(net, BATCHES, np.random.default_rng(0))
    first = stats_of((0, 1, 2, 3))
    stats_of((3, 2, 1, 0))
    assert equal(first, stats_of((0, 1, 2, 3)))
    assert net.training
    assert all(torch.equal(before[name], t) for name, t in net.state_dict().items())


def test_what_no_path_reached_does_not_depend_on_who_asked_before(net):
    alone = shared_statistics(net, BATCHES[:1], One())((3, 2, 1, 0))
    stats_of = shared_statistics(net, BATCHES[:1], One())
    for arch in ((0, 2, 1, 0), (3, 0, 1, 0), (1, 1, 1, 0)):
        stats_of(arch)
    assert equal(alone, stats_of((3, 2, 1, 0)))


def test_dropout_is_off():
    net = supernet(lambda: nn.Sequential(*chain(nn.Dropout(0.5), conv(4, 4))))
    arch = net.space.smallest
    one, other = (shared_statistics(net, BATCHES, np.random.default_rng(0))(arch) for _ in "ab")
    assert one.tensors and equal(one, other)


def test_no_batches(net):
    with pytest.raises(ValueError, match="no batches"):
        shared_statistics(net, [], np.random.default_rng(0))
