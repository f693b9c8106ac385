import functools

import pytest

from manyshot import supernet
from manyshot.pipeline import Workspace, build
from manyshot.space import SearchSpace
from photos import shaded
from pipeline_runs import SHIFT, run, small


@pytest.fixture(scope="module", autouse=True)
def equal_networks_are_measured_once():
    """Costs and shapes of equal networks are the same, and half of the time of a small run.

    That recording costs and comparing shapes do what they should, and touch nothing, is tested
    where they are.
    """
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), remembering in REMEMBERING.items():
            patch.setattr(module, name, remembering)
        yield


def once(measure):
    """Of networks with one text, one space and parameters of one size, `measure` sees the first."""
    seen = {}

    @functools.wraps(measure)
    def remembering(net, *others):
        sizes = [(name, p.shape, p.dtype) for name, p in net.named_parameters()]
        spaces = (x for x in (getattr(net, "space", None), *others) if isinstance(x, SearchSpace))
        shapes = (x for x in others if not isinstance(x, SearchSpace))
        key = (str(net), str(sizes), *(str(s.to_dict()) for s in spaces), *map(tuple, shapes))
        if key not in seen:
            seen[key] = measure(net, *others)
        return seen[key]

    return remembering


REMEMBERING = {
    (module, name): once(getattr(module, name))
    for module, name in (
        (build, "macs_table"),
        (build, "params_table"),
        (supernet, "check_options"),
    )
}


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A finished run, which tests only read: its folder, its recipe and what it returned."""
    folder = tmp_path_factory.mktemp("base")
    recipe = small()
    return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """A folder of dark and light images, which tests only read."""
    return shaded(tmp_path_factory.mktemp("photos") / "grün")


@pytest.fixture
def built_once(monkeypatch):
    """Runs of this test share one supernet, set back to its initial weights: that saves time."""
    build, kept = Workspace.build, {}

    def from_kept(recipe, folder=None):
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
    return folder, recipe, run(recipe, folder)


@pytest.fixture(scope="session")
def ws(shifted):
    """The shifted run's workspace; tests leave its weights alone."""
    return Workspace.build(shifted[1])
