"""The stages that use everything else."""

from manyshot.pipeline.comparing import compare_runs
from manyshot.pipeline.finishing import finish
from manyshot.pipeline.ranking import rank_run
from manyshot.pipeline.run import export_architecture, run, train_only
from manyshot.pipeline.searching import search, winners
from manyshot.pipeline.survey import survey
from manyshot.pipeline.transferring import transfer_recipe
from manyshot.pipeline.truth import TruthFailed, truth
from manyshot.pipeline.workspace import Workspace

__all__ = [
    "TruthFailed",
    "Workspace",
    "compare_runs",
    "export_architecture",
    "finish",
    "rank_run",
    "run",
    "search",
    "survey",
    "train_only",
    "transfer_recipe",
    "truth",
    "winners",
]
