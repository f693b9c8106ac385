"""How much of the gradient of a path's weights its codes can reach."""

from __future__ import annotations

from typing import cast, final

import torch
from torch import Tensor

from manyshot.nn.layer import take
from manyshot.nn.mixing import Combination, Stacked, is_weight_norm
from manyshot.nn.selection import Index


@final
class Reach:
    """A mixture that remembers what it mixed, so that gradients in it can be looked at.

    Weights under `weight_norm` are mixed, but not looked at: magnitude and direction are no sums of
    slices.
    """

    def __init__(self, combination: Combination) -> None:
        """Begins with nothing mixed.

        Args:
            combination: what mixes.
        """
        self._combination = combination
        self._mixed: dict[tuple[int, str], tuple[Stacked, str, Index, Tensor]] = {}

    def merge(self, module: Stacked, name: str, index: Index) -> Tensor:
        """The mixture (see `Mixture.merge`) as a leaf; the same leaf for the same part."""
        stack = module._parameters[name]
        key = (id(stack), str(index))
        if key not in self._mixed:
            merged = self._combination.merge(module, name, index).detach()
            if is_weight_norm(module):
                return merged
            self._mixed[key] = (module, name, index, merged.requires_grad_())
        return self._mixed[key][-1]

    def share(self, loss: Tensor) -> float:
        """The part of the squared norm of a loss's gradient that codes can reach, in [0, 1].

        A code moves the weights that it mixes along the K - 1 differences of their slices: those of
        the whole path together, or of each layer or channel where these have codes. The share is
        that of the gradient's projection onto them.

        Args:
            loss: what came of a forward with this mixture.
        """
        held = list(self._mixed.values())
        if not held:
            return 0.0
        leaves = [leaf for *_, leaf in held]
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        sums: tuple[Tensor, Tensor] | None = None
        energy = 0.0
        for (module, name, index, _), grad in zip(held, grads, strict=True):
            if grad is None:
                continue
            rows, inner, outer, squared = self._products(module, name, index, grad)
            if sums is None:
                count, copies = self._combination.code.reshape(-1, outer.shape[-1]).shape
                like = {"dtype": torch.float64, "device": outer.device}
                zeros = (torch.zeros((count, copies), **like),)  # type: ignore[call-overload]
                sums = (*zeros, torch.zeros((count, copies, copies), **like))  # type: ignore[call-overload]
            sums[0].index_add_(0, rows, inner.double())
            sums[1].index_add_(0, rows, outer.double())
            energy += squared
        if sums is None or energy == 0:
            return 0.0
        inner, outer = sums
        solved = torch.linalg.pinv(outer, rtol=1e-6, hermitian=True) @ inner.unsqueeze(-1)
        return min(1.0, max(0.0, float((inner.unsqueeze(-1) * solved).sum()) / energy))

    def _products(
        self, module: Stacked, name: str, index: Index, grad: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, float]:
        """Inner products of a gradient and of the differences of slices from the first.

        Args:
            module: has the stack.
            name: its name.
            index: the part of every slice that is used.
            grad: the gradient in the mixture of that part.

        Returns:
            The rows of the code that mix it (n,), its products with the differences (n, K), their
            products with each other (n, K, K), and its squared norm.
        """
        stack = cast(Tensor, module._parameters[name]).detach()
        cut = take(stack, (slice(None), *index))
        apart = cut - cut[:1]  # exactly zero for equal slices
        code, run = self._combination.code, module._code_channels[name]
        rows = torch.zeros(1, dtype=torch.long, device=stack.device)
        if code.dim() == 2 and self._combination.by_channel:
            rows = torch.arange(run.first, run.first + run.count, device=stack.device)
            if run.dim is not None:
                rows = take(rows, index[run.dim : run.dim + 1])
                apart, grad = apart.movedim(run.dim + 1, 1), grad.movedim(run.dim, 0)
        elif code.dim() == 2:
            rows = rows + module._stacks[name]
        apart = apart.reshape(len(stack), len(rows), -1).transpose(0, 1)  # (n, K, entries)
        flat = grad.reshape(len(rows), -1, 1)
        squared = float(flat.square().sum())
        return rows, (apart @ flat).squeeze(-1), apart @ apart.mT, squared
