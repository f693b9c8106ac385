"""A network as a program that runs without its Python classes: torch.export and ONNX."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from manyshot import records
from manyshot.export.check import check_program, with_suffix
from manyshot.nn.inputs import Inputs, as_call, batch_of, is_batched, shapes_in_words
from manyshot.nn.layer import Layer
from manyshot.supernet import Supernet

PT2_TOLERANCE = 1e-5
"""Largest accepted |program - module| relative to max |module|.

The program calls the same kernels as the module, so 0 is usual; this leaves room for kernels that
are chosen by machine or memory format.
"""

ONNX_TOLERANCE = 1e-3
"""Largest accepted |program - module| relative to max |module|.

ONNX Runtime folds batch norms into convolutions and sums in other orders, so it may differ by as
much as rounding does: 1e-6 for `macro`, 8e-5 for an untrained 20-layer `shufflenet`, whose float32
logits in torch are 6e-5 from its float64 ones.
"""

ONNX_OPSET = 20
"""The version of ONNX's operators that files are written with; ONNX Runtime has it since 1.17."""

CARRIED = "manyshot.json"
"""The name under which a `.pt2` file carries what is said about its network."""


def to_pt2(
    module: nn.Module, example: Inputs, path: str | os.PathLike[str], about: str | None = None
) -> Path:
    """Writes `module` as a `torch.export` program with a free batch size; returns its path.

    The file is loaded by `torch.export.load(path).module()` where torch is, and nothing else. It is
    reloaded and compared with the module's logits before it gets its name. It is the module in eval
    mode, on the CPU, in the contiguous memory format; the module itself is not changed. Values of
    `example` and paths of source files are not stored.

    Args:
        module: a plain network, as `net.extract(arch, stats=stats)` gives.
        example: what its `forward` takes, with any batch in front: a tensor, a tuple of positional
            or a dict of keyword arguments. Only the shapes of a sample matter to the file. Tensors
            whose first dimension is the batch have a free one in the program; others are fixed.
        path: where to write; it ends with `.pt2`, and folders are made.
        about: a text that the file carries as the extra file `manyshot.json`, which
            `torch.export.load(path, extra_files={"manyshot.json": ""})` fills in; by default none.

    Raises:
        ExportMismatch: if the reloaded program disagrees; an earlier file at `path` stays.
        ValueError: for a supernet, a network in half precision, a scalar example, another suffix.
    """
    path = with_suffix(path, ".pt2")
    module, example = _prepared(module, example)
    program = _traced(module, example)
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=None if about is None else {CARRIED: about})
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.atomic(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
        program = torch.export.load(temporary)
        check_program("pt2", program.module(), module, example, PT2_TOLERANCE)
    return path


def to_onnx(
    module: nn.Module, example: Inputs, path: str | os.PathLike[str], about: str | None = None
) -> Path:
    """Writes `module` as one ONNX file with a free batch size; returns its path.

    The input of a network that takes one floating-point tensor is `images`; of any other, inputs
    have the names of the parameters of its `forward`. An output that is one tensor is `logits`;
    of a dict, outputs have the names of its keys, and else numbers (`output0`). It is run by ONNX
    Runtime and compared with the module before it gets its name. Operators are those of opset
    `ONNX_OPSET`. Weights are inside the file, so
    they must be below the 2 GB that ONNX allows there.

    Args:
        module: a plain network (see `to_pt2`).
        example: what its `forward` takes, with any batch in front (see `to_pt2`).
        path: where to write; it ends with `.onnx`, and folders are made.
        about: a text that the file carries as the property `manyshot` of the model (ONNX Runtime:
            `session.get_modelmeta().custom_metadata_map`); by default none.

    Raises:
        ExportMismatch: if ONNX Runtime disagrees; an earlier file at `path` stays.
        ImportError: without the optional packages; the message names the command that installs
            them.
        ValueError: for the reasons that `to_pt2` has.
    """
    path = with_suffix(path, ".onnx")
    onnx_runtime()
    module, example = _prepared(module, example)
    exported = torch.onnx.export(
        _traced(module, example),
        dynamo=True,
        opset_version=ONNX_OPSET,
        # Known from the trace, but this gives the axis its name.
        dynamic_shapes=_free_batch(module, example, "batch", only_first=True),
        input_names=_input_names(module, example),
        output_names=_output_names(module, example),
        verbose=False,
    )
    assert exported is not None
    path.parent.mkdir(parents=True, exist_ok=True)
    with records.atomic(path) as temporary:
        temporary.write_bytes(_serialised(exported.model_proto, about))
        program = OnnxProgram(temporary, module, example)
        check_program("onnx", program, module, example, ONNX_TOLERANCE)
    return path


class OnnxProgram(nn.Module):
    """An ONNX file, called as the module that it was written from.

    Attributes:
        session: of ONNX Runtime, on the CPU.
    """

    def __init__(self, file: Path, module: nn.Module, example: Inputs) -> None:
        """Opens a file, on as many threads as torch has now.

        Args:
            file: what `to_onnx` or `to_int8` wrote.
            module: what it was written from, on the CPU in eval mode, which says how outputs are
                arranged.
            example: inputs of it.
        """
        super().__init__()
        runtime = onnx_runtime()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = runtime.InferenceSession(
            str(file), options, providers=["CPUExecutionProvider"]
        )
        self._inputs, self._outputs = _input_names(module, example), _output_names(module, example)
        self._used = {node.name for node in self.session.get_inputs()}
        args, kwargs = as_call(example)
        with torch.no_grad():
            self._leaves, self._structure = pytree.tree_flatten(module(*args, **kwargs))

    def fed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the session takes, by name."""
        leaves = (leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        named = zip(self._inputs, leaves, strict=True)
        return {name: tensor.cpu().numpy() for name, tensor in named if name in self._used}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs, arranged as the module's."""
        found = self.session.run(self._outputs, self.fed(*args, **kwargs))
        outputs = map(torch.from_numpy, found)
        every = (next(outputs) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves)
        return pytree.tree_unflatten(every, self._structure)


def to_int8(
    module: nn.Module,
    example: Inputs,
    path: str | os.PathLike[str],
    calibration: Iterable[Inputs],
    about: str | None = None,
) -> Path:
    """Writes `module` as an ONNX file of 8-bit integers, made by ONNX Runtime; returns its path.

    Weights have a scale per channel and 7 of the 8 bits, since processors without VNNI add up pairs
    of products in 16 bits, which 8 bits overflow. Ranges of activations are the smallest and the
    largest that calibration sees. What comes out is another network: score it
    (`OnnxProgram`). That it gives finite outputs of the same shapes is checked.

    Args:
        module: a plain network (see `to_pt2`).
        example: what its `forward` takes, with any batch in front (see `to_pt2`).
        path: where to write; it ends with `.onnx`, and folders are made.
        calibration: batches of such inputs, as the network will meet them, at least one.
        about: a text that the file carries, as in `to_onnx`.

    Raises:
        ExportMismatch: if outputs have other shapes, or are not finite.
        ImportError: without the optional packages.
        ValueError: without calibration, and for the reasons that `to_pt2` has.
    """
    path = with_suffix(path, ".onnx")
    onnx_runtime()
    quantization = importlib.import_module("onnxruntime.quantization")
    inference = importlib.import_module("onnxruntime.quantization.shape_inference")
    module, example = _prepared(module, example)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="manyshot-int8-") as folder:
        exact, shaped = Path(folder) / "exact.onnx", Path(folder) / "shaped.onnx"
        to_onnx(module, example, exact, about)
        program = OnnxProgram(exact, module, example)
        batches = iter(_fed(program, calibration))

        class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
            def get_next(self) -> dict[str, Any] | None:
                return next(batches, None)

        inference.quant_pre_process(
            str(exact), str(shaped), skip_symbolic_shape=True, skip_optimization=True
        )
        with records.atomic(path) as temporary:
            quantization.quantize_static(
                str(shaped),
                str(temporary),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                reduce_range=True,
                weight_type=quantization.QuantType.QInt8,
                activation_type=quantization.QuantType.QInt8,
            )
            check_program("int8", OnnxProgram(temporary, module, example), module, example, None)
    return path


