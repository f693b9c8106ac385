"""Sets of architectures that are chosen once, before supernets are compared on them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from manyshot.space import Arch


def _check_distinct(name: str, archs: Iterable[Arch]) -> None:
    twice = [arch for arch, count in Counter(archs).items() if count > 1]
    if twice:
        raise ValueError(
            f"set {name!r} has {len(twice)} architectures more than once, such as {twice[0]}; "
            "give each one once, by its canonical encoding"
        )


@dataclass(frozen=True, slots=True)
class FrozenSet:
    """A named set of architectures, and which supernet weights chose it.

    To compare the order-preserving ability of two supernets, score both on the same architectures,
    chosen by neither: a set chosen by one favours it.

    Attributes:
        name: how a report calls it, such as `"L-pred(26)"`.
        archs: distinct architectures, in a fixed order.
        weights_version: the version of the supernet weights by whose scores the set was chosen; 0
            for those before any shifting, and for a set that no supernet chose.

    Raises:
        ValueError: for an empty name or set, an architecture given twice, or a negative version.
    """

    name: str
    archs: tuple[Arch, ...]
    weights_version: int = 0

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a set of architectures has an empty name; write for example 'global'")
        if not self.archs:
            raise ValueError(f"set {self.name!r} has no architecture; give at least one")
        _check_distinct(self.name, self.archs)
        if self.weights_version < 0:
            raise ValueError(
                f"set {self.name!r} needs weights_version >= 0, got {self.weights_version}; "
                "0 is before any shifting"
            )

    @classmethod
    def top(
        cls,
        name: str,
        archs: Sequence[Arch],
        scores: Sequence[float],
        k: int,
        weights_version: int = 0,
    ) -> FrozenSet:
        """The set of the `k` best of `archs`, best first; equal scores are ordered by the tuples.

        Args:
            name: the name of the set.
            archs: N distinct architectures.
            scores: the score of each of `archs`; higher is better. For a set of the truly best,
                take runs that are not part of the truth they are then judged by.
            k: how many, in 1..N.
            weights_version: the version of the supernet weights that the scores were taken at.

        Raises:
            ValueError: for unequal lengths, a score that is not a number, an architecture given
                twice, or `k` outside 1..N.
        """
        if len(archs) != len(scores):
            raise ValueError(f"set {name!r} got {len(archs)} architectures, {len(scores)} scores")
        of_arch = [(tuple(arch), float(score)) for arch, score in zip(archs, scores, strict=True)]
        for arch, score in of_arch:
            if math.isnan(score):
                raise ValueError(f"set {name!r}: the score of {arch} is nan; leave it out")
        _check_distinct(name, (arch for arch, _ in of_arch))
        if not 1 <= k <= len(of_arch):
            raise ValueError(f"set {name!r} needs k in 1..{len(of_arch)}, got {k}")
        ordered = sorted(of_arch, key=lambda pair: (-pair[1], pair[0]))
        return cls(name, tuple(arch for arch, _ in ordered[:k]), weights_version)

    def check_before(self, version: int) -> None:
        """Checks that the set may judge supernet weights of `version`, 0 being before any shifting.

        A set that weights of version 0 chose may judge all versions, their own included: it is
        the reference that shifted weights are compared with.

        Raises:
            ValueError: if weights of `version` or later, `version` being above 0, chose the set;
                or `version` is negative.
        """
        if version < 0:
            raise ValueError(f"versions of weights start at 0, got {version}")
        if self.weights_version >= version > 0:
            raise ValueError(
                f"set {self.name!r} was chosen by supernet weights of version "
                f"{self.weights_version} and cannot judge version {version}: a set chosen by the "
                "weights under test, or by later ones, favours them; choose it before shifting, or "
                "by another supernet"
            )
