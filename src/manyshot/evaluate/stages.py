"""Reads a network that is a chain of stages: what each stage depends on, gives and costs."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn

from manyshot.nn.batch_norm import Collector
from manyshot.nn.counting import MultiplyAdds, UncountedOperation
from manyshot.nn.modes import evaluating
from manyshot.nn.placement import Placement
from manyshot.nn.selection import Selection, Statistics, activate
from manyshot.space import Arch, Decision, Number, Size
from manyshot.supernet import Supernet

ImageShape: TypeAlias = tuple[int, ...]
"""The shape of what a stage gets or gives for one image."""
Indices: TypeAlias = tuple[int, ...]
"""Positions of decisions in an architecture, or option indices of these decisions."""
Moments: TypeAlias = dict[str, tuple[Tensor, Tensor]]
"""The mean and the variance of each batch norm, by its path."""


class Unfit(Exception):
    """Says why architectures have to be scored one by one."""


@final
@dataclass(frozen=True, eq=False, slots=True)
class Step:
    """One stage, as all architectures run it that agree on what it reads.

    Attributes:
        number: tells it from other steps, in order of discovery.
        shape: the shape of its output for one image.
        bytes: the size of its output per image.
        macs: multiply-adds per image.
        norms: the paths of the batch norms that it runs.
        writes: whether it changes its input, which is then copied first.
    """

    number: int
    shape: ImageShape
    bytes: int
    macs: int
    norms: tuple[str, ...]
    writes: bool


StagePath: TypeAlias = tuple[Step, ...]
"""All of an architecture's steps: architectures of one path are one computation."""


class _Reads(Selection):
    """A selection that notes which decisions are read from it."""

    __slots__ = ("seen",)

    def __init__(
        self,
        decisions: Sequence[Decision],
        arch: Arch,
        statistics: Statistics,
        placement: Placement,
    ) -> None:
        super().__init__(decisions, arch, statistics, placement=placement)
        self.seen: set[Decision] = set()
        self.values = _Noted(self.values, self.seen)

    def option(self, decision: Decision) -> int:
        self.seen.add(decision)
        return super().option(decision)

    def size(self, size: Number | Size) -> Number:
        if isinstance(size, Size):
            self.seen.update(size.decisions())
        return super().size(size)


class _Noted(dict[Decision, Number]):
    """Numbers of decisions, of which those that are looked up are noted."""

    def __init__(self, numbers: Mapping[Decision, Number], seen: set[Decision]) -> None:
        super().__init__(numbers)
        self.seen = seen

    def __getitem__(self, decision: Decision) -> Number:
        self.seen.add(decision)
        return super().__getitem__(decision)


