"""The second form of a selection: straight-through one-hot policies, with which layers mask.

A policy is an exact one-hot vector over the options of a decision that carries a gradient (of a
Gumbel softmax, say). It becomes 0/1 masks over channels, heads, kernel positions and blocks,
p' = M p with M[u, i] = 1 where unit u belongs to option i (ShiftNAS, arXiv:2307.08300, eq. 9), so
the gradient of the loss with respect to a policy is dL/dp_i = sum_u M[u, i] dL/dm_u.

A size is masked once, where channels are mixed: convolutions and linear layers mask the columns of
their weight, which is masking their input; normalisation over channels masks its sums; batch norm,
depthwise convolutions and activations mask nothing. What is beyond the active size of a tensor in
between is therefore arbitrary. Masking outputs instead, as the paper has it, gives the same values,
but where a mask follows what was masked before, its gradient is zero.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, final, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from manyshot.nn.modes import without_autocast
from manyshot.space import Decision, Number, Size

MaskMode: TypeAlias = Literal["full", "active", "mixed", "interpolated"]
"""`full`: tensors keep their largest size, and larger options get a gradient of their own.
`active`: tensors are cut as for option indices, and masks are all ones: cheap, but options larger
than the chosen one get its gradient.
`mixed`: policies need not be one-hot. A choice block gives the sum of its options, each times its
weight (the mixed operation of DARTS: Liu et al. 2019, arXiv:1806.09055, eq. 2), a block of an
elastic depth is passed by and run in the shares that its mask entry says, and sizes are masked as
in `full`, by the weighted sum of their 0/1 masks (FBNetV2: Wan et al. 2020, arXiv:2004.05565).
`interpolated`: as `mixed`, but widths are no masks: the channels of every width are interpolated to
the number of the largest that has a weight, and the weighted sum goes on (TAS: Dong & Yang 2019,
arXiv:1905.09717; see `Policies.interpolation`)."""
MIXING: tuple[MaskMode, ...] = ("mixed", "interpolated")
"""The modes in which policies may be any weights, and all options that have one run."""

MaskKind: TypeAlias = Literal["prefix"] | int
"""`prefix`: one below a size; a number: one in the centre of as many dimensions."""
_Kind: TypeAlias = MaskKind | tuple[Literal["interpolated"], int]
"""A mask's kind, or to how many channels those of a size are interpolated."""
ROUNDING = 1e-3
"""By how much the weights of a size may miss a sum of one, which in bfloat16 they do."""
_TABLES: WeakKeyDictionary[Size, dict[Any, Tensor]] = WeakKeyDictionary()


