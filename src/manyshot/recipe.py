"""Recipes: TOML read into validated settings. An unknown key is an error with the nearest name.

The defaults of every section are the settings of `manyshot run` without a recipe.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from manyshot.lookup import nearest
from manyshot.space import Budget

Positive = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Plain = str | bool | int | float | list[int] | list[float] | list[str]
Options = dict[str, Plain]

_BARE = re.compile(r"[A-Za-z0-9_-]+")  # keys that TOML takes without quotes


class RecipeError(ValueError):
    """A recipe does not fit; the message names the file, the key, and what is allowed."""


class Section(BaseModel):
    """A part of a recipe: strict, frozen, no unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, allow_inf_nan=False
    )


class Network(Section):
    """Which network."""

    name: str = "tiny"
    """A network of the zoo, or `package.module:attribute` of your own."""
    options: Options = {}
    """Arguments of its function; `channels` and `classes` come from the data unless given."""


class Sharing(Section):
    """Which weights a path gets."""

    name: str = "one_shot"
    """one_shot, k_shot, or `package.module:attribute`."""
    options: Options = {}
    """Arguments of its scheme; `seed` is the recipe's."""


class Data(Section):
    """Which images."""

    name: str = "digits"
    """digits, fashion_mnist, mnist, cifar10, cifar100, or folder."""
    root: str | None = None
    """Where the files are; by default the places that the error for missing data lists."""
    download: bool = False
    """Whether torchvision may download missing files."""
    validation: int | float = Field(default=0.2, gt=0)
    """Share (below 1) or number of training images held out, class-balanced, to score on."""
    train_size: Positive | None = None
    """Use so many class-balanced training images; by default all."""
    image_size: Positive | None = None
    """Resize to so many pixels."""
    pad: NotNegative = 1
    """Random shifts of up to so many pixels."""
    flip: bool = False
    """Random horizontal flips."""
    crop_scale: list[float] | None = Field(default=None, min_length=2, max_length=2)
    """Image folders: random crops keep between these shares of the area, and are resized."""
    jitter: float = Field(default=0.0, ge=0, lt=1)
    """Image folders: strength of random changes of brightness, contrast and saturation."""
    workers: NotNegative = 0
    """Processes that read image folders."""


class Training(Section):
    """How weights are trained: supernet, or a finished subnet."""

    epochs: Positive = 100
    batch_size: Positive = 64
    """Images per optimiser step, over all processes."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(default=0.1, gt=0)
    momentum: Fraction = 0.9
    """Of SGD (Nesterov); AdamW has its own."""
    weight_decay: float = Field(default=5e-4, ge=0)
    """Of weights, not of biases and norms."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """The rate rises linearly from 0 over so many epochs."""
    label_smoothing: Fraction = 0.0
    clip_norm: float | None = Field(default=None, gt=0)
    """Largest norm of the gradient."""
    precision: Literal["fp32", "bf16"] = "fp32"
    checkpoint_steps: Positive = 500
    """Steps between checkpoints, from which a killed run resumes."""
    log_steps: Positive = 50
    tracker: Literal["tensorboard"] | None = None


class Sampling(Section):
    """Which paths train next."""

    name: str = "uniform"
    """uniform, fair, sandwich, shift, uniform_cost, table, or `package.module:attribute`."""
    options: Options = {}
    held_out: int | float = Field(default=0, ge=0)
    """Share (below 1) or number of training images, class-balanced, that weights do not learn from:
    for samplers that learn from losses, such as shift."""


class Evaluation(Section):
    """How a candidate is scored with the supernet's weights."""

    calibration_images: Positive = 512
    """Training images that batch-norm statistics are averaged over, or all if there are fewer."""
    images: Positive | None = None
    """Validation images; by default, or if there are fewer, all."""
    batch_size: Positive = 256


class Searching(Section):
    """Which architectures are best."""

    name: str = "evolution"
    """random, evolution, nsga2, `package.module:attribute`, or generator: no search, the sampler's
    generator says which."""
    budgets: list[str] = ["macs<=15%", "macs<=25%", "macs<=60%"]
    """Limits on macs, params or latency_ms, absolute or in % of the largest; one winner each."""
    candidates: Positive = 120
    """Architectures scored in all."""
    generation: Positive = 30
    """Architectures scored between two proposals."""
    options: Options = {"population": 30, "parents": 10, "mutants": 15, "crossovers": 15}
    """Those here are for the default searcher; with a `name` given, none are."""

    @model_validator(mode="before")
    @classmethod
    def _own_options(cls, values: Any) -> Any:
        named = isinstance(values, Mapping) and "name" in values
        return {"options": {}, **values} if named else values

    @field_validator("budgets")
    @classmethod
    def _readable(cls, budgets: list[str]) -> list[str]:
        if not budgets:
            raise ValueError("give at least one budget, such as 'macs<=50%'")
        if len(set(budgets)) != len(budgets):
            raise ValueError(f"budgets {budgets} repeat one")
        for text in budgets:
            Budget.parse(text)
        return budgets


