"""Eval mode for a while: who evaluates inside walks through no modules, and all is as before."""

import pytest
import torch
from torch import nn

from manyshot.nn.modes import evaluating


class Counted(nn.Linear):
    evals = 0

    def train(self, mode=True):
        self.evals += not mode
        return super().train(mode)


def modes(net):
    return [module.training for module in net.modules()]


def test_inside_another_of_the_same_network_nothing_is_walked_through():
    net = nn.Sequential(Counted(1, 1), nn.Dropout().eval())
    before = modes(net)
    with evaluating(net):
        for _ in range(3):
            with torch.enable_grad(), evaluating(net):
                assert modes(net) == [False] * 3
                assert not torch.is_grad_enabled()
        assert modes(net) == [False] * 3
        assert net[0].evals == 1
    assert modes(net) == before
    with evaluating(net):
        assert net[0].evals == 2


def test_another_network_and_one_that_trains_again_are_set():
    net, other = nn.Sequential(nn.Linear(1, 1)), nn.Linear(1, 1)
    with evaluating(net):
        with evaluating(other):
            assert not other.training
        assert other.training
        net.train()
        with evaluating(net):
            assert modes(net) == [False, False]
        assert modes(net) == [True, True]


def test_modes_return_after_an_error():
    net = nn.Sequential(nn.Linear(1, 1).eval())
    with pytest.raises(KeyError), evaluating(net), evaluating(net):
        raise KeyError
    assert modes(net) == [True, False]
    with evaluating(net):
        assert not net.training
    assert net.training
