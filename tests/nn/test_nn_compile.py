"""`torch.compile`: of option bodies of fixed size, never of the supernet."""

import copy

import numpy as np
import pytest
import torch
from nn_nets import calibrated, images, make
from torch import nn
from torch._dynamo.testing import CompileCounter

import manyshot as ms
from compilers import needs_graphs
from manyshot.nn.structure import compilable

# Dynamo looks at the .grad of intermediate tensors and hides the warning, but not an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Searchable(nn.Module):
    """Compiling its options: 2 of 5 have a fixed size and parameters."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 4), "width")
        elastic = nn.Sequential(ms.nn.Conv2d(3, width, 1), ms.nn.Conv2d(width, 3, 1))
        nested = nn.Sequential(ms.nn.Choice([nn.Identity(), nn.ReLU()], "nested"), Body())
        self.ops = nn.Sequential(
            ms.nn.Choice(
                {
                    "skip": nn.Identity(),
                    "body": Body(),
                    "elastic": elastic,
                    "empty": nn.Sequential(),
                },
                "one",
            ),
            ms.nn.Choice({"skip": nn.Identity(), "body": Body(), "nested": nested}, "two"),
        )

    def forward(self, x):
        return self.ops(x)


def two_nets():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        eager = ms.Supernet(Searchable()).train()
    return eager, copy.deepcopy(eager)


def random_archs(net, count):
    rng = np.random.default_rng(0)
    return [net.space.sample(rng) for _ in range(count)]


@needs_graphs
def test_compiled_options_equal_eager_ones_with_few_graphs():
    eager, compiled = two_nets()
    counter = CompileCounter()
    keys = list(compiled.state_dict())
    assert compiled.compile_options(backend=counter) == 2
    assert list(compiled.state_dict()) == keys
    archs = random_archs(eager, 12)
    assert len({arch[-2:] for arch in archs}) > 6
    for arch in archs:
        x, y = images(4).requires_grad_(), images(4).requires_grad_()
        a, b = eager(x, arch), compiled(y, arch)
        assert torch.equal(a, b)
        if a.requires_grad:
            a.sum().backward()
            b.sum().backward()
            assert torch.equal(x.grad, y.grad)
    # For each option one graph, and a second for an input that needs no gradient of its own.
    assert 2 <= counter.frame_count <= 4


@needs_graphs
def test_options_of_one_class_are_all_compiled_however_many_there_are():
    """Together they would have 8 graphs, and torch would run the rest uncompiled."""
    widths = range(1, 12)
    bodies = {str(n): nn.Sequential(nn.Conv2d(3, n, 1), nn.Conv2d(n, 3, 1)) for n in widths}
    net, counter = ms.Supernet(ms.nn.Choice(bodies, "one")), CompileCounter()
    assert net.compile_options(backend=counter) == 11
    for arch in net.space.enumerate():
        for _ in range(2):
            net(images(2), arch)
    assert counter.frame_count == 11
    net.uncompile_options()
    net(images(2), (0,))
    assert counter.frame_count == 11 and not net.model.is_compiled


@needs_graphs
def test_convolutions_that_are_unsafe_in_channels_last_are_never_compiled():
    """Torch's compiler lays out in channels last what a contiguous network computes on the CPU."""

    def body(kind):
        return nn.Sequential(kind(3, 3, 1, stride=2), nn.Upsample(scale_factor=2))

    unsafe = {"plain": body(nn.Conv2d), "ours": body(ms.nn.Conv2d)}
    net = ms.Supernet(ms.nn.Choice(unsafe, "one"))
    assert net.compile_options(backend="eager") == 1
    assert [name for _, name in compilable(net.model)] == ["ours"]


def test_a_torch_that_would_leave_options_uncompiled_is_refused(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, *, backend=None: model)
    with pytest.raises(RuntimeError, match=r"isolate_recompiles=True\).* take a newer one"):
        make("tiny").compile_options()


@needs_graphs
def test_options_without_parameters_are_never_compiled():
    model = nn.Sequential(
        nn.Conv2d(3, 3, 1),
        ms.nn.Choice([nn.Identity(), nn.Sequential(), nn.MaxPool2d(3, 1, 1)], "one"),
    )
    net, counter = ms.Supernet(model), CompileCounter()
    assert net.compile_options(backend=counter) == 0
    for arch in net.space.enumerate():
        net(images(2), arch)
    assert counter.frame_count == 0
    # Compiling an identity first would make this compile nothing.
    body = torch.compile(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()), backend=counter)
    body(images(2))
    assert counter.frame_count == 1


