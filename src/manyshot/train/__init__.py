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
    narrowing,
)
from manyshot.train.samplers import (
    SAMPLERS,
    Balanced,
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
from manyshot.train.shrinkers import (
    SHRINKERS,
    Angle,
    BalancedDrop,
    Elite,
    Progressive,
    Slimming,
    make_shrinker,
)
from manyshot.train.shrinking import Forgetful, Judged, Shrinker, Shrinking, Shrunk, Stage
from manyshot.train.trainer import Trainer, train

__all__ = [
    "SAMPLERS",
    "SHRINKERS",
    "Angle",
    "Balanced",
    "BalancedDrop",
    "CheckpointError",
    "ConditionalTable",
    "Elite",
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
    "Progressive",
    "Sampler",
    "Sandwich",
    "ShiftNAS",
    "ShiftNASOptions",
    "Shrinker",
    "Shrinking",
    "Shrunk",
    "Slimming",
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
    "narrowing",
    "save_weights",
    "train",
    "uniform_cost",
]