@final
class Policies:
    """One-hot policies while a forward runs, and the masks they give.

    Attributes:
        by_decision: for some decisions, a tensor (options,): one-hot, or weights that mix.
        mode: how layers mask (see `MaskMode`).
        weights: where they mix, the same as numbers, read in one transfer.
        partial: where they mix, the part of the channels that they mix (see `nn/partial.py`).
    """

    def __init__(
        self,
        by_decision: Mapping[Decision, Tensor],
        mode: MaskMode,
        partial: Mapping[Decision, int] | None = None,
    ) -> None:
        """Looks at weights that mix.

        Raises:
            ValueError: if one is not finite, all of a decision are zero, or those of a decision
                between numbers do not sum to one.
        """
        self.by_decision, self.mode = by_decision, mode
        self.partial = partial or {}
        self.weights = _checked_weights(by_decision) if self.mixes else {}
        self._masks: dict[tuple[_Kind, Size], Tensor] = {}
        self._largest: dict[Size, Number] = {}

    @property
    def mixes(self) -> bool:
        """Whether all options that have a weight run."""
        return self.mode in MIXING

    def among(self, size: Size) -> tuple[Decision, ...]:
        """The decisions of the size that have a policy."""
        return tuple(d for d in size.decisions() if d in self.by_decision)

    def largest(self, size: Size, values: Mapping[Decision, Number]) -> Number:
        """The largest value of the size over decisions with a policy; others are as in `values`."""
        if size not in self._largest:
            self._largest[size] = max(_sizes(size, self.among(size), values))
        return self._largest[size]

    def mask(
        self, kind: MaskKind, size: Size, values: Mapping[Decision, Number], length: int
    ) -> Tensor:
        """A mask that is 1 where `size` is active: every combination of options, contracted.

        Args:
            kind: `prefix` for a mask (length,) that is 1 below the size; a number of dimensions,
                each of `length`, for a mask that is 1 in the central cube of the size.
            size: how many units are active.
            values: the active number of every decision.
            length: how many units there are.
        """
        return self._contracted(kind, size, values, length)

    def interpolation(self, size: Size, values: Mapping[Decision, Number], length: int) -> Tensor:
        """The matrix (length, length) by which a product over channels mixes those of all widths.

        Of a width of n it interpolates the first n channels to m, the largest width that has a
        weight: channel t becomes the mean of channels floor(t n / m) to ceil((t + 1) n / m) - 1, as
        in the authors' code of TAS. The matrix is the weighted sum of these, zero beyond m, so that
        of one width that has all of the weight it is the mask of that width. Products and sums are
        linear in channels, so that the matrix enters once, in the weight of the product that takes
        these channels. That is behind the activation; the paper interpolates before it.

        Args:
            size: how many channels are active.
            values: the active number of every decision.
            length: how many channels there are.
        """
        free = self.among(size)
        cells = itertools.product(*(self.weights[decision] for decision in free))
        pairs = zip(_sizes(size, free, values), cells, strict=True)
        largest = max(int(width) for width, weights in pairs if all(weights))
        return self._contracted(("interpolated", largest), size, values, length)

    def _contracted(
        self, kind: _Kind, size: Size, values: Mapping[Decision, Number], length: int
    ) -> Tensor:
        """The sum of the tables of all combinations of options, times their weights."""
        key = (kind, size)
        if key not in self._masks:
            free = self.among(size)
            table = mask = self._table(kind, size, free, values, length)
            # All layers that ask for this size share the mask, and the first of them may be in a
            # block that runs without gradients, or is run again by checkpointing.
            with (
                torch.enable_grad(),
                torch.autograd.graph.saved_tensors_hooks(_same, _same),
                without_autocast(mask.device.type),
            ):
                for decision in free:
                    mask = self.by_decision[decision] @ mask.view(len(decision.options), -1)
                self._masks[key] = mask.view(table.shape[1:])
        return self._masks[key]

    def _table(
        self,
        kind: _Kind,
        size: Size,
        free: Sequence[Decision],
        values: Mapping[Decision, Number],
        length: int,
    ) -> Tensor:
        """The mask of every combination of options of the `free` decisions, one after the other."""
        fixed = tuple(values[d] for d in size.decisions() if d not in free)
        like = self.by_decision[free[0]]
        # Without the decisions themselves: one that is its own key would never be freed.
        which = tuple(d in free for d in size.decisions())
        key = (kind, which, fixed, length, like.dtype, like.device)
        tables = _TABLES.setdefault(size, {})
        if key not in tables:
            units = [_units(kind, int(n), length) for n in _sizes(size, free, values)]
            tables[key] = torch.stack(units).to(like)
        return tables[key]


def _sizes(size: Size, free: Sequence[Decision], values: Mapping[Decision, Number]) -> list[Number]:
    """The size for every combination of options of the `free` decisions, the last fastest."""
    cells = itertools.product(*(decision.values for decision in free))
    return [size.evaluate({**values, **dict(zip(free, cell, strict=True))}) for cell in cells]


def _units(kind: _Kind, count: int, length: int) -> Tensor:
    """Where the mask of `count` active units of `length` is one, or how they are interpolated."""
    if isinstance(kind, tuple):
        return _interpolated(count, kind[1], length)
    units = torch.arange(length)
    if kind == "prefix":
        return units < count
    start = (length - count) // 2
    inside = cube = (units >= start) & (units < start + count)
    for _ in range(kind - 1):
        cube = cube.unsqueeze(-1) & inside
    return cube


def _interpolated(count: int, wanted: int, length: int) -> Tensor:
    """The matrix (length, length) that makes the first `count` channels the first `wanted`."""
    matrix = torch.zeros(length, length)
    if count and wanted:
        matrix[:wanted, :count] = F.adaptive_avg_pool1d(torch.eye(count), wanted).mT
    return matrix


def _same(tensor: Tensor) -> Tensor:
    return tensor


