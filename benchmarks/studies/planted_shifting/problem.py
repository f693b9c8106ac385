"""A problem in which networks share weights and every loss is known in closed form.

A network has one of four linear parts in each of five layers, 1,024 networks in all; a part looks
at four directions of its own of the forty of an input, and has four weights. The output is the sum
of its parts, the target another linear function of the input. Inputs are whitened, so that the
mean squared error on all of them is the squared distance of two vectors: of all 1,024 networks with
the same weights, of each trained alone (the truth), and the weights that are the best for uniform
paths are those of systems of linear equations.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import manyshot as ms
from manyshot.space import Arch

LAYERS, PARTS, SEEN, INPUTS, SAMPLES = 5, 4, 4, 40, 256
ARCHS: list[Arch] = list(itertools.product(range(PARTS), repeat=LAYERS))
"""In the order in which the space lists them."""
Floats = npt.NDArray[np.float64]


class Problem:
    """What a seed draws, and all that is known of it.

    Attributes:
        looks: (layers, parts, seen, inputs), the directions of each part; orthonormal.
        target: (inputs,), the linear function that is to be learnt; its variance is 1.
        inputs: (samples, inputs), whitened.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        drawn = rng.normal(size=(LAYERS, PARTS, INPUTS, SEEN))
        self.looks: Floats = np.linalg.qr(drawn)[0].swapaxes(2, 3)
        target = rng.normal(size=INPUTS)
        self.target: Floats = target / np.linalg.norm(target)
        basis, _ = np.linalg.qr(rng.normal(size=(SAMPLES, INPUTS)))
        self.inputs: Floats = basis * SAMPLES**0.5

    @functools.cached_property
    def truth(self) -> Floats:
        """The least mean squared error of every network alone, in the order of `ARCHS`."""
        errors = []
        for arch in ARCHS:
            looks = self.looks[range(LAYERS), list(arch)].reshape(-1, INPUTS)
            seen = looks @ self.target
            errors.append(1 - seen @ np.linalg.solve(looks @ looks.T, seen))
        return np.array(errors)

    def uniform(self) -> Floats:
        """(layers, parts, seen), the shared weights with the least mean error of uniform paths."""
        looks = self.looks.reshape(-1, INPUTS)
        layer = np.repeat(np.arange(LAYERS), PARTS * SEEN)
        part = np.repeat(np.arange(LAYERS * PARTS), SEEN)
        other = (layer[:, None] != layer) / PARTS
        together = np.where(part[:, None] == part, 1.0, other)
        weights = np.linalg.solve(looks @ looks.T * together, looks @ self.target)
        return np.asarray(weights.reshape(LAYERS, PARTS, SEEN))

    def errors(self, weights: Floats) -> Floats:
        """The mean squared error of every network with shared weights, in the order of `ARCHS`."""
        vectors = np.einsum("lps,lpsi->lpi", weights, self.looks)
        outputs = vectors[range(LAYERS), np.array(ARCHS)].sum(1)
        return np.asarray(((self.target - outputs) ** 2).sum(1))


class Part(nn.Module):
    """A linear function of the directions that it sees."""

    looks: Tensor

    def __init__(self, looks: Floats, weights: Floats) -> None:
        super().__init__()
        self.register_buffer("looks", torch.tensor(looks, dtype=torch.float32))
        self.linear = nn.Linear(SEEN, 1, bias=False)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor(weights)[None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, 1)."""
        return self.linear(F.linear(x, self.looks))


class Network(nn.Module):
    """The sum of a part of each layer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        weights = problem.uniform()
        self.layers = nn.ModuleList(
            ms.nn.Choice(
                [Part(problem.looks[i, j], weights[i, j]) for j in range(PARTS)], f"layer{i}"
            )
            for i in range(LAYERS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, 1)."""
        return torch.stack([layer(x) for layer in self.layers]).sum(0)


def network(*, seed: int = 0) -> Network:
    """The network of a recipe, with the best weights for uniform paths."""
    return Network(Problem(seed))


def data(*, seed: int = 0) -> tuple[TensorDataset, TensorDataset, TensorDataset]:
    """The same samples to train on, to score on and to test on: nothing is to be generalised."""
    problem = Problem(seed)
    inputs = torch.tensor(problem.inputs, dtype=torch.float32)
    targets = torch.tensor(problem.inputs @ problem.target, dtype=torch.float32)[:, None]
    samples = TensorDataset(inputs, targets)
    return samples, samples, samples


def weights_of(net: ms.Supernet) -> Floats:
    """(layers, parts, seen), the shared weights of a supernet of this problem."""
    model: Any = net.model
    layers = [
        [part.linear.weight[0].detach().double().numpy() for part in choice.options.values()]
        for choice in model.layers
    ]
    return np.array(layers)
