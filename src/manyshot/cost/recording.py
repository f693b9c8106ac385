"""Runs architectures on meta tensors, and finds which decisions an observation depends on."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar, final

import numpy as np
from torch import nn

from manyshot.cost.watch import Watch
from manyshot.nn.choice import Choice
from manyshot.nn.inputs import Inputs, as_call
from manyshot.nn.shapes import check_channels, explained, meta_twin, on_meta
from manyshot.nn.structure import sizes_of, walk
from manyshot.seeding import numpy_rng
from manyshot.space import Arch, SearchSpace, Use

V = TypeVar("V")
Positions: TypeAlias = tuple[int, ...]
Observe: TypeAlias = Callable[[Arch], Mapping[nn.Module, V]]
Cells: TypeAlias = dict[Positions, V]
"""What was observed, by option indices at some positions; cells in no network are left out."""

MAX_RUNS = 20_000
MAX_VARIED = 400
"""In a network that needs more runs to vary every decision, what modules hold is tried first."""


class CostMismatch(RuntimeError):
    """What was recorded is not what an extracted subnet has; the message names the module."""


@final
class Recording:
    """Observes the modules of one network in any architecture, on a meta twin of it.

    Attributes:
        model: the twin.
        original: for each module of the twin, the network's own.
        example: the inputs that it is run on.
        paths: where each module is.
        uses: under which options each module is in the network.
    """

    def __init__(
        self,
        model: nn.Module,
        space: SearchSpace,
        inputs: Inputs,
        *,
        watch_inputs: bool = False,
    ) -> None:
        """Makes the twin that is observed.

        Args:
            model: the network, which is not touched.
            space: its search space.
            inputs: what its `forward` takes, without values.
            watch_inputs: whether the shapes of every module's inputs are observed too.
        """
        memo = meta_twin(model)
        self.space = space
        self.model: nn.Module = memo[id(model)].eval()
        self.original = {memo[id(m)]: m for m in model.modules() if id(m) in memo}
        self.example = inputs
        self.paths: dict[nn.Module, str] = {}
        self.uses: defaultdict[nn.Module, list[Use]] = defaultdict(list)
        for path, module, use in walk(self.model):
            self.paths.setdefault(module, path)
            self.uses[module].append(use)
        self._varying = self._free_sizes()
        self._watch = Watch(self.model, inputs=watch_inputs)
        check_channels(self.model)

    def _free_sizes(self) -> list[int]:
        """The positions of the decisions that may change shapes: all that are held as sizes."""
        sizes = {
            decision
            for module in self.model.modules()
            if not isinstance(module, Choice)
            for _, size in sizes_of(module, "")
            for decision in size.decisions()
        }
        return [i for i, d in enumerate(self.space.decisions) if d.is_number or d in sizes]

    def _run(self, arch: Arch) -> None:
        self._watch.clear()
        args, kwargs = as_call(self.example)
        with explained(self.model, self.example), on_meta(self.space, arch), self._watch:
            self.model(*args, **kwargs)

    def macs(self, arch: Arch) -> dict[nn.Module, int]:
        """The multiply-adds of an architecture by module."""
        self._run(arch)
        return dict(self._watch.counts)

    def inputs(self, arch: Arch) -> dict[nn.Module, tuple[str, ...]]:
        """By module, the shapes of the inputs of each of its calls in `arch`, as text."""
        self._run(arch)
        return dict(self._watch.inputs)

    def active(self, module: nn.Module, arch: Arch) -> bool:
        """Whether `module` is in the network of `arch`."""
        at = self.space.index
        return any(all(arch[at[d]] in allowed for d, allowed in use) for use in self.uses[module])

    def gates(self, module: nn.Module) -> set[int]:
        """The decisions under which `module` is in the network."""
        return {self.space.index[d] for use in self.uses[module] for d, _ in use}

    def dependences(self, observe: Observe[V]) -> dict[nn.Module, Positions]:
        """For every module observed, the decisions that change what is observed while it is in.

        Decisions held as sizes are varied one at a time, from small and from large architectures
        that together contain every module. A module held in several places depends on all the
        decisions that lead to them.
        """
        everywhere = dict.fromkeys(use for uses in self.uses.values() for use in uses)
        starts = [self.space.largest, *([self.space.smallest] if self._varying else [])]
        depends: defaultdict[nn.Module, set[int]] = defaultdict(set)
        for base in dict.fromkeys(a for s in starts for a in self._covering(everywhere, s)):
            seen = observe(base)
            for module in seen:
                depends[module].update(self.gates(module) if len(self.uses[module]) > 1 else ())
            for i in self._varying:
                for option in range(int(self.space.counts[i])):
                    varied = (*base[:i], option, *base[i + 1 :])
                    if option != base[i]:
                        for module in _differences(seen, observe(varied)):
                            if self.active(module, base) and self.active(module, varied):
                                depends[module].add(i)
        return {module: tuple(sorted(positions)) for module, positions in depends.items()}

    @property
    def is_large(self) -> bool:
        """Whether varying every decision by itself, as `dependences` does, takes too many runs."""
        varied = sum(int(self.space.counts[i]) - 1 for i in self._varying)
        return 2 * varied > MAX_VARIED

    def held(self, observe: Observe[V]) -> dict[nn.Module, Positions]:
        """For every module observed, the decisions that it holds as sizes.

        These are all that it depends on, unless it sees others through the shapes of its inputs.
        Then what is observed contradicts itself, and `dependences` is what tells.
        """
        everywhere = dict.fromkeys(use for uses in self.uses.values() for use in uses)
        depends: dict[nn.Module, Positions] = {}
        for base in self._covering(everywhere, self.space.largest):
            for module in observe(base):
                inside = {
                    self.space.index[d] for _, s in sizes_of(module, "") for d in s.decisions()
                }
                inside |= self.gates(module) if len(self.uses[module]) > 1 else set()
                depends[module] = tuple(sorted(inside))
        return depends

    def _covering(self, gates: Iterable[Use], start: Arch) -> Iterator[Arch]:
        """Variants of `start` such that every satisfiable gate holds in one of them."""
        pending = list(gates)
        while pending:
            fixed: dict[int, int] = {}
            left = []
            for use in pending:
                wanted = self.satisfy(use, fixed, start)
                if wanted is None:
                    left.append(use)
                else:
                    fixed = wanted
            if len(left) == len(pending):
                return  # gates that contradict themselves: never in any network
            pending = left
            yield tuple(fixed.get(i, option) for i, option in enumerate(start))

    def satisfy(
        self, use: Use, fixed: dict[int, int], start: Arch | None = None
    ) -> dict[int, int] | None:
        """Options extended so that a module is in the network by one of its uses.

        Args:
            use: under which options it is in.
            fixed: option indices by position.
            start: the architecture that is kept to where allowed; by default the largest.

        Returns:
            `fixed` and what else has to be so; None if it contradicts the use.
        """
        start = self.space.largest if start is None else start
        extended = dict(fixed)
        for decision, allowed in use:
            i = self.space.index[decision]
            preferred = start[i] if start[i] in allowed else min(allowed)
            if extended.setdefault(i, preferred) not in allowed:
                return None
        return extended

    def tabulate(
        self, observe: Observe[V], depends: Mapping[nn.Module, Positions], nothing: V
    ) -> dict[nn.Module, Cells[tuple[V, Arch]]]:
        """What is observed of modules at all options of the decisions that they depend on.

        Architectures are chosen greedily: each takes one pending cell of as many modules as agree,
        and random options elsewhere. With each observation comes the first architecture that had
        it.

        Args:
            observe: gives the observation of each module in an architecture.
            depends: the decisions that each module depends on.
            nothing: the observation of a module that does not run.

        Raises:
            CostMismatch: if one cell is observed twice and differs.
            ValueError: if there are too many cells.
        """
        rng = numpy_rng("recording", "checks")
        pending = self._pending(depends)
        cells: dict[nn.Module, Cells[tuple[V, Arch]]] = {module: {} for module in depends}
        while pending:
            fixed: dict[int, int] = {}
            for group in sorted(pending, key=lambda g: -len(pending[g])):
                for wanted in pending[group].values():
                    if all(fixed.get(p, o) == o for p, o in wanted.items()):
                        fixed |= wanted
                        break
            arch = tuple(fixed.get(i, o) for i, o in enumerate(self.space.sample(rng)))
            seen = observe(arch)
            for module, positions in depends.items():
                if not self.active(module, arch):
                    continue
                cell, value = tuple(arch[p] for p in positions), seen.get(module, nothing)
                first = cells[module].setdefault(cell, (value, arch))[0]
                if first != value:
                    raise CostMismatch(self._conflict(module, positions, first, value))
                group = (positions, tuple(self.uses[module]))
                pending.get(group, {}).pop(cell, None)
            pending = {group: left for group, left in pending.items() if left}
        return cells

    def _pending(
        self, depends: Mapping[nn.Module, Positions]
    ) -> dict[tuple[Positions, tuple[Use, ...]], Cells[dict[int, int]]]:
        """The cells to visit, with the options that put their module into the network."""
        pending: dict[tuple[Positions, tuple[Use, ...]], Cells[dict[int, int]]] = {}
        for module, positions in depends.items():
            uses = tuple(self.uses[module])
            shape = [int(self.space.counts[p]) for p in positions]
            if np.prod(shape, dtype=np.float64) > MAX_RUNS:
                raise ValueError(
                    f"module {self.paths[module]!r} depends on {self._names(positions)} at once, "
                    f"{int(np.prod(shape, dtype=np.float64)):,} combinations (at most "
                    f"{MAX_RUNS:,}): let fewer sizes meet in it"
                )
            if (positions, uses) in pending:
                continue
            cells = pending[positions, uses] = {}
            for cell in itertools.product(*map(range, shape)):
                fixed = dict(zip(positions, cell, strict=True))
                options = (self.satisfy(use, fixed) for use in uses)
                wanted = next((option for option in options if option is not None), None)
                if wanted is not None:
                    cells[cell] = wanted
        return {group: cells for group, cells in pending.items() if cells}

    def _names(self, positions: Positions) -> str:
        return ", ".join(str(self.space.decisions[p].name) for p in positions) or "no decision"

    def _conflict(self, module: nn.Module, positions: Positions, first: object, now: object) -> str:
        return (
            f"module {self.paths[module]!r}: its cost depends on more than "
            f"{self._names(positions)} ({first} and {now} at the same options). Let it hold every "
            "decision that its forward reads (self.width = width, then ms.value(self.width)), not "
            "carry it in attributes"
        )

    def expand(
        self, module: nn.Module, positions: Positions, cells: Cells[V]
    ) -> tuple[Positions, Any]:
        """A table over `positions` and the gates of a module: zero where it is not in the network.

        Args:
            module: the module.
            positions: the decisions that it depends on while it is in.
            cells: its observation at their options.

        Returns:
            The decisions of the table, and the table.

        Raises:
            ValueError: if the table would be too large.
        """
        axes = tuple(sorted({*positions, *self.gates(module)}))
        shape = [int(self.space.counts[p]) for p in axes]
        if np.prod(shape, dtype=np.float64) > 500 * MAX_RUNS:
            raise ValueError(
                f"module {self.paths[module]!r} depends on {self._names(axes)} at once; "
                "nest fewer choices or let fewer sizes meet in it"
            )
        first: Any = next(iter(cells.values()), 0)
        table = np.zeros(shape, np.asarray(first).dtype)
        arch = [0] * len(self.space)
        for cell in itertools.product(*map(range, shape)):
            for position, option in zip(axes, cell, strict=True):
                arch[position] = option
            if self.active(module, tuple(arch)):
                table[cell] = cells[tuple(arch[p] for p in positions)]
        return axes, table


def _differences(one: Mapping[nn.Module, V], other: Mapping[nn.Module, V]) -> list[nn.Module]:
    """The modules that were observed to differ."""
    return [module for module in {**one, **other} if one.get(module) != other.get(module)]
