"""Training on the paths of a search: steps and their gradients, what moves, what comes back."""

import contextlib
import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from train_nets import CPU, LOOK, Dropping, digits, same, seeded, weights

import manyshot as ms
from manyshot.recipe import ShiftingSettings
from manyshot.train import NonFiniteLoss, TrainingSettings, engine
from manyshot.train.checkpoint import load_checkpoint, save_checkpoint
from manyshot.train.shifting import Shifter, schedule

A, B, C = (0, 1, 2, 3), (3, 2, 1, 0), (0, 2, 0, 1)
"""Paths of `tiny`; A and B share no option."""
MODES = ("per_step", "per_candidate", "per_generation")


class Wide(nn.Module):
    """A choice, and a width whose codes have a penalty."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 4, 6), "width")
        self.one, self.head = ms.nn.Linear(64, width), ms.nn.Linear(width, 10)
        self.op = ms.nn.Choice([nn.Linear(10, 10), nn.Linear(10, 10, bias=False)], "op")

    def forward(self, x):
        return self.op(torch.relu(self.head(torch.relu(self.one(x.flatten(1))))))


class Given(list):
    """Batches that are the same in every epoch; an exception in the place of one is raised."""

    from_step = ms.data.Batches.from_step

    def not_finite(self, step):
        return ()

    def epoch(self, epoch, start=0):
        for batch in self[start:]:
            if isinstance(batch, Exception):
                raise batch
            yield batch


def tiny(dtype=torch.float64, classes=10):
    return seeded(lambda: ms.Supernet(ms.zoo.tiny(width=3, classes=classes)).to(dtype))


def dropping(dropout=0.0):
    return seeded(lambda: ms.Supernet(Dropping(dropout)).double())


def k_shot(make=lambda: Dropping(0.0), **options):
    usual = {"optimizer": "sgd"} if options.get("codes", "learnt") == "learnt" else {}
    sharing = ms.sharing.KShot(3, **{"seed": 1, **usual, **options})
    return seeded(lambda: ms.Supernet(make(), sharing=sharing).double())


NETS = pytest.mark.parametrize("make", [tiny, dropping, k_shot], ids=["tiny", "dropping", "k_shot"])


def head_of(net):
    last = net.model.head if hasattr(net.model, "head") else net.model.chain[-1][-1]
    return list(last.parameters())


def shifter(net, batches=None, *, seed=5, trained=(0.1, 0.9), head=(), **settings):
    """Over four batches an epoch, from epoch 3, with momentum and decay that show."""
    dtype = next(net.parameters()).dtype
    own = batches or ms.data.Batches(digits().train, 32, dtype=dtype, **LOOK)
    how = ShiftingSettings(**{"batch_size": 32, "lr": 0.05, "weight_decay": 0.1, **settings})
    return Shifter(net, own, how, seed, engine(CPU, TrainingSettings()), 3, trained, head)


def stream_of(run):
    return itertools.chain.from_iterable(run.batches.epoch(epoch) for epoch in itertools.count(3))


def sgd(net, lr=0.05, head_lr=None):
    """Of all but codes: weight matrices and kernels decay; the head may have a rate of its own."""
    own = set() if head_lr is None else {id(p) for p in head_of(net)}
    norms = [m for m in net.modules() if isinstance(m, ms.nn.BatchNorm2d)]
    free = {id(p) for norm in norms for p in norm.parameters()}
    groups = []
    for name, p in net.named_parameters():
        if not name.startswith("sharing."):
            decay = 0.0 if id(p) in free or name.endswith("bias") else 0.1
            rate = head_lr if id(p) in own else lr
            groups.append({"params": [p], "lr": rate, "weight_decay": decay})
    return torch.optim.SGD(groups, lr, 0.9, nesterov=True)


def by_hand(net, optimizers, steps, stream, *, phase=None, clip=None):
    """Plain autograd: each step follows the gradient of the mean of its losses. The mean loss."""
    parameters, losses = [p for p in net.parameters() if p.requires_grad], []
    for archs in steps:
        own = [
            F.cross_entropy(net(images, arch, phase=phase), labels)
            for arch, (images, labels) in zip(archs, stream, strict=False)
        ]
        penalty = net.sharing.penalty(archs) if phase == "joint" else None
        total = torch.stack(own).mean() + (0 if penalty is None else penalty)
        grads = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        if clip is not None:
            assert nn.utils.clip_grad_norm_(parameters, clip) > clip  # so that it matters
        for optimizer in optimizers:
            optimizer.step()
        losses += [loss.item() for loss in own]
    return float(np.mean(losses))


def assert_close(net, other):
    """Up to float64 roundings, seen as 1e-16 of weights below 2: sums may have other orders."""
    torch.testing.assert_close(weights(net), weights(other), rtol=1e-11, atol=1e-13)


def moved(net, before):
    """The tensors that are not what they were, bit for bit, by name."""
    return {name for name, tensor in weights(net).items() if not torch.equal(tensor, before[name])}


@given(st.integers(1, 8), st.integers(1, 8))
def test_every_mini_batch_of_every_candidate_occurs_once(candidates, batches):
    visits = [tuple((i, s) for s in range(batches)) for i in range(candidates)]
    everything = sorted(path for visit in visits for path in visit)
    each, own, rounds = (schedule(update, visits) for update in MODES)
    for steps in (each, own, rounds):
        assert sorted(path for step in steps for path in step) == everything
    assert each == [[path] for path in everything]
    assert own == [[(i, s) for s in range(batches)] for i in range(candidates)]
    assert rounds == [[(i, s) for i in range(candidates)] for s in range(batches)]


@pytest.mark.parametrize("update", MODES)
def test_unequal_visits_and_unknown_updates_are_errors(update):
    with pytest.raises(ValueError, match=r"visits differ in length: \[1, 2\]"):
        schedule(update, [(A, A), (B,), (C, C)])
    with pytest.raises(ValueError, match="per_step, per_candidate or per_generation, got 'never'"):
        schedule("never", [(A,)])


@pytest.mark.parametrize(("update", "steps"), [*zip(MODES, (6, 3, 2), strict=True)])
def test_three_candidates_of_two_mini_batches(update, steps):
    """P * S, P and S steps, by all counts."""
    run, moves = shifter(dropping()), []
    run.optimisation.weights.register_step_post_hook(lambda *_: moves.append(1))
    for generation in (1, 2):
        run.shift(schedule(update, [((0, 0),) * 2, ((1, 1),) * 2, ((2, 0),) * 2]))
        assert (run.step, run.drawn) == (generation * steps, generation * 6)
        assert len(moves) == run.step


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize(
    ("update", "visits", "steps"),
    [
        ("per_step", [(A, A), (B, B)], [[A], [A], [B], [B]]),
        ("per_candidate", [(A,) * 3, (C,) * 3], [[A, A, A], [C, C, C]]),
        ("per_generation", [(A,), (B,), (C,)], [[A, B, C]]),
    ],
    ids=MODES,
)
def test_a_step_is_on_the_mean_gradient(update, visits, steps, clip):
    """Three generations, so that momentum of one path is there when another trains."""
    net, other = tiny(), tiny()
    run, optimizer = shifter(net, clip_norm=clip), sgd(other)
    stream = stream_of(run)
    for _ in range(3):
        loss = run.shift(schedule(update, visits))
        expected = by_hand(other, [optimizer], steps, stream, clip=clip)
        assert loss == pytest.approx(expected, rel=1e-11)
    assert_close(net, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_order_in_a_step_does_not_matter_and_that_of_steps_does(dtype):
    """A sum of three terms in another order: a few roundings of numbers below 2."""
    ends = {}
    orders = list(itertools.permutations(range(3)))
    for order, together in itertools.product(orders, (True, False)):
        run = shifter(tiny(dtype))
        batches = list(run.batches.epoch(0))
        parts = [((A, B, C)[i], *batches[i]) for i in order]
        with torch.random.fork_rng():
            for taken in ([parts] if together else [[part] for part in parts]) * 2:
                run.take(taken, len(taken))
        ends[order, together] = nn.utils.parameters_to_vector(run.net.parameters()).detach()
    for one, other in itertools.combinations(orders, 2):
        tolerance = 1e-12 if dtype == torch.float64 else 1e-6
        assert (ends[one, True] - ends[other, True]).abs().max() <= tolerance
        assert (ends[one, False] - ends[other, False]).abs().max() > 1e-2


def in_options(net, arch):
    """The parameters in the options of a path of `tiny`, by name."""
    taken = [d.options[i] for d, i in zip(net.space.decisions, arch, strict=True)]
    names = [n for n, _ in net.named_parameters() if ".options." in n]
    layers = [int(n.split("chain.")[1].split(".")[0]) - 1 for n in names]
    return {n for n, i in zip(names, layers, strict=True) if f".options.{taken[i]}." in n}


@pytest.mark.parametrize("settings", [{}, {"optimizer": "adamw", "lr": 0.01}], ids=str)
@pytest.mark.parametrize("update", MODES)
def test_options_that_are_not_visited_do_not_move(update, settings):
    """Bit for bit, with weight decay on, and with momentum of steps before or without."""
    run = shifter(tiny(), **settings)
    for arch in (A, B, A):
        before = weights(run.net)
        run.shift(schedule(update, [(arch, arch)] * 2))
        options = {name for name in moved(run.net, before) if ".options." in name}
        assert options == in_options(run.net, arch)


def test_gradients_of_zero_would_move_them():
    """What the test above must see: momentum and decay act where a gradient is 0, not None."""
    run = shifter(tiny())
    run.shift([[A]])
    before, own = weights(run.net), in_options(run.net, A)
    for parameter in map(run.net.get_parameter, own):
        parameter.grad = torch.zeros_like(parameter)
    run.shift([[B]])
    assert own <= moved(run.net, before)


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("freeze", [False, True])
def test_all_else_comes_back_as_it_was(freeze, broken):
    """Modes, which parameters need a gradient, and torch's randomness; also after an error."""
    net = dropping(0.3).train()
    net.model.dropout.eval()
    fixed = net.model.two.options["a"].weight.requires_grad_(False)
    before = fixed.clone(), [m.training for m in net.modules()], torch.get_rng_state()
    parameters = list(net.parameters())
    needed = [p.requires_grad for p in parameters]
    batch = next(shifter(net).batches.epoch(0))
    batches = Given([batch, OSError("a disk is gone") if broken else batch])
    run, seen = shifter(net, batches, head=head_of(net), freeze_body=freeze), []
    net.model.dropout.register_forward_hook(
        lambda module, *_: seen.append((module.training, [p.requires_grad for p in parameters]))
    )
    with pytest.raises(OSError, match="a disk") if broken else contextlib.nullcontext():
        run.shift([[(0, 0)], [(0, 0)]])
    assert torch.equal(fixed, before[0])
    assert [m.training for m in net.modules()] == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert [p.requires_grad for p in parameters] == needed
    assert all(p.grad is None for p in parameters)
    own = [any(p is q for q in head_of(net)) for p in parameters]
    assert seen == [(True, own if freeze else needed)] * (1 if broken else 2)


