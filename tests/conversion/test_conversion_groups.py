"""Groups and layouts, against a model that tracks every channel by itself."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyshot.conversion.groups import (
    Group,
    _split,
    factored,
    fix,
    groups_of,
    join,
    length,
    merged,
    resolved,
)


def units(layout):
    """Which unit every entry of a dimension belongs to."""
    return [
        (id(group), unit)
        for group, entries in resolved(layout)
        for unit in range(group.units)
        for _ in range(entries)
    ]


def test_a_group_that_meets_a_concatenation_is_split_at_its_parts():
    whole, a, b = Group(96), Group(32), Group(64)
    join(((whole, 1),), ((a, 1), (b, 1)), "cat")
    assert units(((whole, 1),)) == units(((a, 1), (b, 1)))
    assert len(list(groups_of([((whole, 1),)]))) == 2


def test_channels_that_meet_a_grouped_convolution_are_units_of_its_groups():
    channels, groups = Group(128), Group(32)
    join(((channels, 1),), ((groups, 4),), "convolution")
    [(root, entries)] = resolved(((channels, 1),))
    assert (root, entries) == (groups, 4)


def test_groups_of_three_and_of_two_have_units_of_six():
    channels, threes, twos = Group(12), Group(4), Group(6)
    join(((channels, 1),), ((threes, 3),), "first")
    join(((channels, 1),), ((twos, 2),), "second")
    [(root, entries)] = resolved(((channels, 1),))
    assert (root.units, entries) == (2, 6)
    assert resolved(((threes, 1),)) == ((root, 2),)
    assert resolved(((twos, 1),)) == ((root, 3),)


def test_a_fixed_part_fixes_what_it_becomes():
    one, other = Group(8), Group(8)
    one.fix("because")
    join(((other, 1),), ((one, 1),), "add")
    assert next(groups_of([((other, 1),)])).reason == "because"
    free, cut = Group(12), Group(4)
    free.fix("whole")
    join(((free, 1),), ((cut, 1), (Group(8), 1)), "cat")
    assert next(groups_of([((cut, 1),)])).reason == "whole"


def test_what_cannot_be_joined_is_fixed():
    one, other = Group(6), Group(4)
    join(((one, 2),), ((other, 3),), "odd")  # units of 2 and of 3 entries: 12 entries, units of 6
    assert next(groups_of([((one, 1),)])).units == 2
    a, b, c = Group(3), Group(5), Group(4)
    join(((a, 2), (b, 2)), ((c, 4),), "cut")  # the first part ends inside a unit of c
    assert all(group.reason for group in groups_of([((a, 1),), ((c, 1),)]))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_joined_layouts_agree_entry_by_entry(data):
    """Two layouts of one length are the same after they met, or what they hold is fixed."""
    total = data.draw(st.sampled_from([12, 24, 48]))

    def layout():
        parts, left = [], total
        while left:
            entries = data.draw(st.sampled_from([e for e in (1, 2, 3, 4) if left % e == 0]))
            most = left // entries
            count = data.draw(st.integers(1, most))
            parts.append((Group(count), entries))
            left -= count * entries
        return tuple(parts)

    one, other = layout(), layout()
    join(one, other, "add")
    assert length(resolved(one)) == length(resolved(other)) == total
    reasons = [group.reason for group in groups_of([one, other])]
    assert units(one) == units(other) or any(reasons)
    if not any(reasons):  # a unit of a coarser group is whole units of what it became
        join(one, other, "add again")
        assert units(one) == units(other)


@pytest.mark.parametrize("shape", [(4, 3), (2, 2, 3), (2, 6), (12,)])
def test_a_merge_is_undone_by_its_split(shape):
    """A dimension that holds channels, merged with all dimensions around it, comes back."""
    for at in range(len(shape)):
        group = Group(shape[at])
        outer = list(itertools.accumulate(shape[:at], lambda a, b: a * b))[-1] if at else 1
        inner = 1
        for n in shape[at + 1 :]:
            inner *= n
        whole = merged(outer, ((group, 1),), inner)
        assert length(whole) == 12
        parts = factored(whole, shape)
        assert parts is not None
        assert parts[at] == ((group, 1),)
        assert all(part is None for i, part in enumerate(parts) if i != at)


def test_a_split_inside_of_units_is_none():
    assert factored(((Group(12), 1),), (3, 4)) is None


def test_a_group_is_split_between_its_units_alone():
    whole = Group(4)
    assert not _split((whole, 4), 6)
    assert whole.resolved() == ((whole, 1),)
    assert _split((whole, 4), 8)
    assert [group.units for group, _ in whole.resolved()] == [2, 2]


def test_the_first_reason_counts():
    group = Group(4)
    fix(((group, 1),), "first")
    fix(((group, 1),), "second")
    assert group.reason == "first"