def _fed(program: OnnxProgram, calibration: Iterable[Inputs]) -> Iterator[dict[str, Any]]:
    """What calibration gives the session.

    Raises:
        ValueError: for nothing.
    """
    seen = 0
    for inputs in calibration:
        args, kwargs = as_call(inputs)
        yield program.fed(*args, **kwargs)
        seen += 1
    if not seen:
        raise ValueError("int8 needs calibration: at least one batch of inputs, got none")


def _input_names(module: nn.Module, example: Inputs) -> list[str]:
    """The names of all tensors that the module takes, in order."""
    if isinstance(example, Tensor) and example.is_floating_point():
        return ["images"]
    args, kwargs = as_call(example)
    bound = inspect.signature(module.forward).bind(*args, **kwargs).arguments
    return [name for key, value in bound.items() for name in _names(key, value)]


def _output_names(module: nn.Module, example: Inputs) -> list[str]:
    """The names of all tensors that the module gives, in order."""
    args, kwargs = as_call(example)
    with torch.no_grad():
        output = module(*args, **kwargs)
    if isinstance(output, Tensor):
        return ["logits"]
    parts = output.items() if isinstance(output, Mapping) else enumerate(pytree.tree_leaves(output))
    prefix = "" if isinstance(output, Mapping) else "output"
    return [name for key, value in parts for name in _names(f"{prefix}{key}", value)]


def output_name(part: str | int | None) -> str:
    """The name of the ONNX output that is a part of a network's outputs, a single tensor.

    Args:
        part: a key, an index, or None for outputs that are one tensor.
    """
    return "logits" if part is None else part if isinstance(part, str) else f"output{part}"


