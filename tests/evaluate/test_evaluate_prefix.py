"""Architectures scored together: the scores of `score`, the work of a tree, within memory."""

import dataclasses
import gc
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from evaluate_networks import (
    BATCHES,
    CARRIED,
    FORWARDED,
    LOOK,
    assert_scored,
    conv,
    images,
    supernet,
)
from torch import nn

import manyshot as ms
from manyshot.evaluate import Population, calibrate, score
from manyshot.evaluate.stages import Survey
from manyshot.nn import BatchNormStats
from manyshot.train.checkpoint import digest
from manyshot.zoo.blocks import Chain

SMALL_SHUFFLE = {
    "classes": 10,
    "widths": (16, 24),
    "repeats": (2, 2),
    "strides": (1, 2),
    "stem": 8,
    "tail": 16,
    "stem_stride": 1,
}


class SharedWidth(Chain):
    """One width in three stages, a depth, and a choice in a choice."""

    def __init__(self) -> None:
        width, late = ms.choose((2, 4), "width"), ms.choose((3, 5), "late")
        depth = ms.nn.Depth([conv(width, width) for _ in range(2)], (0, 1, 2), "depth")
        inner = ms.nn.Choice({"plain": nn.Identity(), "relu": nn.ReLU(inplace=True)}, "inner")
        outer = ms.nn.Choice({"none": nn.Identity(), "inner": inner}, "outer")
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ms.nn.Linear(late, 10))
        super().__init__([conv(1, width), outer, depth, conv(width, late), head])


class Joining(nn.Module):
    """Gives its input beside what a convolution makes of it."""

    def __init__(self, width, more) -> None:
        super().__init__()
        self.conv = conv(width, more)

    def forward(self, x):
        return torch.cat([x, self.conv(x)], 1)


def joined_widths() -> Chain:
    a, b, c = (ms.choose((2, 3, 4), name) for name in "abc")
    late = ms.concat(a, b, c)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ms.nn.Linear(late, 10))
    return Chain([conv(1, a), Joining(a, b), Joining(ms.concat(a, b), c), head])


NETWORKS = {
    "macro": (lambda: ms.zoo.macro(width=4, channels=1), (1, 8, 8), True),
    "macro, elastic": (
        lambda: ms.zoo.macro(width=4, channels=1, layers=(2, 2), hidden_factors=(0.5, 1)),
        (1, 8, 8),
        True,
    ),
    "shufflenet": (lambda: ms.zoo.shufflenet(1, **SMALL_SHUFFLE), (1, 8, 8), True),
    "mobile": (lambda: ms.zoo.tiny_cnn(1, resolutions=(10, 12)), (1, 12, 12), True),
    "transformer": (lambda: ms.zoo.tiny_vit(), (1, 8, 8), True),
    "cell": (lambda: ms.zoo.cell(width=4, channels=1, cells=1), (1, 8, 8), True),
    "shared width": (SharedWidth, (1, 8, 8), True),
    "joined widths": (joined_widths, (1, 8, 8), True),
}


def score_many(net, archs, **look):
    """Scores in the order asked for."""
    found = dict(Population(net, archs, **look))
    return [found[tuple(arch)] for arch in archs]


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_one_by_one(name):
    make, shape, _ = NETWORKS[name]
    net, look, rng = supernet(make), images(shape), np.random.default_rng(0)
    net.to(memory_format=torch.channels_last)
    archs = [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(5))]
    population = Population(net, archs, **look)
    assert_scored(population, net, look)
    account = population.account
    assert account.method == "prefix tree"
    plain = FORWARDED * int(ms.cost.macs(net, population.archs, shape).sum())
    assert account.plain_macs == plain
    assert account.macs < plain
    assert account.share == account.macs / plain


@pytest.fixture(scope="module")
def tiny() -> ms.Supernet:
    return supernet(lambda: ms.zoo.tiny(width=4))


