"""Everything a recipe stands for, built: images, network, costs, budgets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
from torch import nn

from manyshot.cost import CostTable, FunctionCost, macs_table, params_table, size_table
from manyshot.data import (
    Augment,
    Batch,
    Batches,
    FixedBatches,
    LabelledImages,
    OwnSet,
    Splits,
    fixed,
)
from manyshot.data.fixed_batches import drawn
from manyshot.data.joining import joined
from manyshot.evaluate import Population, Score, Spread, calibrate
from manyshot.fitting import growth_of
from manyshot.nn.inputs import Inputs, inputs_of
from manyshot.nn.pointwise import TrainingFormat, training_format
from manyshot.pipeline.checks import check_batch_sizes, check_classes
from manyshot.pipeline.clock import Clock
from manyshot.pipeline.devices import pick_device
from manyshot.pipeline.given import load_data
from manyshot.pipeline.inherit import Inherited, inherit
from manyshot.pipeline.matching import Matching
from manyshot.pipeline.networks import Original, build_sharing, build_supernet
from manyshot.pipeline.plain import fit_classes
from manyshot.pipeline.search_checks import GENERATOR
from manyshot.pipeline.settling import (
    with_epochs,
    with_precision,
    with_reachable_budgets,
    with_view_budgets,
)
from manyshot.pipeline.teachers import Pupil, Teachers, check_teacher, load_teacher
from manyshot.plugins import look_up
from manyshot.recipe import (
    FinishSettings,
    OptimiserSettings,
    Recipe,
    RecipeError,
)
from manyshot.run_folder import MetricRecord, RunFolder, TaskRecord
from manyshot.search import Cost, Limit, Reward, Searcher, limits_of, make_searcher
from manyshot.search.limit import costs_of
from manyshot.seeding import numpy_rng
from manyshot.sharing.widths import cut_sizes, decisions_of
from manyshot.space import Arch, Budget, Decision, SearchSpace
from manyshot.supernet import Supernet
from manyshot.tasks import Task, make_task
from manyshot.tasks.task import check_votes
from manyshot.train import (
    Distiller,
    Sampler,
    Several,
    Shrinker,
    make_distiller,
    make_sampler,
    make_shrinker,
)
from manyshot.train.plan import ending_early

Part = Literal["validation", "train", "test"]


def build_task(recipe: Recipe) -> Task:
    """The recipe's task.

    Raises:
        RecipeError: for an unknown one, or options it does not take.
    """
    try:
        return make_task(recipe.task.name, recipe.task.options)
    except ValueError as error:
        raise RecipeError(str(error)) from error


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
        if self.recipe.moves or self.waits_for_latency:
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
    def rewarded(self) -> tuple[Reward, Limit] | None:
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
        if self.rewarded is None:
            return None
        reward, limit = self.rewarded
        return reward.of(limit, [arch], [score])[0]

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
        if not self.recipe.moves and not self.waits_for_latency:
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
        return self.trains_sampler and ending_early(self.sampler()) is not None

    def everything(self) -> Limit:
        """A limit within which all architectures are."""
        table = self.costs["macs"]
        return Limit("everything", table, table.range()[1])

    @property
    def waits_for_latency(self) -> bool:
        """Whether the sampler's costs are latencies, which are measured later, for a budget."""
        metric = self.recipe.sampler.options.get("metric")
        return metric == "latency_ms" and metric in budget_metrics(self.recipe) - self.costs.keys()

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