class Timing(Section):
    """How latency is measured."""

    batch_size: Positive = 1
    """Images at once; a latency is that of the batch."""
    threads: Positive = 1
    warmup: NotNegative = 5
    repeats: Positive = 30


class Finishing(Section):
    """What becomes of a winner."""

    mode: Literal["inherit", "finetune", "scratch"] = "finetune"
    """Keep the supernet's weights, train them further, or train from new ones."""
    training: Training = Training(epochs=10, lr=0.01)
    """Of `finetune` and `scratch`."""


class Exporting(Section):
    """Which files a winner is written to."""

    formats: list[Literal["pt2", "onnx", "json"]] = ["pt2", "json"]


class Recipe(Section):
    """Everything a run depends on, but for the machine."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str = Field(default="digits", pattern=r"^\w[\w.-]*$")
    """Names the run's folder."""
    seed: NotNegative = 0
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda; which GPU is for CUDA_VISIBLE_DEVICES to say."""
    threads: Positive | Literal["default"] = 1
    """Of torch on the CPU; `default` is torch's own choice. Small networks are fastest on one,
    on a busy machine many times so."""
    network: Network = Network()
    sharing: Sharing = Sharing()
    data: Data = Data()
    sampler: Sampling = Sampling()
    train: Training = Training()
    evaluate: Evaluation = Evaluation()
    search: Searching = Searching()
    latency: Timing = Timing()
    finish: Finishing = Finishing()
    export: Exporting = Exporting()

    @classmethod
    def load(cls, path: Path | None = None, overrides: Sequence[str] = ()) -> Self:
        """Reads a recipe and applies overrides such as `"train.epochs=5"` (TOML values).

        Without a path, the default recipe.

        Raises:
            RecipeError: for unreadable TOML, an unknown key (with the nearest), or a bad value.
        """
        source = "the default recipe" if path is None else str(path)
        values: dict[str, Any] = {}
        if path is not None:
            try:
                values = tomllib.loads(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                raise RecipeError(f"there is no recipe {path}") from None
            except OSError as error:
                raise RecipeError(f"recipe {path} cannot be read: {error.strerror}") from error
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
                raise RecipeError(f"{path} is not TOML: {error}") from error
        for override in overrides:
            _override(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(f"{source}: {_explain(cls, error)}") from error

    def to_toml(self) -> str:
        """The recipe with every default filled in; `load` reads an equal one."""
        return dumps(self.model_dump(by_alias=True))


def _override(values: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {text!r} is not of the form section.key=value")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()  # a bare word is a string
    *sections, last = key.strip().split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise RecipeError(f"--set {text!r}: {section!r} is a value, not a section")
    values[last] = parsed


def _explain(recipe: type[BaseModel], error: ValidationError) -> str:
    parts = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _keys(recipe, problem["loc"][:-1])
            hint = nearest(str(problem["loc"][-1]), known).strip() or f"have {', '.join(known)}"
            parts.append(f"unknown key {where!r}; {hint}")
        else:
            parts.append(f"{where} = {problem['input']!r}: {problem['msg']}")
    return "; ".join(parts)


def _keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        model = annotation
    return [field.alias or name for name, field in model.model_fields.items()]


def dumps(values: Mapping[str, Any], prefix: str = "") -> str:
    """`values` as TOML: plain values first, then tables; keys that are None are left out."""
    lines = [
        f"{key if _BARE.fullmatch(key) else _literal(key)} = {_literal(value)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, Mapping)
    ]
    text = "\n".join(lines) + "\n" if lines else ""
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = dumps(value, f"{prefix}{key}.")
            has_own = any(v is not None and not isinstance(v, Mapping) for v in value.values())
            header = f"\n[{prefix}{key}]\n" if has_own or not value else ""
            text += header + inner
    return text


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in escaped) + '"'
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)
