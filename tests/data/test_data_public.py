from manyshot import data


def test_public_names_are_sorted_and_documented():
    assert data.__all__ == sorted(data.__all__)
    assert all(getattr(data, name).__doc__ for name in data.__all__)
