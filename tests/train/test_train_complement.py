"""A width and what it leaves out, in turn."""

import numpy as np
import pytest

import manyshot as ms
from manyshot.testing.samplers import SamplerSuite
from manyshot.train import make_sampler
from manyshot.train.samplers import Complement
from manyshot.train.samplers.complement import complement


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((2, 4, 6, 8), [2, 1, 0, 3]),  # 6, 4, 2; the widest leaves nothing, and is its own
        ((8, 6, 4, 2), [0, 3, 2, 1]),  # whatever the order of options
        ((4, 6, 8), [0, 0, 2]),  # of 6 only 2 are left, and 4 is the nearest
        ((2, 4, 7), [1, 0, 2]),  # 5 are left of 7 by 2: 4 is nearer than 7
        ((1, 3, 4), [1, 0, 2]),
        ((3, 5, 8), [1, 0, 2]),
        ((2, 6, 8), [1, 0, 2]),
        ((4, 8), [0, 1]),
        ((5,), [0]),
    ],
)
def test_the_complement_is_what_is_left_or_the_nearest_option(values, expected):
    decision = ms.choose(values, "width")
    assert [complement(decision, i) for i in range(len(values))] == expected


def test_ties_go_to_the_narrower():
    assert complement(ms.choose((2, 4, 9, 6, 11), "width"), 0) == 2
    assert complement(ms.choose((3, 5, 8, 1), "width"), 1) == 0
    assert complement(ms.choose((2, 6, 10), "width"), 1) == 0  # 4 are left: 2 and 6 are as near


def test_widths_alone_change_and_every_second_path_is_new():
    sizes = {"width": (1, 2, 3, 4), "kernel": (3, 5, 7)}
    space = ms.SearchSpace([ms.choose(values, name) for name, values in sizes.items()])
    sampler = make_sampler("complement", space, {}, widths=space.decisions[:1])
    drawn = []
    for step in range(400):
        plan = sampler.plan(np.random.default_rng(step), step)
        sampler.feedback(plan, [])
        drawn.append(plan.paths[0].arch)
    for first, second in zip(drawn[::2], drawn[1::2], strict=True):
        assert second == ([2, 1, 0, 3][first[0]], first[1])
    assert {arch[0] for arch in drawn[::2]} == {0, 1, 2, 3}


def test_spaces_without_widths_are_refused():
    space = ms.SearchSpace([ms.choose((3, 5), "kernel")])
    with pytest.raises(ValueError, match="no decision of this space is a number of channels: take"):
        make_sampler("complement", space, {}, widths=[])
    with pytest.raises(ValueError, match="sampler 'complement' needs widths"):
        make_sampler("complement", space, {})


class TestComplement(SamplerSuite):
    def make_sampler(self, space):
        return Complement(space, space.decisions)
