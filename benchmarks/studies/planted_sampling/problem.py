"""A problem in which every option of a decision has a cost and a rate, and every loss is exact.

A network is one of eight linear regressions of one target, each with weights of its own. All see
the same inputs, which are standard normal, times a gain of their own; so the best weights of all
leave nothing but the noise of labels, and the excess loss of an option is the squared distance of
its weights, times its gain, from the truth. Training by batches that are never seen twice makes
the mean of that distance smaller by one known factor per step of the option, down to a known floor.
Before the weights, inputs pass through more dimensions and back, which changes nothing but costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import manyshot as ms

OPTIONS, INPUTS = 8, 8
BATCH, STEPS, RATE = 32, 600, 0.1
"""Of training: samples of a step, weight steps, and the rate of plain SGD."""
SLOWER = 30.0
"""By how much the slowest option learns slower than the fastest."""
NOISE = 0.1
"""Standard deviation of the labels' noise, in training and in held-out samples."""
HELD_OUT = 8192
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of problem.

    Attributes:
        slower: the rate of the fastest option over that of the slowest; rates lie between them by
            equal factors. At 1 all options learn as fast, with the geometric mean of the others.
        held_out_noise: standard deviation of the noise of held-out labels.
    """

    slower: float = SLOWER
    held_out_noise: float = NOISE


KINDS = {
    "rates differ": Kind(),
    "equal rates": Kind(slower=1.0),
    "rates differ, held-out noise": Kind(held_out_noise=30.0),
}


class Problem:
    """What a seed draws, and all that is known of it.

    Attributes:
        kind: of problem.
        gains: (options,), by which inputs are multiplied, in the order of costs; which option is
            slow is drawn.
        target: (inputs,), the linear function that is to be learnt, of length one.
    """

    def __init__(self, kind: Kind, seed: int) -> None:
        rng = np.random.default_rng(seed)
        target = rng.normal(size=INPUTS)
        self.kind = kind
        self.target: Floats = target / np.linalg.norm(target)
        ladder = np.geomspace(kind.slower**0.5, kind.slower**-0.5, OPTIONS) / SLOWER**0.5
        self.gains: Floats = rng.permutation(ladder**0.5)
        self._seed = seed

    @property
    def left(self) -> Floats:
        """(options,), the factor by which a step makes the mean excess of its option smaller.

        It is that of least mean squares on normal inputs: with a step s = 2 RATE gain², 1 - 2 s +
        s² (1 + (INPUTS + 1) / BATCH). (See `floor` for what is added.)
        """
        step = 2 * RATE * self.gains**2
        return np.asarray(1 - 2 * step + step**2 * (1 + (INPUTS + 1) / BATCH))

    @property
    def floor(self) -> Floats:
        """(options,), the mean excess after endless steps: what noise of labels adds in each."""
        step = 2 * RATE * self.gains**2
        return np.asarray(step**2 * INPUTS * NOISE**2 / BATCH / (1 - self.left))

    def expected(self, shares: Floats) -> Floats:
        """The exact mean excess of each option, if each step draws an option by fixed `shares`."""
        return np.asarray(self.floor + (1 - self.floor) * (1 - shares * (1 - self.left)) ** STEPS)

    def best_shares(self) -> Floats:
        """(options,), the fixed shares with the least mean of `expected`.

        At the least, one more draw of any option is worth the same; options that are never worth
        it have no share. The price is found by bisection.
        """
        falls, heights = 1 - self.left, 1 - self.floor

        def at(log_price: float) -> Floats:
            remain = (np.exp(log_price) / (STEPS * falls * heights)) ** (1 / (STEPS - 1))
            return np.asarray(np.maximum(0, 1 - remain) / falls)

        low, high = -100.0, 100.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if at(middle).sum() > 1 else (low, middle)
        return at(low) / at(low).sum()

    def excess(self, weights: Floats) -> Floats:
        """(options,), the expected loss of every option over the least, exact.

        Args:
            weights: (options, inputs).
        """
        return np.asarray(((self.gains[:, None] * weights - self.target) ** 2).sum(1))

    def samples(self, count: int, noise: float, part: int) -> TensorDataset:
        """Samples with labels; training samples are part 0, held-out ones part 1."""
        rng = np.random.default_rng((self._seed, part, 1))
        inputs = rng.normal(size=(count, INPUTS))
        labels = inputs @ self.target + noise * rng.normal(size=count)
        return TensorDataset(
            torch.tensor(inputs, dtype=torch.float32),
            torch.tensor(labels, dtype=torch.float32)[:, None],
        )

    def train(self) -> TensorDataset:
        """As many samples as all steps take, so that none is seen twice."""
        return self.samples(BATCH * STEPS, NOISE, 0)

    def held_out(self) -> TensorDataset:
        """Samples that no weight learns from."""
        return self.samples(HELD_OUT, self.kind.held_out_noise, 1)


class Option(nn.Module):
    """A linear regression whose inputs pass through more dimensions and back, times a gain."""

    there: Tensor
    back: Tensor

    def __init__(self, dimensions: int, gain: float) -> None:
        super().__init__()
        there = torch.eye(dimensions, INPUTS)
        self.register_buffer("there", there)
        self.register_buffer("back", gain * there.T)
        self.linear = nn.Linear(INPUTS, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, 1)."""
        return self.linear(F.linear(F.linear(x, self.there), self.back))


class Network(nn.Module):
    """One of the options, each two dimensions wider than the one before."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        options = [Option(INPUTS + 2 * k, float(gain)) for k, gain in enumerate(problem.gains)]
        self.option = ms.nn.Choice(options, "option")

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, 1)."""
        outputs: Tensor = self.option(x)
        return outputs


def weights_of(net: ms.Supernet) -> Floats:
    """(options, inputs), the weights of all options of a supernet of this problem."""
    choice = net.model.get_submodule("option")
    weights = [parameter.detach().double().numpy()[0] for parameter in choice.parameters()]
    return np.array(weights)
