"""Records multiply-adds per module on meta tensors, and finds which decisions they depend on."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from manyshot.nn.shapes import dry, meta_forward, meta_state, model_dtype
from manyshot.nn.structure import walk
from manyshot.space import Arch, SearchSpace, Use

Counts = dict[nn.Module, int]


@final
class MacCounter(TorchDispatchMode):
    """Counts multiply-adds of every operation inside, by the innermost module that runs it."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: defaultdict[nn.Module, int] = defaultdict(int)
        self._stack: list[nn.Module] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Follows which module of `model` is running."""
        handles = []
        for module in model.modules():
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any) -> None:
        self._stack.append(module)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self._stack.pop()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flops = flop_registry.get(func._overloadpacket)
        if flops is not None and self._stack:
            self.counts[self._stack[-1]] += flops(*args, **(kwargs or {}), out_val=out) // 2
        return out


@final
class Recording:
    """Runs architectures of one network on meta tensors and keeps the counts of each module."""

    def __init__(self, model: nn.Module, space: SearchSpace, input_shape: Sequence[int]) -> None:
        self.model, self.space = model, space
        self.images = torch.empty((1, *input_shape), device="meta", dtype=model_dtype(model))
        self.state: dict[str, Tensor] = meta_state(model)
        self.paths: dict[nn.Module, str] = {}
        self.uses: defaultdict[nn.Module, list[Use]] = defaultdict(list)
        for path, module, use in walk(model):
            self.paths.setdefault(module, path)
            self.uses[module].append(use)

    def count(self, arch: Arch) -> Counts:
        """Multiply-adds of one image, by module, in `arch`."""
        counter = MacCounter()
        with dry(self.model), counter.watching(self.model):
            meta_forward(self.model, self.space, arch, self.images, self.state)
        return dict(counter.counts)

    def active(self, module: nn.Module, arch: Arch) -> bool:
        """Whether `module` is in the network of `arch`."""
        index = self.space.index
        return any(all(arch[index[d]] in allowed for d, allowed in use) for use in self.uses[module])

    def positions(self) -> dict[nn.Module, tuple[int, ...]]:
        """For every module with multiply-adds, the decisions that change them.

        Those under which it is in the network, and sizes: each numeric decision is varied alone,
        from small and from large architectures in which the module is active.
        """
        gates = list(dict.fromkeys(use for uses in self.uses.values() for use in uses))
        found: defaultdict[nn.Module, set[int]] = defaultdict(set)
        numeric = [i for i, d in enumerate(self.space.decisions) if d.is_number]
        starts = [self.space.largest, *([self.space.smallest] if numeric else [])]
        for base in itertools.chain.from_iterable(self._covering(gates, s) for s in starts):
            counts = self.count(base)
            for module in counts:
                found[module].update(self.space.index[d] for u in self.uses[module] for d, _ in u)
            for i in numeric:
                for option in range(int(self.space.counts[i])):
                    varied = (*base[:i], option, *base[i + 1 :])
                    if option == base[i]:
                        continue
                    for module, macs in self.count(varied).items():
                        if counts.get(module, macs) != macs:
                            found[module].add(i)
        return {module: tuple(sorted(positions)) for module, positions in found.items()}

    def _covering(self, gates: Iterable[Use], start: Arch) -> Iterator[Arch]:
        """Variants of `start` such that every satisfiable gate holds in one of them."""
        index, pending = self.space.index, list(gates)
        while pending:
            fixed: dict[int, int] = {}
            left = []
            for use in pending:
                wanted = _satisfy([(index[d], allowed) for d, allowed in use], fixed, start)
                if wanted is None:
                    left.append(use)
                else:
                    fixed = wanted
            if len(left) == len(pending):
                return  # gates that contradict themselves: never in any network
            pending = left
            yield tuple(fixed.get(i, option) for i, option in enumerate(start))


def _satisfy(
    literals: Iterable[tuple[int, frozenset[int]]], fixed: dict[int, int], start: Arch
) -> dict[int, int] | None:
    """`fixed` extended so that all literals hold, keeping to `start` where allowed; or None."""
    extended = dict(fixed)
    for i, allowed in literals:
        preferred = start[i] if start[i] in allowed else min(allowed)
        if extended.setdefault(i, preferred) not in allowed:
            return None
    return extended


def covering_cells(
    space: SearchSpace,
    cells: dict[tuple[int, ...], set[tuple[int, ...]]],
    visit: Callable[[Arch], None],
) -> None:
    """Visits architectures until every cell (options at positions) has occurred; empties `cells`.

    Greedy: each architecture takes one pending cell of as many sets of positions as agree.
    """
    while cells:
        fixed: dict[int, int] = {}
        for positions in sorted(cells, key=lambda p: -len(cells[p])):
            for cell in sorted(cells[positions]):
                wanted = dict(zip(positions, cell, strict=True))
                if all(fixed.get(p, o) == o for p, o in wanted.items()):
                    fixed |= wanted
                    break
        arch = tuple(fixed.get(i, option) for i, option in enumerate(space.largest))
        visit(arch)
        for positions in list(cells):
            cells[positions].discard(tuple(arch[p] for p in positions))
            if not cells[positions]:
                del cells[positions]