class Survey:
    """Finds the steps of architectures, by running few of them on two small batches.

    What a stage reads may depend on the architecture and on the shape of its input, never on what
    is in the images. Each architecture that is run is also compared with the network's own forward.
    """

    def __init__(self, net: Supernet, stages: Sequence[nn.Module], images: Tensor) -> None:
        """Makes a survey that has seen nothing yet.

        Args:
            net: the supernet.
            stages: the modules that its network is a chain of.
            images: (B, ...), of which the first two are used.
        """
        backwards = tuple(range(images.dim()))
        few = images[:2] if len(images) > 1 else torch.cat((images, images.flip(backwards)))
        self.net, self.stages = net, stages
        self._batches = (few, few.flip(backwards))
        self._steps: list[dict[ImageShape, dict[Indices, dict[Indices, Step]]]] = [
            {} for _ in stages
        ]
        self._step_count = 0

    def paths(self, archs: Iterable[Arch]) -> dict[StagePath, list[Arch]]:
        """The architectures by their paths.

        Raises:
            Unfit: if running the stages is not running the network.
        """
        paths: dict[StagePath, list[Arch]] = {}
        for arch in archs:
            path = self._path_of(arch)
            if path is None:
                with evaluating(self.net):
                    self._compare(arch)
                path = self._path_of(arch)
                assert path is not None
            paths.setdefault(path, []).append(arch)
        return paths

    def _path_of(self, arch: Arch) -> StagePath | None:
        shape, path = tuple(self._batches[0].shape[1:]), []
        for steps in self._steps:
            for positions, by_options in steps.get(shape, {}).items():
                step = by_options.get(tuple(arch[p] for p in positions))
                if step is not None:
                    break
            else:
                return None
            path.append(step)
            shape = step.shape
        return tuple(path)

    def _compare(self, arch: Arch) -> None:
        """Learns the steps of an architecture; stage by stage it must be what the forward is.

        Two batches go through each stage before the next one, so that a stage that remembers what
        another one saw is detected.
        """
        whole, apart = Collector(), Moments()
        expected = [self.net(batch.clone(), arch, stats=whole) for batch in self._batches]
        batches = [batch.clone() for batch in self._batches]
        for number in range(len(self.stages)):
            try:
                batches, tensors = self._observe(number, arch, batches)
            except Unfit:
                raise
            except UncountedOperation as error:
                raise Unfit(f"stage {number} cannot be counted: {error}") from error
            except Exception as error:
                raise Unfit(f"its stages cannot run one after the other: {error}") from error
            apart |= tensors
        text = self.net.space.to_text(arch)
        if not all(map(_same, batches, expected)):
            raise Unfit(f"stage by stage, architecture {text} gives other results")
        tensors = whole.stats(arch).tensors
        for path in {**tensors, **apart}:
            if not (
                path in tensors and path in apart and all(map(_same, tensors[path], apart[path]))
            ):
                raise Unfit(f"stage by stage, batch norm {path!r} of {text} sees something else")

    def _observe(
        self, number: int, arch: Arch, batches: Sequence[Tensor]
    ) -> tuple[list[Tensor], Moments]:
        stage, (x, *_), collector = self.stages[number], batches, Collector()
        placement = self.net.placement(arch)
        reads = _Reads(self.net.space.decisions, arch, collector, placement)
        version = None if x.is_inference() else x._version
        with activate(reads):
            outputs = [stage(batch) for batch in batches]
        writes = version is None or x._version != version
        for out in outputs:
            if not isinstance(out, Tensor) or out.shape[:1] != x.shape[:1]:
                raise Unfit(f"stage {number} does not give one tensor with a row per image")
        positions = tuple(sorted(self.net.space.index[decision] for decision in reads.seen))
        by_options = (
            self._steps[number].setdefault(tuple(x.shape[1:]), {}).setdefault(positions, {})
        )
        tensors = collector.stats(arch).tensors
        options = tuple(arch[p] for p in positions)
        if options not in by_options:
            out = outputs[0]
            size = out.untyped_storage().nbytes() // len(out)
            macs, shape = self._macs(stage, x, arch), tuple(out.shape[1:])
            by_options[options] = Step(self._step_count, shape, size, macs, tuple(tensors), writes)
            self._step_count += 1
        return outputs, tensors

    def _macs(self, stage: nn.Module, x: Tensor, arch: Arch) -> int:
        """The multiply-adds of one image, as `ms.cost.macs` counts them."""
        selection = Selection(self.net.space.decisions, arch, Collector())
        with activate(selection), MultiplyAdds() as count:
            stage(x.clone())
        return int(count.total) // len(x)


def _same(one: Tensor, other: Any) -> bool:
    """Whether two results are one: equal bit by bit where kernels repeat themselves."""
    if not isinstance(other, Tensor) or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one.device.type == "cpu" and torch.get_num_threads() == 1:
        return torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5, equal_nan=True)


def stages_of(net: Supernet, archs: Iterable[Arch]) -> list[nn.Module]:
    """The stages that the network says it is a chain of.

    Raises:
        Unfit: if it does not, or a path's weights depend on more than the path so far.
    """
    archs = list(archs)
    if any(net.mixture(arch) is not None for arch in archs):
        kind = type(net.sharing).__name__
        raise Unfit(
            f"{kind} gives every architecture weights of its own, which depend on all of it"
        )
    if any(len(net.scored(arch)) > 1 for arch in archs) or len(set(map(net.placement, archs))) > 1:
        raise Unfit(
            f"{type(net.sharing).__name__} scores an architecture with several placements of its "
            "channels, or places those of every architecture anew"
        )
    name, method = type(net.model).__name__, getattr(net.model, "stages", None)
    if not inspect.ismethod(method):
        raise Unfit(f"{name} has no method stages()")
    stages = list(method())
    if not stages or not all(isinstance(stage, nn.Module) for stage in stages):
        raise Unfit(f"stages() of {name} does not give a list of modules")
    return stages
