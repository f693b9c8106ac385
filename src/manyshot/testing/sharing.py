"""The contract of a sharing scheme as tests: subclass, give one method, inherit the checks."""

from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor, nn

from manyshot.nn import Choice, Linear
from manyshot.sharing import Phase, Sharing
from manyshot.space import Arch, choose
from manyshot.supernet import Supernet
from manyshot.train.optimisation import held_by

RUN_STEPS = 40


class Subject(nn.Module):
    """A choice with a size inside, an elastic layer, batch norm, and layers that nothing holds."""

    def __init__(self) -> None:
        super().__init__()
        hidden, width = choose((2, 4), "hidden"), choose((3, 5), "width")
        self.stem = nn.Linear(6, 6)
        options = {
            "skip": nn.Identity(),
            "one": nn.Sequential(nn.Linear(6, 6, bias=False), nn.BatchNorm1d(6)),
            "two": nn.Sequential(Linear(6, hidden), nn.ReLU(), Linear(hidden, 6)),
        }
        self.op = Choice(options, "op")
        self.wide, self.head = Linear(6, width), Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, 6) to (B, 4)."""
        logits: Tensor = self.head(torch.relu(self.wide(self.op(self.stem(x)))))
        return logits


class SharingSuite:
    """Checks that every weight-sharing scheme must pass; use it with pytest.

    Subclass it (`class TestMine(SharingSuite)`) and define `make_sharing()`.
    """

    def make_sharing(self) -> Sharing:
        """A new scheme, the same every time."""
        raise NotImplementedError

    def net(self) -> Supernet:
        """A small supernet with the scheme, always the same."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return Supernet(Subject(), sharing=self.make_sharing(), input_shape=(6,))

    def images(self) -> Tensor:
        """The images of a batch, (8, 6)."""
        return torch.randn((8, 6), generator=torch.Generator().manual_seed(1))

    def archs(self, net: Supernet) -> list[Arch]:
        """All architectures of the small supernet."""
        return list(net.space.enumerate())

    def test_weights_are_a_function_of_the_settings(self) -> None:
        """The same scheme attached to the same network twice gives the same weights."""
        one, other = self.net().state_dict(), self.net().state_dict()
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)

    def test_names_of_the_model_stay(self) -> None:
        """State dicts have the names of the model, with a leading axis where there are copies."""
        net, plain = self.net(), Supernet(Subject())
        of_model = {n: t for n, t in net.state_dict().items() if n.startswith("model.")}
        assert of_model.keys() == plain.state_dict().keys()
        for name, tensor in plain.state_dict().items():
            assert of_model[name].shape in (tensor.shape, (net.sharing.copies, *tensor.shape)), name

    def test_extract_equals_the_path(self) -> None:
        """Plain modules, without a layer of `ms.nn`, give the same logits bit for bit."""
        net, images = self.net(), self.images()
        for arch in self.archs(net):
            subnet = net.extract(arch)
            assert torch.equal(net(images, arch), subnet(images)), arch
            assert not any(type(m).__module__.startswith("manyshot.nn") for m in subnet.modules())

    def test_a_kept_mixture_changes_nothing(self) -> None:
        """`net.mixture(arch)` gives what the forward makes itself, however often it is used."""
        net, images = self.net(), self.images()
        with torch.no_grad():
            for arch in self.archs(net):
                kept = net.mixture(arch)
                for _ in range(2):
                    assert torch.equal(net(images, arch, mixture=kept), net(images, arch))

    def test_forwards_change_nothing(self) -> None:
        """A forward leaves every weight, buffer and random stream as it is."""
        net = self.net()
        before, stream = copy.deepcopy(net.state_dict()), torch.get_rng_state()
        for arch in self.archs(net):
            net(self.images(), arch)
        assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
        assert torch.equal(torch.get_rng_state(), stream)

    def test_phases_are_known_and_move_something(self) -> None:
        """In a code step the code's own parameters get a gradient, in others those of the path."""
        net = self.net()
        codes = {id(parameter) for parameter in held_by(net.sharing.code_optimizer(0.1, 0.9))}
        phases = {net.sharing.phase(step, RUN_STEPS) for step in range(RUN_STEPS)}
        assert phases <= set(get_args(Phase))
        assert codes or not phases & {"code", "joint"}
        for phase in phases:
            net.zero_grad(set_to_none=True)
            net(self.images(), net.space.largest, phase=phase).square().sum().backward()
            moved = {id(p) for p in net.parameters() if p.grad is not None}
            assert bool(codes & moved) == (phase in ("code", "joint")), phase
            assert moved - codes or phase == "code", phase

    def test_what_a_path_does_not_use_has_no_gradient(self) -> None:
        """Parameters of options off the path keep `grad is None`."""
        net = self.net()
        arch = tuple(int(decision.name == "op") for decision in net.space.decisions)
        net(self.images(), arch, phase="weights").square().sum().backward()
        for name, parameter in net.model.named_parameters():
            off = "options" in name and not name.startswith("op.options.one")
            assert (parameter.grad is None) == off, name

    def test_aliases_compute_the_same(self) -> None:
        """Encodings that differ in inactive decisions alone have the same logits, bit for bit."""
        net, images = self.net(), self.images()
        for arch in self.archs(net):
            canonical = net.space.canonical(arch)
            assert torch.equal(net(images, arch), net(images, canonical))

    def test_a_copy_is_independent(self) -> None:
        """`deepcopy` computes the same; training it leaves the original alone."""
        net, images = self.net(), self.images()
        twin, arch = copy.deepcopy(net), net.space.largest
        expected = net(images, arch).detach()
        assert torch.equal(twin(images, arch), expected)
        optimizer = torch.optim.SGD(twin.parameters(), 0.5)
        twin(images, arch).square().sum().backward()
        optimizer.step()
        assert torch.equal(net(images, arch), expected)
        assert not torch.equal(twin(images, arch), expected)

    def test_state_dicts_restore(self) -> None:
        """Everything a path needs is in the state dict."""
        net, images = self.net(), self.images()
        rng = np.random.default_rng(0)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.add_(float(rng.normal()))
        other = self.net()
        other.load_state_dict(net.state_dict())
        for arch in self.archs(net):
            assert torch.equal(net(images, arch), other(images, arch))

    def test_what_is_watched_can_be_recorded(self) -> None:
        """What is watched are finite numbers by name, and concerns are words."""
        net = self.net()
        watched: dict[str, Any] = net.sharing.watch(net)
        assert all(np.isfinite(value) for value in watched.values())
        for step in (0, RUN_STEPS - 1):
            for kind, words in net.sharing.concerns(watched, step, RUN_STEPS).items():
                assert kind and words
