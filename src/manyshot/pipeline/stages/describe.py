"""Records that say what others cannot: the space, and the codes of K-shot sharing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import torch

from manyshot import records
from manyshot.evaluate.score import total
from manyshot.nn.inputs import together
from manyshot.nn.modes import evaluating
from manyshot.pipeline.build import Workspace
from manyshot.run_folder import (
    CodesLine,
    ImagesRecord,
    MixedRecord,
    RunFolder,
    SpaceDescription,
    SpaceRecord,
    Trained,
)
from manyshot.seeding import numpy_rng
from manyshot.sharing import Coded
from manyshot.train import MixesOptions, Sampler

Minutes: TypeAlias = Mapping[Trained, float]
"""Minutes by section of a recipe."""
ROWS = 128
"""Of codes with more rows the mean is recorded."""
SAMPLED = 64
"""Architectures whose codes are recorded: the smallest, the largest, and random ones."""


def describe_space(ws: Workspace, folder: Path, minutes: Minutes = MappingProxyType({})) -> None:
    """Writes what the option indices in all records mean, budgets in % and which images there are.

    Unless the run has begun. If the test images are others since, what it says of images is
    renewed.

    Args:
        ws: the run.
        folder: the run's.
        minutes: those that epochs took the place of, by section of the recipe.
    """
    path = RunFolder(folder).space_file
    splits = ws.splits
    images = ImagesRecord(
        name=splits.name,
        fingerprint=splits.fingerprint,
        digests=dict(splits.digests),
        image_shape=splits.image_shape,
        class_counts=splits.class_counts,
        class_names=splits.class_names,
        mean=splits.mean or None,
        std=splits.std or None,
        keeps_aspect=splits.keeps_aspect if splits.image_shape else None,
        notes=splits.notes,
    )
    before = RunFolder(folder).space()
    if before is not None and RunFolder(folder).has_begun:
        if before.images is not None and _but_test(before.images) == _but_test(images):
            renewed = before.model_copy(update={"images": images})
            if renewed != before:
                records.write_json(path, renewed)
        return
    space = ws.net.space
    largest = ws.costs_of(space.largest)
    described = SpaceDescription.of(space.to_dict())
    chosen = tuple(ws.recipe.search.budgets) if ws.has_default_budgets else None
    records.write_json(
        path,
        SpaceRecord(
            space=described,
            largest=largest,
            task=ws.task_record,
            images=images,
            default_budgets=chosen,
            minutes=dict(minutes) or None,
        ),
    )


def _but_test(images: ImagesRecord) -> dict[str, str]:
    """The digests of all parts that training and scores depend on."""
    return {part: digest for part, digest in images.digests.items() if part != "test"}


def describe_mixed(ws: Workspace, folder: Path, sampler: Sampler) -> None:
    """Writes how good the network is whose options a sampler mixes; nothing for others.

    It is scored on the images that candidates are, so that the difference is what is lost by
    choosing one option of each decision.
    """
    path = sampler.settled() if isinstance(sampler, MixesOptions) else None
    if path is None or path.policy is None:
        return
    mixture = path.policy
    policy = dict(zip(mixture, together(list(mixture.values()), ws.device), strict=True))
    batches = ws.fixed("validation", ws.recipe.evaluate.images)
    with evaluating(ws.net):
        outputs = (
            (ws.net(inputs, policy=policy, **path.masking, stats="batch"), targets)
            for inputs, targets in batches
        )
        score = total(ws.task, outputs).checked("the network with mixed options")
    record = MixedRecord(proxy_score=score.value, proxy_loss=score.loss, images=score.images)
    records.write_json(RunFolder(folder).mixed_file, record)


def describe_codes(ws: Workspace, folder: Path) -> None:
    """Writes the codes that paths have when training ends; nothing if paths have none."""
    sharing, space = ws.net.sharing, ws.space
    if not isinstance(sharing, Coded):
        return
    rng = numpy_rng(ws.recipe.seed, "described_codes")
    drawn = [space.smallest, space.largest, *(space.sample(rng) for _ in range(SAMPLED - 2))]
    archs = list(dict.fromkeys(map(space.canonical, drawn)))
    with torch.no_grad():
        found = sharing.code(archs)
    if found.dim() == 3 and found.shape[1] > ROWS:
        found = found.mean(1, keepdim=True)
    codes = found.tolist()
    macs = ws.costs["macs"](archs).tolist()
    rows = sorted(zip(archs, macs, codes, strict=True), key=lambda row: row[1])
    records.write_lines(
        RunFolder(folder).codes_log,
        [
            CodesLine.of({"arch": space.to_text(arch), "macs": cost, "code": code})
            for arch, cost, code in rows
        ],
    )
