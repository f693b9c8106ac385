"""Stochastic depth beside torchvision's module at timm's rates, and where it has to be refused."""

import copy
import functools

import pytest
import torch
from torch import nn
from torchvision.ops import StochasticDepth
from train_nets import same, seeded, trainer, weights

import manyshot as ms
from manyshot.nn.agreement import check_agreement
from manyshot.nn.drop_path import Dropping, branches
from manyshot.train import Standalone, train
from manyshot.train.optimisation import Optimisation
from manyshot.train.trainer import check_drops_largest
from small_zoo import SHAPE, small

RATE = 0.5


def seen(net: nn.Module, *args) -> torch.Tensor:
    images = torch.randn((16, *SHAPE), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return net(images, *args)


def by_torchvision(plain: nn.Module, rates: list[float]) -> nn.Module:
    """A copy in which the branches, in their order, are torchvision's at these rates."""
    plain = copy.deepcopy(plain)
    wanted = iter(rates)
    for module in plain.modules():
        if isinstance(getattr(module, "drop", None), ms.nn.DropPath):
            module.drop = StochasticDepth(next(wanted), "row")
    assert next(wanted, None) is None
    return plain.train()


@pytest.mark.parametrize("sharing", [None, ms.sharing.KShot(2, last_std=1.0)], ids=["one", "two"])
def test_a_path_drops_as_a_network_of_torchvision_does_at_timms_rates(sharing):
    net = seeded(lambda: ms.Supernet(small("tiny_vit"), sharing=sharing, input_shape=SHAPE))
    depth = [decision.name for decision in net.space.decisions].index("depth")
    arch = list(net.space.largest)
    arch[depth] -= 1
    arch = tuple(arch)
    in_supernet, alone = torch.linspace(0, RATE, 5).tolist(), torch.linspace(0, RATE, 4).tolist()
    plain = net.extract(arch)

    Dropping(net, RATE).turn(True)
    net.train()
    path = seen(net, arch)
    torch.testing.assert_close(path, seen(by_torchvision(plain, in_supernet[:4])), atol=0, rtol=0)
    assert not torch.equal(path, seen(by_torchvision(plain, [0.0] * 4)))

    net.eval()
    assert torch.equal(seen(net, arch), seen(net.extract(arch).eval()))

    Dropping(plain, RATE).turn(True)  # as when a winner is finished
    dropped = seen(plain.train())
    torch.testing.assert_close(dropped, seen(by_torchvision(plain, alone)), atol=0, rtol=0)


def test_every_residual_branch_of_the_zoo_can_be_left_out():
    for name, count in (("macro", 10), ("mbv2_se", 12), ("tiny_cnn", 4), ("convnet", 6)):
        found = branches(small(name))
        assert len(found) == count
        assert max(branch.share for branch in found) == 1
    for name in ("bignas", "attentivenas", "tiny_vit", "autoformer"):
        net = small(name)
        held = [m for m in net.modules() if getattr(m, "drop", None) is not None]
        assert {m.drop for m in held if m.drop.share} == set(branches(net)) != set()
    for name in ("tiny", "cell", "shufflenet"):
        with pytest.raises(ValueError, match="has none behind its first block: leave drop_path"):
            Dropping(small(name), 0.1)


vit = functools.partial(seeded, lambda: ms.Supernet(ms.zoo.tiny_vit(), input_shape=(1, 8, 8)))


def test_a_path_draws_for_its_blocks_and_full_masks_for_all():
    net = vit().train()
    drawn = []
    for branch in branches(net):
        branch.register_forward_hook(lambda *_: drawn.append(1))
    [depth] = [d for d in net.space.decisions if d.name == "depth"]
    smallest = net.space.smallest
    images = torch.randn((4, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    net(images, smallest)
    path = len(drawn)
    drawn.clear()
    masked = {"policy": {depth: torch.tensor([1.0, 0.0, 0.0], requires_grad=True)}}
    Dropping(net, RATE).turn(True)
    net(images, smallest, **masked)  # the first time it is compared with slices too
    drawn.clear()
    net(images, smallest, **masked)
    assert (path, len(drawn)) == (2 * 2, 2 * 4)  # of 3 and of 5 blocks, all but the first


def test_masks_and_slices_are_compared_without_dropping():
    """They draw for other branches, so that they would differ."""
    net = ms.Supernet(small("macro"), input_shape=SHAPE).train()
    Dropping(net, RATE).turn(True)
    images = torch.randn((4, *SHAPE), generator=torch.Generator().manual_seed(0))
    check_agreement(net, images, [(2, 1, 2, 1, 2, 1, 2, 1)])


def test_the_largest_alone_is_dropped_and_nothing_after_a_step():
    run = trainer(vit(), sampler="sandwich", epochs=1, optimizer="adamw")
    largest, last = run.net.space.largest, branches(run.net)[-1]
    taking = Optimisation(
        run.net,
        run.settings,
        run.optimisation.accelerator,
        weights=run.optimisation.weights,
        largest=largest,
        drop_path=RATE,
        drops=[largest],
        stream=(0, "step"),
        diverged=None,
    )
    rates: list[float] = []
    last.register_forward_hook(lambda *_: rates.append(last.rate))
    images, targets = next(iter(run.batches.from_step(0)))
    paths = [path.arch for path in run.plan().paths]
    taking.step(0, run.turns("weights", images, targets), "weights", 0.1)
    assert paths[0] == largest and paths.count(largest) == 1
    assert rates[:2] == [RATE, RATE]  # attention and MLP
    assert set(rates[2:]) <= {0.0}
    assert last.rate == 0


def test_a_sampler_without_the_largest_in_every_step_is_refused():
    run = trainer(vit())
    with pytest.raises(ValueError, match="and Uniform does not: take drop_path_for = 'all'"):
        check_drops_largest(run.plan(), run.net.space.largest, "Uniform")


def test_a_run_that_was_stopped_drops_the_same(tmp_path):
    settings = {"drop_path": RATE, "optimizer": "adamw", "lr": 1e-3}
    settings |= {"epochs": 1, "images": 64, "checkpoint_steps": 1}
    whole = trainer(vit(), **settings)
    train(whole)
    first = trainer(vit(), folder=tmp_path, **settings)
    first.optimisation.step, steps = counted(first.optimisation.step, 1), first.steps
    assert steps == 2
    with pytest.raises(KeyboardInterrupt):
        train(first)
    second = trainer(vit(), folder=tmp_path, **settings)
    train(second)
    assert same(weights(whole.net), weights(second.net))
    without = trainer(vit(), **{**settings, "drop_path": None})
    train(without)
    assert not same(weights(whole.net), weights(without.net))


def counted(step, most):
    """The step, which is interrupted after so many."""
    left = [most]

    def stepping(*args):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return step(*args)

    return stepping


def test_a_plain_network_without_a_branch_is_refused_by_name():
    net = Standalone(nn.Linear(64, 10))
    with pytest.raises(ValueError, match="drop_path = 0.1 .* and Linear has none"):
        Dropping(net, 0.1)
