"""One step, alone: its gradient against a closed form, and what a step that fails leaves."""

import numpy as np
import pytest
import torch
from torch import nn
from train_nets import CPU, same, weights

from manyshot.nn.modes import modes_kept
from manyshot.recipe import OptimiserSettings
from manyshot.train import NonFiniteLoss, Plan, PlannedPath, Standalone, TrainingSettings, engine
from manyshot.train.optimisation import Optimisation, Turn

RATE = 0.3
ONE_PATH = Plan((PlannedPath(()),))


def optimisation(**settings):
    """Of a linear layer from three numbers to two classes, by plain SGD."""
    net = Standalone(nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        net.module.weight.copy_(torch.arange(6.0).view(2, 3) / 10)
    return Optimisation(
        net,
        OptimiserSettings(**settings),
        engine(CPU, TrainingSettings()),
        weights=torch.optim.SGD(net.parameters(), 1.0),
        largest=(),
        stream=(1, "step"),
        diverged=lambda step, what: NonFiniteLoss(f"{step}: {what}, so turn back"),
    )


def examples(n):
    generator = torch.Generator().manual_seed(n)
    return torch.randn((n, 3), generator=generator, dtype=torch.float64), torch.arange(n) % 2


def softmax_gradient(weight, x, labels):
    """Of the mean cross-entropy of a linear layer: (p - y)ᵀ x / n."""
    logits = x @ weight.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return (p - np.eye(2)[labels]).T @ x / len(x)


def test_a_step_follows_the_shares_of_its_turns():
    run = optimisation()
    before = run.net.module.weight.detach().numpy().copy()
    shares = {2: 0.25, 5: 0.75}
    turns = [Turn(ONE_PATH, *examples(n), share) for n, share in shares.items()]
    trained = run.step(0, turns, "weights", RATE)
    gradient = sum(
        share * softmax_gradient(before, *(t.numpy() for t in examples(n)))
        for n, share in shares.items()
    )
    # float64: sums of at most five terms
    np.testing.assert_allclose(
        run.net.module.weight.detach().numpy(), before - RATE * gradient, rtol=0, atol=1e-14
    )
    assert [done.plan for done in trained] == [ONE_PATH, ONE_PATH]
    assert run.read(trained) == [float(loss) for done in trained for loss in done.losses]
    assert run.net.module.weight.grad is None


def test_a_loss_that_is_no_number_moves_nothing():
    run = optimisation()
    before = weights(run.net)
    images, labels = examples(4)
    turns = [Turn(ONE_PATH, x, labels, 0.5) for x in (images, images * float("nan"))]
    with pytest.raises(NonFiniteLoss, match=r"^7: the loss of architecture \(\) is nan, so turn"):
        run.step(7, turns, "weights", RATE)
    assert same(weights(run.net), before)
    assert run.net.module.weight.grad is None


def test_a_weight_that_is_no_number_is_named():
    run = optimisation()
    run.check_weights(0)
    with torch.no_grad():
        run.net.module.weight[1, 2] = float("inf")
    with pytest.raises(NonFiniteLoss, match=r"^3: it left weight 'module.weight' not finite, so"):
        run.check_weights(3)


def test_modes_come_back_also_after_an_error():
    net = nn.Sequential(nn.Linear(1, 1), nn.Sequential(nn.Dropout(), nn.ReLU()))
    net[1].eval()
    net[1][1].train()
    before = [module.training for module in net.modules()]
    with pytest.raises(KeyError), modes_kept(net):
        net.train(not before[0])
        raise KeyError
    assert (
        [module.training for module in net.modules()] == before == [True, True, False, False, True]
    )
