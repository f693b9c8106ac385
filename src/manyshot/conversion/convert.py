"""`ms.convert`: any network as a supernet, by what its own forward does with its channels."""

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
from manyshot.conversion.ordering import IMPORTANCES, Importance, orders, reorder
from manyshot.conversion.rewriting import Plan, prepare, rewrite, tensors_of
from manyshot.conversion.rules import Dims
from manyshot.conversion.tracing import Trace
from manyshot.conversion.tracing import run as run_traced
from manyshot.nn.batch_norm import BatchNorm, BatchNormStats
from manyshot.nn.converted import Conversion, Converted, Kept, Kind
from manyshot.nn.inputs import Inputs, as_call, shapes_in_words, without_values
from manyshot.nn.layer import Layer
from manyshot.nn.modes import evaluating
from manyshot.nn.multihead import MultiheadAttention
from manyshot.nn.outcomes import Remembering
from manyshot.nn.shapes import DryRunError, described, innermost, meta_twin, on_meta
from manyshot.nn.structure import search_space
from manyshot.plugins import nearest
from manyshot.seeding import numpy_rng
from manyshot.sharing import Sharing
from manyshot.space import Decision, SearchSpace, choose
from manyshot.space.decision import round_number
from manyshot.supernet import Supernet

TRAINING = "(train mode)"
"""What cannot be looked into if a network does not run in train mode."""
RANDOM = 8
"""How many random architectures are tried besides the smallest and the largest."""
TOLERANCE = 1e-5
"""The largest accepted difference of original and largest, relative to the largest output."""


class ConversionError(ValueError):
    """A network cannot be converted; the message says why and what can be done."""


def convert(
    model: nn.Module,
    example_inputs: Inputs,
    *,
    ratios: Sequence[float] = (0.25, 0.5, 0.75, 1.0),
    divisor: int = 8,
    depth: bool = True,
    kernel: bool = False,
    heads: bool = True,
    importance: Importance | None = "l1",
    keep: Sequence[str] = (),
    sharing: Sharing | None = None,
) -> Supernet:
    """Makes a supernet of any network: its widths, depths and heads become decisions.

    The network runs once on tensors without values, and every operation is followed: channels that
    meet in an addition vary together, those of a concatenation by parts, those of a depthwise or
    grouped convolution with its groups. Everything that cannot be decided in this way (what the
    network returns, channels that are split, mixed, or reduced over) stays as it is, and
    `net.conversion` says why. What is to vary is then tried on small architectures; what does not
    run stays fixed too.

    The classes of the network and their `forward` stay; `net.extract(arch)` gives them with plain
    layers. With weights of a trained network, channels are ordered by importance first, which does
    not change what the network computes, so that narrow slices keep the best. The largest
    architecture is the original: `net(inputs, stats=net.conversion.stats)`.

    Args:
        model: any network; it is copied, and stays as it is.
        example_inputs: what its `forward` takes: a tensor, a tuple of positional or a dict of
            keyword arguments. Give a batch of two or more.
        ratios: the widths, as parts of the original's channels, above 0 and at most 1. 1 is always
            among them.
        divisor: channels are multiples of it, rounded as in MobileNetV2.
        depth: whether residual blocks can be left out, from the end of what holds them; the first
            always stays.
        kernel: whether convolutions with kernels of 5 and more can have smaller ones, the centre.
        heads: whether attention can have fewer heads (see `ms.conversion.register`).
        importance: by what channels are ordered: `l1` or `l2` norms of their weights, `scale` of
            their norms, a function `importance(tensor, dim)` that gives a number per entry, or None
            to leave them in their order.
        keep: patterns of paths of modules, such as `"fc"` or `"layer1.*"`, whose channels stay.
        sharing: which weights a path gets; by default one copy. Further copies begin as the scheme
            says; `ms.sharing.widen` lets all begin as the network's weights.

    Returns:
        A supernet, with what was done as `net.conversion`.

    Raises:
        ConversionError: if nothing can vary, the network has decisions already, or it computes
            something else in the end.
        ValueError: for ratios, divisor, importance or patterns that are not allowed.
    """
    _check_arguments(model, ratios, divisor, importance, keep)
    model = copy.deepcopy(model)
    original = _original(model, example_inputs)
    prepare(model, heads=heads)
    converter = _Converter(model, example_inputs, keep, depth=depth, heads=heads)
    converter.decide(ratios, divisor, kernel=kernel)
    plan = converter.plan
    if not plan.decisions():
        raise ConversionError(converter.nothing())
    if importance is not None:
        _order(model, plan, importance)
    running = {id(m): held for m in model.modules() if (held := _running(m)) is not None}
    share = _share(model, plan)
    shown = None if converter.opaque else example_inputs  # what is opaque runs on values alone
    try:
        net = Supernet(rewrite(model, plan), example_inputs=shown)
    except DryRunError as error:
        raise ConversionError(
            f"convert: another architecture does not run after some others did: {error}. The "
            "module may keep tensors from one call to the next, which another architecture cannot "
            "use: leave it as it is by keep=('its.path*',), or heads by heads=False"
        ) from error
    tensors = {
        norm.path: running[id(norm)]
        for norm in net.model.modules()
        if isinstance(norm, BatchNorm) and id(norm) in running
    }
    stats = BatchNormStats(net.space.largest, tensors)
    difference = _check(net, example_inputs, original, stats)
    if sharing is not None:
        net = Supernet(net.model, sharing=sharing)
    net.example_inputs = without_values(example_inputs)
    net.conversion = Conversion(
        decisions=tuple(converter.converted()),
        fixed=tuple(converter.kept()),
        attributes=converter.attributes(),
        opaque=converter.opaque,
        stats=stats,
        share=share,
        difference=difference,
        importance=getattr(importance, "__name__", str(importance or "none")),
    )
    return net


