"""`ms.find`: a whole search in Python, without a recipe and without files."""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, final

from torch import nn

from manyshot import cost, evaluate
from manyshot.data import FixedBatches, Splits, fixed, own_data
from manyshot.evaluate.stages import Survey
from manyshot.nn.batch_norm import BatchNorm
from manyshot.nn.modes import evaluating
from manyshot.progress import Progress, Silent
from manyshot.search import (
    Cost,
    CostRange,
    Infeasible,
    LearnsFromScores,
    Limit,
    Reward,
    Searcher,
    best,
    generations,
    limits_of,
    make_searcher,
)
from manyshot.search.limit import costs_of
from manyshot.search.loop import learns, why_random
from manyshot.shown import Shown
from manyshot.space import Arch, Budget
from manyshot.supernet import Supernet
from manyshot.tasks import Task, as_task

CALIBRATION_IMAGES = 512
BATCH_SIZE = 256
ScoreOf = Callable[[Arch], float]
"""How good an architecture is: higher is better, one finite number."""


@final
@dataclass(frozen=True)
class Winner:
    """The best architecture that a search scored within one budget.

    Attributes:
        budget: as it was asked for, such as `"macs<=50%"`.
        arch: the architecture.
        choices: the chosen option of every decision that matters, by name.
        costs: by metric.
        score: what it was chosen by, if there is no reward.
        reward: what it was chosen by, if there is one.
    """

    budget: str
    arch: Arch
    choices: dict[str, Any]
    costs: dict[str, float]
    score: float
    reward: float | None
    _net: Supernet = field(repr=False, compare=False)
    _calibration: FixedBatches | None = field(repr=False, compare=False)

    def module(self, calibration: Iterable[Any] | None = None) -> nn.Module:
        """The network in eval mode: your own class with plain torch layers, and the weights of now.

        Args:
            calibration: batches for its batch norms, as `ms.evaluate.calibrate` takes them; by
                default those of the search, if it scored a data set.

        Raises:
            ValueError: if there are batch norms, and no batches for them.
        """
        batches = self._calibration if calibration is None else calibration
        stats = None
        if any(isinstance(layer, BatchNorm) for layer in self._net.modules()):
            if batches is None:
                raise ValueError(
                    "batch norms need statistics, and the search was given a function for a score: "
                    "give calibration=, batches of training images such as those of ms.data.fixed"
                )
            stats = evaluate.calibrate(self._net, self.arch, batches)
        return self._net.extract(self.arch, stats=stats).eval()


@final
@dataclass(frozen=True)
class SearchResult(Shown):
    """What `find` returns.

    Attributes:
        winners: one per budget, in the order of the budgets.
        history: every architecture scored with its score, in order.
    """

    winners: tuple[Winner, ...]
    history: tuple[tuple[Arch, float], ...]

    def winner(self, budget: str) -> Winner:
        """The winner within one of the budgets, however that is spelt.

        Raises:
            ValueError: if it is not understood.
            KeyError: if it is none of them; it names those that there are.
        """
        for winner in self.winners:
            if winner.budget == Budget.spelt(budget):
                return winner
        have = ", ".join(repr(winner.budget) for winner in self.winners)
        raise KeyError(f"budget {budget!r} was not searched for, have {have}")

    def __repr__(self) -> str:
        winners = ", ".join(f"{w.budget}: {w.arch} ({w.score:.4g})" for w in self.winners)
        return f"SearchResult({len(self.history)} architectures scored; {winners})"


