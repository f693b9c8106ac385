"""Decisions and the sizes made from them: what a network's author writes down as free.

A `Decision` is an object: two layers share a decision by holding the *same* object. Sizes are small
arithmetic expressions over decisions (`width * ratio`), evaluated when an architecture is active.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NoReturn

Number = int | float
Option = int | float | str

_definitions = itertools.count()
_COPIED = "manyshot: when this deepcopy met its first decision"
_scopes: ContextVar[tuple[str, ...]] = ContextVar("manyshot_scopes", default=())


@contextlib.contextmanager
def scope(name: str) -> Iterator[None]:
    """Prefix the names of decisions made inside with `name` and a dot; scopes nest.

    Raises:
        ValueError: if `name` is empty.
    """
    if not name:
        raise ValueError("scope name is empty; give the block a name such as 'block3'")
    token = _scopes.set((*_scopes.get(), name))
    try:
        yield
    finally:
        _scopes.reset(token)


class Size:
    """A number that depends on the architecture: a decision, or arithmetic over decisions.

    It supports `+ - * //` with numbers and sizes. It is no number itself: `int(size)`, `bool(size)`
    and comparisons raise, because which value is meant depends on the active architecture.
    """

    __hash__ = object.__hash__

    def decisions(self) -> tuple[Decision, ...]:
        """The distinct decisions that the size depends on, in order of first appearance."""
        raise NotImplementedError

    def evaluate(self, values: Mapping[Decision, Number]) -> Number:
        """The number that the size is when each of its decisions has its entry in `values`."""
        raise NotImplementedError

    def over_options(self) -> Iterator[Number]:
        """The values of the size over all combinations of options of its decisions."""
        decisions = self.decisions()
        for numbers in itertools.product(*(d.values for d in decisions)):
            yield self.evaluate(dict(zip(decisions, numbers, strict=True)))

    def __add__(self, other: Number | Size) -> Size:
        return _Binary("+", self, other)

    def __radd__(self, other: Number) -> Size:
        return _Binary("+", other, self)

    def __sub__(self, other: Number | Size) -> Size:
        return _Binary("-", self, other)

    def __rsub__(self, other: Number) -> Size:
        return _Binary("-", other, self)

    def __mul__(self, other: Number | Size) -> Size:
        return other * self if isinstance(other, Concat) else _Binary("*", self, other)

    def __rmul__(self, other: Number) -> Size:
        return _Binary("*", other, self)

    def __floordiv__(self, other: Number | Size) -> Size:
        return _Binary("//", self, other)

    def __rfloordiv__(self, other: Number) -> Size:
        return _Binary("//", other, self)

    def _no_number(self, what: str) -> NoReturn:
        raise TypeError(
            f"{what} of {self!r} is not defined: its value depends on the architecture; "
            "call ms.value(size) inside a forward, or pass the size itself to an ms.nn layer "
            "(ms.nn.Conv2d in place of torch.nn.Conv2d)"
        )

    def __int__(self) -> int:
        self._no_number("int()")

    def __float__(self) -> float:
        self._no_number("float()")

    def __index__(self) -> int:
        self._no_number("an integer")

    def __bool__(self) -> bool:
        self._no_number("the truth value")

    def __mod__(self, other: object) -> Size:
        self._no_number("a remainder")

    __rmod__ = __mod__

    def __len__(self) -> int:
        self._no_number("the length")

    def __iter__(self) -> NoReturn:
        self._no_number("an iteration")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Where torch wants a number, as in the shape of a new tensor, a size is refused."""
        given = itertools.chain(args, (kwargs or {}).values())
        parts = itertools.chain.from_iterable(
            part if isinstance(part, tuple | list) else (part,) for part in given
        )
        size = next((part for part in parts if isinstance(part, Size)), None)
        name = getattr(func, "__name__", "a function")
        if size is None:
            raise TypeError(f"torch.{name} takes no sizes; call ms.value(size) inside a forward")
        size._no_number(f"torch.{name}")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int | float):
            self._no_number("a comparison")
        return self is other

    def __lt__(self, other: object) -> bool:
        self._no_number("a comparison")

    __gt__ = __le__ = __ge__ = __lt__


