"""`ms.run` and `ms.Run`: everything that `manyshot run` does, and any run's results, in Python."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from manyshot import records
from manyshot.pipeline.identity import load_final_weights
from manyshot.progress import Progress
from manyshot.recipe import GIVEN, Recipe, RecipeError, TaskSettings
from manyshot.run_folder import (
    RESULT,
    FinishLine,
    Result,
    RunFolder,
    VerdictRecord,
    WinnerRecord,
    why_no_run,
)
from manyshot.shown import Shown
from manyshot.space import Budget
from manyshot.trust import check_trusted
from manyshot.writing import is_main_process, new_folder

if TYPE_CHECKING:
    from torch import nn

    from manyshot.data import DataDescription
    from manyshot.data.prepared import Picture
    from manyshot.nn import BatchNormStats
    from manyshot.pipeline import Prediction, Workspace
    from manyshot.pipeline.workers import Workers
    from manyshot.space import Arch
    from manyshot.supernet import Supernet


def run(
    recipe: Recipe | Path | str | None = None,
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    progress: Progress | None = None,
    workers: Workers | None = None,
    **sections: Any,
) -> Run:
    """Trains, searches, finishes, exports and reports, as a recipe says; returns the run.

    `ms.run("recipes/kshot.toml", overrides=["train.epochs=5"])`, or without a file
    `ms.run(name="mine", data={"name": "fashion_mnist"}, train={"epochs": 5})`. A network and data
    of your own can be given as they are: `ms.run(network=net, data=(train, test),
    budgets=["macs<=50%"])`. Their folder does not hold these, so give them again to go on.

    Args:
        recipe: the file of a recipe, or a recipe; by default the default one, on digits.
        out: the run's folder; by default a new one, `runs/NAME`. A folder that holds a run of this
            recipe goes on where that was stopped.
        overrides: such as `"train.epochs=5"` (TOML values).
        progress: shows how far it is, such as `manyshot.progress.Bars()`; by default nothing.
        workers: what scores candidates, such as `manyshot.pipeline.workers.Processes(2)`; by
            default this process. They give the same numbers.
        **sections: sections and keys of a recipe, in place of a file. Besides, `network` may be a
            module or a supernet (it is copied), or its name; a module without decisions is
            converted (see `ms.convert`), as `convert` says; `data` may be `(train, test)`,
            `(train, validation, test)` or a dict with these names (see `ms.data.own_data`), or a
            name; and `budgets` are those of `search`.

    Raises:
        RecipeError: for an unknown key (with the nearest), a bad value, or what cannot be built.
        RecordError, CheckpointError: if the folder holds something else, or something damaged.
        DataNotFound: if images are missing.
        NonFiniteLoss: if training diverges.
        Infeasible: if a budget has no winner; the run has those of the others.
    """
    network, data, sections = _taken_out(sections)
    settings = _settings(recipe, overrides, sections)
    folder = new_folder(settings.name) if out is None else Path(out)
    return perform(settings, folder, progress, network=network, data=data, workers=workers)


def _taken_out(sections: Mapping[str, Any]) -> tuple[nn.Module | None, Any, dict[str, Any]]:
    """A network and data that are given as they are, and sections that say so in their place."""
    values = dict(sections)
    network, data, budgets = values.get("network"), values.get("data"), values.pop("budgets", None)
    for key, value in (("network", network), ("data", data)):
        if isinstance(value, str):
            values[key] = {"name": value}
    task = values.get("task", {})
    if not isinstance(task, str | Mapping | TaskSettings):
        raise RecipeError(
            f"task = {task!r}: a run names its task, so that it can be repeated: give "
            "task='package.module:attribute', or task={'name': ..., 'options': {...}}"
        )
    if isinstance(budgets, str):
        raise RecipeError(f"budgets = {budgets!r}: give a list, such as [{budgets!r}]")
    if budgets is not None:
        values["search"] = {**values.get("search", {}), "budgets": list(budgets)}
    if network is None or isinstance(network, str | Mapping):
        network = None
    else:
        from manyshot.nn.structure import has_decisions
        from manyshot.pipeline.given import identity_of

        values["network"] = {"name": GIVEN, "options": {"identity": identity_of(network)}}
        if not has_decisions(network):
            values["network"]["convert"] = values.pop("convert", {})
    is_section = isinstance(data, Mapping) and not {"train", "test"} & data.keys()
    if data is None or isinstance(data, str) or is_section:
        data = None
    else:
        values["data"] = {"name": GIVEN}
    return network, data, values


def perform(
    recipe: Recipe,
    folder: Path,
    progress: Progress | None = None,
    *,
    trained: Path | None = None,
    source: Path | None = None,
    network: nn.Module | None = None,
    data: Any = None,
    workers: Workers | None = None,
) -> Run:
    """Does everything a recipe says in `folder`, and writes the report.

    Args:
        recipe: what to do.
        folder: the run's.
        progress: shows how far it is; by default nothing.
        trained: the folder of a run whose supernet is taken instead of training one.
        source: the folder of a run whose supernet is moved to the recipe's images.
        network: what a recipe means that says `given`, as in `run`.
        data: likewise.
        workers: as in `run`.

    It raises what `run` does.
    """
    from manyshot.pipeline import run as everything
    from manyshot.pipeline.given import Given, giving

    try:
        with giving(Given(network, data)):
            everything(recipe, folder, progress, trained=trained, source=source, workers=workers)
    finally:  # also of a run that found no winner for a budget, or could not write a format
        if is_main_process() and RunFolder(folder).result_file.exists():
            Run(folder).report()
    return Run(folder, network=network, data=data)


def _settings(
    recipe: Recipe | Path | str | None, overrides: Sequence[str], sections: Mapping[str, Any]
) -> Recipe:
    if recipe is not None and sections:
        raise RecipeError(
            f"a recipe and its sections ({', '.join(sections)}) cannot both be given: change a "
            "recipe by overrides=['section.key=value']"
        )
    if isinstance(recipe, Recipe):
        if overrides:
            return Recipe.build(recipe.model_dump(by_alias=True), overrides, "the recipe")
        return recipe
    if recipe is None and sections:
        return Recipe.build(dict(sections), overrides, "the arguments of run")
    return Recipe.load(None if recipe is None else Path(recipe), overrides)


@final
@dataclass(frozen=True)
class RunWinner(Shown):
    """The network that a run delivers for one budget.

    Attributes:
        budget: such as `"macs<=25%"`.
        arch: the architecture.
        choices: the chosen option of every decision that matters, by name.
        costs: `macs`, `params`, the measured `latency_ms`, and what else a budget is on.
        metric: the name of the metric that scores are values of.
        proxy_score: with the supernet's weights, on validation images.
        test_score: of the finished network, on the test images.
        test_metrics: likewise all metrics of the task that have a value there, by name.
        files: paths of the exported files, by format; `file` looks at what is in one.
    """

    budget: str
    arch: Arch
    choices: dict[str, Any]
    costs: dict[str, float]
    metric: str
    proxy_score: float
    test_score: float
    test_metrics: dict[str, float]
    files: dict[str, Path]
    _run: Run = field(repr=False, compare=False)

    def file(self, kind: str) -> Path:
        """The path of an exported file, once it is seen to hold what was written.

        Args:
            kind: the format, one of `files`.

        Raises:
            RecordError: as `Run.file`.
        """
        return self._run.file(self.arch, kind)

    @property
    def beside(self) -> Result:
        """The run's result with this winner, and the controls of its budget, alone."""
        result = self._run.result
        winners = tuple(one for one in result.winners if one.budget == self.budget)
        controls = tuple(one for one in result.controls if one.budget == self.budget)
        return result.model_copy(update={"winners": winners, "controls": controls})

    def module(self) -> nn.Module:
        """The finished network, in eval mode: your own class with plain torch layers.

        Raises:
            RecordError: if its weights are not in the run's folder.
        """
        return self._run.finished(self.arch)


