"""What `import manyshot as ms` offers: sorted, documented, and importable without torch."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import manyshot as ms

PACKAGES = [
    "manyshot",
    *(f"manyshot.{name}" for name in ms.__all__ if inspect.ismodule(getattr(ms, name))),
    "manyshot.pipeline",
]


def by_kind(name: str) -> tuple[int, str]:
    """Constants, classes, the rest: the order that isort and ruff use."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_complete(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert list(module.__all__) in (sorted(module.__all__), sorted(module.__all__, key=by_kind))
    for public in module.__all__:
        assert hasattr(module, public)


@pytest.mark.parametrize("name", PACKAGES)
def test_public_things_are_documented(name: str) -> None:
    module = importlib.import_module(name)
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert inspect.getdoc(thing), f"{name}.{public} has no docstring"


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Supernett'"):
        _ = ms.Supernett


def test_version_is_the_changelogs() -> None:
    changelog = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    newest = next(line for line in changelog.splitlines() if line.startswith("## "))
    assert newest.split()[1] == ms.__version__


@pytest.mark.parametrize(
    "module",
    [
        *("manyshot", "manyshot.space", "manyshot.search", "manyshot.rank"),
        *("manyshot.cli", "manyshot.show"),
    ],
)
def test_torch_is_not_imported(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_begins_without_the_compiler_of_torch():
    """Half a second of imports, which an export or the first cost table may need later."""
    code = "import sys, manyshot.pipeline; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