class _Gate(torch.autograd.Function):
    """`after` where a block runs, else `before`: m * after + (1 - m) * before for a mask entry m.

    The value is exact, whatever the numbers. The gradient of m is that of the formula; the branch
    that is not taken gets none. The result is a copy, since what follows may change it in place.
    """

    @staticmethod
    def forward(ctx: Any, entry: Tensor, runs: bool, before: Tensor, after: Tensor) -> Tensor:
        ctx.runs = runs
        ctx.save_for_backward(entry, before, after)
        return (after if runs else before).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        entry, before, after = ctx.saved_tensors
        entry_grad = (grad * (after - before)).sum().to(entry) if ctx.needs_input_grad[0] else None
        return entry_grad, None, None if ctx.runs else grad, grad if ctx.runs else None


def mix(policy: Tensor, outputs: Mapping[tuple[int, ...], Any], path: str) -> Tensor:
    """What leaves a choice block whose options are mixed: the sum of outputs times their weights.

    Args:
        policy: the weights of all options.
        outputs: what those options give that have a weight, by the indices of options that are one
            module.
        path: where the block is, for messages.

    Raises:
        TypeError: if an option does not give one tensor.
    """
    weighed = []
    for options, output in outputs.items():
        _check_tensor(output, f"choice {path!r}")
        weight = functools.reduce(torch.add, [policy[option] for option in options]).to(output)
        weighed.append(_each_value(functools.partial(torch.mul, weight), output))
    total: Tensor = functools.reduce(torch.add, weighed)
    return total


def _each_value(function: Callable[[Tensor], Tensor], output: Tensor) -> Tensor:
    """A function of every value of an output, which stays one number in memory if it was one.

    That is how an operation gives nothing (`manyshot.zoo.cell.is_nothing`), and the network has to
    see it with policies too.
    """
    if not output.dim() or any(output.stride()):
        return function(output)
    return function(output[(0,) * output.dim()]).expand_as(output)


def blend(entry: Tensor, before: Any, after: Any, path: str) -> Tensor:
    """What leaves an optional block that runs in part: entry * after + (1 - entry) * before.

    Args:
        entry: the mask entry.
        before: what enters the block.
        after: what the block gives.
        path: where the block is, for messages.

    Raises:
        TypeError: if the block does not map one tensor to one tensor.
    """
    for value in (before, after):
        _check_tensor(value, f"depth {path!r}")
    share = entry.to(after)
    blended: Tensor = share * after + (1 - share) * before
    return blended


def gate(entry: Tensor, runs: bool, before: Any, after: Any, path: str) -> Tensor:
    """What leaves an optional block: `after` if its mask entry is one, else `before`.

    Args:
        entry: the mask entry, whose gradient is wanted.
        runs: whether the block runs.
        before: what enters the block.
        after: what the block gives.
        path: where the block is, for messages.

    Raises:
        TypeError: if the block does not map one tensor to one tensor.
    """
    for value in (before, after):
        _check_tensor(value, f"depth {path!r}")
    return _Gate.apply(entry, runs, before, after)  # type: ignore[no-any-return]


