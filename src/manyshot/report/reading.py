"""The records of a run, read for a page."""

from __future__ import annotations

from dataclasses import dataclass

from manyshot.recipe import Recipe
from manyshot.run_folder import (
    CodesLine,
    EnvironmentRecord,
    FinishLine,
    ImagesRecord,
    MixedRecord,
    MovedRanking,
    OptionsLine,
    OrderLine,
    PredictionsRecord,
    Ranking,
    Result,
    RunFolder,
    SearchLine,
    SecondsRecord,
    ShiftingLine,
    ShrinkLine,
    TargetsLine,
    TaskRecord,
    TrainLine,
    WinnerRecord,
)
from manyshot.space import Budget, SearchSpace


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What a run has written so far; lists are empty, and all else is None, where there is nothing.

    Attributes:
        folder: where the run is.
        recipe: what the run does.
        toml: the text of the recipe's file.
        environment: the versions and the machine that it ran with.
        train: how the supernet was trained.
        search: all scores of the search.
        order: the scores of watched architectures.
        views: of the search space that the supernet trained in, if it shrank.
        shifting: the generations that were trained on.
        targets: what a sampler over target costs reported.
        options: what a sampler that mixes options reported.
        mixed: how good the network with mixed options is.
        codes: the codes of paths.
        finished: the finished winners.
        result: the result of a finished run.
        space: what was searched.
        task: what scores are.
        largest: the costs of the largest architecture, by metric.
        images: what is known of the images.
        seconds: how long the parts of the run took.
        predictions: what winners predict of the test images, by architecture; not what they
            predicted of images that they are not tested on any more.
        rankings: how the run ranks against each truth; before its weights moved, too, if known.
        moved: what moving them did to these.
    """

    folder: RunFolder
    recipe: Recipe | None
    toml: str
    environment: EnvironmentRecord | None
    train: list[TrainLine]
    search: list[SearchLine]
    order: list[OrderLine]
    views: list[ShrinkLine]
    shifting: list[ShiftingLine]
    targets: list[TargetsLine]
    options: list[OptionsLine]
    mixed: MixedRecord | None
    codes: list[CodesLine]
    finished: list[FinishLine]
    result: Result | None
    space: SearchSpace | None
    task: TaskRecord | None
    largest: dict[str, float]
    images: ImagesRecord | None
    seconds: SecondsRecord | None
    predictions: dict[str, PredictionsRecord]
    rankings: tuple[Ranking, ...]
    moved: tuple[MovedRanking, ...]

    @classmethod
    def read(cls, folder: RunFolder) -> RunRecords:
        """Reads what is there.

        Raises:
            RecordError: for a damaged record.
            RecipeError: for a damaged recipe.
        """
        has_recipe = folder.recipe_file.exists()
        space = folder.space()
        result = folder.result()
        described = result if space is None else space
        ranks = folder.ranks(before=True)
        rankings = (found for rank in ranks for found in (rank.ranking(), rank.before.ranking()))
        finished = folder.finish_lines()
        told = {line.arch: (line.tested_on, folder.predictions(line.arch)) for line in finished}
        return cls(
            folder=folder,
            recipe=folder.recipe() if has_recipe else None,
            toml=folder.recipe_file.read_text(encoding="utf-8") if has_recipe else "",
            environment=folder.environment(),
            train=folder.train_lines(),
            search=folder.search_lines(),
            order=folder.order_lines(),
            views=folder.shrink_lines(),
            shifting=folder.shifting_lines(),
            targets=folder.targets_lines(),
            options=folder.options_lines(),
            mixed=folder.mixed(),
            codes=folder.codes_lines(),
            finished=finished,
            result=result,
            space=None if space is None else space.search_space(),
            task=None if described is None else described.task,
            largest={} if space is None else space.largest,
            images=None if space is None else space.images,
            seconds=folder.seconds(),
            predictions={
                arch: record
                for arch, (tested_on, record) in told.items()
                if record is not None and record.tested_on == tested_on
            },
            rankings=tuple(ranking for ranking in rankings if ranking is not None),
            moved=tuple(moved for rank in ranks if (moved := rank.moved()) is not None),
        )

    @property
    def name(self) -> str:
        """The name of the run: its recipe says it, else its result, else its folder."""
        if self.recipe is not None:
            return self.recipe.name
        return self.folder.path.resolve().name if self.result is None else self.result.name

    @property
    def winners(self) -> tuple[WinnerRecord, ...]:
        """The winners, one per budget; there are none before the run is finished."""
        return () if self.result is None else self.result.winners

    @property
    def budgets(self) -> list[str]:
        """The budgets of the recipe; without a recipe those of the winners."""
        if self.recipe is not None:
            return list(self.recipe.search.budgets)
        return [winner.budget for winner in self.winners]

    def limit(self, budget: str) -> tuple[str, float] | None:
        """Metric and limit of a budget; None if it has several, or the records do not say."""
        [(metric, limit), *further] = self.limits(budget).items()
        return None if further or limit is None else (metric, limit)

    def limits(self, budget: str) -> dict[str, float | None]:
        """All limits of a budget by metric; None of one that the records do not say.

        A share is of the largest architecture, whose cost must be on record.
        """
        limits: dict[str, float | None] = {}
        for part in Budget.parse_all(budget):
            largest = self.largest.get(part.metric)
            known = largest is not None or not part.relative
            limits[part.metric] = part.absolute(largest or 0.0) if known else None
        return limits
