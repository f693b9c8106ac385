"""NSGA-II on the published accuracies of NAS-Bench-Macro: mechanics, with a known optimum."""

import numpy as np
import pytest

import manyshot as ms
from manyshot.search import Limit, make_searcher
from published_tables import rows_of


@pytest.fixture(scope="module")
def published():
    rows = rows_of("nas_bench_macro")
    archs = [tuple(map(int, row["arch"])) for row in rows]
    return {a: (float(r["mean_acc"]), int(r["macs"])) for a, r in zip(archs, rows, strict=True)}


@pytest.mark.parametrize(("share", "best"), [(0.25, 91.940), (0.5, 92.307), (1.0, 93.127)])
def test_nsga2_finds_the_best_network_under_a_cap(published, share, best):
    """Caps at quantiles of MACs over all encodings; at most 1,000 distinct networks are told."""
    space = ms.Supernet(ms.zoo.macro(width=1)).space
    cap = float(np.quantile([macs for _, macs in published.values()], share))
    limit = Limit("macs", lambda archs: [published[arch][1] for arch in archs], cap)
    options = {"population": 40, "mutation_probability": 1 / 8}
    searcher = make_searcher("nsga2", space, seed=0, limits=[limit], options=options)
    told = {}
    for _ in range(25):
        archs = searcher.ask(40)
        told |= {arch: published[arch][0] for arch in archs}
        searcher.tell(archs, [told[arch] for arch in archs], weights_version=0)
    assert all(published[arch][1] <= cap for arch in told)
    assert len(told) <= 1000
    assert max(told.values()) == pytest.approx(best, abs=1e-3)
