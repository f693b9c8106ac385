"""The records of a folder, read for a page."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from manyshot import records
from manyshot.space import Arch, Budget, SearchSpace

Record: TypeAlias = dict[str, Any]

RUN = ("result.json", "search.jsonl", "train.jsonl")
"""Any of these makes a folder one of a run."""
RANK = "rank.json"
COMPARE = "compare.json"


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has written so far.

    Attributes:
        folder: the run's.
        recipe: as it was written; empty if there is none.
        toml: its text.
        environment: versions and machine; empty if there is none.
        lines: the records of every `.jsonl` file, by its name without the ending.
        result: of a finished run.
        space: what was searched; None in folders of older versions.
        largest: costs of the largest architecture by metric, if `space.json` has them.
        ranks: the records of `rank/*/rank.json`.
    """

    folder: Path
    recipe: Record
    toml: str
    environment: Record
    lines: dict[str, list[Record]]
    result: Record | None
    space: SearchSpace | None
    largest: dict[str, float]
    ranks: tuple[Record, ...]

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Reads what is there.

        Raises:
            RecordError: for a damaged record.
            ValueError: for a damaged recipe or space.
        """
        path = folder / "recipe.toml"
        toml = path.read_text(encoding="utf-8") if path.exists() else ""
        space = _maybe(folder / "space.json")
        names = ("train", "search", "order", "shifting", "sampler", "finish", "codes")
        return cls(
            folder=folder,
            recipe=tomllib.loads(toml),
            toml=toml,
            environment=_maybe(folder / "environment.json") or {},
            lines={name: records.read_lines(folder / f"{name}.jsonl") for name in names},
            result=_maybe(folder / "result.json"),
            space=None if space is None else SearchSpace.from_dict(space["space"]),
            largest={} if space is None else space.get("largest", {}),
            ranks=tuple(records.read_json(p) for p in sorted(folder.glob(f"rank/*/{RANK}"))),
        )

    @property
    def name(self) -> str:
        """The run's name, by its recipe, else by its folder."""
        known = self.recipe.get("name") or (self.result or {}).get("name")
        return str(known or self.folder.resolve().name)

    def setting(self, *keys: str) -> Any:
        """A value of the recipe, None if it has none."""
        value: Any = self.recipe
        for key in keys:
            value = value.get(key) if isinstance(value, dict) else None
        return value

    @property
    def winners(self) -> list[Record]:
        """One per budget; none before the run is finished."""
        return [] if self.result is None else list(self.result["winners"])

    @property
    def budgets(self) -> list[str]:
        """Of the recipe, else of the winners."""
        known = self.setting("search", "budgets")
        return list(known) if known else [winner["budget"] for winner in self.winners]

    def limit(self, budget: str) -> tuple[str, float] | None:
        """Metric and limit of a budget; None if the records do not say.

        A share is of the largest architecture, whose cost must be on record.
        """
        try:
            parsed = Budget.parse(budget)
        except ValueError:
            return None
        if not parsed.relative:
            return parsed.metric, parsed.limit
        largest = self.largest.get(parsed.metric)
        return None if largest is None else (parsed.metric, parsed.absolute(largest))

    def archs(self, lines: Sequence[Record]) -> list[Arch]:
        """The architectures of records, as tuples."""
        return [tuple(map(int, line["arch"].split("-"))) for line in lines]


def kind_of(folder: Path) -> str:
    """`run`, `rank` or `compare`.

    Raises:
        ValueError: if the folder holds no records.
    """
    if any((folder / name).exists() for name in RUN):
        return "run"
    for kind, name in (("rank", RANK), ("compare", COMPARE)):
        if (folder / name).exists():
            return kind
    raise ValueError(
        f"{folder} holds no records: looked for {', '.join(RUN)} of a run, {RANK} of a rank and "
        f"{COMPARE} of a compare; give the folder that manyshot wrote to"
    )


def _maybe(path: Path) -> Record | None:
    return records.read_json(path) if path.exists() else None
