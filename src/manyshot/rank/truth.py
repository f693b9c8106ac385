"""Stand-alone scores of architectures: of a table somebody published, or of own trainings.

N counts architectures, R runs: trainings of one architecture that differ in their seed alone.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, final

import numpy as np
import numpy.typing as npt

from manyshot.plugins import shown
from manyshot.rank.correlation import tied
from manyshot.run_folder import ACCURACY, TRUTH_LOG, MetricRecord, TruthFolder, truth_lines
from manyshot.space import Arch

COSTS = ("macs", "params", "latency_ms")
_COLUMNS = {
    "accuracy": ACCURACY,
    "score": MetricRecord(name="score", higher_is_better=True, share=False),
    "error": MetricRecord(name="error", higher_is_better=False, share=False),
}
"""How the names of runs begin in a CSV file, and what they are values of."""
LOSS = MetricRecord(name="loss", higher_is_better=False, share=False)
"""The mean test loss, which every training has on record beside its score."""
By = Literal["score", "loss"]
_MOST = 1e18


class TruthError(ValueError):
    """A truth table cannot be used; the message says where and why."""


@final
@dataclass(frozen=True, eq=False)
class TruthTable:
    """Stand-alone scores.

    Attributes:
        name: how people call it.
        archs: distinct architectures, N of them.
        runs: the names of the runs, R of them.
        scores_NR: the test score of every run; nan where there was none.
        costs: other columns of numbers by name, such as `macs`, (N,) each; may be empty.
        source: where it comes from, for people.
        images: of which images (see `DataSettings.described`); empty if that is not known.
        metric: what the scores are values of.

    Raises:
        TruthError: for no architecture, one given twice, one without any run, shapes that disagree,
            or a share outside [0, 1].
    """

    name: str
    archs: tuple[Arch, ...]
    runs: tuple[str, ...]
    scores_NR: npt.NDArray[np.float64]
    costs: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    source: str = ""
    images: str = ""
    metric: MetricRecord = ACCURACY

    def __post_init__(self) -> None:
        shape, expected = self.scores_NR.shape, (len(self.archs), len(self.runs))
        if shape != expected or any(len(c) != len(self.archs) for c in self.costs.values()):
            raise TruthError(
                f"truth {self.name!r} has scores of shape {shape} and costs "
                f"{ {k: len(c) for k, c in self.costs.items()} } for {expected} architectures, runs"
            )
        if not self.archs:
            raise TruthError(f"truth {self.name!r} holds no architecture")
        if len(set(self.archs)) < len(self.archs):
            twice = next(a for i, a in enumerate(self.archs) if a in self.archs[:i])
            raise TruthError(f"truth {self.name!r} has architecture {text_of(twice)} twice")
        trained_NR = ~np.isnan(self.scores_NR)
        if not trained_NR.any(1).all():
            empty = self.archs[int(np.argmin(trained_NR.any(1)))]
            raise TruthError(f"truth {self.name!r} has no score of architecture {text_of(empty)}")
        values = self.scores_NR[trained_NR]
        if self.metric.share and not ((values >= 0) & (values <= 1)).all():
            raise TruthError(
                f"truth {self.name!r} has values of {self.metric.name} from {values.min():g} to "
                f"{values.max():g}; they are shares in [0, 1]"
            )

    def __len__(self) -> int:
        return len(self.archs)

    @property
    def scores_N(self) -> npt.NDArray[np.float64]:
        """The mean score over the runs that an architecture has; equal means are equal numbers."""
        return tied(np.asarray(np.nanmean(self.scores_NR, axis=1)))

    @property
    def fitness_NR(self) -> npt.NDArray[np.float64]:
        """The scores, with their sign turned where lower is better: the highest is the best."""
        return self.scores_NR if self.metric.higher_is_better else -self.scores_NR

    @property
    def fitness_N(self) -> npt.NDArray[np.float64]:
        """Likewise the mean scores."""
        return self.scores_N if self.metric.higher_is_better else -self.scores_N

    @property
    def run_sd(self) -> float | None:
        """The standard deviation of a run about its architecture's mean, pooled over architectures.

        It is the square root of the mean of the unbiased variances, weighed by their degrees of
        freedom; None if no architecture has two runs.
        """
        count_N = np.count_nonzero(~np.isnan(self.scores_NR), axis=1)
        freedom = int((count_N - 1).sum())
        if not freedom:
            return None
        off = self.scores_NR - self.scores_N[:, None]
        return math.sqrt(float(np.nansum(off**2)) / freedom)

    @property
    def errors_N(self) -> npt.NDArray[np.float64] | None:
        """The standard error of `scores_N` by the seed: `run_sd` over the root of the runs."""
        sd = self.run_sd
        if sd is None:
            return None
        return np.asarray(sd / np.sqrt(np.count_nonzero(~np.isnan(self.scores_NR), axis=1)))

    @property
    def complete(self) -> npt.NDArray[np.bool_]:
        """Which runs have every architecture, (R,)."""
        return np.asarray(~np.isnan(self.scores_NR).any(axis=0))

    @property
    def even(self) -> Self:
        """The table of the runs that all architectures have; the table itself if there is none.

        Means over unequal runs are not comparable: where the best by one run were trained again,
        their luck averages out and that of those just below does not.
        """
        complete_R = self.complete
        if not complete_R.any() or complete_R.all():
            return self
        return dataclasses.replace(
            self,
            runs=tuple(r for r, own in zip(self.runs, complete_R, strict=True) if own),
            scores_NR=self.scores_NR[:, complete_R],
        )

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify architectures, runs and scores."""
        contents = [self.archs, self.runs, self.scores_NR.tolist()]
        return hashlib.sha256(json.dumps(contents).encode()).hexdigest()[:16]

    def subset(self, rows: Iterable[int], name: str | None = None) -> Self:
        """The table of some rows, in their order."""
        chosen = list(rows)
        return dataclasses.replace(
            self,
            name=self.name if name is None else name,
            archs=tuple(self.archs[i] for i in chosen),
            scores_NR=self.scores_NR[chosen],
            costs={key: column[chosen] for key, column in self.costs.items()},
        )

    def without_run(self, run: int) -> Self:
        """The table without one run, of the architectures that have another.

        It is for choosing the local set: the best by the run left out (see `FrozenSet.top`) are
        judged by the others, so that no seed's luck both chooses and judges.
        """
        rest = np.delete(self.scores_NR, run, axis=1)
        rows = np.flatnonzero(~np.isnan(rest).all(axis=1))
        return dataclasses.replace(
            self,
            archs=tuple(self.archs[i] for i in rows),
            runs=tuple(r for i, r in enumerate(self.runs) if i != run),
            scores_NR=rest[rows],
            costs={key: column[rows] for key, column in self.costs.items()},
        )


