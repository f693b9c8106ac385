"""Final networks straight from a sampler's generator, without a search (ShiftNAS)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from manyshot import records
from manyshot.pipeline.build import Workspace
from manyshot.run_folder import SAMPLER, GeneratedRecord, RunFolder
from manyshot.search import Limit
from manyshot.search.table import takes_sampler
from manyshot.space import Arch
from manyshot.train import OrdersByWeights, Sampler
from manyshot.train.checkpoint import load_checkpoint, restore_sampler, save_checkpoint
from manyshot.train.samplers.shift import Generates

DRAWS = 64
"""Architectures drawn where the likeliest is beyond its budget."""


@dataclass(frozen=True)
class Proposal:
    """What a generator says for one budget.

    Attributes:
        limit: the budget.
        archs: canonical; the likeliest, or, if that is beyond the budget, the distinct ones of
            `DRAWS` draws that are within, of which the best-scored wins.
        decodes: how often the likeliest was decoded, each time for a lower target.
        drawn: whether `archs` are draws.
        returned: as `Generated.returned`.
    """

    limit: Limit
    archs: tuple[Arch, ...]
    decodes: int
    drawn: bool
    returned: tuple[str, ...] = ()

    def record(self, winner: Arch | None) -> GeneratedRecord:
        """Its part of `result.json`."""
        left = None
        if winner is not None:
            left = 1 - float(self.limit.costs([winner])[0]) / self.limit.limit
        return GeneratedRecord(
            decodes=self.decodes,
            drawn=self.drawn,
            below_budget_share=left,
            returned=self.returned or None,
        )


@final
class Proposed:
    """A searcher that proposes what it was made with, once."""

    def __init__(self, proposals: Sequence[Proposal]) -> None:
        self.left = list(dict.fromkeys(arch for p in proposals for arch in p.archs))

    def ask(self, n: int) -> list[Arch]:
        """The next `n`, and nothing once all are asked for."""
        asked, self.left = self.left[:n], self.left[n:]
        return asked

    def tell(
        self, archs: Sequence[Arch], scores: Sequence[float], weights_version: int = 0
    ) -> None:
        """Learns nothing."""

    def elites(self) -> list[Arch]:
        """None."""
        return []


def proposals(ws: Workspace, folder: Path) -> list[Proposal]:
    """What the generator that was trained in `folder` says for every budget of the recipe.

    Raises:
        RecordError: if the folder has no trained sampler.
    """
    sampler = trained_sampler(ws, folder)
    assert isinstance(sampler, Generates)  # `check_sampler` has seen to it
    return [_proposal(ws, sampler, limit) for limit in ws.limits()]


def _proposal(ws: Workspace, sampler: Generates, limit: Limit) -> Proposal:
    likeliest = sampler.generate(limit.limit)
    archs = [likeliest.arch]
    if not likeliest.within:
        archs = sampler.sampled(limit.limit, ws.recipe.seed, DRAWS)
    elif likeliest.returned:
        warnings.warn(
            f"budget {limit.name!r}: without options that training left out for good no network "
            "was found within it, so that these come back, with weights that did not learn since: "
            f"{', '.join(likeliest.returned)}. Raise the budget, or leave out less "
            "(sampler.options.prune)",
            stacklevel=2,
        )
    canonical = tuple(dict.fromkeys(map(ws.net.space.canonical, archs)))
    returned = likeliest.returned if likeliest.within else ()
    return Proposal(limit, canonical, likeliest.decodes, not likeliest.within, returned)


def save_sampler(folder: Path, sampler: Sampler, probed_images: int, steps: int) -> None:
    """Writes what a learnt sampler has learnt, in how many steps, and at what price.

    Nothing is written for others.
    """
    state = sampler.state_dict()
    if state:
        spent = {"probed_images": probed_images, "steps": steps}
        save_checkpoint(RunFolder(folder).sampler, {"sampler": state, **spent})


def probed_images(folder: Path) -> int:
    """Images forwarded for the probes of the sampler that was trained in `folder`."""
    path = RunFolder(folder).sampler
    return int(load_checkpoint(path)["probed_images"]) if path.exists() else 0


def ended_after(folder: Path) -> int | None:
    """How many steps the supernet of `folder` was trained for, if its sampler learns.

    In folders from before it was written it is not known either.
    """
    path = RunFolder(folder).sampler
    return load_checkpoint(path).get("steps") if path.exists() else None


def sampler_of_search(ws: Workspace, folder: Path) -> Sampler | None:
    """The recipe's sampler as it was trained in `folder`, if the recipe's searcher takes one.

    Raises:
        RecordError, CheckpointError: as `trained_sampler`, of a sampler that learns.
    """
    if not ws.trains_sampler or not takes_sampler(ws.recipe.search.name):
        return None
    sampler = ws.sampler()
    return trained_sampler(ws, folder) if sampler.state_dict() else sampler


def order_by_weights(
    ws: Workspace, folder: Path, archs: Sequence[Arch]
) -> dict[Arch, float] | None:
    """By what a sampler that learnt weights of options in `folder` orders architectures.

    It is `OrdersByWeights.log_weights` of each; None if the recipe's sampler learns no such
    weights, or nothing was trained by it.

    Raises:
        RecordError, CheckpointError: as `trained_sampler`.
    """
    if not ws.trains_sampler or not isinstance(ws.sampler(), OrdersByWeights):
        return None
    sampler = trained_sampler(ws, folder)
    assert isinstance(sampler, OrdersByWeights)
    return dict(zip(archs, sampler.log_weights(archs), strict=True))


def trained_sampler(ws: Workspace, folder: Path) -> Sampler:
    """The recipe's sampler as it was trained in `folder`.

    Raises:
        RecordError: if it is not there.
        CheckpointError: if it is damaged, or of another version or other options.
    """
    path = RunFolder(folder).sampler
    if not path.exists():
        raise records.RecordError(
            f"{folder} has no {SAMPLER}: train it first with manyshot train, or manyshot run"
        )
    sampler = ws.sampler()
    way_out = (
        "train the supernet again to another --out folder, or search this one by a searcher that "
        "does not look at samplers, such as search.name = 'random'"
    )
    restore_sampler(sampler, load_checkpoint(path), path, way_out)
    return sampler
