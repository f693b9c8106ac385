"""Everything a recipe stands for, built: images, network, costs, budgets."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypeVar, cast, get_args

import torch
from accelerate import Accelerator, PartialState
from pydantic import BaseModel
from torch import nn

from manyshot.cost import CostTable, FunctionCost, macs_table, params_table, size_table
from manyshot.cost.timing import on_threads
from manyshot.data import (
    Augment,
    Batch,
    Batches,
    DataDescription,
    FixedBatches,
    LabelledImages,
    OwnSet,
    Splits,
    fixed,
)
from manyshot.data.fixed_batches import drawn
from manyshot.data.images import pixels_of
from manyshot.data.joining import joined
from manyshot.evaluate import Population, Score, Spread, calibrate
from manyshot.fitting import growth_of
from manyshot.nn.inputs import Inputs, inputs_of
from manyshot.nn.pointwise import TrainingFormat, training_format
from manyshot.pipeline.checks import (
    GENERATOR,
    check_batch_size,
    check_batch_sizes,
    check_breeding,
    check_chunks,
    check_classes,
    check_code_steps,
    check_formats,
    check_joint,
    check_moves,
    check_placements,
    check_runtime,
    check_sampler,
    check_shrinking,
    check_stale,
    check_stand_ins,
    check_teachers,
)
from manyshot.pipeline.clock import Clock
from manyshot.pipeline.given import load_data
from manyshot.pipeline.inherit import Inherited, inherit
from manyshot.pipeline.matching import Matching
from manyshot.pipeline.networks import Original, build_sharing, build_supernet
from manyshot.pipeline.settling import (
    with_epochs,
    with_precision,
    with_reachable_budgets,
    with_view_budgets,
)
from manyshot.pipeline.teachers import Pupil, Teachers, check_teacher, load_teacher
from manyshot.plugins import look_up
from manyshot.recipe import (
    BESIDE_RESULTS,
    GIVEN,
    FinishSettings,
    OptimiserSettings,
    Recipe,
    RecipeError,
    RewardSettings,
    SnapshotsSettings,
    SupernetSettings,
    TaskSettings,
    TrainingSettings,
)
from manyshot.run_folder import MetricRecord, RunFolder, TaskRecord
from manyshot.search import Cost, Limit, Reward, Searcher, limits_of, make_searcher
from manyshot.search.limit import costs_of
from manyshot.seeding import numpy_rng
from manyshot.sharing.widths import cut_sizes, decisions_of
from manyshot.space import Arch, Budget, Decision, SearchSpace
from manyshot.supernet import Supernet
from manyshot.tasks import Task, make_task
from manyshot.tasks.task import check_votes, loss_function
from manyshot.train import (
    Distiller,
    EndsEarly,
    Sampler,
    Several,
    Shrinker,
    engine,
    load_weights,
    make_distiller,
    make_sampler,
    make_shrinker,
)
from manyshot.train.mixing import check_mixed, check_mixing, mixing
from manyshot.train.sharding import check_shards
from manyshot.train.snapshots import check_snapshots
from manyshot.train.trainer import check_drops_largest
from manyshot.transfer import classifier, new_head

Stage = TypeVar("Stage", bound=Callable[..., Any])
Part = Literal["validation", "train", "test"]
OFF: dict[str, Any] = {
    "accumulate": 1,
    "ema": None,
    "min_lr": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "rates": {},
    "drop_path": None,
    "drop_path_for": "all",
    "rand_augment": None,
    "random_erasing": 0.0,
    "repeats": 1,
    "image_sizes": None,
    "sgld": 0.0,
    "shard": False,
    "snapshots": SnapshotsSettings().model_dump(),
}
"""Settings that came later, by what turns them off: then they are no part of what identifies
weights, so that those of before stay what they are."""
OF_MOVES = {"body_epochs"}
"""Settings of a transfer that are no part of what identifies other weights."""


def on_its_threads(stage: Stage) -> Stage:
    """`stage(recipe, ...)` run on the recipe's number of threads, restored afterwards."""

    @functools.wraps(stage)
    def run(recipe: Recipe, *args: Any, **kwargs: Any) -> Any:
        own = torch.get_num_threads() if recipe.threads == "default" else recipe.threads
        with on_threads(own):
            return stage(recipe, *args, **kwargs)

    return cast(Stage, run)


def pick_device(name: str) -> torch.device:
    """The device of a recipe: `auto` is the current accelerator, if there is one.

    Raises:
        RecipeError: for a device that torch does not know or have, or a numbered GPU.
    """
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is not None:
            raise RecipeError(
                f"device = {name!r}: Accelerate places models itself; set device = 'cuda' and "
                f"choose the GPU by the environment: CUDA_VISIBLE_DEVICES={device.index}"
            )
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device = {name!r}: {error}") from error
    return device


