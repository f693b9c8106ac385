"""ShiftNAS's generator learns to meet targets, and generates within limits."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from generator_nets import GRID, SMALL, lively, seeded, small
from torch import Tensor
from train_nets import random_states

import manyshot as ms
from manyshot.cost import CostTable, PolicyCost
from manyshot.space import Arch
from manyshot.train.generator import (
    ArchitectureGenerator,
    generate,
    resource_loss,
    sampled,
)

EMBED, DEPTH, HEADS, RATIO, BLOCKS = (192, 216, 240), (4, 5, 6), (3, 4), (3.5, 4), 6
VIT_GRID = np.linspace(4.8e8, 8.3e8, 8)  # the space has 408 to 991 million
DELTA = 5e7
N = 197


def vit_space() -> ms.SearchSpace:
    """AutoFormer-T with 4 to 6 blocks in place of 12 to 14."""
    decisions = [ms.choose(EMBED, "embed"), ms.choose(DEPTH, "depth")]
    for block in range(BLOCKS):
        decisions += [ms.choose(HEADS, f"heads{block}"), ms.choose(RATIO, f"ratio{block}")]
    return ms.SearchSpace(decisions)


VIT = vit_space()


def vit_macs(e: int, heads: list[int], ratios: list[float]) -> int:
    """The closed form of a ViT of 16 x 16 patches of 224 px images, 1,000 classes."""
    total = 196 * 768 * e + 1000 * e
    for h, r in zip(heads, ratios, strict=True):
        total += 4 * N * e * 64 * h + 2 * N**2 * 64 * h + 2 * N * e * int(e * r)
    return total


def arch_macs(arch: Arch) -> int:
    blocks = range(DEPTH[arch[1]])
    heads, ratios = (
        [HEADS[arch[2 + 2 * b]] for b in blocks],
        [RATIO[arch[3 + 2 * b]] for b in blocks],
    )
    return vit_macs(EMBED[arch[0]], heads, ratios)


def vit_table() -> CostTable:
    """By tabulating: what each block adds, over the embedding, the depth and its own decisions."""
    e, on = np.array(EMBED)[:, None, None], np.array(DEPTH)[None, :, None]
    attention = (4 * N * e + 2 * N**2) * 64 * np.array(HEADS)
    mlp = (2 * N * e**2 * np.array(RATIO)).astype(np.int64)
    parts = [((0,), (196 * 768 + 1000) * np.array(EMBED))]
    for block in range(BLOCKS):
        parts.append(((0, 1, 2 + 2 * block), attention * (block < on)))
        parts.append(((0, 1, 3 + 2 * block), mlp * (block < on)))
    return CostTable.of("macs", tuple(VIT.counts.tolist()), parts)


TABLE = vit_table()


def test_the_cost_of_a_vit_is_its_closed_form():
    rng = np.random.default_rng(0)
    archs = [VIT.smallest, VIT.largest, *(VIT.sample(rng) for _ in range(200))]
    expected = [arch_macs(arch) for arch in archs]
    policies = {
        d: torch.eye(len(d.options))[[arch[i] for arch in archs]]
        for i, d in enumerate(VIT.decisions)
    }
    assert PolicyCost(TABLE, VIT)(policies).tolist() == expected
    # published to four digits, with 12 to 14 blocks: a released network, and the ends of the space
    heads = [3] * 10 + [4, 3, 3]
    ratios = [3.5, 3.5, 3, 3.5, 3, 3, 4, 4, 3.5, 4, 3.5, 4, 3.5]
    assert vit_macs(192, heads, ratios) == pytest.approx(1.283e9, rel=1e-3)
    assert vit_macs(192, [3] * 12, [3.5] * 12) == pytest.approx(1.1668e9, rel=1e-3)
    assert vit_macs(240, [4] * 14, [4] * 14) == pytest.approx(2.2629e9, rel=1e-3)
    assert TABLE.range() == (vit_macs(192, [3] * 4, [3.5] * 4), vit_macs(240, [4] * 6, [4] * 6))


def learn(
    generator: ArchitectureGenerator,
    cost: PolicyCost,
    step: float,
    steps: int,
    *,
    weight: float,
    slope: float = 0.0,
) -> Tensor:
    """Adam on weight * resource loss - slope * cost; sampled errors (steps, K), in grid steps."""
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)
    targets, rng = generator.grid, seeded(100)
    o, errors = generator.encode(targets), []
    for _ in range(steps):
        costs = cost(generator(o, generator=rng).policies)
        loss = weight * resource_loss(costs, targets, step) - slope * costs / step
        optimizer.zero_grad()
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(generator.parameters(), 1.0)
        optimizer.step()
        errors.append((costs.detach() - targets) / step)
    return torch.stack(errors)


def greedy_errors(generator: ArchitectureGenerator, targets: np.ndarray) -> np.ndarray:
    """In steps of the grid."""
    archs = generator.archs(generator(generator.encode(targets), greedy=True).policies)
    return (np.array([arch_macs(arch) for arch in archs]) - targets) / DELTA


@dataclasses.dataclass
class Learnt:
    generator: ArchitectureGenerator
    after_500: np.ndarray


@pytest.fixture(scope="module")
def learnt() -> Learnt:
    """700 steps."""
    generator = ArchitectureGenerator(VIT, VIT_GRID, generator=seeded())
    cost = PolicyCost(TABLE, VIT)
    learn(generator, cost, DELTA, 500, weight=0.1)
    after_500 = greedy_errors(generator, VIT_GRID)
    learn(generator, cost, DELTA, 200, weight=0.1)
    return Learnt(generator, after_500)


def test_it_learns_to_meet_its_targets(learnt):
    """After 500 steps half a step on average (measured: 0.11 to 0.25 with 5 seeds).

    After 700, 0.75 at most (0.20 to 0.35), and off the grid 0.4 on average (0.10 to 0.20). Bounds
    are twice of what was measured, for other processors are other seeds.
    """
    assert np.abs(learnt.after_500).mean() <= 0.5
    assert np.abs(greedy_errors(learnt.generator, VIT_GRID)).max() <= 0.75
    between = np.linspace(VIT_GRID[0], VIT_GRID[-1], 29)
    assert np.abs(greedy_errors(learnt.generator, between)).mean() <= 0.4


def test_larger_targets_cost_more(learnt):
    assert (np.diff(greedy_errors(learnt.generator, VIT_GRID)) > -1).all()


def test_it_stays_random(learnt):
    """Measured with 3 seeds: 4.6 to 4.8 of 10.5 nats; one option everywhere would be 0."""
    generator = learnt.generator
    entropy = generator(torch.eye(8), generator=seeded()).entropy
    assert 1 < entropy.mean() < np.log(VIT.size)


def test_generated_architectures_are_within_the_limit(learnt):
    limits = np.linspace(VIT_GRID[0] + 0.6 * DELTA, VIT_GRID[-1], 25)
    found = [generate(learnt.generator, TABLE, limit) for limit in limits]
    for limit, result in zip(limits, found, strict=True):
        assert result.within
        assert result.cost == arch_macs(result.arch) <= limit
        assert result.cost > limit - 1.5 * DELTA
    once = [generate(learnt.generator, TABLE, limit, repairs=0) for limit in limits]
    assert {result.decodes for result in once} == {1}
    assert not all(result.within for result in once)
    for first, repaired in zip(once, found, strict=True):
        assert first.within == (repaired.decodes == 1)
        assert (first == repaired) == first.within


def test_limits_beyond_the_grid(learnt):
    generator = learnt.generator
    with pytest.warns(UserWarning, match="cost target 9.1e"):
        above = generate(generator, TABLE, 9.1e8)
    assert above.within and above.decodes == 1
    assert above.arch == generate(generator, TABLE, VIT_GRID[-1], repairs=0).arch
    below = generate(generator, TABLE, 4.0e8)
    assert not below.within
    assert below.decodes == 1  # the lowest target was decoded: no other could be lower
    assert below.cost == arch_macs(below.arch) > 4.0e8


@pytest.mark.parametrize(
    ("limit", "excess", "repairs", "targets"),
    [
        (5, 0.5, 0, [5]),
        (5, 0.5, 2, [5, 4.5, 4]),
        (5, 0.5, 9, [5, 4.5, 4, 3.5, 3, 2.5, 2]),  # the lowest target ends it
        (5, 0.01, 2, [5, 5 - 3.5 / 24, 5 - 3.5 / 12]),  # an eighth of the mean of three steps
        (7, 0.5, 2, [7, 5, 4.5]),  # 7 was taken as 5.5
    ],
)
def test_repairs_lower_the_target_by_the_excess(limit, excess, repairs, targets, monkeypatch):
    """With a table that calls every architecture too expensive."""
    generator, asked = lively(), []
    encode = generator.encode
    monkeypatch.setattr(generator, "encode", lambda t: encode(asked.extend(t) or t))
    table = CostTable("latency_ms", tuple(SMALL.counts.tolist()), limit + excess, {})
    with pytest.warns(UserWarning) if limit > GRID[-1] else contextlib.nullcontext():
        result = generate(generator, table, limit, repairs=repairs)
    assert asked == pytest.approx(targets, rel=1e-12)
    assert (result.decodes, result.within, result.cost) == (len(targets), False, limit + excess)


def test_sampled_architectures_are_distinct_and_within_the_limit(learnt):
    found = sampled(learnt.generator, TABLE, 6e8, rng=seeded())
    assert 2 < len(found) == len(set(found)) < 64
    assert all(arch_macs(arch) <= 6e8 for arch in found)
    assert found == sampled(learnt.generator, TABLE, 6e8, rng=seeded())
    assert len(sampled(learnt.generator, TABLE, 6e8, draws=8, rng=seeded())) < len(found)
    dear = dataclasses.replace(TABLE, constant=10**10)
    assert sampled(learnt.generator, dear, 6e8, rng=seeded()) == []
    free = CostTable("macs", tuple(SMALL.counts.tolist()), 0, {})
    few = sampled(small(), free, 3, draws=200, rng=seeded())
    assert len(few) == len(set(few)) < SMALL.size < 200


def test_generating_leaves_no_graph_and_no_trace(learnt):
    before, weights = random_states(), [p.clone() for p in learnt.generator.parameters()]
    generate(learnt.generator, TABLE, 6e8)
    sampled(learnt.generator, TABLE, 6e8, rng=seeded())
    assert random_states() == before
    after = learnt.generator.parameters()
    assert all(torch.equal(a, b) for a, b in zip(weights, after, strict=True))


def test_limits_are_finite_and_counts_positive():
    table = CostTable("macs", tuple(SMALL.counts.tolist()), 3, {})
    for limit in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="cost targets must be finite"):
            generate(small(), table, limit)
    with pytest.raises(ValueError, match="repairs must be at least 0, got -1"):
        generate(small(), table, 3, repairs=-1)
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        sampled(small(), table, 3, draws=0, rng=seeded())


def test_a_task_that_likes_large_networks_moves_costs_by_slope_over_twice_the_weight():
    """Slope 0.02 per step and weight 0.01: one step. On 8 decisions that add 0 to 3 half steps."""
    space = ms.SearchSpace([ms.choose((0, 1, 2, 3), f"size{i}") for i in range(8)])
    counts = tuple(space.counts.tolist())
    table = CostTable("macs", counts, 0, {(i,): np.arange(4) for i in range(8)})
    generator = ArchitectureGenerator(space, np.arange(4.0, 20, 2), generator=seeded())
    cost = PolicyCost(table, space)
    errors = learn(generator, cost, 2, 400, weight=0.01, slope=0.02)[200:].mean(0)
    assert errors.tolist() == pytest.approx([1] * 8, abs=0.2)  # 0.95 to 1.06 with 4 seeds


def test_a_transformer_has_four_heads():
    heads = ArchitectureGenerator(VIT, VIT_GRID, generator=seeded()).heads
    assert set(heads) == {"embed_3", "depth_3", "heads_2", "ratio_2"}
