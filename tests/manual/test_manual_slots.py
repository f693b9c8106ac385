"""What fills the slots of a recipe, and what is said of its options: all of it, and the truth."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from manyshot import cli
from manyshot.manual.keys import keys
from manyshot.manual.options import Option, described
from manyshot.manual.slots import SLOTS, slot_of
from manyshot.plugins import build
from manyshot.shipped import shipped_recipes
from manyshot.toml import read

ALL = [(one.section, plugin) for one in SLOTS for plugin in one.plugins()]


@pytest.fixture
def call(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(list(arguments))
        out = capsys.readouterr()
        return left.value.code, out.out, out.err

    return run


def test_slots_are_the_sections_that_name_a_plug_in_and_its_options():
    by_section: dict[str, set[str]] = {}
    for key in keys():
        by_section.setdefault(key.section, set()).add(key.key)
    filled = {name for name, have in by_section.items() if {"name", "options"} <= have}
    # Data are a function of one's own or a name without options, and a teacher is a network.
    assert {one.section for one in SLOTS} == filled - {"data", "teacher"}


@pytest.mark.parametrize(
    ("section", "plugin"), ALL, ids=[f"{section}-{plugin.name}" for section, plugin in ALL]
)
def test_every_option_of_ours_has_a_type_and_words(section: str, plugin: Any) -> None:
    assert plugin.summary.endswith(".") and plugin.about.startswith(plugin.summary)
    for option in plugin.options:
        assert option.type and option.words, option
        assert option.default != "needed" or (section, plugin.name) == ("shrink", "progressive")


def test_every_option_that_a_recipe_sets_is_listed() -> None:
    listed = {(section, plugin.name): {o.name for o in plugin.options} for section, plugin in ALL}
    used = 0
    for recipe in shipped_recipes():
        values = read(recipe.path)
        for section in ("network", "sharing", "sampler", "shrink", "search"):
            part = values.get(section, {})
            if (section, part.get("name")) in listed:
                assert set(part.get("options", {})) <= listed[section, part["name"]], recipe.name
                used += len(part.get("options", {}))
    assert used > 50


def test_what_is_said_of_some() -> None:
    paths = Option("paths", "whole number >= 1", "1", "architectures per step; SPOS has one.")
    assert slot_of("sampler").plugin("uniform").options == (paths,)
    [keep, attempts] = slot_of("search").plugin("random").options
    assert keep.default == "10" and attempts.words.startswith("Random draws per network")
    inherited = slot_of("search").plugin("regularised_evolution").options
    assert [o for o in inherited if o.name == "population"] == [
        Option(
            "population", "whole number >= 1", "20",
            "Architectures per generation; so many random ones come first.",
        )
    ]  # fmt: skip
    assert slot_of("searcher") is slot_of("search")


@dataclass
class Wishes:
    """Options.

    Attributes:
        many: how many,
            or none.
    """

    many: int
    where: Literal["here", "there"] = "here"
    """The place."""


class Mine:
    """A sampler of mine.

    Args:
        rates (list): of learning.
    """

    def __init__(
        self,
        space: object,
        costs: object,
        rates: Sequence[Annotated[float, Field(gt=0)]] = (),
        untold=None,
    ) -> None: ...


def mine(space: object, options: Wishes | None = None) -> None: ...


def test_plug_ins_of_a_user_are_described_alike(call) -> None:
    assert described("mine", mine, ("space",)).options == (
        Option("many", "whole number", "needed", "how many, or none."),
        Option("where", '"here", "there"', '"here"', "The place."),
    )
    code, out, _ = call("options", "sampler", f"{__name__}:Mine", "--json")
    told = json.loads(out)
    assert code == 0 and told["about"] == "A sampler of mine."
    assert told["options"] == [
        {"name": "rates", "type": "list of numbers > 0", "default": "[]", "words": "of learning."},
        {"name": "untold", "type": "", "default": "", "words": ""},
    ]


@dataclass
class Written:
    """Options."""

    told: "Sequence"
    unknown: "int | sys.never" = 0  # type: ignore  # noqa: F821
    derived: int = field(default=0, init=False)


class Strange:
    """A searcher.

    Args:
      many: how many,
        or none.
    """

    def __init__(
        self,
        space: object,
        many: tuple[Wishes, ...] = (),
        *rest: int,
        later: "Decimal | None" = None,  # type: ignore  # noqa: F821
        **more: int,
    ) -> None: ...


class Broken:
    def __init__(self, cost: "not a type" = 1) -> None: ...  # type: ignore  # noqa: F722


@dataclass
class Whole:
    space: object
    rates: list[float] = field(default_factory=list)
    """Of learning."""


def strange(space: object, options: Written | None = None) -> None: ...


def test_what_cannot_be_looked_up_is_told_as_it_is_written() -> None:
    """Annotations that mean nothing at run time, bare ones, and what is no option."""
    assert described("strange", strange, ("space",)).options == (
        Option("told", "Sequence", "needed", ""),
        Option("unknown", "int | sys.never", "0", ""),
    )
    assert described("Strange", Strange, ("space",)).options == (
        Option("many", "tuple[Wishes, ...]", "[]", "how many, or none."),
        Option("later", "Decimal | None", "", ""),
    )
    assert described("Broken", Broken, ()).options == (Option("cost", "not a type", "1", ""),)
    assert described("Whole", Whole, ("space",)).options == (
        Option("rates", "list of numbers", "[]", "Of learning."),
    )
    bare = build(
        "searcher", f"{__name__}:Broken", {}, table={}, contract=Broken, context={"space": None}
    )
    assert isinstance(bare, Broken)


def test_the_command_lists_slots_names_and_options(call) -> None:
    code, out, _ = call("options")
    assert code == 0
    for one in SLOTS:
        assert one.section in out
    assert all(plugin.name in out for _, plugin in ALL)
    assert "drop, per, samples, renew, pooling" in call("options", "shrink")[1]
    out = call("options", "sampler", "sandwich")[1]
    assert "whole number >= 0" in out and "--set sampler.options.random=2" in out
    assert "It has no options" in call("options", "sampler", "fair")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("smapler",), "no plug-in fills 'smapler'; did you mean 'sampler'? have network, task,"),
        (("sampler", "unifrom"), "unknown sampler 'unifrom'; did you mean 'uniform'?"),
        (("search", "no_such_package:x"), "cannot be imported"),
    ],
)
def test_another_name_is_an_error_with_the_nearest(call, arguments, message) -> None:
    code, _, err = call("options", *arguments)
    assert code == 2 and message in err


@pytest.mark.parametrize(
    ("override", "command"),
    [
        ("sampler.options.path=3", "sampler uniform"),
        ("search.options.populaton=9", "search evolution"),
        ("network.options.widht=9", "network tiny"),
        ("sharing.name=kshot", "sharing"),
    ],
)
def test_a_wrong_option_leads_to_the_command(call, override, command) -> None:
    code, _, err = call("run", "--dry-run", "--quiet", "--set", override)
    assert code == 2 and f"(see manyshot options {command})" in err