def processes(recipe: Recipe) -> int:
    """How many processes were started together; each takes its own GPU, if it uses one."""
    on_cpu = pick_device(recipe.device).type == "cpu"
    return int(PartialState(cpu=on_cpu).num_processes)


def build_task(recipe: Recipe) -> Task:
    """The recipe's task.

    Raises:
        RecipeError: for an unknown one, or options it does not take.
    """
    try:
        return make_task(recipe.task.name, recipe.task.options)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def check_classifier(recipe: Recipe, net: Supernet) -> int:
    """How many classes the network's classifier has.

    Raises:
        RecipeError: if there is no classifier, or another than the recipe says.
    """
    try:
        return cast(int, classifier(net, recipe.transfer.classifier)[1].out_features)
    except ValueError as error:
        raise RecipeError(f"transfer.classifier: {error}") from error


def fit_classes(recipe: Recipe, net: Supernet, classes: int) -> None:
    """In a transfer, gives a network that was made for other classes a classifier for these.

    Raises:
        RecipeError: as `check_classifier`, or if the data do not tell how many classes they have.
    """
    if recipe.moves and not classes:
        raise RecipeError(
            f"data.name = {recipe.data.name!r}: a transfer makes a classifier for the classes of "
            "the data, and these do not tell theirs: give a TensorDataset or a list of samples "
            "with class indices, or a data set that has them all as its attribute targets"
        )
    if recipe.moves and check_classifier(recipe, net) != classes:
        new_head(net, classes, name=recipe.transfer.classifier, seed=recipe.seed)


def new_supernet(
    recipe: Recipe, data: DataDescription, device: torch.device, run: RunFolder | None = None
) -> Supernet:
    """A supernet of one copy that nothing has trained, of which plain networks are extracted.

    Args:
        recipe: says which.
        data: what it is made for; in a transfer the images that it moves to.
        device: where it is.
        run: the folder of the run whose supernet it is to be like: with the weights that the recipe
            gives, by which conversion orders channels. Without it, weights are new.

    It raises what `build_supernet` and `fit_classes` do.
    """
    given = run is not None and not recipe.moves
    kept = None if run is None else run.original
    net, _ = build_supernet(recipe, data, given=given, kept=kept)
    fit_classes(recipe, net, data.classes)
    return net.to(device)


def build_costs(recipe: Recipe, net: Supernet) -> dict[str, FunctionCost]:
    """The costs that the recipe names, by name.

    Raises:
        RecipeError: for a function that cannot be imported, or takes what is not offered.
    """
    try:
        return {
            name: FunctionCost(net, look_up("cost", function, {}), name)
            for name, function in recipe.costs.items()
        }
    except ValueError as error:
        raise RecipeError(f"costs: {error}") from error


def budget_metrics(recipe: Recipe) -> set[str]:
    """The costs that the recipe's budgets, and its reward, are on."""
    search = recipe.search
    texts = (*search.budgets, search.reward.target)
    return {part.metric for text in texts if text for part in Budget.parse_all(text)}


