"""Multiply-adds of forwards with full masks, in which all options run at their largest sizes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from manyshot.cost.watch import Watch
from manyshot.nn.inputs import Inputs, as_call, with_samples, without_values
from manyshot.nn.layer import Norm
from manyshot.nn.policy import Policies
from manyshot.nn.resize import Resize
from manyshot.nn.shapes import explained, meta_twin, on_meta
from manyshot.nn.structure import walk
from manyshot.space import Arch, Decision, Size
from manyshot.supernet import Supernet


@final
class MaskedMacs:
    """What one sample costs with full masks, counted by running it on tensors without values.

    As everywhere, what norms compute counts nothing. The making of masks is left out, since it is
    the same for any number of samples.
    """

    def __init__(self, net: Supernet, inputs: Inputs) -> None:
        """Makes a twin of the network, of which nothing is touched.

        Args:
            net: the supernet.
            inputs: what its `forward` takes, of which the first sample is counted.
        """
        self._space = net.space
        self._twin: nn.Module = meta_twin(net.model)[id(net.model)].eval()
        self._watch = Watch(self._twin)
        self._inputs = without_values(with_samples(inputs, 1))
        sides = [m.side for m in net.modules() if isinstance(m, Resize)]
        held = [d for side in sides if isinstance(side, Size) for d in side.decisions()]
        self._sides = {net.space.index[d] for d in held}
        self._gates = {net.space.index[d] for _, _, use in walk(net.model) for d, _ in use}
        self._known: dict[Arch, int] = {}
        self._mixed: dict[tuple[Arch, tuple[tuple[int, ...], ...]], int] = {}

    def __call__(self, arch: Arch) -> int:
        """The multiply-adds of a forward of `arch`, of which masks keep the sides of images alone.

        Raises:
            UncountedOperation: if an operation may multiply and has no formula.
            DryRunError: if a module cannot run on tensors without values.
        """
        sides = tuple(arch[i] for i in self._sides)
        if sides not in self._known:
            self._known[sides] = self._counted(arch, self._policies(arch))
        return self._known[sides]

    def mixed(
        self,
        arch: Arch,
        policy: Mapping[Decision, Tensor],
        partial: Mapping[Decision, int] | None = None,
    ) -> int:
        """The multiply-adds of a forward in which those options are mixed that have a weight.

        Args:
            arch: what decisions without a policy are.
            policy: the weights of options by decision.
            partial: in how many parts channels are cut of which one is mixed, by decision.

        Raises:
            UncountedOperation, DryRunError: as for full masks.
        """
        weighed = (p.detach().nonzero()[:, 0].tolist() for p in policy.values())
        cut = partial or {}
        used = tuple((cut.get(d, 1), *w) for d, w in zip(policy, weighed, strict=True))
        if (arch, used) not in self._mixed:
            mixing = self._policies(arch, policy)
            mixing.partial = cut
            mixing.mode = "mixed"
            mixing.weights = {d: p.detach().tolist() for d, p in policy.items()}
            self._mixed[arch, used] = self._counted(arch, mixing)
        return self._mixed[arch, used]

    def learning(self, arch: Arch) -> Arch:
        """The architecture whose cost gradients run back through: what is chosen, at its largest.

        Options and blocks that are not chosen run forward only.
        """
        kept = self._gates | self._sides
        pairs = enumerate(zip(arch, self._space.largest, strict=True))
        return tuple(chosen if i in kept else most for i, (chosen, most) in pairs)

    def _policies(self, arch: Arch, among: Iterable[Decision] | None = None) -> Policies:
        """Full masks without values, of some decisions or of all."""
        chosen = zip(self._space.decisions, arch, strict=True)
        with torch.device("meta"):
            each = {d: F.one_hot(torch.tensor(i), len(d.options)).float() for d, i in chosen}
        return Policies(each if among is None else {d: each[d] for d in among}, "full")

    def _counted(self, arch: Arch, policies: Policies) -> int:
        args, kwargs = as_call(self._inputs)
        with explained(self._twin, self._inputs), on_meta(self._space, arch, policies):
            self._twin(*args, **kwargs)  # makes the masks, which are kept
            self._watch.clear()
            with self._watch:
                self._twin(*args, **kwargs)
        return sum(n for m, n in self._watch.counts.items() if not isinstance(m, Norm))
