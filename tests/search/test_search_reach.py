"""An architecture within limits is found where random draws meet none."""

import numpy as np
import pytest

from manyshot.search import Limit, RandomSearch
from manyshot.search.reach import reach
from manyshot.space import SearchSpace, choose

TARGET = np.array([2, 0, 3, 1, 1, 3, 2, 0, 2, 1, 3, 0])


def space() -> SearchSpace:
    return SearchSpace([choose((0, 1, 2, 3), f"d{i}") for i in range(len(TARGET))])


def differing(archs):
    return np.abs(np.array(archs) - TARGET).sum(axis=1)


def test_the_neighbourhood_of_one_architecture_of_16_million_is_reached():
    limits = [
        Limit("near", differing, 2.0),
        Limit("first is 2", lambda archs: [4 - (arch[0] == 2) for arch in archs], 3.0),
    ]
    draws = np.random.default_rng(0).integers(4, size=(4096, len(TARGET)))
    assert differing(draws).min() > 2  # a draw does not meet it
    arch = reach(space(), limits, np.random.default_rng(0))
    assert arch is not None
    assert np.abs(np.array(arch) - TARGET).sum() <= 2 and arch[0] == 2
    assert arch == reach(space(), limits, np.random.default_rng(0))


def test_searchers_begin_there():
    limit = Limit("near", differing, 2.0)
    proposed = RandomSearch(space(), seed=1, limits=[limit]).ask(20)
    assert len(set(proposed)) == 20
    assert (differing(proposed) <= 2).all()


@pytest.mark.parametrize("attempts", [300, 3000])
def test_it_gives_up_after_so_many_attempts(attempts):
    looked_at = 0

    def cost(archs):
        nonlocal looked_at
        looked_at += len(archs)
        return [1.0] * len(archs)

    nothing = Limit("nothing", cost, 0.0)
    assert reach(space(), [nothing], np.random.default_rng(0), attempts) is None
    assert attempts <= looked_at < attempts + 512