def _check_arguments(
    model: nn.Module,
    ratios: Sequence[float],
    divisor: int,
    importance: Importance | None,
    keep: Sequence[str],
) -> None:
    if not ratios or not all(0 < ratio <= 1 for ratio in ratios):
        raise ValueError(
            f"convert: ratios must be numbers above 0 and at most 1, got {tuple(ratios)}; 0.5 is "
            "half of the original's channels"
        )
    if not isinstance(divisor, int) or divisor < 1:
        raise ValueError(f"convert: divisor must be a whole number of at least 1, got {divisor!r}")
    if not (importance is None or callable(importance) or importance in IMPORTANCES):
        raise ValueError(
            f"convert: importance must be one of {', '.join(IMPORTANCES)}, a function of a tensor "
            f"and a dimension, or None, got {importance!r}"
        )
    if isinstance(keep, str):
        raise ValueError(f"convert: keep must be a sequence of patterns, got {keep!r}: ({keep!r},)")
    held = next((path for path, m in model.named_modules() if isinstance(m, Layer)), None)
    if held is not None:
        raise ConversionError(
            f"convert: {held or 'the model'} is a layer of ms.nn already: make it a supernet by "
            "ms.Supernet(model)"
        )
    paths = [path for path, _ in model.named_modules()]
    for pattern in keep:
        if not fnmatch.filter(paths, pattern):
            raise ValueError(
                f"convert: keep has {pattern!r}, but no module has such a path; "
                f"{nearest(pattern, paths)}paths are like {', '.join(paths[1:4])}"
            )


class _Converter:
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
            copied = _copied(self._twin)
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
            _output(model, inputs)
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
            twin = rewrite(_copied(self._twin), self.plan)
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


def _copied(twin: nn.Module) -> nn.Module:
    return copy.deepcopy(twin)


def _path_of(module: nn.Module, rewritten: nn.Module, plan: Plan) -> str:
    """Where a module of a rewritten network is in the original, where blocks are not wrapped."""
    path: str = next(p for p, m in rewritten.named_modules() if m is module)
    for run in plan.depths:
        for block in run.blocks:
            inside = f"{block}.blocks.0"
            if path == inside or path.startswith(f"{inside}."):
                path = block + path[len(inside) :]
    return path


def _output(model: nn.Module, inputs: Inputs) -> Any:
    args, kwargs = as_call(inputs)
    with evaluating(model), torch.random.fork_rng(devices=[]):
        return model(*args, **kwargs)


