"""A training whose options run compiled: the same as one without, and refused where it cannot be.

Backends that make no code stand in for the compiler: "aot_eager" traces forward and backward as it
does, and runs torch's own operations; one test, which is slow, takes the real one.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from train_nets import LOOK, Dropping, digits, same, seeded, weights

import manyshot as ms
from compilers import needs_graphs
from kills import left_by_kills
from manyshot.nn.choice import Choice
from manyshot.nn.drop_path import Dropping as Rates
from manyshot.recipe import SupernetSettings
from manyshot.train import compiling

# Dynamo looks at the .grad of intermediate tensors and hides the warning, but not an error.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute", "ignore::DeprecationWarning"),
    needs_graphs,
]


@pytest.fixture(autouse=True)
def graphs(monkeypatch):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compiling, "BACKEND", counter)
    yield counter
    torch._dynamo.reset()


class Branch(nn.Module):
    """A residual branch of fixed size, with all that draws random numbers."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, kernel, padding=kernel // 2)
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.drop = ms.nn.DropPath(1.0)

    def forward(self, x):
        return x + self.drop(self.dropout(torch.relu(self.norm(self.conv(x)))))


def network():
    options = {f"k{kernel}": Branch(kernel) for kernel in (1, 3)}
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    choice = ms.nn.Choice({"skip": nn.Identity(), **options}, "one")
    return ms.Supernet(nn.Sequential(nn.Conv2d(1, 4, 3), choice, head))


def fitted(folder=None, make=network, **settings):
    told = {"epochs": 2, "batch_size": 32, "lr": 0.05, "drop_path": 0.3, "checkpoint_steps": 3}
    told = SupernetSettings(**{**told, "compile": True, **settings})
    net, growth = seeded(make), None
    if told.image_sizes:
        growth = ms.data.Growth(tuple(told.image_sizes), told.epochs)
    batches = ms.data.Batches(digits(110).train, 32, growth=growth, **LOOK)  # 14 left over
    sampler = ms.train.Fair(net.space) if isinstance(net, ms.Supernet) else None
    ms.fit(net, batches, settings=told, sampler=sampler, seed=3, folder=folder)
    return net


def test_weights_are_those_of_an_uncompiled_training(graphs):
    plain, net, again = fitted(compile=False), fitted(), fitted()
    assert not any(isinstance(m, Choice) and m.is_compiled for m in net.modules())
    assert same(weights(net), weights(again))
    # The same operations in the same order but for the batch norms' backward, which is decomposed:
    # a few roundings of 6e-8 a step, in six steps.
    for name, tensor in weights(net).items():
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=1e-4, atol=1e-5)
    # Two options, in two trainings, at one size of batches, of whose rest nothing is seen.
    assert graphs.frame_count == 4


def test_a_branch_that_is_left_out_now_and_then_is_compiled_with_and_without(graphs):
    net, images = network().train(), torch.randn(4, 1, 8, 8)
    dropping = Rates(net, 0.3)
    with compiling.compiled(net):
        for on in (True, False) * 3:
            dropping.turn(on)
            net(images, (2,))
    assert graphs.frame_count == 2


def test_killed_at_another_size_of_images_it_goes_on_to_the_same_end(tmp_path, graphs):
    sizes = {"epochs": 3, "image_sizes": [6, 7, 8], "checkpoint_seconds": 1e9}
    left = left_by_kills(tmp_path / "whole", lambda: fitted(tmp_path / "whole", **sizes))
    count = graphs.frame_count
    assert count == 6  # for each size another: what was compiled before changes nothing
    whole = fitted(tmp_path / "whole", **sizes)
    halfway = [copy for name, copy in left if name == "trainer.pt"][0]
    torch._dynamo.reset()
    assert same(weights(fitted(halfway, **sizes)), weights(whole))
    assert graphs.frame_count == count + 4


def test_autocast_is_part_of_what_is_compiled():
    plain, net = (fitted(compile=by, precision="bf16") for by in (False, True))
    for name, tensor in weights(net).items():  # bfloat16 keeps 8 bits, in six steps
        torch.testing.assert_close(tensor, weights(plain)[name], rtol=0.02, atol=0.02)


def elastic():
    width = ms.choose((2, 4), "width")
    body = nn.Sequential(ms.nn.Conv2d(1, width, 1), ms.nn.Conv2d(width, 1, 1))
    head = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    options = {"skip": nn.Identity(), "body": body}
    return ms.Supernet(nn.Sequential(ms.nn.Choice(options, "one"), head))


def compiled_by_hand():
    net = network()
    net.compile_options(backend="eager")
    return net


@pytest.mark.parametrize(
    ("make", "processes", "message"),
    [
        (elastic, 1, "compiles options of fixed size, and no choice block .* compile = false"),
        (lambda: nn.Linear(2, 2), 1, "this module is none: set compile = false, and compile it"),
        (network, 2, "is for one process, and 2 train together"),
        (compiled_by_hand, 1, r"net.compile_options\(\) was called already"),
        (
            lambda: ms.Supernet(Dropping(), sharing=ms.sharing.KShot(2)),
            1,
            "a K-shot supernet have other weights in every path.*or set compile = false",
        ),
    ],
)
def test_what_cannot_be_compiled_is_refused(make, processes, message):
    with pytest.raises(ValueError, match=message):
        compiling.check_compiling(make(), processes)
    if processes == 1:
        with pytest.raises(ValueError, match=message):
            fitted(make=make, drop_path=None)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="compile = true and shard = true were not tried"):
        SupernetSettings(compile=True, shard=True)
    with pytest.raises(ValueError, match="minutes = 3: how many epochs fit is measured by steps"):
        SupernetSettings(compile=True, minutes=3)


def test_after_an_error_options_run_uncompiled_again():
    net = network()
    with pytest.raises(ms.train.NonFiniteLoss):
        fitted(make=lambda: net, lr=1e30, epochs=9)
    assert not any(isinstance(m, Choice) and m.is_compiled for m in net.modules())


def broken(graph, inputs):
    raise RuntimeError("no g++ here")


def test_a_compiler_that_does_not_work_is_an_error_with_the_way_out(monkeypatch):
    compiling.try_compiler(torch.device("cpu"))
    monkeypatch.setattr(compiling, "BACKEND", broken)
    with pytest.raises(ValueError, match=r"fails on cpu here: .*no g\+\+ here\. Install .*g\+\+"):
        compiling.try_compiler(torch.device("cpu"))


@pytest.mark.slow
def test_the_real_compiler_gives_the_same_gradient(monkeypatch):
    monkeypatch.setattr(compiling, "BACKEND", "inductor")
    torch.manual_seed(0)
    net = network()
    images, arch = torch.randn(8, 1, 8, 8), (2,)
    net.model[1].options["k3"].dropout.p = 0.0  # whose numbers are others when compiled

    def gradients():
        net.zero_grad()
        net(images, arch).square().sum().backward()
        return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])

    net.train()
    expected = gradients()
    with compiling.compiled(net):
        given = gradients()
    assert (given - expected).abs().max() < 1e-5 * expected.abs().max()  # sums of 512, of 6e-8 each
