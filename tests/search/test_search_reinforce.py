"""REINFORCE: the policy by differences of the loss, and draws by its probabilities."""

from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import chisquare

from manyshot.search import Limit, Reinforce, ReinforceOptions
from manyshot.search.reinforce import _drawn
from manyshot.space import Arch, Decision, SearchSpace
from manyshot.testing.searchers import nested_space


def trained(
    space: SearchSpace, archs: Sequence[Arch], scores: Sequence[float], lr: float, momentum: float
) -> list[np.ndarray]:
    """The policy by the loss as it is written: slopes by differences, Adam's means as sums."""
    logits = [np.zeros(n) for n in space.counts]
    slopes: list[list[np.ndarray]] = []
    for arch, score in zip(archs, scores, strict=True):
        ages = momentum ** np.arange(len(slopes), -1, -1)
        advantage = score - ages @ scores[: len(ages)] / ages.sum()

        def loss(i: int, own: np.ndarray, arch=arch, advantage=advantage) -> float:
            if not space.active(arch)[i]:
                return 0.0
            return -float(np.log(np.exp(own[arch[i]]) / np.exp(own).sum())) * advantage

        slopes.append(
            [
                np.array(
                    [(loss(i, own + d) - loss(i, own - d)) / 2e-6 for d in np.eye(len(own)) / 1e6]
                )
                for i, own in enumerate(logits)
            ]
        )
        one, two = (b ** np.arange(len(slopes) - 1, -1, -1) for b in (0.9, 0.999))
        for i, own in enumerate(logits):
            past = np.array([step[i] for step in slopes])
            mean, square = one @ past / one.sum(), two @ past**2 / two.sum()
            own -= lr * mean / (np.sqrt(square) + 1e-8)
    return [np.exp(own) / np.exp(own).sum() for own in logits]


@pytest.mark.parametrize(("lr", "momentum"), [(0.01, 0.9), (0.2, 0.5)])
def test_the_policy_follows_the_loss(lr: float, momentum: float) -> None:
    space = nested_space()
    limits = [Limit("depth<=2", lambda archs: [arch[0] for arch in archs], 1)]
    options = ReinforceOptions(lr=lr, momentum=momentum)
    rng = np.random.default_rng(0)
    networks = sorted({space.canonical(arch) for arch in space.enumerate()})
    archs = [networks[i] for i in rng.permutation(len(networks))[:60]]
    scores = rng.normal(50, 3, 60).tolist()
    one, grouped = (Reinforce(space, seed=0, limits=limits, options=options) for _ in range(2))
    for arch, score in zip(archs, scores, strict=True):
        one.tell([arch], [score])
        one.ask(2)
    grouped.tell(archs[:25], [0.0] * 25)  # scores that are replaced
    grouped.tell(archs[20:], scores[20:])
    grouped.ask(5)
    grouped.tell(archs[:20], scores[:20])
    grouped.tell(archs[20:25], scores[20:25])
    within = [i for i, arch in enumerate(archs) if arch[0] <= 1]
    assert 10 < len(within) < 50
    expected = trained(space, [archs[i] for i in within], [scores[i] for i in within], lr, momentum)
    for searcher in (one, grouped):
        for found, own in zip(searcher.policy(), expected, strict=True):
            np.testing.assert_allclose(found[: len(own)], own, rtol=1e-5)
            assert not found[len(own) :].any()
    assert abs(expected[1] - 1 / 3).max() > lr / 2  # it has moved


def test_draws_follow_the_policy() -> None:
    probability = np.array([[0.2, 0.5, 0.3], [0.9, 0.1, 0.0]])
    rng = np.random.default_rng(0)
    drawn = [_drawn(probability, rng) for _ in range(3000)]
    pairs = [(i, j) for i in range(3) for j in range(2)]
    expected = [3000 * probability[0, i] * probability[1, j] for i, j in pairs]
    assert chisquare([drawn.count(p) for p in pairs], expected).pvalue > 1e-3


def test_it_comes_to_prefer_what_scores_above_average() -> None:
    """A large rate on a sum: the best option of every decision, more than it was."""
    space = SearchSpace([Decision(range(4), f"d{i}") for i in range(10)])
    searcher = Reinforce(space, seed=0, options=ReinforceOptions(lr=0.1))
    for _ in range(30):
        archs = searcher.ask(10)
        searcher.tell(archs, [float(sum(arch)) for arch in archs])
    assert searcher.policy()[:, 3].min() > 0.9