def _original(model: nn.Module, inputs: Inputs) -> Any:
    try:
        return _output(model, inputs)
    except Exception as error:
        raise ConversionError(
            f"convert: the network does not run on example_inputs, of shape "
            f"{shapes_in_words(inputs)}: {described(error, model)}"
        ) from error


def _running(module: nn.Module) -> tuple[Tensor, Tensor] | None:
    """Copies of the running mean and variance of a batch norm; None if it has none."""
    mean, variance = (module._buffers.get(f"running_{name}") for name in ("mean", "var"))
    return None if mean is None or variance is None else (mean.clone(), variance.clone())


def _order(model: nn.Module, plan: Plan, importance: Importance) -> None:
    """Orders the channels of a real network, in place."""
    dims: dict[int, tuple[Tensor, Dims]] = {}
    counted: dict[int, tuple[Tensor, Dims]] = {}
    for path, name, tensor in tensors_of(model):
        held = plan.dims.get(path, {}).get(name)
        if held is not None:
            dims[id(tensor)] = (tensor.data, held)
            if isinstance(tensor, nn.Parameter) and not name.endswith("bias"):
                counted[id(tensor)] = (tensor.data, held)
    reorder(dims.values(), orders(counted.values(), plan.widths, importance))


def _share(model: nn.Module, plan: Plan) -> float:
    """The part of the parameters that is in tensors which vary."""
    sizes: dict[int, tuple[int, bool]] = {}
    for path, name, tensor in tensors_of(model):
        if isinstance(tensor, nn.Parameter):
            varies = any(map(plan.varies, plan.dims.get(path, {}).get(name, ())))
            sizes[id(tensor)] = (tensor.numel(), varies)
    total = sum(n for n, _ in sizes.values())
    return sum(n for n, varies in sizes.values() if varies) / total if total else 0.0


def _check(net: Supernet, inputs: Inputs, original: Any, stats: BatchNormStats) -> float:
    """Compares the largest with the original, and small architectures with what is extracted.

    Returns:
        The difference of the largest and the original, see `_difference`.

    Raises:
        ConversionError: if the largest computes something else, or an extracted network does.
    """
    with evaluating(net), torch.random.fork_rng(devices=[]):
        difference = _difference(net(inputs, stats=stats), original, "the largest architecture")
        rng = numpy_rng("conversion", "checks")
        for arch in dict.fromkeys((net.space.smallest, net.space.sample(rng))):
            unit = _unit_statistics(net, arch)
            plain = net.extract(arch, stats=unit).eval()
            args, kwargs = as_call(inputs)
            what = f"architecture {net.space.to_text(arch)}, extracted,"
            _difference(plain(*args, **kwargs), net(inputs, arch, stats=unit), what)
    return difference


def _unit_statistics(net: Supernet, arch: Any) -> BatchNormStats:
    """Statistics of mean 0 and variance 1 for all norms that an architecture has."""
    tensors = {}
    with net.selecting(arch) as selection:
        for norm in net.model.modules():
            if isinstance(norm, BatchNorm):
                like: Any = norm._like if norm.weight is None else norm.weight
                n = selection.count(norm.num_features)
                tensors[norm.path] = (like.new_zeros(n).detach(), like.new_ones(n).detach())
    return BatchNormStats(tuple(arch), tensors)


def _difference(output: Any, expected: Any, what: str) -> float:
    """The largest difference of two outputs, relative to the largest entry (1 if that is smaller).

    Raises:
        ConversionError: if it is too large, and says that `what` gives something else.
    """
    ours, theirs = (pytree.tree_leaves(tree) for tree in (output, expected))
    worst = 0.0
    for one, other in zip(ours, theirs, strict=True):
        if isinstance(one, Tensor):
            far = float((one - other).abs().max()) if one.numel() else 0.0
            scale = max(1.0, float(other.abs().max()) if other.numel() else 0.0)
            if one.shape != other.shape or not far <= TOLERANCE * scale:
                raise ConversionError(
                    f"convert: {what} gives another output than it should, by {far:.2e}: the "
                    "network depends on the order of channels in a way that its operations do not "
                    "show. Give importance=None, or leave modules as they are by keep=(...)"
                )
            worst = max(worst, far / scale)
    return worst
