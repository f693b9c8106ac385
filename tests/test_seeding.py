"""Random streams: named in one table, unrelated, and used by nobody else's name."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manyshot import seeding

SOURCE = Path(__file__).parents[1] / "src" / "manyshot"
PARTS = st.tuples(
    st.one_of(st.integers(0, 12), st.sampled_from(["digits", "checks"])),
    st.sampled_from(["order", "plan"]),
    st.lists(st.integers(0, 12), max_size=3),
)


@given(PARTS, PARTS)
def test_streams_differ_unless_they_are_named_the_same(first, second):
    (seed, name, parts), (other_seed, other_name, other_parts) = first, second
    same = seeding.stream(seed, name, *parts) == seeding.stream(
        other_seed, other_name, *other_parts
    )
    assert same == (repr(first) == repr(second))


def test_a_longer_name_does_not_begin_as_a_shorter_one():
    """NumPy's own seeds do: default_rng((1, 2, 0)) draws what default_rng((1, 2)) draws."""
    assert np.random.default_rng((1, 2, 0)).random() == np.random.default_rng((1, 2)).random()
    assert seeding.numpy_rng(1, "plan", 2, 0).random() != seeding.numpy_rng(1, "plan", 2).random()


def test_numbers_are_seeds_everywhere():
    for name in seeding.STREAMS:
        assert 0 <= seeding.stream(2**64, name, 3) < 2**63
    drawn = [torch.rand(2, generator=seeding.torch_generator(0, "order", 1)) for _ in range(2)]
    assert torch.equal(*drawn)


def test_torch_draws_what_it_draws_after_its_own_seeding():
    with torch.random.fork_rng():
        seeding.seed_torch(3, "step", 1)
        drawn = torch.rand(4), torch.nn.functional.dropout(torch.ones(32))
        torch.manual_seed(seeding.stream(3, "step", 1))
        again = torch.rand(4), torch.nn.functional.dropout(torch.ones(32))
    assert all(map(torch.equal, drawn, again))


def test_the_state_of_torch_is_restored():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with seeding.seeded(1, "weights"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected) and not torch.equal(inside, expected)
    with seeding.seeded(1, "weights"):
        assert torch.equal(torch.rand(3), inside)


def test_a_name_that_is_not_in_the_table():
    with pytest.raises(ValueError, match="'ordre' is not in manyshot.seeding.STREAMS"):
        seeding.stream(0, "ordre")


def test_every_name_in_the_table_is_used():
    source = "\n".join(
        path.read_text() for path in SOURCE.rglob("*.py") if path.name != "seeding.py"
    )
    unused = [name for name in seeding.STREAMS if not re.search(rf'"{name}"', source)]
    assert unused == []
