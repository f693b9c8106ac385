"""What is known of architectures, as a tree with a level for each decision: visits and rewards.

O counts the options of a decision, N the architectures visited, R those removed, D the decisions.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import numpy.typing as npt

from manyshot.space.space import Arch, SearchSpace

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """How `VisitTree.draw` goes from a node to one of its children.

    A child is drawn with a probability proportional to its live leaves times exp(U / temperature),
    where U = Q + exploration sqrt(ln(N) / (n + 0.1)) + communication G. Q is the child's mean
    reward, or that of all children if it has no visit, n its visits, N those of all children, and G
    the mean reward of its option in all branches (see `VisitTree`).

    Attributes:
        temperature: above zero; infinity draws uniformly from the live leaves.
        exploration: what an uncertain child gains.
        communication: what an option gains that is good elsewhere.
        least: below a node with fewer visits than so many for each option, U is not looked at.
    """

    temperature: float
    exploration: float = 0.0
    communication: float = 0.0
    least: int = 0


@final
class VisitTree:
    """A tree whose leaves are the encodings of a space, of which those visited alone are stored.

    Nodes are not stored: the visits and rewards of a node are the sums over what was visited below
    it, so that those of children always add up to their parent's.

    Attributes:
        space: whose encodings are the leaves.
        counts: how many options each decision has, (D,).
        decay: of the means of options: g = decay g + (1 - decay) reward, divided by what a mean of
            ones would be, so that the beginning at zero does not count.
    """

    def __init__(self, space: SearchSpace, *, decay: float) -> None:
        """An empty tree, all of whose leaves are live.

        Args:
            space: whose encodings are the leaves.
            decay: of the means of options, in [0, 1).
        """
        self.space, self.decay = space, decay
        self.counts: Ints = np.asarray(space.counts, dtype=np.int64)
        self._allowed_DO = np.zeros((len(space), self.counts.max(initial=1)), dtype=bool)
        for allowed_O, options in zip(self._allowed_DO, space.allowed, strict=True):
            allowed_O[list(options)] = True
        below = np.cumprod(self._allowed_DO.sum(1)[::-1].astype(np.float64))[::-1]
        self._leaves = float(below[0]) if len(below) else 1.0
        self._below: Floats = np.append(below[1:], 1.0)
        levels, widest = len(self.counts), int(self.counts.max(initial=1))
        self._row: dict[Arch, int] = {}
        self._archs_ND: Ints = np.zeros((0, levels), np.int64)
        self._seen_N3: Floats = np.zeros((0, 3))  # visits, sum of rewards, sum of their squares
        self._removed: dict[Arch, None] = {}
        self._removed_RD: Ints = np.zeros((0, levels), np.int64)
        self._means_DO: Floats = np.zeros((levels, widest))
        self._ones_DO: Floats = np.zeros((levels, widest))
        self._nodes: dict[Arch, _Node] = {}
        self._drawn_by: Descent | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether all leaves are removed."""
        return len(self._removed) >= self._leaves

    def visit(self, arch: Arch, reward: float) -> None:
        """Adds a visit with a reward to an encoding, and so to all nodes above it."""
        arch = self.space.inside(arch)
        row = self._row.setdefault(arch, len(self._row))
        self._archs_ND, self._seen_N3 = _room(self._archs_ND, row), _room(self._seen_N3, row)
        self._archs_ND[row] = arch
        self._seen_N3[row] += (1.0, reward, reward * reward)
        path = np.arange(len(self.counts)), np.asarray(arch, dtype=np.int64)
        self._means_DO[path] = self.decay * self._means_DO[path] + (1 - self.decay) * reward
        self._ones_DO[path] = self.decay * self._ones_DO[path] + 1 - self.decay
        self._nodes = {}

    def remove(self, arch: Arch) -> None:
        """Removes a leaf: it is not drawn again, and a node without live leaves neither."""
        arch = self.space.inside(arch)
        if arch not in self._removed:
            self._removed_RD = _room(self._removed_RD, len(self._removed))
            self._removed_RD[len(self._removed)] = arch
            self._removed[arch] = None
            for level, option in enumerate(arch):
                if node := self._nodes.get(arch[:level]):
                    node.live[option] -= 1
                    node.is_blank = False
                    if not node.live[option]:  # weights are relative to the best live child
                        del self._nodes[arch[:level]]

    def children(self, node: Sequence[int] = ()) -> tuple[Floats, Floats, Floats]:
        """Visits, sums of rewards and numbers of live leaves of the children of a node, (O,) each.

        Args:
            node: the options of the first decisions.
        """
        level, path = len(node), np.asarray(node, dtype=np.int64)
        archs_ND, removed_RD = self._archs_ND[: len(self._row)], self._removed_RD
        below = (archs_ND[:, :level] == path).all(1)
        column, options = archs_ND[below, level], int(self.counts[level])
        seen_N3 = self._seen_N3[: len(self._row)][below]
        visits = np.bincount(column, weights=seen_N3[:, 0], minlength=options).astype(np.float64)
        rewards = np.bincount(column, weights=seen_N3[:, 1], minlength=options).astype(np.float64)
        removed_RD = removed_RD[: len(self._removed)]
        column = removed_RD[(removed_RD[:, :level] == path).all(1), level]
        gone = np.bincount(column, minlength=options)
        leaves = self._below[level] * self._allowed_DO[level, :options]
        return visits, rewards, np.asarray(leaves - gone, dtype=np.float64)

    def mean_of_options(self, level: int) -> Floats:
        """The mean rewards of the options of a decision in all branches, newer ones weigh more.

        Of an option without any it is the mean of the others; of none it is zero.
        """
        options = int(self.counts[level])
        ones, means = self._ones_DO[level, :options], self._means_DO[level, :options].copy()
        known = ones > 0
        means[known] /= ones[known]
        if known.any():
            means[~known] = means[known].mean()
        return means

    def draw(self, rng: np.random.Generator, how: Descent) -> Arch:
        """A live leaf, from the root down; the tree stays as it is.

        Raises:
            ValueError: if none is left.
        """
        if self.is_exhausted:
            raise ValueError("all leaves of the tree are removed: there is nothing to draw")
        arch: Arch = ()
        while len(arch) < len(self.counts):
            node = self._node(arch, how)
            if node.is_blank and how.least:  # all below is uniform
                below = self.space.allowed[len(arch) :]
                drawn = rng.integers([len(options) for options in below]).tolist()
                return (*arch, *(o[i] for o, i in zip(below, drawn, strict=True)))
            arch = (*arch, node.pick(rng))
        return arch

    def rescaled(self, mean: float, deviation: float) -> VisitTree:
        """A copy in which all rewards together have this mean and standard deviation.

        Rewards that are all equal become the mean.
        """
        tree, (visits, total, squares) = self.copy(), self._seen_N3[: len(self._row)].sum(0)
        if visits:
            spread = math.sqrt(max(0.0, squares / visits - (total / visits) ** 2))
            factor = deviation / spread if spread > 1e-12 * abs(total / visits) else 0.0
            shift = mean - factor * total / visits
            n, s, q = self._seen_N3.T
            of_squares = factor**2 * q + 2 * factor * shift * s + shift**2 * n
            tree._seen_N3 = np.stack([n, factor * s + shift * n, of_squares], axis=1)
            tree._means_DO = factor * self._means_DO + shift * self._ones_DO
        return tree

    def copy(self) -> VisitTree:
        """A tree that changes by itself."""
        tree = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict | np.ndarray):
                setattr(tree, name, value.copy())
        tree._nodes = {}
        return tree

    def state_dict(self) -> dict[str, npt.NDArray[Any]]:
        """All that is known, as arrays."""
        return {
            "archs": self._archs_ND[: len(self._row)].copy(),
            "seen": self._seen_N3[: len(self._row)].copy(),
            "removed": self._removed_RD[: len(self._removed)].copy(),
            "means": self._means_DO.copy(),
            "ones": self._ones_DO.copy(),
        }

    def load_state_dict(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restores `state_dict`."""
        self._archs_ND, self._seen_N3 = state["archs"].copy(), state["seen"].copy()
        self._removed_RD = state["removed"].copy()
        self._means_DO, self._ones_DO = state["means"].copy(), state["ones"].copy()
        self._row = {tuple(arch): i for i, arch in enumerate(self._archs_ND.tolist())}
        self._removed = {tuple(arch): None for arch in self._removed_RD.tolist()}
        self._nodes = {}

    def _node(self, path: Arch, how: Descent) -> _Node:
        """A node that is drawn from, remembered until something is visited."""
        if how != self._drawn_by:
            self._nodes, self._drawn_by = {}, how
        if path not in self._nodes:
            self._nodes[path] = self._weighed(len(path), self.children(path), how)
        return self._nodes[path]

    def _weighed(self, level: int, children: tuple[Floats, Floats, Floats], how: Descent) -> _Node:
        visits_O, rewards_O, live_O = children
        visits, value_O = float(visits_O.sum()), np.zeros(len(visits_O))
        allowed_O = self._allowed_DO[level, : len(visits_O)]
        if visits >= how.least * np.count_nonzero(allowed_O):
            value_O += how.communication * self.mean_of_options(level)
            if visits:
                mean = rewards_O.sum() / visits
                value_O += np.where(visits_O, rewards_O, mean) / np.maximum(visits_O, 1)
                value_O += how.exploration * np.sqrt(math.log(visits) / (visits_O + 0.1))
        value_O = np.minimum(value_O - value_O[live_O > 0].max(), 0)
        is_blank = not visits and bool((live_O == self._below[level] * allowed_O).all())
        return _Node(np.exp(value_O / how.temperature).tolist(), live_O.tolist(), is_blank)


@final
@dataclass(slots=True)
class _Node:
    """What a child is drawn by: a weight for each of its live leaves, and how many there are.

    A node is blank as long as nothing below it was visited or removed.
    """

    weights: list[float]
    live: list[float]
    is_blank: bool

    def pick(self, rng: np.random.Generator) -> int:
        shares = [weight * live for weight, live in zip(self.weights, self.live, strict=True)]
        left, last = rng.random() * sum(shares), 0
        for option, share in enumerate(shares):
            if share > 0:
                last, left = option, left - share
                if left < 0:
                    return option
        return last  # by rounding


@runtime_checkable
class KeepsTree(Protocol):
    """A sampler that knows architectures by a tree, from which a search may go on.

    Attributes:
        tree: what it knows.
    """

    tree: VisitTree


def _room(array: npt.NDArray[Any], row: int) -> npt.NDArray[Any]:
    """The array, or a longer one with zeros behind it, if it has no room for a row."""
    if row < len(array):
        return array
    more = np.zeros((max(64, len(array)), *array.shape[1:]), array.dtype)
    return np.concatenate((array, more))