@pytest.fixture(scope="module")
def all_tiny(tiny):
    return {arch: score(tiny, arch, **LOOK) for arch in tiny.space.enumerate()}


def test_all_256_and_the_work_of_a_full_tree(tiny, all_tiny):
    population = Population(tiny, tiny.space.enumerate(), **LOOK)
    assert dict(population) == all_tiny
    assert len(set(all_tiny.values())) > 200
    account = population.account
    assert account.architectures == 256
    assert account.stage_runs == BATCHES * (1 + 4 + 16 + 64 + 256 + 256)
    assert account.plain_stage_runs == BATCHES * 6 * 256
    # Layers have 4 to 4, 4 to 8, 8 to 8 and 8 to 12 channels; option 0 is a 1x1 convolution.
    first = (16 * 64, 32 * 64, 64 * 16, 96 * 16)
    stem, head = 9 * 4 * 64, 12 * 10
    largest = int(ms.cost.macs(tiny, [(0, 0, 0, 0)], (1, 8, 8))[0])
    assert largest == stem + sum(first) + head
    executed = stem + 256 * head
    for layer, project in enumerate(first):
        options = [(*[0] * layer, option, *[0] * (3 - layer)) for option in range(4)]
        macs = ms.cost.macs(tiny, options, (1, 8, 8)) - largest + project
        executed += 4**layer * int(macs.sum())
    assert account.macs == FORWARDED * executed
    assert account.carried_bytes == CARRIED


@hypothesis.settings(max_examples=10)
@hypothesis.given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=12),
    st.integers(0, 70_000),
)
def test_any_subset_within_any_memory(tiny, all_tiny, archs, memory):
    population = Population(tiny, archs, **LOOK, memory=memory)
    distinct = set(archs)
    assert dict(population) == {arch: all_tiny[arch] for arch in distinct}
    account = population.account
    assert (account.architectures, account.carried_bytes <= memory) == (len(distinct), True)
    assert population.method == "prefix tree" or memory < FORWARDED * 4 * 4 * 64
    if population.method == "prefix tree":
        prefixes = (len({arch[:n] for arch in distinct}) for n in (0, 1, 2, 3, 4, 4))
        least = BATCHES * sum(prefixes)
        assert least <= account.stage_runs <= account.plain_stage_runs
        assert account.stage_runs == least or memory < CARRIED


@hypothesis.settings(max_examples=10)
@hypothesis.given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=12, unique=True),
    st.data(),
    st.sampled_from([2**30, CARRIED // 2, 100]),
)
def test_what_is_known_is_counted_and_not_computed(tiny, all_tiny, archs, data, memory):
    """However scoring is interrupted, the account is that of scoring at once."""
    whole = Population(tiny, archs, **LOOK, memory=memory)
    order = list(dict(whole))
    known = data.draw(st.sets(st.sampled_from(archs)))
    forwarded = []
    hook = tiny.model.register_forward_pre_hook(lambda *args: forwarded.append(1))
    hooks = [
        hook,
        *(s.register_forward_pre_hook(lambda *_: forwarded.append(1)) for s in stages(tiny)),
    ]
    rest = Population(tiny, archs, **LOOK, memory=memory, known=known)
    try:
        forwarded.clear()
        found = dict(rest)
    finally:
        for each in hooks:
            each.remove()
    assert found == {arch: all_tiny[arch] for arch in archs if arch not in known}
    assert list(found) == [arch for arch in order if arch not in known]
    one, other = rest.account, whole.account
    assert dataclasses.replace(one, carried_bytes=0) == dataclasses.replace(other, carried_bytes=0)
    assert one.carried_bytes <= other.carried_bytes
    assert bool(forwarded) == bool(found)
    if rest.method == "prefix tree" and memory >= CARRIED and found:
        prefixes = (len({arch[:n] for arch in found}) for n in (0, 1, 2, 3, 4, 4))
        assert len(forwarded) == BATCHES * sum(prefixes)


def stages(net):
    return net.model.stages()


def tensors() -> dict[int, int]:
    """Bytes of all memory that tensors hold."""
    found = (o for o in gc.get_objects() if type(o) is torch.Tensor)
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}


