"""Finds what can vary in a network, on copies without values, and tries what comes of it."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.conversion.attributes import heads_of
from manyshot.conversion.blocks import runs
from manyshot.conversion.groups import Group, Layout, fix, groups_of, length, resolved
from manyshot.conversion.rewriting import Plan, rewrite, tensors_of
from manyshot.conversion.rules import Dims
from manyshot.conversion.tracing import Trace
from manyshot.conversion.tracing import run as run_traced
from manyshot.nn.converted import Converted, Kept, Kind
from manyshot.nn.inputs import Inputs, as_call, without_values
from manyshot.nn.modes import evaluating
from manyshot.nn.multihead import MultiheadAttention
from manyshot.nn.outcomes import Remembering
from manyshot.nn.shapes import described, innermost, meta_twin, on_meta
from manyshot.nn.structure import search_space
from manyshot.seeding import numpy_rng
from manyshot.space import Decision, SearchSpace, choose
from manyshot.space.decision import round_number

TRAINING = "(train mode)"
"""What cannot be looked into if a network does not run in train mode."""
RANDOM = 8
"""How many random architectures are tried besides the smallest and the largest."""


class ConversionError(ValueError):
    """A network cannot be converted; the message says why and what can be done."""


class Converter:
    """Finds what can vary in a network, on copies without values.

    Attributes:
        plan: what varies.
        opaque: modules that could not be looked into, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Inputs,
        keep: Sequence[str],
        *,
        depth: bool,
        heads: bool,
    ) -> None:
        self._twin: nn.Module = meta_twin(model)[id(model)].eval()
        self._inputs, self._heads = without_values(inputs), heads
        self.opaque: dict[str, str] = {}
        self._remembering = Remembering()
        self._trains_more = False  # whether modules run that only train mode has
        self._real = (model, inputs)
        self._refused: dict[str, str] = {}  # depths and kernels that do not run, by name
        self._unlike: set[tuple[str, str]] = set()  # attributes that only looked like numbers of it
        self._trace, traced = self._traced()
        self._paths = {module: path for path, module in traced.named_modules()}
        self.plan = self._planned(traced)
        self._bindable = self._attributes_met()
        self._runs = runs(self._trace, traced) if depth else []
        self._listed = self._widths()
        self._keep(keep)

    def _traced(self) -> tuple[Trace, nn.Module]:
        """A trace and the copy that it ran; what cannot run becomes opaque, the innermost first."""
        while True:
            copied = copy.deepcopy(self._twin)
            trace = Trace(copied, heads_of if self._heads else lambda module: set())
            args, kwargs = as_call(self._inputs)
            try:
                run_traced(trace, copied, args, kwargs)
            except Exception as error:
                inner, _ = innermost(error, copied)
                path = next(p for p, m in copied.named_modules() if m is inner)
                if not path or path in self.opaque:
                    raise ConversionError(
                        f"convert: the network cannot run on tensors without values: "
                        f"{described(error, copied)}"
                    ) from error
                self._make_opaque(path, described(error, copied))
                continue
            self._trace_training(trace, copied)
            opaque = {copied.get_submodule(path) for path in self.opaque if path != TRAINING}
            for call in trace.calls:
                if call.module in opaque:
                    for layout in (d for value in call.inputs for d in trace.value_dims[value]):
                        fix(layout, f"{type(call.module).__name__} cannot be looked into")
            return trace, copied

    def _trace_training(self, trace: Trace, copied: nn.Module) -> None:
        """Follows the network in train mode too: heads that only training has meet channels."""
        args, kwargs = as_call(self._inputs)
        copied.train()
        try:
            run_traced(trace, copied, args, kwargs)
        except Exception as error:
            self.opaque[TRAINING] = described(error, copied)
        copied.eval()
        ran = {call.module for call in trace.calls}
        self._trains_more = TRAINING not in self.opaque and bool(trace.trained - ran)

    def _make_opaque(self, path: str, why: str) -> None:
        """Lets a module of the twin give tensors of the shapes that the real one gives."""
        outputs: list[Any] = []
        model, inputs = self._real
        handle = model.get_submodule(path).register_forward_hook(
            lambda module, args, output: outputs.append(without_values(output))
        )
        try:
            run_real(model, inputs)
        finally:
            handle.remove()
        shown = iter(itertools.cycle(outputs))
        self._twin.get_submodule(path).forward = lambda *args, **kwargs: pytree.tree_map(
            lambda v: torch.empty_like(v) if isinstance(v, Tensor) else v, next(shown)
        )
        self.opaque[path] = why

    def _planned(self, traced: nn.Module) -> Plan:
        names = {
            id(tensor): name
            for name, tensor in (*traced.named_parameters(), *traced.named_buffers())
        }
        dims: dict[str, dict[str, Dims]] = {}
        summed: dict[str, dict[str, tuple[int, ...]]] = {}
        given: dict[str, dict[str, tuple[int, ...]]] = {}
        read: set[str] = set()
        ran = self._trace.trained.union(call.module for call in self._trace.calls)
        for path, attribute, tensor in tensors_of(traced):
            name, module = names[id(tensor)], traced.get_submodule(path)
            dims.setdefault(path, {})[attribute] = self._trace.parameters[name]
            for noted, by_path in ((self._trace.summed, summed), (self._trace.given, given)):
                at = tuple(sorted(dim for held, dim in noted if held == name))
                if at:
                    by_path.setdefault(path, {})[attribute] = at
            readers = self._trace.readers.get(name, set())
            if readers - {module}:
                read.add(path)
            if module not in ran and not readers or self._is_inside_opaque(path):
                for layout in self._trace.parameters[name]:
                    fix(layout, "it does not run, or cannot be looked into")
        return Plan(dims, summed, given, read)

    def _is_inside_opaque(self, path: str) -> bool:
        return any(path == held or path.startswith(f"{held}.") for held in self.opaque)

    def _attributes_met(self) -> dict[str, list[Layout]]:
        """The layouts that operations met right inside every module, by its path."""
        return {
            self._paths[module]: [layout for layout in met]
            for module, met in self._trace.met.items()
        }

    def _widths(self) -> dict[Group, list[tuple[str, bool]]]:
        """The groups that are widths or heads, each with the modules that hold it.

        Those are the groups of what products give: the rows of weights. A flag says whether the
        module gives the group.
        """
        holders: dict[Group, dict[tuple[str, bool], None]] = {}
        for path, tensors in self.plan.dims.items():
            for name, dims in tensors.items():
                gives = self.plan.given.get(path, {}).get(name, ())
                for i, layout in enumerate(dims):
                    for group in groups_of([layout]):
                        holders.setdefault(group, {})[path, i in gives] = None
        return {
            group: list(modules)
            for group, modules in holders.items()
            if any(given for _, given in modules)
        }

    def _keep(self, patterns: Sequence[str]) -> None:
        for group, modules in self._listed.items():
            for path, given in modules:
                pattern = next((p for p in patterns if fnmatch.fnmatchcase(path, p)), None)
                if given and pattern is not None:
                    group.fix(f"keep has {pattern!r}")
        self._runs = [
            run
            for run in self._runs
            if not any(fnmatch.fnmatchcase(path, p) for path in run.blocks for p in patterns)
        ]

    def decide(self, ratios: Sequence[float], divisor: int, *, kernel: bool) -> None:
        """Gives every free group, run of blocks and kernel a decision, and tries what comes of it.

        Args:
            ratios: of the original's channels.
            divisor: of channels.
            kernel: whether kernels vary.
        """
        for group, modules in self._listed.items():
            if group.reason is None:
                options = _options(group, self._entries(group), ratios, divisor)
                if len(options) < 2:
                    group.fix(f"{group.units} channels have no other width that {divisor} divides")
                else:
                    kind = "heads" if group.heads else "width"
                    self.plan.widths[group] = choose(options, f"{self._name(modules)}.{kind}")
        for run in self._runs:
            depths = tuple(range(1, len(run.blocks) + 2))
            self.plan.depths[run] = choose(depths, run.name)
        if kernel:
            self._decide_kernels()
        self._try_all()

    def _entries(self, group: Group) -> int:
        """How many channels a unit has where products give it."""
        found = [
            entries
            for path, given in self._listed[group]
            if given
            for name, at in self.plan.given[path].items()
            for i in at
            for root, entries in resolved(self.plan.dims[path][name][i] or ())
            if root is group
        ]
        return min(found, default=1)

    @staticmethod
    def _name(modules: Sequence[tuple[str, bool]]) -> str:
        paths = [path for path, given in modules if given] or [path for path, _ in modules]
        return paths[0] or "network"

    def _decide_kernels(self) -> None:
        for path, module in self._twin.named_modules():
            if type(module) is nn.Conv2d and module.padding_mode == "zeros":
                sides, dilations = set(module.kernel_size), set(module.dilation)
                side, dilation = module.kernel_size[0], module.dilation[0]
                fits = module.padding == (side // 2 * dilation,) * 2
                if len(sides) == len(dilations) == 1 and side >= 5 and side % 2 and fits:
                    decision = choose(tuple(range(3, side + 1, 2)), f"{path}.kernel")
                    self.plan.kernels[path] = decision

    def _try_all(self) -> None:
        """Runs small architectures on meta tensors until all do; what does not run is fixed."""
        while self.plan.decisions():
            twin = rewrite(copy.deepcopy(self._twin), self.plan)
            space = search_space(twin)
            error = self._run(twin, space, space.largest)
            if error is not None:
                self._unbind(error, twin)
                continue
            failures = list(self._failures(twin, space))
            if not failures:
                return
            mended = [self._mend(error, twin) for _, error in failures]
            if not any(mended):  # what could follow is tried before anything is given up
                for decision, error in failures:
                    self._drop(decision, f"another number does not run: {described(error, twin)}")

    def _failures(
        self, twin: nn.Module, space: SearchSpace
    ) -> Iterator[tuple[Decision, Exception]]:
        """Decisions that do not run at their smallest; or else one that does not among others."""
        rng = numpy_rng("conversion", "checks")
        archs = (space.smallest, *(space.sample(rng) for _ in range(RANDOM)))
        failed = next((arch for arch in archs if self._run(twin, space, arch) is not None), None)
        if failed is None:
            return
        alone = False
        for at, decision in enumerate(space.decisions):
            arch = (*space.largest[:at], space.smallest[at], *space.largest[at + 1 :])
            error = self._run(twin, space, arch)
            if error is not None:
                alone = True
                yield decision, error
        for at, decision in enumerate(space.decisions):
            if not alone:
                error = self._run(twin, space, (*failed[: at + 1], *space.largest[at + 1 :]))
                if error is not None:
                    yield decision, error
                    return

    def _run(self, twin: nn.Module, space: SearchSpace, arch: Any) -> Exception | None:
        args, kwargs = as_call(self._inputs)
        try:
            with on_meta(space, arch), self._remembering:
                twin(*args, **kwargs)
                if self._trains_more:
                    twin.train()(*args, **kwargs)
        except Exception as error:
            return error
        finally:
            twin.eval()
        return None

    def _mend(self, error: Exception, twin: nn.Module) -> bool:
        """Lets attributes of the module that failed follow the layouts that it met.

        A `forward` reads its numbers of channels and heads from attributes of its module. One that
        equals the length of exactly one layout that the module met may be it.
        """
        inner, _ = innermost(error, twin)
        path = _path_of(inner, twin, self.plan)
        while True:  # it may have been given something wrong by the modules around it
            if self._bind(path):
                return True
            if not path:
                return False
            path = path.rpartition(".")[0]

    def _bind(self, path: str) -> bool:
        """Lets attributes of one module follow what it met; returns whether there were any."""
        module = self._twin.get_submodule(path)
        if type(module).__module__.startswith("torch.nn.") or isinstance(
            module, MultiheadAttention
        ):
            return False  # numbers of these follow from their parameters
        met: dict[int, set[Layout]] = {}
        for layout in self._bindable.get(path, ()):
            whole = resolved(layout)
            met.setdefault(length(whole), set()).add(whole)
        bound = False
        for name, value in vars(module).items():
            number, in_tuple = _number(value)
            layouts = met.get(number, set()) if number is not None else set()
            varying = [layout for layout in layouts if self.plan.varies(layout)]
            if len(varying) == 1 and (path, name) not in (*self.plan.bound, *self._unlike):
                self.plan.bound[path, name] = (varying[0], in_tuple)
                bound = True
        return bound

    def _unbind(self, error: Exception, twin: nn.Module) -> None:
        """Lets attributes go their own way again that broke the largest architecture.

        Raises:
            ConversionError: if none were bound that could have.
        """
        if not self.plan.bound:
            raise ConversionError(f"convert: the largest does not run: {described(error, twin)}")
        inner, _ = innermost(error, twin)
        path = _path_of(inner, twin, self.plan)
        names = path.split(".") if path else []
        inside = {".".join(names[:i]) for i in range(len(names) + 1)}
        around = [key for key in self.plan.bound if key[0] in inside]
        for key in around or list(self.plan.bound):
            self._unlike.add(key)
            del self.plan.bound[key]

    def _drop(self, dropped: Decision, why: str) -> None:
        """Lets what a decision would vary stay as it is."""
        for group, decision in list(self.plan.widths.items()):
            if decision is dropped:
                group.fix(why)
                del self.plan.widths[group]
        for run, decision in list(self.plan.depths.items()):
            if decision is dropped:
                self._refused[run.name] = why
                del self.plan.depths[run]
        for path, decision in list(self.plan.kernels.items()):
            if decision is dropped:
                self._refused[f"{path}.kernel"] = why
                del self.plan.kernels[path]
        for key, (layout, _) in list(self.plan.bound.items()):
            if not self.plan.varies(layout):
                del self.plan.bound[key]

    def nothing(self) -> str:
        """Why nothing can vary."""
        kept = "; ".join(f"{k.name} ({k.number}): {k.reason}" for k in list(self.kept())[:3])
        return f"convert: nothing in the network can vary: {kept or 'it has no products'}"

    def converted(self) -> Iterator[Converted]:
        """What varies."""
        for group, decision in self.plan.widths.items():
            kind: Kind = "heads" if group.heads else "width"
            modules = dict.fromkeys(path for path, _ in self._listed[group])
            yield Converted(str(decision.name), kind, _whole(decision), tuple(modules))
        for run, decision in self.plan.depths.items():
            yield Converted(str(decision.name), "depth", _whole(decision), run.blocks)
        for path, decision in self.plan.kernels.items():
            yield Converted(str(decision.name), "kernel", _whole(decision), (path,))

    def kept(self) -> Iterator[Kept]:
        """What does not vary, and why."""
        for group, modules in self._listed.items():
            if group not in self.plan.widths:
                kind: Kind = "heads" if group.heads else "width"
                paths = tuple(dict.fromkeys(path for path, _ in modules))
                yield Kept(self._name(modules), kind, group.units, str(group.reason), paths)
        for name, why in self._refused.items():
            kind = "kernel" if name.endswith(".kernel") else "depth"
            yield Kept(name, kind, 0, why, ())

    def attributes(self) -> dict[str, tuple[str, ...]]:
        """Attributes of modules that follow decisions, and the names of these."""
        return {
            f"{path}.{name}".lstrip("."): tuple(
                str(self.plan.widths[group].name)
                for group in groups_of([layout])
                if group in self.plan.widths
            )
            for (path, name), (layout, _) in self.plan.bound.items()
        }


def _options(group: Group, entries: int, ratios: Sequence[float], divisor: int) -> tuple[int, ...]:
    """The numbers of units between which a group chooses, the original's among them."""
    if group.heads:
        counts = {max(1, round(group.units * ratio)) for ratio in ratios}
    else:
        step = divisor // math.gcd(divisor, entries)
        counts = {round_number(group.units * ratio, step) for ratio in ratios}
    return tuple(sorted({n for n in counts if n < group.units} | {group.units}))


def _whole(decision: Decision) -> tuple[int, ...]:
    return tuple(int(value) for value in decision.values)


def _number(value: Any) -> tuple[int | None, bool]:
    """An attribute as a number, and whether it is a tuple of one."""
    if isinstance(value, tuple) and len(value) == 1:
        number, _ = _number(value[0])
        return number, True
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 1
    return (value if is_number else None), False


def _path_of(module: nn.Module, rewritten: nn.Module, plan: Plan) -> str:
    """Where a module of a rewritten network is in the original, where blocks are not wrapped."""
    path: str = next(p for p, m in rewritten.named_modules() if m is module)
    for run in plan.depths:
        for block in run.blocks:
            inside = f"{block}.blocks.0"
            if path == inside or path.startswith(f"{inside}."):
                path = block + path[len(inside) :]
    return path


def run_real(model: nn.Module, inputs: Inputs) -> Any:
    """What a network gives in eval mode, with its values."""
    args, kwargs = as_call(inputs)
    with evaluating(model), torch.random.fork_rng(devices=[]):
        return model(*args, **kwargs)
