import json

import numpy as np
import pytest
import torch
from cost_networks import NETWORKS, Elastic, MBConv, Nested, pooled
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import manyshot as ms
from manyshot import cost, zoo


def flops(module, calls) -> float:
    """A stopwatch for which time is multiply-adds: exactly additive."""
    module.requires_grad_(False)  # else the counter fails on outputs that are parameters
    with FlopCounterMode(display=False) as counter:
        for args, kwargs in calls:
            module(*args, **kwargs)
    return float(counter.get_total_flops() // 2)


def counted(net, shape, **options) -> cost.LatencyTable:
    options = {"warmup": 0, "repeats": 1, "checked": 4, "stopwatch": flops, **options}
    return cost.latency_table(net, shape, **options)


def halving():
    return ms.nn.Depth([nn.MaxPool2d(2), nn.MaxPool2d(2)], (0, 1, 2), "halvings")


# Fused attention counts as nothing on the CPU; the others have elastic products in the root module,
# which are part of the remainder.
OTHERS = ("attention_fused", "borrowed", "careless")
CASES = {
    **{name: NETWORKS[name] for name in NETWORKS if name not in OTHERS},
    "late": (lambda: nn.Sequential(halving(), nn.Conv2d(3, 4, 3, padding=1)), (3, 8, 8)),
    "elastic": (lambda: Elastic(stages=1), (3, 8, 8)),
    "macro": (lambda: zoo.macro(width=2), (3, 8, 8)),
    "tiny": (lambda: zoo.tiny(width=2), (1, 8, 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_table_of_an_additive_time_is_exact(name):
    make, shape = CASES[name]
    net = ms.Supernet(make())
    table = counted(net, shape)
    rng = np.random.default_rng(1)
    archs = [net.space.smallest, net.space.largest, *(net.space.sample(rng) for _ in range(50))]
    got = cost.latency_ms(net, archs, table)
    assert got.dtype == np.float64
    assert got.tolist() == cost.macs(net, archs, shape).tolist()
    assert table.check.median_error == 0
    assert table.check.kendall_tau in (None, pytest.approx(1))
    assert table.check.measured_ms == table.check.predicted_ms
    assert table.range() == cost.macs_table(net, shape).range()


def test_a_batch_is_timed_as_a_batch():
    net = ms.Supernet(zoo.tiny(width=2))
    table = counted(net, (1, 8, 8), batch_size=3)
    arch = net.space.largest
    assert table([arch]) == 3 * cost.macs(net, [arch], (1, 8, 8))
    assert table.batch_size == 3


@pytest.mark.parametrize(
    ("make", "shape", "cells"),
    [
        (lambda: zoo.macro(width=2), (3, 8, 8), 8 * 3),
        (lambda: zoo.tiny(width=2), (1, 8, 8), 4 * 4),
        # stem, first block of a stage: widths in and out, ratio, kernel; the others without "in"
        (lambda: Elastic(stages=2, blocks=2), (3, 8, 8), 2 + 2 * (16 + 8) + 2),
    ],
)
def test_every_option_is_timed_once_where_it_is(make, shape, cells):
    assert counted(ms.Supernet(make()), shape).cells == cells


def test_inactive_decisions_do_not_multiply_what_is_timed():
    width, ratio = ms.choose((4, 6), "width"), ms.choose((1, 2, 3), "ratio")
    op = ms.nn.Choice({"skip": nn.Identity(), "mb": MBConv(width, width, 3, ratio)}, "op")
    net = ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, width, 1), op, pooled(width)))
    # stem 2, skip on 2 widths, mb 2 x 3, head 2
    assert counted(net, (3, 4, 4)).cells == 2 + 2 + 6 + 2


class Stopwatch:
    """Returns scripted times by round, and keeps what it was given."""

    def __init__(self, by_round):
        self.by_round, self.seen = by_round, []

    def __call__(self, module, calls):
        tensors = [t for args, kwargs in calls for t in (*args, *kwargs.values())]
        first = sum(1 for known, _ in self.seen if known is module)
        self.seen.append((module, [(t.clone(), t.data_ptr()) for t in tensors]))
        for args, kwargs in calls:
            module(*args, **kwargs)
        return self.by_round[first]


def test_rounds_visit_everything_in_turn_and_medians_are_taken():
    net = ms.Supernet(zoo.tiny(width=2))
    watch = Stopwatch([9, 9, 1, 5, 2])
    table = counted(net, (1, 8, 8), warmup=2, repeats=3, stopwatch=watch)
    jobs = len(watch.seen) // 5
    order = [id(module) for module, _ in watch.seen]
    assert jobs == 16 + 5 + 4 == len(set(order))
    assert all(order[i * jobs : (i + 1) * jobs] == order[:jobs] for i in range(5))
    assert all((t == 2).all() for t in table.table.tables.values())
    assert table.spread == pytest.approx((3.5 - 1.5) / 2)
    assert table.table.constant == 2 - 4 * 2
    assert (table.warmup, table.repeats) == (2, 3)


def test_units_see_real_activations_afresh_in_every_round():
    class Spoils(nn.Module):
        def forward(self, x, *, by):
            return x.mul_(2) + by

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = ms.nn.Choice([Spoils(), Spoils()], "op")

        def forward(self, x):
            return self.op(x.relu(), by=x.mean())

    watch = Stopwatch([1.0] * 4)
    counted(ms.Supernet(Net()), (3, 4, 4), warmup=1, repeats=3, stopwatch=watch)
    units = [tensors for module, tensors in watch.seen if isinstance(module, Spoils)]
    assert len(units) == 2 * 4
    for (image, _), (by, _) in units:
        assert torch.equal(image, units[0][0][0])
        assert torch.equal(by, units[0][1][0])
        assert (image == 0).any() and (image > 0).any()  # after the ReLU
        assert image.is_contiguous(memory_format=torch.channels_last)


def test_measuring_touches_nothing():
    net = ms.Supernet(nn.Sequential(Nested(), nn.Dropout(0.5)))
    net.model[0].stem.eval()
    modes = [module.training for module in net.modules()]
    before = {name: (tensor.clone(), tensor._version) for name, tensor in net.state_dict().items()}
    stream, threads = torch.get_rng_state(), torch.get_num_threads()
    counted(net, (3, 6, 6), threads=threads + 1)
    assert [module.training for module in net.modules()] == modes
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name][0])
        assert tensor._version == before[name][1]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.get_num_threads() == threads


