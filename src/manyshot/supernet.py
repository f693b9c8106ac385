"""The supernet: one network that contains every architecture of its space."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, cast, final, get_args

import torch
from torch import Tensor, nn

from manyshot.nn.agreement import check_agreement
from manyshot.nn.batch_norm import (
    BatchNorm,
    BatchNormStats,
    BatchStatistics,
    Collector,
    MaskedStatistics,
)
from manyshot.nn.choice import Choice
from manyshot.nn.converted import Conversion
from manyshot.nn.extract import extract
from manyshot.nn.inputs import Inputs, as_call, inputs_of
from manyshot.nn.layer import Layer, active_part
from manyshot.nn.mixing import Kept, Stacked
from manyshot.nn.placement import LEFT, Placement
from manyshot.nn.policy import MIXING, MaskMode, Policies, check_known, check_policies
from manyshot.nn.selection import Selection, Statistics, activate
from manyshot.nn.shapes import check_options
from manyshot.nn.structure import (
    adopt,
    compilable,
    compiles_options,
    search_space,
    sizes_of,
    walk,
)
from manyshot.sharing import OneShot, Phase, PlacesChannels, Sharing
from manyshot.space import Arch, Decision

_BY_THE_BATCH = BatchStatistics()
_PHASES = get_args(Phase)
_COMPILING: dict[str, Any] = {"isolate_recompiles": True, "recompile_limit": 64, "dynamic": False}


def refuse_compilation() -> NoReturn:
    """Refuses to compile a whole supernet.

    Raises:
        RuntimeError: always, with the ways out.
    """
    raise RuntimeError(
        "torch.compile of a whole supernet would compile once per architecture: compile option "
        "bodies of fixed size by net.compile_options(), or the subnet that net.extract() gives"
    )


# `torch.compile` would catch the exception and run uncompiled; a function so marked stops it.
refuse_compilation._dynamo_forbidden = True  # type: ignore[attr-defined]


@final
class Supernet(nn.Module):
    """A module with choices in it, as a network that takes the architecture as an argument.

    `net(images, arch)` runs one architecture with the shared weights; no state says which is "on".

    Attributes:
        model: the module it was made from, which it owns from then on: plain batch norms in it are
            replaced by ones without running statistics (the parameter objects stay).
        space: its search space, derived from the module, so that the two cannot disagree.
        sharing: the weight-sharing scheme.
        input_shape: (C, H, W) of one image, if that was given, else None.
        example_inputs: inputs without values, if these were given, else None.
        conversion: what `ms.convert` did, if it made this supernet, else None.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sharing: Sharing | None = None,
        input_shape: Sequence[int] | None = None,
        example_inputs: Inputs = None,
    ) -> None:
        """Makes a supernet.

        Args:
            model: any module that holds `ms.nn.Choice`, `ms.nn.Depth` or elastic layers.
            sharing: which weights a path gets; by default one copy (`ms.sharing.OneShot`).
            input_shape: (C, H, W) of one image. When given, all options of every choice are
                checked on meta tensors to agree in shape.
            example_inputs: the same of any other inputs: a tensor, a tuple of positional or a dict
                of keyword arguments of the model's `forward`, with a batch in front. Their shapes
                and types are remembered, for costs and exports.

        Raises:
            ValueError: without decisions, for two decisions of one name, a model whose parameters
                are stacked already, or both `input_shape` and `example_inputs`.
            DryRunError: with one of these, if options disagree or a module cannot run; the message
                names it.
            TypeError: for a batch norm that cannot be shared, or a weight that a hook computes (a
                pruned one, or by the old `torch.nn.utils.weight_norm`).
        """
        super().__init__()
        for path, module in model.named_modules():
            if isinstance(module, Stacked):
                raise ValueError(
                    f"{path or 'the model'} has stacked parameters already, of a supernet made "
                    "before: make the model afresh"
                )
        adopt(model)
        self.model = model
        self.space = search_space(self.model)
        self.sharing: Sharing = OneShot() if sharing is None else sharing
        self.sharing.attach(self.model, self.space)
        self._places = isinstance(self.sharing, PlacesChannels)  # asked in every forward
        self._masks_agree = False
        self._checked_partial: set[Decision] = set()
        self.conversion: Conversion | None = None
        self.input_shape = None if input_shape is None else tuple(input_shape)
        self.example_inputs: Inputs = None
        if input_shape is not None or example_inputs is not None:
            shown = inputs_of(self.model, input_shape, example_inputs)
            check_options(self.model, self.space, shown)
            self.example_inputs = None if example_inputs is None else shown

    def forward(
        self,
        inputs: Inputs,
        arch: Arch | None = None,
        *,
        stats: BatchNormStats | Collector | Literal["batch"] | None = None,
        phase: Phase | None = None,
        mixture: Kept | None = None,
        policy: Mapping[Decision, Tensor] | None = None,
        masks: MaskMode = "full",
        placement: Placement | None = None,
        partial: Mapping[Decision, int] | None = None,
    ) -> Any:
        """Runs one architecture.

        With `policy`, layers mask instead of slicing, and the output has a gradient in the policy.
        The first time that masks are full, masks and slices are compared on a few architectures
        that contain every option, on a copy of the network in float64 on the CPU.

        Args:
            inputs: what the model's `forward` takes: a tensor, usually (B, C, H, W); a tuple of
                positional or a dict of keyword arguments.
            arch: an option index per decision; by default `space.largest`.
            stats: in eval mode, calibrated statistics of this architecture for its batch norms,
                or `"batch"` to normalise by the batch.
            phase: in training, what the step moves (see `ms.sharing.Sharing`); it decides which
                codes a path gets under K-shot sharing.
            mixture: what `mixture(arch)` gave, to merge weights once for several forwards.
            policy: straight-through one-hot vectors (options,) of some or all decisions, which
                agree with `arch`; with a policy for all, `arch` may be left out. With
                `masks="mixed"` or `"interpolated"` any weights of options, of which those of sizes
                sum to one; an option of weight zero does not run, and its weight gets no gradient.
                One-hot weights of choice blocks give what their architecture gives, bit for bit.
            masks: with a policy, `full`, `active`, `mixed` or `interpolated` (see
                `manyshot.nn.policy.MaskMode`).
            placement: which channels widths use; by default `placement(arch)`.
            partial: where options are mixed, for some decisions in how many equal parts channels
                are cut of which the first alone is mixed; the others pass by (PC-DARTS, see
                `manyshot.nn.partial`). In 1 part it is as without.

        Returns:
            What the model returns, usually logits (B, classes).

        Raises:
            ValueError: if `arch` is not in the space, `stats` or `mixture` belong to another
                architecture or placement, a policy is not one-hot, of another option than `arch`
                has, or of other than the first channels, options are mixed by weights that are not
                allowed, of a sharing scheme that gives paths weights of their own, or with
                calibrated statistics, or parts of channels are asked for of what has none.
            RuntimeError: in eval mode without statistics, if there is a batch norm on the path.
            MasksDisagree: if the network does with masks something else than with slices; the
                message names the first module that differs.
            MaskError: if the two cannot be compared.
        """
        if torch.compiler.is_compiling():
            refuse_compilation()
        if policy is not None:
            check_known(policy, self.space.decisions)
            if arch is None:
                arch = self._chosen(policy)
            sizes = masks in MIXING and any(decision.is_number for decision in policy)
            if (masks == "full" or sizes) and not self._masks_agree:
                check_agreement(self, inputs)
                self._masks_agree = True
        how: dict[str, Any] = {"policy": policy, "masks": masks, "partial": partial}
        with self.selecting(arch, stats, phase=phase, mixture=mixture, placement=placement, **how):
            args, kwargs = as_call(inputs)
            return self.model(*args, **kwargs)

    def _chosen(self, policy: Mapping[Decision, Tensor]) -> Arch:
        missing = [decision for decision in self.space.decisions if decision not in policy]
        if missing:
            raise ValueError(
                f"the policy leaves out {missing[0]!r} and {len(missing) - 1} more decisions: pass "
                "net(images, arch, policy=policy) to say what they are"
            )
        return tuple(int(policy[decision].argmax()) for decision in self.space.decisions)

    def placement(self, arch: Arch) -> Placement:
        """Which channels the widths of `arch` use, in a forward and when it is extracted.

        They are the first, unless the sharing scheme says another placement
        (`ms.sharing.PlacesChannels`).
        """
        return self._placement(self.space.check(tuple(arch)))

    def _placement(self, arch: Arch) -> Placement:
        return cast(PlacesChannels, self.sharing).placement(arch) if self._places else LEFT

    def scored(self, arch: Arch) -> tuple[Placement, ...]:
        """The placements of the channels of `arch` whose mean score is that of `arch`."""
        chosen = self.space.check(tuple(arch))
        if not self._places:
            return (LEFT,)
        return tuple(cast(PlacesChannels, self.sharing).scored(chosen))

    def mixture(self, arch: Arch) -> Kept | None:
        """The weights of `arch` for several forwards without gradients, merged only once.

        Give them to `net(images, arch, mixture=...)` for as long as no weight changes. The result
        is None if there is nothing to merge, as with one copy.
        """
        chosen = self.space.check(tuple(arch))
        with torch.no_grad():
            mixture = self.sharing.mixture(chosen)
        return None if mixture is None else Kept(chosen, mixture)

    @contextlib.contextmanager
    def selecting(
        self,
        arch: Arch | None = None,
        stats: BatchNormStats | Collector | Literal["batch"] | None = None,
        *,
        phase: Phase | None = None,
        mixture: Kept | None = None,
        policy: Mapping[Decision, Tensor] | None = None,
        masks: MaskMode = "full",
        placement: Placement | None = None,
        partial: Mapping[Decision, int] | None = None,
    ) -> Iterator[Selection]:
        """Makes `arch` active for the modules called inside, for example `net.model.stages()`.

        Masks and slices are not compared here, as `forward` does the first time it gets a policy.

        Args:
            arch: an option index per decision; by default `space.largest`.
            stats: where eval-mode batch norms get their statistics from, as in `forward`, or a
                `Collector` that gathers them.
            phase: what a training step moves, as in `forward`.
            mixture: merged weights of `arch`, made by `mixture`.
            policy: one-hot vectors by decision, as in `forward`.
            masks: how layers mask, as in `forward`.
            placement: which channels widths use, as in `forward`.
            partial: the part of the channels that is mixed, as in `forward`.

        Returns:
            A context that gives the selection.

        Raises:
            ValueError: if an argument is not allowed, or belongs to another architecture.
        """
        chosen = self.space.largest if arch is None else self.space.check(tuple(arch))
        if isinstance(stats, str) and stats != "batch":
            raise ValueError(f"stats must be calibrated statistics or 'batch', got {stats!r}")
        statistics: Statistics | None = _BY_THE_BATCH if isinstance(stats, str) else stats
        placement = self._placement(chosen) if placement is None else placement
        if stats is not None and self.training:
            raise ValueError("statistics are for eval mode: call net.eval() before passing stats")
        if isinstance(stats, BatchNormStats):
            _check_statistics(stats, chosen, placement)
        if phase is not None and phase not in _PHASES:
            raise ValueError(f"phase must be one of {', '.join(_PHASES)}, got {phase!r}")
        if mixture is not None and mixture.arch != chosen:
            raise ValueError(
                f"the mixture is of architecture {mixture.arch}, not {chosen}; call "
                "net.mixture(arch) for it"
            )
        policies = None
        if partial:
            self._check_partial(partial, policy, masks)
        if policy is not None:
            check_policies(policy, dict(zip(self.space.decisions, chosen, strict=True)), masks)
            policies = Policies(policy, masks, partial)
            if placement is not LEFT:
                raise ValueError(
                    "a policy masks the first channels of a width, and this path uses others "
                    f"({placement}): leave the policy out, or give placement=ms.nn.LEFT"
                )
            if masks in MIXING and isinstance(stats, BatchNormStats):
                raise ValueError(
                    "calibrated statistics are of one architecture, and options are mixed: pass "
                    "stats='batch'"
                )
            if isinstance(stats, Collector):
                raise ValueError("statistics are collected by option indices: pass no policy")
        mixing = self.sharing.mixture(chosen, phase) if mixture is None else mixture
        if mixing is not None and policies is not None and masks in MIXING:
            raise ValueError(
                "options are mixed, and the sharing scheme gives every path weights of its own, "
                "of which a mixture of paths has none: take one copy (ms.sharing.OneShot), or "
                "policies that are one-hot"
            )
        selection = Selection(self.space.decisions, chosen, statistics, mixing, policies, placement)
        if isinstance(stats, BatchNormStats) and policies is not None and masks == "full":
            norms = ((m, use) for _, m, use in walk(self.model) if isinstance(m, BatchNorm))
            selection.statistics = MaskedStatistics(
                stats,
                {
                    norm.path: active_part(selection, norm.num_features)
                    for norm, use in norms
                    if selection.holds(use)
                },
            )
        with activate(selection):
            yield selection

    def _check_partial(
        self,
        partial: Mapping[Decision, int],
        policy: Mapping[Decision, Tensor] | None,
        masks: MaskMode,
    ) -> None:
        check_known(partial, self.space.decisions)
        for decision, parts in partial.items():
            if policy is None or masks not in MIXING or decision not in policy:
                raise ValueError(
                    f"partial is given for {decision!r}, whose options are not mixed: give weights "
                    'of them by policy=..., masks="mixed", or leave it out'
                )
            if decision.is_number or parts < 1:
                raise ValueError(
                    f"partial = {parts} for {decision!r}: it needs a decision between names, and a "
                    "number of parts of at least 1"
                )
        if self._checked_partial >= set(partial):
            return
        for choice in (m for m in self.modules() if isinstance(m, Choice)):
            for path, module, _ in walk(choice, choice.path) if choice.decision in partial else ():
                held = {d for _, size in sizes_of(module, path) for d in size.decisions()}
                if any(decision.is_number for decision in held):
                    raise ValueError(
                        f"partial is given for {choice.decision!r}, in whose options {path!r} has "
                        "elastic sizes, of which no part can be taken: leave it out of partial"
                    )
        self._checked_partial |= set(partial)

    def stands_in(self, arch: Arch | None = None) -> list[str]:
        """The paths of layers that compute something else than what they become when extracted.

        Args:
            arch: an architecture, of whose path they are; by default of any.
        """
        selection = None
        if arch is not None:
            selection = Selection(self.space.decisions, self.space.check(tuple(arch)))
        return [
            path
            for path, module, use in walk(self.model)
            if isinstance(module, Layer)
            and module.stands_in
            and (selection is None or selection.holds(use))
        ]

    def extract(
        self,
        arch: Arch,
        *,
        stats: BatchNormStats | None = None,
        placement: Placement | None = None,
    ) -> nn.Module:
        """The architecture `arch` as an independent plain module with copied weights.

        Its classes are the model's own with plain `torch.nn` layers; no layer of `ms.nn` is left.
        With `stats` its batch norms get these statistics, and its eval-mode logits equal
        `net(images, arch, stats=stats)`; without, they start fresh, for training. Every module
        keeps its mode. Layers that stand in for others (`stands_in`) become these, and then the
        extracted network computes something else than the path.

        Args:
            arch: an architecture of the space.
            stats: statistics for its batch norms.
            placement: which channels widths use; by default `placement(arch)`.

        Raises:
            ValueError: if `arch` is not in the space, `stats` belong to another architecture or
                placement, or something stands in on the path.
            LookupError: if `stats` belong to another network.
        """
        chosen = self.space.check(tuple(arch))
        placement = self._placement(chosen) if placement is None else placement
        if stats is not None:
            _check_statistics(stats, chosen, placement)
            others = self.stands_in(chosen)
            if others:
                raise ValueError(
                    f"{others[0]} stands in for what it becomes in the extracted network, so that "
                    f"the statistics of {arch} are not of its activations: extract it without "
                    "stats, and train it"
                )
        selection = Selection(
            self.space.decisions, chosen, stats, self.mixture(chosen), placement=placement
        )
        return extract(self.model, selection)

    def compile(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses to compile the supernet as a whole; see `compile_options`."""
        refuse_compilation()

    def compile_options(self, **kwargs: Any) -> int:
        """Compiles option bodies of fixed size, for train mode, and returns how many.

        Each is compiled when it first runs. Three kinds of options are left alone: those with sizes
        or choices inside, which would compile once per architecture; those without parameters
        (compiling an `nn.Identity` first makes later compilations empty); and those that hold plain
        strided 1x1 convolutions of few channels (`manyshot.nn.pointwise`), which torch's compiler
        lays out in channels last on the CPU, where their gradient is unsafe. Eval mode runs
        uncompiled, because its statistics are arguments, and so do parts of channels.

        Args:
            **kwargs: arguments of `torch.compile`, on top of ours: every option has graphs of its
                own (`isolate_recompiles`), up to 64, for shapes as they are (`dynamic=False`).
                Together the options of a class would have 8, after which torch runs the rest
                uncompiled.

        Raises:
            RuntimeError: if paths have weights of their own, which a compiled body would not see,
                or for a version of torch that cannot give every option graphs of its own.
        """
        if any(isinstance(module, Stacked) for module in self.model.modules()):
            raise RuntimeError(
                "the options of a K-shot supernet have other weights in every path: compile the "
                "subnet that net.extract() gives"
            )
        if not compiles_options():
            raise RuntimeError(
                f"torch {torch.__version__} has no torch.compile(isolate_recompiles=True), without "
                "which it leaves most options uncompiled: take a newer one, such as 2.14, or "
                "compile the subnet that net.extract() gives"
            )
        options = compilable(self.model)
        for choice, name in options:
            choice.compile_option(name, **{**_COMPILING, **kwargs})
        return len(options)

    def uncompile_options(self) -> None:
        """Lets all options run uncompiled again."""
        for module in self.model.modules():
            if isinstance(module, Choice):
                module.uncompile_options()


def _check_statistics(stats: BatchNormStats, arch: Arch, placement: Placement) -> None:
    if stats.arch != arch:
        raise ValueError(
            f"the statistics were calibrated for architecture {stats.arch}, not {arch}; "
            "call ms.evaluate.calibrate(net, arch, batches) for it"
        )
    if stats.placement != placement:
        raise ValueError(
            f"the statistics of {arch} were calibrated for other channels ({stats.placement}) than "
            f"this path uses ({placement}); call ms.evaluate.calibrate(net, arch, batches, "
            "placement=placement) for these"
        )
