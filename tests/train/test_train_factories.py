"""Optimisers, schedules, averages and losses of one's own, against loops in plain torch."""

import copy
import functools
import time

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from train_nets import LOOK, digits, same, seeded, trainer, weights

import manyshot as ms
from manyshot.train import train

STEPS = 8
RMS = functools.partial(torch.optim.RMSprop, lr=0.01)


def one_cycle(optimizer, steps):
    return lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps, cycle_momentum=False)


class Plain(nn.Module):
    """A norm with statistics, a layer, and a buffer of whole numbers."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.norm(images.flatten(1)))


def images(epochs=2):
    batches = ms.data.Batches(digits().train, 32, **LOOK)
    stream = batches.from_step(0)
    return [next(stream) for _ in range(epochs * len(batches))]


def by_hand(net, optimizer, schedule=None, loss=nn.functional.cross_entropy):
    """A loop in plain torch; yields the state after each step."""
    net.train()
    for inputs, targets in images():
        optimizer.zero_grad()
        loss(net(inputs), targets).backward()
        optimizer.step()
        if schedule is not None:
            schedule.step()
        yield weights(net)


def groups_of(net, weight_decay=5e-4):
    """What decays, and what does not."""
    free = [net.norm.weight, net.norm.bias, net.head.bias]
    return [
        {"params": [net.head.weight], "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]


def fitted(net, **arguments):
    settings = ms.TrainingSettings(epochs=2, batch_size=32, **arguments.pop("settings", {}))
    batches = ms.data.Batches(digits().train, 32, **LOOK)
    return ms.fit(net, batches, settings=settings, **arguments)


def test_an_optimiser_and_a_schedule_are_those_of_a_loop_in_plain_torch():
    net = seeded(Plain)
    other = copy.deepcopy(net)
    optimizer = RMS(groups_of(other))
    schedule = one_cycle(optimizer, STEPS)
    *_, wanted = by_hand(other, optimizer, schedule)
    done = fitted(net, optimizer=RMS, schedule=one_cycle)
    assert done.step == STEPS
    assert same(weights(net), wanted)


def test_rates_of_an_optimiser_are_the_peaks_of_the_schedule_of_the_settings():
    net = seeded(Plain)
    other = copy.deepcopy(net)
    rates = {"lr": 0.03}, {"lr": 0.003}
    optimizer = torch.optim.SGD([g | r for g, r in zip(groups_of(other), rates, strict=True)])
    half = lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    *_, wanted = by_hand(other, optimizer, half)

    def factory(groups):
        return torch.optim.SGD([group | rate for group, rate in zip(groups, rates, strict=True)])

    settings = {"schedule": "linear", "lr": 7.0}
    done = fitted(net, optimizer=factory, settings=settings)
    assert done.settings.lr == 0.03
    for name, tensor in weights(net).items():  # the rates are rounded in another order
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)


def test_the_average_is_what_the_formula_says():
    net, decay = seeded(Plain), 0.6
    other = copy.deepcopy(net)
    average = weights(other)
    optimizer = torch.optim.SGD(groups_of(other), 0.05)
    for n, state in enumerate(by_hand(other, optimizer), start=1):
        kept = min(decay, n / (9 + n))
        for name, tensor in state.items():
            mean = kept * average[name].double() + (1 - kept) * tensor.double()
            average[name] = mean if tensor.is_floating_point() else tensor
    factory = functools.partial(torch.optim.SGD, lr=0.05)
    settings = {"ema": decay, "schedule": "constant"}
    done = fitted(net, optimizer=factory, settings=settings)
    found = weights(net)
    assert int(found["norm.num_batches_tracked"]) == STEPS
    for name, tensor in found.items():  # steps in single precision
        torch.testing.assert_close(tensor.double(), average[name].double(), rtol=1e-5, atol=1e-6)
    assert done.average.steps == STEPS


def test_without_an_average_training_is_as_it_was():
    runs = [trainer(), trainer(ema=0.9)]
    for run in runs:
        run.end = lambda: None
        train(run)
    assert same(*(weights(run.net) for run in runs))


def test_a_loss_takes_the_place_of_the_tasks_which_still_scores_and_checks():
    def margin(outputs, targets):
        return nn.functional.multi_margin_loss(outputs, targets)

    net = seeded(Plain)
    other = copy.deepcopy(net)
    *_, wanted = by_hand(other, RMS(groups_of(other)), loss=margin)
    done = fitted(net, loss=margin, optimizer=RMS, settings={"schedule": "constant"})
    assert same(weights(net), wanted)
    score = ms.evaluate.score_module(net, images(1), task=done.optimisation.task)
    assert score.value == ms.evaluate.score_module(net, images(1)).value
    with pytest.raises(ValueError, match="label_smoothing"):
        fitted(net, loss=margin, settings={"label_smoothing": 0.1})


def test_codes_stay_with_their_own_optimiser():
    net = seeded(
        lambda: ms.Supernet(ms.zoo.tiny(width=4), sharing=ms.sharing.KShot(2, lr=0.5, code_every=2))
    )
    run = trainer(net, factories={"optimizer": RMS})
    codes = {id(p) for g in run.optimisation.codes.param_groups for p in g["params"]}
    held = {id(p) for g in run.optimisation.weights.param_groups for p in g["params"]}
    assert held | codes == {id(p) for p in net.parameters()} and not held & codes
    assert run.optimisation.codes.param_groups[0]["scale"] * run.rate() == pytest.approx(0.5)
    with pytest.raises(ValueError, match="which the codes' optimiser moves"):
        trainer(net, factories={"optimizer": lambda groups: RMS(net.parameters())})


def test_a_schedule_steps_with_weights_alone():
    net = seeded(
        lambda: ms.Supernet(ms.zoo.tiny(width=4), sharing=ms.sharing.KShot(2, code_every=2))
    )
    told = []

    def factory(optimizer, steps):
        told.append(steps)
        return lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)

    run = trainer(net, factories={"optimizer": RMS, "schedule": factory})
    train(run)
    assert told == [run.weight_steps] and run.weight_steps < run.steps
    assert run.optimisation.schedule.last_epoch == run.weight_steps
    assert run.rate() == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("factories", "message"),
    [
        ({"optimizer": lambda groups: None}, "optimizer made a NoneType"),
        ({"optimizer": lambda groups: RMS(nn.Linear(2, 2).parameters())}, "2 parameters that are"),
        ({"schedule": lambda optimizer, steps: 0.1}, "schedule made a float"),
        (
            {"schedule": lambda optimizer, steps: lr_scheduler.ReduceLROnPlateau(optimizer)},
            "steps without a loss",
        ),
    ],
)
def test_what_makes_something_else_is_refused(factories, message):
    with pytest.raises(ValueError, match=message):
        trainer(factories=factories)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"checkpoint_seconds": 0.0, "checkpoint_steps": None}, [1, 2, 3, 4, 5, 6, 7, 8]),
        ({"checkpoint_steps": None}, [6, 8]),
        ({"checkpoint_steps": 5}, [5, 8]),
        ({"checkpoint_seconds": 25.0, "checkpoint_steps": 4}, [3, 4, 7, 8]),
        ({"checkpoint_seconds": 1000.0, "checkpoint_steps": None}, [8]),
    ],
)
def test_checkpoints_come_by_time(settings, steps, monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    run = trainer(folder=tmp_path, **settings)
    saved, step = [], run.optimisation.step

    def slowly(*arguments):
        now[0] += 10.0
        return step(*arguments)

    save = run.save
    run.optimisation.step = slowly
    run.save = lambda: saved.append(run.step) or save()
    train(run)
    assert saved == steps