class _Pick(torch.autograd.Function):
    """The chosen of several outputs: sum_i p_i * output_i for a one-hot p, exact.

    Only the chosen one gets a gradient; the policy gets that of the formula for all outputs that
    are passed. The result is a copy, since what follows may change it in place.
    """

    @staticmethod
    def forward(ctx: Any, policy: Tensor, options: Sequence[int], *outputs: Tensor) -> Tensor:
        ctx.options = options
        ctx.save_for_backward(policy, *outputs)
        return _each_value(torch.clone, outputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        policy, *outputs = ctx.saved_tensors
        policy_grad = None
        if ctx.needs_input_grad[0]:
            policy_grad = torch.zeros_like(policy)
            for option, output in zip(ctx.options, outputs, strict=True):
                policy_grad[option] = (grad * output).sum()
        return (policy_grad, None, grad, *([None] * (len(outputs) - 1)))


def pick(policy: Tensor, outputs: Mapping[int, Any], path: str) -> Tensor:
    """What leaves a choice block: the first of `outputs`.

    Args:
        policy: the one-hot policy of the decision.
        outputs: what the options give, by option index, the chosen one first.
        path: where the block is, for messages.

    Raises:
        TypeError: if an option does not give one tensor.
    """
    for output in outputs.values():
        _check_tensor(output, f"choice {path!r}")
    options = tuple(outputs)
    return _Pick.apply(policy, options, *outputs.values())  # type: ignore[no-any-return]


def reading(where: str, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Runs `run(*args, **kwargs)` on an input that whatever runs beside it takes too.

    Raises:
        ValueError: if it changes its input in place.
    """
    before = _versions((args, kwargs))
    output = run(*args, **kwargs)
    if _versions((args, kwargs)) != before:
        raise ValueError(
            f"{where} changes its input in place, which other options take too when policies are "
            "given: make its first operation one with inplace=False, or train by option indices"
        )
    return output


def _versions(values: Any) -> list[int]:
    tensors = (value for value in pytree.tree_leaves(values) if isinstance(value, Tensor))
    return [tensor._version for tensor in tensors if not tensor.is_inference()]


def _check_tensor(value: Any, where: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{where}: with policies an option gives one tensor, got {type(value).__name__}; train "
            "this network by option indices: net(images, arch) without a policy"
        )


@final
class OneHots(dict[Decision, Tensor]):
    """Policies on a device, whose values were seen on the host before they went there.

    A network that is given them need not wait for the device to see them again.

    Attributes:
        index: the option of every decision of which the values are one-hot.
    """

    def __init__(self, there: Mapping[Decision, Tensor], here: Mapping[Decision, Tensor]) -> None:
        """Looks at the values.

        Args:
            there: the policies on the device.
            here: the same on the host.
        """
        super().__init__(there)
        self.index: dict[Decision, int] = {}
        for decision, policy in here.items():
            values = policy.tolist()
            if values.count(1) == 1 and values.count(0) == len(values) - 1:
                self.index[decision] = values.index(1)


def _as_numbers(policies: Mapping[Decision, Tensor]) -> dict[Decision, list[float]]:
    """The entries of all policies, in one transfer if they are on a device."""
    entries = iter(torch.cat([policy.detach() for policy in policies.values()]).tolist())
    return {d: list(itertools.islice(entries, len(policy))) for d, policy in policies.items()}


def _checked_weights(policies: Mapping[Decision, Tensor]) -> dict[Decision, list[float]]:
    """The weights of options that are mixed, as numbers.

    Raises:
        ValueError: if one is not finite, all of a decision are zero, or those of a decision between
            numbers do not sum to one.
    """
    numbers = _as_numbers(policies)
    for decision, weights in numbers.items():
        if not all(map(math.isfinite, weights)):
            raise ValueError(f"the weights of {decision!r} are {weights}: they must be finite")
        if not any(weights):
            raise ValueError(
                f"the weights of {decision!r} are all zero, so that nothing runs: at least one "
                "option needs a weight"
            )
        if decision.is_number and abs(sum(weights) - 1) > ROUNDING:
            raise ValueError(
                f"the weights of {decision!r} sum to {sum(weights):.6g}: of sizes they must sum to "
                "one, as those of a softmax do"
            )
    return numbers


def check_known(policies: Iterable[Decision], known: Iterable[Decision]) -> None:
    """Checks that policies are of decisions of the network.

    Raises:
        ValueError: if one is not; another network's decision of the same name is not.
    """
    decisions = frozenset(known)
    for decision in policies:
        if decision not in decisions:
            raise ValueError(
                f"a policy is given for {decision!r}, which is not in this network (a decision of "
                "another network is another one, whatever its name): policies are by the decisions "
                "of this network, net.space.decisions"
            )


def check_policies(
    policies: Mapping[Decision, Tensor], index: Mapping[Decision, int], mode: object
) -> None:
    """Checks that policies are one-hot tensors that agree with option indices.

    Values on a device are read for it, unless they were seen before (`OneHots`).

    Args:
        policies: one-hot tensors by decision.
        index: the chosen option of every decision.
        mode: how layers are to mask.

    Raises:
        ValueError: if a policy or the mode is not allowed.
    """
    if mode not in get_args(MaskMode):
        allowed = ", ".join(map(repr, get_args(MaskMode)))
        raise ValueError(f"masks must be one of {allowed}, got {mode!r}")
    check_known(policies, index)
    for decision, policy in policies.items():
        if policy.shape != (len(decision.options),):
            raise ValueError(
                f"the policy of {decision!r} has shape {tuple(policy.shape)}; it needs one entry "
                f"per option, ({len(decision.options)},)"
            )
    if mode in MIXING:
        return  # `Policies` looks at the values, once
    known = policies.index if isinstance(policies, OneHots) else {}
    if not policies or all(known.get(d) == index[d] for d in policies):
        return
    for decision, values in _as_numbers(policies).items():
        if values != [i == index[decision] for i in range(len(values))]:
            raise ValueError(
                f"the policy of {decision!r} is {values}, not the one-hot vector of option "
                f"{index[decision]}, which the architecture has; make policies exactly one-hot "
                "and the architecture their options"
            )
