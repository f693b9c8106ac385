"""Training: samplers, one step, the loop, checkpoints."""

from manyshot.recipe import TrainingSettings
from manyshot.train.checkpoint import (
    CheckpointError,
    digest,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from manyshot.train.generator import ArchitectureGenerator, Decoded, Generated
from manyshot.train.loop import engine, train
from manyshot.train.plan import Plan, PlannedPath, Probe, Probed, Sampler, Stateless
from manyshot.train.samplers import (
    SAMPLERS,
    ComplexityDistribution,
    ConditionalTable,
    Fair,
    Generates,
    Grid,
    Only,
    Sandwich,
    ShiftNAS,
    ShiftNASOptions,
    Uniform,
    make_sampler,
    uniform_cost,
)
from manyshot.train.shifting import Shifter, schedule
from manyshot.train.standalone import Standalone
from manyshot.train.step import accumulate
from manyshot.train.trainer import NonFiniteLoss, Trainer, TrainingWarning

__all__ = [
    "SAMPLERS",
    "ArchitectureGenerator",
    "CheckpointError",
    "ComplexityDistribution",
    "ConditionalTable",
    "Decoded",
    "Fair",
    "Generated",
    "Generates",
    "Grid",
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
    "Shifter",
    "Standalone",
    "Stateless",
    "Trainer",
    "TrainingSettings",
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
    "schedule",
    "train",
    "uniform_cost",
]
