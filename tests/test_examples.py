"""Every example runs, and is short. How well it learns in so few epochs is the machine's."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

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