def text_of(arch: Arch) -> str:
    """The text form of an architecture: `(0, 2, 1)` becomes `"0-2-1"`."""
    return "-".join(map(str, arch))


def arch_of(text: str, where: str) -> Arch:
    """The architecture of a text such as `"0-2-1"`; errors say `where` it is from."""
    parts = text.strip().split("-")
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise TruthError(f"{where}: architecture {text!r} is not of the form '0-2-1'")
    return tuple(map(int, parts))


def of_records(path: Path, name: str = "", source: str = "", *, by: By = "score") -> TruthTable:
    """The table of finished trainings.

    Lines without an `arch` say something about the trainings and are passed over.

    Args:
        path: a `truth.jsonl`, or the folder that holds it.
        name: how people call the table; by default the name of the folder or the file.
        source: where it comes from, for people; by default the number of trainings and the file.
        by: what trainings are judged by; the name of a table by loss ends with `-loss`.

    Raises:
        TruthError: if there is no training, one is there twice, or they are scored by several
            metrics.
        RecordError: if the file cannot be read.
        RecipeError: if the recipe beside it is damaged.
    """
    log = path / TRUTH_LOG if path.is_dir() else path
    lines = truth_lines(log)
    if not lines:
        raise TruthError(f"{log} holds no finished training; make them with manyshot truth")
    metric = lines[0].metric
    scores: dict[Arch, dict[int, float]] = {}
    costs: dict[Arch, dict[str, float]] = {}
    for line in lines:
        arch = arch_of(line.arch, str(log))
        runs = scores.setdefault(arch, {})
        if line.metric != metric:
            raise TruthError(
                f"{log} has scores by {metric.name!r} and by {line.metric.name!r}: keep those of "
                "one metric"
            )
        if line.seed in runs:
            raise TruthError(f"{log} has architecture {line.arch} with seed {line.seed} twice")
        value = line.test_score if by == "score" else line.test_loss
        if value is None:
            raise TruthError(f"{log} has no test loss of architecture {line.arch}: take the scores")
        runs[line.seed] = value
        costs[arch] = {key: getattr(line, key) for key in COSTS if getattr(line, key) is not None}
    seeds = sorted({seed for runs in scores.values() for seed in runs})
    archs = tuple(sorted(scores))
    folder = TruthFolder(log.parent)
    known = log.name == TRUTH_LOG and folder.recipe_file.exists()
    shared = [key for key in COSTS if all(key in costs[arch] for arch in archs)]
    name = name or (log.parent.name if log.name == TRUTH_LOG else log.stem)
    return TruthTable(
        name if by == "score" else f"{name}-loss",
        archs,
        tuple(f"seed {seed}" for seed in seeds),
        np.array([[scores[arch].get(seed, math.nan) for seed in seeds] for arch in archs]),
        {key: np.array([costs[arch][key] for arch in archs], np.float64) for key in shared},
        source or f"{len(lines)} trainings in {log.name}",
        folder.recipe().data.described if known else "",
        metric if by == "score" else LOSS,
    )


