"""A cost that somebody's function gives, architecture by architecture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, final

import numpy as np
import numpy.typing as npt

from manyshot.space import Arch
from manyshot.supernet import Supernet

OFFERED = ("module", "choices", "arch", "input_shape")
"""What a function may take, by the names of its parameters."""


@final
class FunctionCost:
    """What a function says of each architecture; it is called once for each network.

    The function takes what it needs by the names of its parameters: the extracted `module` in eval
    mode, the `choices` (the chosen option of every decision, by name), the `arch`, or the
    `input_shape` of one image. It must give the same number for the same network.

    A table answers for a million architectures at once, a function for one. Searches look at many
    more networks than they score, to find those within a budget, and each of them is a call; with
    `module` it is extracted first, which takes milliseconds.

    Attributes:
        name: of the cost.
        calls: how many networks it was called for.
    """

    def __init__(self, net: Supernet, function: Callable[..., Any], name: str) -> None:
        """Looks at what the function takes.

        Raises:
            ValueError: if it needs something else than is offered.
        """
        self.name, self.calls = name, 0
        self._net, self._function = net, function
        self._known: dict[Arch, float] = {}
        parameters = inspect.signature(function).parameters.values()
        wanted = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        unknown = [p.name for p in parameters if p.name not in OFFERED and p.default is p.empty]
        self._takes = [name for name in wanted if name in OFFERED]
        if unknown or not self._takes:
            raise ValueError(
                f"cost {name!r}: its function takes {', '.join(wanted) or 'nothing'}; let it take, "
                f"by these names, one or more of {', '.join(OFFERED)}"
            )

    def __call__(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """The costs of architectures, (N,).

        Raises:
            ValueError: if the function gives something else than a finite number.
        """
        chosen = [self._net.space.canonical(tuple(map(int, arch))) for arch in archs]
        return np.array([self._of(arch) for arch in chosen], np.float64)

    def _of(self, arch: Arch) -> float:
        if arch not in self._known:
            self.calls += 1
            value = self._function(**{name: self._offered(name, arch) for name in self._takes})
            if not isinstance(value, Real) or not math.isfinite(value):
                raise ValueError(
                    f"cost {self.name!r} of architecture {self._net.space.to_text(arch)} is "
                    f"{value!r}; its function must give a finite number"
                )
            self._known[arch] = float(value)
        return self._known[arch]

    def _offered(self, name: str, arch: Arch) -> Any:
        if name == "module":
            return self._net.extract(arch).eval()
        if name == "choices":
            return self._net.space.choices(arch)
        return arch if name == "arch" else self._net.input_shape
