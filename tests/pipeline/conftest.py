import pytest

from manyshot.pipeline import Workspace
from measured_once import measured_once
from photos import shaded
from pipeline_runs import SHIFT, run, small


@pytest.fixture(scope="module", autouse=True)
def quick(equal_networks_are_measured_once):
    """All tests of runs are of other things than what a network costs."""


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A finished run, which tests only read: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("base")
    recipe = small()
    with measured_once():
        return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of dark and light images, which tests only read."""
    return shaded(tmp_path_factory.mktemp("photos") / "grün")


@pytest.fixture
def built_once(monkeypatch):
    """Runs of this test share one supernet, set back to its initial weights: that saves time."""
    build, kept = Workspace.build, {}

    def from_kept(recipe, folder=None, world=None):
        if recipe not in kept.values():
            ws = build(recipe)
            kept["state"] = {n: t.clone() for n, t in ws.net.state_dict().items()}
            kept["ws"], kept["recipe"] = ws, recipe
        kept["ws"].net.load_state_dict(kept["state"])
        kept["ws"].net.train()
        return kept["ws"]

    monkeypatch.setattr(Workspace, "build", from_kept)


@pytest.fixture(scope="session")
def shifted(tmp_path_factory):
    """A finished run whose supernet shifted, which tests only read."""
    folder = tmp_path_factory.mktemp("shifted")
    recipe = small(*SHIFT)
    with measured_once():
        return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="session")
def ws(shifted):
    """The shifted run's workspace; tests leave its weights alone."""
    return Workspace.build(shifted[1])
