"""Whether codes matter: what held-out images lose under another code than a path's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, final

import numpy as np
import torch
from torch import Tensor

from manyshot.data import Batch
from manyshot.evaluate import evaluating
from manyshot.nn.inputs import batch_of
from manyshot.nn.mixing import Combination, Kept
from manyshot.run_folder import CodeEvidence
from manyshot.seeding import numpy_rng, stream
from manyshot.sharing import Mixes, Reach
from manyshot.space import Arch, SearchSpace
from manyshot.supernet import Supernet
from manyshot.train.compute import Compute
from manyshot.train.optimisation import Optimisation, as_trained
from manyshot.train.probing import HeldOut

PATHS = 12
"""How many fixed random paths are measured. Each has images drawn for it alone, so that, given the
validation part, their differences are independent. Of a part of less than some `PATHS * IMAGES`
images the draws share many, and of one of `IMAGES` or fewer they are the same: then all that
another part would change is in no standard error."""
REACHING = 3
"""How many of these paths have the gradient of their loss looked at too."""
IMAGES = 64
"""How many images a path has at most. It has no more than a batch either, so that no forward takes
longer than that of a training step."""
MEAN_OF = 64
"""How many random architectures the mean code is the mean of."""
COST = 0.02
"""The largest share of the time of training that all measurements may take."""
TIMES = 10
"""How often a run is measured at most."""
_STEPS = (3 * PATHS + 3 * REACHING) / 3
"""How many training steps one measurement takes as long as, where a forward is a third of a step on
one path, or less."""


@final
class EvidenceOfCodes:
    """Measures a few times in a run, at its records, whether codes of paths are worth anything.

    No weight, buffer, mode or random stream is changed, and nothing is learnt from what it sees.

    Attributes:
        times: how often it measures.
        space: the view that paths are drawn from; None for the whole space.
    """

    def __init__(
        self,
        optimisation: Optimisation,
        images: HeldOut,
        seed: int,
        steps: int,
        batch_size: int,
        compute: Compute | None = None,
    ) -> None:
        """Says how often, which costs no more than `COST` of the training.

        Args:
            optimisation: has the network.
            images: makes batches of images that nothing trains on, from their number and a seed.
            seed: that of the run.
            steps: how many steps the run has.
            batch_size: how many images a step has.
            compute: counts what is spent.
        """
        self._optimisation, self._images, self._seed = optimisation, images, seed
        self._steps, self._batch_size, self._compute = steps, batch_size, compute
        self.space: SearchSpace | None = None
        self.times = min(TIMES, int(COST * steps / _STEPS))

    def is_due(self, step: int, last: int) -> bool:
        """Whether to measure at the record of a step.

        Args:
            step: how many steps are done.
            last: how many were at the record before.
        """
        return step * self.times // self._steps > last * self.times // self._steps

    def measure(self) -> CodeEvidence | None:
        """Measures, at the weights as they are; None if all paths have one code, or none."""
        net = self._optimisation.net
        scheme = net.sharing
        if not isinstance(net, Supernet) or not isinstance(scheme, Mixes) or scheme.copies == 1:
            return None
        rng = numpy_rng(self._seed, "evidence")
        space = net.space if self.space is None else self.space
        archs: list[Arch] = [space.sample(rng) for _ in range(PATHS)]
        with torch.no_grad():
            codes = scheme.code(archs)
            mean = scheme.code([space.sample(rng) for _ in range(MEAN_OF)]).mean(0)
        if torch.equal(codes, codes[:1].expand_as(codes)):
            return None
        batches = [self._of_path(i) for i in range(PATHS)]
        with evaluating(net), torch.random.fork_rng():
            losses = np.array(
                [
                    [
                        float(self._loss(batches[i], arch, scheme.by_code(code)))
                        for code in (codes[i], mean, codes[(i + 1) % PATHS])
                    ]
                    for i, arch in enumerate(archs)
                ]
            )
            reached = [
                self._reached(batches[i], archs[i], scheme.by_code(codes[i]))
                for i in range(REACHING)
            ]
        if not np.isfinite(losses).all() or not np.isfinite(reached).all():
            return None  # training will say so
        apart = losses[:, 1:] - losses[:, :1]
        errors = apart.std(0, ddof=1) / math.sqrt(PATHS)
        return CodeEvidence(
            paths=PATHS,
            images=min(sum(batch_of(targets) for _, targets in batch) for batch in batches),
            own_loss=float(losses[:, 0].mean()),
            mean_minus_own=float(apart[:, 0].mean()),
            mean_minus_own_error=float(errors[0]),
            other_minus_own=float(apart[:, 1].mean()),
            other_minus_own_error=float(errors[1]),
            reachable_share=float(np.mean(reached)),
        )

    @property
    def _count(self) -> int:
        return min(IMAGES, self._batch_size)

    def _of_path(self, path: int) -> Sequence[Batch]:
        return list(self._images(self._count, stream(self._seed, "evidence_images", path)))

    def _loss(self, batches: Sequence[Batch], arch: Arch, mixture: Any) -> Tensor:
        """The mean loss of a path by a mixture."""
        optimisation, kept = self._optimisation, Kept(arch, mixture)
        task, total = optimisation.task, torch.zeros(())
        whole = sum(task.weight(targets) for _, targets in batches)
        for x, targets in batches:
            shown = as_trained(x, optimisation.contiguous)
            outputs = optimisation.net(shown, arch, stats="batch", mixture=kept)
            loss = task.loss(outputs, targets) * (task.weight(targets) / whole)
            total = total.to(loss) + loss
            if self._compute is not None:
                self._compute.evidence(arch, batch_of(x), backward=torch.is_grad_enabled())
        return total

    def _reached(self, batches: Sequence[Batch], arch: Arch, combination: Combination) -> float:
        with torch.enable_grad():
            reach = Reach(combination)
            return reach.share(self._loss(batches, arch, reach))
