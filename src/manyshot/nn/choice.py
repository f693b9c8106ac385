"""Choice blocks and elastic depth."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from manyshot.nn.layer import Extraction, Layer
from manyshot.nn.partial import partly, parts_now
from manyshot.nn.policy import blend, gate, mix, pick, reading
from manyshot.nn.selection import active
from manyshot.space import Decision, choose


class _Bodies(dict[str, Callable[..., Any]]):
    """Compiled options by name; a copy of their choice block starts without any."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Bodies:
        return _Bodies()


@final
class Choice(Layer):
    """A choice block, which holds all options of one decision; exactly one of them runs.

    All options must agree in the shape of their output (`Supernet` checks it on request). Several
    options may be one module, which runs once where options are mixed, with their weights added.
    """

    def __init__(
        self,
        options: Mapping[str, nn.Module] | Sequence[nn.Module],
        decision: Decision | str | None = None,
    ) -> None:
        """Makes a choice block.

        Args:
            options: modules by name, or a list of modules (named "0", "1", ...).
            decision: a name for a new decision (prefixed by `ms.scope`), or a decision to share;
                by default a new one named after the module's path.

        Raises:
            ValueError: if there are no options, or a shared decision has another number of them.
        """
        super().__init__()
        if isinstance(options, nn.ModuleDict):
            options = dict(options.items())
        elif not isinstance(options, Mapping):
            options = {str(i): option for i, option in enumerate(options)}
        if not options:
            raise ValueError("a choice block needs at least one option")
        if not isinstance(decision, Decision):
            decision = choose(tuple(options), decision)
        if len(decision.options) != len(options):
            raise ValueError(
                f"{decision!r} has {len(decision.options)} options, this choice block "
                f"{len(options)} ({', '.join(options)}); a shared decision needs as many"
            )
        self.decision = decision
        self.options = nn.ModuleDict(options)
        self._names = tuple(options)
        self._compiled = _Bodies()

    def option(self, index: int) -> nn.Module:
        """The module that runs for an option index."""
        return self.options[self._names[index]]

    @property
    def is_compiled(self) -> bool:
        """Whether any option is."""
        return bool(self._compiled)

    def compile_option(self, name: str, **kwargs: Any) -> None:
        """Compiles one option for train mode; in eval mode it runs uncompiled."""
        self._compiled[name] = torch.compile(self.options[name], **kwargs)

    def uncompile_options(self) -> None:
        """Lets all options run uncompiled again."""
        self._compiled.clear()

    def become(self, extraction: Extraction) -> nn.Module:
        """The chosen option, which takes the place of this block."""
        chosen = self.option(extraction.selection.option(self.decision))
        return copy.deepcopy(chosen, extraction)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the chosen option.

        With full masks the others run too, without gradients, for the gradient of the policy. Mixed
        run all that have a weight, and their weighted sum is what leaves; on a part of the channels
        alone, if the selection says so.
        """
        selection = active(self)
        chosen = selection.option(self.decision)
        policy = selection.policy(self.decision)
        if policy is None or selection.policies is None:
            return self._run(chosen, *args, **kwargs)
        if selection.policies.mixes:
            weights = selection.policies.weights[self.decision]
            run = self._alike(i for i, weight in enumerate(weights) if weight)

            def mixed(*args: Any, **kwargs: Any) -> Tensor:
                return mix(policy, {t: self._beside(t[0], *args, **kwargs) for t in run}, self.path)

            parts = selection.policies.partial.get(self.decision, 1)
            if parts == 1:
                return mixed(*args, **kwargs)
            return partly(parts, mixed, args, kwargs, policy.sum(), f"choice {self.path!r}")
        if selection.policies.mode == "active":
            return pick(policy, {chosen: self._run(chosen, *args, **kwargs)}, self.path)
        outputs = {chosen: self._beside(chosen, *args, **kwargs)}
        with torch.no_grad():
            for alike in self._alike(range(len(self._names))):
                first = chosen if chosen in alike else alike[0]
                if first not in outputs:
                    outputs[first] = self._beside(first, *args, **kwargs)
                outputs |= {i: outputs[first] for i in alike}
        return pick(policy, outputs, self.path)

    def _alike(self, options: Iterable[int]) -> list[tuple[int, ...]]:
        """Options by the module that they are, in their order."""
        groups: dict[int, tuple[int, ...]] = {}
        for i in options:
            module = id(self.option(i))
            groups[module] = (*groups.get(module, ()), i)
        return list(groups.values())

    def _beside(self, index: int, *args: Any, **kwargs: Any) -> Any:
        where = f"choice {self.path!r}: option {self._names[index]!r}"
        return reading(where, self._run, index, *args, **kwargs)

    def _run(self, index: int, *args: Any, **kwargs: Any) -> Any:
        name = self._names[index]
        if self.training and name in self._compiled and parts_now() == 1:
            return self._compiled[name](*args, **kwargs)
        return self.options[name](*args, **kwargs)


@final
class Depth(Layer):
    """A sequence of blocks of which the first `depth` run; later ones are dropped.

    A sequence that must stay in pieces, such as blocks that an own `forward` runs one by one, is
    several of these that share a decision: each is told how many blocks come before it.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        depths: Sequence[int] | Decision,
        name: str | None = None,
        *,
        start: int = 0,
    ) -> None:
        """Makes an elastic sequence.

        Args:
            blocks: as many as the largest depth; each maps one tensor to one tensor.
            depths: the allowed depths, or a decision between whole numbers to share.
            name: the name of the new decision; by default the module's path.
            start: how many blocks of the sequence come before these, in other modules.

        Raises:
            ValueError: if depths are not whole, or the largest is not the number of blocks.
        """
        super().__init__()
        if isinstance(depths, Decision):
            if name is not None:
                raise ValueError(f"{depths!r} already has a name; leave out name={name!r}")
            self.decision = depths
        else:
            self.decision = choose(depths, name)
        values = self.decision.values
        last = start + len(blocks)
        fits = max(values) >= last if start else max(values) == last
        if any(v != int(v) or v < 0 for v in values) or not fits:
            raise ValueError(
                f"depths {values} do not fit {last} blocks: the largest must be {last} and all "
                "whole"
            )
        self.start = start
        self.blocks = nn.ModuleList(blocks)

    @property
    def is_piece(self) -> bool:
        """Whether this is one block of a sequence, which stands by itself when extracted."""
        return self.start > 0 and len(self.blocks) == 1

    def become(self, extraction: Extraction) -> nn.Module:
        """The first blocks, as a `Sequential`; of one that is a piece, the block or `Identity`."""
        kept = self.blocks[: max(0, extraction.selection.count(self.decision) - self.start)]
        if self.is_piece:
            return copy.deepcopy(kept[0], extraction) if kept else _passing(self.blocks[0])
        kind = Blocks if any(map(_takes_more, self.blocks)) else nn.Sequential
        sequence = kind(*(copy.deepcopy(block, extraction) for block in kept))
        sequence.training = self.training
        return sequence

    def first(self, depth: int) -> Callable[..., Any]:
        """The function that the blocks among the first `depth` of the sequence are."""

        def run(x: Any, *args: Any, **kwargs: Any) -> Any:
            for block in itertools.islice(self.blocks, max(0, depth - self.start)):
                x = block(x, *args, **kwargs)
            return x

        return run

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Runs the first blocks in order; what they get besides `x` is the same for all.

        With full masks the others run too, without gradients, for the gradient of the policy. Mixed
        run all up to the deepest option that has a weight.
        """
        selection = active(self)
        depth, mask = selection.count(self.decision), selection.prefix_mask(self.decision)
        if mask is None:
            return self.first(depth)(x, *args, **kwargs)
        always = int(min(self.decision.values))
        x = self.first(always)(x, *args, **kwargs)
        policies = selection.policies
        mixes = policies is not None and policies.mixes
        if policies is not None and mixes:
            weights = zip(self.decision.values, policies.weights[self.decision], strict=True)
            depth = max(int(option) for option, weight in weights if weight)
        for i, block in enumerate(self.blocks, self.start):
            if not always <= i < (min(depth, len(mask)) if mixes else len(mask)):
                continue
            with torch.set_grad_enabled(torch.is_grad_enabled() and i < depth):
                where = f"depth {self.path!r}: block {i}"
                after = reading(where, block, x, *args, **kwargs)
            if mixes:
                x = blend(mask[i], x, after, self.path)
            else:
                x = gate(mask[i], i < depth, x, after, self.path)
        return x


class Passing(nn.Identity):
    """What a dropped block becomes that is called with more than its input."""

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - torch's name
        """The input."""
        return input


class Blocks(nn.Sequential):
    """What blocks become that are called with more than their input, each with the same."""

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002 - torch's name
        """Runs the blocks in order."""
        for block in self:
            input = block(input, *args, **kwargs)  # noqa: A001
        return input


def _takes_more(block: nn.Module) -> bool:
    """Whether a block can be called with more than its input."""
    return len(inspect.signature(block.forward).parameters) > 1


def _passing(block: nn.Module) -> nn.Identity:
    """An identity that can be called as `block` is."""
    return Passing() if _takes_more(block) else nn.Identity()
