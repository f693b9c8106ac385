"""The supernet as a module: copies, checkpoints, types, devices, arguments."""

import copy
import json

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.nn.batch_norm import Collector
from manyshot.zoo import macro, tiny


class Small(nn.Module):
    """One of everything; the order of definition differs from that of use and of nesting."""

    def __init__(self):
        super().__init__()
        ratio, width = ms.choose((1, 2), "ratio"), ms.choose((4, 6), "width")
        self.stem = ms.nn.Conv2d(3, width, 3, padding=1)
        self.norm = ms.nn.BatchNorm2d(width)
        hidden = width * ratio
        neck = nn.Sequential(ms.nn.Conv2d(width, hidden, 1), ms.nn.Conv2d(hidden, width, 1))
        self.op = ms.nn.Choice({"skip": nn.Identity(), "neck": neck}, "op")
        self.tail = ms.nn.Depth([nn.ReLU(), nn.Tanh()], (1, 2))
        self.fc, self.post = ms.nn.Linear(width, 5), nn.BatchNorm1d(5)
        self.decode = nn.Linear(5, 5, bias=False)
        self.again = nn.Linear(5, 5, bias=False)
        self.again.weight = self.decode.weight
        self.register_buffer("scale", torch.tensor(2.0))
        self.width = width

    def forward(self, x):
        x = self.tail(self.op(self.norm(self.stem(x)))).mean((2, 3))
        return self.again(self.decode(self.post(self.fc(x)))) * self.scale / ms.value(self.width)


BUILDERS = {"macro": lambda: macro(width=2), "tiny": lambda: tiny(4, 3), "small": Small}
ENDS = ("smallest", "largest")


