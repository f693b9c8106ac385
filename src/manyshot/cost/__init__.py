"""What an architecture costs: multiply-adds, parameters, bytes, milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from manyshot.cost.files import FileTiming, measure_files
from manyshot.cost.functions import FunctionCost
from manyshot.cost.latency import LatencyCheck, LatencyTable, latency_ms, latency_table
from manyshot.cost.macs import macs_table, subnet_macs
from manyshot.cost.params import params_table, size_table
from manyshot.cost.policy import CostForm, PolicyCost
from manyshot.cost.recording import CostMismatch
from manyshot.cost.tables import Archs, CostTable
from manyshot.cost.timing import Measurement, measure
from manyshot.nn import counting
from manyshot.nn.counting import Formula, UncountedOperation
from manyshot.nn.inputs import Inputs, described, inputs_of, with_samples
from manyshot.nn.shapes import DryRunError
from manyshot.supernet import Supernet

__all__ = [
    "CostForm",
    "CostMismatch",
    "CostTable",
    "DryRunError",
    "FileTiming",
    "Formula",
    "FunctionCost",
    "LatencyCheck",
    "LatencyTable",
    "Measurement",
    "PolicyCost",
    "UncountedOperation",
    "latency_ms",
    "latency_table",
    "macs",
    "macs_table",
    "measure",
    "measure_files",
    "params",
    "params_table",
    "register",
    "size_table",
    "subnet_macs",
]

_recorded: WeakKeyDictionary[Supernet, dict[Any, CostTable]] = WeakKeyDictionary()


def macs(
    net: Supernet,
    archs: Archs,
    input_shape: Sequence[int] | None = None,
    *,
    example_inputs: Inputs = None,
) -> npt.NDArray[np.int64]:
    """Multiply-adds of architectures for one sample: exact integers, (N,).

    Papers print them as FLOPs. The first call for a network records its tables (see `macs_table`).

    Args:
        net: the supernet.
        archs: N architectures.
        input_shape: (C, H, W) of one image.
        example_inputs: other inputs (see `macs_table`). Without both, those that the supernet was
            made with.
    """
    tables = _recorded.setdefault(net, {})
    inputs = with_samples(inputs_of(net, input_shape, example_inputs), 1)
    key = ("macs", described(inputs))
    if key not in tables:
        tables[key] = macs_table(net, example_inputs=inputs)
    return tables[key](archs)


def params(net: Supernet, archs: Archs) -> npt.NDArray[np.int64]:
    """Parameters of architectures, as `extract(arch)` would hold them: exact integers, (N,)."""
    tables = _recorded.setdefault(net, {})
    if "params" not in tables:
        tables["params"] = params_table(net)
    return tables["params"](archs)


def register(op: Any, formula: Formula) -> None:
    """Says how many multiply-adds one call of an operation takes, in place of what was known.

    For example, of a layer that calls `torch.ops.mylib.mix(x, weight)`:

        ms.cost.register("mylib::mix", lambda out, x, weight: out.numel() * weight.shape[1])

    What was recorded before for `macs` is forgotten; tables made by `macs_table` stay as they are.
    A recipe's network registers where its module is imported, so that every process knows.

    Args:
        op: the operation, as `torch.ops.NAMESPACE.NAME` or `"NAMESPACE::NAME"`, all overloads.
        formula: `formula(out, *args, **kwargs)` gets the result and the arguments of the call,
            tensors of which shapes alone may be read, and gives a whole number from 0.

    Raises:
        ValueError: if `op` is no operation's name.
        TypeError: if the formula is no function.
    """
    counting.register(op, formula)
    _recorded.clear()
