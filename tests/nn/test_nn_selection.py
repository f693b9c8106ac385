"""The active selection: where it comes from, where it ends, and who sees it."""

import threading

import pytest
import torch
from nn_nets import archs, images, make
from torch import nn
from torch.utils.checkpoint import checkpoint as torch_checkpoint

import manyshot as ms


def test_a_layer_without_selection_raises_and_names_itself_and_the_way_out():
    net = make("nasty")
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(RuntimeError, match=r"Conv2d stem\.0 .*net\(images, arch\).*ms\.nn\.check"):
        net.model.stem(x)
    with pytest.raises(RuntimeError, match=r"Choice op has no active selection"):
        net.model.op(x)
    with pytest.raises(RuntimeError, match=r"Depth tail has no active selection"):
        net.model.tail(x)
    with pytest.raises(RuntimeError, match=r"Parameter position has no active selection"):
        net.model.position()
    with pytest.raises(RuntimeError, match=r"Linear \(not in a Supernet yet\)"):
        ms.nn.Linear(3, ms.choose((1, 2)))(x)
    with pytest.raises(RuntimeError, match=r"BatchNorm1d post .*no active selection"):
        net.eval().model.post(torch.randn(2, 10))


def test_value_outside_a_forward_raises():
    with pytest.raises(RuntimeError, match=r"ms\.value\(.*width.*net\(images, arch\)"):
        ms.value(ms.choose((1, 2), "width") * 2)


def test_value_passes_numbers_and_names():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.kind = ms.choose(("plain", "relu"), "kind")
            self.scale = ms.choose((0.5, 2.0), "scale")

        def forward(self, x):
            x = x * ms.value(self.scale) * ms.value(3)
            return torch.relu(x) if ms.value(self.kind) == "relu" else x

    net, x = ms.Supernet(Net()), torch.tensor([-1.0])
    for arch, expected in {(0, 0): -1.5, (0, 1): -6.0, (1, 1): 0.0}.items():
        assert net(x, arch).item() == expected == net.extract(arch)(x).item()


def test_an_exception_inside_a_forward_resets_the_selection():
    class Bad(nn.Module):
        def forward(self, x):
            raise KeyError("inside")

    net = ms.Supernet(nn.Sequential(ms.nn.Linear(3, ms.choose((1, 2), "w")), Bad()))
    with pytest.raises(KeyError, match="inside"):
        net(torch.randn(2, 3), (0,))
    with pytest.raises(RuntimeError, match="no active selection"):
        net.model[0](torch.randn(2, 3))


def test_selecting_makes_stages_callable_and_ends():
    net, x = make("tiny"), images(2)
    arch = net.space.smallest
    with net.selecting(arch) as selection:
        assert selection.arch == arch
        y = x
        for stage in net.model.stages():
            y = stage(y)
    assert torch.equal(y, net(x, arch))
    with pytest.raises(RuntimeError, match="no active selection"):
        net.model(x)


def test_nested_forwards_restore_the_outer_architecture():
    net, x = make("tiny"), images(2)
    a, b = net.space.smallest, net.space.largest
    with net.selecting(a):
        outer = net.model(x)
        inner = net(x, b)
        assert torch.equal(net.model(x), outer)
    assert torch.equal(inner, net(x, b)) and not torch.equal(inner, outer)


def test_threads_with_different_architectures_do_not_mix():
    net, x = make("nasty"), images(4)
    chosen = archs(net, 2)[:2]
    expected = [net(x, arch) for arch in chosen]
    barrier, wrong = threading.Barrier(2), []

    def meet(*_):
        barrier.wait(10)

    hook = net.model.stem.register_forward_hook(meet)

    def run(i):
        for _ in range(10):  # both wait for each other in the middle of every forward
            if not torch.equal(net(x, chosen[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    hook.remove()
    assert not torch.equal(*expected) and not wrong


def test_a_new_thread_starts_without_a_selection():
    net, errors = make("tiny"), []

    def run():
        try:
            net.model(images(1))
        except RuntimeError as error:
            errors.append(str(error))

    with net.selecting(net.space.largest):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert len(errors) == 1 and "no active selection" in errors[0]


@pytest.mark.parametrize("name", ["tiny", "nasty"])
def test_the_order_of_calls_does_not_matter(name):
    net, x = make(name), images(4)
    chosen = archs(net, 4)
    forwards = {arch: net(x, arch) for arch in chosen}
    for arch in reversed(chosen):
        assert torch.equal(net(x, arch), forwards[arch])
    assert torch.equal(net(x), net(x, net.space.largest))


class Checkpointed(nn.Module):
    """A stem, then a body that is run by `run(body, x)`."""

    def __init__(self, run):
        super().__init__()
        width = ms.choose((4, 6, 8), "width")
        self.stem = ms.nn.Conv2d(3, width, 3, padding=1)
        self.op = ms.nn.Choice(
            {
                "skip": nn.Identity(),
                "block": nn.Sequential(
                    ms.nn.Conv2d(width, width, 3, padding=1), ms.nn.BatchNorm2d(width), nn.Tanh()
                ),
            },
            "op",
        )
        self.run = run

    def forward(self, x):
        return self.run(self.op, self.stem(x))


def made(run):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ms.Supernet(Checkpointed(run))


def gradients(net, *, change):
    x = images(2)
    loss = net(x, (1, 1)).square().sum()
    if change:
        net(x, (2, 0))
    loss.backward()
    return {name: p.grad for name, p in net.named_parameters()}


@pytest.mark.parametrize("change", [False, True])
def test_checkpointed_gradients_equal_plain_ones_exactly(change):
    expected = gradients(made(lambda fn, x: fn(x)), change=False)
    got = gradients(made(ms.nn.checkpoint), change=change)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in expected.values())
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_the_checkpoint_does_recompute():
    calls = []
    net = made(ms.nn.checkpoint)
    net.model.op.options["block"].register_forward_pre_hook(lambda *_: calls.append(1))
    net(images(2), (0, 1)).sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize("reentrant", [False, True])
def test_plain_checkpoint_raises_in_the_recomputation(reentrant):
    net = made(lambda fn, x: torch_checkpoint(fn, x, use_reentrant=reentrant))
    loss = net(images(2), (1, 1)).sum()
    with pytest.raises(RuntimeError, match=r"op.*no active selection.*ms\.nn\.checkpoint"):
        loss.backward()


def test_plain_checkpoint_raises_even_while_no_choice_but_only_elastic_layers_are_recomputed():
    net = made(lambda fn, x: torch_checkpoint(fn, x, use_reentrant=False))
    option = net.model.op.options["block"]
    net.model.run = lambda fn, x: torch_checkpoint(option, x, use_reentrant=False)
    loss = net(images(2), (1, 0)).sum()
    with pytest.raises(RuntimeError, match=r"Conv2d op\.options\.block\.0 has no active"):
        loss.backward()


def test_checkpoint_carries_the_arguments_and_works_without_a_network():
    x = torch.randn(3, requires_grad=True)
    y = ms.nn.checkpoint(lambda a, *, by: a * by, x, by=3)
    y.sum().backward()
    assert x.grad.tolist() == [3, 3, 3]


def test_a_checkpointed_network_extracts():
    net, x = made(ms.nn.checkpoint), images(2)
    subnet = net.extract((1, 1))
    subnet(x).square().sum().backward()
    expected = gradients(net, change=False)
    small = subnet.op[0].weight.grad
    assert torch.equal(small, expected["model.op.options.block.0.weight"][:6, :6])
