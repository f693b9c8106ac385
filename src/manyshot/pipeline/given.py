"""Networks and data that are given in Python: used while a run lasts, and in no file of it."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, final

from torch import nn

from manyshot.data import Splits, load, own_data
from manyshot.plugins import look_up
from manyshot.recipe import GIVEN, DataSettings, Recipe, RecipeError, bytes_of
from manyshot.supernet import Supernet
from manyshot.train.checkpoint import digest


@final
@dataclass(frozen=True)
class Given:
    """What was given in Python, in place of names in a recipe.

    Attributes:
        network: a module or a supernet, which is copied.
        data: `(train, test)`, `(train, validation, test)` or a dict with these names.
    """

    network: nn.Module | None = None
    data: Any = None


_NOTHING = Given()
_given: ContextVar[Given] = ContextVar("given", default=_NOTHING)


@contextlib.contextmanager
def giving(given: Given) -> Iterator[None]:
    """A context in which recipes that say `given` mean these."""
    token = _given.set(given)
    try:
        yield
    finally:
        _given.reset(token)


def identity_of(network: nn.Module) -> str:
    """16 hexadecimal digits that identify a network: its modules, its decisions, its weights."""
    module = network.model if isinstance(network, Supernet) else network
    text = f"{module} {digest(network.state_dict())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def given_network(recipe: Recipe) -> nn.Module:
    """A copy of the network that was given.

    Raises:
        RecipeError: if none was, or another.
    """
    network = _given.get().network
    if network is None:
        raise _missing("network", "network=net")
    wanted = recipe.network.options.get("identity")
    if identity_of(network) != wanted:
        raise RecipeError(
            f"the network that is given ({identity_of(network)}) is not the one that this run "
            f"began with ({wanted}): give it as it was made, with the weights that it had then"
        )
    if isinstance(network, Supernet):
        if network.sharing.copies != 1:
            raise RecipeError(
                f"the supernet that is given has {type(network.sharing).__name__} sharing already: "
                "give its module as it was made, and say the sharing by sharing={'name': ...}"
            )
        network = network.model
    return copy.deepcopy(network)


def load_data(recipe: Recipe) -> Splits:
    """The data of a recipe.

    Raises:
        RecipeError: for data that were given and are not any more, a function that cannot be
            imported or fails, or data of your own that are none, or cannot be split.
        DataNotFound: if images are missing.
        ValueError: for images that cannot be split.
    """
    data = recipe.data
    if not data.is_own:
        return load(
            data.name,
            root=data.root,
            validation=data.validation,
            held_out=recipe.sampler.held_out,
            seed=recipe.seed,
            train_size=data.train_size,
            image_size=data.image_size,
            download=data.download,
            bad=data.bad,
            memory=bytes_of(data.memory),
            workers=data.workers,
        )
    if data.name == GIVEN:
        parts = _given.get().data
        if parts is None:
            raise _missing("data", "data=(train, test)")
    else:
        parts = _made_by(data)
    try:
        return own_data(
            parts,
            name=data.name,
            validation=data.validation,
            held_out=recipe.sampler.held_out,
            seed=recipe.seed,
            train_size=data.train_size,
        )
    except ValueError as error:
        raise RecipeError(f"data.name = {data.name!r}: {error}") from error


def _made_by(data: DataSettings) -> Any:
    """What the function that data are named by gives.

    Raises:
        RecipeError: if it cannot be imported, or fails.
    """
    try:
        return look_up("data", data.name, {})(**data.options)
    except Exception as error:  # a function is anybody's code
        words = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise RecipeError(f"data.name = {data.name!r}: {words}") from error


def _missing(what: str, argument: str) -> RecipeError:
    return RecipeError(
        f"{what}.name = {GIVEN!r}: this run was given its {what} in Python, of which its folder "
        f"holds nothing: give it again, by ms.Run(folder, {argument}, ...), or "
        f"ms.run({argument}, ..., out=folder)"
    )
