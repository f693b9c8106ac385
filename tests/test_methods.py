"""The table of methods is current, and cannot be written of a method that lacks something."""

import dataclasses
from pathlib import Path

import pytest

from manyshot.train.samplers import SAMPLERS
from tools import methods

PAGES = methods.pages()
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("path", sorted(PAGES), ids=lambda path: path.name)
def test_it_is_current(path):
    assert path.read_text() == PAGES[path], "run `python -m tools.methods`"


def test_every_plug_in_has_a_row():
    rows = PAGES[methods.PAGE].splitlines()
    for name in SAMPLERS:
        assert sum(row.startswith(f"| sampler | `{name}` |") for row in rows) == 1
    assert len(rows) - 9 >= 15


def test_rows_say_what_is_there():
    """Seen by hand, of one plug-in and of one method that is none."""
    fair = next(m for m in methods.methods() if m.name == "fair")
    assert methods.paper(fair) == "FairNAS (Chu et al. 2021, arXiv:1907.01845)"
    assert methods.reference(fair).endswith("unequal numbers of options are ours.")
    assert methods.recipe(fair) == Path("recipes/methods/fair.toml")
    assert (Path("tests/train/test_train_suites.py"), "TestFair") in methods.suites(fair)
    assert methods.tested(fair)[0] == Path("tests/train/test_train_samplers.py")
    noise = next(m for m in methods.methods() if m.name == "Langevin noise")
    assert methods.recipe(noise) == Path("recipes/methods/langevin_noise.toml")
    assert methods.tested(noise)[0] == Path("tests/train/test_train_snapshots.py")


class Bare:
    """A sampler without a word of whose it is."""


class Vague:
    """A sampler.

    Reference: somebody, some years ago.
    """


def method(**others):
    fair = next(m for m in methods.methods() if m.name == "fair")
    return dataclasses.replace(fair, **others)


@pytest.mark.parametrize(
    ("call", "changed", "words"),
    [
        (methods.reference, {"source": Bare}, "has no paragraph that begins with 'Reference: '"),
        (methods.paper, {"source": Vague}, "begin it with authors, year, and arXiv:NUMBER"),
        (methods.recipe, {"keys": {"sampler.name": "unfair"}}, "no file in recipes/ has"),
        (methods.suites, {"names": frozenset({"Un" + "fair"})}, "that extends SamplerSuite names"),
        (methods.tested, {"names": frozenset({"Un" + "fair"})}, "no test in tests/ names"),
    ],
)
def test_a_method_that_lacks_something_is_an_error(call, changed, words):
    with pytest.raises(ValueError, match=words):
        call(method(**changed))


def test_what_a_helper_names_its_users_name_too(tmp_path, monkeypatch):
    monkeypatch.setattr(methods, "ROOT", tmp_path)
    path = tmp_path / "test_this.py"
    path.write_text(
        "def helper():\n    return Thing(split='gradients')\n\n\n"
        "def test_one(fixed):\n    helper()\n\n\n"
        "def test_two():\n    make_searcher('nsga2', {'codes': 'one_hot'})\n\n\n"
        "def fixed():\n    run('search.name=random', 'train.sgld=0.1')\n\n\n"
        "class TestIt(SearcherSuite):\n    def make_searcher(self):\n        return Other()\n"
    )
    file = methods._test_file(path)
    assert {"Thing", "split=gradients", "search: random", "sgld=0.1"} <= file.tests["test_one"]
    assert {"search: nsga2", "codes=one_hot"} <= file.tests["test_two"]
    assert "Thing" not in file.tests["test_two"] and "Other" not in file.tests["test_two"]
    assert "Other" in file.suites["TestIt"][1]