@NETS
@pytest.mark.parametrize(("freeze", "head_lr"), [(True, None), (True, 0.3), (False, 0.3)])
def test_a_head_moves_alone_or_at_its_own_rate(make, freeze, head_lr):
    """Learnt codes are part of a body that is frozen."""
    net, other = make(), make()
    run = shifter(net, head=head_of(net), freeze_body=freeze, head_lr=head_lr, codes=freeze)
    before, big = weights(net), net.space.largest
    for _ in range(2):
        run.shift([[big], [big, big]])
    optimizer = sgd(other, 0.0 if freeze else 0.05, head_lr or 0.05)
    by_hand(other, [optimizer], [[big], [big, big]] * 2, stream_of(run), phase="weights")
    assert_close(net, other)
    if freeze:
        assert {net.get_parameter(name) for name in moved(net, before)} == {*head_of(net)}


def test_a_head_apart_must_be_given():
    for settings in ({"freeze_body": True}, {"head_lr": 0.1}):
        with pytest.raises(ValueError, match="moves alone, or at its own rate, needs head="):
            shifter(tiny(), **settings)


@pytest.mark.parametrize("options", [{}, {"lr": 0.02}, {"lr": 0.02, "optimizer": "adam"}], ids=str)
@pytest.mark.parametrize("make", [lambda: Dropping(0.0), Wide], ids=["options", "widths"])
def test_codes_move_with_the_weights(make, options):
    """At the rate they had relative to that of the weights in training: 0.02 / 0.2, or as much."""
    net, other = k_shot(make, **options), k_shot(make, **options)
    run, before = shifter(net, trained=(0.2, 0.7)), weights(net)
    assert run.phase == "joint"
    rate, codes = 0.05 * options.get("lr", 0.2) / 0.2, list(other.sharing.parameters())
    sigma = torch.optim.SGD(codes, rate, 0.7, nesterov=True)
    if "optimizer" in options:
        sigma = torch.optim.Adam(codes, rate)
    steps = [[(0, 0)], [(2, 1), (1, 0)]]
    assert (net.sharing.penalty(steps[1]) is not None) == (make is Wide)
    for _ in range(2):
        run.shift(steps)
    by_hand(other, [sgd(other), sigma], steps * 2, stream_of(run), phase="joint")
    assert_close(net, other)
    assert {name for name in before if name.startswith("sharing.")} <= moved(net, before)


