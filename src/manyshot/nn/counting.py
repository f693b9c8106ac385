"""Counts multiply-adds while a network runs: a formula for every product, and an error without one.

Multiply-adds are those of convolutions and matrix products, as papers print them. By decision all
else counts nothing, though it takes time: what is elementwise (activations, sums and products of
tensors of one shape, biases, the scale and shift of a norm, PReLU, dropout, an outer product),
views, and what `FREE` lists. An operation that is none of these and has no formula is an error,
because it may hide a product.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Formula: TypeAlias = Callable[..., int]
"""`formula(out, *args, **kwargs)`: the multiply-adds of one call, from its result and arguments."""


class UncountedOperation(ValueError):
    """An operation that may multiply has no formula; the message names the module and the way out.

    `manyshot.cost.register` gives it one.
    """


_FREE = {
    "moving, selecting and making values": """
        _embedding_bag _embedding_bag_forward_only _pack_padded_sequence _to_copy _unsafe_index
        _unsafe_index_put _unsafe_masked_index _unsafe_view bernoulli block_diag bucketize cat
        channel_shuffle clone col2im constant_pad_nd copy diag_embed diagonal_scatter embedding
        embedding_renorm empty_like equal fill flip full_like gather im2col index index_add
        index_copy index_fill index_put index_reduce index_select isin lift_fresh_copy masked_fill
        masked_scatter masked_select new_empty new_full new_ones new_zeros normal ones_like
        pixel_shuffle pixel_unshuffle rand_like randn_like reflection_pad1d reflection_pad2d
        reflection_pad3d repeat repeat_interleave replication_pad1d replication_pad2d
        replication_pad3d resize roll rot90 scatter scatter_add scatter_reduce searchsorted
        select_scatter set slice_scatter sort stack take topk tril triu uniform unsafe_split
        unsafe_split_with_sizes zero zeros_like
    """,
    "normalising, with scale and shift": """
        _batch_norm_no_update _batch_norm_with_update _fused_rms_norm _native_batch_norm_legit
        _native_batch_norm_legit_functional _native_batch_norm_legit_no_training
        _weight_norm_interface cudnn_batch_norm miopen_batch_norm native_batch_norm
        native_group_norm native_layer_norm
    """,
    "activations, gates and dropout": """
        _fused_dropout _log_softmax _masked_softmax _prelu_kernel _safe_softmax _softmax
        _thnn_fused_gru_cell _thnn_fused_lstm_cell celu elu glu leaky_relu log_sigmoid_forward
        native_dropout rrelu_with_noise
    """,
    "reductions and losses": """
        all amax amin any argmax argmin binary_cross_entropy binary_cross_entropy_with_logits
        count_nonzero cummax cummin cumprod cumsum huber_loss linalg_vector_norm logcumsumexp
        logsumexp max mean median min mse_loss nll_loss2d_forward nll_loss_forward norm prod
        smooth_l1_loss soft_margin_loss std std_mean sum trace var var_mean
    """,
    "pooling and interpolating": """
        cudnn_grid_sampler grid_sampler_2d grid_sampler_3d max_unpool2d max_unpool3d
    """,
}
FREE = frozenset(name for names in _FREE.values() for name in names.split())
"""Operations that may read parameters or several tensors and count nothing, by decision."""

_HIDDEN = ("linalg_", "_linalg_", "_fft_", "cholesky", "geqrf", "_pdist")
"""How the names of operations begin that multiply though they take one tensor."""


def _rows(out: Any, matrix: Tensor, *rest: Any, **more: Any) -> int:
    return matrix.numel()


def _after_bias(out: Any, bias: Any, matrix: Tensor, *rest: Any, **more: Any) -> int:
    return matrix.numel()


def _product(out: Any, one: Tensor, other: Tensor, *rest: Any, **more: Any) -> int:
    return one.numel() * other.shape[-1]


def _product_after_bias(
    out: Any, bias: Any, one: Tensor, other: Tensor, *rest: Any, **more: Any
) -> int:
    return one.numel() * other.shape[-1]


def _trilinear(
    out: Any, one: Tensor, two: Tensor, three: Tensor, *expands: Any, **more: Any
) -> int:
    """`nn.Bilinear`: a multiply-add per weight and row, the outer product of inputs being free."""
    unsqueezed = []
    for tensor, dims in zip((one, two, three), expands, strict=False):
        for dim in sorted(dims):
            tensor = tensor.unsqueeze(dim)
        unsqueezed.append(tensor.shape)
    return math.prod(map(max, zip(*unsqueezed, strict=True)))


def _convolution(out: Tensor, x: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    """Every value of the output takes in its kernel; transposed, every value of the input does.

    The weight is (out, in / groups, ...), or transposed (in, out / groups, ...), of which torch
    does not check the channels on meta tensors.
    """
    transposed: bool = rest[4]
    if not transposed:
        return out.numel() * weight[0].numel()
    _check_channels(x, weight.shape[0])
    return x.numel() * weight[0].numel()


def _check_channels(x: Tensor, takes: int) -> None:
    if x.shape[1] != takes:
        raise ValueError(
            f"the weight takes {takes} channels, the input of shape {tuple(x.shape)} has "
            f"{x.shape[1]}"
        )


def _deform_conv2d(out: Tensor, x: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    """As a convolution: interpolating and modulating its input are elementwise."""
    groups: int = rest[9]
    _check_channels(x, weight.shape[1] * groups)
    return out.numel() * weight[0].numel()


def _conv_tbc(out: Tensor, x: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    return out.numel() * weight[..., 0].numel()


def _affine_grid(out: Tensor, theta: Tensor, *rest: Any, **more: Any) -> int:
    return out.numel() * theta.shape[-1]


def _attention(out: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any, **more: Any) -> int:
    """(..., L, E), (..., S, E) and (..., S, V): scores and their product with the values."""
    return q.numel() * k.shape[-2] + q[..., 0].numel() * v.shape[-2] * v.shape[-1]


def _multi_head(
    out: Any, query: Tensor, key: Tensor, value: Tensor, width: int, *rest: Any, **more: Any
) -> int:
    """Four projections, and the attention of all heads together."""
    batch, queries, keys = len(query), query.shape[1], key.shape[1]
    return batch * width * (2 * width * (queries + keys) + 2 * queries * keys)


def _encoder_layer(out: Any, x: Tensor, width: int, *rest: Any, **more: Any) -> int:
    first, second = rest[12], rest[14]  # the weights of the two linear layers
    feeding = x[..., 0].numel() * (first.numel() + second.numel())
    return _multi_head(out, x, x, x, width) + int(feeding)


FORMULAS: dict[str, Formula] = {
    "aten::convolution": _convolution,
    "aten::mv": _rows,
    "aten::dot": _rows,
    "aten::vdot": _rows,
    "aten::addmv": _after_bias,
    "aten::addbmm": _product_after_bias,
    "aten::_addmm_activation": _product_after_bias,
    "aten::_int_mm": _product,
    "aten::addr": lambda out, *rest, **more: out.numel(),
    "aten::_trilinear": _trilinear,
    "aten::conv_tbc": _conv_tbc,
    "aten::affine_grid_generator": _affine_grid,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_native_multi_head_attention": _multi_head,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer,
    "torchvision::deform_conv2d": _deform_conv2d,
}
"""What torch's own counter has no formula for or does not check, and what users register."""


