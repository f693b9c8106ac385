"""Dropping the largest sizes, one by one, where that costs least (AutoSlim)."""

from __future__ import annotations

from typing import final

from manyshot.space import SearchSpace
from manyshot.train.shrinking import Forgetful, Shrunk, Stage


@final
class Slimming(Forgetful):
    """Slims the largest network step by step until it is within a budget.

    Of every decision the largest option is taken away in turn, and the largest network of what is
    left is scored; the option whose loss leaves the best score goes. That is repeated until the
    largest network of the view is within the greatest budget, and it is the slimmed one. For
    smaller budgets, and beside it, the search looks for others in the view.

    It is a shrinker, and no searcher, since it takes options away for good, and scores networks
    beyond all budgets on its way. It needs a supernet whose largest network is trained as well as
    others, as by the sandwich rule.

    Reference: AutoSlim, Yu & Huang 2019, arXiv:1903.11728: a slimmable network, then slimming
    greedily by the score with shared weights, one group of channels of one layer at a time. A group
    is a step between two sizes here. That any decision is slimmed (kernels, depths, operations by
    their parameters), that batch norms are calibrated for every score, and that a view is left
    rather than one network, are ours.
    """

    measure = "fitness of the largest network without it"
    stages: int | None = 1

    def shrink(self, stage: Stage) -> Shrunk:
        """Slims to the end; scores are those of the last step that an option was looked at in."""
        view, scores = stage.space, dict[tuple[int, int], float]()
        while view.size > 1 and not stage.fits(view.largest):
            slimmer = {
                (i, option): _without(view, i, option)
                for i, option in enumerate(view.largest)
                if len(view.allowed[i]) > 1
            }
            judged = stage.judge([one.largest for one in slimmer.values()])
            fitness = {key: own.fitness for key, own in zip(slimmer, judged, strict=True)}
            scores |= fitness
            best_first = sorted(fitness, key=lambda key: (-fitness[key], key))
            reachable = (slimmer[key] for key in best_first if stage.allows(slimmer[key]))
            view = next(reachable, view)
            if view not in slimmer.values():
                break  # every further step would put a smaller budget out of reach
        return Shrunk(view, scores)


def _without(view: SearchSpace, position: int, option: int) -> SearchSpace:
    rest = [other for other in view.allowed[position] if other != option]
    return view.restricted({view.decisions[position]: rest})
