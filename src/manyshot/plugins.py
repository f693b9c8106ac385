"""Plug-ins by name: from a visible table, or anybody's by `package.module:attribute`.

A plug-in is a class, or a function that makes an object. It takes by name what it needs of the
*context* that its kind is offered (a sampler for example `space`, `costs`, `seed`), and its options
either as further keyword parameters, or as the fields of the dataclass that its parameter `options`
is annotated with. What is allowed is said by types: our functions and constructors are `checked`,
our dataclasses of options are pydantic's with `STRICT`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ParamSpec, Protocol, TypeVar, cast, get_args

from pydantic import ConfigDict, Field, ValidationError, validate_call

T = TypeVar("T")
Parameters = ParamSpec("Parameters")

STRICT = ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
"""How options are validated: nothing is converted, and numbers are finite."""

LONG = 60
"""A longer value is cut in a message."""

Positive = Annotated[int, Field(ge=1, le=10**9)]
NotNegative = Annotated[int, Field(ge=0, le=10**18)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
AboveZero = Annotated[float, Field(gt=0)]
AtLeastZero = Annotated[float, Field(ge=0)]
Counts = Annotated[Sequence[Positive], Field(min_length=1)]


def checked(function: Callable[Parameters, T]) -> Callable[Parameters, T]:
    """Makes a function or constructor refuse arguments that its annotations do not allow.

    Raises:
        ValueError: for such an argument; it names the function, the argument, its value, and what
            is allowed.
    """
    validated: Callable[..., T] = validate_call(config=STRICT)(function)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Parameters.args, **kwargs: Parameters.kwargs) -> T:
        named = signature.bind(*args, **kwargs).arguments
        try:
            return validated(**named)
        except ValidationError as error:
            name = function.__qualname__
            if "self" in named:  # the method of a base is named by the class that one has
                name = f"{type(named['self']).__qualname__}.{function.__name__}"
            raise ValueError(f"{name.removesuffix('.__init__')}: {explained(error)}") from error

    return call


def explained(error: ValidationError) -> str:
    """What a validation finds wrong, in one line: each key, its value, and what is allowed."""

    def said(problem: Any) -> str:
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "missing":  # whose input is all that there is
            return f"{where} is needed"
        words = str(problem["msg"])
        return (
            f"{where} = {shown(problem['input'])}: {words}"
            if where
            else words.removeprefix("Value error, ")
        )

    return "; ".join(map(said, error.errors()))


def shown(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def build(
    kind: str,
    name: str,
    options: Mapping[str, Any],
    *,
    table: Mapping[str, Callable[..., T]],
    contract: type[Any],
    context: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Makes a plug-in from its name and options.

    Args:
        kind: what it is, such as "sampler", for messages.
        name: a key of `table`, or `package.module:attribute`.
        options: its options by name.
        table: the plug-ins of this kind that come with manyshot, by name.
        contract: the protocol that what is made must satisfy, or the class that it must be of.
        context: what plug-ins of this kind may ask for by the name of a parameter; no options.
        defaults: options that are set unless `options` has them, if the plug-in takes them.

    Raises:
        ValueError: for an unknown name or option (the message has the nearest), a value that is not
            allowed, something needed that is not in the context, or what breaks the contract.
    """
    plugin = look_up(kind, name, table)
    if inspect.isclass(plugin):  # that it is of this kind is seen before it is made
        lacks = _lacks(plugin, contract, vars(contract))
        if lacks:
            raise ValueError(f"{kind} {name!r} {lacks}")
    kinds = {parameter.kind for parameter in inspect.signature(plugin).parameters.values()}
    takes_any = inspect.Parameter.VAR_KEYWORD in kinds
    takes = {
        key: parameter
        for key, parameter in inspect.signature(plugin).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    offered = {key: value for key, value in context.items() if key in takes}
    fields = dataclass_of_options(plugin)
    if fields is not None:
        allowed: Iterable[str] = [field.name for field in option_fields(fields)]
    elif takes_any:
        allowed = options
    else:
        allowed = [key for key in takes if key not in context]
    for option in options:
        if option not in allowed:
            raise ValueError(
                f"{kind} {name!r} has no option {option!r}; {nearest(option, allowed)}"
                f"it has {', '.join(allowed) or 'none'}{_more(kind, name)}{_dropping(kind)}"
            )
    usual = {
        key: value
        for key, value in (defaults or {}).items()
        if (key in takes or takes_any) and key not in options
    }
    offered, options = offered | usual, dict(options)
    needed = [key for key, parameter in takes.items() if parameter.default is parameter.empty]
    missing = [key for key in needed if key not in {*offered, *options, "options"}]
    if missing:
        raise ValueError(f"{kind} {name!r} needs {', '.join(missing)}{_more(kind, name)}")
    try:
        if fields is not None:
            options = {"options": fields(**options)}
        built = plugin(**offered, **options)
    except ValidationError as error:
        raise ValueError(f"{kind} {name!r}: {explained(error)}") from error
    except (TypeError, ValueError) as error:
        words = str(error).removeprefix(f"{getattr(plugin, '__qualname__', name)}: ")
        raise ValueError(f"{kind} {name!r}: {words}") from error
    lacks = _lacks(built, contract, (*contract.__annotations__, *vars(contract)))
    if lacks:
        raise ValueError(f"{kind} {name!r} gives {type(built).__name__}, which {lacks}")
    return cast(T, built)


def look_up(kind: str, name: str, table: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """The callable that a name stands for.

    Args:
        kind: what is looked up, such as "sampler", for messages.
        name: a key of `table`, or `package.module:attribute`.
        table: the callables that come with manyshot, by name.

    Raises:
        ValueError: for an unknown name (the message lists what exists, the nearest first), or one
            that cannot be imported or called.
    """
    if name in table:
        return table[name]
    module, _, attribute = name.partition(":")
    if not (module and attribute):
        raise ValueError(
            f"unknown {kind} {name!r}; {nearest(name, table)}have {', '.join(sorted(table))}, or "
            f"give package.module:attribute{_more(kind)}"
        )
    try:
        with _working_folder_last():
            plugin = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{kind} {name!r} cannot be imported: {error}") from error
    if not (inspect.isfunction(plugin) or inspect.isclass(plugin)):
        raise ValueError(
            f"{kind} {name!r} is {plugin!r}; give a class, or a function written in Python, that "
            f"makes a {kind}"
        )
    return plugin


SECTIONS = {
    "network": "network",
    "task": "task",
    "sharing": "sharing",
    "sampler": "sampler",
    "shrinker": "shrink",
    "searcher": "search",
    "distiller": "finish.distillation",
}
"""The section of a recipe whose `name` and `options` are of plug-ins of a kind."""


def _more(kind: str, *name: str) -> str:
    """The command that explains, to end a message about a plug-in; nothing for another kind."""
    if kind not in SECTIONS:
        return ""
    return f" (see {' '.join(('manyshot options', SECTIONS[kind], *name))})"


def _dropping(kind: str) -> str:
    """How to drop the options of a recipe, which stay when it is given another plug-in."""
    if kind not in SECTIONS:
        return ""
    return f"; --set {SECTIONS[kind]}.options= drops what a recipe sets for another"


@contextlib.contextmanager
def _working_folder_last() -> Iterator[None]:
    """The working folder's modules can be imported inside, but hide none that is installed."""
    here = os.getcwd()
    sys.path.append(here)
    try:
        yield
    finally:
        last = len(sys.path) - 1 - sys.path[::-1].index(here)  # it may be there before, too
        del sys.path[last]


def nearest_of(name: str, names: Iterable[str]) -> str | None:
    """The nearest of `names`, or None if none is near.

    One that `name` is the beginning of is nearer than any other, as `evo` is of `evolution`.
    """
    names = list(names)
    begun = [known for known in names if len(name) > 2 and known.startswith(name)]
    near = begun[:1] or difflib.get_close_matches(name, names, n=1)
    return near[0] if near else None


def nearest(name: str, names: Iterable[str]) -> str:
    """The words `did you mean 'uniform'? `, or nothing if none of `names` is near."""
    near = nearest_of(name, names)
    return "" if near is None else f"did you mean {near!r}? "


UNEVALUATED = (NameError, AttributeError, SyntaxError, TypeError)
"""What comes of annotations that are text, such as names imported for type checkers alone."""


def parameters_of(plugin: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The parameters of a plug-in; annotations that mean nothing at run time stay text."""
    try:
        return inspect.signature(plugin, eval_str=True).parameters
    except UNEVALUATED:
        return inspect.signature(plugin).parameters


def dataclass_of_options(plugin: Callable[..., Any]) -> type[Any] | None:
    """The dataclass that the parameter `options` is annotated with, if there is one.

    Of an inherited constructor whose annotation is a type variable, what the class puts there.
    """
    parameter = parameters_of(plugin).get("options")
    if parameter is None:
        return None
    classes = [parameter.annotation, *get_args(parameter.annotation)]
    for variable in [c for c in classes if isinstance(c, TypeVar)]:
        classes += [*type_arguments(plugin, variable.__bound__ or object), variable.__bound__]
    return next((c for c in classes if inspect.isclass(c) and dataclasses.is_dataclass(c)), None)


def type_arguments(plugin: Callable[..., Any], bound: type[T]) -> list[type[T]]:
    """What a class and those that it extends put in place of type variables, the nearest first.

    Args:
        plugin: the class.
        bound: of classes that do not extend this one nothing is said.
    """
    bases = (vars(one).get("__orig_bases__", ()) for one in getattr(plugin, "__mro__", ()))
    every = (argument for some in bases for base in some for argument in get_args(base))
    return [one for one in every if inspect.isclass(one) and issubclass(one, bound)]


def option_fields(options: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass of options: those of the class itself before those it extends."""
    lineage = options.__mro__
    begun_in = {name: i for i, one in enumerate(lineage) for name in inspect.get_annotations(one)}
    return sorted(dataclasses.fields(options), key=lambda field: begun_in[field.name])


def _lacks(plug: object, contract: type[Any], members: Iterable[str]) -> str:
    """What keeps an object or a class from being of a class, or from having these members."""
    if Protocol not in contract.__bases__:
        fits = issubclass(plug, contract) if isinstance(plug, type) else isinstance(plug, contract)
        return "" if fits else f"is no {contract.__name__}"
    missing = [m for m in members if not m.startswith("_") and not hasattr(plug, m)]
    named = f"{contract.__module__}.{contract.__name__}"
    return f"has no {', '.join(missing)}; what it needs is in {named}" if missing else ""
