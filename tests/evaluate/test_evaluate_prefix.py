"""Architectures scored together: the scores of `score`, the work of a tree, within memory."""

import gc
import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.evaluate import Population, calibrate, score, score_many
from manyshot.nn import BatchNormStats
from manyshot.train import digest
from manyshot.zoo.blocks import Chain, pooled_classifier

SMALL_SHUFFLE = {
    "classes": 10,
    "widths": (16, 24),
    "repeats": (2, 2),
    "strides": (1, 2),
    "stem": 8,
    "tail": 16,
    "stem_stride": 1,
}


def batches(seed, sizes, shape=(1, 8, 8)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn((n, *shape), generator=generator),
            torch.randint(10, (n,), generator=generator),
        )
        for n in sizes
    ]


def images(shape=(1, 8, 8)):
    return {"calibration": batches(0, (6, 5), shape), "validation": batches(1, (7, 3), shape)}


LOOK = images()
FORWARDED, BATCHES = 6 + 5 + 7 + 3, 4
CARRIED = FORWARDED * 4 * (4 * 64 + 4 * 64 + 8 * 16 + 8 * 16)
"""Of all 256: after the stem and three layers, 4, 4, 8, 8 channels of 64, 64, 16, 16 pixels."""


def supernet(make, **options) -> ms.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
        norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d | ms.nn.BatchNorm2d)]
        for module in norms:  # or all would be alike
            if module.weight is not None:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
        return ms.Supernet(model, **options)


def conv(into, out):
    return nn.Sequential(
        ms.nn.Conv2d(into, out, 3, padding=1, bias=False), ms.nn.BatchNorm2d(out), nn.ReLU()
    )


class SharedWidth(Chain):
    """One width in three stages, a depth, and a choice in a choice."""

    def __init__(self) -> None:
        width, late = ms.choose((2, 4), "width"), ms.choose((3, 5), "late")
        depth = ms.nn.Depth([conv(width, width) for _ in range(2)], (0, 1, 2), "depth")
        inner = ms.nn.Choice({"plain": nn.Identity(), "relu": nn.ReLU(inplace=True)}, "inner")
        outer = ms.nn.Choice({"none": nn.Identity(), "inner": inner}, "outer")
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), ms.nn.Linear(late, 10))
        super().__init__([conv(1, width), outer, depth, conv(width, late), head])


def assert_scored(population, net, look) -> None:
    found = list(population)
    assert sorted(arch for arch, _ in found) == sorted(population.archs)
    for arch, ours in found:
        assert ours == score(net, arch, **look), arch


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
}


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


# -- networks that are no chain, or are harder than they look ------------------------------------


def layer(number):
    options = {"conv": nn.Conv2d(4, 4, 1), "wide": nn.Conv2d(4, 4, 3, padding=1)}
    return ms.nn.Choice(options, f"layer{number}")


def chain(*between: nn.Module) -> list[nn.Module]:
    return [nn.Conv2d(1, 4, 3), layer(0), *between, layer(1), pooled_classifier(4, 10)]


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
        (lambda: Left([*chain()[:-1], nn.Flatten(2), nn.Unflatten(2, (6, 6)), chain()[-1]]), ""),
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
        assert dict(Population(net, net.space.enumerate(), **LOOK)) == dict(population)


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
        assert ours.accuracy == pytest.approx(all_tiny[arch].accuracy, abs=1e-6)
