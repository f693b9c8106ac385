"""Base and free channels: which ways there are, which is taken, and that tensors agree."""

import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import manyshot as ms
from manyshot.nn import LEFT
from manyshot.nn.layer import take
from manyshot.sharing import LocallyFree, Passes
from manyshot.sharing.locally_free import free_bins
from manyshot.testing.sharing import SharingSuite


@given(st.integers(0, 4), st.integers(1, 9), st.integers(0, 9))
def test_ways_are_all_subsets_that_hold_the_base_and_lie_below_the_end_of_the_zone(
    offset, used, more
):
    """By brute force over all subsets."""
    room = used + more
    expected = [
        some
        for some in itertools.combinations(range(room), used)
        if set(range(used - offset)) <= set(some) and max(some) < used + offset
    ]
    assert free_bins(offset, used, room) == sorted(expected)
    assert free_bins(offset, used, room)[0] == tuple(range(used))
    if offset == 0:
        assert free_bins(offset, used, room) == [tuple(range(used))]
    elif used >= offset and more >= offset:
        assert len(free_bins(offset, used, room)) == math.comb(2 * offset, offset)


class Flattened(nn.Module):
    """One width in bins of 2, twice as wide, flattened, in groups of its own and concatenated."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 4, 6, 8), "width")
        self.one = ms.nn.Conv2d(3, width, 1, bias=False)
        self.norm = ms.nn.BatchNorm2d(width, affine=False)
        self.two = ms.nn.Conv2d(width, width * 2, 1, groups=width // 2, bias=False)
        self.mix = ms.nn.Conv2d(ms.concat(width * 2, width), 4, 1, bias=False)
        self.head = ms.nn.Linear(width * 9, 5)
        self.other = ms.nn.Linear(4, ms.choose((1, 2, 3), "other"), bias=False)

    def forward(self, x):
        x = self.norm(self.one(x))
        mixed = self.mix(torch.cat([self.two(x), x], 1))
        return self.head(x.flatten(1)), self.other(mixed.mean((2, 3)))


def net_of(offset=1, **options):
    torch.manual_seed(0)
    return ms.Supernet(Flattened(), sharing=LocallyFree(offset=offset, **options))


def way_of(net, row, way, scheme=None):
    """A placement that has one width lie in another way."""
    return net.sharing._of({row: way})


def test_tensors_that_hold_the_same_channels_are_cut_alike():
    """Width 4 of 8 in bins of 2: bins 0 and 2 in the second way, wherever the width is."""
    net = net_of()
    assert net.sharing._bins.rooms == [4, 3]
    placement, arch = way_of(net, (0, 2), 1), (1, 0)
    x = torch.arange(72)
    with net.selecting(arch, placement=placement) as selection:
        parts = {
            name: module.part("weight", selection)
            for name, module in net.model.named_children()
            if name != "norm"
        }
    chosen = [0, 1, 4, 5]
    assert take(x, parts["one"][:1]).tolist() == chosen
    assert take(x, parts["two"][:1]).tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert take(x[:24], parts["mix"][1:]).tolist() == [
        0,
        1,
        2,
        3,
        8,
        9,
        10,
        11,
        *(16 + i for i in chosen),
    ]
    assert take(x, parts["head"][1:]).tolist() == [*range(18), *range(36, 54)]
    images = torch.randn(6, 3, 3, 3)
    small = net.extract(arch, placement=placement)
    with torch.no_grad():
        for mine, plain in zip(net(images, arch, placement=placement), small(images), strict=True):
            assert torch.equal(mine, plain)


def test_the_smallest_loss_is_trained_and_what_was_best_is_delivered():
    net = net_of(tries=4)
    scheme, arch = net.sharing, (1, 0)
    row = list(scheme._ways).index((0, 2))
    count = scheme._ways[0, 2]
    assert count == 2 and scheme.passes(arch) == Passes(4, 1)
    assert net.placement(arch) is LEFT, "nothing is known yet"
    asked = []

    def loss_of(placement):
        asked.append(placement)
        way = 0 if placement is LEFT else placement.ways.get((0, 2), 0)
        return torch.tensor([2.0, 1.0][way])

    for step in range(30):
        asked.clear()
        before = net.placement(arch)
        [taken] = scheme.trained(arch, loss_of, np.random.default_rng(step))
        assert len(asked) == 4 and asked[0] == before
        least = min(loss_of(p).item() for p in asked[:4])
        assert loss_of(taken).item() == least
    best, worst = scheme.losses[row, 1].item(), scheme.losses[row, 0].item()
    assert best < 0 < worst, "what is remembered is below or above the mean of those tried"
    assert net.placement(arch).ways[0, 2] == 1
    assert net.placement((3, 2)) == net.placement(arch), "one placement for all architectures"
    assert scheme.losses[:, :2].count_nonzero() <= 2 * len(scheme._free(arch))


def test_rows_of_other_widths_are_left_alone():
    net = net_of(tries=3)
    scheme = net.sharing
    rows = list(scheme._ways)
    scheme.trained((1, 0), lambda p: torch.rand(()), np.random.default_rng(0))
    touched = {rows[i] for i in scheme.losses.abs().sum(1).nonzero().flatten().tolist()}
    assert touched <= {(0, 2), (1, 1)}


def test_one_way_alone_takes_no_trial():
    net = net_of(offset=0, tries=5)
    assert net.sharing.passes((1, 1)) == Passes(0, 1)
    never = None
    assert net.sharing.trained((1, 1), never, np.random.default_rng(0)) == (LEFT,)
    assert net_of(tries=1).sharing.passes((1, 1)) == Passes(0, 1)
    assert net_of(tries=5).sharing.passes((3, 2)) == Passes(0, 1), "the widest lies in one way"


def test_it_is_remembered_with_the_weights():
    net, other = net_of(), net_of()
    net.sharing.losses[0, 1] = -1.0
    assert other.placement((0, 0)) is LEFT
    other.load_state_dict(net.state_dict())
    assert other.placement((0, 0)) == net.placement((0, 0)) != LEFT
    assert hash(other.placement((0, 0))) == hash(net.placement((0, 0)))


def test_scores_are_of_what_is_delivered_by_the_prefix_tree_too():
    torch.manual_seed(0)
    net = ms.Supernet(ms.zoo.convnet(width=8, depth=1, channels=1), sharing=LocallyFree()).eval()
    with torch.no_grad():
        net.sharing.losses[:, 1] = -1.0
    data = [(torch.randn(8, 1, 8, 8), torch.randint(10, (8,))) for _ in range(2)]
    archs = [(0, 1, 2, 0, 0, 0), (0, 1, 3, 0, 0, 0), (2, 1, 2, 0, 0, 0)]
    population = ms.evaluate.Population(net, archs, calibration=data, validation=data)
    assert population.method == "prefix tree"
    for arch, scored in population:
        stats = ms.evaluate.calibrate(net, arch, data)
        small = net.extract(arch, stats=stats)
        assert scored.loss == ms.evaluate.score_module(small, data).loss
        left = ms.evaluate.calibrate(net, arch, data, placement=LEFT)
        plain = net.extract(arch, stats=left, placement=LEFT)
        assert scored.loss != ms.evaluate.score_module(plain, data).loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offset": 5}, r"LocallyFree: offset = 5: Input should be less than or equal to 4"),
        ({"offset": -1}, "LocallyFree: offset = -1"),
        ({"tries": 0}, "LocallyFree: tries = 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        LocallyFree(**options)


@pytest.mark.parametrize("kind", [LocallyFree, ms.sharing.Bilateral])
def test_a_scheme_is_of_one_supernet_and_goes_with_it(kind):
    """Also to another process: what is pickled places channels as the original does."""
    scheme = kind()
    net = ms.Supernet(ms.zoo.convnet(width=8, depth=1, channels=1), sharing=scheme).eval()
    with pytest.raises(RuntimeError, match=f"this {kind.__name__} belongs to another supernet"):
        ms.Supernet(ms.zoo.convnet(width=8, depth=1), sharing=scheme)
    if kind is LocallyFree:
        scheme.losses[:, 1] = -1.0
    twin, arch = pickle.loads(pickle.dumps(net)), (1, 1, 1, 0, 0, 0)
    assert twin.scored(arch) == net.scored(arch)
    x = torch.randn(4, 1, 8, 8)
    for placement, other in zip(net.scored(arch), twin.scored(arch), strict=True):
        assert torch.equal(
            net(x, arch, stats="batch", placement=placement),
            twin(x, arch, stats="batch", placement=other),
        )


def test_networks_without_widths_are_refused():
    with pytest.raises(ValueError, match=r"LocallyFree says which .* no layer of elastic width"):
        ms.Supernet(ms.zoo.tiny(), sharing=LocallyFree())


class TestLocallyFree(SharingSuite):
    def make_sharing(self):
        return LocallyFree(offset=2)


class TestLocallyFreeAfterTraining(SharingSuite):
    """Free channels lie elsewhere than at first."""

    def make_sharing(self):
        return LocallyFree()

    def net(self):
        net = super().net()
        with torch.no_grad():
            net.sharing.losses[:, 1] = -1.0
        return net
