"""Dropping the options whose networks have the highest losses (BETANAS)."""

from __future__ import annotations

from typing import Literal, final

from manyshot.plugins import Positive, checked
from manyshot.train.shrinking import (
    Forgetful,
    Shrunk,
    Stage,
    means_of_options,
    sampled,
    without_lowest,
)


@final
class BalancedDrop(Forgetful):
    """Drops the options with the highest mean validation loss of networks that hold them.

    Options are compared fairly if all had as many updates, which the sampler `balanced` sees to
    between two times, and `fair` in every step.

    Reference: BETANAS, Fang et al. 2019, "BETANAS: BalancEd TrAining and selective drop for Neural
    Architecture Search", arXiv:1912.11191, of which the abstract was read: equal training of
    candidates between drops, and that unpromising ones are dropped while it trains. By what they
    are dropped is inferred, and so ours: the mean loss on validation images of sampled
    architectures that hold an option.
    """

    measure = "mean validation loss, negative"

    @checked
    def __init__(
        self,
        *,
        drop: Positive = 1,
        per: Literal["space", "decision"] = "space",
        samples: Positive = 100,
    ) -> None:
        """Says what goes each time.

        Args:
            drop: options dropped each time.
            per: whether that is of all decisions together, or of each.
            samples: architectures that are scored, at least.
        """
        self.drop, self.per_decision, self.samples = drop, per == "decision", samples

    def shrink(self, stage: Stage) -> Shrunk:
        """Scores architectures and drops."""
        archs = sampled(stage, self.samples)
        losses = [judged.loss for judged in stage.judge(archs)]
        scores = means_of_options(stage.space, archs, [-loss for loss in losses])
        view = without_lowest(stage, scores, self.drop, per_decision=self.per_decision)
        return Shrunk(view, scores)