class Decision(Size):
    """One independent choice: an operation, a kernel, a width, a depth.

    Attributes:
        options: the values it can take, in order of definition; option indices never change.
        name: its name in the space, or `None` until a supernet derives one from the module path.
    """

    def __init__(self, options: Sequence[Option], name: str | None = None) -> None:
        """Makes a decision; prefer `ms.choose`, which applies the current scope to the name.

        Raises:
            ValueError: if options are empty, repeated, not finite, or mix numbers and names.
        """
        options = tuple(options)
        if not options:
            raise ValueError(f"decision {name or '(unnamed)'} has no options; give at least one")
        if len(set(options)) != len(options):
            raise ValueError(f"decision {name or '(unnamed)'}: options {options} repeat a value")
        numeric = [isinstance(o, int | float) and not isinstance(o, bool) for o in options]
        if any(numeric) and not all(numeric):
            raise ValueError(
                f"decision {name or '(unnamed)'}: options {options} mix numbers and names"
            )
        if not any(numeric) and not all(isinstance(o, str) for o in options):
            raise ValueError(
                f"decision {name or '(unnamed)'}: options must be numbers or names, got {options}"
            )
        if any(isinstance(o, float) and not math.isfinite(o) for o in options):
            raise ValueError(f"decision {name or '(unnamed)'}: options {options} are not finite")
        self.options: tuple[Option, ...] = options
        self.name = name
        self.named = name is not None
        self.order: tuple[int, ...] = (next(_definitions),)

    @property
    def is_number(self) -> bool:
        """Whether the options are numbers, so that the decision can be used as a size."""
        return not isinstance(self.options[0], str)

    @property
    def values(self) -> tuple[Number, ...]:
        """The options as numbers.

        Raises:
            TypeError: if the options are names.
        """
        if not self.is_number:
            raise TypeError(f"{self!r} chooses between names and has no size")
        return self.options  # type: ignore[return-value]

    def decisions(self) -> tuple[Decision, ...]:
        """The decision itself, alone."""
        return (self,)

    def evaluate(self, values: Mapping[Decision, Number]) -> Number:
        """The entry of the decision in `values`."""
        return values[self]

    def __deepcopy__(self, memo: dict[Any, Any]) -> Decision:
        # A copy is a new decision, defined now; those of one deepcopy keep their order and sharing.
        copy = Decision(self.options, self.name)
        copy.named = self.named
        copy.order = (memo.setdefault(_COPIED, copy.order[0]), *self.order)
        memo[id(self)] = copy
        return copy

    def __repr__(self) -> str:
        return f"Decision({self.name or '(unnamed)'}: {', '.join(map(str, self.options))})"


_OPERATIONS: dict[str, Callable[[Any, Any], Number]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
}


class _Expression(Size):
    """A size computed from operands by a pure function."""

    operands: tuple[Number | Size, ...]

    def decisions(self) -> tuple[Decision, ...]:
        sizes = (o for o in self.operands if isinstance(o, Size))
        return tuple(dict.fromkeys(d for size in sizes for d in size.decisions()))

    def compute(self, numbers: Sequence[Number]) -> Number:
        """The number that the size is when its operands are these numbers."""
        raise NotImplementedError

    def evaluate(self, values: Mapping[Decision, Number]) -> Number:
        """The number that the size is when each of its decisions has its entry in `values`."""
        return self.compute(
            [o.evaluate(values) if isinstance(o, Size) else o for o in self.operands]
        )

    def over_options(self) -> Iterator[Number]:
        """The values of the size; operands that share no decision are listed one by one."""
        sizes = [o for o in self.operands if isinstance(o, Size)]
        if len(self.decisions()) < sum(len(size.decisions()) for size in sizes):
            yield from super().over_options()
        else:
            yield from self._over([_values(operand) for operand in self.operands])

    def _over(self, values: Sequence[Sequence[Number]]) -> Iterable[Number]:
        return map(self.compute, itertools.product(*values))


def _values(operand: Number | Size) -> list[Number]:
    return list(dict.fromkeys(operand.over_options())) if isinstance(operand, Size) else [operand]


class _Binary(_Expression):
    def __init__(self, symbol: str, left: Number | Size, right: Number | Size) -> None:
        for side in (left, right):
            if not isinstance(side, int | float | Size):
                raise TypeError(f"a size cannot be combined by {symbol} with {side!r}")
            if isinstance(side, Decision) and not side.is_number:
                raise TypeError(f"{side!r} chooses between names and has no size")
        self.symbol, self.operands = symbol, (left, right)

    def compute(self, numbers: Sequence[Number]) -> Number:
        left, right = numbers
        return _OPERATIONS[self.symbol](left, right)

    def __repr__(self) -> str:
        return f"({self.operands[0]!r} {self.symbol} {self.operands[1]!r})"