def of_csv(path: Path) -> TruthTable:
    """The table of a CSV file with a header.

    There is a row per architecture. The columns are `arch` (as `0-2-1`); runs whose names begin
    with `accuracy`, as shares in [0, 1], with `accuracy_percent`, with `score`, any number where
    higher is better, or with `error`, any number where lower is better (an empty field where there
    was none; all runs are of one metric); and, if there are any, `macs`, `params`, `latency_ms`.

    Raises:
        TruthError: if it cannot be used; the message names the line, the column and what is
            allowed.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            runs = _check_header(path, header)
            rows = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise TruthError(f"{path} is no CSV file in UTF-8: {error}; save it as one") from error
    archs: list[Arch] = []
    scores: list[list[float]] = []
    metric = next(metric for name, metric in _COLUMNS.items() if runs[0].startswith(name))
    costs: dict[str, list[float]] = {name: [] for name in header if name in COSTS}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise TruthError(f"{where} has {len(row)} fields; the header has {len(header)}")
        fields = dict(zip(header, row, strict=True))
        archs.append(arch_of(fields["arch"], where))
        scores.append([_score(fields[name], f"{where}, {name}", name, metric) for name in runs])
        for name, column in costs.items():
            column.append(_cost(fields[name], f"{where}, {name}"))
    if not archs:
        raise TruthError(f"{path} holds no architecture below its header")
    return TruthTable(
        path.stem,
        tuple(archs),
        tuple(runs),
        np.array(scores, np.float64),
        {name: np.array(column) for name, column in costs.items()},
        path.name,
        metric=metric,
    )


def _check_header(path: Path, header: Sequence[str]) -> list[str]:
    """The names of the runs among the columns."""
    runs = [name for name in header if name.startswith(tuple(_COLUMNS))]
    allowed = "arch, accuracy..., accuracy_percent..., score..., error..., macs, params, latency_ms"
    other = [name for name in header if name not in (*runs, "arch", *COSTS)]
    if other or len(set(header)) < len(header):
        raise TruthError(f"{path} has columns {header}; allowed are, once each, {allowed}")
    if "arch" not in header or not runs:
        raise TruthError(
            f"{path} needs the columns arch and accuracy (or score, or error); it has "
            f"{', '.join(header) or 'none'}"
        )
    kinds = [name for name in _COLUMNS if any(run.startswith(name) for run in runs)]
    if len(kinds) > 1:
        raise TruthError(
            f"{path} has runs of several metrics ({', '.join(kinds)}): keep those of one"
        )
    return runs


def _number(text: str, where: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TruthError(f"{where}: {shown(text)} is not a finite number")
    return number


def _cost(text: str, where: str) -> float:
    cost = _number(text, where)
    if not 0 <= cost < _MOST:
        raise TruthError(f"{where}: {text} is no cost, which is at least 0 and below {_MOST:g}")
    return cost


def _score(text: str, where: str, name: str, metric: MetricRecord) -> float:
    if not text.strip():
        return math.nan
    if not metric.share:
        return _number(text, where)
    percent = name.startswith("accuracy_percent")
    number = _number(text, where)
    most = 100 if percent else 1
    if not 0 <= number <= most:
        way_out = "" if percent else "; call a column of percents accuracy_percent"
        raise TruthError(f"{where}: {text} is not in [0, {most}]{way_out}")
    return number / most