@dataclass(frozen=True)
class Workspace:
    """A recipe made concrete.

    Attributes:
        recipe: what it was built from; see `with_reachable_budgets`.
        device: where tensors live.
        task: what is learnt and scored.
        splits: the images.
        net: the supernet, on the device, in the memory format.
        costs: exact cost tables by metric: `macs`, `params`, `size` if a budget is on it.
        memory_format: of the supernet and of all images, and why.
        has_default_budgets: whether the recipe that it was built from had no budgets.
        original: what the supernet was made of.
        functions: the recipe's own costs by name.
        clock: counts how long parts of the run take.
        inherited: the weights of another run that slices began as, if they did.
        sized: the cost tables of images of other sizes, as far as they are known, by their side.
        teachers: loads the network of `[teacher]`, if there is one.
        spread: has many architectures scored by other processes; None scores in this one.
        view: the view of the space that training ended in, once it has; None if it never shrank.
    """

    recipe: Recipe
    device: torch.device
    task: Task
    splits: Splits
    net: Supernet
    costs: Mapping[str, CostTable]
    memory_format: TrainingFormat
    has_default_budgets: bool = False
    original: Original = Original()
    functions: Mapping[str, FunctionCost] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    inherited: Inherited | None = None
    sized: dict[int, CostTable] = field(default_factory=dict)
    teachers: Teachers | None = None
    spread: Spread | None = None
    view: SearchSpace | None = None

    @property
    def space(self) -> SearchSpace:
        """What is searched: the whole space, or the view of it that training ended in."""
        return self.net.space if self.view is None else self.view

    @classmethod
    def build(
        cls, recipe: Recipe, folder: Path | None = None, world: int | None = None
    ) -> Workspace:
        """Loads the images, makes the supernet, records its costs.

        Args:
            recipe: what to build.
            folder: the folder of a run, if it is one that has begun: the weights that were given to
                its network are kept there.
            world: how many processes are to run the recipe, if it is to be run.

        Raises:
            RecipeError: for a device that does not fit, batches that are larger than the images
                are many, or what a network, a sharing scheme, a task, a sampler or a searcher says
                of its name and options.
            DataNotFound: if the images are missing.
            RecordError, CheckpointError: if the files of a run that is inherited are damaged.
            ValueError: for options that disagree in shape, and what `load` raises.
        """
        device, task = pick_device(recipe.device), build_task(recipe)
        splits = load_data(recipe)
        check_classes(recipe, splits)
        if world is not None:
            check_batch_sizes(recipe, splits, world)
        net, original = build_supernet(
            recipe,
            splits,
            sharing=build_sharing(recipe, splits),
            given=not recipe.moves,  # a moved supernet has all its weights from another run
            kept=None if folder is None else RunFolder(folder).original,
        )
        inherited = inherit(net, recipe, splits, folder)
        fit_classes(recipe, net, splits.classes)
        costs = {"macs": macs_table(net), "params": params_table(net)}
        if "size" in budget_metrics(recipe):
            costs["size"] = size_table(net, costs["params"])
        has_default_budgets = "budgets" not in recipe.search.model_fields_set
        recipe = with_reachable_budgets(recipe, costs, net.space)
        recipe = with_view_budgets(with_epochs(with_precision(recipe, device), splits))
        memory_format = training_format(net, device)
        for module in (net, original.module):
            if module is not None:
                module.to(device=device, memory_format=memory_format.torch_format)  # type: ignore[call-overload]
        ws = cls(
            recipe,
            device,
            task,
            splits,
            net,
            MappingProxyType(costs),
            memory_format,
            has_default_budgets,
            original,
            MappingProxyType(build_costs(recipe, net)),
            inherited=inherited,
        )
        ws.check_plugins()
        return replace(ws, recipe=ws.with_teacher())._taught()

    def _taught(self) -> Workspace:
        """The workspace with what loads its teacher, and a recipe that says its digest.

        A run that has begun says it already, and loads its teacher when it is needed.

        Raises:
            RecipeError: for a teacher that cannot teach this task on these images.
        """
        settings = self.recipe.teacher
        if not settings.is_there:
            return self
        pupil = Pupil(self.recipe, self.splits, self.splits.digests, self.calibration, self.device)
        teachers = Teachers(functools.partial(load_teacher, pupil), self.splits.image_shape)
        if settings.digest is not None:
            return replace(self, teachers=teachers)
        two = self.together(self.splits.train.subset(range(min(2, len(self.splits.train)))))
        try:
            check_votes(self.task, len(settings.every))
        except ValueError as error:
            raise RecipeError(f"[teacher]: {error}") from error
        check_teacher(teachers.teacher.module, self.task, two)
        settings = settings.model_copy(update={"digest": teachers.teacher.digest})
        recipe = self.recipe.model_copy(update={"teacher": settings})
        return replace(self, recipe=recipe, teachers=teachers)

    def teacher(self, which: str | None) -> nn.Module | None:
        """What a section learns from whose `teacher` says this; None for labels alone.

        Raises:
            RecipeError: if it is not there any more, or is another than before.
        """
        if which == "original":
            return self.original.module
        if which == "network" and self.teachers is not None:
            return self.teachers.teacher.module
        return None

    def finishing_teacher(self, settings: FinishSettings) -> nn.Module | None:
        """What winners learn from; None for labels alone.

        Raises:
            RecipeError: what `teacher` does, and for an architecture that there is not.
        """
        if settings.teacher != "supernet":
            return self.teacher(settings.teacher)
        modules = []
        for arch in self.taught_by(settings):
            stats = calibrate(self.net, arch, self.calibration())
            modules.append(self.net.extract(arch, stats=stats).eval().requires_grad_(False))
        return Several(modules)

    def taught_by(self, settings: FinishSettings) -> list[Arch]:
        """The architectures of the supernet that winners learn from.

        Raises:
            RecipeError: for one that there is not, or two that are one network.
        """
        space, archs = self.net.space, []
        for text in settings.taught_by:
            try:
                arch = space.largest if text == "largest" else space.from_text(text)
            except ValueError as error:
                raise RecipeError(
                    f"finish.taught_by: {text!r} is no architecture of this space ({error}); give "
                    f"one such as {space.to_text(space.smallest)!r}, or 'largest'"
                ) from error
            archs.append(space.canonical(arch))
        if len({*archs}) < len(archs):
            raise RecipeError(
                f"finish.taught_by = {settings.taught_by} names one network twice, by another "
                "encoding: leave one out"
            )
        return archs

    def distiller(self, settings: FinishSettings) -> Distiller | None:
        """How winners learn from their teachers; None without any.

        Raises:
            RecipeError: for a distiller that cannot be made, or not with these teachers and task.
        """
        if settings.teacher == "none":
            return None
        several = {
            "supernet": len(self.taught_by(settings)),
            "network": len(self.recipe.teacher.every),
        }
        told = settings.distillation
        try:
            distiller = make_distiller(told.name, told.options)
            distiller.check(self.task, several.get(settings.teacher, 1))
        except ValueError as error:
            raise RecipeError(f"finish.distillation: {error}") from error
        return distiller

    def with_teacher(self) -> Recipe:
        """The recipe, with the original as teacher where it does not say, if that can teach."""
        train = self.recipe.train
        if train.teacher is not None or not (self.original.teaches and self._distils()):
            return self.recipe
        train = train.model_copy(update={"teacher": "original"})
        return self.recipe.model_copy(update={"train": train})

    def _distils(self) -> bool:
        """Whether the sampler lets paths learn from the largest architecture."""
        if self.recipe.moves or self._waits_for_latency():
            return False
        plan = self.sampler().plan(numpy_rng(self.recipe.seed, "plan", 0), 0)
        return any(path.target == "largest" for path in plan.paths)

    @functools.cached_property
    def task_record(self) -> TaskRecord:
        """What scores are, seen by a few samples of every part through the smallest network.

        Raises:
            RecipeError: for what `Matching.look` finds: a network that does not run, or outputs and
                targets that are not what the task allows.
        """
        recipe = self.recipe
        matching = Matching(self.net, self.task, self.together)
        try:
            for part in get_args(Part):
                metrics = matching.look(part, getattr(self.splits, part))
        except ValueError as error:
            raise RecipeError(f"task = {recipe.task.name!r}: {error}") from error
        name, metric = next(iter(metrics.items()))
        return TaskRecord(
            name=recipe.task.name,
            metric=MetricRecord(
                name=name,
                higher_is_better=bool(metric.higher_is_better),
                share=name in self.task.shares,
            ),
            fitness=recipe.evaluate.fitness,
        )

    def with_costs(self, **costs: CostTable) -> Workspace:
        """The same workspace with further costs, such as measured latencies."""
        return replace(self, costs=MappingProxyType({**self.costs, **costs}))

    @property
    def all_costs(self) -> dict[str, Cost]:
        """Every cost by metric, the recipe's own among them."""
        return {**self.costs, **self.functions}

    def costs_of(self, arch: Arch) -> dict[str, float]:
        """The costs of an architecture by metric."""
        return {m: costs_of(cost, [arch], m)[0].item() for m, cost in self.all_costs.items()}

    def macs_of(self, archs: Sequence[Arch]) -> list[int]:
        """The multiply-adds of one image in architectures."""
        return [int(macs) for macs in self.costs["macs"](archs)]

    def macs_at(self, side: int) -> Callable[[Sequence[Arch]], list[int]]:
        """The multiply-adds of one square image of another side, in pixels.

        Raises:
            ValueError: if the network does not take it.
        """
        if side not in self.sized:
            shape = (self.splits.image_shape[0], side, side)
            self.sized[side] = macs_table(self.net, shape)
        table = self.sized[side]
        return lambda archs: [int(macs) for macs in table(archs)]

    def recorded_costs(self, arch: Arch) -> dict[str, Any]:
        """The costs of an architecture, as a record of a candidate holds them."""
        fields = ("macs", "params", "latency_ms")
        own = {m: table([arch])[0].item() for m, table in self.costs.items() if m in fields}
        further = {m: cost for m, cost in self.costs_of(arch).items() if m not in fields}
        return {**own, "costs": further or None}

    def scored(self, population: Population, weights: str) -> Iterator[tuple[Arch, Score]]:
        """The scores of a population in any order, by other processes if there are any.

        Args:
            population: of this supernet.
            weights: the digest of its weights.
        """
        if self.spread is None:
            yield from population
        else:
            for arch, score, _ in self.spread.scores(population, weights):
                yield arch, score

    def limits(self, metrics: tuple[str, ...] | None = None) -> list[Limit]:
        """The recipe's budgets as limits on costs, those on `metrics` alone if given.

        Raises:
            RecipeError: for a budget that no architecture meets, with the reachable range.
        """
        return self.limits_of(self.recipe.search.budgets, metrics)

    def limits_of(
        self, budgets: Sequence[str], metrics: tuple[str, ...] | None = None
    ) -> list[Limit]:
        """Budgets as limits on costs, those on `metrics` alone if given.

        Shares are of the largest of the whole space.

        Raises:
            RecipeError: for a budget that no architecture meets, with the reachable range.
        """
        budgets = [
            text
            for text in budgets
            if metrics is None or {part.metric for part in Budget.parse_all(text)} <= {*metrics}
        ]
        try:
            return limits_of(budgets, self.all_costs, self.net.space.largest)
        except ValueError as error:
            raise RecipeError(str(error)) from error

    @functools.cached_property
    def _target(self) -> tuple[Reward, Limit] | None:
        """The recipe's reward with its target as a number; None if there is no reward."""
        settings = self.recipe.search.reward
        if settings.target is None:
            return None
        reward = Reward(**settings.model_dump())
        try:
            return reward, reward.limit(self.all_costs, self.net.space.largest)
        except ValueError as error:
            raise RecipeError(f"search.reward: {error}") from error

    def reward(self, arch: Arch, score: float) -> float | None:
        """What a search goes by in place of a score; None if it goes by that."""
        if self._target is None:
            return None
        reward, limit = self._target
        return reward.of(limit, [arch], [score])[0]

    def check_reward(self) -> None:
        """Refuses a reward that has no meaning for these scores, or a target that none meets.

        Raises:
            RecipeError: then.
        """
        metric, target = self.task_record.metric, self.recipe.search.reward.target
        if target is None:
            return
        if not (metric.share and metric.higher_is_better):
            raise RecipeError(
                f"search.reward multiplies the score by a power of a cost, which means something "
                f"for one of at least 0, where higher is better, and {metric.name} of task = "
                f"{self.recipe.task.name!r} may be another: leave search.reward out, or name the "
                "metric in the shares of a task of your own if it is in [0, 1]"
            )
        if Budget.parse(target).metric in self.all_costs:
            assert self._target

    @functools.cached_property
    def widths(self) -> list[Decision]:
        """The decisions that numbers of channels depend on."""
        return decisions_of(cut_sizes(self.net.model, self.net.space), self.net.space)

    def shrinker(self) -> Shrinker:
        """A new shrinker, as the recipe says.

        Raises:
            RecipeError: for an unknown one, or options it does not take.
        """
        shrink, space, seed = self.recipe.shrink, self.net.space, self.recipe.seed
        try:
            return make_shrinker(shrink.name, space, shrink.options, at=shrink.at, seed=seed)
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def sampler(self) -> Sampler:
        """A new sampler, as the recipe says.

        Raises:
            RecipeError: for an unknown one, or options it does not take.
        """
        sampler, seed = self.recipe.sampler, self.recipe.seed
        try:
            return make_sampler(
                sampler.name,
                self.net.space,
                sampler.options,
                costs=self.costs,
                widths=self.widths,
                seed=seed,
            )
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def searcher(self, limits: list[Limit], sampler: Sampler | None = None) -> Searcher:
        """A new searcher, as the recipe says.

        Args:
            limits: what it proposes within.
            sampler: the recipe's, as it was trained, for searchers that take one; see
                `sampler_of_search` in `pipeline/stages/generate.py`.

        Raises:
            RecipeError: for an unknown one, or options it does not take.
        """
        search, seed = self.recipe.search, self.recipe.seed
        try:
            return make_searcher(
                search.name,
                self.space,
                seed=seed,
                limits=limits,
                options=search.options,
                sampler=sampler,
            )
        except ValueError as error:
            raise RecipeError(str(error)) from error

    def check_plugins(self) -> None:
        """Makes sampler and searcher, so that no verb accepts options which these do not.

        A sampler of latencies waits for them; that of a moved supernet is not used.

        Raises:
            RecipeError: for an unknown one, or options it does not take.
        """
        sampler = None
        if not self.recipe.moves and not self._waits_for_latency():
            sampler = self.sampler()
        if self.recipe.shrinks:
            self.shrinker()
        if self.recipe.search.name != GENERATOR:
            self.searcher([self.everything()], sampler)

    @property
    def trains_sampler(self) -> bool:
        """Whether the supernet is trained here, by the recipe's sampler."""
        return bool(self.recipe.train.epochs) and not self.recipe.moves

    @property
    def may_end_early(self) -> bool:
        """Whether the supernet is trained here by a sampler that may end training."""
        return self.trains_sampler and isinstance(self.sampler(), EndsEarly)

    def everything(self) -> Limit:
        """A limit within which all architectures are."""
        table = self.costs["macs"]
        return Limit("everything", table, table.range()[1])

    def check(self, world: int = 1) -> None:
        """Finds now, before anything is trained by `world` processes, what would fail later.

        Raises:
            RecipeError: for an impossible budget, an unknown sampler or searcher, their options,
                training batches that cannot be made, a runtime that does not run on the device, or
                what `check_finish` finds.
        """
        self.check_task()
        known = self.limits(metrics=tuple(self.all_costs.keys() - {"latency_ms"}))
        self.check_joint()
        self.check_reward()
        if not self._waits_for_latency():
            self.check_sampler(world)
        if self.recipe.search.name != GENERATOR:
            sampler = (
                self.sampler() if self.trains_sampler and not self._waits_for_latency() else None
            )
            searcher = self.searcher(known or [self.everything()], sampler)
            check_breeding(searcher, self.recipe.search)
            check_stale(self.recipe.shifting, searcher)
        if self.recipe.shifting.name != "none":
            check_placements(self.recipe, self.net.sharing)
            if self.recipe.shifting.needs_classifier:
                check_classifier(self.recipe, self.net)
            self.check_batches("shifting", self.recipe.shifting, world)
        self.check_batches("train", self.recipe.train, world)
        check_chunks(self.net.sharing, self.recipe.train.batch_size, world)
        train = self.recipe.train
        if not self.recipe.moves and train.minutes is None:
            check_code_steps(self.net.sharing, train.epochs * len(self.batches(train, 0, world)))
        check_runtime(self.recipe.latency, self.device)
        self.check_finish(world)

    def check_task(self) -> None:
        """Finds what would fail in the first batch: other outputs or targets than the task's.

        Raises:
            RecipeError: for these, or targets to be smoothed or mixed by a task that does not say
                how, or snapshots that cannot vote.
        """
        recipe = self.recipe
        sections: dict[str, OptimiserSettings] = {"train": recipe.train}
        sections["shifting"], sections["finish.training"] = recipe.shifting, recipe.finish.training
        if recipe.train.snapshots.number and recipe.train.epochs and not recipe.moves:
            try:
                check_snapshots(self.net, self.task, recipe.train.snapshots.number)
            except ValueError as error:
                raise RecipeError(f"train.snapshots: {error}") from error
        for section, settings in sections.items():
            try:
                loss_function(self.task, settings.label_smoothing)
                if isinstance(settings, TrainingSettings) and mixing(settings):
                    check_mixing(settings, self.task)
                    check_mixed(settings, *self.together(self.splits.train.subset([0])))
            except ValueError as error:
                raise RecipeError(f"{section}.{error}") from error
        assert self.task_record

    def check_joint(self) -> None:
        """Refuses budgets of several limits, or on a cost of one's own, that none meets.

        Those on a cost that is not known yet, such as a latency, are left for later.

        Raises:
            RecipeError: then.
        """
        costs, space = self.all_costs, self.net.space
        for text in self.recipe.search.budgets:
            budgets = Budget.parse_all(text)
            metrics = {budget.metric for budget in budgets}
            if metrics <= costs.keys() and (len(budgets) > 1 or metrics & self.functions.keys()):
                greatest = {
                    b.metric: b.absolute(costs_of(costs[b.metric], [space.largest], text)[0])
                    for b in budgets
                }
                check_joint(text, space, costs, greatest)

    def check_sampler(self, world: int = 1) -> None:
        """Finds what would fail in training with the sampler, or in taking winners from it.

        Args:
            world: how many processes train together.

        Raises:
            RecipeError: for an unknown one, its options, or what `check_sampler` finds.
        """
        known = () if self._waits_for_latency() else tuple(self.costs)
        limits, sampler = self.limits(metrics=known), self.sampler()
        train = self.recipe.train
        if train.epochs and not self.recipe.moves:
            plan = sampler.plan(numpy_rng(self.recipe.seed, "plan", 0), 0)
            check_placements(self.recipe, self.net.sharing, plan)
        if train.drop_path_for == "largest" and train.epochs and not self.recipe.moves:
            plan = sampler.plan(numpy_rng(self.recipe.seed, "plan", 0), 0)
            try:
                check_drops_largest(plan, self.net.space.largest, self.recipe.sampler.name)
            except ValueError as error:
                raise RecipeError(f"train: {error}") from error
        check_sampler(self.recipe, sampler, len(self.splits.held_out), limits, world)
        if self.recipe.shrinks:
            check_shrinking(self.recipe, sampler, self.shrinker())
            self.limits_of(self.recipe.shrink.budgets or [], known)

    def check_shards(self, world: int) -> None:
        """Finds what `train.shard` does not go with; only for a supernet that is still to train.

        Args:
            world: how many processes train together.

        Raises:
            RecipeError: for what there is, or one process.
        """
        train = self.recipe.train
        if not train.shard or not self.trains_sampler or self._waits_for_latency():
            return
        try:
            check_shards(
                self.net,
                self.sampler(),
                train,
                world,
                shrinks=self.recipe.shrinks,
                factory=False,
            )
        except ValueError as error:
            raise RecipeError(f"train: {error}") from error

    def _waits_for_latency(self) -> bool:
        """Whether the sampler's costs are latencies, which are measured later, for a budget."""
        metric = self.recipe.sampler.options.get("metric")
        return metric == "latency_ms" and metric in budget_metrics(self.recipe) - self.costs.keys()

    def check_finish(self, world: int = 1) -> None:
        """Finds what would fail when an architecture is finished and exported.

        Raises:
            RecipeError: for training batches that cannot be made, or formats without packages.
        """
        finish = self.recipe.finish
        check_formats(self.recipe.export.formats)
        check_teachers(self.recipe, self.original)
        self.distiller(finish)
        if self.recipe.network.name == GIVEN and finish.mode == "scratch":
            raise RecipeError(
                "finish.mode = 'scratch' needs new weights, and the network was given with those "
                "that it has: take 'finetune' or 'inherit', or name a function that makes the "
                "network (network.name = 'package.module:function')"
            )
        check_stand_ins(finish, self.net)
        if finish.mode != "inherit":
            try:
                samples = self.finishing_data(finish)
            except ValueError as error:
                raise RecipeError(f"finish.data = {finish.data!r}: {error}") from error
            self.check_batches("finish.training", finish.training, world, samples)

    def check_batches(
        self,
        section: str,
        settings: OptimiserSettings,
        world: int = 1,
        samples: LabelledImages | OwnSet | None = None,
    ) -> None:
        """Finds what would fail in making training batches for `world` processes.

        Raises:
            RecipeError: naming the `section` of the recipe; also if its optimiser is not
                installed, or acts on layers that the network does not have.
        """
        samples = self.splits.train if samples is None else samples
        check_batch_size(section, settings, len(samples), world)
        check_moves(section, settings, self.net)
        self._check_image_sizes(section, settings)
        try:
            self.batches(settings, 0, world, samples)
        except ValueError as error:
            raise RecipeError(f"data: {error}") from error

    def _check_image_sizes(self, section: str, settings: OptimiserSettings) -> None:
        """Refuses sizes that do not end at that of the images, and that the network does not take.

        Raises:
            RecipeError: naming the `section` of the recipe.
        """
        try:
            growth, shape = growth_of(settings), self.splits.image_shape
        except ValueError as error:
            raise RecipeError(f"{section}.image_sizes: {error}") from error
        if growth is not None and shape and {*shape[1:]} != {growth.sides[-1]}:
            raise RecipeError(
                f"{section}.image_sizes = {list(growth.sides)} ends at {growth.sides[-1]} pixels, "
                f"and images are of {shape[1]} x {shape[2]} (data.image_size): the last size must "
                "be theirs"
            )
        for side in sorted({*growth.sides}) if growth else ():
            try:
                self.macs_at(side)
            except ValueError as error:
                raise RecipeError(
                    f"{section}.image_sizes: the network does not take images of {side} x {side} "
                    f"pixels: leave image_sizes out, or take another network ({error})"
                ) from error

    def finishing_data(self, settings: FinishSettings) -> LabelledImages | OwnSet:
        """What winners and controls learn from.

        Raises:
            ValueError: for parts that cannot be one set.
        """
        splits = self.splits
        if settings.data == "train":
            return splits.train
        return joined(splits.train, splits.validation)

    def augment(self) -> Augment:
        """What may happen to a training image."""
        data = self.recipe.data
        crop = None if data.crop_scale is None else (data.crop_scale[0], data.crop_scale[1])
        rand = None if data.rand_augment is None else (data.rand_augment[0], data.rand_augment[1])
        return Augment(
            pad=data.pad,
            padding_mode=data.padding_mode,
            flip=data.flip,
            crop_scale=crop,
            jitter=data.jitter,
            rand_augment=rand,
            random_erasing=data.random_erasing,
            repeats=data.repeats,
        )

    def batches(
        self,
        settings: OptimiserSettings,
        rank: int = 0,
        world: int = 1,
        samples: LabelledImages | OwnSet | None = None,
    ) -> Batches:
        """Training batches of this process, by default of the training part."""
        return Batches(
            self.splits.train if samples is None else samples,
            settings.batch_size,
            seed=self.recipe.seed,
            augment=self.augment(),
            rank=rank,
            world=world,
            growth=growth_of(settings),
            **self._looks,
        )

    def fixed(self, part: Part, images: int | None) -> FixedBatches:
        """Fixed batches of a part, class-balanced if `images` says how many; never augmented."""
        own, size = getattr(self.splits, part), self.recipe.evaluate.batch_size
        return fixed(own, images, size, seed=self.recipe.seed, **self._looks)

    def held_out(self, images: int, seed: int) -> FixedBatches:
        """So many held-out images, class-balanced by `seed`, or all of them if there are fewer."""
        return self._drawn(self.splits.held_out, images, seed)

    def validation(self, images: int, seed: int) -> FixedBatches:
        """Likewise of the validation part, which nothing learns from."""
        return self._drawn(self.splits.validation, images, seed)

    def _drawn(self, own: LabelledImages | OwnSet, images: int, seed: int) -> FixedBatches:
        return drawn(own, images, self.recipe.evaluate.batch_size, seed=seed, **self._looks)

    def together(self, samples: LabelledImages | OwnSet) -> Batch:
        """All of a set as one batch, in order."""
        [batch] = fixed(samples, None, len(samples), seed=self.recipe.seed, **self._looks)
        return batch

    @property
    def _looks(self) -> dict[str, Any]:
        """How all batches are made."""
        return {
            "mean": self.splits.mean,
            "std": self.splits.std,
            "device": self.device,
            "workers": self.recipe.data.workers,
            "channels_last": self.memory_format.is_channels_last,
        }

    def example_inputs(self) -> Inputs:
        """What a network takes; of images without values."""
        return inputs_of(self.net) if self.splits.example is None else self.splits.example

    def calibration(self) -> FixedBatches:
        """The fixed training images that batch-norm statistics come from."""
        return self.fixed("train", self.recipe.evaluate.calibration_images)

    def fingerprint(self, settings: OptimiserSettings, *more: object) -> str:
        """Identifies all that trained weights depend on, which the test images are no part of."""
        return self._identified(settings, self.splits.training_fingerprint, more)

    def truth_fingerprint(self, settings: OptimiserSettings) -> str:
        """Identifies all that the score of a network that is trained alone depends on."""
        return self._identified(settings, self.splits.fingerprint, ())

    def _identified(self, settings: OptimiserSettings, images: str, more: Sequence[object]) -> str:
        recipe = self.recipe
        kept = {
            "network": recipe.network.model_dump(),
            "sharing": recipe.sharing.model_dump(exclude={"inherit"}),
            "sampler": recipe.sampler.model_dump(),
            "transfer": recipe.transfer.model_dump(exclude=None if recipe.moves else OF_MOVES),
            "training": _turned_on(settings.model_dump(exclude=set(BESIDE_RESULTS))),
            "seed": recipe.seed,
            **({} if recipe.task == TaskSettings() else {"task": recipe.task.model_dump()}),
            "augment": _turned_on(asdict(self.augment())),
            **({"crops": "files"} if self._crops_files() else {}),
            **({"sizes": "files"} if growth_of(settings) and self._reads_files() else {}),
            "images": images,
            "more": [_told(item) for item in more],
        }
        if self.original.digest is not None:
            kept["weights"] = self.original.digest
        if isinstance(settings, SupernetSettings) and settings.teacher == "network":
            kept["teacher"] = recipe.teacher.digest
        if recipe.shrinks:
            judged = recipe.evaluate.model_dump(include={"calibration_images", "fitness"})
            kept["shrink"] = [recipe.shrink.model_dump(), judged]
        if self.inherited is not None:
            kept["inherited"] = self.inherited.digest
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def _crops_files(self) -> bool:
        """Whether random crops are of the pixels in files, not of those in memory."""
        return self.augment().crop_scale is not None and self._reads_files()

    def _reads_files(self) -> bool:
        """Whether training images are decoded in every epoch."""
        train = self.splits.train
        return not isinstance(train, OwnSet) and pixels_of(train) is None

    def weights_fingerprint(self, *, shifted: bool = False) -> str:
        """Identifies what the supernet's weights depend on, as trained, or `shifted` after it."""
        return self.fingerprint(self.recipe.train, *([self.recipe.shifting] if shifted else []))

    def load_final_weights(self, folder: RunFolder) -> None:
        """Loads the supernet as the search of this recipe left it in the folder of its run.

        Raises:
            RecordError: if it is not trained, or its search moves it and is not done.
            CheckpointError: if the file is damaged, or belongs to another run.
        """
        weights = folder.final_weights(self.recipe)
        shifted = weights == folder.shifted
        load_weights(weights, self.net, self.weights_fingerprint(shifted=shifted))


def _told(item: object) -> str:
    """What identifies weights besides, as text: of settings all but those that came later.

    Those are left out where they are off, so that weights of before are known.
    """
    if not isinstance(item, BaseModel):
        return str(item)
    later = {"sgld": 0.0, "snapshots": SnapshotsSettings(), "reward": RewardSettings()}
    return " ".join(f"{k}={v!r}" for k, v in item if k not in later or v != later[k])


def _turned_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that came later and are off."""
    return {key: value for key, value in settings.items() if key not in OFF or value != OFF[key]}


def start_engine(ws: Workspace, folder: Path) -> Accelerator:
    """The accelerator of all stages, with a tracker if any of them has one."""
    recipe = ws.recipe
    tracked = recipe.train if recipe.train.tracker else recipe.finish.training
    return engine(ws.device, tracked, folder)


def stop(accelerator: Accelerator) -> None:
    """Closes trackers; other processes stay connected, for runs to come."""
    for tracker in accelerator.trackers:
        tracker.finish()