class Concat(_Expression):
    """Channels that are concatenated: the sum of its parts, each of which stays where it is.

    A layer of such a size keeps room for the largest of every part, and uses the first entries of
    each. So a channel meets the same weights whatever the parts before it are. A product with a
    number or a size is that of every part, as flattening has it; any other arithmetic is that of
    the sum.

    Attributes:
        operands: the parts, numbers or sizes, of which none is a concatenation itself.
    """

    def __init__(self, parts: Sequence[Number | Size]) -> None:
        nested = (part.operands if isinstance(part, Concat) else (part,) for part in parts)
        self.operands = tuple(itertools.chain.from_iterable(nested))

    @functools.cached_property
    def rooms(self) -> tuple[int, ...]:
        """The largest value of every part: the entries that a stored tensor has for it."""
        return tuple(int(max(_values(part))) for part in self.operands)

    def compute(self, numbers: Sequence[Number]) -> Number:
        """The sum of the parts."""
        return sum(numbers)

    def _over(self, values: Sequence[Sequence[Number]]) -> Iterable[Number]:
        sums: dict[Number, None] = {0: None}
        for numbers in values:
            sums = dict.fromkeys(total + number for total in sums for number in numbers)
        return sums

    def __mul__(self, other: Number | Size) -> Size:
        return Concat([part * other for part in self.operands])

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"concat({', '.join(map(repr, self.operands))})"


def concat(*parts: int | Size) -> Any:
    """The size of channels that are concatenated in this order, such as `torch.cat([x, y], 1)`.

    Give it to the layers that take the concatenated tensor: `ms.nn.Conv2d(ms.concat(a, b), ...)`.
    Two tensors of one width are `ms.concat(a, a)`, while `2 * a` is one of twice the width.
    Concatenations in it are taken apart; of numbers alone it is their sum.

    Raises:
        ValueError: without parts, or for a number that is not whole or below zero.
        TypeError: if a part is neither a number nor a size.
    """
    if not parts:
        raise ValueError("concat has no parts; give the channels of each tensor: ms.concat(a, b)")
    for part in parts:
        if isinstance(part, Decision) and not part.is_number:
            raise TypeError(f"{part!r} chooses between names and has no size")
        if isinstance(part, bool) or not isinstance(part, int | float | Size):
            raise TypeError(f"concat takes whole numbers and sizes, got {part!r}")
        if not isinstance(part, Size) and (part != int(part) or part < 0):
            raise ValueError(f"concat takes whole numbers of at least 0 and sizes, got {part!r}")
    return Concat(parts) if any(isinstance(part, Size) for part in parts) else sum(parts)


def is_plain_sum(size: object) -> bool:
    """Whether a size adds sizes up, or is a multiple of such a sum, or has one among its parts.

    As a number of channels it would be read as one run of them, though what was added up are
    mostly channels that a network concatenates.
    """
    if isinstance(size, Concat):
        return any(map(is_plain_sum, size.operands))
    if not isinstance(size, _Binary):
        return False
    return size.symbol == "+" or (size.symbol == "*" and any(map(is_plain_sum, size.operands)))


class _RoundTo(_Expression):
    def __init__(self, size: Size, divisor: int) -> None:
        self.operands, self.divisor = (size,), divisor

    def compute(self, numbers: Sequence[Number]) -> Number:
        return round_number(numbers[0], self.divisor)

    def __repr__(self) -> str:
        return f"round_to({self.operands[0]!r}, {self.divisor})"


def round_number(number: Number, divisor: int) -> int:
    """`number` rounded to the nearest multiple of `divisor`, halves up, never 10 % below it.

    This is the rule of MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381). The result is at least
    one `divisor`.
    """
    rounded = max(divisor, int(number + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * number else rounded


def round_to(size: Number | Size, divisor: int) -> Any:
    """`size` rounded to a multiple of `divisor` (see `round_number`); a size stays a size.

    Raises:
        ValueError: if `divisor` is not a positive integer.
    """
    if not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f"round_to needs a positive integer divisor, got {divisor!r}")
    return _RoundTo(size, divisor) if isinstance(size, Size) else round_number(size, divisor)


def scoped(name: str | None) -> str | None:
    """`name` with the prefixes of the scopes it is used in; `None` stays `None`."""
    return None if name is None else ".".join((*_scopes.get(), name))


def choose(options: Sequence[Option], name: str | None = None) -> Decision:
    """Makes a decision between `options`: numbers, to be used as a size, or names.

    Args:
        options: distinct numbers, or distinct names, in the order that encodings will use.
        name: its name, which the enclosing `ms.scope` prefixes; by default a supernet derives it
            from the module that holds it.

    Raises:
        ValueError: if options are empty, repeated, or mix numbers and names.
    """
    return Decision(options, scoped(name))
