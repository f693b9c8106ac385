"""Training: samplers, one step, the loop, checkpoints."""

from manyshot.recipe import Training
from manyshot.train.checkpoint import (
    CheckpointError,
    digest,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from manyshot.train.loop import engine, train
from manyshot.train.plan import Path, Plan, Sampler
from manyshot.train.samplers import SAMPLERS, Fair, Only, Sandwich, Uniform, make_sampler
from manyshot.train.step import accumulate
from manyshot.train.trainer import NonFiniteLoss, Standalone, Trainer, TrainingWarning

__all__ = [
    "SAMPLERS",
    "CheckpointError",
    "Fair",
    "NonFiniteLoss",
    "Only",
    "Path",
    "Plan",
    "Sampler",
    "Sandwich",
    "Standalone",
    "Trainer",
    "Training",
    "TrainingWarning",
    "Uniform",
    "accumulate",
    "digest",
    "engine",
    "load_checkpoint",
    "load_weights",
    "make_sampler",
    "save_checkpoint",
    "save_weights",
    "train",
]