def test_threads_and_hooks_are_restored_after_an_error():
    def breaks(module, calls):
        assert torch.get_num_threads() == threads + 1
        raise RuntimeError("no time")

    op = ms.nn.Choice([nn.Linear(2, 2), nn.Identity()], "op")
    net, threads = ms.Supernet(nn.Sequential(op)), torch.get_num_threads()
    with pytest.raises(RuntimeError, match="no time"):
        counted(net, (2,), threads=threads + 1, stopwatch=breaks)
    with pytest.raises(RuntimeError, match="no time"):
        cost.measure(nn.Linear(2, 2), (2,), threads=threads + 1, stopwatch=breaks)
    assert torch.get_num_threads() == threads
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_record_round_trip():
    net = ms.Supernet(Nested())
    table = counted(net, (3, 6, 6), batch_size=2)
    record = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    again = cost.LatencyTable.from_dict(record)
    archs = list(net.space.enumerate())
    assert cost.latency_ms(net, archs, again).tolist() == table(archs).tolist()
    assert again.to_dict() == table.to_dict()
    assert again.check == table.check
    assert again.decisions == ("width", "a", "b", "depth", "inner", "outer")
    assert (again.inputs, again.dtype, again.clock) == ("(1, 3, 6, 6)", "torch.float32", "given")
    assert again.torch_version == torch.__version__
    assert again.device.startswith("cpu: ")
    with pytest.raises(ValueError, match="schema 2; this reads 1"):
        cost.LatencyTable.from_dict({**record, "schema": 2})


def test_a_space_with_one_latency_has_no_tau_and_still_a_record():
    net = ms.Supernet(nn.Sequential(ms.nn.Choice([nn.Identity(), nn.ReLU()], "op")))
    table = counted(net, (3, 4, 4), checked=3, stopwatch=lambda module, calls: 1.0)
    assert table.check.kendall_tau is None
    json.dumps(table.to_dict(), allow_nan=False)


def test_a_table_of_another_space_is_refused():
    table = counted(ms.Supernet(zoo.tiny(width=2)), (1, 8, 8))
    other = ms.Supernet(zoo.macro(width=2))
    with pytest.raises(ValueError, match="layer0.*make a new one"):
        cost.latency_ms(other, [other.space.largest], table)


def test_too_much_to_time_is_an_error_that_names_where():
    net = ms.Supernet(Elastic(stages=2, blocks=2))
    with pytest.raises(ValueError, match=r"52 cells to time, at most 51.*'body\.0\.blocks\.0'"):
        counted(net, (3, 8, 8), max_cells=51)


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"warmup": -1}, {"batch_size": 0}, {"threads": 0}, {"checked": 0}]
)
def test_counts_must_be_positive(wrong):
    (name, value), *_ = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}, got {value}"):
        counted(ms.Supernet(zoo.tiny(width=2)), (1, 8, 8), **wrong)
    if name != "checked":
        with pytest.raises(ValueError, match=f"{name} must be at least {value + 1}"):
            cost.measure(nn.Linear(2, 2), (2,), **wrong)


def test_progress_counts_rounds():
    told = []
    counted(
        ms.Supernet(zoo.tiny(width=2)),
        (1, 8, 8),
        warmup=1,
        repeats=2,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_measure_describes_what_it_measured():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            assert not self.training
            assert torch.is_inference_mode_enabled() and torch.get_num_threads() == 2
            assert x.shape == (5, 3, 6, 6)
            assert x.dtype == torch.bfloat16
            for tensor in (x, self.conv.weight):
                assert tensor.is_contiguous(memory_format=torch.channels_last)
            return self.norm(self.conv(x))

    net = Net().bfloat16()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    times = iter([50.0, 1.0, 3.0, 2.0, 4.0])

    def watch(module, calls):
        flops(module, calls)
        return next(times)

    found = cost.measure(
        net, (3, 6, 6), batch_size=5, threads=2, warmup=1, repeats=4, stopwatch=watch
    )
    assert (found.median_ms, found.iqr_ms) == (2.5, 1.5)
    assert (found.repeats, found.warmup, found.batch_size, found.threads) == (4, 1, 5, 2)
    assert (found.dtype, found.torch_version) == ("torch.bfloat16", torch.__version__)
    assert found.device.startswith("cpu: ")
    assert found.clock == "given"
    assert net.training and net.conv.weight.is_contiguous()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize(("threads", "clock"), [(1, "thread"), (2, "wall")])
def test_real_clocks(threads, clock):
    found = cost.measure(nn.Conv2d(3, 4, 3), (3, 8, 8), threads=threads, repeats=3)
    assert found.median_ms > 0 <= found.iqr_ms
    assert found.clock == clock


def test_a_real_table():
    net = ms.Supernet(zoo.tiny(width=2))
    table = cost.latency_table(net, (1, 8, 8), repeats=3, checked=3)
    low, high = table.range()
    assert 0 < low < high
    assert table.clock == "thread"
    assert all((entries > 0).all() for entries in table.table.tables.values())
    assert table.check.median_error >= 0
