"""Which encodings are one network: checked against networks actually written out."""

import itertools
from collections import defaultdict

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manyshot.space import Arch, Commutation, Decision, SearchSpace, Use
from published_tables import rows_of

THOROUGH = settings(deadline=None, derandomize=True, max_examples=80)

Tree = list[tuple[Decision, list["Tree"]]]
"""Places in a network, in order: the decision made there, and what each of its options holds."""


@st.composite
def networks(draw: st.DrawFn) -> tuple[SearchSpace, Tree, list[Commutation]]:
    """A network with nested and shared decisions, then sequences whose zeros or ones commute."""
    counts = draw(st.lists(st.integers(2, 3), min_size=1, max_size=5))
    pool = [Decision(range(m), f"d{i}") for i, m in enumerate(counts)]

    def places(depth: int, above: frozenset[Decision]) -> Tree:
        free = [d for d in pool if d not in above]
        if not free or depth == 3:
            return []
        chosen = draw(st.lists(st.sampled_from(free), max_size=2 if depth else 3))
        return [(d, [places(depth + 1, above | {d}) for _ in d.options]) for d in chosen]

    tree = places(0, frozenset())
    lengths = draw(st.lists(st.integers(1, 3), max_size=2))
    groups = [
        Commutation(
            tuple(Decision(range(2 + g), f"g{g}.{i}") for i in range(length)),
            draw(st.integers(0, 1)),
        )
        for g, length in enumerate(lengths)
    ]
    uses: dict[Decision, list[Use]] = defaultdict(list)

    def collect(tree: Tree, chain: Use) -> None:
        for decision, held in tree:
            uses[decision].append(chain)
            for option, inner in enumerate(held):
                collect(inner, (*chain, (decision, frozenset({option}))))

    collect(tree, ())
    decisions = [d for d in pool if d in uses] + [d for group in groups for d in group.decisions]
    assume(decisions)
    space = SearchSpace(decisions, uses=uses, commutations=groups)
    assume(space.size <= 500)
    return space, tree, groups


def written_out(space: SearchSpace, tree: Tree, groups: list[Commutation], arch: Arch) -> object:
    """The network that `arch` is, with nothing in it that is not there."""
    options = dict(zip(space.decisions, arch, strict=True))

    def write(tree: Tree) -> list[object]:
        return [(d.name, options[d], write(held[options[d]])) for d, held in tree]

    sequences = [[options[d] for d in g.decisions if options[d] != g.option] for g in groups]
    return repr((write(tree), sequences))


@THOROUGH
@given(networks())
def test_canonical_is_the_same_exactly_for_the_same_network(network) -> None:
    space, tree, groups = network
    kinds: dict[object, set[Arch]] = defaultdict(set)
    for arch in space.enumerate():
        canonical = space.canonical(arch)
        kinds[written_out(space, tree, groups, arch)].add(canonical)
        assert space.canonical(canonical) == canonical
        assert written_out(space, tree, groups, canonical) == written_out(space, tree, groups, arch)
    representatives = [arch for kind in kinds.values() for arch in kind]
    assert len(representatives) == len(set(representatives)) == len(kinds)


@THOROUGH
@given(networks(), st.data())
def test_changing_an_inactive_decision_changes_nothing(network, data) -> None:
    space, tree, groups = network
    arch = tuple(data.draw(st.integers(0, int(m) - 1)) for m in space.counts)
    written = written_out(space, tree, groups, arch)
    for i, active in enumerate(space.active(arch)):
        for option in range(int(space.counts[i])):
            changed = (*arch[:i], option, *arch[i + 1 :])
            if not active:
                assert space.canonical(changed) == space.canonical(arch)
                assert space.active(changed) == space.active(arch)
            if active and option != arch[i] and space.decisions[i].name[0] == "d":
                assert written_out(space, tree, groups, changed) != written
                assert space.canonical(changed) != space.canonical(arch)
    names = {n for n, active in zip(space.decisions, space.active(arch), strict=True) if active}
    assert list(space.choices(arch)) == [d.name for d in space.decisions if d in names]


