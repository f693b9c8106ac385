"""Every example runs, and is short. How well it learns in so few epochs is the machine's."""

import ast
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 80


def test_own_network() -> None:
    example = next(path for path in EXAMPLES if path.stem == "own_network")
    arch, test = load(example).main(epochs=1)
    assert len(arch.split("-")) == 5
    assert 0 <= test <= 1


def test_k_shot() -> None:
    example = next(path for path in EXAMPLES if path.stem == "k_shot")
    spread, test = load(example).main(epochs=4)
    assert spread > 0  # codes depend on the path
    assert 0 <= test <= 1


def test_shiftnas() -> None:
    example = next(path for path in EXAMPLES if path.stem == "shiftnas")
    found = load(example).main(epochs=5)
    assert [limit for limit, *_ in found] == [100e3, 200e3, 300e3]
    assert all(cost > 0 and 0 <= test <= 1 for _, cost, test in found)


def test_convert() -> None:
    example = next(path for path in EXAMPLES if path.stem == "convert")
    for accuracy in load(example).main(epochs=1, candidates=30):
        assert 0 <= accuracy <= 1


NOTEBOOKS = sorted((Path(__file__).parents[1] / "examples").glob("*.ipynb"))


def as_a_notebook(cells: list[str]) -> Iterator[tuple[str, str | None]]:
    """Runs the cells one after the other in one namespace; the text and page of the last values."""
    names: dict[str, object] = {"__name__": "cells"}
    for cell in cells:
        tree = ast.parse(cell)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
            draw = getattr(value, "_repr_html_", None)
            yield repr(value), draw and draw()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_run(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert len(cells) > 5 and not any(cell["outputs"] for cell in cells)
    monkeypatch.chdir(tmp_path)
    shown = list(as_a_notebook(["".join(cell["source"]) for cell in cells]))
    assert capsys.readouterr().out == ""
    drawn = [page for _, page in shown if page]
    assert len(drawn) == 4 and all("<table" in page for page in drawn)
    assert (tmp_path / "exported" / "digits.pt2").exists()
    said = re.fullmatch(r"'right on (\d+) of 100 images'", shown[-1][0])
    assert said is not None and int(said[1]) > 20  # guessing is right on 10


def test_there_is_a_notebook() -> None:
    assert NOTEBOOKS
