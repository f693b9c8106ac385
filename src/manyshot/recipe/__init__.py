"""Recipes: TOML read into validated settings. An unknown key is an error with the nearest name.

The defaults of every section are the settings of `manyshot run` without a recipe. A module has the
sections that belong together, `recipe.py` the whole.
"""

from manyshot.recipe.data import FILES, DataSettings, TaskSettings, bytes_of
from manyshot.recipe.finish import (
    ControlsSettings,
    ExportSettings,
    FinishSettings,
    TruthSettings,
)
from manyshot.recipe.moving import ShiftingSettings, TransferSettings
from manyshot.recipe.network import ConvertSettings, NetworkSettings
from manyshot.recipe.recipe import OF_FOLDERS, Recipe
from manyshot.recipe.search import (
    EvaluationSettings,
    LatencySettings,
    RewardSettings,
    SearchSettings,
)
from manyshot.recipe.section import GIVEN, LIBRARIES, Section
from manyshot.recipe.supernet import (
    SamplerSettings,
    SharingSettings,
    ShrinkSettings,
    SnapshotsSettings,
    SupernetSettings,
)
from manyshot.recipe.teacher import DistillationSettings, TeacherSettings
from manyshot.recipe.training import (
    BESIDE_RESULTS,
    OptimiserSettings,
    TrainingSettings,
    check_parts,
    epochs_to_see,
)
from manyshot.toml import RecipeError

__all__ = [
    "BESIDE_RESULTS",
    "FILES",
    "GIVEN",
    "LIBRARIES",
    "OF_FOLDERS",
    "ControlsSettings",
    "ConvertSettings",
    "DataSettings",
    "DistillationSettings",
    "EvaluationSettings",
    "ExportSettings",
    "FinishSettings",
    "LatencySettings",
    "NetworkSettings",
    "OptimiserSettings",
    "Recipe",
    "RecipeError",
    "RewardSettings",
    "SamplerSettings",
    "SearchSettings",
    "Section",
    "SharingSettings",
    "ShiftingSettings",
    "ShrinkSettings",
    "SnapshotsSettings",
    "SupernetSettings",
    "TaskSettings",
    "TeacherSettings",
    "TrainingSettings",
    "TransferSettings",
    "TruthSettings",
    "bytes_of",
    "check_parts",
    "epochs_to_see",
]
