"""Networks that are no chain, or are harder to share than they look."""

import itertools

import pytest
import torch
from evaluate_networks import BATCHES, FORWARDED, LOOK, assert_scored, chain, layer, supernet
from torch import nn

import manyshot as ms
from manyshot.evaluate import Population
from manyshot.zoo.blocks import Chain, pooled_classifier


class Residual(Chain):
    """Its forward does more than its stages, when layer 1 is wide."""

    def __init__(self):
        super().__init__(chain())
        self.decision = self.chain[2].decision

    def forward(self, x):
        x = self.chain[0](x)
        y = self.chain[2](self.chain[1](x))
        return self.chain[3](x + y if ms.value(self.decision) == "wide" else y)


class Left(Chain):
    def stages(self):
        return list(self.chain)[:-1]


class Again(Chain):
    """Its last stage reads what an earlier one remembers."""

    class Remember(nn.Module):
        def forward(self, x):
            self.seen = x
            return x

    class Recall(nn.Module):
        def __init__(self, source):
            super().__init__()
            self.__dict__["source"] = source

        def forward(self, x):
            return x + self.source.seen

    def __init__(self):
        memory = self.Remember()
        super().__init__(chain(memory, layer(2), self.Recall(memory)))


class Pair(nn.Module):
    def forward(self, x):
        return (x[0] + x[1],) if isinstance(x, tuple) else (x, x)


class Second(nn.Module):
    def forward(self, x):
        return x[0]


def twice():
    norm = nn.BatchNorm2d(4)
    return Chain(chain(norm, nn.Tanh(), norm))


class Listed(nn.Module):
    """`stages` is a list of modules, not what names the chain."""

    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(chain())

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
        return x


class Nothing(Chain):
    def stages(self):
        return []


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (Residual, "stage by stage, architecture 0-1 gives other results"),
        (lambda: Left(chain()), "stage by stage, architecture 0-0 gives other results"),
        (lambda: Left([*chain(), nn.Identity(), nn.Sigmoid()]), "gives other results"),
        (lambda: Chain(chain(Pair(), Second())), "stage 2 does not give one tensor with a row"),
        (Again, "gives other results"),
        (twice, "batch norm 'chain.2' of 0-0 sees something else"),
        (Listed, "Listed has no method stages()"),
        (lambda: Nothing(chain()), "stages() of Nothing does not give a list of modules"),
    ],
)
def test_what_is_no_chain_is_scored_one_by_one_and_says_why(make, why):
    net = supernet(make)
    archs = list(net.space.enumerate())
    population = Population(net, archs, **LOOK)
    assert population.method.startswith("one by one: ")
    assert why in population.method
    assert [arch for arch, _ in population] == archs
    assert_scored(population, net, LOOK)
    assert (population.account.share, population.account.architectures) == (1, len(archs))


def test_an_error_of_the_chain_alone_is_a_reason_and_of_the_network_an_error():
    class Reversed(Chain):
        def stages(self):
            return list(self.chain)[::-1]

    class Broken(Chain):
        def forward(self, x):
            raise OSError("a cable is gone")

    population = Population(supernet(lambda: Reversed(chain())), [(0, 0)], **LOOK)
    assert population.method.startswith("one by one: its stages cannot run one after the other: ")
    assert len(dict(population)) == 1
    with pytest.raises(OSError, match="a cable is gone"):
        Population(supernet(lambda: Broken(chain())), [(0, 0)], **LOOK)


def test_weights_of_the_whole_path_are_scored_one_by_one():
    net = supernet(lambda: ms.zoo.tiny(width=4), sharing=ms.sharing.KShot(2, codes="random"))
    archs = list(itertools.islice(net.space.enumerate(), 3))
    population = Population(net, archs, **LOOK)
    assert population.method.startswith("one by one: KShot gives every architecture weights of its")
    assert_scored(population, net, LOOK)


class Scaled(nn.Module):
    """Reads a decision that another module holds."""

    def __init__(self, decision):
        super().__init__()
        self.read = lambda: decision

    def forward(self, x):
        return x * ms.value(self.read())


def test_a_decision_that_is_held_elsewhere_is_found():
    class Early(Chain):
        def __init__(self):
            factor = ms.choose((1, 2, 3), "factor")
            super().__init__(chain(Scaled(factor)))
            self.factor = factor

    net = supernet(Early)
    population = Population(net, net.space.enumerate(), **LOOK)
    assert population.method == "prefix tree"
    assert_scored(population, net, LOOK)
    # Stem once, layer 0 for its 2 options, then 2 x 3 factors, and 12 architectures.
    assert population.account.stage_runs == BATCHES * (1 + 2 + 6 + 12 + 12)


class Writes(nn.Module):
    def forward(self, x):
        return x.add_(1)


def test_stages_that_write_into_what_others_share():
    """Also through an option that gives its input back as it is."""

    def make():
        passing = ms.nn.Choice({"same": nn.Identity(), "less": nn.Tanh()}, "passing")
        write = ms.nn.Choice({"add": Writes(), "relu": nn.ReLU(inplace=True)}, "write")
        return Chain(chain(passing, write))

    net = supernet(make)
    population = Population(net, net.space.enumerate(), **LOOK)
    assert population.method == "prefix tree"
    assert_scored(population, net, LOOK)
    with torch.inference_mode():
        inferred = Population(net, net.space.enumerate(), **LOOK)
        assert inferred.method == "prefix tree"
        assert dict(inferred) == dict(population)


def test_reads_that_depend_on_the_shape_of_the_input():
    """A stage reads a decision at one resolution only; what it costs differs between both."""

    class Large(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def forward(self, x):
            return x * ms.value(self.factor) if x.shape[-1] > 6 else x

    def make():
        side, factor = ms.choose((6, 10), "side"), ms.choose((1, 2), "factor")
        return Chain([ms.nn.Resize(side), *chain(Large(factor))])

    net = supernet(make)
    population = Population(net, net.space.enumerate(), **LOOK)
    assert_scored(population, net, LOOK)
    macs = ms.cost.macs(net, population.archs, (1, 8, 8))
    assert population.account.plain_macs == FORWARDED * int(macs.sum())
    # Per side: resizing, stem, layer 0; the factor matters at one of them; layer 1 and head.
    assert population.account.stage_runs == BATCHES * (2 + 2 + 4 + (2 + 4) + (4 + 8) + (4 + 8))


def test_a_stage_that_cannot_be_counted_is_scored_one_by_one():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft2(x).real

    def network(*more):
        ops = [nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 3, padding=1)]
        return Chain([ms.nn.Choice(ops, "op"), *more, pooled_classifier(4, 10)])

    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = [(images, torch.arange(4))]
    counted, uncounted = (
        Population(ms.Supernet(model), [(0,), (1,)], calibration=batches, validation=batches)
        for model in (network(), network(Spectrum()))
    )
    assert counted.method == "prefix tree"
    assert uncounted.method.startswith("one by one: stage 1 cannot be counted: the network runs")
    assert "aten::_fft_" in uncounted.method and "ms.cost.register" in uncounted.method
    assert uncounted.account.macs is None
    assert [arch for arch, _ in uncounted] == [(0,), (1,)]
