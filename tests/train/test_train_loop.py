"""The loop: it learns, repeats itself, leaves the caller's random states alone, and resumes."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_nets import (
    CPU,
    digits,
    random_states,
    same,
    seeded,
    trainer,
    weights,
)

import manyshot as ms
from manyshot import records
from manyshot.seeding import stream
from manyshot.train import Plan, PlannedPath, Stateless, TrainingSettings, engine, train
from manyshot.train.gradients import accumulate
from manyshot.train.optim import learning_rate, make_optimizer


def test_the_loss_falls_on_digits(tmp_path):
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=8)))
    run = trainer(net, tmp_path, images=1024, epochs=15, batch_size=64, log_steps=40)
    train(run)
    losses = [row["loss"] for row in records.read_lines(tmp_path / "train.jsonl")]
    assert len(losses) == 6
    assert losses[-1] < 0.9 * losses[0]
    assert losses[0] == pytest.approx(2.3, abs=0.5)  # about log 10 before anything is learnt


@pytest.mark.parametrize("sampler", ["uniform", "fair", "sandwich"])
def test_same_seed_same_weights_and_the_callers_randomness_is_untouched(sampler):
    before = random_states()
    one, two = trainer(sampler=sampler), trainer(sampler=sampler)
    start = weights(one.net)
    train(one)
    torch.manual_seed(123)  # whatever the caller's state is
    after = random_states()
    train(two)
    assert random_states() == after
    torch.random.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
    assert same(weights(one.net), weights(two.net))
    assert not same(start, weights(one.net))


def test_another_seed_gives_other_weights():
    one, two = trainer(), trainer(seed=6)
    train(one)
    train(two)
    assert not same(weights(one.net), weights(two.net))


def test_the_loop_is_a_plain_loop():
    """The same weights as from twenty lines of PyTorch that use no trainer."""
    settings = {"lr": 0.05, "warmup_epochs": 0.5, "clip_norm": 0.5, "label_smoothing": 0.1}
    run = trainer(sampler="fair", **settings)
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)))
    optimizer, step = make_optimizer(net, run.settings), 0
    for epoch in range(2):
        for images, labels in run.batches.epoch(epoch):
            run.step = step
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(run.settings, step, 8, 4)
            optimizer.zero_grad()
            for path in run.plan().paths:
                F.cross_entropy(net(images, path.arch), labels, label_smoothing=0.1).backward()
            norm = nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            assert norm > 0.5  # so that clipping is tested
            optimizer.step()
            step += 1
    run.step = 0
    train(run)
    assert same(weights(run.net), weights(net))


def test_options_that_are_not_drawn_do_not_move():
    class First(Stateless):
        def plan(self, rng, step):
            return Plan((PlannedPath((0, 0, 0, 0)), PlannedPath((1, 0, 0, 0))))

    run = trainer()
    run.sampler = First()
    before = weights(run.net)
    train(run)
    for name, tensor in weights(run.net).items():
        off = ".options." in name and not (".project." in name or ("chain.1.options.conv1" in name))
        assert torch.equal(tensor, before[name]) == off, name


@pytest.fixture(scope="module")
def usual():
    run = trainer()
    train(run)
    return weights(run.net)


@pytest.mark.parametrize(
    "settings",
    [
        {"epochs": 1},
        {"batch_size": 16},
        {"optimizer": "adamw", "lr": 0.001},
        {"lr": 0.03},
        {"momentum": 0.5},
        {"weight_decay": 0.1},
        {"schedule": "linear"},
        {"schedule": "constant"},
        {"warmup_epochs": 1.0},
        {"label_smoothing": 0.2},
        {"mixup": 0.2},
        {"cutmix": 1.0},
        {"min_lr": 0.05},
        {"clip_norm": 0.01},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_setting_is_used(usual, settings):
    other = trainer(**settings)
    train(other)
    assert not same(usual, weights(other.net))
    assert all(tensor.isfinite().all() for tensor in weights(other.net).values())


@pytest.mark.parametrize("settings", [{"checkpoint_steps": 1}, {"log_steps": 7}], ids=str)
def test_how_often_it_writes_changes_nothing(usual, settings, tmp_path):
    other = trainer(folder=tmp_path, **settings)
    train(other)
    assert same(usual, weights(other.net))


def test_bf16_gradients_are_those_of_the_paths_alone():
    """Casts of weights are cached between the paths of a plan; that must not lose gradient."""
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)))
    images, labels = next(trainer().batches.epoch(0))
    archs = [(3, 3, 3, 3), (3, 1, 3, 0)]
    separate: dict[str, torch.Tensor] = {}
    for arch in archs:
        with torch.autocast("cpu", torch.bfloat16):
            F.cross_entropy(net(images, arch), labels).backward()
        for name, parameter in net.named_parameters():
            if parameter.grad is not None:
                separate[name] = separate.get(name, 0) + parameter.grad
        net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        accumulate(net, Plan(tuple(map(PlannedPath, archs))), images, labels, largest=(3, 3, 3, 3))
    for name, parameter in net.named_parameters():
        if name in separate:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, separate[name], rtol=1e-2, atol=1e-3)


def test_records_are_means_since_the_last_one(tmp_path):
    each, every_three = tmp_path / "1", tmp_path / "3"
    train(trainer(folder=each, log_steps=1))
    train(trainer(folder=every_three, log_steps=3))
    single = records.read_lines(each / "train.jsonl")
    triple = records.read_lines(every_three / "train.jsonl")
    assert [row["step"] for row in single] == list(range(1, 9))
    assert [row["step"] for row in triple] == [3, 6, 8]
    assert [row["epoch"] for row in triple] == [0.75, 1.5, 2.0]
    assert [row["images"] for row in triple] == [96, 192, 256]
    losses = [row["loss"] for row in single]
    means = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, sum(losses[6:]) / 2]
    assert [row["loss"] for row in triple] == pytest.approx(means, rel=1e-6)
    settings = TrainingSettings(epochs=2, batch_size=32)
    assert [row["lr"] for row in single] == [learning_rate(settings, t, 8, 4) for t in range(8)]


def test_a_batch_larger_than_the_images_is_an_error():
    with pytest.raises(ValueError, match="batch_size 256 is more than the 128 images"):
        trainer(batch_size=256)


def test_the_engine_is_one_process_on_the_cpu():
    accelerator = engine(CPU, TrainingSettings())
    assert (accelerator.num_processes, accelerator.device.type) == (1, "cpu")
    assert accelerator.mixed_precision == "no"
    assert accelerator.trackers == []


def test_images_are_those_of_the_train_part():
    assert len(digits().train) == 128


def test_random_streams_differ_by_step_seed_and_process():
    run = trainer().optimisation
    streams = [run.stream_of(0), run.stream_of(1), trainer(seed=6).optimisation.stream_of(0)]
    run.accelerator = _Second()
    streams.append(run.stream_of(0))
    assert len({stream(*names) for names in streams}) == 4


class _Second:
    process_index = 1


def test_a_tracker_that_is_not_installed_is_an_error(monkeypatch):
    monkeypatch.setattr("manyshot.train.accelerator.is_tensorboard_available", lambda: False)
    settings = TrainingSettings(tracker="tensorboard")
    with pytest.raises(ImportError, match=r"manyshot\[tensorboard\]"):
        engine(torch.device("cpu"), settings)
