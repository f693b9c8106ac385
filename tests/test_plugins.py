"""Plug-ins by name: what they are called with, and what is refused with the way out."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, get_args

import numpy as np
import pytest
from torch import nn

from manyshot.cost import CostTable
from manyshot.plugins import SECTIONS, build, checked, nearest
from manyshot.search import SEARCHERS, Limit, Searcher, make_searcher
from manyshot.sharing import SHARINGS, Sharing, make_sharing
from manyshot.space import Decision, SearchSpace
from manyshot.train import SAMPLERS, Sampler, make_sampler
from manyshot.zoo import NETWORKS

SPACE = SearchSpace([Decision((0, 1, 2), f"d{i}") for i in range(4)])
LIMIT = Limit("total<=5", lambda archs: [sum(arch) for arch in archs], 5)
COSTS = {"macs": CostTable("macs", (3,) * 4, 0, {(i,): np.arange(3) for i in range(4)})}
CONTEXT = {"space", "seed", "limits", "costs", "init", "widths", "sampler"}


def make(kind: str, name: str, options: dict[str, Any]) -> Any:
    if kind == "searcher":
        return make_searcher(name, SPACE, seed=0, limits=[LIMIT], options=options)
    if kind == "sampler":
        return make_sampler(name, SPACE, options, costs=COSTS, widths=SPACE.decisions)
    if kind == "sharing":
        return make_sharing(name, options, seed=0, init=nn.Identity)
    return build("network", name, options, table=NETWORKS, contract=nn.Module, context={})


TABLES: dict[str, dict[str, Callable[..., Any]]] = {
    "searcher": SEARCHERS,
    "sampler": SAMPLERS,
    "sharing": SHARINGS,
    "network": NETWORKS,
}


def options_of(plugin: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(plugin, eval_str=True).parameters
    if "options" in parameters:
        [group] = [c for c in parameters["options"].annotation.__args__ if c is not type(None)]
        if isinstance(group, TypeVar):  # of a constructor that is inherited
            [group] = get_args(vars(plugin)["__orig_bases__"][0])
        return [field.name for field in dataclasses.fields(group)]
    return [name for name in parameters if name not in CONTEXT]


EVERY_OPTION = [
    (kind, name, option)
    for kind, table in TABLES.items()
    for name, plugin in table.items()
    for option in options_of(plugin)
]


def test_there_are_options() -> None:
    assert {kind for kind, _, _ in EVERY_OPTION} == set(TABLES)
    assert len(EVERY_OPTION) > 100


@pytest.mark.parametrize(("kind", "name", "option"), EVERY_OPTION)
def test_every_option_refuses_what_its_type_does_not_allow(
    kind: str, name: str, option: str
) -> None:
    for value in ({"a": 1}, "no such word", math.nan):
        if option == "metric" and isinstance(value, str):
            continue  # any word may be a cost; that there is no such one is said by the sampler
        if option == "split" and isinstance(value, str):
            continue  # likewise a decision, once the scheme has a space
        with pytest.raises(ValueError, match=rf"{kind} '{name}': .*{option}.* = .*: ."):
            make(kind, name, {option: value})


def test_the_beginning_of_a_name_is_nearer_than_another_name() -> None:
    assert nearest("evo", ["nevonas", "evolution"]) == "did you mean 'evolution'? "
    assert nearest("nevona", ["evolution", "nevonas"]) == "did you mean 'nevonas'? "
    assert nearest("zz", ["evolution", "zzzebra"]) == ""


@pytest.mark.parametrize(("kind", "name", "option"), EVERY_OPTION)
def test_a_misspelt_option_names_the_nearest(kind: str, name: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"{kind} '{name}' has no option '{option}x'; did you"):
        make(kind, name, {f"{option}x": 1})


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("searcher", "evolution", {"population": 0}, "population = 0: .*greater than or equal"),
        ("searcher", "evolution", {"population": "50"}, "population = '50': .*valid integer"),
        ("searcher", "evolution", {"mutants": True}, "mutants = True: .*valid integer"),
        ("searcher", "evolution", {"mutants": -1}, "mutants = -1: .*greater than or equal to 0"),
        ("searcher", "evolution", {"mutation_probability": 1.1}, "less than or equal to 1"),
        ("searcher", "evolution", {"regularised": 1}, "regularised = 1: .*valid boolean"),
        ("searcher", "evolution", {"parents": 51}, r"parents \(51\) are chosen among the popul"),
        ("searcher", "evolution", {"mutants": 26}, r"mutants \(26\) and crossovers \(25\) exceed"),
        ("searcher", "regularised_evolution", {"regularised": False}, "should be True"),
        ("searcher", "nsga2", {"population": 1}, "greater than or equal to 2"),
        ("searcher", "nsga2", {"objective": "macs"}, "objective.* = 'macs'"),
        ("searcher", "predictor", {"initial": 1}, "greater than or equal to 2"),
        ("sampler", "uniform", {"paths": 0}, "paths = 0: .*greater than or equal to 1"),
        ("sampler", "sandwich", {"random": -1}, "random = -1: .*greater than or equal to 0"),
        ("sampler", "shiftnas", {"warmup": 1.0}, "warmup = 1.0: .*less than 1"),
        ("sampler", "shiftnas", {"lr": 0.0}, "lr = 0.0: .*greater than 0"),
        ("sampler", "shiftnas", {"tau": math.inf}, "tau = inf: .*finite number"),
        ("sampler", "table", {"draws": 0}, "draws = 0: .*greater than or equal to 1"),
        ("sharing", "k_shot", {"copies": 2.5}, "copies = 2.5: .*valid integer"),
        ("sharing", "k_shot", {"warm_frac": 1.5}, "warm_frac = 1.5: .*less than or equal to 1"),
        ("sharing", "k_shot", {"codes": "soft"}, "'learnt', 'uniform', 'random' or 'one_hot'"),
        ("network", "macro", {"layers": (2, 0)}, "layers.1 = 0: .*greater than or equal to 1"),
        ("network", "macro", {"layers": ()}, r"layers = \(\): .*at least 1 item"),
        ("network", "macro", {"hidden_factors": (0.0, 1.0)}, "greater than 0"),
        ("network", "shufflenet", {"dropout": 1.0}, "dropout = 1.0: .*less than 1"),
        ("network", "autoformer", {"scale": "huge"}, "'tiny', 'small' or 'base'"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(
    kind: str, name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"{kind} '{name}': .*{message}"):
        make(kind, name, options)


# -- anybody's -------------------------------------------------------------------------------------


class Speaks(Protocol):
    """A contract of one method."""

    def speak(self) -> str: ...


class Dog:
    def __init__(self, space: SearchSpace, loud: bool = False, **more: Any) -> None:
        self.arguments = (space, loud, more)

    def speak(self) -> str:
        return "wow"


class Late:
    """Annotated with what only a type checker imports."""

    def __init__(self, options: NotImported = 3) -> None:  # type: ignore[name-defined]  # noqa: F821
        self.options = options

    def speak(self) -> str:
        return str(self.options)


def silent(space: SearchSpace) -> object:
    return object()


def greedy(space: SearchSpace, costs: object, wish: int) -> Dog:
    return Dog(space, wish=wish)


def broken() -> Dog:
    raise TypeError("this is wrong inside")


def speaking(name: str, options: dict[str, Any], **context: Any) -> Any:
    context = {"space": SPACE, "seed": 1} | context
    return build("pet", name, options, table={"dog": Dog}, contract=Speaks, context=context)


def test_a_plugin_gets_what_it_takes_of_the_context_and_its_options() -> None:
    assert speaking("dog", {"loud": True, "tail": 2}).arguments == (SPACE, True, {"tail": 2})
    assert speaking(f"{__name__}:Dog", {}).arguments == (SPACE, False, {})
    assert speaking(f"{__name__}:Late", {"options": 5}).speak() == "5"


def test_defaults_are_options_that_a_plugin_may_not_take() -> None:
    def build_with(options: dict[str, Any]) -> Any:
        return build(
            "pet",
            f"{__name__}:greedy",
            options,
            table={},
            contract=Speaks,
            context={"space": SPACE, "costs": 1},
            defaults={"wish": 4, "hope": 5},
        )

    assert build_with({}).arguments == (SPACE, False, {"wish": 4})
    assert build_with({"wish": 1}).arguments == (SPACE, False, {"wish": 1})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dgo", {}, "unknown pet 'dgo'; did you mean 'dog'. have dog, or give package.module:attr"),
        (":", {}, "unknown pet ':'"),
        ("no_such_package:x", {}, "'no_such_package:x' cannot be imported: No module named"),
        ("manyshot.search:nothing", {}, "cannot be imported: .*has no attribute 'nothing'"),
        ("manyshot.search.draft:_BATCH", {}, "is 64; give a class, or a function"),
        ("os:system", {}, "built-in function system>; give a class, or a function"),
        ("subprocess:Popen", {}, "'subprocess:Popen' has no speak; what it needs is in"),
        (f"{__name__}:greedy", {}, "greedy' needs costs, wish$"),
        (f"{__name__}:greedy", {"space": 1}, "has no option 'space'"),
        (f"{__name__}:silent", {}, "gives object, which has no speak; .*test_plugins.Speaks"),
        (f"{__name__}:broken", {}, "pet '.*:broken': this is wrong inside"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_out(
    name: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        speaking(name, options)


def test_networks_are_modules() -> None:
    with pytest.raises(ValueError, match="gives object, which is no Module"):
        build(
            "network",
            f"{__name__}:silent",
            {},
            table=NETWORKS,
            contract=nn.Module,
            context={"space": SPACE},
        )


def test_ours_keep_their_contracts() -> None:
    for kind, contract in (("searcher", Searcher), ("sampler", Sampler), ("sharing", Sharing)):
        for name in TABLES[kind]:
            plug = make(kind, name, {})
            for member in (*contract.__annotations__, *vars(contract)):
                assert member.startswith("_") or hasattr(plug, member)


def test_checked_functions_still_say_what_python_says() -> None:
    @checked
    def double(number: int, times: int = 2) -> int:
        return number * times

    assert double(3) == 6 and double(3, times=3) == 9
    with pytest.raises(TypeError, match="unexpected keyword argument 'time'"):
        double(3, time=3)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="double: times = '3': Input should be a valid integer"):
        double(3, "3")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", SECTIONS)
def test_options_of_another_plugin_are_refused_with_the_way_to_drop_them(kind):
    """As a recipe keeps them whose plug-in is changed by `--set`."""
    with pytest.raises(ValueError, match=f"; --set {SECTIONS[kind]}.options= drops what a recipe"):
        build(kind, "mine", {"others": 1}, table={"mine": broken}, contract=Dog, context={})