@needs_graphs
def test_eval_mode_uses_the_statistics_it_is_given():
    eager, compiled = two_nets()
    counter = CompileCounter()
    compiled.compile_options(backend=counter)
    arch, x = (0, 0, 1, 1), images(4)
    compiled(x, arch)
    graphs = counter.frame_count
    eager.eval(), compiled.eval()
    for scale in range(1, 6):  # new statistics, no new graph
        stats = calibrated(compiled, arch, scale * x)
        same = calibrated(eager, arch, scale * x)
        assert all(torch.equal(stats.of(p)[0], same.of(p)[0]) for p in same.tensors)
        with torch.no_grad():
            assert torch.equal(compiled(x, arch, stats=stats), eager(x, arch, stats=same))
    assert counter.frame_count == graphs > 0


def test_options_compiled_by_hand_give_the_same_in_eval_mode():
    eager, compiled = two_nets()
    for choice in compiled.model.ops:
        choice.options["body"].compile(backend="eager")
    arch, x = eager.space.from_text("0-0-1-1"), images(4)
    eager.eval(), compiled.eval()
    for scale in (1, 2, 3):
        stats, same = (calibrated(net, arch, scale * x) for net in (compiled, eager))
        with torch.no_grad():
            assert torch.equal(compiled(x, arch, stats=stats), eager(x, arch, stats=same))


@needs_graphs
def test_a_compiled_supernet_copies_and_extracts():
    eager, compiled = two_nets()
    counter = CompileCounter()
    compiled.compile_options(backend=counter)
    arch, x = (0, 0, 1, 1), images(4)
    expected = eager(x, arch)
    assert torch.equal(compiled(x, arch), expected)
    graphs = counter.frame_count
    duplicate, subnet = copy.deepcopy(compiled), compiled.extract(arch)
    assert torch.equal(duplicate(x, arch), expected) and torch.equal(subnet(x), expected)
    assert counter.frame_count == graphs, "copies and subnets are not compiled"
    with torch.no_grad():
        for parameter in compiled.parameters():
            parameter.zero_()
    assert torch.equal(duplicate(x, arch), expected) and torch.equal(subnet(x), expected)
    assert not torch.equal(compiled(x, arch), expected)


def test_modules_that_the_user_compiled_are_extracted_as_their_originals():
    # Wrapped before the supernet is made, and wrapped or compiled in place inside an option.
    model = Searchable()
    wrapped = torch.compile(Body(), backend="eager")
    model.ops.append(wrapped)
    model.ops[0].options["body"] = torch.compile(model.ops[0].options["body"], backend="eager")
    model.ops[1].options["body"].compile(backend="eager")
    net, x = ms.Supernet(model), images(4)
    arch = net.space.from_text("0-0-1-1")
    subnet = net.extract(arch)
    assert [type(m) for m in subnet.ops] == [Body, Body, Body]
    assert all(m._compiled_call_impl is None for m in subnet.modules())
    assert torch.equal(subnet(x), net(x, arch))
    subnet.ops[2].conv.weight.data.zero_()
    assert wrapped.conv.weight.abs().sum() > 0


def test_the_extracted_network_compiles_whole():
    net, x, counter = make("nasty").train(), images(4), CompileCounter()
    subnet = net.extract(net.space.smallest)
    # The list `order` and the parent reference are ordinary Python: one graph, no break.
    compiled = torch.compile(copy.deepcopy(subnet), backend=counter, fullgraph=True)
    assert torch.equal(compiled(x), subnet(x)) and counter.frame_count == 1


def test_compiling_a_supernet_is_refused_with_the_way_out():
    net, x, counter = make("tiny"), images(2), CompileCounter()
    with pytest.raises(RuntimeError, match=r"net\.compile_options\(\), or .*net\.extract\(\)"):
        net.compile()
    for options in ({}, {"fullgraph": True}):
        torch._dynamo.reset()
        compiled = torch.compile(net, backend=counter, **options)
        with pytest.raises(Exception, match=r"refuse_compilation|net\.compile_options"):
            compiled(x, net.space.smallest)

    @torch.compile(backend=counter)
    def step(images):
        return net(images, net.space.smallest).sum()

    with pytest.raises(Exception, match=r"refuse_compilation|net\.compile_options"):
        step(x)
    assert counter.frame_count == 0
    assert net(x).shape == (2, 10)


def test_exporting_a_supernet_is_refused_too():
    net = make("tiny")
    with pytest.raises(RuntimeError, match=r"net\.extract\(\)"):
        torch.export.export(net, (images(2),))
