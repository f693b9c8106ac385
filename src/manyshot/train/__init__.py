"""Training: the loop and its settings, samplers, and what a sampler has to do with the loop."""

from manyshot.recipe import TrainingSettings
from manyshot.train.accelerator import engine
from manyshot.train.checkpoint import CheckpointError, load_weights, save_weights
from manyshot.train.journal import TrainingWarning
from manyshot.train.optimisation import NonFiniteLoss, Standalone
from manyshot.train.plan import (
    Forwarding,
    Narrows,
    Plan,
    PlannedPath,
    Probe,
    Probed,
    Sampler,
    Stateless,
)
from manyshot.train.samplers import (
    SAMPLERS,
    ConditionalTable,
    Fair,
    Only,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Taught,
    Uniform,
    make_sampler,
    uniform_cost,
)
from manyshot.train.shrinkers import SHRINKERS, Angle, make_shrinker
from manyshot.train.shrinking import Forgetful, Judged, Shrinker, Shrinking, Shrunk, Stage
from manyshot.train.trainer import Trainer, train

__all__ = [
    "SAMPLERS",
    "SHRINKERS",
    "Angle",
    "CheckpointError",
    "ConditionalTable",
    "Fair",
    "Forgetful",
    "Forwarding",
    "Judged",
    "Narrows",
    "NonFiniteLoss",
    "Only",
    "Plan",
    "PlannedPath",
    "Probe",
    "Probed",
    "Sampler",
    "Sandwich",
    "ShiftNAS",
    "ShiftNASOptions",
    "Shrinker",
    "Shrinking",
    "Shrunk",
    "Stage",
    "Standalone",
    "Stateless",
    "Taught",
    "Trainer",
    "TrainingSettings",
    "TrainingWarning",
    "Uniform",
    "engine",
    "load_weights",
    "make_sampler",
    "make_shrinker",
    "save_weights",
    "train",
    "uniform_cost",
]
