"""The folders of runs, truths, rankings and comparisons: their files, and what these say."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar, final

from manyshot import records
from manyshot.recipe import Recipe
from manyshot.records import Record, RecordError
from manyshot.run_folder import names
from manyshot.run_folder.beginning import (
    EnvironmentRecord,
    LatencyRecord,
    SecondsRecord,
    SpaceRecord,
)
from manyshot.run_folder.comparing import Comparison
from manyshot.run_folder.finishing import FinishLine, PredictionsRecord, Result, WinnerRecord
from manyshot.run_folder.near import why_no_run
from manyshot.run_folder.parts import Count
from manyshot.run_folder.ranking import MovedRanking, Ranking, RankScoreLine, TruthLine
from manyshot.run_folder.searching import OrderLine, SearchLine, ShiftingLine
from manyshot.run_folder.training import (
    CodesLine,
    MixedRecord,
    OptionsLine,
    SamplerLine,
    ShrinkLine,
    TargetsLine,
    TrainLine,
    _has_options,
    _has_targets,
)
from manyshot.space import Budget

_BEGUN = (
    *(names.WEIGHTS, names.SAMPLER, names.TRAINER, names.TRAIN_LOG, names.SEARCH_LOG),
    *(names.ORDER_LOG, names.SHIFTING_LOG, names.SHIFTING_STATE),
    *(names.FINISH_LOG, names.CONTROLS_LOG, names.RESULT),
)
"""Any of these holds work; without, a folder is left from checks that failed."""
_OF_A_RUN = (names.RESULT, names.SEARCH_LOG, names.TRAIN_LOG)
"""Any of these makes a folder one of a run, for its report."""
R = TypeVar("R", bound=Record)


def _maybe(path: Path, kind: type[R]) -> R | None:
    return records.load(path, kind) if path.exists() else None


class Holder(Record):
    """`lock.json`: the process that holds the lock of a folder."""

    doing: str
    pid: Count
    host: str


class _Folder:
    """A folder, by its path."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def recipe_file(self) -> Path:
        """The recipe, with every default filled in."""
        return self.path / names.RECIPE

    @property
    def signature_file(self) -> Path:
        """Whose command wrote the recipe."""
        return self.path / names.SIGNATURE

    @property
    def environment_file(self) -> Path:
        """Where it was made."""
        return self.path / names.ENVIRONMENT

    @property
    def report(self) -> Path:
        """The page that is drawn from the records."""
        return self.path / names.REPORT

    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            RecordError: if there is none.
            RecipeError: if it is damaged.
        """
        if not self.recipe_file.exists():
            raise RecordError(why_no_run(self.path))
        recipe = Recipe.load(self.recipe_file)
        if "schema_version" not in recipe.model_fields_set:  # ours have every key
            raise RecordError(
                f"{self.recipe_file} has no schema, so it is not the recipe that a run wrote: "
                "restore it from a copy, or start the run again in another folder"
            )
        return recipe

    def environment(self) -> EnvironmentRecord | None:
        """Versions and machine; None if they are not on record."""
        return _maybe(self.environment_file, EnvironmentRecord)


@final
class RunFolder(_Folder):
    """The folder of a run: where its files are, and what they say.

    Readers of lines return an empty list, and readers of one record None, if there is no file yet.
    All of them raise `RecordError` for a damaged file.
    """

    @property
    def weights(self) -> Path:
        """The trained supernet."""
        return self.path / names.WEIGHTS

    @property
    def source(self) -> Path:
        """The weights that a transfer begins with."""
        return self.path / names.SOURCE

    @property
    def original(self) -> Path:
        """The weights that were given to the network, as the run began with them."""
        return self.path / names.ORIGINAL

    @property
    def inherited(self) -> Path:
        """The weights of another run that slices began as."""
        return self.path / names.INHERITED

    @property
    def shifted(self) -> Path:
        """The supernet after a search that moved its weights."""
        return self.path / names.SHIFTED

    @property
    def sampler(self) -> Path:
        """What a learnt sampler has learnt."""
        return self.path / names.SAMPLER

    @property
    def shifting_state(self) -> Path:
        """What a search that moves the weights saves after every generation."""
        return self.path / names.SHIFTING_STATE

    @property
    def space_file(self) -> Path:
        """The description of the search space."""
        return self.path / names.SPACE

    @property
    def latency_file(self) -> Path:
        """The latency table."""
        return self.path / names.LATENCY

    @property
    def seconds_file(self) -> Path:
        """How long the parts of the run took."""
        return self.path / names.SECONDS

    @property
    def train_log(self) -> Path:
        """A line every so many steps of the supernet's training."""
        return self.path / names.TRAIN_LOG

    @property
    def sampler_log(self) -> Path:
        """What a learnt sampler reported."""
        return self.path / names.SAMPLER_LOG

    @property
    def shrink_log(self) -> Path:
        """A line per view of the search space that the supernet trained in."""
        return self.path / names.SHRINK_LOG

    @property
    def codes_log(self) -> Path:
        """The codes of paths when training ended."""
        return self.path / names.CODES

    @property
    def mixed_file(self) -> Path:
        """How good the network with mixed options is."""
        return self.path / names.MIXED

    @property
    def search_log(self) -> Path:
        """A line per score of the search."""
        return self.path / names.SEARCH_LOG

    @property
    def order_log(self) -> Path:
        """A line per score of a watched architecture."""
        return self.path / names.ORDER_LOG

    @property
    def shifting_log(self) -> Path:
        """A line per generation that was trained on."""
        return self.path / names.SHIFTING_LOG

    @property
    def finish_log(self) -> Path:
        """A line per finished winner."""
        return self.path / names.FINISH_LOG

    @property
    def controls_log(self) -> Path:
        """A line per finished control."""
        return self.path / names.CONTROLS_LOG

    @property
    def exported_log(self) -> Path:
        """A line per other architecture that was exported."""
        return self.path / names.EXPORTED_LOG

    @property
    def result_file(self) -> Path:
        """The winners, written last."""
        return self.path / names.RESULT

    @property
    def subnets(self) -> Path:
        """The folder of finished networks."""
        return self.path / names.SUBNETS

    def finished_weights(self, arch: str) -> Path:
        """The weights of the finished network of an architecture, so that formats can be added."""
        return self.subnets / f"{arch}.safetensors"

    def predictions_file(self, arch: str) -> Path:
        """What the finished network of an architecture predicts of the test images."""
        return self.subnets / f"{arch}.tested.json"

    @property
    def has_begun(self) -> bool:
        """Whether anything is there that took work."""
        return any((self.path / name).exists() for name in _BEGUN)

    @property
    def has_records(self) -> bool:
        """Whether there is anything to report."""
        return any((self.path / name).exists() for name in _OF_A_RUN)

    def final_weights(self, recipe: Recipe) -> Path:
        """The file of the supernet as the search of a recipe left it.

        Raises:
            RecordError: if the supernet is not trained, or its search moves it and is not done.
        """
        if not self.weights.exists():
            raise RecordError(
                f"{self.path} has no {names.WEIGHTS}: train it first with manyshot train, or "
                f"manyshot run --resume {self.path}"
            )
        if recipe.shifting.name == "none":
            return self.weights
        if not self.shifted.exists():
            raise RecordError(
                f"{self.path} has no {names.SHIFTED}: its search trains the supernet and is not "
                f"done, finish it with manyshot run --resume {self.path}"
            )
        return self.shifted

    def space(self) -> SpaceRecord | None:
        """The search space and the costs of its largest architecture."""
        return _maybe(self.space_file, SpaceRecord)

    def latency(self) -> LatencyRecord | None:
        """The latency table, which there is if a budget is in milliseconds."""
        return _maybe(self.latency_file, LatencyRecord)

    def seconds(self) -> SecondsRecord | None:
        """How long the parts of the run took, as far as it is; None before any ended."""
        return _maybe(self.seconds_file, SecondsRecord)

    def train_lines(self) -> list[TrainLine]:
        """What was recorded of the supernet's training."""
        return records.load_lines(self.train_log, TrainLine)

    def sampler_lines(self) -> list[SamplerLine]:
        """What a learnt sampler reported, of whoever it is."""
        return records.load_lines(self.sampler_log, SamplerLine)

    def targets_lines(self) -> list[TargetsLine]:
        """What a sampler over target costs reported; none of another sampler."""
        return records.load_lines(self.sampler_log, TargetsLine, _has_targets)

    def options_lines(self) -> list[OptionsLine]:
        """What a sampler that mixes options reported; none of another sampler."""
        return records.load_lines(self.sampler_log, OptionsLine, _has_options)

    def mixed(self) -> MixedRecord | None:
        """The score of the network with mixed options; None if none are."""
        return _maybe(self.mixed_file, MixedRecord)

    def shrink_lines(self) -> list[ShrinkLine]:
        """The views of the search space that the supernet trained in, if it shrank."""
        return records.load_lines(self.shrink_log, ShrinkLine)

    def codes_lines(self) -> list[CodesLine]:
        """The codes of paths, which there are with K-shot sharing."""
        return records.load_lines(self.codes_log, CodesLine)

    def search_lines(self) -> list[SearchLine]:
        """All scores of the search, in the order that they were taken in."""
        return records.load_lines(self.search_log, SearchLine)

    def order_lines(self) -> list[OrderLine]:
        """The scores of watched architectures, before and after the weights moved."""
        return records.load_lines(self.order_log, OrderLine)

    def shifting_lines(self) -> list[ShiftingLine]:
        """The generations that were trained on."""
        return records.load_lines(self.shifting_log, ShiftingLine)

    def controls_lines(self) -> list[FinishLine]:
        """The finished controls that are no winners."""
        return records.load_lines(self.controls_log, FinishLine)

    def finish_lines(self) -> list[FinishLine]:
        """The finished winners."""
        return records.load_lines(self.finish_log, FinishLine)

    def exported_lines(self) -> list[FinishLine]:
        """Other architectures that were exported."""
        return records.load_lines(self.exported_log, FinishLine)

    def predictions(self, arch: str) -> PredictionsRecord | None:
        """What a finished network predicts of the test images; None if that is not on record."""
        return _maybe(self.predictions_file(arch), PredictionsRecord)

    def finished_line(self, arch: str) -> FinishLine | None:
        """The record of a winner, a control, or what was exported; None without one."""
        lines = (*self.controls_lines(), *self.exported_lines(), *self.finish_lines())
        return {line.arch: line for line in lines}.get(arch)

    def result(self) -> Result | None:
        """The winners and what was spent; None before the run is finished."""
        return _maybe(self.result_file, Result)

    def outcome(self) -> Result:
        """The winners and what was spent.

        Raises:
            RecordError: if the run is not finished.
        """
        result = self.result()
        if result is None:
            raise RecordError(
                f"{self.path} has no {names.RESULT}: finish it with manyshot run --resume "
                f"{self.path}, or Run.resume()"
            )
        return result

    def winner(self, budget: str) -> WinnerRecord:
        """The winner of a budget.

        Raises:
            KeyError: for a budget that the run was not asked for, however it is spelt; it names
                those it was.
            ValueError: for one that is not understood.
            RecordError: if the run is not finished.
        """
        winners = {winner.budget: winner for winner in self.outcome().winners}
        spelt = Budget.spelt(budget)
        if spelt not in winners:
            have = ", ".join(map(repr, winners))
            raise KeyError(f"budget {budget!r} has no winner in {self.path}, have {have}")
        return winners[spelt]

    def rank(self, truth: str) -> RankFolder:
        """The folder of the ranking against the truth of a name, which need not be there."""
        return RankFolder(self.path / names.RANKS / (truth.replace("/", "-").strip(".") or "truth"))

    def in_ranks(self, name: str) -> list[Path]:
        """The files of a name in the folders of all rankings, finished or not."""
        return sorted(self.path.glob(f"{names.RANKS}/**/{name}"))

    def ranks(self, *, before: bool = False) -> list[RankFolder]:
        """The folders of all finished rankings, by name; or where only that before is."""
        found = {path.parent for path in self.path.glob(f"{names.RANKS}/*/{names.RANKING}")}
        if before:
            inner = self.path.glob(f"{names.RANKS}/*/{names.BEFORE}/{names.RANKING}")
            found |= {path.parents[1] for path in inner}
        return [RankFolder(path) for path in sorted(found)]