@final
class Run(Shown):
    """A run by its folder: what it found, and what can be done with it.

    Attributes:
        folder: where all records and files are.
        files: the files in it, and what they say.
        recipe: what it did.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        trust: bool = False,
        network: nn.Module | None = None,
        data: Any = None,
    ) -> None:
        """Opens a run, finished or not.

        Args:
            folder: the run's.
            trust: whether code that its recipe names may run, if somebody else wrote the folder.
            network: the network that the run was given in Python, as it was then.
            data: the data that it was given.

        Raises:
            RecordError: if the folder is not a run.
            RecipeError: if its recipe cannot be read.
        """
        self.folder, self.files = Path(folder), RunFolder(folder)
        if not self.files.recipe_file.exists():
            raise records.RecordError(why_no_run(self.folder))
        self.recipe, self._trust = self.files.recipe(), trust
        self._network, self._data = network, data

    @property
    def result(self) -> Result:
        """What `result.json` holds.

        Raises:
            RecordError: if the run is not finished.
        """
        result = self.files.result()
        if result is None:
            raise records.RecordError(
                f"{self.folder} has no {RESULT}: finish it with manyshot run --resume "
                f"{self.folder}, or Run.resume()"
            )
        return result

    @property
    def winners(self) -> list[RunWinner]:
        """One network per budget, in the order of the recipe.

        Raises:
            RecordError: if the run is not finished.
        """
        result = self.result
        return [self._winner(winner, result.task.metric.name) for winner in result.winners]

    @property
    def verdict(self) -> VerdictRecord | None:
        """What the run says of its own result; None of a run from before it did.

        Raises:
            RecordError: if the run is not finished.
        """
        return self.result.verdict

    def _winner(self, winner: WinnerRecord, metric: str) -> RunWinner:
        costs = {"macs": winner.macs, "params": winner.params, "latency_ms": winner.latency_ms}
        costs |= winner.costs or {}
        return RunWinner(
            budget=winner.budget,
            arch=tuple(int(option) for option in winner.arch.split("-")),
            choices=winner.choices,
            costs=costs,
            metric=metric,
            proxy_score=winner.proxy_score,
            test_score=winner.test_score,
            test_metrics=winner.test_metrics,
            files={kind: self.folder / path for kind, path in winner.files.items()},
            _run=self,
        )

    def winner(self, budget: str) -> RunWinner:
        """The network for one budget.

        Raises:
            KeyError: for a budget that the run was not asked for, however it is spelt; it names
                those it was.
            ValueError: for one that is not understood.
            RecordError: if the run is not finished.
        """
        winners, spelt = {winner.budget: winner for winner in self.winners}, Budget.spelt(budget)
        if spelt not in winners:
            have = ", ".join(map(repr, winners))
            raise KeyError(f"budget {budget!r} has no winner in {self.folder}, have {have}")
        return winners[spelt]

    def resume(self, progress: Progress | None = None, workers: Workers | None = None) -> Run:
        """Goes on with a run that was stopped, to the same result as if it never was.

        Args:
            progress: as in `ms.run`.
            workers: likewise.

        It raises what `run` does.
        """
        check_trusted(self.files, trust=self._trust)
        return perform(
            self.recipe,
            self.folder,
            progress,
            network=self._network,
            data=self._data,
            workers=workers,
        )

    def _giving(self) -> AbstractContextManager[None]:
        from manyshot.pipeline.given import Given, giving

        return giving(Given(self._network, self._data))

    @functools.cached_property
    def _workspace(self) -> Workspace:
        from manyshot.pipeline import Workspace

        check_trusted(self.files, trust=self._trust)
        self.files.final_weights(self.recipe)  # that they are missing is said before all is built
        with self._giving():
            workspace = Workspace.build(self.recipe, self.folder)
        load_final_weights(workspace, self.files)
        return workspace

    @property
    def net(self) -> Supernet:
        """The supernet with the weights that the search ended with.

        Raises:
            RecordError: if it is not trained.
            DataNotFound: if the run's images are missing.
        """
        return self._workspace.net

    @property
    def _described(self) -> DataDescription | None:
        """What the run's images are, by its records; None of data of your own."""
        from manyshot.pipeline.stages.describe import described_images

        return described_images(self.files)

    @functools.cached_property
    def _blank(self) -> Supernet:
        """A supernet of which finished networks are extracted, whose weights are in their files.

        For images it is made by the records alone. What data of your own are like is on no record.
        """
        if self._described is None:
            return self.net
        from manyshot.pipeline.build import new_supernet
        from manyshot.pipeline.devices import pick_device

        check_trusted(self.files, trust=self._trust)
        with self._giving():
            device = pick_device(self.recipe.device)
            return new_supernet(self.recipe, self._described, device, self.files)

    def stats(self, arch: Arch) -> BatchNormStats:
        """Batch-norm statistics of an architecture, for `run.net(images, arch, stats=stats)`."""
        from manyshot.evaluate import calibrate

        return calibrate(self.net, arch, self._workspace.calibration())

    def _finished_line(self, text: str) -> FinishLine | None:
        """The record of a winner, a control, or what was exported; None without one."""
        files = self.files
        lines = (*files.controls_lines(), *files.exported_lines(), *files.finish_lines())
        return {line.arch: line for line in lines}.get(text)

    def file(self, arch: Arch, kind: str) -> Path:
        """The path of an exported file, once it is seen to hold what was written.

        `torch.export.load(run.file(arch, "pt2"))` opens no file that was damaged or changed.

        Args:
            arch: a winner, or an architecture that was exported.
            kind: the format, such as `pt2`.

        Raises:
            RecordError: if it was not exported so, or its file is missing, damaged or changed.
        """
        text = "-".join(map(str, arch))
        line = self._finished_line(text)
        way_out = f"write it again with Run.export({tuple(arch)}, {kind!r})"
        if line is None or kind not in line.files:
            have = ", ".join(line.files) if line is not None and line.files else "nothing"
            raise records.RecordError(
                f"{self.folder} has no {kind} of architecture {text} on record, have {have}: "
                f"{way_out.replace(' again', '')}"
            )
        path = self.folder / line.files[kind]
        if not line.is_written(self.folder, kind):
            what = "is not what is on record of it" if path.exists() else "is missing"
            raise records.RecordError(f"{path} {what}: restore it from a copy, or {way_out}")
        return path

    def finished(self, arch: Arch) -> nn.Module:
        """The finished network of a winner, or of an architecture that was exported.

        Of a run on images its records and this network's weights are all that is needed.

        Raises:
            RecordError: if its weights are not in the run's folder.
        """
        from manyshot.pipeline.stages.finish import plain_module
        from manyshot.train import load_weights

        text = self._blank.space.to_text(arch)
        weights = self.files.subnets / f"{text}.safetensors"
        line = self._finished_line(text)
        if line is None or not weights.exists():
            raise records.RecordError(
                f"{weights} is missing: finish the architecture with Run.export(arch, 'pt2')"
            )
        device = next(self._blank.parameters()).device
        module = plain_module(self._blank, arch, device)
        load_weights(weights, module, line.fingerprint)
        return module.eval()

    def predict(
        self,
        images: Picture | Sequence[Picture],
        *,
        budget: str | None = None,
        arch: Arch | None = None,
        top: int = 1,
    ) -> list[tuple[Prediction, ...]]:
        """What images show, by a finished network, in torch.

        The images that the run learnt from need not be there: what it takes is in its records.

        Args:
            images: one or several; each the path of a file, an image of Pillow, or pixels
                (C, H, W), uint8 or from 0 to 1. They become what the run's own images are: turned
                upright, resized, normalised. A tensor of four dimensions is several.
            budget: the budget of a winner; without it and `arch`, the one winner that there is.
            arch: an architecture that is a winner, or was exported.
            top: so many classes of each image, the likeliest first.

        Returns:
            For each image its likeliest classes, each with `name`, `label` and `probability`.

        Raises:
            ValueError: if the run is not one of image classes, there is no such winner, or an image
                cannot be used; the message names it.
            RecordError: if the network is not finished, or the records do not say what images are
                normalised by, as those from before that was written.
        """
        from manyshot.pipeline import predict_images
        from manyshot.pipeline.verbs.predict import check_predicts

        check_predicts(self.recipe)
        data = self._described
        if data is None or not data.mean:
            raise records.RecordError(
                f"{self.files.space_file} does not say what images are normalised by, as it was "
                f"written before that was on record: manyshot run --resume {self.folder} adds it, "
                "where the images are that the run learnt from"
            )
        chosen = self._chosen(budget, arch)
        one = isinstance(images, str | os.PathLike) or hasattr(images, "getexif")
        one = one or getattr(images, "ndim", 0) == 3
        given_images = [images] if one else list(images)  # type: ignore[arg-type]
        module = self.finished(self._blank.space.canonical(chosen))
        return predict_images(self.recipe, data, module, given_images, top)  # type: ignore[arg-type]

    def _chosen(self, budget: str | None, arch: Arch | None) -> Arch:
        """The architecture that is meant by the budget that it won, or by itself.

        Raises:
            ValueError: if that is none, or not one; it names the budgets that there are.
        """
        if arch is not None:
            if budget is not None:
                raise ValueError("budget and arch both say which network: give one")
            return tuple(arch)
        winners = {winner.budget: winner.arch for winner in self.winners}
        have = ", ".join(winners)
        if budget is None:
            if len({*winners.values()}) == 1:
                return next(iter(winners.values()))
            raise ValueError(
                f"{self.folder} has several winners: give the budget of one, of {have}"
            )
        with contextlib.suppress(ValueError):  # of what is no budget at all
            budget = " and ".join(part.text for part in Budget.parse_all(budget))
        if budget not in winners:
            raise ValueError(f"budget {budget!r} has no winner in {self.folder}, have {have}")
        return winners[budget]

    def export(
        self, arch: Arch, *formats: str, test: bool = False, progress: Progress | None = None
    ) -> dict[str, Path]:
        """Finishes any architecture as the recipe says, and writes it to files.

        Args:
            arch: the architecture.
            *formats: `pt2`, `onnx`, `int8`, `json`; by default those of the recipe.
            test: whether to score it on the test images too. To choose by that is to overfit them.
            progress: shows how far it is; by default nothing.

        Returns:
            The paths written, by format.

        Raises:
            RecordError: if the run has no trained supernet.
            RecipeError: for an unknown format, or one whose packages are missing.
            ValueError: if `arch` is not in the space.
        """
        from manyshot.pipeline import export_architecture

        check_trusted(self.files, trust=self._trust)
        values = self.recipe.model_dump(by_alias=True)
        if formats:
            values["export"] = {"formats": list(formats)}
        recipe = Recipe.build(values, (), str(self.folder))
        text = "-".join(map(str, arch))
        with self._giving():
            line = export_architecture(recipe, self.folder, text, progress, test=test)
        return {kind: self.folder / path for kind, path in line.files.items()}

    def report(self) -> Path:
        """Writes `report.html` from the records, and returns its path."""
        from manyshot.report import write

        return write(self.folder)

    def __repr__(self) -> str:
        if not self.files.result_file.exists():
            return f"Run({str(self.folder)!r}, not finished)"
        winners = ", ".join(f"{w.budget}: {w.metric} {w.test_score:.4g}" for w in self.winners)
        return f"Run({str(self.folder)!r}, {winners})"
