"""The contract of a shrinker as tests: subclass, give one method, inherit the checks."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from manyshot.nn import Choice, Conv2d
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace, choose
from manyshot.supernet import Supernet
from manyshot.train.shrinking import Allows, Judged, Shrinker, Stage

STAGES = 3
"""How often a shrinker is asked that may be asked any number of times."""


class _Net(nn.Module):
    """Operations, of which two have no parameters, and a width."""

    def __init__(self) -> None:
        super().__init__()
        width = choose((2, 4, 6), "width")
        self.stem = Conv2d(1, width, 3, padding=1)
        pool = nn.AvgPool2d(3, 1, 1)
        self.op = Choice(
            {"conv": Conv2d(width, width, 1), "pool": pool, "skip": nn.Identity()}, "op"
        )
        self.last = Choice([Conv2d(width, 4, k, padding=k // 2) for k in (1, 3, 5, 7)], "last")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of four classes."""
        x: torch.Tensor = self.last(torch.relu(self.op(torch.relu(self.stem(images)))))
        return x.mean((2, 3))


class Stages:
    """The stages of a training around a shrinker, without images: weights and scores are made up.

    Attributes:
        net: the supernet.
        shrinker: what is rehearsed.
        views: in which the supernet trained so far.
        judged: how often architectures were scored.
    """

    def __init__(self, shrinker: Shrinker, allows: Allows = lambda view: True) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = Supernet(_Net(), input_shape=(1, 6, 6))
        self.shrinker, self.allows = shrinker, allows
        self.views = [shrinker.begin(self.net)]
        self.judged = 0
        self.scores: list[dict[tuple[int, int], float]] = []

    def go(self, times: int | None = None) -> list[SearchSpace]:
        """Trains and asks so many times, by default to the end; returns all views."""
        of = self.shrinker.stages or STAGES
        for _ in range(of + 1 - len(self.views) if times is None else times):
            number = len(self.views)
            self._train(number)
            rng = numpy_rng(0, "shrink", number)
            space = self.views[-1]
            stage = Stage(self.net, space, number, of, rng, self._judge, self.allows, _fits)
            shrunk = self.shrinker.shrink(stage)
            self.views.append(shrunk.space)
            self.scores.append(dict(shrunk.scores))
        return self.views

    def _train(self, number: int) -> None:
        rng = np.random.default_rng(number)
        with torch.no_grad():
            for parameter in self.net.parameters():
                moved = rng.normal(size=tuple(parameter.shape)) * 0.1
                parameter.add_(torch.from_numpy(moved).to(parameter))

    def _judge(self, archs: Sequence[Arch]) -> list[Judged]:
        assert self.shrinker.judges, "it asks for scores, and says that it does not judge"
        self.judged += len(archs)
        for arch in archs:
            self.net.space.check(arch)
        worth = [sum(map(math.sin, np.multiply(arch, (3.0, 5.0, 7.0)).tolist())) for arch in archs]
        return [Judged(fitness, 3 - fitness) for fitness in worth]


class ShrinkerSuite:
    """Checks that every shrinker must pass; use it with pytest.

    Subclass it (`class TestMine(ShrinkerSuite)`) and define `make_shrinker(space)`.
    """

    def make_shrinker(self, space: SearchSpace) -> Shrinker:
        """A new shrinker of a supernet with the decisions `width`, `op` and `last`."""
        raise NotImplementedError

    def stages(self, allows: Allows = lambda view: True) -> Stages:
        """Stages around a new shrinker, before the first step."""
        space = SearchSpace(Supernet(_Net()).space.decisions)
        return Stages(self.make_shrinker(space), allows)

    def test_what_it_gives_are_views_of_the_space(self) -> None:
        """Of each decision an option is left; something changes, and scores are numbers."""
        run = self.stages()
        views = run.go()
        for view in views:
            assert view.whole is run.net.space
            assert all(view.allowed)
        assert len({view.allowed for view in views}) > 1
        for scores in run.scores:
            for (position, option), score in scores.items():
                assert 0 <= option < len(run.net.space.decisions[position].options)
                assert math.isfinite(score)

    def test_it_judges_only_if_it_says_so(self) -> None:
        """And says in words what its scores are."""
        run = self.stages()
        run.go()
        assert bool(run.judged) == run.shrinker.judges
        assert run.shrinker.measure.strip()

    def test_budgets_stay_within_reach(self) -> None:
        """It gives no view that is not allowed; here, one without some first option is not."""

        def allows(view: SearchSpace) -> bool:
            return 0 in view.allowed[0] and 0 in view.allowed[2]

        run = self.stages(allows)
        before = run.views[0]
        for view in run.go()[1:]:
            pairs = zip(before.allowed, view.allowed, strict=True)
            assert allows(view) or all(set(b) <= set(a) for b, a in pairs)
            before = view

    def test_the_supernet_stays_as_it_is(self) -> None:
        """Weights, modes and global random streams are not changed."""
        run = self.stages()
        run.go(1)
        weights = {n: t.clone() for n, t in run.net.state_dict().items()}
        modes = [module.training for module in run.net.modules()]
        state = torch.get_rng_state(), str(np.random.get_state())  # noqa: NPY002
        run._train = lambda number: None  # type: ignore[method-assign]
        if run.shrinker.stages != 1:
            run.go(1)
        assert all(torch.equal(weights[n], t) for n, t in run.net.state_dict().items())
        assert [module.training for module in run.net.modules()] == modes
        assert torch.equal(state[0], torch.get_rng_state())
        assert state[1] == str(np.random.get_state())  # noqa: NPY002

    def test_same_seed_same_views(self) -> None:
        """A view is a function of the stage and of what the shrinker remembers."""
        one, other = self.stages(), self.stages()
        assert _allowed(one.go()) == _allowed(other.go())
        assert one.scores == other.scores

    def test_state_restores(self) -> None:
        """A shrinker with the state of another goes on as that one would."""
        run, copy = self.stages(), self.stages()
        if run.shrinker.stages == 1:
            return
        run.go(1)
        file = io.BytesIO()
        torch.save(run.shrinker.state_dict(), file)
        file.seek(0)
        state: dict[str, Any] = torch.load(file, weights_only=True)
        copy._train(1)
        copy.views = [_same(copy.net.space, view) for view in run.views]
        copy.shrinker.load_state_dict(state)
        assert _allowed(run.go(1)) == _allowed(copy.go(1))


def _fits(arch: Arch) -> bool:
    return sum(arch) <= 3


def _same(space: SearchSpace, view: SearchSpace) -> SearchSpace:
    return space.restricted(dict(zip(space.decisions, view.allowed, strict=True)))


def _allowed(views: Sequence[SearchSpace]) -> list[tuple[tuple[int, ...], ...]]:
    return [view.allowed for view in views]
