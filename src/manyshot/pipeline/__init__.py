"""The stages that use everything else."""

from manyshot.pipeline.finishing import finish
from manyshot.pipeline.run import export_architecture, run, train_only
from manyshot.pipeline.searching import search, winners
from manyshot.pipeline.survey import survey
from manyshot.pipeline.transferring import transfer_recipe
from manyshot.pipeline.truth import TruthFailed, truth
from manyshot.pipeline.workspace import Workspace

__all__ = [
    "TruthFailed",
    "Workspace",
    "export_architecture",
    "finish",
    "run",
    "search",
    "survey",
    "train_only",
    "transfer_recipe",
    "truth",
    "winners",
]
