"""Rankings in less than a second: intervals of few draws, and no set is judged twice.

What the intervals are, and that they depend on a set and its scores alone, is tested in tests/rank.
"""

import contextlib
import functools
import importlib
import pickle
from collections.abc import Iterator

import pytest

statistics = importlib.import_module("manyshot.rank.statistics")
rank = importlib.import_module("manyshot.pipeline.verbs.rank")


def once(judge):
    """Of equal sets with equal scores, to the last bit, `judge` sees the first."""
    seen = {}

    @functools.wraps(judge)
    def remembering(ranked, predictors):
        key = pickle.dumps((ranked, [(name, dict(by)) for name, by in predictors.items()]))
        if key not in seen:
            seen[key] = judge(ranked, predictors)
        return seen[key]

    return remembering


JUDGED = once(rank.rank_set)


@contextlib.contextmanager
def few_draws() -> Iterator[None]:
    """Bootstraps of 10 draws in the block, as they take most of a ranking's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "DRAWS", 10)
        patch.setattr(statistics, "CEILING_DRAWS", 10)
        patch.setattr(rank, "rank_set", JUDGED)
        yield
