"""A whole recipe: its sections, what they must agree on, and what some are by default."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from manyshot.plugins import nearest, shown
from manyshot.recipe.data import FILES, DataSettings, TaskSettings
from manyshot.recipe.finish import ControlsSettings, ExportSettings, FinishSettings, TruthSettings
from manyshot.recipe.moving import ShiftingSettings, TransferSettings
from manyshot.recipe.network import NetworkSettings
from manyshot.recipe.search import EvaluationSettings, LatencySettings, SearchSettings
from manyshot.recipe.section import LIBRARIES, NotNegative, Section, problems
from manyshot.recipe.supernet import (
    SamplerSettings,
    SharingSettings,
    ShrinkSettings,
    SupernetSettings,
)
from manyshot.recipe.teacher import TeacherSettings
from manyshot.recipe.training import TrainingSettings
from manyshot.shipped import located
from manyshot.shown import Shown
from manyshot.space import METRICS, Budget
from manyshot.toml import RecipeError, dumps, override, read

_RATES = {"optimizer", "lr"}


_OPTIMISED = {
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "label_smoothing": 0.1,
    "precision": "auto",
}


OF_FOLDERS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "data": ({"pad": 3, "padding_mode": "edge", "jitter": 0.2}, set()),
    "train": ({"epochs": 16, "least_images": 70_000, **_OPTIMISED}, _RATES),
    "finish": ({"data": "train+validation"}, set()),
    "training": ({"epochs": 40, "least_images": 100_000, **_OPTIMISED}, _RATES),
}
"""What sections are by default for images in folders where no network is named, and the keys with
which a section settles all of that itself; `training` is that of `finish`. Measured by
`benchmarks/studies/emoji`."""


class Recipe(Section, Shown):
    """Everything a run depends on, but for the machine."""

    schema_version: int = Field(default=1, ge=1, le=1, alias="schema")
    """Of which form the recipe is; there is one so far."""
    name: str = Field(default="digits", pattern=r"^\w[\w.-]*$")
    """Names the run's folder; by default the data, or the folder that they are in."""
    seed: NotNegative = 0
    """Decides all that is random: new weights, paths, images, proposals."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda; which GPU is for CUDA_VISIBLE_DEVICES to say."""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["default"] = 1
    """Of torch on the CPU; `default` is torch's own choice. Small networks are fastest on one,
    on a busy machine many times so."""
    network: NetworkSettings = NetworkSettings()
    sharing: SharingSettings = SharingSettings()
    task: TaskSettings = TaskSettings()
    data: DataSettings = DataSettings()
    sampler: SamplerSettings = SamplerSettings()
    train: SupernetSettings = SupernetSettings()
    shrink: ShrinkSettings = ShrinkSettings()
    teacher: TeacherSettings = TeacherSettings()
    evaluate: EvaluationSettings = EvaluationSettings()
    search: SearchSettings = SearchSettings()
    shifting: ShiftingSettings = ShiftingSettings()
    transfer: TransferSettings = TransferSettings()
    latency: LatencySettings = LatencySettings()
    finish: FinishSettings = FinishSettings()
    controls: ControlsSettings = ControlsSettings()
    export: ExportSettings = ExportSettings()
    truth: TruthSettings = TruthSettings()
    costs: dict[str, str] = {}
    """Further costs for budgets: by name `package.module:function`, which gives a number for the
    extracted `module` or for its `choices`, as its parameter is called (`ms.cost.FunctionCost`)."""

    @field_validator("costs")
    @classmethod
    def _named(cls, costs: dict[str, str]) -> dict[str, str]:
        for name, function in costs.items():
            if not re.fullmatch(r"[A-Za-z]\w*", name) or name in METRICS:
                raise ValueError(
                    f"{name!r} cannot name a cost: take a word of letters, digits and _, other "
                    f"than {', '.join(METRICS)}"
                )
            if ":" not in function:
                raise ValueError(f"{name} = {function!r}: give package.module:function")
        return costs

    @model_validator(mode="after")
    def _known_costs(self) -> Self:
        have, reward = (*METRICS, *self.costs), self.search.reward
        texts = [("budgets", text) for text in self.search.budgets]
        texts += [] if reward.target is None else [("reward.target", reward.target)]
        for key, text in texts:
            for part in Budget.parse_all(text):
                if part.metric not in have:
                    raise ValueError(
                        f"search.{key}: budget {part.text!r} is on {part.metric!r}, which is no "
                        f"cost; {nearest(part.metric, have)}have {', '.join(have)}, and [costs] "
                        "adds others"
                    )
        return self

    @model_validator(mode="before")
    @classmethod
    def _named_after_data(cls, values: Any) -> Any:
        data = values.get("data") if isinstance(values, Mapping) else None
        if not isinstance(data, Mapping) or "name" in values:
            return values
        name, root = str(data.get("name", "digits")), str(data.get("root", ""))
        if ":" in name:
            name = name.rpartition(":")[2]
        if name in FILES and root:
            plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(root).absolute().name)
            name = plain.strip("-.")[:60] or name
        return {**values, "name": name}

    @field_validator("train", mode="before")
    @classmethod
    def _of_a_supernet(cls, train: Any) -> Any:
        """Plain settings of training are those of a supernet's too."""
        if isinstance(train, TrainingSettings) and not isinstance(train, SupernetSettings):
            return train.model_dump(exclude_unset=True)
        return train

    @model_validator(mode="before")
    @classmethod
    def _sampled(cls, values: Any) -> Any:
        """A converted network trains by the sandwich rule unless a sampler is named."""
        network, sampler = (_section(values, name) for name in ("network", "sampler"))
        if network is None or sampler is None or "name" in sampler:
            return values
        try:
            is_converted = NetworkSettings.model_validate(network).convert is not None
        except ValidationError:
            return values  # which is said of the network itself
        return {**values, "sampler": {"name": "sandwich", **sampler}} if is_converted else values

    @model_validator(mode="before")
    @classmethod
    def _proposed_again(cls, values: Any) -> Any:
        """A search that shifts the supernet may propose, and so train, the same network again."""
        search, shifting = (_section(values, name) for name in ("search", "shifting"))
        if search is None or shifting is None or shifting.get("name", "none") == "none":
            return values
        options = search.get("options", {})
        evolves = search.get("name", "evolution") == "evolution"
        if not evolves or not isinstance(options, Mapping) or "dedupe" in options:
            return values
        return {
            **values,
            "search": {**search, "options": {**options, "dedupe": "per_generation"}},
        }

    @model_validator(mode="before")
    @classmethod
    def _of_folders(cls, values: Any) -> Any:
        """Images in folders have a network for their size, and settings that fit it, by default."""
        data, network, finish = (_section(values, name) for name in ("data", "network", "finish"))
        if data is None or data.get("name") not in FILES or network is None or "name" in network:
            return values
        filled = {"network": {**network, "name": "convnet"}}
        smooth = _classifies(values.get("task"))  # other tasks may not say how to
        for name in ("data", "train", "finish"):
            filled[name] = _filled(name, _section(values, name), smooth=smooth)
        training = _filled("training", _section(finish, "training"), smooth=smooth)
        if filled["finish"] and training:
            filled["finish"]["training"] = training
        return {**values, **{name: section for name, section in filled.items() if section}}

    @model_validator(mode="after")
    def _begins_once(self) -> Self:
        if self.moves and self.sharing.inherit is not None:
            raise ValueError(
                f"sharing.inherit = {self.sharing.inherit!r} lets slices begin as the weights of a "
                "run, and in a transfer they begin as those of the run that is moved: leave "
                "sharing.inherit out"
            )
        return self

    @model_validator(mode="after")
    def _is_taught(self) -> Self:
        users = {"train": self.train.teacher, "finish": self.finish.teacher}
        taught = [key for key, teacher in users.items() if teacher == "network"]
        if taught and not self.teacher.is_there:
            raise ValueError(
                f"{taught[0]}.teacher = 'network' is that of [teacher], which names none: give "
                "teacher.run or teacher.name"
            )
        if self.teacher.is_there and not taught:
            raise ValueError(
                "[teacher] names a network that nothing learns from: set train.teacher = 'network' "
                "or finish.teacher = 'network', or leave it out"
            )
        if self.finish.teacher == "supernet" and self.finish.mode == "inherit":
            raise ValueError(
                "finish.teacher = 'supernet' has no effect: finish.mode = 'inherit' trains nothing"
            )
        idle = {
            "train": self.moves or not self.train.epochs,
            "finish": self.finish.mode == "inherit",
        }
        why = {
            "train": "the supernet is not trained on labels here (a transfer, or train.epochs = 0)",
            "finish": "finish.mode = 'inherit' trains nothing",
        }
        for key in taught:
            if idle[key]:
                raise ValueError(f"{key}.teacher = 'network' has no effect: {why[key]}")
        training = {"train": self.train, "finish": self.finish.training}
        for key in taught:
            if sizes := training[key].image_sizes:
                raise ValueError(
                    f"image_sizes = {sizes}: the network of [teacher], from which {key} learns, "
                    "sees images of the size that it was trained on alone: leave image_sizes out, "
                    "or the teacher"
                )
        return self

    @model_validator(mode="after")
    def _shrinks_what_trains(self) -> Self:
        if self.shrinks and (self.moves or not self.train.epochs):
            why = "a transfer takes a trained supernet" if self.moves else "train.epochs = 0"
            raise ValueError(
                f"shrink.name = {self.shrink.name!r} changes the space between stages of training, "
                f"and there is none ({why}): leave [shrink] out"
            )
        return self

    @model_validator(mode="after")
    def _shards_what_trains(self) -> Self:
        if self.train.shard and self.shifting.name != "none" and not self.moves:
            raise ValueError(
                f"train.shard = true, and shifting.name = {self.shifting.name!r} trains the whole "
                "supernet in every process: leave one of them out"
            )
        return self

    @property
    def shrinks(self) -> bool:
        """Whether the search space changes while the supernet trains."""
        return self.shrink.name != "none"

    @property
    def moves(self) -> bool:
        """Whether the supernet is that of another run, moved to these images."""
        return self.transfer.source is not None

    @property
    def trained_epochs(self) -> int:
        """Epochs that the supernet trains before the search, if it is moved its classifier."""
        transfer = self.transfer
        return transfer.head_epochs + transfer.body_epochs if self.moves else self.train.epochs

    @property
    def named_code(self) -> dict[str, str]:
        """The keys whose value names code outside manyshot, `package.module:attribute`."""
        sections = ("network", "sharing", "task", "data", "sampler", "shrink", "search")
        names = {f"{section}.name": getattr(self, section).name for section in sections}
        names["finish.distillation.name"] = self.finish.distillation.name
        if self.network.library is not None:
            del names["network.name"]
        names |= {f"costs.{name}": function for name, function in self.costs.items()}
        for i, teacher in enumerate(self.teacher.every):
            name = teacher.name or ""
            if not name.startswith(tuple(f"{library}:" for library in LIBRARIES)):
                names[f"teacher.others[{i - 1}].name" if i else "teacher.name"] = name
        return {key: name for key, name in names.items() if ":" in name}

    @classmethod
    def load(cls, path: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Reads a recipe and applies overrides such as `"train.epochs=5"` (TOML values).

        Without a path, the default recipe. Where there is no file of the path, it may name one of
        those that come with manyshot, such as `fair`.

        Raises:
            RecipeError: for unreadable TOML, an unknown key (with the nearest), or a bad value.
        """
        path = path and located(path)
        return cls.build(read(path), overrides, "the default recipe" if path is None else str(path))

    @classmethod
    def build(cls, values: dict[str, Any], overrides: Sequence[str], source: str) -> Self:
        """A recipe of TOML values and overrides; errors name the override, or `source`.

        Raises:
            RecipeError: for an unknown key (with the nearest), or a bad value.
        """
        alone = copy.deepcopy(values)
        for text in overrides:
            override(values, text)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            said = _blamed(cls, alone, overrides, problems(cls, error), source)
            raise RecipeError(said) from error

    def to_toml(self) -> str:
        """The recipe with every default filled in; `load` reads an equal one."""
        return dumps(self.model_dump(by_alias=True))


def _blamed(
    kind: type[Recipe],
    values: Mapping[str, Any],
    overrides: Sequence[str],
    wrong: Sequence[str],
    source: str,
) -> str:
    """What is wrong with a recipe, behind the override that it comes with, or else the source.

    Args:
        kind: of recipe.
        values: the recipe without overrides.
        overrides: all of them.
        wrong: what is wrong with it and them.
        source: what the recipe is called.
    """

    def wrong_with(some: Sequence[str]) -> list[str]:
        tried = copy.deepcopy({**values})
        try:
            for text in some:
                override(tried, text)
            kind.model_validate(tried)
        except ValidationError as error:
            return problems(kind, error)
        except RecipeError:  # it cannot do without one that is left out
            return []
        return []

    alone = wrong_with(())
    without = [wrong_with([*overrides[:i], *overrides[i + 1 :]]) for i in range(len(overrides))]
    by_blamed: dict[str, list[str]] = {}
    for problem in wrong:
        blamed = source
        if problem not in alone:
            pairs = zip(overrides, without, strict=True)
            needed = [text for text, rest in pairs if problem not in rest] or overrides
            blamed = f"{' '.join(f'--set {shown(text)}' for text in needed)}, on {source}"
        by_blamed.setdefault(blamed, []).append(problem)
    return "; ".join(f"{blamed}: {'; '.join(said)}" for blamed, said in by_blamed.items())


def _section(values: Any, name: str) -> Mapping[str, Any] | None:
    """The values of a section, empty if it is not there; None if it is no table."""
    if not isinstance(values, Mapping):
        return None
    section = values.get(name, {})
    section = section.model_dump(exclude_unset=True) if isinstance(section, Section) else section
    return section if isinstance(section, Mapping) else None


def _classifies(task: Any) -> bool:
    """Whether the section of the task, of any form, names classification or nothing."""
    if isinstance(task, Section):
        task = task.model_dump()
    name = task.get("name") if isinstance(task, Mapping) else task
    return name in (None, "classification")


def _filled(name: str, section: Mapping[str, Any] | None, *, smooth: bool) -> dict[str, Any]:
    """A section with what it is by default for images in folders; empty if it is no table."""
    defaults, settles = OF_FOLDERS[name]
    if section is None:
        return {}
    if settles & section.keys():
        return {**section}
    left_out = {"label_smoothing"} if not smooth else set()
    if "epochs" in section:
        left_out.add("least_images")
    return {**{key: defaults[key] for key in defaults.keys() - left_out}, **section}