@pytest.mark.parametrize("codes", ["not moved", "uniform", "random", "one_hot"])
def test_fixed_codes_stay_bit_for_bit(codes):
    options, settings = ({}, {"codes": False}) if codes == "not moved" else ({"codes": codes}, {})
    net, other = k_shot(**options), k_shot(**options)
    run, before, steps = shifter(net, **settings), weights(net), [[(0, 0)], [(2, 1), (1, 0)]]
    assert run.phase == "weights"
    run.shift(steps)
    by_hand(other, [sgd(other)], steps, stream_of(run), phase="weights")
    assert_close(net, other)
    assert not any(name.startswith("sharing.") for name in moved(net, before))


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tiny, {"optimizer": "adamw", "lr": 0.01}),
        (lambda: dropping(0.3), {}),
        (lambda: k_shot(Dropping, optimizer="adam"), {}),
    ],
    ids=["adamw", "dropout", "k_shot"],
)
def test_saved_after_two_of_four_generations(make, settings, tmp_path):
    """Three mini-batches each, of four an epoch: saved inside the second, which then ends."""
    whole, half, resumed = (shifter(make(), **settings) for _ in range(3))
    steps = [[whole.net.space.sample(np.random.default_rng(i))] for i in range(3)]
    losses = [whole.shift(steps) for _ in range(4)]
    half.shift(steps)
    half.shift(steps)
    save_checkpoint(tmp_path / "shifting.pt", half.state_dict())
    resumed.load_state_dict(load_checkpoint(tmp_path / "shifting.pt"))
    assert (resumed.step, resumed.drawn) == (6, 6)
    assert [resumed.shift(steps) for _ in range(2)] == losses[2:]
    assert same(weights(resumed.net), weights(whole.net))
    assert (resumed.step, resumed.drawn) == (whole.step, whole.drawn) == (12, 12)


