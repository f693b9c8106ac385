"""The published tables that come with the package: their facts, and their spaces.

Facts are those of the tables' description, found with the standard library and scipy alone.
"""

import collections
import gzip
import hashlib
import itertools

import numpy as np
import pytest
from scipy import stats

import manyshot as ms
from manyshot import rank
from manyshot.rank.published import (
    ACCURACIES,
    PUBLISHED,
    SPACES,
    columns,
    load_truth,
    nas_bench_201,
    nas_bench_201_space,
    nas_bench_macro,
    nas_bench_macro_space,
)
from manyshot.rank.truth import TruthError
from published_tables import TABLES, rows_of

DIGESTS = {
    "nas_bench_macro": "48765b4e1c404e39e1e8f8dfb654a723436030bde201b5b10c7fdf8fcb2cf0b6",
    "nas_bench_201": "82d29e6a2d67582a203e53b19681f88a437f9e66a3973cba8ab31502e8521d86",
    "nas_bench_201_latency": "925e932d72c3d3b0efa521a5af1654c0cccf068742a684d7800dd7a669e0f5af",
}
"""SHA-256 of the unpacked files."""


@pytest.fixture(scope="module")
def cells() -> list[dict[str, str]]:
    return rows_of("nas_bench_201")


def numbers(rows: list[dict[str, str]], column: str) -> np.ndarray:
    return np.array([float(row[column]) for row in rows])


# -- the files -----------------------------------------------------------------------------


@pytest.mark.parametrize("file", DIGESTS)
def test_the_files_are_the_sources(file: str) -> None:
    """Bit for bit what was converted and described; the facts below were found on that."""
    with gzip.open(TABLES / f"{file}.csv.gz") as opened:
        assert hashlib.sha256(opened.read()).hexdigest() == DIGESTS[file]


def test_every_file_has_its_licence_and_source() -> None:
    about = (TABLES / "README.md").read_text()
    licences = [f.name for f in TABLES.iterdir() if f.name.startswith("LICENSE")]
    assert len(licences) == 5
    for name in (*licences, *(f"{file}.csv.gz" for file in DIGESTS)):
        assert name in about
    for name in licences:
        text = (TABLES / name).read_text()
        assert "Permission is hereby granted" in text or "END OF TERMS AND CONDITIONS" in text
        assert "opyright" in text


@pytest.mark.parametrize("file", DIGESTS)
def test_columns_are_the_files(file: str) -> None:
    found, rows = columns(file), rows_of(file)
    assert list(found) == list(rows[0])
    for name, column in found.items():
        assert column.tolist() == numbers(rows, name).tolist()
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


# -- NAS-Bench-Macro -----------------------------------------------------------------------


def test_macro_has_every_network_once() -> None:
    truth, space = nas_bench_macro(), nas_bench_macro_space()
    assert sorted(truth.archs) == sorted({space.canonical(a) for a in space.enumerate()})
    assert len(truth) == 3969 and truth.complete.all()


def test_macro_is_the_rows_of_the_file() -> None:
    truth = nas_bench_macro()
    by_arch = {row["arch"]: row for row in rows_of("nas_bench_macro")}
    for i, arch in enumerate(truth.archs):
        row = by_arch["".join(map(str, arch))]
        assert row["canonical"] == row["arch"]
        runs = [float(row[f"acc_{run}"]) / 100 for run in (1, 2, 3)]
        assert truth.scores_NR[i].tolist() == pytest.approx(runs, abs=1e-12)
        assert (truth.costs["macs"][i], truth.costs["params"][i]) == (
            int(row["macs"]),
            int(row["params"]),
        )


