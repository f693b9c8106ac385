"""What CONTRIBUTING.md shows, runs."""

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_there_is_a_block_for_every_part() -> None:
    assert (
        len(BLOCKS) == 6
    )  # a sampler, a shrinker, a task, a sharing scheme, a searcher, a network


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_run(block: str) -> None:
    """The parts are made; their suites are classes that pytest would collect elsewhere."""
    exec(compile(block, "CONTRIBUTING.md", "exec"), {"__name__": "contributing"})