def test_dropout_is_drawn_from_the_seed_and_the_step_alone():
    """On one batch, at a rate that changes nothing, only what is dropped tells losses apart."""
    batch = next(shifter(dropping()).batches.epoch(0))
    losses = {}
    for seed, caller in ((5, 0), (5, 1), (6, 0)):
        run = shifter(dropping(0.3), Given([batch]), seed=seed, lr=1e-300)
        with torch.random.fork_rng():
            torch.manual_seed(caller)
            losses[seed, caller] = [run.shift([[(0, 0)]]) for _ in range(3)]
    assert losses[5, 0] == losses[5, 1]
    assert len({*losses[5, 0], *losses[6, 0]}) == 6


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_smoothing_is_by_the_number_of_logits(classes, smoothing):
    """Target (1 - s) one-hot + s / C; for equal logits the loss is log C times its sum, one.

    The paper's public code has C = 1000 always; for 100 classes its target sums to 0.91.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((16, 1, 8, 8), generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (16,), generator=generator)
    net = tiny(classes=classes)
    logits = net(images, A).detach().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    target = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes
    run = shifter(net, Given([(images, labels)]), label_smoothing=smoothing)
    assert run.shift([[A]]) == pytest.approx(-(target * log_p).sum(1).mean(), rel=1e-12)
    for parameter in head_of(net):
        nn.init.zeros_(parameter)
    assert run.shift([[A]]) == pytest.approx(np.log(classes), rel=1e-12)


@pytest.mark.parametrize(
    ("steps", "rate", "what"),
    [
        (4, "1e+200", "step 1: the loss of architecture (0, 0) is "),
        (1, "1e+308", "step 0: it left weight 'model."),
    ],
)
def test_divergence_tells_when_what_and_the_way_out(steps, rate, what):
    """Images 1000 times as bright: a gradient above 2 times the largest rate is no number."""
    images, labels = next(shifter(dropping()).batches.epoch(0))
    run = shifter(dropping(), Given([(1000 * images, labels)]), lr=float(rate))
    assert run.remedy.startswith("lower shifting.lr, or set shifting.clip_norm; ")
    with pytest.raises(NonFiniteLoss) as caught:
        run.shift([[(0, 0)]] * steps)
    assert str(caught.value).startswith(f"shifting, {what}")
    assert str(caught.value).endswith(f" (learning rate {rate}): {run.remedy}")


def test_data_that_are_not_finite_are_named(monkeypatch):
    """The odd sample is in the third of six batches of the second step."""
    inputs, labels = torch.randn(96, 1, 8, 8).double(), torch.arange(96) % 10
    batches = ms.data.Batches(
        ms.data.OwnSet.of(TensorDataset(inputs, labels), "data.train"), 8, seed=0
    )
    odd = batches._split(3)[2][5]
    inputs[odd, 0, 3, 3] = math.inf
    with pytest.raises(NonFiniteLoss) as caught:
        shifter(dropping(), batches).shift([[(0, 0)], [(0, 0)] * 5])
    assert str(caught.value).startswith("shifting, step 1: the loss of architecture (0, 0) is ")
    assert f", and inputs of sample {odd} of data.train are not all finite. Mend" in str(
        caught.value
    )


def test_after_a_divergence_it_goes_on_from_a_good_state():
    run = shifter(dropping(), lr=1e30)
    good = copy.deepcopy(run.state_dict())
    with pytest.raises(NonFiniteLoss):
        run.shift([[(0, 0)]] * 3)
    run.load_state_dict(good)
    run.settings = run.settings.model_copy(update={"lr": 0.01})
    assert math.isfinite(run.shift([[(0, 0)]] * 3))


def test_a_step_whose_images_cannot_be_read_leaves_no_gradient():
    run = shifter(dropping())
    stream = run._stream
    run._stream = iter([next(stream), next(stream)])  # and none for the third part
    with pytest.raises((StopIteration, RuntimeError)):
        run.shift([[(0, 0)] * 4])
    assert all(p.grad is None for p in run.net.parameters())