@final
class RankFolder(_Folder):
    """The folder of a run's ranking against one truth."""

    @property
    def scores_log(self) -> Path:
        """A line per proxy score."""
        return self.path / names.RANK_SCORES

    @property
    def ranking_file(self) -> Path:
        """The ranking, written last."""
        return self.path / names.RANKING

    @property
    def zero_cost_log(self) -> Path:
        """A line per architecture that was scored without training."""
        return self.path / names.ZERO_COST

    @property
    def before(self) -> RankFolder:
        """The folder of the ranking by the weights before a search moved them."""
        return RankFolder(self.path / names.BEFORE)

    @property
    def moved_file(self) -> Path:
        """What moving the weights did."""
        return self.path / names.MOVED

    def moved(self) -> MovedRanking | None:
        """What moving the weights did; None if that was not asked."""
        return _maybe(self.moved_file, MovedRanking)

    def score_lines(self) -> list[RankScoreLine]:
        """All proxy scores on record."""
        return records.load_lines(self.scores_log, RankScoreLine)

    def ranking(self) -> Ranking | None:
        """The ranking; None if it is not finished."""
        return _maybe(self.ranking_file, Ranking)


@final
class TruthFolder(_Folder):
    """The folder of a truth: architectures trained alone."""

    @property
    def log(self) -> Path:
        """A line per finished training."""
        return self.path / names.TRUTH_LOG

    def lines(self) -> list[TruthLine]:
        """All finished trainings."""
        return truth_lines(self.log)


@final
class CompareFolder(_Folder):
    """The folder of a comparison."""

    @property
    def comparison_file(self) -> Path:
        """The comparison."""
        return self.path / names.COMPARISON

    def comparison(self) -> Comparison | None:
        """The comparison; None if there is none."""
        return _maybe(self.comparison_file, Comparison)


def truth_lines(log: Path) -> list[TruthLine]:
    """The finished trainings in a file like `truth.jsonl`, whatever its name.

    Lines without an `arch` say something about the trainings and are passed over.

    Raises:
        RecordError: if a line is damaged.
    """
    return records.load_lines(log, TruthLine, lambda line: "arch" in line)
