"""Training: the loop and its settings, samplers, and what a sampler has to do with the loop."""

from manyshot.recipe import TrainingSettings
from manyshot.train.accelerator import engine
from manyshot.train.checkpoint import CheckpointError, load_weights, save_weights
from manyshot.train.journal import TrainingWarning
from manyshot.train.optimisation import NonFiniteLoss, Standalone
from manyshot.train.plan import (
    Forwarding,
    MixesOptions,
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
    Relaxed,
    RelaxedOptions,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Sparse,
    SparseOptions,
    Taught,
    Uniform,
    make_sampler,
    uniform_cost,
)
from manyshot.train.trainer import Trainer, train

__all__ = [
    "SAMPLERS",
    "CheckpointError",
    "ConditionalTable",
    "Fair",
    "Forwarding",
    "MixesOptions",
    "NonFiniteLoss",
    "Only",
    "Plan",
    "PlannedPath",
    "Probe",
    "Probed",
    "Relaxed",
    "RelaxedOptions",
    "Sampler",
    "Sandwich",
    "ShiftNAS",
    "ShiftNASOptions",
    "Sparse",
    "SparseOptions",
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
    "save_weights",
    "train",
    "uniform_cost",
]
