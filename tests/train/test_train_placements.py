"""Training where a sharing scheme places channels: the loop, its end after a kill, and the rest."""

import pytest
import torch
from train_nets import same, seeded, trainer, weights

import manyshot as ms
from kills import EVERY, left_by_kills
from manyshot.sharing import Bilateral, LocallyFree
from manyshot.train import train


def convnet(scheme=None):
    return seeded(lambda: ms.Supernet(ms.zoo.convnet(width=8, depth=1, channels=1), sharing=scheme))


def trained(scheme=None, sampler="uniform", folder=None):
    run = trainer(convnet(scheme), folder, sampler, epochs=1)
    train(run)
    return run


def test_without_free_channels_it_is_one_copy_bit_for_bit():
    one, free = trained().net.model, trained(LocallyFree(offset=0)).net.model
    assert same(weights(one), weights(free))
    for other in (LocallyFree(offset=1), Bilateral()):
        assert not same(weights(one), weights(trained(other).net.model))


def test_the_sandwich_rule_distils_from_the_largest_which_runs_once():
    run = trained(Bilateral(), "sandwich")
    assert run.net.scored(run.net.space.largest) == (ms.nn.LEFT,)
    assert all(torch.isfinite(tensor).all() for tensor in weights(run.net).values())


@EVERY
@pytest.mark.parametrize("scheme", [Bilateral, lambda: LocallyFree(offset=2, tries=2)])
def test_stopped_after_any_write_it_goes_on_to_the_same_end(scheme, of, tmp_path):
    def make(folder):
        return trainer(convnet(scheme()), folder, epochs=2)

    whole = make(tmp_path / "whole")
    left = left_by_kills(tmp_path / "whole", lambda: train(whole))
    for name, folder in dict.fromkeys([left[0], *of(left)]):
        again = make(folder)
        train(again)
        assert same(weights(whole.net), weights(again.net)), name
    remembered = weights(whole.net).get("sharing.losses")
    assert remembered is None or remembered.count_nonzero() > 0