@THOROUGH
@given(networks())
def test_records_and_text_round_trip(network) -> None:
    space, _, _ = network
    again = SearchSpace.from_dict(space.to_dict())
    assert again.to_dict() == space.to_dict()
    assert (again.smallest, again.largest) == (space.smallest, space.largest)
    for arch in itertools.islice(space.enumerate(), 0, None, 7):
        assert again.canonical(arch) == space.canonical(arch)
        assert again.choices(arch) == space.choices(arch)
        assert space.from_text(space.to_text(arch)) == arch


@st.composite
def tangles(draw: st.DrawFn) -> SearchSpace:
    """Decisions that matter under conditions on one another, in circles too."""
    counts = draw(st.lists(st.integers(2, 3), min_size=2, max_size=4))
    decisions = [Decision(range(m), f"d{i}") for i, m in enumerate(counts)]

    def place() -> Use:
        others = draw(st.lists(st.sampled_from(decisions), min_size=1, max_size=2, unique=True))
        return tuple((d, frozenset({draw(st.integers(0, len(d.options) - 1))})) for d in others)

    numbers = {d: draw(st.integers(0, 2)) for d in decisions if draw(st.integers(0, 3))}
    return SearchSpace(decisions, uses={d: [place() for _ in range(n)] for d, n in numbers.items()})


@settings(deadline=None, derandomize=True, max_examples=300)
@given(tangles())
def test_canonical_follows_from_what_does_not_matter_also_in_circles(space: SearchSpace) -> None:
    """Every step of one decision that does not matter, and no other, stays in a network."""
    network = {arch: arch for arch in space.enumerate()}

    def representative(arch: Arch) -> Arch:
        while network[arch] != arch:
            arch = network[arch]
        return arch

    for arch in space.enumerate():
        for i, active in enumerate(space.active(arch)):
            for option in range(0 if active else int(space.counts[i])):
                changed = (*arch[:i], option, *arch[i + 1 :])
                network[representative(changed)] = representative(arch)
    again = SearchSpace.from_dict(space.to_dict())
    for arch in space.enumerate():
        canonical = space.canonical(arch)
        assert representative(canonical) == representative(arch)
        assert space.canonical(canonical) == canonical == again.canonical(arch)
        left = zip(canonical, space.active(canonical), strict=True)
        assert all(active or option == 0 for option, active in left)


def test_what_became_zero_decides_what_else_matters() -> None:
    one, two = Decision(range(3), "one"), Decision(range(3), "two")
    needs = {one: [((two, frozenset({1})),)], two: [((one, frozenset({1})),)]}
    space = SearchSpace([one, two], uses=needs)
    assert space.canonical((1, 1)) == (1, 1)
    assert space.active((2, 1)) == (True, False)
    assert {space.canonical(arch) for arch in space.enumerate()} == {(0, 0), (1, 1)}
    either = {one: [((two, frozenset({0})),)], two: [((one, frozenset({0})),)]}
    space = SearchSpace([one, two], uses=either)
    assert space.canonical((1, 2)) == (0, 2)  # not (0, 0), in which both matter


def test_uses_with_what_is_not_in_the_space_are_refused() -> None:
    one, two = Decision(range(3), "one"), Decision(range(3), "two")
    with pytest.raises(ValueError, match=r"uses of .*one.* with .*two.* not in the space"):
        SearchSpace([one], uses={one: [((two, frozenset({0})),)]})
    with pytest.raises(ValueError, match=r"uses of .*two.* with .*two.* not in the space"):
        SearchSpace([one], uses={two: []})
    with pytest.raises(ValueError, match=r"options \[1, 3\] of .*two.*, which has 0\.\.2"):
        SearchSpace([one, two], uses={one: [((two, frozenset({1, 3})),)]})


def macro() -> SearchSpace:
    """NAS-Bench-Macro by hand: stages of 2, 3, 3 layers, identities commute after the first."""
    layers = [Decision(("identity", "k3e3", "k5e6"), f"layer{i}") for i in range(8)]
    moving = (layers[1:2], layers[3:5], layers[6:8])
    return SearchSpace(layers, commutations=[Commutation(tuple(m), 0) for m in moving])