def find(
    net: Supernet,
    *,
    budgets: Sequence[str],
    score: ScoreOf | Splits | tuple[Any, Any],
    task: Task | str = "classification",
    fitness: Literal["metric", "loss"] = "metric",
    reward: Reward | None = None,
    searcher: str | Searcher = "evolution",
    options: Mapping[str, Any] | None = None,
    candidates: int = 120,
    generation: int = 30,
    costs: Mapping[str, CostRange | Callable[..., Any]] | None = None,
    sampler: object = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> SearchResult:
    """Searches the best architecture for every budget. Nothing of the supernet changes.

    Args:
        net: a trained supernet.
        budgets: such as `"macs<=30M"`, `"params<=60%"`, `"size<=5MB"`, or on any of `costs`.
        score: the score of an architecture, higher is better; or a data set, on whose validation
            part the task is scored after batch norms are calibrated on 512 training images, all
            architectures of a generation together (see `ms.evaluate.Population`); or of data of
            your own a pair (training, validation) of data sets or `DataLoader`s.
        task: what a data set is scored by, or its name.
        fitness: whether by its metric or its loss.
        reward: what the search goes by, and chooses winners by, in place of the score: that times a
            power of a cost, such as `Reward("macs<=25%")`. It is for scores of at least 0.
        searcher: a name (`random`, `evolution`, `nsga2`, ...), `package.module:attribute`, or a
            searcher that is made already, whose limits are its maker's.
        options: of the searcher, by name.
        candidates: how many architectures are scored in all.
        generation: how many of them between two proposals.
        costs: further ones by name: a table, such as `latency_ms` by `ms.cost.latency_table`, or a
            function that gives a number (see `ms.cost.FunctionCost`). What budgets are on is exact
            besides, for `macs`, `params` and `size`.
        sampler: what the supernet was trained by, as it was given to `ms.fit`: evolution begins
            with what `greedy` keeps, and `mct` goes on from the tree of its sampler.
        seed: of the searcher, and of the choice of calibration images.
        progress: shows how far it is; by default nothing.

    Raises:
        ValueError: for a budget, searcher or option that does not exist or cannot be met, or costs
            that need what the supernet takes.
        Infeasible: if no architecture within some budget was scored.

    Warns:
        UserWarning: if no proposal depends on a score, because the searcher draws as many networks
            at random first (`evolution` by default 50, and whole generations).
    """
    if not isinstance(net, Supernet):
        raise ValueError(
            f"net is a {type(net).__name__}: make a supernet of it by ms.Supernet(model), or by "
            "ms.convert(model, inputs) if it has no decisions"
        )
    if isinstance(budgets, str) or not budgets:
        raise ValueError(
            f"budgets = {budgets!r}: give a list of at least one budget, such as ['macs<=50%']"
        )
    if fitness not in ("metric", "loss"):
        raise ValueError(f"fitness must be 'metric' or 'loss', got {fitness!r}")
    if reward is not None and fitness == "loss":
        raise ValueError(
            "a reward multiplies scores of at least 0, and fitness = 'loss' ranks by losses: take "
            "fitness = 'metric', or no reward"
        )
    calibration = None
    targets = [] if reward is None else [reward.target]
    by_metric = _all_costs(net, [*budgets, *targets], costs or {})
    limits = limits_of(budgets, by_metric, net.space.largest)
    goes_by = _goes_by(reward, by_metric, net)
    if isinstance(score, tuple | list) and len(score) == 2:
        train, validation = score
        score = own_data({"train": train, "validation": validation, "test": validation}, seed=seed)
    scored: Callable[[Sequence[Arch]], Iterable[tuple[Arch, Any]]]
    modes: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    if isinstance(score, Splits):
        calibration = calibration_of(net, score, seed)
        scored = _Proxy(net, score, as_task(task), calibration, fitness, seed)
        modes = functools.partial(evaluating, net)
    elif callable(score):
        scored = functools.partial(_one_by_one, score)
    else:
        raise ValueError(
            f"score is a {type(score).__name__}: give a function of an architecture, what "
            "ms.data.load or ms.data.own_data gives, or a pair (training, validation) of data sets"
        )
    if isinstance(searcher, str):
        searcher = make_searcher(
            searcher,
            net.space,
            seed=seed,
            limits=limits,
            options=options or {},
            sampler=sampler,
        )
    elif options:
        raise ValueError(f"options {dict(options)} are for a searcher by name")
    elif sampler is not None:
        raise ValueError("sampler is for a searcher by name: give it where this one is made")
    _warn_of_random(searcher, candidates, generation, net)
    scores: dict[Arch, float] = {}
    with (progress or Silent()).stage("search", candidates) as advance:
        for archs in generations(searcher, candidates, generation, net.space):
            now = dict(scores)
            with modes():
                for arch, number in scored(archs):
                    now[arch] = _number(number)
                    advance(len(now), f"best {max(now.values()):.4f}")
            scores.update((arch, now[arch]) for arch in archs)
            searcher.tell(archs, goes_by(archs, [scores[arch] for arch in archs]))
    fit = dict(zip(scores, goes_by([*scores], [*scores.values()]), strict=True))
    winners = tuple(
        _winner(net, limit, scores, None if reward is None else fit, by_metric, calibration)
        for limit in limits
    )
    return SearchResult(winners, tuple(scores.items()))


def _warn_of_random(searcher: Searcher, candidates: int, generation: int, net: Supernet) -> None:
    """Warns of a search that ends before it learns, unless it scores the whole space anyway."""
    if not isinstance(searcher, LearnsFromScores) or candidates >= net.space.size:
        return
    if not learns(searcher, candidates, generation):
        warnings.warn(why_random(searcher, candidates, generation), stacklevel=3)


def _goes_by(
    reward: Reward | None, costs: Mapping[str, Cost], net: Supernet
) -> Callable[[Sequence[Arch], list[float]], list[float]]:
    """What a search is told of architectures and their scores: rewards, or these scores."""
    if reward is None:
        return lambda archs, scores: scores
    limit = reward.limit(costs, net.space.largest)
    return functools.partial(reward.of, limit)


def calibration_of(net: Supernet, splits: Splits, seed: int) -> FixedBatches:
    """The training images that batch norms are calibrated on in `find`, as `seed` chooses them."""
    return fixed(splits.train, CALIBRATION_IMAGES, BATCH_SIZE, seed=seed, **_looks(net, splits))


def _looks(net: Supernet, splits: Splits) -> dict[str, Any]:
    device = next((p.device for p in net.parameters()), None) or "cpu"
    return {"mean": splits.mean, "std": splits.std, "device": device}


def _one_by_one(score: ScoreOf, archs: Sequence[Arch]) -> Iterator[tuple[Arch, Any]]:
    return ((arch, score(arch)) for arch in archs)


class _Proxy:
    """The default score of `find`: of validation images, with calibrated batch norms."""

    def __init__(
        self,
        net: Supernet,
        splits: Splits,
        task: Task,
        calibration: FixedBatches,
        fitness: Literal["metric", "loss"],
        seed: int,
    ) -> None:
        """Takes the validation images.

        Args:
            net: the supernet.
            splits: a data set with a validation part.
            task: what is scored.
            calibration: what batch norms are calibrated on.
            fitness: by its metric, or by its loss. Where lower is better, the sign is turned.
            seed: of the batches.

        Raises:
            ValueError: if the data set has no validation part.
        """
        if not len(splits.validation):
            raise ValueError(
                f"data set {splits.name!r} has no validation part to score on: load it with "
                "validation=0.1"
            )
        self._net, self._task, self._calibration = net, task, calibration
        self._by_loss = fitness == "loss"
        self._validation = fixed(
            splits.validation, None, BATCH_SIZE, seed=seed, **_looks(net, splits)
        )
        self._survey: Survey | None = None

    def __call__(self, archs: Sequence[Arch]) -> Iterator[tuple[Arch, float]]:
        """The scores of architectures, which share what their networks begin with, in any order."""
        population = evaluate.Population(
            self._net,
            archs,
            calibration=self._calibration,
            validation=self._validation,
            task=self._task,
            survey=self._survey,
        )
        self._survey = population.survey
        for arch, score in population:
            text = self._net.space.to_text(arch)
            score = score.checked(f"architecture {text} on validation images")
            yield arch, -score.loss if self._by_loss else score.fitness


def _all_costs(
    net: Supernet, budgets: Sequence[str], given: Mapping[str, CostRange | Callable[..., Any]]
) -> dict[str, Cost]:
    """The costs that are given, and those of ours: what budgets are on, or all without any."""
    asked = {part.metric for text in budgets for part in Budget.parse_all(text)}
    if not given:
        asked |= {"macs", "params"}
    costs: dict[str, Cost] = {
        name: one if isinstance(one, CostRange) else cost.FunctionCost(net, one, name)
        for name, one in given.items()
    }
    if "macs" in asked - costs.keys():
        if net.input_shape is None and net.example_inputs is None:
            raise ValueError(
                "macs need the shape of the inputs: make the supernet with "
                "ms.Supernet(model, input_shape=(C, H, W)) or example_inputs=, or give costs="
            )
        costs["macs"] = cost.macs_table(net)
    if "params" in asked - costs.keys():
        costs["params"] = cost.params_table(net)
    if "size" in asked - costs.keys():
        costs["size"] = cost.size_table(net)
    return costs


def _number(score: Any) -> float:
    try:
        return float(score)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"score gives {score!r}: give one finite number, where higher is better"
        ) from error


def _winner(
    net: Supernet,
    limit: Limit,
    scores: Mapping[Arch, float],
    rewards: Mapping[Arch, float] | None,
    costs: Mapping[str, Cost],
    calibration: FixedBatches | None,
) -> Winner:
    within = best(scores if rewards is None else rewards, limit)
    if not within:
        raise Infeasible(
            f"none of the {len(scores)} architectures scored is within {limit.name!r}: raise "
            "candidates (at least one per budget)"
        )
    arch = within[0]
    return Winner(
        budget=limit.name,
        arch=arch,
        choices=net.space.choices(arch),
        costs={m: costs_of(one, [arch], m)[0].item() for m, one in costs.items()},
        score=scores[arch],
        reward=None if rewards is None else rewards[arch],
        _net=net,
        _calibration=calibration,
    )
