"""The search space: the set of architectures, as tuples of option indices. No torch inside."""

from __future__ import annotations

import functools
import heapq
import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import numpy as np
import numpy.typing as npt

from manyshot.shown import Shown
from manyshot.space.decision import Decision, Option

Arch: TypeAlias = tuple[int, ...]
"""One architecture: an option index per decision, in the order of `space.decisions`."""

Condition: TypeAlias = tuple[Decision, frozenset[int]]
"""It holds in an architecture that has one of the option indices of the decision."""
Use: TypeAlias = tuple[Condition, ...]
"""One place where a decision matters: the conditions that all must hold there."""


@dataclass(frozen=True)
class Commutation:
    """A declaration by a network: `option` at any of these positions gives one stand-alone network.

    Example: identities inside a stage commute, so `(conv, identity, conv)` and
    `(conv, conv, identity)` are one network. The representative has the positions that hold
    `option` last, the others in their order.
    """

    decisions: tuple[Decision, ...]
    option: int


@final
class SearchSpace(Shown):
    """The product of decisions, with what is known about encodings of the same network.

    A view of a space (`restricted`) has the same decisions and the same option indices, of which
    only some are allowed. It is a set of networks: a decision that does not matter in one may have
    any option, such as the first of its canonical encoding. Commutations hold in it between
    decisions of which the same options are allowed; others have weights of their own there.

    Attributes:
        decisions: the decisions, in the order of the indices of an `Arch`.
        uses: for each decision the places where it matters; a decision without an entry always
            does.
        commutations: what the network declares to commute (see `Commutation`).
        allowed: for each decision, in order, the option indices that may be chosen, ascending.
        whole: the space that this is a view of; itself if all options are allowed.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        *,
        uses: Mapping[Decision, Sequence[Use]] | None = None,
        commutations: Sequence[Commutation] = (),
        ranks: Mapping[Decision, Sequence[float]] | None = None,
        allowed: Mapping[Decision, Iterable[int]] | None = None,
    ) -> None:
        """Makes a space.

        Args:
            decisions: distinct decisions, each with a distinct name.
            uses: the places where decisions matter (see the class); a decision none of whose uses
                holds is inactive.
            commutations: what the network declares to commute.
            ranks: for decisions between names, the size of each option (a supernet records
                parameters), by which `smallest` and `largest` choose.
            allowed: option indices of decisions of which not all are allowed (see `restricted`).

        Raises:
            ValueError: for an unnamed decision, two decisions with one name, uses of or under what
                is not in the space, a commutation that would leave something behind, or options to
                allow that are none or not there.
        """
        self.decisions = tuple(decisions)
        _check_names(self.decisions)
        _check_uses(self.decisions, uses or {})
        self.uses = {d: tuple(u) for d, u in (uses or {}).items()}
        self.commutations = tuple(commutations)
        _check_commutations(self.commutations, self.uses)
        self._ranks = {d: tuple(r) for d, r in (ranks or {}).items()}
        self.index = {d: i for i, d in enumerate(self.decisions)}
        self._counts = tuple(len(d.options) for d in self.decisions)
        self.counts = np.array(self._counts, dtype=np.int64)
        self._conditions = tuple(self._indexed(d) for d in self.decisions)
        self._gated = tuple(i for i, uses in enumerate(self._conditions) if () not in uses)
        self._gates = self._gated_by()
        self.allowed = _allowed(self.decisions, allowed or {})
        self._open = np.array([len(options) for options in self.allowed], dtype=np.int64)
        self._options, self._rows = _rectangle(self.allowed), np.arange(len(self.decisions))
        self._allowed_sets = tuple(map(frozenset, self.allowed))
        self.whole: SearchSpace = self
        groups = ((tuple(self.index[d] for d in c.decisions), c.option) for c in self.commutations)
        self._groups = tuple(
            (positions, option)
            for positions, option in groups
            if len({self.allowed[i] for i in positions}) == 1
        )

    def _indexed(self, decision: Decision) -> tuple[tuple[tuple[int, frozenset[int]], ...], ...]:
        uses = self.uses.get(decision, ((),))
        return tuple(tuple((self.index[d], allowed) for d, allowed in use) for use in uses)

    def _gated_by(self) -> dict[int, tuple[int, ...]]:
        """For each decision that others depend on, the positions of these."""
        gated: dict[int, dict[int, None]] = {}
        for i in self._gated:
            for j, _ in itertools.chain.from_iterable(self._conditions[i]):
                gated.setdefault(j, {})[i] = None
        return {j: tuple(positions) for j, positions in gated.items()}

    # -- views -----------------------------------------------------------------------------

    def restricted(self, allowed: Mapping[Decision, Iterable[int]]) -> SearchSpace:
        """A view of this space in which only some options are allowed.

        Args:
            allowed: option indices by decision; decisions that are left out stay as they are here.

        Raises:
            ValueError: for a decision or an option that is not in this space, or no option.
        """
        for decision, options in allowed.items():
            if decision not in self.index:
                raise ValueError(f"{decision!r} is not in this space, so that it has no view of it")
            here, asked = self.allowed[self.index[decision]], sorted(set(options))
            beyond = [option for option in asked if option not in here]
            if beyond:
                raise ValueError(
                    f"{decision.name}: option {beyond[0]} is not among {list(here)}, which are "
                    "allowed here: restrict space.whole to allow others again"
                )
        kept = {d: here for d, here in zip(self.decisions, self.allowed, strict=True)}
        view = SearchSpace(
            self.decisions,
            uses=self.uses,
            commutations=self.commutations,
            ranks=self._ranks,
            allowed={**kept, **allowed},
        )
        view.whole = self.whole
        return view

    @property
    def is_view(self) -> bool:
        """Whether some options are not allowed."""
        return self.allowed != tuple(tuple(range(n)) for n in self._counts)

    def __contains__(self, arch: Arch) -> bool:
        """Whether an architecture is one of the networks here, in any of their encodings."""
        return len(arch) == len(self) and all(
            option in allowed or (0 <= option < self._counts[i] and not self._matters(i, arch))
            for i, (option, allowed) in enumerate(zip(arch, self._allowed_sets, strict=True))
        )

    def inside(self, arch: Arch) -> Arch:
        """The same network with allowed options where decisions do not matter.

        Such decisions matter again when others change: whoever varies an architecture begins here.
        """
        if all(map(operator.contains, self._allowed_sets, self.check(arch))):
            return arch
        return tuple(
            option if option in allowed else self.allowed[i][0]
            for i, (option, allowed) in enumerate(zip(arch, self._allowed_sets, strict=True))
        )

    @property
    def size(self) -> int:
        """How many encodings there are (aliases of one network counted separately)."""
        return math.prod(map(len, self.allowed))

    def __len__(self) -> int:
        return len(self.decisions)

    def __repr__(self) -> str:
        return f"SearchSpace({len(self.decisions)} decisions, {self.size:,} encodings)"

    # -- drawing and listing ---------------------------------------------------------------

    def sample(self, rng: np.random.Generator) -> Arch:
        """A uniform random encoding: every decision is drawn uniformly and independently (SPOS)."""
        return tuple(self._options[self._rows, rng.integers(self._open)].tolist())

    def draw(self, rng: np.random.Generator, number: int) -> npt.NDArray[np.int64]:
        """So many uniform random encodings, shape (number, decisions)."""
        drawn = rng.integers(self._open, size=(number, len(self)))
        return np.asarray(self._options[self._rows, drawn], dtype=np.int64)

    def enumerate(self) -> Iterator[Arch]:
        """Every encoding, in lexicographic order."""
        return itertools.product(*self.allowed)

    def mutate(self, arch: Arch, rng: np.random.Generator, probability: float = 0.1) -> Arch:
        """A copy of `arch` in which decisions are redrawn at random.

        This is the rule of SPOS (Guo et al. 2020, arXiv:1904.00420), as its public code has it.

        Args:
            arch: an architecture of the space.
            rng: the random stream.
            probability: with which each decision is redrawn, uniformly, perhaps to the same option.

        Raises:
            ValueError: if `probability` is not in [0, 1], or `arch` is not in the space.
        """
        if not 0 <= probability <= 1:
            raise ValueError(f"mutation probability must be in [0, 1], got {probability}")
        parent = self.inside(arch)
        redraw = rng.random(len(arch)) < probability
        return tuple(np.where(redraw, self.sample(rng), parent).tolist())

    def change(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """A copy of `arch` in which one decision has another option, both drawn uniformly.

        This is the mutation of Real et al. 2019 (arXiv:1802.01548), on decisions.

        Args:
            arch: an architecture of the space.
            rng: the random stream.

        Raises:
            ValueError: if no decision has two options, or `arch` is not in the space.
        """
        parent = self.inside(arch)
        open_to_change = np.flatnonzero(self._open > 1)
        if not open_to_change.size:
            raise ValueError("no decision of this space has a second option to change to")
        i = int(rng.choice(open_to_change))
        options = self.allowed[i]
        turn = options.index(parent[i]) + int(rng.integers(1, len(options)))
        return (*parent[:i], options[turn % len(options)], *parent[i + 1 :])

    def crossover(self, a: Arch, b: Arch, rng: np.random.Generator) -> Arch:
        """A child that has each decision from either parent with probability one half.

        Args:
            a: the first parent.
            b: the second parent.
            rng: the random stream.

        Raises:
            ValueError: if a parent is not in the space.
        """
        one, other = self.inside(a), self.inside(b)
        return tuple(np.where(rng.random(len(a)) < 0.5, one, other).tolist())

    def cover(self, rng: np.random.Generator, least: int = 1) -> list[Arch]:
        """At least `least` random encodings that together contain every option."""
        count = max(least, int(self._open.max(initial=1)))
        columns = [rng.permutation(count) % n for n in self._open]
        return [
            tuple(self.allowed[d][int(column[i])] for d, column in enumerate(columns))
            for i in range(count)
        ]

    # -- the ends --------------------------------------------------------------------------

    def ranks(self, decision: Decision) -> tuple[float, ...]:
        """The size of each option: numbers by value, names by the recorded parameters."""
        if decision.is_number:
            return tuple(float(v) for v in decision.values)
        return self._ranks.get(decision, tuple(float(i) for i in range(len(decision.options))))

    @functools.cached_property
    def smallest(self) -> Arch:
        """The smallest option of every decision (the first of equals), by `ranks`."""
        return tuple(min(o, key=r.__getitem__) for r, o in self._ranked())

    @functools.cached_property
    def largest(self) -> Arch:
        """The largest option of every decision (the first of equals), by `ranks`."""
        return tuple(max(o, key=r.__getitem__) for r, o in self._ranked())

    def _ranked(self) -> Iterator[tuple[tuple[float, ...], tuple[int, ...]]]:
        """Of each decision the sizes of all options, and those that are allowed."""
        return zip(map(self.ranks, self.decisions), self.allowed, strict=True)

    # -- identity --------------------------------------------------------------------------

    def check(self, arch: Arch) -> Arch:
        """Returns `arch` if it is in the space.

        Raises:
            ValueError: if it is not; the message names the decision, the value and what is allowed.
        """
        if len(arch) != len(self.decisions):
            raise ValueError(
                f"architecture {arch!r} has {len(arch)} entries; this space has "
                f"{len(self.decisions)} decisions"
            )
        if all(map(operator.contains, self._allowed_sets, arch)):
            return arch
        for decision, option in zip(self.decisions, arch, strict=True):
            if not 0 <= option < len(decision.options):
                raise ValueError(
                    f"{decision.name}: option {option} is not in 0..{len(decision.options) - 1} "
                    f"({', '.join(map(str, decision.options))})"
                )
        for i, (decision, option) in enumerate(zip(self.decisions, arch, strict=True)):
            if option not in self._allowed_sets[i] and self._matters(i, arch):
                raise ValueError(
                    f"{decision.name}: option {option} ({decision.options[option]}) is not allowed "
                    f"in this view of the space, which has {list(self.allowed[i])}"
                )
        return arch

    def check_proposed(self, archs: Iterable[Arch], who: str) -> list[Arch]:
        """Refuses architectures that are not in the space, and says whose they are.

        Args:
            archs: encodings.
            who: whoever proposed them, such as `"sampler Greedy"`.

        Returns:
            The same as tuples of Python's whole numbers, whatever sequences they were.

        Raises:
            ValueError: if one is not in the space, or no sequence of whole numbers; the message
                says what `check` does besides.
        """
        if not isinstance(archs, Iterable):
            raise ValueError(f"{who} proposed {archs!r}: give architectures, as a list of tuples")
        checked = []
        for arch in archs:
            try:
                plain = tuple(map(operator.index, arch))
            except TypeError as error:
                raise ValueError(
                    f"{who} proposed {arch!r}: an architecture is a tuple of option indices, a "
                    f"whole number for each of {len(self)} decisions"
                ) from error
            try:
                checked.append(self.check(plain))
            except ValueError as error:
                raise ValueError(f"{who} proposed architecture {plain}: {error}") from error
        return checked

    def active(self, arch: Arch) -> tuple[bool, ...]:
        """Which decisions matter in `arch` as it is: those of which some use is in the network."""
        return tuple(self._matters(i, arch) for i in range(len(self)))

    def _matters(self, position: int, arch: Sequence[int]) -> bool:
        for use in self._conditions[position]:  # plain loops: architectures come by the thousand
            for i, allowed in use:
                if arch[i] not in allowed:
                    break
            else:
                return True
        return False

    def canonical(self, arch: Arch) -> Arch:
        """The representative of all encodings of the stand-alone network that `arch` is.

        Inactive decisions become 0, one after the other, until all that are left are active or 0.
        Then declared commutations are sorted, so that the commuting option comes last. Aliases by
        commutation use *other* supernet weights: evaluate the representative.
        """
        canonical = list(self.check(arch))
        again: list[tuple[int, int]] = []  # turns from the first decision to the last, positions
        for i in self._gated:
            if canonical[i] and not self._matters(i, canonical):
                canonical[i] = 0
                again += [(1, j) for j in self._gates.get(i, ()) if j < i]
        heapq.heapify(again)
        while again:  # what became 0 may decide what else matters
            turn, i = heapq.heappop(again)
            if canonical[i] and not self._matters(i, canonical):
                canonical[i] = 0
                for j in self._gates.get(i, ()):
                    heapq.heappush(again, (turn + (j < i), j))
        for positions, option in self._groups:
            values = [canonical[i] for i in positions]
            kept = [v for v in values if v != option]
            kept += [option] * (len(values) - len(kept))
            for i, value in zip(positions, kept, strict=True):
                canonical[i] = value
        return tuple(canonical)

    def to_text(self, arch: Arch) -> str:
        """The text form of an architecture: `(0, 2, 1)` becomes `"0-2-1"`."""
        return "-".join(map(str, self.check(arch)))

    def from_text(self, text: str) -> Arch:
        """The architecture of a text form: `"0-2-1"` becomes `(0, 2, 1)`.

        Raises:
            ValueError: if the text is not of that form, or the architecture is not in the space.
        """
        parts = text.strip().split("-")
        if not all(p.isascii() and p.isdigit() for p in parts):
            raise ValueError(f"architecture {text!r} is not of the form '0-2-1'")
        return self.check(tuple(map(int, parts)))

    def choices(self, arch: Arch) -> dict[str, Option]:
        """The names of the active decisions with their chosen options, for people."""
        self.check(arch)
        return {
            str(d.name): d.options[o]
            for d, o, active in zip(self.decisions, arch, self.active(arch), strict=True)
            if active
        }

    def one_hot(self, arch: Arch) -> npt.NDArray[np.float32]:
        """The concatenated one-hot encodings of all decisions, shape (sum of option counts,)."""
        self.check(arch)
        vector = np.zeros(int(self.counts.sum()), np.float32)
        vector[np.concatenate(([0], self.counts.cumsum()[:-1])) + np.array(arch, np.int64)] = 1
        return vector

    # -- records ---------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """A description that JSON can hold; `from_dict` restores an equal space."""
        at = self.index
        return {
            "schema": 1,
            "decisions": [
                {"name": d.name, "options": list(d.options), "ranks": list(self.ranks(d))}
                for d in self.decisions
            ],
            "uses": {
                str(at[d]): [[[at[c], sorted(allowed)] for c, allowed in use] for use in uses]
                for d, uses in self.uses.items()
            },
            "commutations": [[[at[d] for d in c.decisions], c.option] for c in self.commutations],
            **({"allowed": list(map(list, self.allowed))} if self.is_view else {}),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_dict` described, with new decisions.

        Raises:
            ValueError: if the description has an unknown schema.
        """
        if record.get("schema") != 1:
            raise ValueError(f"search space has schema {record.get('schema')!r}; this reads 1")
        ds = [Decision(d["options"], d["name"]) for d in record["decisions"]]
        space = cls(
            ds,
            uses={
                ds[int(i)]: [tuple((ds[c], frozenset(a)) for c, a in use) for use in uses]
                for i, uses in record["uses"].items()
            },
            commutations=[
                Commutation(tuple(ds[i] for i in members), option)
                for members, option in record["commutations"]
            ],
            ranks={
                d: r["ranks"]
                for d, r in zip(ds, record["decisions"], strict=True)
                if not d.is_number
            },
        )
        if "allowed" not in record:
            return space
        return space.restricted(dict(zip(ds, record["allowed"], strict=True)))