def test_macro_has_6561_encodings_and_3969_networks() -> None:
    space = macro()
    assert space.size == 6561
    assert len({space.canonical(arch) for arch in space.enumerate()}) == 3969


def test_macro_agrees_with_the_published_table() -> None:
    space, rows = macro(), rows_of("nas_bench_macro")
    assert len(rows) == 6561
    for row in rows:
        canonical = space.canonical(tuple(map(int, row["arch"])))
        assert "".join(map(str, canonical)) == row["canonical"]


def test_decisions_that_hold_others_or_are_held_cannot_commute() -> None:
    """Sorting their options would leave behind what they hold."""
    ops = [Decision(("identity", "conv"), f"op{i}") for i in range(2)]
    kernel = Decision((3, 5), "kernel")
    inside = {kernel: [((ops[0], frozenset({1})),)]}
    with pytest.raises(ValueError, match="op0 cannot commute.*leave it out"):
        SearchSpace([*ops, kernel], uses=inside, commutations=[Commutation(tuple(ops), 0)])
    with pytest.raises(ValueError, match="kernel cannot commute"):
        SearchSpace([*ops, kernel], uses=inside, commutations=[Commutation((kernel,), 0)])
    everywhere = {ops[0]: [((kernel, frozenset({0})),), ()]}
    SearchSpace([*ops, kernel], uses=everywhere, commutations=[Commutation(tuple(ops), 0)])


@pytest.mark.parametrize("text", ["", "0-", "0--1", "a-1", "0 1", "-1-0", "0-1-0", "²-1", "0-9"])
def test_bad_text_is_refused(text: str) -> None:
    space = SearchSpace([Decision((1, 2), "a"), Decision((1, 2), "b")])
    with pytest.raises(ValueError, match=r"not of the form|entries|b: option 9 is not in 0\.\.1"):
        space.from_text(text)


def test_records_survive_json_and_refuse_other_schemas() -> None:
    import json

    op, width = Decision(("a", "b"), "op"), Decision((1.5, 2), "width")
    space = SearchSpace([op, width], ranks={op: (7, 3)}, uses={width: [((op, frozenset({0})),)]})
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == space.to_dict() and again.smallest == (1, 0)
    assert set(again.decisions).isdisjoint(space.decisions)
    with pytest.raises(ValueError, match="schema 2; this reads 1"):
        SearchSpace.from_dict({**space.to_dict(), "schema": 2})


def swept(space: SearchSpace, arch: Arch) -> Arch:
    """Inactive decisions to 0 one after the other, all of them, until nothing changes."""
    index = space.index

    def matters(decision: Decision) -> bool:
        uses = space.uses.get(decision, ((),))
        return any(all(swept[index[d]] in allowed for d, allowed in use) for use in uses)

    swept, before = list(arch), None
    while swept != before:
        before = list(swept)
        for i, decision in enumerate(space.decisions):
            if swept[i] and not matters(decision):
                swept[i] = 0
    return tuple(swept)


@st.composite
def tangles(draw: st.DrawFn) -> tuple[SearchSpace, list[Arch]]:
    """Decisions any of which may gate any, also each other and themselves, and some encodings."""
    decisions = [Decision(range(3), f"d{i}") for i in range(draw(st.integers(1, 7)))]
    conditions = st.tuples(
        st.sampled_from(decisions), st.frozensets(st.integers(0, 2), min_size=1, max_size=2)
    )
    uses = st.lists(st.lists(conditions, max_size=2).map(tuple), max_size=2)
    space = SearchSpace(decisions, uses=draw(st.dictionaries(st.sampled_from(decisions), uses)))
    archs = st.tuples(*[st.integers(0, 2)] * len(decisions))
    return space, draw(st.lists(archs, min_size=1, max_size=20))


@settings(deadline=None, derandomize=True, max_examples=400)
@given(tangles())
def test_canonical_is_what_sweeps_over_all_decisions_end_with(
    tangle: tuple[SearchSpace, list[Arch]],
) -> None:
    space, archs = tangle
    assert [space.canonical(arch) for arch in archs] == [swept(space, arch) for arch in archs]
