"""Finds what can vary in a network, on copies without values, and tries what comes of it."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import math
from collections.abc import Container, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase as BatchNorm
from torch.utils import _pytree as pytree

from manyshot.conversion.attributes import heads_of
from manyshot.conversion.blocks import runs
from manyshot.conversion.groups import Group, Layout, fix, groups_of, length, resolved
from manyshot.conversion.rewriting import Plan, Within, has_hooks, rewrite, tensors_of
from manyshot.conversion.rules import Dims
from manyshot.conversion.tracing import Trace
from manyshot.conversion.tracing import run as run_traced
from manyshot.conversion.views import OtherMeaning, Views
from manyshot.nn.converted import Converted, Kept, Kind
from manyshot.nn.inputs import Inputs, as_call, batch_of, tensors_in, with_samples, without_values
from manyshot.nn.modes import evaluating
from manyshot.nn.multihead import MultiheadAttention
from manyshot.nn.outcomes import Remembering
from manyshot.nn.selection import current
from manyshot.nn.shapes import check_channels, described, innermost, meta_twin, on_meta, shapes_of
from manyshot.nn.structure import search_space
from manyshot.seeding import numpy_rng
from manyshot.space import Decision, SearchSpace, choose
from manyshot.space.decision import round_number

TRAINING = "(train mode)"
"""What cannot be looked into if a network does not run in train mode."""
DIVISOR = 8
"""Of numbers of channels, if nobody says another."""
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
        self._train_inputs = self._inputs
        self.opaque: dict[str, str] = {}
        self._remembering = Remembering()
        self._trains_more = False  # whether modules run that only train mode has
        self._real = (model, inputs)
        self._refused: dict[str, str] = {}  # depths and kernels that do not run, by name
        self._opened: set[str] = set()  # modules that kept their classes for once
        self._shapes: Any = None  # of what the network returns
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
        copied.train()
        error = self._train_error(trace, copied)
        if error is not None and batch_of(self._inputs) == 1:  # which batch norms cannot take
            self._train_inputs = with_samples(self._inputs, 2)
            error = self._train_error(trace, copied)
        if error is not None:
            self.opaque[TRAINING] = described(error, copied)
        copied.eval()
        ran = {call.module for call in trace.calls}
        self._trains_more = TRAINING not in self.opaque and bool(trace.trained - ran)

    def _train_error(self, trace: Trace, copied: nn.Module) -> Exception | None:
        args, kwargs = as_call(self._train_inputs)
        try:
            run_traced(trace, copied, args, kwargs)
        except Exception as error:
            return error
        return None

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
            why = None
            if module not in ran and not readers or self._is_inside_opaque(path):
                why = "it does not run, or cannot be looked into"
            elif "parametrizations" in path.split("."):
                why = "a parametrisation computes with it"
            if why is not None:
                for layout in self._trace.parameters[name]:
                    fix(layout, why)
        taken = set(
            groups_of(self._trace.parameters[held][dim] for held, dim in self._trace.summed)
        )
        for group in groups_of(layout for each in self._trace.stored for layout in each):
            if group not in taken:
                group.fix("nothing takes it in but an attribute, from where others may read it")
        return Plan(dims, summed, given, read)

    def _is_inside_opaque(self, path: str) -> bool:
        return any(path == held or path.startswith(f"{held}.") for held in self.opaque)

    def _attributes_met(self) -> dict[str, list[Layout]]:
        """The layouts that operations met right inside every module, by its path.

        Of modules that only call others, it is those of what went in and came out.
        """
        met = {self._paths[module]: list(layouts) for module, layouts in self._trace.met.items()}
        for call in self._trace.calls:
            if call.module not in self._trace.met:
                dims = (self._trace.value_dims[i] for i in (*call.inputs, *call.outputs))
                layouts = (layout for each in dims for layout in each[1:])
                known = met.setdefault(self._paths[call.module], [])
                known += [layout for layout in layouts if layout is not None]
        return met

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

    def decide(self, ratios: Sequence[float], divisor: int | None, *, kernel: bool) -> None:
        """Gives every free group, run of blocks and kernel a decision, and tries what comes of it.

        Args:
            ratios: of the original's channels.
            divisor: of channels; None for `DIVISOR`, or less for groups with no other multiple.
            kernel: whether kernels vary.
        """
        for group in self._listed:
            if group.reason is None:
                entries = self._entries(group)
                options = _options(group, entries, ratios, divisor or DIVISOR)
                halved = DIVISOR // 2
                while len(options) < 2 and divisor is None and halved:
                    options = _options(group, entries, ratios, halved)
                    halved //= 2
                if len(options) < 2:
                    by = f" that {divisor} divides" if divisor else ""
                    group.fix(f"{group.units * entries} channels have no other width{by}")
                else:
                    kind: Kind = "heads" if group.heads else "width"
                    taken = {str(decision.name) for decision in self.plan.widths.values()}
                    self.plan.widths[group] = choose(options, self._name(group, kind, taken))
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

    def _name(self, group: Group, kind: Kind, taken: Container[str] = ()) -> str:
        """A name for a group of what gives it: of modules that give no other one, if there are."""
        given = [path for path, gives in self._listed[group] if gives]
        alone = [path for path in given if self._free_given_by(path) <= {group}]
        within = (
            f"{path}.{name}"
            for path in given
            for name, at in self.plan.given[path].items()
            if group in groups_of(self.plan.dims[path][name][i] for i in at)
        )
        numbered = (f"{given[0]}.{number}" for number in itertools.count(2))
        for path in itertools.chain(alone, given, within, numbered):
            name = f"{path or 'network'}.{kind}"
            if name not in taken:
                return name
        raise AssertionError("there is no end of numbers")

    def _free_given_by(self, path: str) -> set[Group]:
        dims = self.plan.dims[path]
        given = self.plan.given.get(path, {}).items()
        groups = groups_of(dims[name][i] for name, at in given for i in at)
        return {group for group in groups if group.reason is None}

    def _decide_kernels(self) -> None:
        for path, module in self._twin.named_modules():
            alone = path not in self.plan.read and not has_hooks(module)
            if type(module) is nn.Conv2d and module.padding_mode == "zeros" and alone:
                sides, dilations = set(module.kernel_size), set(module.dilation)
                side, dilation = module.kernel_size[0], module.dilation[0]
                fits = module.padding == (side // 2 * dilation,) * 2
                if len(sides) == len(dilations) == 1 and side >= 5 and side % 2 and fits:
                    decision = choose(tuple(range(3, side + 1, 2)), f"{path}.kernel")
                    self.plan.kernels[path] = decision

    def _try_all(self) -> None:
        """Runs small architectures on meta tensors until all do; what does not run is fixed."""
        opened: tuple[set[str], set[str]] | None = None
        while self.plan.decisions():
            twin, space = self._rewritten_twin()
            error = self._run(twin, space, space.largest)
            if error is not None:
                if not self._open(error, twin):
                    self._unbind(error, twin)
                continue
            failures = list(self._failures(twin, space))
            if not failures:
                if not self._leave_what_is_kept():
                    return
                continue
            # What could follow is tried before anything is given up.
            if any([self._mend(error, twin) for _, error in failures]):
                continue
            failed = {str(decision.name) for decision, _ in failures}
            if opened is None:
                before = set(self.plan.read)
                if any([self._open(error, twin) for _, error in failures]):
                    opened = (self.plan.read - before, failed)
                    continue
            elif failed >= opened[1]:  # it did not help
                self.plan.read -= opened[0]
            opened = None
            for decision, error in failures:
                self._drop(decision, f"another number does not run: {described(error, twin)}")

    def _rewritten_twin(self) -> tuple[nn.Module, SearchSpace]:
        """A copy without values that has the decisions of the plan, watched as it runs."""
        twin = rewrite(copy.deepcopy(self._twin), self.plan)
        self._views, self._twin_paths = Views(twin), _paths_of(twin, self.plan)
        check_channels(twin)
        return twin, search_space(twin)

    def _leave_what_is_kept(self) -> bool:
        """Runs small before large architectures, and fixes what the modules met that then fail.

        Such modules keep something from one call to the next that another architecture cannot use.

        Returns:
            Whether there was any.
        """
        twin, space = self._rewritten_twin()
        rng = numpy_rng("conversion", "order")
        for arch in (space.smallest, space.largest, space.sample(rng), space.smallest):
            error = self._run(twin, space, arch)
            if error is None:
                continue
            path = _path_of(_module_of(error, twin), twin, self.plan)
            why = f"it does not run after other numbers did: {described(error, twin)}"
            while True:
                met = set(groups_of(self._bindable.get(path, ())))
                decisions = [d for group, d in self.plan.widths.items() if group in met]
                if decisions or not path:
                    break
                path = path.rpartition(".")[0]
            for decision in decisions or self.plan.decisions():
                self._drop(decision, why)
            return True
        return False

    def _open(self, error: Exception, twin: nn.Module) -> bool:
        """Lets modules keep their classes whose numbers a forward around them may have read.

        Layers of `ms.nn` have sizes where those of torch have numbers, and all of their weight.

        Returns:
            Whether there was any that did not keep it already.
        """
        path = _path_of(_module_of(error, twin), twin, self.plan)
        names = path.split(".") if path else []
        around = [".".join(names[:i]) for i in range(len(names) + 1)]
        children = {
            f"{outer}.{name}".lstrip(".")
            for outer in around
            for name, child in self._twin.get_submodule(outer).named_children()
            if not isinstance(child, BatchNorm)
        }
        new = {
            child
            for child in children - self.plan.read - self.plan.kernels.keys() - self._opened
            if any(map(self.plan.varies, itertools.chain(*self.plan.dims.get(child, {}).values())))
        }
        self._opened |= new
        self.plan.read |= new
        return bool(new)

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
        self._views.clear()
        try:
            with on_meta(space, arch), self._remembering:
                with self._views:
                    output = twin(*args, **kwargs)
                self._compare(twin, output)
                if self._trains_more:
                    args, kwargs = as_call(self._train_inputs)
                    twin.train()(*args, **kwargs)
        except Exception as error:
            return error
        finally:
            twin.eval()
        return None

    def _compare(self, twin: nn.Module, output: Any) -> None:
        """Compares what an architecture returns and the views in it with those of the original."""
        shapes = [tuple(tensor.shape) for tensor in tensors_in(output)]
        if shapes != self._trace.returned:
            raise OtherMeaning(
                f"the network returns tensors of shapes {shapes_of(output)}, and the original of "
                f"{self._trace.returned}",
                twin,
            )
        expected = {self._paths[module]: views for module, views in self._trace.views.items()}
        self._views.compare(expected, self._twin_paths.__getitem__, self._entries_now)

    def _entries_now(self, layout: Layout) -> int:
        """The entries of a dimension in the architecture that runs."""
        size, selection = self.plan.size(layout), current()
        assert selection is not None
        return selection.count(size)

    def _mend(self, error: Exception, twin: nn.Module) -> bool:
        """Lets attributes of the module that failed follow the layouts that it met.

        A `forward` reads its numbers of channels and heads from attributes of its module. One that
        equals the length of exactly one layout that the module met may be it.
        """
        path = _path_of(_module_of(error, twin), twin, self.plan)
        while True:  # it may have been given something wrong by the modules around it
            if self._bind(path):
                return True
            if not path:
                return False
            path = path.rpartition(".")[0]

    def _bind(self, path: str) -> bool:
        """Lets attributes of one module follow what it met; returns whether there were any."""
        module = self._twin.get_submodule(path)
        of_torch = type(module).__module__.startswith("torch.nn.")
        if of_torch and type(module) not in _NUMBERED or isinstance(module, MultiheadAttention):
            return False  # numbers of these follow from their parameters
        met: dict[int, set[Layout]] = {}
        for layout in self._bindable.get(path, ()):
            whole = resolved(layout)
            met.setdefault(length(whole), set()).add(whole)
        bound = False
        for name, value in vars(module).items():
            if (path, name) in self.plan.bound or (path, name) in self._unlike:
                continue
            found: list[tuple[Layout, Within]] = []
            for number, within in _numbers(value):
                varying = [layout for layout in met.get(number, ()) if self.plan.varies(layout)]
                found += [(layout, within) for layout in varying]
            if len(found) == 1:
                self.plan.bound[path, name] = found[0]
                bound = True
        return bound

    def _unbind(self, error: Exception, twin: nn.Module) -> None:
        """Lets attributes go their own way again that broke the largest architecture.

        Raises:
            ConversionError: if none were bound that could have.
        """
        if not self.plan.bound:
            raise ConversionError(f"convert: the largest does not run: {described(error, twin)}")
        path = _path_of(_module_of(error, twin), twin, self.plan)
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
                name = self._name(group, kind).removesuffix(f".{kind}")
                yield Kept(name, kind, group.units, str(group.reason), paths)
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


_NUMBERED = (nn.Unflatten, nn.Transformer)
"""Modules of torch whose numbers of channels do not follow from parameters of theirs."""


def _numbers(value: Any) -> Iterator[tuple[int, Within]]:
    """The numbers that an attribute holds: itself, or as a tuple, each with where it is in it."""
    if isinstance(value, tuple):
        for i, part in enumerate(value):
            if _is_number(part):
                yield part, (value[:i], value[i + 1 :])
    elif _is_number(value):
        yield value, None


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 1


def _module_of(error: Exception, twin: nn.Module) -> nn.Module:
    """The innermost module that an error is of."""
    return error.module if isinstance(error, OtherMeaning) else innermost(error, twin)[0]


def _path_of(module: nn.Module, rewritten: nn.Module, plan: Plan) -> str:
    """Where a module of a rewritten network is in the original."""
    return _paths_of(rewritten, plan)[module]


def _paths_of(rewritten: nn.Module, plan: Plan) -> dict[nn.Module, str]:
    """Where the modules of a rewritten network are in the original, which wraps no blocks."""
    blocks = {block for run in plan.depths for block in run.blocks}
    paths = {}
    for path, module in rewritten.named_modules():
        names = path.split(".")
        kept: list[str] = []
        while names:
            kept.append(names.pop(0))
            if ".".join(kept) in blocks and names[:2] == ["blocks", "0"]:
                names = names[2:]
        paths[module] = ".".join(kept)
    return paths


def run_real(model: nn.Module, inputs: Inputs) -> Any:
    """What a network gives in eval mode, with its values."""
    args, kwargs = as_call(inputs)
    with evaluating(model), torch.random.fork_rng(devices=[]):
        return model(*args, **kwargs)
