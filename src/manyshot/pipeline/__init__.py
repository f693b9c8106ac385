"""The stages that use everything else."""

from manyshot.pipeline.build import Workspace
from manyshot.pipeline.stages.finish import finish
from manyshot.pipeline.stages.search import search, winners
from manyshot.pipeline.verbs.compare import compare_runs
from manyshot.pipeline.verbs.export import export_architecture
from manyshot.pipeline.verbs.init import init
from manyshot.pipeline.verbs.predict import Prediction, predict_images
from manyshot.pipeline.verbs.preview import preview
from manyshot.pipeline.verbs.rank import rank_both, rank_run
from manyshot.pipeline.verbs.run import run, train_only
from manyshot.pipeline.verbs.space import survey
from manyshot.pipeline.verbs.transfer import transfer_recipe
from manyshot.pipeline.verbs.truth import TruthFailed, truth
from manyshot.pipeline.verbs.truth_preview import preview_truth

__all__ = [
    "Prediction",
    "TruthFailed",
    "Workspace",
    "compare_runs",
    "export_architecture",
    "finish",
    "init",
    "predict_images",
    "preview",
    "preview_truth",
    "rank_both",
    "rank_run",
    "run",
    "search",
    "survey",
    "train_only",
    "transfer_recipe",
    "truth",
    "winners",
]
