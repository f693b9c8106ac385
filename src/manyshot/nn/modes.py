"""The modes of modules, training or not, kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module is afterwards in the mode that it was in before."""
    modes = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
