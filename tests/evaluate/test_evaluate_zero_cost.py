"""Scores without training, against closed forms and gradients by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from manyshot.evaluate.zero_cost import CannotScore, grad_norm, naswot, synflow, zero_cost
from manyshot.tasks import DEFAULT


def seeded(*modules):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(make() for make in modules))


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_synflow_of_a_linear_chain_is_layers_times_paths():
    """R = 1'|W3||W2||W1|1, and each layer's weights times their gradients sum up to R."""
    net = seeded(lambda: nn.Linear(5, 4, bias=False), lambda: nn.Linear(4, 6, bias=False),
                 lambda: nn.Linear(6, 3, bias=False))  # fmt: skip
    product = np.ones(5)
    for layer in net:
        product = np.abs(layer.weight.detach().numpy().astype(np.float64)) @ product
    before = state(net)
    assert synflow(net, torch.randn(2, 5)) == pytest.approx(3 * product.sum())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_synflow_leaves_normalisation_out_and_passes_relus():
    """A convolution of ones over ones: every output counts the weights under its kernel."""
    conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.fill_(-0.5)
    net = nn.Sequential(conv, nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten())
    # of 3 x 3 pixels 4 see 4 weights, 4 see 6 and 1 sees 9, in 2 channels
    assert synflow(net, torch.zeros(1, 1, 3, 3)) == pytest.approx(2 * 0.5 * (16 + 24 + 9))
    normed = nn.Sequential(nn.Linear(4, 3, bias=False), nn.LayerNorm(3))
    alone = nn.Sequential(normed[0])
    images = torch.zeros(1, 4)
    assert synflow(normed, images) == synflow(alone, images)


def test_naswot_of_two_units_by_hand():
    """Three images with codes 10, 11 and 01: pairs agree in 1, 0 and 1 of 2 units."""
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU())
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2))
    images = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    kernel = np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2]])
    wanted = math.log(np.linalg.det(kernel))
    assert naswot(net, images) == pytest.approx(wanted) == pytest.approx(math.log(4))
    for relu in (nn.ReLU(inplace=True), nn.ReLU6()):
        assert naswot(nn.Sequential(net[0], relu), images) == pytest.approx(wanted)
    with pytest.raises(CannotScore, match="do not tell 2 images apart"):
        naswot(net, images[[0, 0]])
    with pytest.raises(CannotScore, match="has none"):
        naswot(nn.Sequential(nn.Linear(2, 2), nn.GELU()), images)


def test_grad_norm_is_that_of_the_gradients_by_hand():
    """Of one linear layer they are (softmax - target)' x / B, whose bias does not count."""
    net = seeded(lambda: nn.Linear(4, 3))
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn((6, 4), generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
    x = images.double().numpy()
    logits = x @ net[0].weight.detach().double().numpy().T + net[0].bias.detach().double().numpy()
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    gradient = (p - np.eye(3)[labels.numpy()]).T @ x / 6
    wanted = np.linalg.norm(gradient)
    assert grad_norm(net, images, labels, DEFAULT) == pytest.approx(wanted, rel=1e-5)
    assert net[0].weight.grad is None
    two = nn.Sequential(nn.Linear(4, 4, bias=False), net[0])
    with torch.no_grad():
        two[0].weight.copy_(torch.eye(4))
    back = (p - np.eye(3)[labels.numpy()]) @ net[0].weight.detach().double().numpy()
    first = np.linalg.norm(back.T @ x / 6)
    assert grad_norm(two, images, labels, DEFAULT) == pytest.approx(first + wanted, rel=1e-5)


def test_what_has_no_value_is_said():
    net = nn.Sequential(nn.Linear(4, 3), nn.GELU())
    images, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    found = zero_cost(net, images, labels, DEFAULT)
    assert set(found.scores) == {"synflow", "grad norm"} and "has none" in found.absent["naswot"]
    tokens = nn.Sequential(nn.Embedding(5, 3), nn.Flatten())
    with pytest.raises(
        CannotScore, match="one tensor of floating-point numbers, and this network takes"
    ):
        synflow(tokens, torch.tensor([[1]]))


def test_a_sum_that_overflows_or_is_no_number_is_said_as_what_it_is():
    """Weights near the largest double, and one that is no number; neither is a matter of depth."""
    for value, says in ((1e308, "too large for double precision"), (float("nan"), "not a number")):
        net = nn.Sequential(nn.Linear(4, 3, dtype=torch.float64), nn.Linear(3, 2))
        with torch.no_grad():
            net.double()[0].weight.fill_(value)
        with pytest.raises(CannotScore, match=says) as error:
            synflow(net, torch.ones(2, 4))
        assert "(4,)" in str(error.value)
