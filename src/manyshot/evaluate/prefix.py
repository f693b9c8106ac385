"""Scoring many architectures together: what their networks have in common is computed once.

Architectures that agree in all that the first stages read share these stages' activations, in the
calibration and in the scoring. The set is walked as a prefix tree, depth first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from manyshot.data import Batch
from manyshot.evaluate.score import Score, images_of, score, total
from manyshot.evaluate.stages import StagePath, Survey, Unfit, stages_of
from manyshot.nn.batch_norm import BatchNormStats, Collector
from manyshot.nn.inputs import batch_of
from manyshot.nn.modes import evaluating
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import Task, as_task

MEMORY = 2**30
"""How many bytes activations may take by default."""

Calibration: TypeAlias = Iterable[Tensor | Sequence[Tensor]] | Callable[[Arch], BatchNormStats]


def kept_after(paths: Sequence[StagePath], images: int, memory: int) -> frozenset[int]:
    """After how many stages activations are carried: where paths part, as far as memory allows.

    While the most that a path carries is over `memory`, the place is given up that costs the fewest
    multiply-adds per byte: the stages up to it are then run once per branch.

    Args:
        paths: the steps of each architecture.
        images: how many images are carried.
        memory: bytes that they may take.

    Raises:
        Unfit: if nothing fits that could be shared.
    """
    stages = len(paths[0])
    counts = [len({path[:i] for path in paths}) for i in range(stages + 1)]
    size = [0] + [images * max(path[i].bytes for path in paths) for i in range(stages)]
    macs = [sum(path[i].macs for path in paths) / len(paths) for i in range(stages)]
    parting = [i for i in range(1, stages) if counts[i] < counts[i + 1]]
    kept = [i for i in parting if size[i] <= memory]
    if parting and not kept:
        raise Unfit(
            f"memory={memory:,} bytes hold no shared activations; the smallest take "
            f"{min(size[i] for i in parting):,}"
        )

    def price(at: int) -> float:
        before, _, after = (0, *kept, stages)[kept.index(at) :][:3]
        return (counts[after] - counts[at]) * sum(macs[before:at]) / max(1, size[at])

    while kept and max(sum(images * path[i - 1].bytes for i in kept) for path in paths) > memory:
        kept.remove(min(kept, key=price))
    return frozenset(kept)


@final
@dataclass(frozen=True, slots=True)
class Account:
    """What scoring took so far, beside what it takes one by one.

    Scores that were known before are counted as if they were made now, in their place in the tree.

    Attributes:
        method: `prefix tree`, or `one by one: ` and why.
        architectures: how many distinct encodings were scored.
        stage_runs: how often a stage ran on a batch; None one by one.
        plain_stage_runs: how often it would have, one by one.
        macs: multiply-adds of all images forwarded; None one by one.
        plain_macs: what they would have been, one by one.
        carried_bytes: the most that activations took that were kept for others to share.
    """

    method: str
    architectures: int
    stage_runs: int | None
    plain_stage_runs: int | None
    macs: int | None
    plain_macs: int | None
    carried_bytes: int

    @property
    def share(self) -> float | None:
        """The multiply-adds over those one by one; None before anything is scored."""
        if self.macs is None or self.plain_macs is None:
            return 1.0 if self.architectures else None
        return self.macs / self.plain_macs if self.plain_macs else None


@dataclass(slots=True)
class _Spent:
    """What is counted while architectures are scored."""

    architectures: int = 0
    runs: int = 0
    plain_runs: int = 0
    macs: int = 0
    plain_macs: int = 0
    bytes: int = 0
    most_bytes: int = 0


class _Images:
    """The images of batches, anew in every pass; `sizes` has how many each batch has."""

    def __init__(self, batches: Iterable[Tensor | Sequence[Tensor]]) -> None:
        self._batches = batches
        self.sizes = [batch_of(images) for images in self]

    def __iter__(self) -> Iterator[Tensor]:
        return images_of(self._batches)


@dataclass(frozen=True, slots=True)
class _Carried:
    """What all batches are after some stages: by their own statistics, and by the calibrated."""

    calibration: Iterable[Tensor]
    validation: Iterable[Tensor]

    def bytes(self) -> int:
        """The bytes of the tensors, each memory counted once."""
        tensors = itertools.chain(self.calibration, self.validation)
        return sum(
            {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values()
        )


@final
class Population:
    """Architectures scored together: iterating gives `(arch, score)` of each.

    Scores are those of `ms.evaluate.score`, bit-equal on one CPU thread, and depend neither on the
    order nor on what else is scored. They come in the order of the tree, each architecture once.
    Iterating again computes again; weights must not change meanwhile. The supernet is left
    bit-identical, whether the iteration ends or not.

    The network has to say that it is a chain, by `stages()`; small forwards check that, of one
    architecture at least for everything that a stage may read. Otherwise, and where weights depend
    on the whole architecture (K-shot), architectures are scored one by one; `method` says why.

    Attributes:
        task: what is scored.
        archs: what is scored or known, without repetition, in the order given.
        method: `prefix tree`, or `one by one: ` and why.
        survey: what is known of the network's stages; None if it was not looked at.
        calibration: the batches that statistics come from.
        statistics_of: what gives them in place of a calibration; None if nothing does.
        validation: the batches that architectures are scored on.
        parts: into how many random parts these are shared out.
    """

    def __init__(
        self,
        net: Supernet,
        archs: Iterable[Arch],
        *,
        calibration: Calibration,
        validation: Iterable[Batch],
        task: Task | str = "classification",
        memory: int = MEMORY,
        known: Collection[Arch] = (),
        parts: int = 0,
        survey: Survey | None = None,
    ) -> None:
        """Reads the network; nothing is scored yet.

        Args:
            net: the supernet.
            archs: architectures of its space.
            calibration: batches, as `calibrate` takes them; or what gives the statistics of an
                architecture. If it gives others to equal beginnings, nothing can be shared.
            validation: batches of images and targets.
            task: what is scored, or its name.
            memory: bytes that carried activations may take, without the images and without what
                one batch needs. With fewer, more is computed again.
            known: those of `archs` whose scores are known, so that iterating leaves them out. The
                account counts them, so that it is the same however often scoring was interrupted.
            parts: into how many random parts the validation images are shared out, each scored too.
            survey: that of an earlier population of the same network on images of the same shape,
                so that what is known of its stages is not looked at again.

        Raises:
            ValueError: if an architecture is not in the space.
        """
        self.net, self.task, self._memory, self.parts = net, as_task(task), memory, parts
        self.survey = survey
        self.archs = tuple(dict.fromkeys(net.space.check(tuple(arch)) for arch in archs))
        self._known = frozenset(map(tuple, known))
        self.statistics_of = calibration if callable(calibration) else None
        self.calibration = () if callable(calibration) else _again(calibration)
        self._calibration = _Images(self.calibration)
        self.validation = _again(validation)
        self._paths: dict[StagePath, list[Arch]] = {}
        self._spent, self.method = _Spent(), "prefix tree"
        try:
            self._plan()
        except Unfit as why:
            self.method = f"one by one: {why}"

    def _plan(self) -> None:
        self._stages = stages_of(self.net, self.archs)
        images = _Images(self.validation)
        parts = [images] if self.statistics_of else [self._calibration, images]
        if not all(part.sizes for part in parts):
            raise Unfit("there are no images")
        if not all(isinstance(images, Tensor) for part in parts for images in part):
            raise Unfit("what the network takes is more than one tensor")
        self._root = _Carried(self._calibration, images)
        self._targets = [targets for _, targets in self.validation]
        self._sizes = [size for part in parts for size in part.sizes]
        if self.archs:
            if self.survey is None:
                self.survey = Survey(self.net, self._stages, next(iter(parts[0])))
            paths = self.survey.paths(self.archs)
            self._kept = kept_after(list(paths), sum(self._sizes), self._memory)
            if self.statistics_of is not None:
                self._shared = _shared_statistics(self.statistics_of, paths)
            self._paths = paths

    @property
    def account(self) -> Account:
        """What the scores given so far have taken, since the iteration began."""
        spent = self._spent
        shared = self.method == "prefix tree"
        return Account(
            self.method,
            spent.architectures,
            spent.runs if shared else None,
            spent.plain_runs if shared else None,
            spent.macs if shared else None,
            spent.plain_macs if shared else None,
            spent.most_bytes,
        )

    def __iter__(self) -> Iterator[tuple[Arch, Score]]:
        self._spent = _Spent()
        if self._paths:
            yield from self._descend(0, self._in_order(), self._root)
            return
        for arch in self.archs:  # one by one; or there are none
            if arch in self._known:
                self._spent.architectures += 1
                continue
            stats = self._calibration if self.statistics_of is None else self.statistics_of(arch)
            scored = score(
                self.net,
                arch,
                calibration=stats,
                validation=self.validation,
                task=self.task,
                parts=self.parts,
            )
            self._spent.architectures += 1
            yield arch, scored

    def _in_order(self) -> list[StagePath]:
        """The paths as the tree is walked."""
        numbers = {path: [step.number for step in path] for path in self._paths}
        return sorted(self._paths, key=numbers.__getitem__)

    def portions(self, count: int) -> list[list[Arch]]:
        """What is not known in advance, in at most so many parts of about equal work.

        Each is a piece of the tree, so that architectures with much in common are together. Where
        architectures are scored one by one, each counts the same.
        """
        branches: list[tuple[list[Arch], int]] = [([arch], 1) for arch in self.archs]
        if self._paths:
            before: StagePath = ()
            branches = []
            for path in self._in_order():
                pairs = enumerate(zip(path, before, strict=False))
                split = next((i for i, (one, other) in pairs if one is not other), 0)
                branches.append((self._paths[path], sum(step.macs for step in path[split:])))
                before = path
        left = [([a for a in archs if a not in self._known], macs) for archs, macs in branches]
        work = [(archs, max(1, macs)) for archs, macs in left if archs]
        whole, done = sum(macs for _, macs in work), 0.0
        portions: list[list[Arch]] = [[] for _ in range(count)]
        for archs, macs in work:
            portions[min(int((done + macs / 2) / whole * count), count - 1)] += archs
            done += macs
        return [portion for portion in portions if portion]

    def _descend(
        self, start: int, paths: Sequence[StagePath], source: _Carried | None
    ) -> Iterator[tuple[Arch, Score]]:
        """Scores the architectures of sorted paths, which part after `start` stages or later.

        Without a source, or if the scores of all are known, they are counted and not computed.
        """
        path = paths[0]
        if self._known.issuperset(itertools.chain(*map(self._paths.__getitem__, paths))):
            source = None
        pairs = enumerate(zip(path, paths[-1], strict=True))
        split = next((i for i, (one, other) in pairs if one is not other), None)
        if split is None:
            scored = None if source is None else self._score(start, path, source)
            if scored is None:
                self._note(start, len(path), path)
            for arch in self._paths[path]:
                self._note_plain(path)
                if scored is not None and arch not in self._known:
                    yield arch, scored
            return
        held = 0
        if split > start and split in self._kept:
            if source is None:
                self._note(start, split, path)
            else:
                source = self._carry(start, split, path, source)
                held = source.bytes()
            start = split
        self._spent.bytes += held
        self._spent.most_bytes = max(self._spent.most_bytes, self._spent.bytes)
        for _, branch in itertools.groupby(paths, key=lambda path: path[split]):
            yield from self._descend(start, list(branch), source)
        self._spent.bytes -= held

    def _carry(self, start: int, stop: int, path: StagePath, source: _Carried) -> _Carried:
        """What all batches are after `stop` stages, from what they are after `start`."""
        with evaluating(self.net):
            calibrated: list[Tensor] = []
            stats = self._stats(start, stop, path, source, calibrated)
            with self.net.selecting(self._paths[path][0], stats):
                forward = functools.partial(self._forward, start, stop, path)
                return _Carried(calibrated, [forward(x) for x in source.validation])

    def _score(self, start: int, path: StagePath, source: _Carried) -> Score:
        """Runs the rest of a path, carrying nothing."""
        stop = len(path)
        with evaluating(self.net):
            stats = self._stats(start, stop, path, source, None)
            with self.net.selecting(self._paths[path][0], stats):
                outputs = (self._forward(start, stop, path, x) for x in source.validation)
                return total(self.task, zip(outputs, self._targets, strict=True), self.parts)

    def _stats(
        self, start: int, stop: int, path: StagePath, source: _Carried, keep: list[Tensor] | None
    ) -> BatchNormStats:
        """The statistics of the stages from `start` to `stop`; outputs are added to `keep`."""
        arch = self._paths[path][0]
        if self.statistics_of is not None:
            steps = range(start, stop)
            tensors = {n: self._shared[path[: i + 1], n] for i in steps for n in path[i].norms}
            return BatchNormStats(arch, tensors, self.net.placement(arch))
        collector = Collector()
        with self.net.selecting(arch, collector):
            for images in source.calibration:
                out = self._forward(start, stop, path, images)
                if keep is not None:
                    keep.append(out)
        return collector.stats(arch, self.net.placement(arch))

    def _forward(self, start: int, stop: int, path: StagePath, x: Tensor) -> Tensor:
        self._spent.runs += stop - start
        self._spent.macs += len(x) * sum(step.macs for step in path[start:stop])
        for stage, step in zip(self._stages[start:stop], path[start:stop], strict=True):
            x = stage(x.clone() if step.writes else x)
        return x

    def _note(self, start: int, stop: int, path: StagePath) -> None:
        """Counts what running all images through some stages takes, as `_forward` does."""
        self._spent.runs += (stop - start) * len(self._sizes)
        self._spent.macs += sum(self._sizes) * sum(step.macs for step in path[start:stop])

    def _note_plain(self, path: StagePath) -> None:
        self._spent.architectures += 1
        self._spent.plain_runs += len(path) * len(self._sizes)
        self._spent.plain_macs += sum(self._sizes) * sum(step.macs for step in path)


def _again(batches: Iterable[Any]) -> Iterable[Any]:
    """Batches that can be iterated more than once."""
    return list(batches) if isinstance(batches, Iterator) else batches


def _shared_statistics(
    statistics_of: Callable[[Arch], BatchNormStats], paths: Mapping[StagePath, Sequence[Arch]]
) -> dict[tuple[StagePath, str], tuple[Tensor, Tensor]]:
    """The mean and the variance by the steps up to a batch norm, and its path.

    Raises:
        Unfit: if architectures that share these steps have different ones.
    """
    shared: dict[tuple[StagePath, str], tuple[Tensor, Tensor]] = {}
    for path, archs in paths.items():
        for stats in map(statistics_of, archs):
            for i, step in enumerate(path):
                for norm in step.norms:
                    moments = stats.of(norm)
                    first = shared.setdefault((path[: i + 1], norm), moments)
                    if not all(map(torch.equal, moments, first)):
                        raise Unfit(
                            f"the statistics given for batch norm {norm!r} depend on later stages"
                        )
    return shared
