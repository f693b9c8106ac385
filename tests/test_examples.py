"""Every example runs, and is short."""

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


def test_own_network_learns() -> None:
    example = next(path for path in EXAMPLES if path.stem == "own_network")
    arch, test = load(example).main(epochs=5)
    assert len(arch.split("-")) == 5
    assert test > 0.3  # ten classes: chance is 0.1


def test_k_shot_learns_codes_and_weights() -> None:
    example = next(path for path in EXAMPLES if path.stem == "k_shot")
    spread, test = load(example).main(epochs=16)
    assert spread > 1e-3  # codes depend on the path
    assert test > 0.2  # ten classes: chance is 0.1


def test_shiftnas_generates_networks_by_cost() -> None:
    example = next(path for path in EXAMPLES if path.stem == "shiftnas")
    found = load(example).main(epochs=12)
    costs = [cost for _, cost, _ in found]
    assert costs == sorted(costs)  # a larger limit gives a larger network
    assert max(test for _, _, test in found) > 0.2  # ten classes: chance is 0.1
