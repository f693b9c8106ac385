from manyshot import data
from manyshot.data.seeding import stream


def test_streams_are_told_apart():
    parts = [(0, 1, "order"), (1, 0, "order"), (0, 1, "shift"), (0, 11, ""), (1, 1, "")]
    numbers = [stream(*p) for p in parts]
    assert len(set(numbers)) == len(parts)
    assert all(0 <= number < 2**63 for number in numbers)


def test_public_names_are_sorted_and_documented():
    assert data.__all__ == sorted(data.__all__)
    assert all(getattr(data, name).__doc__ for name in data.__all__)
