"""What trained weights depend on, so that none are taken for others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from pydantic import BaseModel

from manyshot.data import OwnSet
from manyshot.data.images import pixels_of
from manyshot.fitting import growth_of
from manyshot.pipeline.build import Workspace
from manyshot.recipe import (
    BESIDE_RESULTS,
    OptimiserSettings,
    RewardSettings,
    SnapshotsSettings,
    SupernetSettings,
    TaskSettings,
)
from manyshot.run_folder import RunFolder
from manyshot.train import load_weights

OFF: dict[str, Any] = {
    "accumulate": 1,
    "ema": None,
    "min_lr": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "rates": {},
    "drop_path": None,
    "drop_path_for": "all",
    "rand_augment": None,
    "random_erasing": 0.0,
    "repeats": 1,
    "image_sizes": None,
    "sgld": 0.0,
    "shard": False,
    "compile": False,
    "snapshots": SnapshotsSettings().model_dump(),
}
"""Settings that came later, by what turns them off: then they are no part of what identifies
weights, so that those of before stay what they are."""
OF_MOVES = {"body_epochs"}
"""Settings of a transfer that are no part of what identifies other weights."""


def fingerprint(ws: Workspace, settings: OptimiserSettings, *more: object) -> str:
    """Identifies all that trained weights depend on, which the test images are no part of."""
    return _identified(ws, settings, ws.splits.training_fingerprint, more)


def truth_fingerprint(ws: Workspace, settings: OptimiserSettings) -> str:
    """Identifies all that the score of a network that is trained alone depends on."""
    return _identified(ws, settings, ws.splits.fingerprint, ())


def _identified(
    ws: Workspace, settings: OptimiserSettings, images: str, more: Sequence[object]
) -> str:
    recipe = ws.recipe
    kept = {
        "network": recipe.network.model_dump(),
        "sharing": recipe.sharing.model_dump(exclude={"inherit"}),
        "sampler": recipe.sampler.model_dump(),
        "transfer": recipe.transfer.model_dump(exclude=None if recipe.moves else OF_MOVES),
        "training": _turned_on(settings.model_dump(exclude=set(BESIDE_RESULTS))),
        "seed": recipe.seed,
        **({} if recipe.task == TaskSettings() else {"task": recipe.task.model_dump()}),
        "augment": _turned_on(asdict(ws.augment())),
        **({"crops": "files"} if _crops_files(ws) else {}),
        **({"sizes": "files"} if growth_of(settings) and _reads_files(ws) else {}),
        "images": images,
        "more": [_told(item) for item in more],
    }
    if ws.original.digest is not None:
        kept["weights"] = ws.original.digest
    if isinstance(settings, SupernetSettings) and settings.teacher == "network":
        kept["teacher"] = recipe.teacher.digest
    if recipe.shrinks:
        judged = recipe.evaluate.model_dump(include={"calibration_images", "fitness"})
        kept["shrink"] = [recipe.shrink.model_dump(), judged]
    if ws.inherited is not None:
        kept["inherited"] = ws.inherited.digest
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _crops_files(ws: Workspace) -> bool:
    """Whether random crops are of the pixels in files, not of those in memory."""
    return ws.augment().crop_scale is not None and _reads_files(ws)


def _reads_files(ws: Workspace) -> bool:
    """Whether training images are decoded in every epoch."""
    train = ws.splits.train
    return not isinstance(train, OwnSet) and pixels_of(train) is None


def weights_fingerprint(ws: Workspace, *, shifted: bool = False) -> str:
    """Identifies what the supernet's weights depend on, as trained, or `shifted` after it."""
    return fingerprint(ws, ws.recipe.train, *([ws.recipe.shifting] if shifted else []))


def _told(item: object) -> str:
    """What identifies weights besides, as text: of settings all but those that came later.

    Those are left out where they are off, so that weights of before are known.
    """
    if not isinstance(item, BaseModel):
        return str(item)
    later = {
        "sgld": 0.0,
        "compile": False,
        "snapshots": SnapshotsSettings(),
        "reward": RewardSettings(),
    }
    return " ".join(f"{k}={v!r}" for k, v in item if k not in later or v != later[k])


def _turned_on(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without those that came later and are off."""
    return {key: value for key, value in settings.items() if key not in OFF or value != OFF[key]}


def load_final_weights(ws: Workspace, folder: RunFolder) -> None:
    """Loads the supernet as the search of this recipe left it in the folder of its run.

    Raises:
        RecordError: if it is not trained, or its search moves it and is not done.
        CheckpointError: if the file is damaged, or belongs to another run.
    """
    weights = folder.final_weights(ws.recipe)
    shifted = weights == folder.shifted
    load_weights(weights, ws.net, weights_fingerprint(ws, shifted=shifted))
