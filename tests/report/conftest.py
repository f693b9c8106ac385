"""Real records to draw pages of; tests read them, or edit copies."""

import pytest
from report_folders import read_json


@pytest.fixture(scope="session")
def ranking(compared_runs):
    """The record of a run ranked against a truth, with all predictors."""
    return read_json(compared_runs[0] / "rank" / "made" / "rank.json")


@pytest.fixture(scope="session")
def comparison(compared_runs, tmp_path_factory):
    """The record of two methods compared."""
    from pipeline_runs import compare_runs

    folder = tmp_path_factory.mktemp("comparison")
    compare_runs(compared_runs, folder)
    return read_json(folder / "compare.json")
