"""What runs the modules that are timed: torch as they are, or ONNX Runtime after an export."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, final, get_args

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot.export.parts import names_of, parts_to_onnx
from manyshot.export.programs import onnx_runtime
from manyshot.nn.inputs import model_dtype, tensors_in

RuntimeName: TypeAlias = Literal["torch", "onnxruntime"]

Call: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
"""The positional and the keyword arguments of a module."""


class Job(NamedTuple):
    """What is timed: the calls of a module, one after the other.

    Attributes:
        name: what it is, for messages.
        module: what is called.
        calls: what it is called with.
    """

    name: str
    module: nn.Module
    calls: Sequence[Call]


Opener: TypeAlias = Callable[[Sequence[Job], int, Callable[[int], None]], list[Job]]
"""`opener(jobs, threads, advance)` makes jobs of this runtime of jobs of torch; it calls
`advance(jobs done)` on its way."""

TOGETHER = 32
"""So many modules are exported at once at most."""
WEIGHTS_TOGETHER = 2**28
"""What is exported at once holds so many bytes of weights at most, or is a single module."""


@final
@dataclass(frozen=True)
class Runtime:
    """What runs what is timed.

    Attributes:
        name: of the package.
        version: of the package.
        max_cells: the most things that a latency table times unless told otherwise.
        exports: whether every job is exported, which is what takes long.
        opened: makes its jobs of those of torch.
    """

    name: RuntimeName
    version: str
    max_cells: int
    exports: bool
    opened: Opener


def runtime_of(name: str, module: nn.Module, device: torch.device) -> Runtime:
    """The runtime of a name.

    Args:
        name: `torch` or `onnxruntime`.
        module: the network that is to be timed.
        device: where.

    Raises:
        ValueError: for an unknown name, and for a device or a type that ONNX Runtime is not used
            for here.
        ImportError: for `onnxruntime` without the packages that it and an export need.
    """
    if name == "torch":
        return Runtime("torch", str(torch.__version__), 4000, False, _as_they_are)
    if name != "onnxruntime":
        raise ValueError(f"runtime is {' or '.join(get_args(RuntimeName))}, got {name!r}")
    if device.type != "cpu":
        raise ValueError(
            f"runtime = 'onnxruntime' measures on the CPU alone, and the network is on {device}: "
            "take device = 'cpu', or runtime = 'torch'"
        )
    if model_dtype(module) not in (torch.float32, torch.float64):
        raise ValueError(
            "runtime = 'onnxruntime' measures networks in float32 or float64, and this one is in "
            f"{model_dtype(module)}: take runtime = 'torch'"
        )
    return Runtime("onnxruntime", str(onnx_runtime().__version__), 1000, True, _exported)


class Session(nn.Module):
    """A session of ONNX Runtime as a module of keyword arguments.

    Attributes:
        session: the session.
    """

    def __init__(self, model: str | bytes, threads: int) -> None:
        """Opens a model on the CPU.

        Args:
            model: the path of a file, or what it holds.
            threads: inside an operator; operators run one after the other.
        """
        super().__init__()
        runtime = importlib.import_module("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Else the threads of the session that ran before spin on while this one is timed.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self.session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(self, **tensors: Tensor) -> Any:
        """The outputs, as arrays."""
        return self.session.run(None, {name: t.numpy() for name, t in tensors.items()})


def _as_they_are(jobs: Sequence[Job], threads: int, advance: Callable[[int], None]) -> list[Job]:
    return list(jobs)


def _exported(jobs: Sequence[Job], threads: int, advance: Callable[[int], None]) -> list[Job]:
    """Jobs as sessions of ONNX Runtime, each of which makes all the calls of its job.

    Raises:
        ValueError: for a job that cannot be exported, or not be run by ONNX Runtime.
    """
    contiguous = _Contiguous()
    opened: list[Job] = []
    advance(0)
    for group in _groups(jobs):
        plain = [contiguous(job) for job in group]
        try:
            opened += _sessions(plain, threads)
        except Exception:  # whatever torch and onnx raise: of which of them, one by one
            for job in plain:
                try:
                    opened += _sessions([job], threads)
                except Exception as error:
                    words = str(error).strip().partition("\n")[0]
                    raise ValueError(
                        f"latency: {job.name} cannot be run by onnxruntime "
                        f"({type(error).__name__}: {words}): mend what it does, or measure with "
                        "runtime = 'torch'"
                    ) from error
        advance(len(opened))
    return opened


def _groups(jobs: Sequence[Job]) -> Iterator[list[Job]]:
    """Jobs in parts that are exported together."""
    group: list[Job] = []
    held = 0
    for job in jobs:
        size = sum(t.numel() * t.element_size() for t in job.module.state_dict().values())
        if group and (len(group) == TOGETHER or held + size > WEIGHTS_TOGETHER):
            yield group
            group, held = [], 0
        group.append(job)
        held += size
    if group:
        yield group


class _Contiguous:
    """Makes jobs those of contiguous tensors, of which many jobs may share one."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, job: Job) -> Job:
        module = job.module.to(memory_format=torch.contiguous_format)
        return job._replace(module=module, calls=pytree.tree_map(self._of, list(job.calls)))

    def _of(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return self._known.setdefault(id(value), (value, value.contiguous()))[1]


def _sessions(jobs: Sequence[Job], threads: int) -> list[Job]:
    """Jobs as sessions, each of which has run once.

    Raises:
        ValueError: if one gives other shapes than its module.
    """
    models = parts_to_onnx([(job.module, job.calls) for job in jobs])
    opened = []
    for i, (job, model) in enumerate(zip(jobs, models, strict=True)):
        session = Session(model, threads)
        tensors = [t for t in pytree.tree_leaves(job.calls) if isinstance(t, Tensor)]
        used = {node.name for node in session.session.get_inputs()}
        names = names_of(i, len(tensors))
        inputs = {name: t for name, t in zip(names, tensors, strict=True) if name in used}
        shapes = [tuple(array.shape) for array in session(**inputs)]
        with torch.no_grad():
            calls: Sequence[Call] = pytree.tree_map_only(Tensor, Tensor.clone, list(job.calls))
            wanted = [
                tuple(t.shape)
                for args, kwargs in calls
                for t in tensors_in(job.module(*args, **kwargs))
            ]
        if shapes != wanted:
            raise ValueError(f"the exported program gives {shapes}, and the module {wanted}")
        opened.append(Job(job.name, session, [((), inputs)]))
    return opened
