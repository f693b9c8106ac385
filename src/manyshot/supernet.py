"""The supernet: one network that contains every architecture of its space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from manyshot.nn.batch_norm import BatchNormStats, BatchStatistics, Collector, Statistics
from manyshot.nn.extract import extract
from manyshot.nn.selection import Selection, activate
from manyshot.nn.shapes import check_options
from manyshot.nn.structure import adopt, search_space
from manyshot.sharing import OneShot, Sharing
from manyshot.space import Arch

_BATCH = BatchStatistics()


@final
class Supernet(nn.Module):
    """A module with choices in it, as a network that takes the architecture as an argument.

    `net(images, arch)` runs one architecture with the shared weights; no state says which is "on".

    Attributes:
        model: the module it was made from, which it owns from then on: plain batch norms in it are
            replaced by ones without running statistics (the parameter objects stay).
        space: its search space, derived from the module, so that the two cannot disagree.
        sharing: the weight-sharing scheme.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sharing: Sharing | None = None,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        """Makes a supernet.

        Args:
            model: any module that holds `ms.nn.Choice`, `ms.nn.Depth` or elastic layers.
            sharing: which weights a path gets; by default one copy (`ms.sharing.OneShot`).
            input_shape: (C, H, W) of one image. When given, all options of every choice are
                checked on meta tensors to agree in shape.

        Raises:
            ValueError: without decisions, for two decisions of one name, or options that disagree.
            TypeError: for a batch norm that cannot be shared.
        """
        super().__init__()
        self.model = adopt(model)
        self.space = search_space(self.model)
        self.sharing: Sharing = OneShot() if sharing is None else sharing
        self.sharing.attach(self.model)
        if input_shape is not None:
            check_options(self.model, self.space, input_shape)

    def forward(
        self,
        images: Any,
        arch: Arch | None = None,
        *,
        stats: BatchNormStats | Collector | Literal["batch"] | None = None,
    ) -> Any:
        """Runs one architecture.

        Args:
            images: what the model's `forward` takes, usually (B, C, H, W).
            arch: an option index per decision; by default `space.largest`.
            stats: eval mode only: calibrated statistics of this architecture for its batch norms,
                or `"batch"` to normalise by the batch.

        Returns:
            What the model returns, usually logits (B, classes).

        Raises:
            ValueError: if `arch` is not in the space, or `stats` belong to another architecture.
            RuntimeError: in eval mode without statistics, if there is a batch norm on the path.
        """
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "torch.compile of a whole supernet would compile once per architecture: compile "
                "option bodies of fixed size, or the subnet that extract() gives"
            )
        with self.selecting(arch, stats):
            return self.model(images)

    @contextlib.contextmanager
    def selecting(
        self,
        arch: Arch | None = None,
        stats: BatchNormStats | Collector | Literal["batch"] | None = None,
    ) -> Iterator[Selection]:
        """Makes `arch` active for the modules called inside, for example `net.model.stages()`."""
        chosen = self.space.largest if arch is None else self.space.check(tuple(arch))
        statistics: Statistics | None = _BATCH if stats == "batch" else stats  # type: ignore[assignment]
        if stats is not None and self.training:
            raise ValueError("statistics are for eval mode: call net.eval() before passing stats")
        if isinstance(stats, BatchNormStats) and stats.arch != chosen:
            raise ValueError(
                f"the statistics were calibrated for architecture {stats.arch}, not {chosen}; "
                "call ms.evaluate.calibrate(net, arch, batches) for it"
            )
        with activate(Selection(self.space.decisions, chosen, statistics)) as selection:
            yield selection

    def extract(self, arch: Arch, *, stats: BatchNormStats | None = None) -> nn.Module:
        """The architecture `arch` as an independent plain module with copied weights.

        Its classes are the model's own with plain `torch.nn` layers; none of `ms.nn` is left. With
        `stats` its batch norms get these statistics and eval-mode logits equal
        `net(images, arch, stats=stats)`; without, they start fresh, for training.

        Raises:
            ValueError: if `arch` is not in the space, or `stats` belong to another architecture.
        """
        training, statistics = self.training, stats
        if stats is not None and stats.arch != tuple(arch):
            raise ValueError(
                f"the statistics were calibrated for architecture {stats.arch}, not {arch}"
            )
        selection = Selection(self.space.decisions, self.space.check(tuple(arch)), statistics)
        with activate(selection):
            return extract(self.model, selection).train(training)

    def images_device(self) -> torch.device:
        """Where its first parameter is."""
        return next(self.parameters()).device


def as_images(batch: Tensor | Sequence[Tensor]) -> Tensor:
    """The images of a batch: itself, or the first of (images, labels)."""
    return batch if isinstance(batch, Tensor) else batch[0]
