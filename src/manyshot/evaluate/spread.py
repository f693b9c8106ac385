"""Scoring many architectures by many workers: each holds the supernet, and walks some branches.

Scores are those of one process: every worker computes them as `Population` does, on as many threads
as this process has, and a score does not depend on what else is scored.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from manyshot.crews import Crew, Kept
from manyshot.evaluate.prefix import Calibration, Population
from manyshot.evaluate.score import Score, score
from manyshot.evaluate.stages import Survey
from manyshot.nn.batch_norm import BatchNormStats
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import Task

PORTIONS = 3
"""So many parts of the tree per worker: of fewer the last is waited for, more share less."""
REMEMBERED = 4
"""So many sets of images are told from new ones: a search has two to score on, and calibrates."""

_NUMBERS = itertools.count()
"""Tell networks and images apart that the workers of this process have been sent."""

Scored = tuple[Arch, Score, float]
"""An architecture, its score, and the seconds that it took."""


@final
class Spread:
    """Has populations scored by the workers of a crew.

    A worker gets the network and the images once, and weights when their digest is another one.
    """

    def __init__(self, crew: Crew) -> None:
        """Sends nothing yet.

        Args:
            crew: the workers; whoever made them ends them.
        """
        self.crew = crew
        self._net: Supernet | None = None
        self._number, self._first, self._moved = "", "", False
        self._seen: deque[tuple[str, Iterable[Any]]] = deque(maxlen=REMEMBERED)

    def scores(self, population: Population, weights: str) -> Iterator[Scored]:
        """The scores of a population, as parts of it are done, in no order.

        Args:
            population: what to score.
            weights: the digest of its network's weights.

        Raises:
            RuntimeError: if workers are lost again and again, or the network cannot be sent.
        """
        portions = [
            Portion(tuple(archs), weights, population.parts, _given(population, archs))
            for archs in population.portions(PORTIONS * self.crew.count)
        ]
        kept = self._kept(population, weights) if portions else []
        for _, scored in self.crew.run(score_portion, portions, kept):
            yield from scored

    def _kept(self, population: Population, weights: str) -> list[Kept]:
        """What workers need of a population."""
        net = population.net
        if net is not self._net:
            self._net, self._first, self._moved = net, weights, False
            self._number = str(next(_NUMBERS))
        self._moved |= weights != self._first
        task, first, number = population.task, self._first, self._number
        kept = [Kept("network", number, lambda: Holder(net, task, first))]
        if self._moved:
            kept.append(Kept("weights", f"{number}:{weights}", lambda: _on_cpu(net)))
        images = {"validation": population.validation}
        if population.statistics_of is None:
            images["calibration"] = population.calibration
        return kept + [self._kept_images(name, batches) for name, batches in images.items()]

    def _kept_images(self, name: str, batches: Iterable[Any]) -> Kept:
        if not any(each is batches for _, each in self._seen):
            self._seen.append((str(next(_NUMBERS)), batches))
        [version] = [number for number, each in self._seen if each is batches]
        return Kept(name, version, lambda: batches)


def _on_cpu(net: Supernet) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in net.state_dict().items()}


def _given(population: Population, archs: Iterable[Arch]) -> tuple[BatchNormStats, ...] | None:
    """The statistics of architectures, where they are not calibrated."""
    of = population.statistics_of
    return None if of is None else tuple(map(of, archs))


@final
@dataclass(frozen=True, slots=True)
class Portion:
    """What a worker is asked for at once.

    Attributes:
        archs: the architectures.
        weights: the digest of the weights that they are scored with.
        parts: into how many parts the images are shared out, each scored too.
        stats: the statistics of each, if they are not calibrated.
    """

    archs: tuple[Arch, ...]
    weights: str
    parts: int
    stats: tuple[BatchNormStats, ...] | None


@final
class Holder:
    """A supernet as a worker holds it, with what it scores."""

    def __init__(self, net: Supernet, task: Task, weights: str) -> None:
        """Holds a network.

        Args:
            net: the supernet.
            task: what is scored.
            weights: the digest of the weights that it has.
        """
        self.net, self.task, self.weights = net, task, weights
        self._survey: Survey | None = None

    def take(self, weights: str, tensors: Mapping[str, Tensor] | None) -> None:
        """Takes other weights, unless it has them."""
        if weights != self.weights:
            assert tensors is not None  # `Spread` sends all weights but the first
            self.net.load_state_dict(dict(tensors))
            self.weights = weights

    def scores(
        self, portion: Portion, calibration: Calibration, validation: Iterable[Any]
    ) -> Iterator[tuple[Arch, Score]]:
        """The score of each architecture of a portion, in any order."""
        if len(portion.archs) == 1:
            [arch] = portion.archs
            own = calibration(arch) if callable(calibration) else calibration
            yield (
                arch,
                score(
                    self.net,
                    arch,
                    calibration=own,
                    validation=validation,
                    task=self.task,
                    parts=portion.parts,
                ),
            )
            return
        population = Population(
            self.net,
            portion.archs,
            calibration=calibration,
            validation=validation,
            task=self.task,
            parts=portion.parts,
            survey=self._survey,
        )
        self._survey = population.survey
        yield from population


def score_portion(kept: Mapping[str, Any], portion: Portion) -> list[Scored]:
    """What a worker does: scores a portion with the network and the images that it keeps."""
    holder: Holder = kept["network"]
    holder.take(portion.weights, kept.get("weights"))
    calibration: Calibration = kept.get("calibration", ())
    if portion.stats is not None:
        calibration = _looked_up(portion.stats)
    scored, began = list[Scored](), time.perf_counter()
    with evaluating(holder.net):
        for arch, result in holder.scores(portion, calibration, kept["validation"]):
            now = time.perf_counter()
            scored.append((arch, result, now - began))
            began = now
    return scored


def _looked_up(stats: Iterable[BatchNormStats]) -> Callable[[Arch], BatchNormStats]:
    by_arch = {each.arch: each for each in stats}
    return by_arch.__getitem__
