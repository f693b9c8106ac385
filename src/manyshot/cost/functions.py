"""A cost that somebody's function gives, architecture by architecture."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, final

import numpy as np
import numpy.typing as npt

from manyshot.nn.inputs import inputs_of
from manyshot.space import Arch
from manyshot.supernet import Supernet

OFFERED = ("module", "choices", "arch", "input_shape", "example_inputs")
"""What a function may take, by the names of its parameters."""
_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ANY = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


@final
class FunctionCost:
    """What a function says of each architecture; it is called once for each network.

    The function takes what it needs by the names of its parameters: the extracted `module` in eval
    mode, the `choices` (the chosen option of every decision, by name), the `arch`, the
    `input_shape` of one image, or the `example_inputs` of any network, without values. It must give
    the same number for the same network.

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
            ValueError: if it needs something else than is offered, or what the supernet does not
                know.
        """
        self.name, self.calls = name, 0
        self._net, self._function = net, function
        self._known: dict[Arch, float] = {}
        parameters = inspect.signature(function).parameters.values()
        wanted = [p.name for p in parameters if p.kind not in _ANY]
        self._takes = [p.name for p in parameters if p.name in OFFERED and p.kind in _BY_NAME]
        unknown = [p.name for p in parameters if p.name not in self._takes and _is_needed(p)]
        if unknown or not self._takes:
            raise ValueError(
                f"cost {name!r}: its function takes {', '.join(wanted) or 'nothing'}; let it take, "
                f"by these names, one or more of {', '.join(OFFERED)}"
            )
        if "input_shape" in self._takes and net.input_shape is None:
            raise ValueError(
                f"cost {name!r}: its function takes input_shape, and this supernet was not made "
                "with that of an image: let it take example_inputs"
            )
        if "example_inputs" in self._takes:
            inputs_of(net)  # says what is missing

    def __call__(self, archs: Sequence[Arch]) -> npt.NDArray[np.float64]:
        """The costs of architectures, (N,).

        Raises:
            ValueError: if the function fails, or gives something else than a finite number of at
                least 0.
        """
        chosen = [self._net.space.canonical(tuple(map(int, arch))) for arch in archs]
        return np.array([self._of(arch) for arch in chosen], np.float64)

    def _of(self, arch: Arch) -> float:
        if arch not in self._known:
            self.calls += 1
            of = f"cost {self.name!r} of architecture {self._net.space.to_text(arch)}"
            try:
                value = self._function(**{name: self._offered(name, arch) for name in self._takes})
            except Exception as error:  # a function is anybody's code
                raise ValueError(f"{of}: {type(error).__name__}: {error}") from error
            is_number = isinstance(value, Real) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value) or value < 0:
                raise ValueError(
                    f"{of} is {value!r}; its function must give a finite number of at least 0 (of "
                    "a tensor its item())"
                )
            self._known[arch] = float(value)
        return self._known[arch]

    def _offered(self, name: str, arch: Arch) -> Any:
        if name == "module":
            return self._net.extract(arch).eval()
        if name == "choices":
            return self._net.space.choices(arch)
        if name == "example_inputs":
            return inputs_of(self._net)
        return arch if name == "arch" else self._net.input_shape


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in _ANY