def register(op: OpOverloadPacket[..., Any] | OpOverload[..., Any] | str, formula: Formula) -> None:
    """Says how many multiply-adds an operation takes; see `manyshot.cost.register`."""
    name = op if isinstance(op, str) else _name(op)
    namespace, _, rest = name.partition("::")
    if not namespace or not rest or "." in rest:
        raise ValueError(
            f"register: {name!r} is no operation; give torch.ops.NAMESPACE.NAME or its name as "
            "'NAMESPACE::NAME', such as 'torchvision::deform_conv2d'"
        )
    if not callable(formula):
        raise TypeError(
            f"register: the formula of {name} must be a function formula(out, *args, **kwargs) "
            f"that gives multiply-adds, got {formula!r}"
        )
    FORMULAS[name] = formula


def _name(op: Any) -> str:
    packet = getattr(op, "_overloadpacket", op)
    name = getattr(packet, "_qualified_op_name", None)
    return name if isinstance(name, str) else repr(op)


class MultiplyAdds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A context that counts the multiply-adds of all operations that run inside.

    torch's `FlopCounterMode` counts what it has no formula for as nothing, hooks into gradients to
    name modules, and fails without gradients where a module's output is a view of its parameter, as
    a class token is.

    Attributes:
        total: the multiply-adds so far.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out, macs = self.run(func, args, kwargs or {})
        self.total += macs or 0
        return out

    def where(self) -> str:
        """Which module is running, for messages."""
        return "the network"

    def run(self, func: Any, args: tuple[Any, ...], kwargs: Any) -> tuple[Any, int | None]:
        """Runs one operation.

        Args:
            func: the operation.
            args: its arguments.
            kwargs: its arguments by name.

        Returns:
            Its result and its multiply-adds, which are None for an operation that is composed of
            others: these have been run, and counted, inside this context.

        Raises:
            UncountedOperation: if it may multiply and there is no formula, or that gives no count.
        """
        name = _name(func)
        formula, flops = FORMULAS.get(name), flop_registry.get(func._overloadpacket)
        if formula is not None:
            out = func(*args, **kwargs)
            return out, self._checked(name, formula(out, *args, **kwargs))
        if flops is not None:
            out = func(*args, **kwargs)
            return out, int(flops(*args, **kwargs, out_val=out)) // 2
        with self:
            out = func.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out, None
        if _may_multiply(func, args, kwargs):
            raise UncountedOperation(
                f"{self.where()} runs {name}, for whose multiply-adds there is no formula: give "
                f"one by ms.cost.register({name!r}, formula), where formula(out, *args, **kwargs) "
                "gives the multiply-adds of one call from the shapes of its result and arguments "
                "(0 if it multiplies nothing worth counting)"
            )
        return func(*args, **kwargs), 0

    def _checked(self, name: str, macs: Any) -> int:
        if isinstance(macs, bool) or not isinstance(macs, int) or macs < 0:
            raise UncountedOperation(
                f"{self.where()} runs {name}, whose registered formula gave {macs!r}: it must give "
                "a whole number of multiply-adds, from 0"
            )
        return macs


def _may_multiply(func: OpOverload[..., Any], args: Any, kwargs: Any) -> bool:
    if _is_free(func):
        return False
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    namespace, _, name = _name(func).partition("::")
    if namespace != "aten" or name.startswith(_HIDDEN):
        return bool(tensors)
    return len(tensors) > 1 or any(map(_is_parameter, tensors))


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or isinstance(tensor._base, nn.Parameter)


@functools.cache
def _is_free(func: OpOverload[..., Any]) -> bool:
    namespace, _, name = _name(func).partition("::")
    packet: Any = func._overloadpacket
    overloads = (getattr(packet, overload) for overload in packet.overloads())
    if func.is_view or any(torch.Tag.pointwise in overload.tags for overload in overloads):
        return True
    return namespace == "aten" and name.removesuffix("_") in FREE