def _allowed(
    decisions: Sequence[Decision], allowed: Mapping[Decision, Iterable[int]]
) -> tuple[tuple[int, ...], ...]:
    """The allowed options of each decision, in order."""
    every = []
    for decision in decisions:
        count = len(decision.options)
        options = tuple(sorted(set(allowed.get(decision, range(count)))))
        if not options or options[0] < 0 or options[-1] >= count:
            raise ValueError(
                f"{decision.name}: options {list(options)} cannot be those allowed: give at least "
                f"one of 0..{count - 1}"
            )
        every.append(options)
    return tuple(every)


def _rectangle(allowed: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """The allowed options of each decision in a row, the last of them repeated to equal length."""
    width = max(map(len, allowed), default=1)
    rows = [(*options, *[options[-1]] * (width - len(options))) for options in allowed]
    return np.array(rows, dtype=np.int64).reshape(len(allowed), width)


def _check_uses(decisions: Sequence[Decision], uses: Mapping[Decision, Sequence[Use]]) -> None:
    members = set(decisions)
    for decision, places in uses.items():
        conditions = [condition for use in places for condition in use]
        for other in (decision, *(d for d, _ in conditions)):
            if other not in members:
                raise ValueError(
                    f"uses of {decision!r} are declared with {other!r}, which is not in the space: "
                    "hold every decision that matters in a module of the network"
                )
        for other, allowed in conditions:
            if not allowed <= set(range(len(other.options))):
                raise ValueError(
                    f"uses of {decision!r} are declared under options {sorted(allowed)} of "
                    f"{other!r}, which has 0..{len(other.options) - 1}"
                )


def _check_commutations(
    commutations: Iterable[Commutation], uses: Mapping[Decision, Sequence[Use]]
) -> None:
    conditions = {d for all_uses in uses.values() for use in all_uses for d, _ in use}
    for decision in (d for c in commutations for d in c.decisions):
        if decision in conditions or () not in uses.get(decision, ((),)):
            raise ValueError(
                f"{decision.name} cannot commute: it is inside another choice or holds other "
                "decisions, which would not move with it; leave it out of the Commutation"
            )


def _check_names(decisions: Iterable[Decision]) -> None:
    seen: dict[str, Decision] = {}
    for decision in decisions:
        if decision.name is None:
            raise ValueError(f"{decision!r} has no name; give ms.choose(..., name=...) one")
        if decision.name in seen:
            raise ValueError(
                f"two decisions are named {decision.name!r}: {seen[decision.name]!r} and "
                f"{decision!r}; share one object if they are one decision, else rename one or "
                "make it inside `with ms.scope(...)`"
            )
        seen[decision.name] = decision
