"""A tree of visits: its sums by hand, its draws by a closed form, removed leaves, its state."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

import manyshot as ms
from manyshot.space import Descent, VisitTree

COUNTS = (3, 2, 3)
SPACE = ms.SearchSpace([ms.choose(range(n), f"d{i}") for i, n in enumerate(COUNTS)])
LEAVES = list(SPACE.enumerate())


def grown(visits: int = 60, decay: float = 0.5) -> tuple[VisitTree, list[tuple[tuple, float]]]:
    rng, tree, log = np.random.default_rng(1), VisitTree(SPACE, decay=decay), []
    for _ in range(visits):
        arch = SPACE.sample(rng)
        log.append((arch, float(rng.random()) + arch[0]))
        tree.visit(*log[-1])
    return tree, log


def test_visits_and_rewards_of_nodes_are_those_below_them():
    tree, log = grown()
    for depth in range(3):
        for node in itertools.product(*map(range, COUNTS[:depth])):
            below = [(arch, reward) for arch, reward in log if arch[:depth] == node]
            visits, rewards, live = tree.children(node)
            assert visits.sum() == len(below)  # children's add up to their parent's
            for option in range(COUNTS[depth]):
                own = [reward for arch, reward in below if arch[depth] == option]
                assert visits[option] == len(own)
                assert rewards[option] == pytest.approx(sum(own))
                assert live[option] == math.prod(COUNTS[depth + 1 :])


def test_means_of_options_are_shared_by_branches_and_do_not_count_their_beginning():
    tree = VisitTree(SPACE, decay=0.75)
    assert tree.mean_of_options(0).tolist() == [0, 0, 0]
    for arch, reward in (((0, 0, 2), 1.0), ((2, 1, 2), 3.0), ((0, 1, 1), 5.0)):
        tree.visit(arch, reward)
    # weights 3/4 of 1/4, and 1/4, of which the sum is 7/16
    assert tree.mean_of_options(0) == pytest.approx([(3 * 1 + 4 * 5) / 7, (23 / 7 + 3) / 2, 3])
    assert tree.mean_of_options(2) == pytest.approx([(5 + 15 / 7) / 2, 5, 15 / 7])


@pytest.mark.parametrize("how", [Descent(temperature=math.inf), Descent(temperature=1, least=99)])
def test_without_values_draws_are_uniform_over_live_leaves(how):
    tree, _ = grown()
    gone = [arch for i, arch in enumerate(LEAVES) if i % 3 == 0 or arch[:2] == (1, 1)]
    for arch in gone:
        tree.remove(arch)
        tree.remove(arch)
    rng = np.random.default_rng(0)
    drawn = Counter(tree.draw(rng, how) for _ in range(3000))
    live = [arch for arch in LEAVES if arch not in gone]
    assert set(drawn) == set(live)
    assert chisquare([drawn[arch] for arch in live]).pvalue > 1e-3


def test_draws_follow_the_rule():
    """UCT as it is written, of one node after the other, in plain Python."""
    tree, log = grown(14)
    removed = [(0, 0, 0), (2, 1, 1), (2, 1, 2)]
    for arch in removed:
        tree.remove(arch)
    how = Descent(temperature=0.4, exploration=0.3, communication=0.5)

    def share(arch):
        total = 1.0
        for depth, chosen in enumerate(arch):
            weights = []
            below = [(a, r) for a, r in log if a[:depth] == arch[:depth]]
            for option in range(COUNTS[depth]):
                rewards = [r for a, r in below if a[depth] == option]
                basis = rewards or [r for _, r in below] or [0.0]
                value = sum(basis) / len(basis)
                if below:
                    value += 0.3 * math.sqrt(math.log(len(below)) / (len(rewards) + 0.1))
                value += 0.5 * tree.mean_of_options(depth)[option]
                node = (*arch[:depth], option)
                live = [a for a in LEAVES if a[: depth + 1] == node and a not in removed]
                weights.append(len(live) * math.exp(value / 0.4))
            total *= weights[chosen] / sum(weights)
        return total

    live = [arch for arch in LEAVES if arch not in removed]
    shares = np.array([share(arch) for arch in live])
    assert shares.sum() == pytest.approx(1)
    rng = np.random.default_rng(0)
    drawn = Counter(tree.draw(rng, how) for _ in range(6000))
    expected = 6000 * shares
    kept = expected >= 5
    observed = np.array([drawn[arch] for arch in live])
    rest = [observed[~kept].sum()] if (~kept).any() else []
    of_rest = [expected[~kept].sum()] if (~kept).any() else []
    assert chisquare([*observed[kept], *rest], [*expected[kept], *of_rest]).pvalue > 1e-3


def test_a_removed_leaf_is_never_drawn_again():
    tree, _ = grown()
    rng, how, seen = np.random.default_rng(0), Descent(temperature=1e-4), []
    while not tree.is_exhausted:
        seen.append(tree.draw(rng, how))
        tree.remove(seen[-1])
    assert sorted(seen) == LEAVES  # each once
    with pytest.raises(ValueError, match="nothing to draw"):
        tree.draw(rng, how)


def test_rescaled_rewards_have_the_mean_and_deviation_asked_for():
    tree, log = grown()
    other = tree.rescaled(0.5, 2.0)
    rewards = np.array([reward for _, reward in log])
    told = 0.5 + 2.0 * (rewards - rewards.mean()) / rewards.std()
    by_hand = VisitTree(SPACE, decay=0.5)
    for (arch, _), reward in zip(log, told.tolist(), strict=True):
        by_hand.visit(arch, reward)
    for node in ((), (1,), (2, 1)):
        for own, expected in zip(other.children(node), by_hand.children(node), strict=True):
            assert own == pytest.approx(expected)
    assert other.mean_of_options(1) == pytest.approx(by_hand.mean_of_options(1))
    again = other.rescaled(0.5, 2.0)
    assert again.children()[1] == pytest.approx(other.children()[1])
    flat = VisitTree(SPACE, decay=0.5)
    flat.visit((0, 0, 0), 7.0)
    assert flat.rescaled(0.5, 1.0).children()[1].tolist() == [0.5, 0, 0]


def test_a_copy_and_a_restored_tree_go_on_by_themselves():
    tree, _ = grown()
    tree.remove((0, 0, 0))
    restored = VisitTree(SPACE, decay=0.5)
    restored.load_state_dict(tree.state_dict())
    for other in (tree.copy(), restored):
        rngs = np.random.default_rng(3), np.random.default_rng(3)
        how = Descent(temperature=0.2, exploration=0.1, communication=0.2)
        assert tree.draw(rngs[0], how) == other.draw(rngs[1], how)
        before = tree.children()[0].tolist()
        for arch in LEAVES[:9]:
            other.visit(arch, 1.0)
            other.remove(arch)
        assert tree.children()[0].tolist() == before
        assert tree.children()[2].sum() == 17
