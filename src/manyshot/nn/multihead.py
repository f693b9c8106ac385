"""`torch.nn.MultiheadAttention` as a forward whose number of heads may vary.

torch's own computes the features of a head from the width of a token, so that it cannot have fewer
heads. This one reads `num_heads` and `head_dim`, and computes the same.
"""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@final
class MultiheadAttention(nn.MultiheadAttention):
    """Multi-head attention with `num_heads` heads of `head_dim` features each.

    It holds what `torch.nn.MultiheadAttention` holds, under the same names, and is called in the
    same way. `takes` says which modules can become one.
    """

    @staticmethod
    def takes(module: nn.Module) -> bool:
        """Whether `module` is torch's own, with one projection and no further keys."""
        return (
            type(module) is nn.MultiheadAttention
            and module._qkv_same_embed_dim
            and module.bias_k is None
            and not module.add_zero_attn
        )

    @classmethod
    def adopt(cls, module: nn.Module) -> None:
        """Makes torch's own one of these, in place."""
        module.__class__ = cls

    def release(self) -> None:
        """Makes this torch's own again, in place, if its heads have the features of a token."""
        if self.num_heads * self.head_dim == self.embed_dim:
            self.__class__ = nn.MultiheadAttention  # type: ignore[assignment]

    @property
    def _qkv_same_embed_dim(self) -> bool:
        """No, so that nobody takes torch's fast path around this forward."""
        return False

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends, as `torch.nn.MultiheadAttention.forward` does.

        Args:
            query: (B, L, E) if `batch_first`, else (L, B, E); without a batch (L, E).
            key: likewise, with S tokens.
            value: likewise.
            key_padding_mask: (B, S); keys that are True, or -inf, are left out.
            need_weights: whether the weights are returned.
            attn_mask: (L, S) or (B * heads, L, S), likewise.
            average_attn_weights: whether the weights are averaged over heads.
            is_causal: a hint, which needs `attn_mask`.

        Returns:
            What it attended to, of the shape of `query`, and the weights or None.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("MultiheadAttention: is_causal is a hint, and needs attn_mask too")
        single, shared = query.dim() == 2, query is key and key is value
        inputs: tuple[Tensor, ...] = (query,) if shared else (query, key, value)
        if single:
            inputs = tuple(x.unsqueeze(0) for x in inputs)
        elif not self.batch_first:
            inputs = tuple(x.transpose(0, 1) for x in inputs)
        q, k, v = self._projected(inputs)
        mask = _merged_mask(key_padding_mask, attn_mask, q)
        rate = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, -1)
            out = F.dropout(weights, rate) @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights.squeeze(0) if single else weights
        else:
            out = F.scaled_dot_product_attention(q, k, v, mask, rate)
        out = F.linear(out.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if single:
            return out.squeeze(0), weights
        return out if self.batch_first else out.transpose(0, 1), weights

    def _projected(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Queries, keys and values, each (B, heads, tokens, head_dim)."""
        weight: Any = self.in_proj_weight
        bias: Any = self.in_proj_bias
        if len(inputs) == 1:
            parts = F.linear(inputs[0], weight, bias).chunk(3, -1)
        else:
            biases = (None,) * 3 if bias is None else bias.chunk(3)
            parts = tuple(map(F.linear, inputs, weight.chunk(3), biases))
        return tuple(self._by_head(part) for part in parts)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)


def _merged_mask(padding: Tensor | None, attention: Tensor | None, like: Tensor) -> Tensor | None:
    """Both masks as what is added to the scores, (B or 1, heads or 1, L or 1, S)."""
    merged = None
    if padding is not None:
        merged = _additive(padding, like)[:, None, None, :]
    if attention is not None:
        added = _additive(attention, like)
        added = added.view(*like.shape[:2], *added.shape[1:]) if added.dim() == 3 else added
        merged = added if merged is None else merged + added
    return merged


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))
