"""A short part of `python -m benchmarks.robustness`, always the same.

Kills are in `tests/pipeline/test_pipeline_resume.py` and its like.
"""

import pytest

from benchmarks.robustness import SECTIONS, faults


@pytest.mark.parametrize(
    ("section", "count"),
    [("inputs", 48), ("flips", 40), pytest.param("starts", 1, marks=pytest.mark.slow)],
)
def test_nothing_is_lost_and_nothing_silently_wrong(section: str, count: int) -> None:
    assert section in SECTIONS
    assert list(faults(section, count, seed=1)) == []