def _names(key: str, value: Any) -> list[str]:
    """`key` for a tensor, numbered names for the tensors of a tree."""
    leaves = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    return [key] if len(leaves) == 1 else [f"{key}{i}" for i in range(len(leaves))]


def onnx_runtime() -> Any:
    """The package onnxruntime, where what an export needs is there too.

    Raises:
        ImportError: where one of the packages is missing.
    """
    try:
        for name in ("onnx", "onnxscript"):
            importlib.import_module(name)
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise ImportError(
            f"ONNX export needs onnx, onnxscript and onnxruntime ({error}): "
            "pip install manyshot[onnx]"
        ) from error


def _prepared(module: nn.Module, example: Inputs) -> tuple[nn.Module, Inputs]:
    """A copy of `module` in eval mode on the CPU, tensors contiguous, and the example there."""
    for part in module.modules():
        if isinstance(part, Supernet | Layer):
            raise ValueError(
                f"{type(part).__name__} depends on an architecture and cannot be exported: export "
                "net.extract(arch, stats=stats)"
            )
    tensors = [leaf for leaf in pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    if not any(tensor.dim() >= 2 for tensor in tensors) or batch_of(example) < 1:
        raise ValueError(f"example must be a batch of inputs, got shape {shapes_in_words(example)}")
    for tensor in (*tensors, *module.state_dict().values()):
        if tensor.is_floating_point() and tensor.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"cannot check a program in {tensor.dtype}, whose rounding hides mistakes: export "
                "module.float() with a float32 example"
            )
    plain = copy.deepcopy(module).cpu().eval().requires_grad_(False)
    for tensor in (*plain.parameters(), *plain.buffers()):
        tensor.data = tensor.data.contiguous()  # torch.export.save warns of any other layout
    return plain, pytree.tree_map(
        lambda v: v.detach().cpu() if isinstance(v, Tensor) else v, example
    )


def _traced(module: nn.Module, example: Inputs) -> torch.export.ExportedProgram:
    """The program of `module` for any batch size, without values of the example or source paths.

    Raises:
        ValueError: if its forward goes another way by values that it computes.
    """
    # Half a second of sympy, which commands that export nothing do without.
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    # Two rows, because a batch of one would be taken for a constant; zeros, because the exported
    # file keeps the traced inputs.
    batch = batch_of(example)
    args, kwargs = as_call(
        pytree.tree_map(lambda v: _zeros(v) if is_batched(v, batch) else v, example)
    )
    free = _free_batch(module, example, torch.export.Dim("batch"))
    try:
        with torch.no_grad(), _without_graphs():
            program = torch.export.export(module, args, kwargs, dynamic_shapes=free)
    except GuardOnDataDependentSymNode as error:
        raise ValueError(
            f"its forward decides by the values of tensors{_place(error)}, and a program goes one "
            "way whatever the values are: compute both ways and choose by torch.where"
        ) from error
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


@contextlib.contextmanager
def _without_graphs() -> Iterator[None]:
    """Keeps torch from printing the graph of what it cannot trace, since the error says it all.

    What else is printed on standard error while a network is traced is passed on if that succeeds.
    """
    log = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    was_disabled, log.disabled = log.disabled, True
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
        sys.stderr.write(printed.getvalue())
    finally:
        log.disabled = was_disabled


def _place(error: BaseException) -> str:
    """Where an error is in code that is neither torch's nor ours, in brackets; empty if nowhere."""
    libraries = [Path(str(package.__file__)).parent for package in (torch, records)]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(Path(frame.filename).is_relative_to(folder) for folder in libraries):
            return f" ({Path(frame.filename).name}, line {frame.lineno}: {frame.line})"
    return ""


def _zeros(value: Tensor) -> Tensor:
    return torch.zeros((2, *value.shape[1:]), dtype=value.dtype)


def _free_batch(module: nn.Module, example: Inputs, dim: Any, *, only_first: bool = False) -> Any:
    """Which dimensions a program leaves free: the first of what has a row per sample.

    Args:
        module: the network.
        example: its inputs.
        dim: what says that a dimension is free.
        only_first: whether to say it of the first such tensor alone, whose batch is that of all.
    """
    batch, said = batch_of(example), False

    def free(value: Any) -> Any:
        nonlocal said
        if not is_batched(value, batch) or (said and only_first):
            return None
        said = True
        return {0: dim}

    args, kwargs = as_call(example)
    return pytree.tree_map(free, inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _serialised(model: Any, about: str | None) -> bytes:
    """The ONNX model as bytes, with `about` in place of the exporter's notes on its nodes."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            del node.metadata_props[:]
    if about is not None:
        carried = model.metadata_props.add()
        carried.key, carried.value = "manyshot", about
    content = model.SerializeToString()
    assert isinstance(content, bytes)
    return content
