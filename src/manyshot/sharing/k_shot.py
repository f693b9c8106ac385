"""K-shot NAS: path-specific weights from K copies and a simplex-net."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, TypeVar, cast, final

import torch
from pydantic import Field
from torch import Tensor, nn

from manyshot.nn.mixing import Combination
from manyshot.plugins import (
    AboveZero,
    AtLeastZero,
    NotNegative,
    Positive,
    Probability,
    Share,
    checked,
)
from manyshot.seeding import numpy_rng
from manyshot.sharing.codes import (
    Regulariser,
    distinctness,
    effective_sharing,
    entropy,
    slice_distance,
    spread,
)
from manyshot.sharing.dictionary import (
    Entry,
    Initial,
    constructed,
    dictionary,
    equal,
    fill,
    redrawn,
    rows,
    width_decisions,
)
from manyshot.sharing.penalties import (
    WidthSettings,
    below_floor,
    settings_independent,
    settings_together,
)
from manyshot.sharing.refusals import GRADIENTS, NEEDS, refuse_without_effect
from manyshot.sharing.scheme import Phase
from manyshot.sharing.simplex_net import SimplexNet
from manyshot.sharing.splits import GradientSplits
from manyshot.space import Arch, Decision, SearchSpace

Codes = Literal["learnt", "uniform", "random", "one_hot"]
CodeScope = Literal["path", "layer", "channel"]
UpdateMode = Literal["alternate", "joint"]
Penalty = Literal["target", "cos", "instance", "none"]
Optimiser = Literal["sgd", "adam"]
Start = Literal["independent", "equal"]
T = TypeVar("T")

_WARM = 0.05
_CODE_EVERY = 8
_ADAM_LR = 0.002
"""At 0.01 codes of networks on digits collapsed to one-hot."""
_WATCHED = 256
"""How many random architectures have their codes watched."""
_WATCHED_BY_CHANNEL = 32
"""Likewise of codes per channel, which are large."""
_ONE_HOT, _EQUAL = 0.05, 1e-6
"""Below these entropies and slice distances, codes or slices are called collapsed."""


@final
class KShot(nn.Module):
    """θ(a) = Σ_k λ_k(a) θ_k: K slices of every searched tensor, mixed by a code per path.

    In a "code" step only the simplex-net moves, otherwise (but for "joint") all else does. In the
    warm-up codes are uniform, and equal slices are one copy.

    Reference: K-shot NAS (Su et al. 2021, arXiv:2106.06442). The paper has the dictionary of K
    supernets, the convex combination, the simplex-net, training the two in turn, a channel branch
    and a term for distinct codes when widths are searched. This is an implementation of the idea
    from its abstract; simplex-net details, schedule, treatment of batch norm and regulariser are
    ours.

    Attributes:
        copies: K, at least 1.
        codes: `learnt`; or as controls `uniform`, `random` (a frozen random simplex-net) or
            `one_hot` (by one decision's option: few-shot NAS, arXiv:2006.06863).
        code_scope: one code per `path`, one per `layer` of it, or one per output `channel` of every
            module.
        start: `independent` slices, whose codes start near uniform; or `equal` slices whose codes
            start apart, so that the network begins as one copy, and paths pull the slices apart
            from the first step after the warm-up.
        mix_bn_affine: whether scales and shifts of batch norms are stacked too.
        mix_fixed_layers: whether stem, last convolution and classifier are stacked too.
        update_mode: after the warm-up, weights and codes `alternate`, or move in `joint` steps.
        code_every: in turn, every so many steps one is of the codes, by default 8; 2 is one of
            each in turn.
        compensate: whether gradients of stacks, not their decay, are divided by the code's squared
            norm, so that rates mean what they mean for one copy. Plain SGD otherwise moves the
            weights of a path by ‖λ‖² times the rate, 1 / K of it under uniform codes.
        warm_frac: the share of the steps with uniform codes, in [0, 1], by default 0.05 for learnt
            codes and independent slices, else 0. With equal slices it is how long one copy trains
            before the K slices inherit it, also under one-hot and random codes.
        m: the number of plans in a code step, one per chunk of the batch; kept as `chunks`.
        hidden: the hidden units of the simplex-net (see there).
        tau: the temperature of its softmax.
        last_std: the standard deviation of the weights of its last layer; by default 0.01, for
            random codes and equal slices 1.
        split: for one-hot codes, the name of the decision that splits; by default the first. Option
            i uses slice i modulo K. With `gradients` log2(K) decisions split, each into two groups
            of options, which gradients say at the end of the warm-up (arXiv:2203.15207).
        split_batches: of so many training batches gradients are compared for that; take more where
            another seed splits by other decisions.
        regulariser: `target`, `cos` or `instance` for a further loss of codes, if the space has
            width decisions (see `distinctness`); or `none`.
        beta: the factor of that loss.
        width_settings: which settings of several width decisions that loss compares: from their
            narrowest to their widest `together`, or drawn `independent` of one another, for
            networks whose widths are searched one by one.
        entropy_floor: a share of log K, below which the entropy of codes is a further loss: by how
            much it is below. 0 is none; take one where training warns of one-hot codes.
        optimizer: the optimiser of the simplex-net: `adam`, or `sgd` with the momentum of the
            weights. Its weights do not decay.
        lr: the learning rate of the simplex-net; by default 0.002 of Adam, and that of the weights
            of SGD.
        seed: the seed of all that is drawn here.
        init: makes the network afresh; its parameters are the further slices. Without it, they are
            what the modules' own `reset_parameters` draw, and random rearrangements of the first's
            values where a module has none: give it where a network initialises its modules itself.
        simplex_net: the net, once attached, if codes are learnt or random.
        layers: how many layers the dictionary has, once attached.
        channels: how many output channels.
        splits: what gradients split by, once attached, if they do.
    """

    @checked
    def __init__(
        self,
        copies: Positive = 4,
        *,
        codes: Codes = "learnt",
        code_scope: CodeScope = "path",
        start: Start = "independent",
        mix_bn_affine: bool = True,
        mix_fixed_layers: bool = False,
        update_mode: UpdateMode = "alternate",
        code_every: Annotated[int, Field(ge=2)] | None = None,
        compensate: bool = True,
        warm_frac: Probability | None = None,
        m: Positive = 4,
        hidden: Positive | None = None,
        tau: AboveZero = 1.0,
        last_std: AtLeastZero | None = None,
        split: str | None = None,
        split_batches: Positive = 20,
        regulariser: Penalty = "target",
        beta: AtLeastZero = 0.1,
        width_settings: WidthSettings = "together",
        entropy_floor: Share = 0.0,
        optimizer: Optimiser = "adam",
        lr: AboveZero | None = None,
        seed: NotNegative = 0,
        init: Callable[[], nn.Module] | None = None,
    ) -> None:
        """Makes a scheme for one supernet, with the settings that the class lists.

        Raises:
            ValueError: for a value that is not allowed, or options that together have no effect.
        """
        super().__init__()
        self._options = {
            name: value
            for name, value in locals().items()
            if name in NEEDS or name in ("copies", "codes")
        }
        refuse_without_effect(self._options, _defaults())
        if warm_frac is None:
            warm_frac = _WARM if codes == "learnt" and start == "independent" else 0.0
        self.copies, self.chunks, self.codes, self.code_scope = copies, m, codes, code_scope
        self.start = start
        self.mix_bn_affine, self.mix_fixed_layers = mix_bn_affine, mix_fixed_layers
        self.update_mode, self.warm_frac = update_mode, warm_frac
        self.code_every, self.compensate = code_every or _CODE_EVERY, compensate
        self.hidden, self.tau = hidden, tau
        self.split, self.split_batches = split, split_batches
        if last_std is None:
            last_std = 1.0 if codes == "random" or start == "equal" else 0.01
        self.last_std = last_std
        self.regulariser, self.beta = regulariser, beta
        self.width_settings, self.entropy_floor = width_settings, entropy_floor
        self.optimizer, self.lr, self.seed, self.init = optimizer, lr, seed, init
        self.layers = self.channels = 0
        self.simplex_net: SimplexNet | None = None
        self._space: SearchSpace | None = None
        self._split = 0
        self.splits: GradientSplits | None = None
        self.register_buffer("_like", torch.empty(0), persistent=False)

    # -- what a supernet asks ----------------------------------------------------------------

    def attach(self, model: nn.Module, space: SearchSpace) -> None:
        """Stacks the dictionary's parameters, in place, and makes the simplex-net.

        Raises:
            RuntimeError: if this scheme has a supernet already.
            ValueError: if there is nothing to stack, `split` is no decision, a parameter cannot be
                mixed, or options are for width decisions, and the space has none.
        """
        if self._space is not None:
            raise RuntimeError("this KShot belongs to another supernet already: make a new one")
        if self.codes == "one_hot" and self.split != GRADIENTS:
            self._split = self._splitting(space)
        elif self.codes == "one_hot" and self.copies > 1:
            self.splits = GradientSplits(space, self.copies)
        widths = width_decisions(model, space)
        refuse_without_effect(self._options, _defaults(), len(widths))
        entries = dictionary(
            model, batch_norms=self.mix_bn_affine, fixed_layers=self.mix_fixed_layers
        )
        if not entries:
            raise ValueError(
                "KShot: no choice, depth or elastic layer of this network has parameters; use "
                "ms.sharing.OneShot(), or KShot(mix_fixed_layers=True)"
            )
        self.layers = 1 + max(entry.layer for entry in entries)
        layer_of = _layers_of_channels(entries)
        self.channels = len(layer_of)
        further = functools.partial(_slices, self.init, self.seed)
        fill(entries, self.copies, equal if self.start == "equal" else further)
        self.init = None  # done with; it may hold much that copies of this need not
        self._space, first = space, entries[0].parameter
        self.to(first.device, first.dtype)
        if self.codes in ("learnt", "random"):
            self.simplex_net = SimplexNet(
                space,
                self.copies,
                layers=None if self.code_scope == "path" else self.layers,
                channels=layer_of if self.code_scope == "channel" else None,
                widths=widths,
                hidden=self.hidden,
                tau=self.tau,
                last_std=self.last_std,
                seed=self.seed,
            ).to(first.device, first.dtype)
            self.simplex_net.requires_grad_(self.codes == "learnt")

    def _splitting(self, space: SearchSpace) -> int:
        names = [str(decision.name) for decision in space.decisions]
        split = names[0] if self.split is None else self.split
        if split not in names:
            raise ValueError(f"KShot: split must be one of {', '.join(names)}, got {split!r}")
        options = len(space.decisions[names.index(split)].options)
        if self.copies > options:
            raise ValueError(
                f"KShot: copies must be at most {options}, the options of {split!r}, which split "
                f"one-hot codes; got {self.copies}"
            )
        return names.index(split)

    def code(self, archs: Sequence[Arch]) -> Tensor:
        """Codes (B, K) of architectures, or (B, rows, K) if layers or channels have one.

        They are differentiable if they are learnt. Encodings of one network have one code, also
        one-hot codes.

        Raises:
            RuntimeError: before a supernet was made with this scheme.
        """
        space = self._attached(self._space)
        like = cast(Tensor, self._like)
        if self.simplex_net is not None:
            codes: Tensor = self.simplex_net(self.simplex_net.encode(archs))
            return codes
        if self.codes == "uniform" or (self.splits is not None and not self.chosen()):
            return like.new_full((len(archs), self.copies), 1 / self.copies)
        slices = [self._slice_of(space.canonical(arch)) for arch in archs]
        chosen = torch.tensor(slices).to(like.device, non_blocking=True)
        picked = nn.functional.one_hot(chosen, self.copies)
        return picked.to(like.dtype)

    def _slice_of(self, arch: Arch) -> int:
        """The slice that a canonical architecture uses, with one-hot codes."""
        return (
            arch[self._split] % self.copies if self.splits is None else self.splits.slice_of(arch)
        )

    def mixture(self, arch: Arch, phase: Phase | None = None) -> Combination:
        """The combination that the code of `arch` says: uniform in "warmup", fixed in "weights"."""
        if phase == "warmup":
            like = cast(Tensor, self._like)
            return self.by_code(like.new_full((self.copies,), 1 / self.copies))
        with torch.set_grad_enabled(torch.is_grad_enabled() and phase != "weights"):
            [code] = self.code([arch])
        return self.by_code(code)

    def by_code(self, code: Tensor) -> Combination:
        """The combination of a code, as `code` gives one for each architecture."""
        by_channel = self.code_scope == "channel"
        return Combination(code, compensate=self.compensate, by_channel=by_channel)

    # -- a split by gradients ----------------------------------------------------------------

    def candidates(self) -> list[Decision]:
        """The decisions that gradients may split; none unless `split` is `gradients`."""
        return [] if self.splits is None else self.splits.candidates

    def splits_at(self, step: int, steps: int) -> bool:
        """Whether gradients are to say now how slices part: once, when the warm-up is over."""
        if self.splits is None or self.chosen():
            return False
        return self.phase(step, steps) != "warmup"

    def split_by(self, apart: Mapping[Decision, Tensor]) -> None:
        """Splits by the distances between the options of each candidate."""
        self._attached(self.splits).split_by(apart)

    def chosen(self) -> list[tuple[Decision, tuple[int, ...]]]:
        """The decisions that gradients split by, each with the group of every option; or none."""
        return [] if self.splits is None else self.splits.chosen()

    # -- what the training loop asks ---------------------------------------------------------

    def phase(self, step: int, steps: int) -> Phase:
        """The warm-up, then by `update_mode`; codes that are not learnt leave only weights."""
        if self.codes == "uniform" or self.copies == 1:
            return "weights"
        warm = math.ceil(self.warm_frac * steps)
        if step < warm:
            return "warmup"
        if self.codes != "learnt":
            return "weights"
        if self.update_mode == "joint":
            return "joint"
        return "code" if (step - warm) % self.code_every == self.code_every - 1 else "weights"

    def code_optimizer(self, lr: float, momentum: float) -> torch.optim.Optimizer | None:
        """An optimiser of the simplex-net, without weight decay; None if it does not learn."""
        if self.simplex_net is None or self.codes != "learnt":
            return None
        parameters = list(self.simplex_net.parameters())
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, self.lr or _ADAM_LR)
        return torch.optim.SGD(parameters, self.lr or lr, momentum, nesterov=momentum > 0)

    def penalty(self, archs: Sequence[Arch]) -> Tensor | None:
        """β times the mean `distinctness` of the width settings of each path, and `below_floor`."""
        net = self.simplex_net
        if net is None or self.codes != "learnt" or not archs:
            return None
        parts = []
        if net.widths and self.regulariser != "none" and self.beta:
            alike = [self._alike(net, arch, self.regulariser) for arch in archs]
            parts.append(self.beta * sum(alike[1:], alike[0]) / len(archs))
        if self.entropy_floor and self.copies > 1:
            parts.append(below_floor(self.code(archs), self.entropy_floor))
        return sum(parts[1:], parts[0]) if parts else None

    def _alike(self, net: SimplexNet, arch: Arch, kind: Regulariser) -> Tensor:
        space = self._attached(self._space)
        if self.width_settings == "together":
            settings, widths = settings_together(space, net.widths, arch)
        else:
            settings, widths = settings_independent(space, net.widths, arch, self.seed)
        codes = self.code(settings)
        by_layer = codes if codes.dim() == 2 else codes.transpose(0, 1)
        return distinctness(by_layer, widths.to(by_layer, non_blocking=True), kind)

    def watch(self, net: nn.Module) -> dict[str, float]:
        """Entropy, spread and sharing of the codes of random architectures; distance of slices.

        The distance is that of weights; vectors such as biases and norms are left out if there are
        any weights, because they start equal.
        """
        space = self._attached(self._space)
        rng = numpy_rng(self.seed, "described_codes")
        with torch.no_grad():
            count = _WATCHED_BY_CHANNEL if self.code_scope == "channel" else _WATCHED
            codes = self.code([space.sample(rng) for _ in range(count)])
            return {
                "code_entropy_share": entropy(codes),
                "code_spread": spread(codes),
                "effective_sharing": effective_sharing(codes),
                "slice_distance": slice_distance(_weights(net)),
            }

    def concerns(self, watched: Mapping[str, float], step: int, steps: int) -> dict[str, str]:
        """Warns of slices that stay equal, and of codes that became one-hot."""
        concerns: dict[str, str] = {}
        if self.codes != "learnt" or self.copies == 1:
            return concerns
        share = watched["code_entropy_share"]
        warm = math.ceil(self.warm_frac * steps)
        if watched["slice_distance"] < _EQUAL and (self.start != "equal" or step > warm):
            concerns["dead start"] = (
                f"the {self.copies} slices of every tensor are equal, so that codes change nothing "
                "and get no gradient: start from independent slices, or widen() with a spread"
            )
        if self.phase(step, steps) == "warmup":
            return concerns
        if share < _ONE_HOT:
            concerns["one-hot codes"] = (
                f"codes collapsed to one-hot (entropy {share:.3f} of 1): slices "
                "are separate supernets, as in few-shot NAS; raise tau, lower lr, or use "
                "regulariser = 'target', in the options of k_shot"
            )
        return concerns

    def extra_repr(self) -> str:
        """The main settings, for people."""
        return f"copies={self.copies}, codes={self.codes!r}, code_scope={self.code_scope!r}"

    def _attached(self, held: T | None) -> T:
        if held is None:
            raise RuntimeError(
                "KShot has no codes before ms.Supernet(model, sharing=...) is made with it"
            )
        return held


@functools.cache
def _defaults() -> dict[str, object]:
    """What options are by default."""
    return {name: p.default for name, p in inspect.signature(KShot).parameters.items()}


def _layers_of_channels(entries: Sequence[Entry]) -> list[int]:
    """The layer of every channel."""
    layers: dict[int, int] = {}
    for entry in entries:
        run = entry.channels
        layers.update(dict.fromkeys(range(run.first, run.first + run.count), entry.layer))
    return [layers[channel] for channel in range(len(layers))]


def _weights(net: nn.Module) -> list[nn.Parameter]:
    """The stacks of tensors of two dimensions or more; if there are none, all stacks."""
    found = list(rows(net))
    return [stack for stack in found if stack.dim() > 2] or found


def _slices(init: Callable[[], nn.Module] | None, seed: int, copy: int) -> Initial:
    return redrawn(seed, copy) if init is None else constructed(init, seed, copy)
