"""The shape check at construction: what it finds, what it says, and that it leaves no trace."""

import numpy as np
import pytest
import torch
from nn_nets import INPUT, Nasty, same_snapshot, snapshot
from torch import nn

import manyshot as ms


def net(*options, **more):
    body = ms.nn.Choice(*options, **more)
    return nn.Sequential(nn.Conv2d(3, 4, 1), body)


def conv(out=4, stride=1, into=4):
    return nn.Conv2d(into, out, 3, stride, 1)


@pytest.mark.parametrize("first", [0, 1])
def test_options_of_other_channels_are_refused(first):
    options = {"four": conv(4), "six": conv(6)}
    if first:
        options = dict(reversed(options.items()))
    pattern = r"choice '1': its options disagree .*\(\(1, 4, 8, 8\),\)"
    with pytest.raises(ValueError, match=pattern) as error:
        ms.Supernet(net(options, "op"), input_shape=INPUT)
    assert "'four' gives (1, 4, 8, 8)" in str(error.value)
    assert "'six' gives (1, 6, 8, 8)" in str(error.value)


def test_options_of_other_resolution_are_refused():
    with pytest.raises(ValueError, match=r"'1' gives \(1, 4, 4, 4\)"):
        ms.Supernet(net([nn.Identity(), conv(4, stride=2)]), input_shape=INPUT)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_option_that_cannot_run_is_named(position):
    # Whichever option an architecture happens to choose, the broken one is named.
    options = [conv(), conv()]
    options.insert(position, conv(into=5))
    with pytest.raises(ValueError, match=rf"choice '1': option '{position}' cannot run on an inp"):
        ms.Supernet(net(options), input_shape=INPUT)


def test_a_broken_assertion_of_the_user_is_named_too():
    class Own(nn.Module):
        def forward(self, x):
            assert x.shape[1] == 5, "wants five"
            return x

    with pytest.raises(ValueError, match=r"option '1' cannot run .*wants five"):
        ms.Supernet(net([nn.Identity(), Own()]), input_shape=INPUT)


def test_nested_choices_inside_options_are_checked():
    # "plain" has no parameters to rank last, so that no architecture need choose "nested".
    inner = ms.nn.Choice({"a": conv(4), "b": conv(7)}, "inner")
    model = net({"plain": nn.Identity(), "nested": nn.Sequential(inner)}, "outer")
    with pytest.raises(ValueError, match=r"choice '1\.options\.nested\.0': its options disagree"):
        ms.Supernet(model, input_shape=INPUT)


def test_choices_inside_blocks_that_small_networks_drop_are_checked():
    bad = ms.nn.Choice([nn.Identity(), conv(5)], "bad")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ms.nn.Depth([conv(), bad], (1, 2), "depth"))
    with pytest.raises(ValueError, match=r"choice '1\.blocks\.1': its options disagree"):
        ms.Supernet(model, input_shape=INPUT)


def test_options_that_fit_only_some_widths_are_refused():
    width = ms.choose((4, 6), "width")
    op = ms.nn.Choice({"elastic": ms.nn.Conv2d(width, width, 1), "fixed": conv(4)}, "op")
    with pytest.raises(ValueError, match=r"option 'fixed' cannot run .*\(1, 6, 8, 8\)"):
        ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, width, 1), op), input_shape=INPUT)


def test_depths_that_change_the_shape_are_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), ms.nn.Depth([conv(), conv(4, 2)], (1, 2), "depth"))
    pattern = r"depth '1': its options disagree.*depth 1 gives \(1, 4, 8, 8\), depth 2 gives"
    with pytest.raises(ValueError, match=pattern):
        ms.Supernet(model, input_shape=INPUT)


def test_options_may_return_structures_and_keywords():
    class Pair(nn.Module):
        def __init__(self, cut):
            super().__init__()
            self.cut = cut

        def forward(self, x, *, also):
            return {"x": x[:, self.cut :], "all": [also]}

    class Net(nn.Module):
        def __init__(self, *cuts):
            super().__init__()
            self.op = ms.nn.Choice([Pair(cut) for cut in cuts], "op")

        def forward(self, x):
            return self.op(x, also=x)

    ms.Supernet(Net(1, 1), input_shape=INPUT)
    with pytest.raises(ValueError, match="its options disagree in shape"):
        ms.Supernet(Net(1, 2), input_shape=INPUT)


class Counting(nn.Module):
    """Writes its buffer in place and by assignment, makes tensors, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("other", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.other = self.other + x.mean()
        noise = torch.ones(1) * torch.rand(1) + torch.randn(x.shape)
        return self.drop(x) + noise * torch.rand((), device="cpu").item()


@pytest.mark.parametrize("wrong", [False, True])
def test_the_check_leaves_no_trace(wrong):
    norm = nn.BatchNorm2d(4, track_running_stats=False).eval()
    choice = ms.nn.Choice([Counting(), conv(5 if wrong else 4)], "op")
    model = nn.Sequential(nn.Conv2d(3, 4, 1), Counting(), norm, choice)
    before, state = snapshot(model), torch.get_rng_state()
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002
    if wrong:
        with pytest.raises(ValueError, match="disagree"):
            ms.Supernet(model, input_shape=INPUT)
    else:
        ms.Supernet(model, input_shape=INPUT)
    assert same_snapshot(snapshot(model), before)
    assert torch.equal(state, torch.get_rng_state())
    assert numpy_state == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert all(p.grad is None and p.device.type == "cpu" for p in model.parameters())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_shared_modules_and_tied_weights_are_restored():
    # What leaves meta tensors behind does so first in a module that is held twice.
    model = Nasty()
    pointers = {name: (id(p), p.data_ptr()) for name, p in model.named_parameters()}
    net = ms.Supernet(model, input_shape=INPUT)
    assert pointers == {name: (id(p), p.data_ptr()) for name, p in net.model.named_parameters()}
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    assert model.decode.weight is model.embed.weight and model.again is model.shared


def test_the_module_works_in_any_type():
    model = net([nn.Identity(), conv()]).to(torch.float64)
    assert ms.Supernet(model, input_shape=INPUT)(torch.randn(1, *INPUT).double()).shape[1] == 4


def test_without_an_input_shape_nothing_runs():
    ms.Supernet(net([conv(4), conv(6)]))
