import itertools
import json

import numpy as np
import pytest
from cost_networks import NETWORKS
from hypothesis import given, settings
from hypothesis import strategies as st

import manyshot as ms
from manyshot import cost
from manyshot.cost import CostTable, tables

COUNTS = (2, 3, 1, 4)


@st.composite
def drawn_tables(draw):
    scopes = st.sets(st.integers(0, 3), min_size=1, max_size=3).map(lambda s: tuple(sorted(s)))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    return CostTable(
        draw(st.sampled_from(["macs", "latency_ms"])),
        COUNTS,
        draw(st.integers(-5, 5)),
        {
            scope: rng.integers(-9, 9, [COUNTS[p] for p in scope])
            for scope in draw(st.sets(scopes, max_size=4))
        },
    )


def encodings(counts):
    return list(itertools.product(*map(range, counts)))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawn_tables())
def test_sums_and_range_equal_brute_force(table):
    archs = encodings(COUNTS)
    by_hand = [
        table.constant + sum(t[tuple(arch[p] for p in own)] for own, t in table.tables.items())
        for arch in archs
    ]
    assert table(archs).tolist() == by_hand
    assert table(np.array(archs)).tolist() == by_hand
    assert table.range() == (min(by_hand), max(by_hand))
    assert table(archs).dtype == (np.float64 if table.metric == "latency_ms" else np.int64)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(drawn_tables())
def test_record_round_trip(table):
    record = json.loads(json.dumps(table.to_dict()))
    again = CostTable.from_dict(record)
    assert again.to_dict() == table.to_dict()
    assert again(encodings(COUNTS)).tolist() == table(encodings(COUNTS)).tolist()
    assert again.range() == table.range()


@pytest.mark.parametrize("name", NETWORKS)
def test_range_of_networks_equals_brute_force(name):
    make, shape = NETWORKS[name]
    net = ms.Supernet(make())
    for table in (cost.macs_table(net, shape), cost.params_table(net)):
        every = table(list(net.space.enumerate()))
        assert table.range() == (every.min(), every.max())


def test_range_says_when_it_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(tables, "MAX_CELLS", 20)
    entries = np.random.default_rng(0).integers(100, size=(2, 3, 4))  # no option is best in all
    table = CostTable("macs", COUNTS, 0, {(0, 1, 3): entries})
    with pytest.raises(ValueError, match="macs: the exact range needs a table of 24 cells"):
        table.range()


def test_an_option_that_is_best_whatever_the_others_are_needs_no_table(monkeypatch):
    """Costs that grow with every size, as those of dense networks, have their range at the ends."""
    monkeypatch.setattr(tables, "MAX_CELLS", 20)
    grows = np.arange(24).reshape(2, 3, 4)
    table = CostTable("macs", COUNTS, 3, {(0, 1, 3): grows, (0, 3): np.arange(8).reshape(2, 4)})
    every = table(encodings(COUNTS))
    assert table.range() == (every.min(), every.max()) == (3, 33)


def test_parts_over_the_same_decisions_add_up():
    parts = [((0,), np.array([1, 2])), ((0,), np.array([10, 20])), ((), np.array(5))]
    table = CostTable.of("macs", (2,), parts)
    assert table([(0,), (1,)]).tolist() == [16, 27]
    assert list(table.tables) == [(0,)]
