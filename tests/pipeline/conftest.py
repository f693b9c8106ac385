import pytest
from pipeline_runs import small

from manyshot.pipeline import run


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A finished run, which tests only read: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("base")
    recipe = small(folder)
    return folder, recipe, run(recipe, folder)
