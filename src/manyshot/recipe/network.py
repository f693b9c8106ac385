"""`[network]`: which network, and how one without decisions becomes a supernet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from manyshot.recipe.section import LIBRARIES, AnyPath, Options, Positive, Section


class ConvertSettings(Section):
    """How a network without decisions becomes a supernet (see `ms.convert`)."""

    ratios: list[Annotated[float, Field(gt=0, le=1)]] = [0.25, 0.5, 0.75, 1.0]
    """Widths, as parts of the original's channels; 1 is always among them."""
    divisor: Positive | None = None
    """Channels are multiples of it; by default of 8, and of narrow widths of 4, 2 or 1."""
    depth: bool = True
    """Whether residual blocks can be left out."""
    kernel: bool = False
    """Whether kernels of 5 and more can be smaller."""
    heads: bool = True
    """Whether attention can have fewer heads."""
    importance: Literal["l1", "l2", "scale", "none"] = "l1"
    """By what channels are ordered, so that narrow slices keep the best."""
    keep: list[str] = []
    """Patterns of paths of modules whose channels stay, such as `layer1.*`."""

    @field_validator("ratios")
    @classmethod
    def _some(cls, ratios: list[float]) -> list[float]:
        if not ratios:
            raise ValueError("give at least one, such as 0.5")
        return ratios


class NetworkSettings(Section):
    """Which network."""

    name: str = "tiny"
    """A network of the zoo, `torchvision:NAME`, `timm:NAME`, or `package.module:attribute` of your
    own; `given` in Python."""
    options: Options = {}
    """Arguments of its function; how many `channels` and `classes` (or `in_chans`, `in_channels`,
    `num_classes`) comes from the data unless given."""
    pretrained: bool = False
    """Begin with the weights that torchvision or timm publishes, which are downloaded."""
    weights: AnyPath = None
    """Begin with the weights in this file: safetensors, or a state dict saved by torch."""
    convert: ConvertSettings | None = None
    """Make decisions in a network that has none. Networks of torchvision and timm always are
    converted; one of your own where this section is there, if empty."""

    @property
    def library(self) -> str | None:
        """The library that the network is taken from; None if it is of the zoo or your own."""
        library, colon, _ = self.name.partition(":")
        return library if colon and library in LIBRARIES else None

    @property
    def has_weights(self) -> bool:
        """Whether it begins with weights that are given, and not with new ones."""
        return self.pretrained or self.weights is not None

    @model_validator(mode="before")
    @classmethod
    def _converted(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or "convert" in values:
            return values
        is_plain = str(values.get("name")).startswith(tuple(f"{name}:" for name in LIBRARIES))
        return {**values, "convert": {}} if is_plain else values

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.pretrained and self.library is None:
            raise ValueError(
                f"pretrained = true is for networks of {' and '.join(LIBRARIES)}, and name = "
                f"{self.name!r} is none: give weights = FILE"
            )
        if self.pretrained and self.weights is not None:
            raise ValueError("pretrained = true and weights = FILE contradict each other: give one")
        return self
