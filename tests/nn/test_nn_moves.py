"""What a training step moves, and what it leaves alone bit for bit."""

import pytest
import torch
from nn_nets import images, make
from torch import nn

import manyshot as ms
from manyshot.nn.structure import parameter_uses


def step(net, optimizer, arch, *, zeros=False):
    optimizer.zero_grad(set_to_none=not zeros)
    if zeros:
        for parameter in net.parameters():
            parameter.grad = torch.zeros_like(parameter)
    net(images(8), arch).square().sum().backward()
    optimizer.step()


def off_path(net, arch):
    """Names of the parameters that `arch` does not use."""
    option = dict(zip(net.space.decisions, arch, strict=True))
    names = {id(p): name for name, p in net.named_parameters()}
    return {
        names[id(parameter)]
        for parameter, uses in parameter_uses(net.model)
        if not any(all(option[d] in allowed for d, allowed in use) for use, _ in uses)
    }


def trained(*, zeros):
    """The network before and after steps on B, when A had been trained before."""
    net = make("nasty").train()
    a = (2, 1, 1, 0, 1, 2)
    b = (0, 0, 0, 0, 0, 0)
    assert net.space.choices(a)["op"] == "inverted" and net.space.choices(b)["op"] == "skip"
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    for _ in range(2):  # fills the momentum of everything on A
        step(net, optimizer, a)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    for _ in range(3):
        step(net, optimizer, b, zeros=zeros)
    return net, before, off_path(net, b)


def test_parameters_off_the_path_do_not_move_and_have_no_gradient():
    net, before, off = trained(zeros=False)
    by_hand = ("model.op.options.inverted", "model.op.options.nested", "model.tail.blocks")
    assert off == {name for name, _ in net.named_parameters() if name.startswith(by_hand)}
    assert len(off) == 9 + 2 * 3 + 3 * 3
    for name, parameter in net.named_parameters():
        if name in off:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        else:
            assert not torch.equal(parameter, before[name]), name


def test_zero_filled_gradients_would_move_them():
    # The check above can fail: momentum and decay move what has a gradient of zero.
    net, before, off = trained(zeros=True)
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert off <= moved


@pytest.mark.parametrize("name", ["macro", "tiny"])
def test_options_off_the_path_have_no_gradient(name):
    net = make(name).train()
    arch = net.space.largest
    net(images(4), arch).sum().backward()
    choices = [m for m in net.modules() if isinstance(m, ms.nn.Choice)]
    assert len(choices) == len(net.space)
    for choice in choices:
        option = arch[net.space.index[choice.decision]]
        for k, body in enumerate(choice.options.values()):
            grads = [p.grad is not None for p in body.parameters()]
            assert grads == [k == option] * len(grads), choice.path


class Elastic(nn.Module):
    def __init__(self):
        super().__init__()
        width, kernel = ms.choose((4, 8), "width"), ms.choose((3, 5), "kernel")
        self.conv = ms.nn.Conv2d(3, width, kernel, padding=kernel // 2)
        self.norm = ms.nn.BatchNorm2d(width)
        self.free = ms.nn.Parameter((1, width, 1, 1), nn.init.ones_)
        self.fc = ms.nn.Linear(width, 5)

    def forward(self, x):
        return self.fc((self.norm(self.conv(x)) * self.free()).relu().mean((2, 3)))


def parts(net):
    """Each elastic tensor with a mask of the slice that the smallest architecture uses."""
    model, masks = net.model, {}
    for name, tensor in model.named_parameters():
        mask = torch.zeros_like(tensor, dtype=torch.bool)
        if name == "conv.weight":
            mask[:4, :, 1:4, 1:4] = True
        elif name == "fc.weight" or name == "free.weight":
            mask[:, :4] = True
        elif name == "fc.bias":
            mask[:] = True
        else:
            mask[:4] = True
        masks[name] = (tensor, mask)
    return masks


def test_the_unused_slice_has_gradient_zero_and_does_not_move_without_decay():
    net = ms.Supernet(Elastic(), input_shape=(3, 8, 8)).train()
    before = {name: p.detach().clone() for name, p in net.model.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    net(images(8), (0, 0)).square().sum().backward()
    optimizer.step()
    for name, (tensor, mask) in parts(net).items():
        assert (tensor.grad[~mask] == 0).all(), name
        assert torch.equal(tensor[~mask], before[name][~mask]), name
        if name != "conv.bias":  # batch norm takes it away again
            assert not torch.equal(tensor[mask], before[name][mask]), name


def test_the_unused_slice_moves_by_decay_as_in_once_for_all():
    net = ms.Supernet(Elastic()).train()
    before = net.model.conv.weight.detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    net(images(8), (0, 0)).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(net.model.conv.weight[4:], before[4:] * 0.95)


def test_gradients_of_two_paths_add_up():
    # One backward per path into the same gradients: the sum of the paths' own, in this order.
    def gradients(*paths):
        net = make("nasty").train()
        for path in paths:
            net(images(8), path).square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters()}

    a, b = (2, 1, 1, 0, 1, 2), (0, 0, 0, 1, 2, 0)
    first, second, both = gradients(a), gradients(b), gradients(a, b)
    for name, total in both.items():
        alone = [g[name] for g in (first, second) if g[name] is not None]
        if total is None:
            assert not alone
        else:  # a tied tensor has two additions per path, so the rounding may differ
            torch.testing.assert_close(total, sum(alone), rtol=1e-5, atol=1e-4)
