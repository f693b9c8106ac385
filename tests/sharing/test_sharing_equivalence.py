"""K copies under uniform codes are one copy, at another rate unless compensated (T7)."""

import functools

import numpy as np
import pytest
import torch
from sharing_nets import ConvNorm, k_shot, seeded
from torch.nn import functional as F

import manyshot as ms
from manyshot.sharing.dictionary import rows
from manyshot.train.optim import decay_groups

LR, DECAY = 0.05, 1e-2


def split_groups(net, names, divisor):
    """Groups by role, those of `names` at LR / divisor and divisor · decay, others as they are."""
    chosen = {id(p) for n, p in net.named_parameters() if n in names}
    groups = []
    for group in decay_groups(net, DECAY):
        for factor, own in ((divisor, True), (1, False)):
            parameters = [p for p in group["params"] if (id(p) in chosen) == own]
            decay = group["weight_decay"] * factor
            groups.append({"params": parameters, "lr": LR / factor, "weight_decay": decay})
    return groups


def run_pair(make, shape, steps, copies, momentum, batch, *, compensate, scope="path"):
    """The largest difference between one copy and the mean slice, after training both."""
    uniform = {"codes": "uniform"} if scope == "path" else {"last_std": 0.0, "code_scope": scope}
    many = k_shot(make, copies, compensate=compensate, **uniform).double()
    one = seeded(lambda: ms.Supernet(make())).double()
    stacked = {id(p) for p in rows(many)}
    names = {n for n, p in many.named_parameters() if id(p) in stacked}

    def mean(name, tensor):
        return tensor.mean(0) if name in names else tensor

    def of_model():
        return {n: t for n, t in many.state_dict().items() if n.startswith("model.")}

    one.load_state_dict({n: mean(n, t) for n, t in of_model().items()})
    assert any(not torch.equal(t[0], t[1]) for n, t in of_model().items() if n in names)
    optimizers = (
        torch.optim.SGD(decay_groups(many, DECAY), LR, momentum, nesterov=True),
        torch.optim.SGD(
            split_groups(one, names, 1 if compensate else copies), LR, momentum, nesterov=True
        ),
    )
    rng = np.random.default_rng(0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        arch = many.space.sample(rng)
        images = torch.randn((batch, *shape), generator=generator, dtype=torch.float64)
        labels = torch.randint(10, (batch,), generator=generator)
        for net, optimizer in zip((many, one), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(net(images, arch, phase="weights"), labels).backward()
            optimizer.step()
    own = one.state_dict()
    return max(float((own[n] - mean(n, t)).abs().max()) for n, t in of_model().items())


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("copies", [2, 4])
def test_macro_for_ten_steps(copies, compensate):
    make = functools.partial(ms.zoo.macro, width=4, channels=1)
    assert run_pair(make, (1, 16, 16), 10, copies, 0.9, 16, compensate=compensate) < 1e-13


@pytest.mark.parametrize("compensate", [False, True])
def test_a_uniform_code_per_channel_is_one_copy_too(compensate):
    options = {"compensate": compensate, "scope": "channel"}
    assert run_pair(ConvNorm, (1, 8, 8), 20, 4, 0.9, 8, **options) < 1e-13


@pytest.mark.parametrize("compensate", [False, True])
def test_convolutions_with_batch_norm_for_300_steps(compensate):
    assert run_pair(ConvNorm, (1, 8, 8), 300, 4, 0.9, 8, compensate=compensate) < 1e-12


def test_differences_between_slices_do_not_change_without_decay():
    """All slices get one gradient, so that warming up cannot tell them apart."""
    net = k_shot(ConvNorm, 3).double()
    stack = net.model.layers[0].options["1"][0]._parameters["weight"]
    before = (stack[0] - stack[1]).detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for _ in range(5):
        optimizer.zero_grad(set_to_none=True)
        net(torch.randn(4, 1, 8, 8).double(), (1, 1), phase="warmup").square().sum().backward()
        optimizer.step()
    torch.testing.assert_close((stack[0] - stack[1]).detach(), before, rtol=1e-12, atol=1e-12)


def test_equal_slices_begin_as_one_copy_and_paths_pull_them_apart():
    net = k_shot(ConvNorm, 3, start="equal").double()
    one = seeded(lambda: ms.Supernet(ConvNorm())).double()
    archs = [(0, 0), (1, 1), (1, 0)]
    codes = net.sharing.code(archs).detach()
    assert float(codes.std(0).mean()) > 0.05  # apart from the start, not within 0.01 of uniform
    assert [net.sharing.phase(step, 100) for step in range(9)] == ["weights"] * 7 + ["code"] + [
        "weights"
    ]
    images = torch.randn((8, 1, 8, 8), dtype=torch.float64)
    labels = torch.randint(10, (8,))
    for arch in archs:
        torch.testing.assert_close(net(images, arch), one(images, arch), rtol=1e-12, atol=1e-12)
    optimizer = torch.optim.SGD(rows(net), 0.1)
    for arch in archs:
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images, arch, phase="weights"), labels).backward()
        optimizer.step()
    stack = net.model.layers[0].options["1"][0]._parameters["weight"]
    assert not any(torch.equal(stack[0], other) for other in stack[1:])


@pytest.mark.parametrize("codes", ["learnt", "random", "one_hot"])
def test_one_copy_trains_before_equal_slices_inherit_it(codes):
    """For the warm-up every slice is a plain copy that a loop of its own trains, then they part."""
    net = k_shot(ConvNorm, 2, codes=codes, start="equal", warm_frac=0.4).double()
    one = seeded(lambda: ms.Supernet(ConvNorm())).double()
    optimizers = [
        torch.optim.SGD(decay_groups(own, DECAY, codes_of), LR, 0.9)
        for own, codes_of in ((one, []), (net, list(net.sharing.parameters())))
    ]
    stacked = {id(p) for p in rows(net)}
    phases = [net.sharing.phase(step, 10) for step in range(10)]
    assert phases[:5] == ["warmup"] * 4 + ["weights"]
    assert "warmup" not in phases[4:]
    for step, arch in enumerate([(0, 0), (1, 0), (1, 1), (0, 1), (1, 1)]):
        inherited = one.state_dict()
        for name, tensor in net.state_dict(keep_vars=True).items():
            for part in tensor.detach() if id(tensor) in stacked else [tensor.detach()]:
                if not name.startswith("sharing."):
                    torch.testing.assert_close(part, inherited[name], rtol=1e-12, atol=1e-13)
        generator = torch.Generator().manual_seed(step)
        images = torch.randn((8, 1, 8, 8), dtype=torch.float64, generator=generator)
        labels = torch.randint(10, (8,), generator=generator)
        for own, optimizer in zip((one, net), optimizers, strict=True):
            optimizer.zero_grad(set_to_none=True)
            phase = {"phase": phases[step]} if own is net else {}
            F.cross_entropy(own(images, arch, **phase), labels).backward()
            optimizer.step()
    stack = net.model.layers[1].options["1"][0]._parameters["weight"]
    assert not torch.equal(stack[0], stack[1])


def test_the_warm_up_has_a_default_for_every_start():
    shares = {
        ("learnt", "independent"): 0.05,
        ("learnt", "equal"): 0.0,
        ("one_hot", "independent"): 0.0,
        ("random", "equal"): 0.0,
    }
    for (codes, start), share in shares.items():
        assert ms.sharing.KShot(2, codes=codes, start=start).warm_frac == share
    assert ms.sharing.KShot(2, codes="uniform").phase(0, 10) == "weights"