@pytest.mark.parametrize("memory", [2**30, CARRIED, CARRIED - 1, CARRIED // 2, CARRIED // 6])
def test_memory_holds(tiny, all_tiny, memory):
    archs = list(itertools.product((0, 3), repeat=4))
    population = Population(tiny, archs, **LOOK, memory=memory)
    gc.collect()
    before, most, found = tensors(), 0, {}
    for arch, ours in population:
        found[arch] = ours
        if len(found) not in (2, 10):
            continue  # looking takes long
        held = {at: size for at, size in tensors().items() if at not in before}
        most = max(most, sum(held.values()))
    assert found == {arch: all_tiny[arch] for arch in archs}
    account = population.account
    assert 0 < most == account.carried_bytes <= memory
    full = BATCHES * (1 + 2 + 4 + 8 + 16 + 16)
    assert (account.stage_runs == full) == (memory >= CARRIED)
    assert full <= account.stage_runs < account.plain_stage_runs == BATCHES * 6 * 16


def test_memory_for_nothing(tiny, all_tiny):
    population = Population(tiny, list(all_tiny)[:5], **LOOK, memory=100)
    assert population.method == (
        "one by one: memory=100 bytes hold no shared activations; the smallest take 10,752"
    )
    assert dict(population) == {arch: all_tiny[arch] for arch in list(all_tiny)[:5]}
    assert population.account.share == 1
    assert (population.account.macs, population.account.stage_runs) == (None, None)


def test_what_is_dropped_is_what_saves_least_per_byte(tiny):
    """Not the stem's output, large and computed once, but the small ones computed often."""
    late = FORWARDED * 4 * (8 * 16 + 8 * 16)
    population = Population(tiny, tiny.space.enumerate(), **LOOK, memory=late)
    dict(population)
    # Stem and layer 0 anew, with layer 1, for each of 4 x 4 beginnings; then as in a full tree.
    assert population.account.stage_runs == BATCHES * (3 * 16 + 64 + 256 + 256)


def test_aliases_are_computed_once():
    net = supernet(SharedWidth)
    names = [d.name for d in net.space.decisions]
    aliases = [tuple({"inner": inner}.get(name, 0) for name in names) for inner in range(2)]
    assert len({net.space.canonical(arch) for arch in aliases}) == 1
    population = Population(net, aliases, **LOOK)
    assert_scored(population, net, LOOK)
    assert population.account.share == 0.5


def test_the_order_asked_for_and_the_order_of_the_tree(tiny, all_tiny):
    archs = [(3, 0, 0, 0), (1, 2, 3, 0), (3, 0, 0, 1), (3, 0, 0, 0), [1, 2, 3, 0]]
    assert score_many(tiny, archs, **LOOK) == [all_tiny[tuple(arch)] for arch in archs]
    population = Population(tiny, archs, **LOOK)
    assert population.archs == ((3, 0, 0, 0), (1, 2, 3, 0), (3, 0, 0, 1))
    assert [arch for arch, _ in population] == [(3, 0, 0, 0), (3, 0, 0, 1), (1, 2, 3, 0)]
    again = population.account
    assert dict(population) and population.account == again
    with pytest.raises(ValueError, match="option 4 is not in 0..3"):
        Population(tiny, [(4, 0, 0, 0)], **LOOK)


def test_parts_are_those_one_by_one_and_a_survey_is_made_once(tiny, monkeypatch):
    archs = [(0, 0, 0, 0), (1, 0, 0, 2), (0, 0, 0, 1), (3, 2, 1, 0)]
    first = Population(tiny, archs, parts=2, **LOOK)
    found = dict(first)
    for arch in archs:
        alone = score(tiny, arch, parts=2, **LOOK)
        assert (found[arch], found[arch].parts) == (alone, alone.parts)
        assert len(alone.parts) == 2
    monkeypatch.setattr(Survey, "_compare", lambda *_: pytest.fail("it was known"))
    again = Population(tiny, archs[1:], parts=2, survey=first.survey, **LOOK)
    assert again.method == "prefix tree"
    assert dict(again) == {arch: found[arch] for arch in archs[1:]}


def test_nothing_to_score(tiny):
    population = Population(tiny, [], **LOOK)
    assert list(population) == []
    assert population.account.share is None
    for part in LOOK:
        with pytest.raises(ValueError, match="calibrate got no batches|no images to score on"):
            score_many(tiny, [(0, 0, 0, 0)], **{**LOOK, part: []})


def test_batches_that_pass_once_and_images_alone(tiny, all_tiny):
    archs = list(all_tiny)[:6]
    look = {part: iter(known) for part, known in LOOK.items()}
    assert score_many(tiny, archs, **look) == [all_tiny[arch] for arch in archs]
    alone = [x for x, _ in LOOK["calibration"]]
    look = {"calibration": alone, "validation": LOOK["validation"]}
    assert score_many(tiny, archs, **look) == [all_tiny[arch] for arch in archs]
    shot = supernet(lambda: ms.zoo.tiny(width=4), sharing=ms.sharing.KShot(2))
    look = {part: iter(known) for part, known in LOOK.items()}
    assert score_many(shot, archs[:2], **look) == [score(shot, a, **LOOK) for a in archs[:2]]


def state(net):
    modes = [module.training for module in net.modules()]
    grads = [p.grad for p in net.parameters()]
    return digest(net.state_dict()), modes, grads, torch.get_rng_state().tolist()


@pytest.mark.parametrize("look", [LOOK, {**LOOK, "memory": 0}])
def test_nothing_is_changed_not_even_between_two_scores(tiny, look):
    tiny.train()
    next(tiny.model.children()).eval()
    copies = [x.clone() for part in LOOK.values() for x, _ in part]
    before = state(tiny)
    archs = itertools.islice(tiny.space.enumerate(), 20)
    for i, _ in enumerate(Population(tiny, archs, **look)):
        assert torch.is_grad_enabled()
        assert state(tiny) == before
        if i == 9:
            break
    assert state(tiny) == before
    assert all(map(torch.equal, copies, (x for part in LOOK.values() for x, _ in part)))


def test_statistics_that_are_given(tiny):
    archs = list(itertools.islice(tiny.space.enumerate(), 40))

    def scored(given):
        population = Population(tiny, archs, calibration=given, validation=LOOK["validation"])
        for arch, ours in population:
            expected = score(tiny, arch, calibration=given(arch), validation=LOOK["validation"])
            assert ours == expected
        return population

    def calibrated(arch):
        return calibrate(tiny, arch, LOOK["calibration"])

    def moved(arch):
        own = calibrated(arch).tensors
        return BatchNormStats(arch, {p: (m + arch[-1], v) for p, (m, v) in own.items()})

    population = scored(calibrated)
    assert population.method == "prefix tree"
    assert population.account.stage_runs == 2 * (1 + 1 + 3 + 10 + 40 + 40)
    found = scored(moved).method
    assert found == (
        "one by one: the statistics given for batch norm 'chain.0.1' depend on later stages"
    )


def test_threads_change_at_most_the_last_bits(tiny, all_tiny):
    torch.set_num_threads(2)
    try:
        found = dict(Population(tiny, list(all_tiny)[:2], **LOOK))
    finally:
        torch.set_num_threads(1)
    for arch, ours in found.items():
        assert ours.loss == pytest.approx(all_tiny[arch].loss, rel=1e-6)
        assert ours.value == pytest.approx(all_tiny[arch].value, abs=1e-6)
