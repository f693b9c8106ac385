"""Latency by ONNX Runtime: what it runs is what torch runs, and its times add up alike."""

import functools
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot import cost
from manyshot.cost import runtimes
from manyshot.cost.runtimes import Job, runtime_of
from manyshot.nn.inputs import tensors_in

SHAPE = (3, 6, 6)
CPU = torch.device("cpu")


class Shifts(nn.Module):
    """Writes into its input, and takes another by keyword."""

    def forward(self, x, *, by):
        return x.mul_(2) + by


class Small(nn.Module):
    """Choices with parameters and without, an elastic width, and a block that may be left out."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 4), "width")
        self.stem = ms.nn.Conv2d(3, width, 3)
        self.op = ms.nn.Choice(
            {"as_is": nn.Identity(), "shifts": Keyword(), "relu": nn.ReLU()}, "op"
        )
        self.more = ms.nn.Depth([ms.nn.Conv2d(width, width, 3, padding=1)], (0, 1), "more")
        self.head = ms.nn.Conv2d(width, 5, 1)

    def forward(self, x):
        return self.head(self.more(self.op(self.stem(x)))).mean((2, 3))


class Keyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.shifts = Shifts()

    def forward(self, x):
        return self.shifts(x, by=x.mean())


@functools.cache
def macs_of(model: bytes) -> int:
    """The multiply-adds of an ONNX model of convolutions, read from the model alone."""
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    sides = {
        value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    assert {node.op_type for node in graph.node} & {"Gemm", "MatMul"} == set()
    return sum(
        int(np.prod(weights[node.input[1]][1:])) * int(np.prod(sides[node.output[0]]))
        for node in graph.node
        if node.op_type == "Conv"
    )


class Watch:
    """Keeps what it was given and what came out; a time is what `cost_of` says of a module."""

    def __init__(self, cost_of):
        self.cost_of, self.seen = cost_of, []

    def __call__(self, module, calls):
        inputs = [t.clone() for call in calls for t in torch.utils._pytree.tree_leaves(call)]
        outputs = [module(*args, **kwargs) for args, kwargs in calls]
        self.seen.append((module, inputs, [torch.as_tensor(t) for t in tensors_in(outputs)]))
        if isinstance(module, runtimes.Session):
            self.seen[-1] = (module, inputs, [torch.from_numpy(array) for array in outputs[0]])
        return self.cost_of(module)


@pytest.fixture(scope="module")
def watched():
    """Tables of one network by both runtimes: each with what was timed, and what was told."""
    models, opened = {}, onnxruntime.InferenceSession

    def opens(model, *args, **kwargs):
        session = opened(model, *args, **kwargs)
        models[id(session)] = model, args[0]
        return session

    torch.manual_seed(0)
    net, result = ms.Supernet(Small(), input_shape=SHAPE), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", opens)
        for runtime in ("torch", "onnxruntime"):
            watch, told = Watch(lambda module: float(time_of(module, models))), []
            table = cost.latency_table(
                net,
                warmup=1,
                repeats=1,
                checked=1,
                batch_size=2,
                threads=1,
                runtime=runtime,
                stopwatch=watch,
                progress=lambda done, total, told=told: told.append((done, total)),
            )
            result[runtime] = table, watch.seen, told
    return net, result, models


def time_of(module, models):
    return macs_of(models[id(module.session)][0]) if isinstance(module, runtimes.Session) else 1


def test_sessions_give_what_the_extracted_parts_give(watched):
    _, result, _ = watched
    by_torch, by_onnx = result["torch"][1], result["onnxruntime"][1]
    assert len(by_torch) == len(by_onnx) == 2 * (result["torch"][0].cells + 5 + 1)
    for (plain, inputs, expected), (session, same, got) in zip(by_torch, by_onnx, strict=True):
        assert isinstance(session, runtimes.Session) and not isinstance(plain, runtimes.Session)
        assert all(t.is_contiguous() for t in same)
        assert all(torch.equal(a, b) for a, b in zip(inputs, same, strict=True))
        for one, other in zip(expected, got, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_times_of_exported_parts_add_up(watched):
    """Time is the multiply-adds of ONNX models; the table is the network's, counted by torch."""
    net, result, _ = watched
    table = result["onnxruntime"][0]
    archs = list(net.space.enumerate())
    assert table(archs).tolist() == (2 * cost.macs(net, archs)).tolist()
    assert table.check.median_error == 0


