"""Optuna's samplers as searchers: TPE, Gaussian processes, CMA-ES. Needs `manyshot[optuna]`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, final

import numpy as np
from pydantic.dataclasses import dataclass

from manyshot.plugins import STRICT, Positive
from manyshot.search.base import Portion
from manyshot.search.draft import CHILD_ATTEMPTS
from manyshot.search.optioned import OptionedSearcher, SearcherOptions
from manyshot.space import Arch, SearchSpace

Draw = Callable[[], Arch]
Sampler = Literal["tpe", "gp", "cma_es", "random"]


@dataclass(frozen=True, slots=True, kw_only=True, config=STRICT)
class OptunaOptions(SearcherOptions):
    """The options of `OptunaSearch`."""

    sampler: Sampler = "tpe"
    """`tpe`, tree-structured Parzen estimators; `gp`, a Gaussian process, which takes about half a
    second for each draw; `cma_es`; `random`, Optuna's uniform draws of encodings, a control."""

    initial: Positive = 10
    """Random architectures told within a limit before the sampler is asked."""

    parents: Positive = 10
    """How many of the best `elites` returns, for each limit."""


@final
class OptunaSearch(OptionedSearcher[OptunaOptions]):
    """Random networks first, then what a sampler of Optuna proposes.

    A decision between numbers is an integer, the index of its option; any other is a category, but
    for CMA-ES, which knows numbers alone. There is a sampler for each limit, which is told what is
    within it; limits take their proposals in turn. What it draws is made canonical. What is not new
    or over the limit it takes for a network that is still being scored, so that it draws another;
    where ten in a row give nothing, random networks take their place. Every proposal asks a new
    sampler with a seed of its own about all that was told, so that the past is nothing but what was
    told. All scores count, whatever the weights version they were told at.

    References: Akiba et al. 2019, "Optuna" (arXiv:1907.10902); `tpe` is Bergstra et al. 2011,
    "Algorithms for Hyper-Parameter Optimization"; `cma_es` is Hansen's (arXiv:1604.00772). TPE and
    the Gaussian process are Optuna's samplers with their defaults. Optuna's sampler of CMA-ES keeps
    its state in the trials that it proposed, so that it cannot be told others; here its library
    `cmaes` is told every full population, in the order of first tells, from the same start as
    Optuna's, and begins anew when it has converged. Ours: limits, canonical networks, and seeds
    that make a search a function of what it was told.
    """

    random_start_option, elites_option = "initial", "parents"

    def set_up(self) -> None:
        """Makes a sampler of Optuna for each limit.

        Raises:
            ValueError: if Optuna or cmaes is not installed.
        """
        try:
            self._learners = [self._learner() for _ in self.budgets.each]
        except ImportError as error:
            name = self.options.sampler
            raise ValueError(
                f"sampler {name!r} needs Optuna and cmaes ({error}): install manyshot[optuna]"
            ) from error
        self._known = 0

    def _learner(self) -> Learner:
        if self.options.sampler == "cma_es":
            return _Evolved(self.space)
        return _Study(self.space, self.options.sampler)

    def prepare(self, rng: np.random.Generator) -> None:
        """Passes on what was told since the last proposal."""
        for row in range(self._known, len(self.history)):
            arch = self.history.archs[row]
            for budget, learner in enumerate(self._learners):
                if self.budgets.holds(budget, row):
                    learner.learn(arch, self.history.score(arch))
        self._known = len(self.history)

    def begins(self, budget: int) -> bool:
        """Whether too few were told within a budget."""
        initial = self.options.initial
        return len(self.budgets.newest(budget, initial)) < initial

    def fill(self, portion: Portion) -> None:
        """Takes what is drawn, until too much in a row is not new or over the limit."""
        if portion.begins or not portion.want:
            return
        draw = self._learners[portion.budget].draws(int(portion.rng.integers(2**31)))
        in_vain = 0
        while portion.missing and in_vain < CHILD_ATTEMPTS:
            in_vain = 0 if portion.take([self.space.canonical(draw())]) else in_vain + 1

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Records scores; see `Searcher.tell`."""
        if any(map(self.history.was_told, archs)):  # what was learnt of them is forgotten
            self._learners, self._known = [self._learner() for _ in self.budgets.each], 0
        super().tell(archs, scores, weights_version)
        for learner in self._learners:
            learner.forget_draws()


class Learner(Protocol):
    """What is told architectures with their scores, and draws others."""

    def learn(self, arch: Arch, score: float) -> None:
        """Adds an architecture to those told."""
        ...

    def draws(self, seed: int) -> Draw:
        """A function of which every call draws an encoding."""
        ...

    def forget_draws(self) -> None:
        """Forgets what was drawn."""
        ...


class _Study:
    """A study of Optuna."""

    def __init__(self, space: SearchSpace, sampler: Sampler) -> None:
        import optuna  # takes a second

        self._optuna, self._sampler = optuna, sampler
        self._space = space
        self._distributions: dict[str, Any] = {
            str(i): optuna.distributions.IntDistribution(0, len(options) - 1)
            if decision.is_number
            else optuna.distributions.CategoricalDistribution(tuple(range(len(options))))
            for i, (decision, options) in enumerate(
                zip(space.decisions, space.allowed, strict=True)
            )
        }
        with _quiet(optuna.logging):
            self._study = optuna.create_study(direction="maximize")
        self._drawn: list[Any] = []

    def learn(self, arch: Arch, score: float) -> None:
        params = {str(i): place for i, place in enumerate(_places(self._space, arch))}
        trial = self._optuna.trial.create_trial(
            params=params, distributions=self._distributions, value=score
        )
        self._study.add_trial(trial)

    def draws(self, seed: int) -> Draw:
        samplers = self._optuna.samplers
        if self._sampler == "random":
            self._study.sampler = samplers.RandomSampler(seed=seed)
        else:
            make = {"tpe": samplers.TPESampler, "gp": samplers.GPSampler}[self._sampler]
            self._study.sampler = make(seed=seed, n_startup_trials=1)

        def draw() -> Arch:
            trial = self._study.ask(self._distributions)
            self._drawn.append(trial)  # it runs, for all that Optuna knows
            places = (trial.params[name] for name in self._distributions)
            return tuple(o[place] for o, place in zip(self._space.allowed, places, strict=True))

        return draw

    def forget_draws(self) -> None:
        for trial in self._drawn:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        self._drawn.clear()


class _Evolved:
    """CMA-ES on the places of options in [0, 1]."""

    def __init__(self, space: SearchSpace) -> None:
        import cmaes

        self._cmaes, self._space = cmaes, space
        self._counts = np.array([len(options) for options in space.allowed], dtype=np.int64)
        self._free = np.flatnonzero(self._counts > 1)
        self._optimizer = self._new(0)
        self._told: list[tuple[Any, float]] = []

    def _new(self, seed: int) -> Any:
        """As Optuna begins: in the middle, with a sixth of the range as deviation."""
        size = max(2, len(self._free))  # it needs two; what is beyond the free ones decides nothing
        bounds = np.tile([0.0, 1.0], (size, 1))
        return self._cmaes.CMA(mean=np.full(size, 0.5), sigma=1 / 6, bounds=bounds, seed=seed)

    def learn(self, arch: Arch, score: float) -> None:
        place, at = np.full(max(2, len(self._free)), 0.5), np.array(_places(self._space, arch))
        place[: len(self._free)] = (at[self._free] + 0.5) / self._counts[self._free]
        self._told.append((place, -score))
        if len(self._told) == self._optimizer.population_size:
            self._optimizer.tell(self._told)
            self._told = []
            if self._optimizer.should_stop():
                self._optimizer = self._new(0)

    def draws(self, seed: int) -> Draw:
        self._optimizer.reseed_rng(seed)

        def draw() -> Arch:
            arch = np.zeros(len(self._counts), np.int64)
            counts = self._counts[self._free]
            place = self._optimizer.ask()[: len(counts)] * counts
            arch[self._free] = np.minimum(place, counts - 1)  # cut to whole numbers
            return tuple(o[i] for o, i in zip(self._space.allowed, arch.tolist(), strict=True))

        return draw

    def forget_draws(self) -> None:
        """Nothing is remembered of them."""


def _places(space: SearchSpace, arch: Arch) -> list[int]:
    """Where the options of an architecture are among those allowed."""
    inside = space.inside(arch)
    return [options.index(o) for options, o in zip(space.allowed, inside, strict=True)]


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Optuna says nothing but warnings inside."""
    before = logging.get_verbosity()
    logging.set_verbosity(max(before, logging.WARNING))
    try:
        yield
    finally:
        logging.set_verbosity(before)