def make(name, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ms.Supernet(BUILDERS[name]())


def images(batch=4):
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def archs(net):
    return [net.space.smallest, net.space.largest, tuple(1 for _ in net.space.decisions)]


def description(space):
    return json.dumps(space.to_dict())


@pytest.mark.parametrize("name", BUILDERS)
def test_copies_give_the_same_and_are_independent(name):
    net, x = make(name), images()
    other = copy.deepcopy(net)
    assert description(other.space) == description(net.space)
    assert repr(other.space) == repr(net.space)
    assert not set(map(id, other.space.decisions)) & set(map(id, net.space.decisions))
    expected = {arch: net(x, arch) for arch in archs(net)}
    for arch in archs(net):
        assert torch.equal(other(x, arch), expected[arch])
        assert other.space.to_text(arch) == net.space.to_text(arch)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for arch in archs(net):
        assert torch.equal(other(x, arch), expected[arch])


@pytest.mark.parametrize("name", BUILDERS)
def test_copies_keep_ties_modes_and_statistics(name):
    net, x = make(name).eval(), images()
    next(net.model.children()).train()
    other = copy.deepcopy(net)
    assert [m.training for m in other.modules()] == [m.training for m in net.modules()]
    assert len(list(other.parameters())) == len(list(net.parameters()))
    if name == "small":
        assert other.model.again.weight is other.model.decode.weight
    net.eval(), other.eval()
    arch, collector = net.space.largest, Collector()
    with torch.no_grad():
        net(x, arch, stats=collector)
        stats = collector.stats(arch)
        assert torch.equal(net(x, arch, stats=stats), other(x, arch, stats=stats))


@pytest.mark.parametrize("name", BUILDERS)
def test_state_dict_round_trip_into_a_fresh_network(name, tmp_path):
    net, fresh, x = make(name), make(name, seed=1), images()
    assert all(key.startswith("model.") for key in net.state_dict())
    assert not torch.equal(net(x), fresh(x))
    torch.save(net.state_dict(), tmp_path / "net.pt")
    fresh.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    for arch in archs(net):
        assert torch.equal(net(x, arch), fresh(x, arch))


@pytest.mark.parametrize("name", BUILDERS)
def test_moving_to_another_type(name):
    net, x = make(name), images()
    double = copy.deepcopy(net).to(torch.float64)
    for arch in archs(net):
        logits = double(x.double(), arch)
        assert logits.dtype == torch.float64
        # The same computation in two precisions; batch norm amplifies the rounding of float32.
        torch.testing.assert_close(logits.float(), net(x, arch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", BUILDERS)
def test_networks_can_be_made_and_moved_to_meta(name):
    with torch.device("meta"):
        net = ms.Supernet(BUILDERS[name](), input_shape=(3, 8, 8))
    assert {t.device.type for t in net.state_dict().values()} == {"meta"}
    assert net(torch.empty(4, 3, 8, 8, device="meta")).device.type == "meta"
    filled, plain = net.to_empty(device="cpu"), make(name)
    filled.load_state_dict(plain.state_dict())
    if name != "small":  # whose buffer is filled by its own constructor
        assert torch.equal(filled(images()), plain(images()))
    moved = plain.to("meta")
    arch = moved.space.smallest
    assert moved(torch.empty(4, 3, 8, 8, device="meta"), arch).shape[0] == 4


@pytest.mark.parametrize("end", ENDS)
def test_the_architecture_is_an_argument(end):
    net, x = make("small"), images()
    arch = getattr(net.space, end)
    assert torch.equal(net(x, arch), net(x, list(arch)))
    assert torch.equal(net(x), net(x, net.space.largest))


def test_autocast_keeps_batch_norm_statistics_in_float32():
    net, x = make("small").eval(), images()
    arch, collector = net.space.largest, Collector()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        net(x, arch, stats=collector)
        stats = collector.stats(arch)
        subnet = net.extract(arch, stats=stats)
        assert torch.equal(net(x, arch, stats=stats), subnet(x))
    assert {t.dtype for pair in stats.tensors.values() for t in pair} == {torch.float32}


def test_bfloat16_networks_run():
    net, x = make("small").to(torch.bfloat16).eval(), images().bfloat16()
    arch, collector = net.space.largest, Collector()
    with torch.no_grad():
        net(x, arch, stats=collector)
        stats = collector.stats(arch)
        logits = net(x, arch, stats=stats)
    assert logits.dtype == torch.bfloat16
    assert torch.equal(logits, net.extract(arch, stats=stats)(x))


def test_making_a_supernet_keeps_the_parameter_objects():
    model = tiny(4, 3)
    before = {name: id(p) for name, p in model.named_parameters()}
    net = ms.Supernet(model, input_shape=(3, 8, 8))
    assert net.model is model
    assert {name: id(p) for name, p in net.model.named_parameters()} == before


def test_a_module_can_be_wrapped_twice():
    model, x = tiny(4, 3), images()
    one, two = ms.Supernet(model), ms.Supernet(model)
    arch = one.space.smallest
    assert torch.equal(one(x, arch), two(x, arch))
    assert description(one.space) == description(two.space)


def test_a_choice_may_be_the_whole_network():
    net, x = ms.Supernet(ms.nn.Choice([nn.ReLU(), nn.Identity()]), input_shape=(2,)), torch.ones(1)
    assert [d.name for d in net.space.decisions] == ["decision"]
    assert torch.equal(net(-x, (1,)), -x) and torch.equal(net(-x, (0,)), 0 * x)
    assert type(net.extract((1,))) is nn.Identity


def test_any_input_and_output_structure():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ms.nn.Linear(3, ms.choose((2, 4), "w"))

        def forward(self, x, n=1, *, more=None):
            return {"y": self.fc(x["x"] if isinstance(x, dict) else x), "n": n, "more": more}

    net, x = ms.Supernet(Net()), torch.randn(2, 3)
    out = net({"x": x, "n": 7, "more": [3]}, (0,))  # by keyword
    assert (out["y"].shape, out["n"], out["more"]) == ((2, 2), 7, [3])
    out = net((x, 5), (0,))  # by position
    assert (out["y"].shape, out["n"]) == ((2, 2), 5)
    out = net(({"x": x},), (1,))  # one argument that is a dict
    assert (out["y"].shape, out["n"]) == ((2, 4), 1)
