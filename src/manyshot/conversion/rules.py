"""What operations do to the layouts of dimensions: a rule per kind of operation of ATen.

A rule is told the arguments of an operation by the names of its schema and what came out, joins the
layouts of dimensions that meet in it, and returns those of its outputs. What no rule knows fixes
the channels that it touches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from manyshot.conversion.groups import Group, Layout, factored, fix, join, merged, resolved

Dims: TypeAlias = tuple[Layout | None, ...]
"""The layout of every dimension of a tensor; None where it holds no channels."""

MAX_COPIES = 4096
"""The most segments that a dimension may have, as of windows that are merged with heads."""


class Context(Protocol):
    """What a rule may ask of the trace."""

    def dims(self, tensor: Tensor) -> Dims:
        """The layouts of a tensor's dimensions."""
        ...

    def contracts(self, tensor: Tensor, dim: int) -> bool:
        """Notes that an operation sums over a dimension of a tensor; whether it is of weights."""
        ...

    def gives(self, tensor: Tensor, dim: int) -> None:
        """Notes that a dimension of a tensor is that of an operation's output."""
        ...

    def heads_axis(self, shape: Sequence[int]) -> int | None:
        """Which of the dimensions that channels are split into counts heads, if one does."""
        ...

    @property
    def where(self) -> str:
        """The operation that runs, for messages."""
        ...

    @property
    def normalises(self) -> bool:
        """Whether the module that runs is a layer norm, which can be told its active features."""
        ...

    @property
    def normalises_by_means(self) -> bool:
        """Whether it is an RMS norm, which torch computes of means on tensors without values."""
        ...


Rule: TypeAlias = Callable[[Context, dict[str, Any], Any], Any]
"""`rule(context, arguments by name, output)` gives `Dims` per output tensor."""

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers the rule of some operations by their names in ATen, without a trailing `_`."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _meet(context: Context, one: Layout | None, other: Layout | None) -> Layout | None:
    """The layout of a dimension that has both; one that is met by none stays as it is."""
    if one is None or other is None:
        fix(one or other, f"{context.where} meets it with a tensor that does not vary")
        return one or other
    join(one, other, context.where)
    return one


def _fixed(context: Context, dims: Dims, why: str, at: Iterable[int] | None = None) -> None:
    for i in range(len(dims)) if at is None else at:
        fix(dims[i], f"{context.where} {why}")


def broadcast(context: Context, tensors: Sequence[Tensor], shape: Sequence[int]) -> Dims:
    """The layouts of what tensors give element by element."""
    out: list[Layout | None] = []
    for i in range(-len(shape), 0):
        met: list[Layout | None] = []
        for tensor in tensors:
            if tensor.dim() >= -i and tensor.shape[i] == shape[i] and shape[i] > 1:
                met.append(context.dims(tensor)[i])
            elif tensor.dim() >= -i:
                fix(context.dims(tensor)[i], "it has one channel")
        layout = met[0] if met else None
        for other in met[1:]:
            layout = _meet(context, layout, other)
        out.append(layout)
    return tuple(out)