def test_a_table_says_what_ran_it(watched):
    _, result, _ = watched
    table = result["onnxruntime"][0]
    assert (table.runtime, table.runtime_version) == ("onnxruntime", onnxruntime.__version__)
    assert (result["torch"][0].runtime, result["torch"][0].runtime_version) == (
        "torch",
        torch.__version__,
    )
    assert cost.LatencyTable.from_dict(table.to_dict()).runtime == "onnxruntime"


def test_progress_counts_exports_and_rounds(watched):
    _, result, _ = watched
    jobs = len(result["torch"][1]) // 2
    assert result["torch"][2] == [(1, 2), (2, 2)]
    assert result["onnxruntime"][2] == [(done, jobs + 2) for done in (0, jobs, jobs + 1, jobs + 2)]


def test_sessions_have_the_threads_and_all_optimisations(watched):
    _, _, models = watched
    for _, options in models.values():
        assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
        assert options.graph_optimization_level.name == "ORT_ENABLE_ALL"
        assert options.execution_mode.name == "ORT_SEQUENTIAL"


def test_one_network_is_measured():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with torch.no_grad():
        module[1].running_mean.fill_(3)
    watch = Watch(lambda module: 7.0)
    timing = cost.measure(
        module, SHAPE, batch_size=3, threads=2, repeats=2, runtime="onnxruntime", stopwatch=watch
    )
    assert (timing.median_ms, timing.threads, timing.batch_size) == (7, 2, 3)
    assert (timing.runtime, timing.runtime_version) == ("onnxruntime", onnxruntime.__version__)
    session, [images], [got] = watch.seen[0]
    assert session.session.get_session_options().intra_op_num_threads == 2
    with torch.no_grad():
        torch.testing.assert_close(got, module.eval()(images), rtol=1e-4, atol=1e-5)
    assert cost.measure(module, SHAPE, runtime="torch", repeats=1).runtime == "torch"


def test_what_cannot_be_exported_is_named():
    class Asks(nn.Module):
        def forward(self, x):
            return x if x.data_ptr() else -x  # which an export cannot follow

    net = ms.Supernet(nn.Sequential(ms.nn.Choice({"odd": Asks(), "plain": nn.ReLU()}, "op")))
    with pytest.raises(
        ValueError, match=r"latency: module '0' at op='odd' cannot be run by onnxruntime \("
    ):
        cost.latency_table(net, SHAPE, runtime="onnxruntime")


def test_too_much_to_export_is_an_error_that_names_the_way_out():
    net = ms.Supernet(Small(), input_shape=SHAPE)
    words = r"12 cells to time, at most 4; .*each is exported for onnxruntime: take runtime = 'tor"
    with pytest.raises(ValueError, match=words):
        cost.latency_table(net, runtime="onnxruntime", max_cells=4)
    assert runtime_of("onnxruntime", net, CPU).max_cells < runtime_of("torch", net, CPU).max_cells


def test_what_a_runtime_is_not_for():
    with pytest.raises(ValueError, match="on the CPU alone, and the network is on cuda"):
        runtime_of("onnxruntime", nn.Linear(1, 1), torch.device("cuda"))
    with pytest.raises(ValueError, match="this one is in torch.bfloat16"):
        cost.measure(nn.Linear(2, 2).bfloat16(), (2,), runtime="onnxruntime")
    with pytest.raises(ValueError, match="runtime is torch or onnxruntime, got 'tflite'"):
        cost.measure(nn.Linear(2, 2), (2,), runtime="tflite")


def test_missing_packages_are_said_at_the_start(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"onnxscript.*pip install manyshot\[onnx\]"):
        cost.latency_table(ms.Supernet(Small()), SHAPE, runtime="onnxruntime")


def test_exports_are_bounded_in_number_and_in_weights(monkeypatch):
    monkeypatch.setattr(runtimes, "TOGETHER", 3)
    monkeypatch.setattr(runtimes, "WEIGHTS_TOGETHER", 4 * 20)
    sizes = (1, 1, 1, 1, 30, 10, 10, 1)
    jobs = [Job(str(n), nn.Linear(n, 1, bias=False), []) for n in sizes]
    groups = [[int(job.name) for job in group] for group in runtimes._groups(jobs)]
    assert groups == [[1, 1, 1], [1], [30], [10, 10], [1]]