def test_macro_correlations() -> None:
    truth = nas_bench_macro()
    accuracy, macs, params = truth.scores_N, truth.costs["macs"], truth.costs["params"]
    assert rank.kendall(macs, accuracy) == pytest.approx(0.546, abs=5e-4)
    assert rank.spearman(macs, accuracy) == pytest.approx(0.738, abs=5e-4)
    assert stats.pearsonr(macs, accuracy)[0] == pytest.approx(0.651, abs=5e-4)
    assert rank.kendall(params, accuracy) == pytest.approx(0.215, abs=6e-4)
    assert rank.spearman(params, accuracy) == pytest.approx(0.315, abs=5e-4)


def test_macro_noise() -> None:
    """Run to run, over everything and among the best tenth, by the mean of all runs."""
    truth = nas_bench_macro()
    assert rank.run_to_run(truth.scores_NR) == pytest.approx(0.88, abs=0.005)
    one, two, three = truth.scores_NR.T
    against_mean = [
        rank.kendall(a, (b + c) / 2)
        for a, b, c in ((one, two, three), (two, one, three), (three, one, two))
    ]
    assert np.mean(against_mean) == pytest.approx(0.895, abs=5e-3)
    top = truth.scores_NR[np.argsort(-truth.scores_N)[:396]]
    taus = [rank.kendall(top[:, i], top[:, j]) for i, j in itertools.combinations(range(3), 2)]
    assert min(taus) > 0.155 and max(taus) < 0.205


@pytest.mark.parametrize(
    ("budget", "best", "arch"),
    [
        (np.inf, 93.127, "22212202"),
        (30e6, 89.38, "10101100"),
        (40e6, 91.51, None),
        (50e6, 92.17, "21201200"),
        (60e6, 92.57, "21202200"),
        (80e6, 93.08, "22222200"),
    ],
)
def test_macro_best_within_budgets(budget: float, best: float, arch: str | None) -> None:
    """The best network of the description is an alias of the representative found."""
    truth, space = nas_bench_macro(), nas_bench_macro_space()
    accuracy = np.where(truth.costs["macs"] <= budget, truth.scores_N, 0)
    found = int(accuracy.argmax())
    assert 100 * accuracy[found] == pytest.approx(best, abs=6e-3)
    if arch:
        assert truth.archs[found] == space.canonical(tuple(map(int, arch)))


# -- NAS-Bench-201 -------------------------------------------------------------------------


def has_path(cell: str) -> bool:
    """From node 0 to node 3, by a walk over nodes."""
    edges = dict(zip(((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)), map(int, cell), strict=True))
    reached = {0}
    for into in (1, 2, 3):
        if any(edges[start, into] for start in reached if start < into):
            reached.add(into)
    return 3 in reached


def test_cells_have_the_closed_formulas(cells: list[dict[str, str]]) -> None:
    for row in cells:
        n1, n3 = row["arch"].count("2"), row["arch"].count("3")
        assert int(row["params"]) == 73_306 + 28_000 * n1 + 243_040 * n3
        assert int(row["macs"]) == 7_783_050 + 3_932_160 * n1 + 35_389_440 * n3


def test_disconnected_cells_are_those_at_chance(cells: list[dict[str, str]]) -> None:
    disconnected = [row for row in cells if not has_path(row["arch"])]
    assert len(disconnected) == 341
    assert [row for row in cells if row["connected"] == "0"] == disconnected
    assert [row for row in cells if float(row["c10_test_12ep"]) == 10] == disconnected


def test_201_has_every_connected_canonical_cell(cells: list[dict[str, str]]) -> None:
    space = nas_bench_201_space()
    canonical = {space.canonical(arch) for arch in space.enumerate()}
    connected = {arch for arch in canonical if has_path("".join(map(str, arch)))}
    assert len(canonical) == 9445 and canonical - connected == {(0,) * 6}
    assert set(nas_bench_201().archs) == connected
    everything = nas_bench_201("cifar10_test", connected=False)
    assert set(everything.archs) == canonical
    assert everything.scores_N.min() == pytest.approx(0.1)