def elementwise(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    """The rule of whatever computes every element alone, of one tensor or of several."""
    leaves = [leaf for value in arguments.values() for leaf in _leaves(value)]
    first = out if isinstance(out, Tensor) else out[0]
    dims = broadcast(context, leaves, first.shape)
    return dims if isinstance(out, Tensor) else tuple(dims for _ in out)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [t for t in value if isinstance(t, Tensor)] if isinstance(value, list | tuple) else []


_ELEMENTWISE = (
    "hardswish hardsigmoid _prelu_kernel dropout native_dropout copy _to_copy detach alias "
    "lift_fresh clone contiguous fill zero bernoulli empty_like zeros_like ones_like full_like "
    "rand_like randn_like uniform normal exponential random"
)
for _name in _ELEMENTWISE.split():
    RULES[_name] = elementwise


@rule("arange", "scalar_tensor", "linspace", "logspace", "eye", "sym_size")
def _made(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    return (None,) * out.dim() if isinstance(out, Tensor) else None


@rule(
    "empty", "zeros", "ones", "full", "new_zeros", "new_ones", "new_empty", "new_full",
    "new_empty_strided", "empty_strided", "rand", "randn",
)  # fmt: skip
def _alike(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    """Entries that are all alike follow whatever channels they meet: a mask, a state of zeros.

    Where their number is a constant of the code and not that of the channels, no other width runs.
    """
    return tuple(map(alike, out.shape))


def alike(entries: int) -> Layout | None:
    """The layout of a dimension whose entries are all alike."""
    return None if entries == 1 else ((Group(entries, alike=True), 1),)


@rule("convolution")
def _convolution(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x, weight, bias = arguments["input"], arguments["weight"], arguments["bias"]
    groups, transposed = arguments["groups"], arguments["transposed"]
    into, of = context.dims(x)[1], context.dims(weight)
    takes, gives = (0, 1) if transposed else (1, 0)
    passed = [_passes(arguments, weight, i) for i in range(x.dim() - 2)]
    if groups == 1:
        _meet(context, into, of[takes])
        context.contracts(weight, takes)
        context.gives(weight, gives)
        layout = of[gives]
    else:
        units = Group(groups)
        inside = x.shape[1] // groups
        _meet(context, into, ((units, inside),))
        if transposed:
            _meet(context, of[0], ((units, inside),))
        fix(of[1], "channels per group of a convolution")
        layout = ((units, out.shape[1] // groups),)
        if not transposed:
            _meet(context, layout, of[0])
        context.gives(weight, 0)
    if bias is not None:
        _meet(context, layout, context.dims(bias)[0])
    along = tuple(
        each if passes else None for each, passes in zip(context.dims(x)[2:], passed, strict=True)
    )
    _fixed(
        context,
        context.dims(x),
        "runs along it",
        (i for i, passes in enumerate(passed, 2) if not passes),
    )
    _fixed(context, of, "has a kernel of it", range(2, weight.dim()))
    return (context.dims(x)[0], layout, *along)


def _passes(arguments: dict[str, Any], weight: Tensor, i: int) -> bool:
    """Whether a convolution leaves the entries of its i-th spatial dimension where they are."""

    def of(name: str) -> Any:
        numbers = arguments[name]
        return numbers[i] if len(numbers) > 1 else numbers[0]

    return bool(weight.shape[2 + i] == 1 and of("stride") == 1 and of("padding") == 0)


@rule("addmm", "mm", "bmm", "baddbmm", "addmv", "mv")
def _product(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    names = [name for name in arguments if isinstance(arguments[name], Tensor)]
    left, right = (arguments[name] for name in names[-2:])
    a, b = context.dims(left), context.dims(right)
    row = -2 if right.dim() > 1 else -1
    _meet(context, a[-1], b[row])
    if not context.contracts(right, right.dim() + row):  # one of two weights is enough
        context.contracts(left, left.dim() - 1)
    if row == -2:
        context.gives(right, right.dim() - 1)
    if left.dim() > 1:
        context.gives(left, left.dim() - 2)
    batch = tuple(_meet(context, i, j) for i, j in zip(a[:-2], b[:-2], strict=True))
    dims = (*batch, a[-2], *b[row + 1 :][: right.dim() - 1]) if row == -2 else (a[-2],)
    if len(names) == 3:
        added = arguments[names[0]]
        for i in range(-added.dim(), 0):
            if added.shape[i] > 1 or out.shape[i] == 1:
                _meet(context, dims[i], context.dims(added)[i])
    return dims


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm", "_batch_norm_with_update", "miopen_batch_norm",
)  # fmt: skip
def _batch_norm(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    dims = context.dims(arguments["input"])
    for name in ("weight", "bias", "running_mean", "running_var"):
        if isinstance(arguments.get(name), Tensor):
            _meet(context, dims[1], context.dims(arguments[name])[0])
    return (dims, *(None for _ in out[1:]))


@rule("native_layer_norm")
def _layer_norm(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    dims = context.dims(arguments["input"])
    over = len(arguments["normalized_shape"])
    if over > 1 or not context.normalises:
        _fixed(context, dims, "normalises over it", range(len(dims) - over, len(dims)))
    for name in ("weight", "bias"):
        if isinstance(arguments[name], Tensor):
            for i in range(-over, 0):
                _meet(context, dims[i], context.dims(arguments[name])[i])
    return (dims, *(None for _ in out[1:]))


@rule("native_group_norm")
def _group_norm(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    x, groups = arguments["input"], arguments["group"]
    dims = context.dims(x)
    if dims[1] is not None:
        if groups == 1:
            fix(dims[1], f"{context.where} normalises over it")
        else:
            join(dims[1], ((Group(groups), x.shape[1] // groups),), context.where)
    for name in ("weight", "bias"):
        if isinstance(arguments[name], Tensor):
            _meet(context, dims[1], context.dims(arguments[name])[0])
    return (dims, *(None for _ in out[1:]))


def _spatial(count: int) -> Rule:
    def keep(context: Context, arguments: dict[str, Any], out: Any) -> Any:
        dims = context.dims(next(v for v in arguments.values() if isinstance(v, Tensor)))
        _fixed(context, dims, "runs along it", range(len(dims) - count, len(dims)))
        kept = (*dims[: len(dims) - count], *(None for _ in range(count)))
        return kept if isinstance(out, Tensor) else tuple(kept for _ in out)

    return keep


_SPATIAL = (
    "max_pool{}d_with_indices max_pool{}d avg_pool{}d _adaptive_avg_pool{}d adaptive_avg_pool{}d "
    "adaptive_max_pool{}d upsample_nearest{}d _upsample_nearest_exact{}d reflection_pad{}d "
    "replication_pad{}d"
)
for _count in (1, 2, 3):
    for _name in _SPATIAL.split():
        RULES[_name.format(_count)] = _spatial(_count)
for _name in ("upsample_bilinear2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"):
    RULES[_name] = _spatial(2)
RULES["upsample_linear1d"], RULES["upsample_trilinear3d"] = _spatial(1), _spatial(3)


def _axes(given: Any, rank: int) -> list[int]:
    if given is None or given == []:
        return list(range(rank))
    return [axis % max(1, rank) for axis in (given if isinstance(given, list | tuple) else [given])]


@rule(
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "linalg_vector_norm", "norm", "prod",
    "any", "all", "argmax", "argmin", "logsumexp", "var_mean", "aminmax",
)  # fmt: skip
def _reduction(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    x = next(v for v in arguments.values() if isinstance(v, Tensor))
    if isinstance(arguments.get("other"), Tensor):
        return elementwise(context, arguments, out)
    dims, over = context.dims(x), _axes(arguments.get("dim"), x.dim())
    if not (context.normalises_by_means and over == [x.dim() - 1]):
        _fixed(context, dims, "reduces over it", over)
    if arguments.get("keepdim"):
        kept = tuple(None if i in over else layout for i, layout in enumerate(dims))
    else:
        kept = tuple(layout for i, layout in enumerate(dims) if i not in over)
    return kept if isinstance(out, Tensor) else tuple(kept for _ in out)


@rule("_softmax", "_safe_softmax", "_log_softmax", "cumsum", "cumprod", "sort", "flip", "roll")
def _along(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    x = next(v for v in arguments.values() if isinstance(v, Tensor))
    axes = arguments["dims"] if "dims" in arguments else arguments.get("dim", -1)
    _fixed(context, context.dims(x), "mixes it", _axes(axes, x.dim()))
    return context.dims(x) if isinstance(out, Tensor) else tuple(context.dims(x) for _ in out)


@rule("cat", "concat", "concatenate")
def _cat(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    tensors = [t for t in arguments["tensors"] if t.dim() == out.dim()]
    axis = arguments.get("dim", 0) % out.dim()
    dims: list[Layout | None] = []
    for i in range(out.dim()):
        layouts = [context.dims(tensor)[i] for tensor in tensors]
        if i != axis:
            layout = layouts[0]
            for other in layouts[1:]:
                layout = _meet(context, layout, other)
            dims.append(layout)
        elif any(layout is not None for layout in layouts):
            parts = (
                _constant(tensor.shape[i]) if layout is None else layout
                for tensor, layout in zip(tensors, layouts, strict=True)
            )
            dims.append(tuple(segment for part in parts for segment in part))
        else:
            dims.append(None)
    return tuple(dims)


def _constant(entries: int) -> Layout:
    group = Group(entries)
    group.fix("it does not vary")
    return ((group, 1),)


@rule("stack")
def _stack(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    tensors = arguments["tensors"]
    axis = arguments.get("dim", 0) % out.dim()
    dims = list(broadcast(context, tensors, tensors[0].shape))
    return (*dims[:axis], None, *dims[axis:])


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "flatten", "unflatten")
def _view(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    return _reshaped(context, context.dims(x), tuple(x.shape), tuple(out.shape))


def _reshaped(context: Context, dims: Dims, before: Sequence[int], after: Sequence[int]) -> Dims:
    """The layouts after a view: dimensions are matched in blocks of equal products."""
    result: list[Layout | None] = [None] * len(after)
    sources = [i for i, n in enumerate(before) if n != 1]
    targets = [i for i, n in enumerate(after) if n != 1]
    while sources and targets:
        ins, outs = [sources.pop(0)], [targets.pop(0)]
        while (a := math.prod(before[i] for i in ins)) != (b := math.prod(after[i] for i in outs)):
            side, pool = (ins, sources) if a < b else (outs, targets)
            if not pool:
                return tuple(result)  # of no elements
            side.append(pool.pop(0))
        held = [i for i in ins if dims[i] is not None]
        if not held:
            continue
        parts = _block(
            context,
            [dims[i] for i in ins],
            [before[i] for i in ins],
            tuple(after[i] for i in outs),
        )
        for i, layout in zip(outs, parts, strict=True):
            result[i] = layout
    for i, n in enumerate(before):
        if n == 1:
            fix(dims[i], "it has one channel")
    return tuple(result)


def _block(
    context: Context, layouts: Sequence[Layout | None], ins: Sequence[int], outs: tuple[int, ...]
) -> Sequence[Layout | None]:
    """The layouts of the dimensions that some adjacent ones are merged and split into."""
    if len(ins) == 1 and len(outs) == 1:
        return layouts
    held = _that_matter([(i, layout) for i, layout in enumerate(layouts) if layout is not None])
    at = held[0]
    layout = layouts[at]
    assert layout is not None
    outer = math.prod(ins[:at])
    if len(held) > 1 or outer * len(resolved(layout)) > MAX_COPIES:
        for each in layouts:
            fix(each, f"{context.where} merges it with other channels")
        return [None] * len(outs)
    whole = merged(outer, layout, math.prod(ins[at + 1 :]))
    parts: Sequence[Layout | None] | None = factored(whole, outs)
    if parts is None:
        parts = _heads(context, whole, outs)
    if parts is None:
        fix(whole, f"{context.where} splits its channels")
        return [None] * len(outs)
    return parts


def _that_matter(held: Sequence[tuple[int, Layout]]) -> list[int]:
    """Which of several dimensions that are merged may vary: else they are those of constants.

    Entries that are all alike, such as those of a batch that a token was expanded to, make way for
    channels.
    """
    for matters in (_is_free, _has_met_channels):
        some = [(i, layout) for i, layout in held if any(matters(g) for g, _ in resolved(layout))]
        if len(held) > 1 and some:
            for i, layout in held:
                if (i, layout) not in some:
                    fix(layout, "it is merged with channels")
            held = some
    return [i for i, _ in held]


def _is_free(group: Group) -> bool:
    return group.reason is None


def _has_met_channels(group: Group) -> bool:
    return not group.alike


def _heads(
    context: Context, whole: Layout, outs: tuple[int, ...]
) -> Sequence[Layout | None] | None:
    """The layouts after a split into heads, of which the features are the inner dimensions."""
    axis = context.heads_axis(outs)
    if axis is None:
        return None
    units = Group(outs[axis])
    units.heads = True
    copies = math.prod(outs[:axis])
    join(whole, ((units, math.prod(outs[axis + 1 :])),) * copies, context.where)
    return factored(whole, outs)


@rule("permute")
def _permute(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = context.dims(arguments["self"])
    return tuple(dims[i] for i in arguments["dims"])


@rule("transpose", "t", "swapaxes", "numpy_T", "mT", "adjoint")
def _transpose(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = list(context.dims(arguments["self"]))
    if len(dims) > 1:
        i, j = arguments.get("dim0", -2), arguments.get("dim1", -1)
        dims[i], dims[j] = dims[j], dims[i]
    return tuple(dims)


@rule("unsqueeze")
def _unsqueeze(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = context.dims(arguments["self"])
    at = arguments["dim"] % out.dim()
    return (*dims[:at], None, *dims[at:])


@rule("squeeze")
def _squeeze(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    dims, over = context.dims(x), _axes(arguments.get("dim"), x.dim())
    gone = [i for i in over if x.shape[i] == 1]
    _fixed(context, dims, "drops it", gone)
    return tuple(layout for i, layout in enumerate(dims) if i not in gone)


@rule("expand", "expand_as", "broadcast_to")
def _expand(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    dims = broadcast(context, [x], out.shape)
    known = (1,) * (out.dim() - x.dim()) + tuple(x.shape)
    return tuple(
        alike(n) if was == 1 else layout
        for n, was, layout in zip(out.shape, known, dims, strict=True)
    )


@rule("repeat", "tile")
def _repeat(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    new = out.dim() - x.dim()
    dims: list[Layout | None] = [alike(n) for n in out.shape[:new]]
    for i, layout in enumerate(context.dims(x)):
        copies = out.shape[new + i] // max(1, x.shape[i])
        if x.shape[i] == 1:
            dims.append(alike(out.shape[new + i]))
        else:
            dims.append(None if layout is None else layout * copies)
    return tuple(dims)


@rule("select")
def _select(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = context.dims(arguments["self"])
    at = arguments["dim"] % len(dims)
    _fixed(context, dims, "takes one of it", [at])
    return (*dims[:at], *dims[at + 1 :])


@rule("slice", "narrow", "constant_pad_nd")
def _part(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    dims = context.dims(x)
    if x.dim() != out.dim():
        _fixed(context, dims, "takes it apart")
        return (None,) * out.dim()
    changed = {i for i in range(x.dim()) if x.shape[i] != out.shape[i]}
    if "pad" in arguments:  # what is padded here and cut there is moved
        changed |= {x.dim() - 1 - i // 2 for i, n in enumerate(arguments["pad"]) if n}
    _fixed(context, dims, "takes a part of it, or pads it", changed)
    return tuple(None if i in changed else layout for i, layout in enumerate(dims))


@rule("as_strided")
def _strided(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x = arguments["self"]
    if x.shape == out.shape and x.stride() == out.stride():
        return context.dims(x)
    _fixed(context, context.dims(x), "reads it in an order of its own")
    return (None,) * out.dim()


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_chunk", "unsafe_split")
def _split(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    dims = context.dims(arguments["self"])
    at = arguments.get("dim", 0) % len(dims)
    layout = dims[at]
    if layout is None:
        return tuple(dims for _ in out)
    if len({part.shape[at] for part in out}) > 1:
        _fixed(context, dims, "splits it", [at])
        each: Layout | None = None
    else:  # equal parts, of which the sizes are one decision
        each = ((Group(out[0].shape[at]), 1),)
        join(layout, each * len(out), context.where)
    return tuple((*dims[:at], each, *dims[at + 1 :]) for _ in out)


@rule("unbind")
def _unbind(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    dims = context.dims(arguments["self"])
    at = arguments.get("dim", 0) % len(dims)
    _fixed(context, dims, "takes it apart", [at])
    return tuple((*dims[:at], *dims[at + 1 :]) for _ in out)


@rule("embedding")
def _embedding(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    entries, features = context.dims(arguments["weight"])
    fix(entries, "entries of a table")
    context.gives(arguments["weight"], 1)
    return (*(None for _ in range(out.dim() - 1)), features)


@rule("index")
def _index(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x, indices = arguments["self"], arguments["indices"]
    dims = context.dims(x)
    at = [i for i, index in enumerate(indices) if index is not None]
    _fixed(context, dims, "indexes it", at)
    if at != list(range(at[0], at[-1] + 1)) or any(indices[i].dtype == torch.bool for i in at):
        _fixed(context, dims, "indexes it")
        return (None,) * out.dim()
    new = out.dim() - (x.dim() - len(at))
    return (*dims[: at[0]], *(None for _ in range(new)), *dims[at[-1] + 1 :])


@rule("index_select")
def _index_select(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = context.dims(arguments["self"])
    at = arguments["dim"] % max(1, len(dims))
    _fixed(context, dims, "indexes it", [at])
    return tuple(None if i == at else layout for i, layout in enumerate(dims))


@rule("max_unpool2d", "max_unpool3d")
def _unpool(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    x, indices = arguments["self"], arguments["indices"]
    spatial = 2 if len(arguments["output_size"]) == 2 else 3
    for tensor in (x, indices):
        _fixed(context, context.dims(tensor), "runs along it", range(x.dim() - spatial, x.dim()))
    kept = broadcast(context, [x, indices], x.shape)[: x.dim() - spatial]
    return (*kept, *(None for _ in range(spatial)))


@rule("grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
def _grid_sampler(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    dims = context.dims(arguments["input"])
    _fixed(context, dims, "runs along it", range(2, len(dims)))
    _fixed(context, context.dims(arguments["grid"]), "takes places from it")
    return (*dims[:2], *(None for _ in dims[2:]))


@rule("pixel_shuffle")
def _pixel_shuffle(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    layout = context.dims(arguments["self"])[-3]
    factor = arguments["upscale_factor"] ** 2
    units = ((Group(out.shape[-3]), 1),)
    if layout is not None:
        join(layout, merged(1, units, factor), context.where)
    return (*(None for _ in range(out.dim() - 3)), units if layout else None, None, None)


@rule("pixel_unshuffle")
def _pixel_unshuffle(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    layout = context.dims(arguments["self"])[-3]
    factor = arguments["downscale_factor"] ** 2
    spread = None if layout is None else merged(1, layout, factor)
    return (*(None for _ in range(out.dim() - 3)), spread, None, None)


@rule("im2col")
def _im2col(context: Context, arguments: dict[str, Any], out: Tensor) -> Dims:
    layout = context.dims(arguments["self"])[1]
    patch = math.prod(arguments["kernel_size"])
    return (None, None if layout is None else merged(1, layout, patch), None)


def unknown(context: Context, arguments: dict[str, Any], out: Any) -> Any:
    """The rule of operations that have none: they fix what they touch."""
    for value in arguments.values():
        for tensor in _leaves(value):
            _fixed(context, context.dims(tensor), "has no rule for channels")
    tensors = [out] if isinstance(out, Tensor) else out
    dims = tuple((None,) * t.dim() if isinstance(t, Tensor) else None for t in tensors or ())
    return dims[0] if isinstance(out, Tensor) else dims
