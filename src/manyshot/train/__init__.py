"""Training: the loop and its settings, samplers, and what a sampler has to do with the loop."""

from manyshot.recipe import TrainingSettings
from manyshot.train.accelerator import engine
from manyshot.train.checkpoint import CheckpointError, load_weights, save_weights
from manyshot.train.distilling import (
    AEKD,
    DISTILLERS,
    Distiller,
    MeanOfTeachers,
    Several,
    make_distiller,
)
from manyshot.train.journal import TrainingWarning
from manyshot.train.optimisation import NonFiniteLoss, Standalone
from manyshot.train.plan import (
    EndsEarly,
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
    Greedy,
    MCTSampler,
    Only,
    Relaxed,
    RelaxedOptions,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Taught,
    Uniform,
    make_sampler,
    uniform_cost,
)
from manyshot.train.trainer import Trainer, train

__all__ = [
    "AEKD",
    "DISTILLERS",
    "SAMPLERS",
    "CheckpointError",
    "ConditionalTable",
    "EndsEarly",
    "Fair",
    "Forwarding",
    "Greedy",
    "MCTSampler",
    "MixesOptions",
    "Distiller",
    "Fair",
    "Forwarding",
    "MeanOfTeachers",
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
    "Several",
    "ShiftNAS",
    "ShiftNASOptions",
    "Standalone",
    "Stateless",
    "Taught",
    "Trainer",
    "TrainingSettings",
    "TrainingWarning",
    "Uniform",
    "engine",
    "load_weights",
    "make_distiller",
    "make_sampler",
    "save_weights",
    "train",
    "uniform_cost",
]
