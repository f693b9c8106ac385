"""ShiftNAS's generator: what it decodes and what it refuses."""

import warnings

import numpy as np
import pytest
import torch
from generator_nets import GRID, SMALL, lively, seeded, small
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from train_nets import random_states

import manyshot as ms
from manyshot.space import Decision
from manyshot.train.generator import (
    ArchitectureGenerator,
    head_key,
    resource_loss,
)

# -- targets -------------------------------------------------------------------------------


def test_targets_of_the_grid_are_exact_one_hots():
    grid = np.linspace(1.3e9, 2.0e9, 8)
    generator = ArchitectureGenerator(SMALL, grid, generator=seeded())
    assert torch.equal(generator.encode(grid), torch.eye(8))
    targets = grid.copy()
    grid[0] = 0  # the generator's grid is its own
    assert torch.equal(generator.encode(targets), torch.eye(8))
    assert torch.equal(small().encode([5.5, 2.0]), torch.eye(4)[[3, 0]])


def test_targets_between_are_interpolated():
    weights = small().encode([2.5, 4.5, 5.25])
    assert weights.tolist() == [[0.5, 0.5, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 0.5, 0.5]]


@given(st.lists(st.floats(2, 5.5), min_size=1, max_size=5))
def test_the_weights_have_the_target_as_their_mean(targets):
    weights = small().encode(targets)
    assert ((weights >= 0).sum(1) == 4).all()
    assert ((weights > 0).sum(1) <= 2).all()
    # float32 weights of numbers below 6
    np.testing.assert_allclose(weights.double() @ torch.tensor(GRID).double(), targets, rtol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)


