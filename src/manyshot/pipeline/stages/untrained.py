"""Scores of a truth's architectures without any training, on record."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from manyshot import records
from manyshot.data import Batch
from manyshot.data.own import joined
from manyshot.evaluate.zero_cost import NAMES, zero_cost
from manyshot.pipeline.build import Workspace
from manyshot.pipeline.networks import build_supernet
from manyshot.pipeline.plain import bare
from manyshot.pipeline.stages.proxies import taken_over
from manyshot.progress import Progress
from manyshot.recipe import Recipe
from manyshot.run_folder import ZeroCostLine
from manyshot.space import Arch

IMAGES = 64
"""So many training images are forwarded, class-balanced, the same for all architectures."""


@dataclasses.dataclass(frozen=True)
class Untrained:
    """Zero-cost scores of architectures.

    Attributes:
        scores: by name, of all architectures; only those that all have.
        left_out: the others, and why.
    """

    scores: dict[str, dict[Arch, float]] = dataclasses.field(default_factory=dict)
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def of(self, arch: Arch) -> dict[str, float] | None:
        """All scores of an architecture; None if none were taken."""
        return {name: by[arch] for name, by in self.scores.items()} or None


def digest_of(recipe: Recipe) -> str:
    """The digest of what a recipe says of network and task, on which the scores depend."""
    parts = {name: getattr(recipe, name).model_dump(mode="json") for name in ("network", "task")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def untrained(
    ws: Workspace, log: Path, archs: Sequence[Arch], others: Iterable[Path], progress: Progress
) -> Untrained:
    """Scores architectures that were never trained; what is on record is not scored again.

    New weights are those that a supernet of the run's seed begins with, as in a truth; sharing has
    no part. A score that is not defined for one of the architectures is left out for all.

    Args:
        ws: the run's.
        log: where the scores go; of weights before and after a search the same, as neither count.
        archs: the architectures.
        others: logs of the same run's rankings against other truths.
        progress: shows how far it is.
    """
    size = min(IMAGES, len(ws.splits.train))
    seed, images = ws.recipe.seed, f"{ws.splits.digests['train']}:{size}"
    parse = ws.net.space.from_text
    network = digest_of(ws.recipe)
    lines = taken_over(
        log,
        others,
        ZeroCostLine,
        set(map(ws.net.space.to_text, archs)),
        lambda line: (line.seed, line.images, line.network) == (seed, images, network),
        lambda line: line.arch,
    )
    known = {parse(line.arch): line for line in lines}
    missing = [arch for arch in archs if arch not in known]
    if missing:
        batch: Batch = joined(list(ws.fixed("train", size)))
        inputs, targets = batch
        net, _ = build_supernet(bare(ws.recipe), ws.splits, given=False)
        done = len(archs) - len(missing)
        with progress.stage("zero cost", len(archs), done) as advance:
            for arch in missing:
                began = time.perf_counter()
                module = net.extract(arch).to(ws.device)
                found = zero_cost(module, inputs, targets, ws.task)
                line = ZeroCostLine(
                    arch=net.space.to_text(arch),
                    seed=seed,
                    images=images,
                    network=network,
                    scores=found.scores,
                    absent=found.absent,
                    seconds=round(time.perf_counter() - began, 4),
                )
                records.append(log, line)
                known[arch] = line
                done += 1
                advance(done, "")
    scores, left_out = {}, {}
    for name in NAMES:
        lacking = [arch for arch in archs if name not in known[arch].scores]
        if lacking:
            first = lacking[0]
            why = known[first].absent.get(name, "it was not scored")
            text = ws.net.space.to_text(first)
            left_out[name] = f"{len(lacking)} of {len(archs)} have no value, such as {text}: {why}"
        else:
            scores[name] = {arch: known[arch].scores[name] for arch in archs}
    return Untrained(scores, left_out)
