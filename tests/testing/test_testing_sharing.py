"""Our own schemes pass the suite we ship, and broken ones do not."""

import pytest
import torch

import manyshot as ms
from manyshot.nn.mixing import Combination
from manyshot.sharing import Shares
from manyshot.testing.sharing import SharingSuite


class TestOneShot(SharingSuite):
    def make_sharing(self):
        return ms.sharing.OneShot()


class TestKShot(SharingSuite):
    def make_sharing(self):
        return ms.sharing.KShot(3, last_std=1.0, seed=1)


class TestPerLayer(SharingSuite):
    def make_sharing(self):
        return ms.sharing.KShot(2, last_std=1.0, code_scope="layer", update_mode="joint")


class TestPerChannel(SharingSuite):
    def make_sharing(self):
        return ms.sharing.KShot(2, last_std=1.0, code_scope="channel")


class TestOneHot(SharingSuite):
    def make_sharing(self):
        return ms.sharing.KShot(2, codes="one_hot", mix_fixed_layers=True, mix_bn_affine=False)


class Noisy(Shares):
    """Draws from the global stream in a forward."""

    def mixture(self, arch, phase=None):
        torch.rand(1)


class Restless(Shares):
    """Claims code steps without codes."""

    def phase(self, step, steps):
        return "code"


class Raw(Shares):
    """Mixes by the raw encoding, so that aliases differ."""

    copies = 2

    def attach(self, model, space):
        ms.sharing.KShot(2, codes="uniform").attach(model, space)

    def mixture(self, arch, phase=None):
        share = (1 + sum(arch)) / 10
        return Combination(torch.tensor([share, 1 - share]))


class Forgetful(Raw):
    """Makes other weights every time."""

    def attach(self, model, space):
        ms.sharing.KShot(2, codes="uniform", seed=len(MADE)).attach(model, space)
        MADE.append(self)


MADE = []


@pytest.mark.parametrize(
    ("scheme", "check"),
    [
        (Noisy, "forwards_change_nothing"),
        (Restless, "phases_are_known_and_move_something"),
        (Raw, "aliases_compute_the_same"),
        (Forgetful, "weights_are_a_function_of_the_settings"),
    ],
)
def test_a_broken_scheme_fails(scheme, check):
    suite = SharingSuite()
    suite.make_sharing = scheme
    with pytest.raises(AssertionError):
        getattr(suite, f"test_{check}")()
