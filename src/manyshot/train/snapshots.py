"""A supernet that learns from what it was: earlier snapshots of its weights vote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from manyshot.nn.inputs import Inputs
from manyshot.nn.modes import evaluating
from manyshot.sharing import PlacesChannels
from manyshot.space import Arch
from manyshot.supernet import Supernet
from manyshot.tasks import Task
from manyshot.tasks.task import check_votes, divergence, voted
from manyshot.train.probing import at_weights


def check_snapshots(net: Supernet, task: Task, number: int) -> None:
    """Refuses what snapshots cannot vote on.

    Args:
        net: the supernet that is to be trained.
        task: says what a vote is.
        number: how many copies are to vote.

    Raises:
        ValueError: if several copies are to vote, and the task does not say how, or for a sharing
            scheme that trains a path with several placements of its channels.
    """
    check_votes(task, number)
    if isinstance(net.sharing, PlacesChannels):
        raise ValueError(
            f"snapshots vote on a path with its first channels, and {type(net.sharing).__name__} "
            "trains it with others too: take another sharing scheme, or train.snapshots.number = 0"
        )


@final
class Snapshots:
    """Adds to a path's loss how far its predictions are from those that earlier weights vote for.

    Every `every` steps that move weights the parameters are copied; the newest `number` copies are
    kept, each of which takes as much memory as the parameters. In a step the same architecture runs
    with each copy, without gradients, in eval mode and normalised by the batch; the mean of their
    probabilities is the vote, and `weight` times the divergence of the path's predictions from it
    is added to its loss: for classes KL(mean_k p_{t-k} || p_t). Options that are mixed vote as they
    are mixed now. Before the first copy nothing is added, nor in steps of codes alone.

    Reference: SD-DARTS (Zhu et al. 2023, arXiv:2302.05629). That earlier weights of the same
    supernet vote on what it learns, against sharp minima, is the paper's, by its abstract, for
    mixtures of operations; the formula, single paths, number, spacing and weight are ours.

    Attributes:
        kept: the parameters of each copy by name, the oldest first.
    """

    def __init__(
        self, net: Supernet, task: Task, *, number: int, every: int, weight: float
    ) -> None:
        """Begins without a copy.

        Args:
            net: the supernet that is trained.
            task: says what a vote is, and how far predictions are apart.
            number: how many copies vote, once there are so many.
            every: steps that move weights between two copies.
            weight: the factor of the divergence.

        Raises:
            ValueError: what `check_snapshots` finds.
        """
        check_snapshots(net, task, number)
        self._net, self._task = net, task
        self._number, self._every, self._weight = number, every, weight
        self.kept: list[dict[str, Tensor]] = []

    def note(self, weight_step: int) -> None:
        """Copies the parameters if it is time for that, after so many steps that moved them."""
        if weight_step % self._every == 0:
            copied = {name: p.detach().clone() for name, p in self._net.named_parameters()}
            self.kept = [*self.kept, copied][-self._number :]

    def targets(self, images: Inputs, arch: Arch, **masked: Any) -> Any:
        """What the copies vote for; None before the first.

        Args:
            images: what they see.
            arch: what runs with each copy.
            **masked: `policy` and `masks`, by which it runs: options that are mixed are mixed here
                by the same weights.
        """
        if not self.kept:
            return None
        outputs = []
        with evaluating(self._net), torch.random.fork_rng():
            for weights in self.kept:
                with at_weights(self._net, weights):
                    outputs.append(self._net(images, arch, stats="batch", **masked))
        return voted(self._task, outputs)

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """What is added to the loss of a path."""
        return self._weight * divergence(self._task, outputs, targets)

    def state_dict(self) -> dict[str, Any]:
        """All copies."""
        return {"kept": self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores `state_dict`; copies go where the parameters are."""
        there = dict(self._net.named_parameters())
        self.kept = [
            {name: tensor.to(there[name]) for name, tensor in weights.items()}
            for weights in state["kept"]
        ]