@pytest.mark.parametrize("name", [n for n in PUBLISHED if n != "nas_bench_macro"])
def test_201_is_the_rows_of_the_files(name: str, cells: list[dict[str, str]]) -> None:
    truth = PUBLISHED[name]()
    assert truth.name == name
    column = ACCURACIES[name.removeprefix("nas_bench_201").removeprefix("_") or "cifar10_test"]
    by_arch = {row["arch"]: row for row in cells}
    rows = [by_arch["".join(map(str, arch))] for arch in truth.archs]
    assert truth.runs == (column,)
    assert 100 * truth.scores_N == pytest.approx(numbers(rows, column), abs=1e-9)
    for cost in ("macs", "live_macs", "params"):
        assert truth.costs[cost].tolist() == numbers(rows, cost).tolist()
    assert truth.costs["live_macs"].tolist() == truth.costs["macs"].tolist()
    latency = columns("nas_bench_201_latency")
    at = numbers(rows, "index").astype(int)
    devices = [cost.partition("/")[2] for cost in truth.costs if cost.startswith("latency_ms/")]
    assert len(devices) == 27
    assert latency["index"].tolist() == list(range(15_625))
    for device in devices:
        assert truth.costs[f"latency_ms/{device}"].tolist() == latency[device][at].tolist()


def test_201_names() -> None:
    with pytest.raises(TruthError, match="no 'cifar10'; have cifar10_test, cifar10_validation"):
        nas_bench_201("cifar10")
    assert load_truth("nas_bench_201_cifar100_test").runs == ("c100_test_12ep",)
    assert 100 * nas_bench_201().scores_N.max() == pytest.approx(89.16, abs=5e-3)


def test_how_well_live_macs_order_12_epochs(cells: list[dict[str, str]]) -> None:
    """Over the 15,284 connected cells, and over their 9,444 representatives."""
    connected = [row for row in cells if row["connected"] == "1"]
    macs = numbers(connected, "live_macs")
    expected = {
        "c10_val_12ep": (0.292, 0.411),
        "c10_test_12ep": (0.390, 0.537),
        "c100_val_12ep": (0.352, 0.492),
        "c100_test_12ep": (0.353, 0.494),
        "in16_val_12ep": (0.335, 0.463),
        "in16_test_12ep": (0.329, 0.453),
    }
    for column, (tau, rho) in expected.items():
        accuracy = numbers(connected, column)
        assert rank.kendall(macs, accuracy) == pytest.approx(tau, abs=6e-4)
        assert rank.spearman(macs, accuracy) == pytest.approx(rho, abs=6e-4)
    truth = nas_bench_201()
    tau = rank.kendall(truth.costs["live_macs"], truth.scores_N)
    assert tau == pytest.approx(0.400, abs=6e-4)


def test_how_far_trainings_of_one_function_are_apart(cells: list[dict[str, str]]) -> None:
    """The first two by index, whose order is a shuffle; the deviation is over all."""
    functions = collections.defaultdict(list)
    for row in cells:
        if row["connected"] == "1":
            functions[row["iso_id"]].append(float(row["c10_test_12ep"]))
    several = [f for f in functions.values() if len(f) > 1]
    assert (len(functions), len(several)) == (4929, 1205)
    first, second = np.array([f[:2] for f in several]).T
    assert rank.kendall(first, second) == pytest.approx(0.914, abs=6e-4)
    squares = sum(len(f) * np.var(f) for f in several)
    deviation = np.sqrt(squares / sum(len(f) - 1 for f in several))
    assert deviation == pytest.approx(0.710, abs=6e-4)


# -- spaces --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("space", "network"),
    [(nas_bench_macro_space, ms.zoo.macro), (nas_bench_201_space, ms.zoo.cell)],
)
def test_spaces_are_those_of_the_networks(space, network) -> None:
    assert space().to_dict() == ms.Supernet(network()).space.to_dict()


def test_every_table_is_of_its_space() -> None:
    assert list(SPACES) == list(PUBLISHED)
    for name, make in SPACES.items():
        space = make()
        assert all(space.canonical(arch) == arch for arch in PUBLISHED[name]().archs[::97])