def test_targets_outside_are_the_ends_with_one_warning():
    generator = small()
    with pytest.warns(UserWarning, match="cost target 1 is outside the grid, 2 to 5.5"):
        weights = generator.encode([3.0, 1.0, 9.0])
    assert torch.equal(weights, torch.eye(4)[[1, 0, 3]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(generator.encode([0.0]), torch.eye(4)[[0]])


def test_a_grid_of_one():
    generator = ArchitectureGenerator(SMALL, [3.0], generator=seeded())
    assert generator.encode([3.0, 3.0]).tolist() == [[1], [1]]


# -- decoding ------------------------------------------------------------------------------


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def by_hand(generator: ArchitectureGenerator, o: np.ndarray) -> tuple[list[int], float]:
    """The greedy decode of one target, and its entropy, in numpy from the weights alone."""
    w = {name: tensor.double().numpy() for name, tensor in generator.state_dict().items()}
    h = c = np.zeros(len(w["start"]))
    x, arch, entropy, step = w["start"], [], 0.0, 0
    for decision in generator.space.decisions:
        if len(decision.options) == 1:
            arch.append(0)
            continue
        x = x + o @ w["cond"] + w["pos"][step]
        gates = w["cell.weight_ih"] @ x + w["cell.bias_ih"]
        gates += w["cell.weight_hh"] @ h + w["cell.bias_hh"]
        i, f, g, out = np.split(gates, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(out) * np.tanh(c)
        key = head_key(decision)
        logits = w[f"heads.{key}.weight"] @ h + w[f"heads.{key}.bias"]
        p = np.exp(logits - logits.max())
        p /= p.sum()
        entropy -= (p * np.log(p)).sum()
        arch.append(int(logits.argmax()))
        if f"feed.{key}.weight" in w:
            x = w[f"feed.{key}.weight"][:, arch[-1]]
        step += 1
    return arch, entropy


def test_greedy_decodes_equal_the_recurrence_written_out():
    generator = lively()
    o = torch.cat([torch.eye(4), generator.encode([2.4, 4.0])])
    policies, entropy = generator(o, greedy=True)
    expected = [by_hand(generator, row) for row in o.double().numpy()]
    assert generator.archs(policies) == [tuple(arch) for arch, _ in expected]
    assert len(set(generator.archs(policies))) > 3  # else little is compared
    # float32 through five steps of an LSTM with weights of order one
    np.testing.assert_allclose(entropy.detach(), [e for _, e in expected], rtol=2e-4, atol=1e-5)


def test_policies_are_exact_one_hots_of_every_decision():
    policies, entropy = small()(torch.eye(4), generator=seeded())
    assert list(policies) == list(SMALL.decisions)
    for decision, policy in policies.items():
        assert policy.shape == (4, len(decision.options))
        assert ((policy == 0) | (policy == 1)).all()
        assert (policy.sum(1) == 1).all()
    assert entropy.shape == (4,)
    for arch in small().archs(policies):
        SMALL.check(arch)


def test_many_targets_at_once_equal_one_at_a_time():
    """Products of 4 rows may round otherwise than those of one: 1e-5 for the entropy."""
    generator = lively()
    policies, entropy = generator(torch.eye(4), greedy=True)
    for row in range(4):
        single, alone = generator(torch.eye(4)[[row]], greedy=True)
        assert all(torch.equal(single[d][0], policies[d][row]) for d in SMALL.decisions)
        torch.testing.assert_close(alone[0], entropy[row], rtol=1e-5, atol=1e-5)


def test_draws_are_a_function_of_the_generator_and_greedy_decodes_of_nothing():
    generator, o = small(), torch.eye(4).repeat(8, 1)
    before = random_states()
    drawn = [generator.archs(generator(o, generator=seeded(s)).policies) for s in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    greedy = [generator.archs(generator(o, greedy=True).policies) for _ in range(2)]
    assert greedy[0] == greedy[1] != drawn[0]
    given = generator(o, greedy=True, generator=(unused := seeded())).policies
    assert generator.archs(given) == greedy[0]
    assert torch.equal(unused.get_state(), seeded().get_state())
    assert random_states() == before


def test_draws_follow_the_heads_and_not_the_temperature():
    generator = small()
    with torch.no_grad():
        for head in generator.heads.values():
            head.weight.zero_()
            head.bias.copy_(torch.arange(len(head.bias)) * 0.7)
    o = torch.eye(4)[:1].expand(5_000, -1)
    policies, entropy = generator(o, generator=seeded())
    hot = generator(o, generator=seeded(), tau=4.0).policies
    total = 0.0
    for decision, policy in policies.items():
        chances = (torch.arange(len(decision.options)) * 0.7).double().softmax(0)
        if len(chances) > 1:
            assert chisquare(policy.sum(0).double().detach(), 5_000 * chances).pvalue > 1e-3
        total -= (chances * chances.log()).sum().item()
        assert torch.equal(hot[decision], policy)
    torch.testing.assert_close(entropy, torch.full((5_000,), total))


def weighted(policies: dict[Decision, Tensor]) -> Tensor:
    """Some loss in which options differ."""
    return sum((p * torch.arange(p.shape[1])).sum() for p in policies.values())


@pytest.mark.parametrize("greedy", [False, True])
def test_gradients_reach_all_targets_and_all_weights(greedy):
    generator = small()
    o = torch.eye(4)[[1]].requires_grad_()
    policies, _ = generator(o, greedy=greedy, generator=seeded())
    weighted(policies).backward()
    assert (o.grad != 0).all()
    for name, parameter in generator.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_temperature_scales_gradients():
    gradients = []
    for tau in (1.0, 0.5, 8.0):
        o = torch.eye(4)[[1]].requires_grad_()
        weighted(small()(o, greedy=True, tau=tau).policies).backward()
        gradients.append(o.grad.norm().item())
    assert gradients[2] < gradients[0] != gradients[1]


def test_entropy_has_a_gradient_and_its_largest_value_is_that_of_uniform_options():
    generator = small()
    generator(torch.eye(4), generator=seeded()).entropy.sum().backward()
    assert generator.cond.grad.abs().sum() > 0
    with torch.no_grad():
        for head in generator.heads.values():
            head.weight.zero_(), head.bias.zero_()
    entropy = generator(torch.eye(4), generator=seeded()).entropy
    torch.testing.assert_close(entropy, torch.full((4,), np.log(SMALL.size).item()))


def test_autocast_changes_nothing():
    generator = lively()
    plain = generator(torch.eye(4), greedy=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = generator(torch.eye(4), greedy=True)
    assert torch.equal(plain.entropy, cast.entropy)
    assert generator.archs(plain.policies) == generator.archs(cast.policies)


# -- construction --------------------------------------------------------------------------


def test_weights_are_a_function_of_the_generator_alone():
    before = random_states()
    one, same, other = small(0), small(0), small(1)
    assert random_states() == before
    for name, tensor in one.named_parameters():
        assert torch.equal(tensor, same.get_parameter(name))
        assert name == "start" or not torch.equal(tensor, other.get_parameter(name))


def test_initial_weights_are_spread_as_said():
    generator = small()
    assert not generator.start.any()
    for linear in (*generator.heads.values(), *generator.feed.values(), generator.cell):
        fan = getattr(linear, "in_features", 64)
        for parameter in linear.parameters():
            assert 0.6 * fan**-0.5 < parameter.abs().max() <= fan**-0.5
    embeddings = torch.cat([generator.cond, generator.pos]).flatten()
    assert abs(embeddings.std() - 0.1) < 0.01  # 576 numbers: sd of a standard deviation is 0.003
    assert sum(p.numel() for p in generator.cell.parameters()) == 33_280


def test_a_saved_generator_decodes_the_same():
    one, other = lively(0), small(1)
    other.load_state_dict(one.state_dict())
    decoded = [g(torch.eye(4), generator=seeded()).policies for g in (one, other)]
    assert one.archs(decoded[0]) == other.archs(decoded[1])


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("mb3.block0.kernel", "kernel_2"),
        ("heads11", "heads_2"),
        ("width", "width_2"),
        ("blocks.3", "blocks_2"),
        ("layer3_op", "layer_op_2"),
        ("7", "_2"),
    ],
)
def test_keys_are_roles_and_numbers_of_options(name, key):
    assert head_key(Decision((1, 2), name)) == key


def test_decisions_of_one_key_share_a_head():
    assert set(small().heads) == {"stem_2", "kernel_3", "kernel_2", "depth_3"}
    assert set(small().feed) == {"stem_2", "kernel_3", "kernel_2"}  # depth comes last
    assert small().pos.shape == (5, 64)
    assert small().keys[2] is None


def test_decisions_with_one_option_have_the_policy_one_and_may_be_all():
    assert small()(torch.eye(4), greedy=True).policies[SMALL.decisions[2]].tolist() == [[1]] * 4
    space = ms.SearchSpace([ms.choose((8,), "width")])
    generator = ArchitectureGenerator(space, GRID, generator=seeded())
    policies, entropy = generator(torch.eye(4), generator=seeded())
    assert generator.archs(policies) == [(0,)] * 4
    assert entropy.tolist() == [0] * 4


@pytest.mark.parametrize("grid", [[], [1, 1], [2, 1], [1, float("inf")], [[1, 2]]])
def test_grids_increase(grid):
    with pytest.raises(ValueError, match="grid must be finite cost targets, each above the one"):
        ArchitectureGenerator(SMALL, grid, generator=seeded())


def test_what_is_refused():
    generator = small()
    with pytest.raises(ValueError, match="hidden must be at least 1, got 0"):
        small(hidden=0)
    with pytest.raises(ValueError, match=r"targets must be finite numbers.*got \[1.0, nan\]"):
        generator.encode([1.0, float("nan")])
    with pytest.raises(ValueError, match="a list of them, got 3.0"):
        generator.encode(3.0)
    with pytest.raises(ValueError, match=r"o has shape \(4,\), not \(N, 4\)"):
        generator(torch.ones(4), greedy=True)
    with pytest.raises(ValueError, match="tau must be positive and finite, got 0"):
        generator(torch.eye(4), tau=0, generator=seeded())
    with pytest.raises(ValueError, match="draws need generator="):
        generator(torch.eye(4))


# -- the resource loss ---------------------------------------------------------------------


def test_resource_loss_is_the_squared_distance_in_steps():
    costs = torch.tensor([1.3e9, 1.5e9, 1.25e9], dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1.3e9, 1.3e9, 1.3e9], dtype=torch.float64)
    losses = resource_loss(costs, targets, 1e8)
    np.testing.assert_allclose(losses.detach(), [0, 4, 0.25], rtol=1e-15)
    losses.sum().backward()
    np.testing.assert_allclose(costs.grad, [0, 4e-8, -1e-8], rtol=1e-15)


def test_one_target_per_cost():
    with pytest.raises(ValueError, match=r"costs have shape \(2,\), targets \(2, 1\)"):
        resource_loss(torch.ones(2), torch.ones(2, 1), 1.0)


@pytest.mark.parametrize("step", [0.0, -1.0, float("nan"), float("inf")])
def test_steps_are_positive(step):
    with pytest.raises(ValueError, match=f"step must be positive.*got {step}"):
        resource_loss(torch.ones(1), torch.ones(1), step)
