"""The loop: it learns, repeats itself, leaves the caller's random states alone, and resumes."""

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_nets import (
    CPU,
    Dropping,
    Stopped,
    digits,
    random_states,
    same,
    seeded,
    trainer,
    weights,
)

import manyshot as ms
from manyshot import records
from manyshot.train import (
    CheckpointError,
    NonFiniteLoss,
    Path,
    Plan,
    Standalone,
    Training,
    Uniform,
    accumulate,
    engine,
    load_checkpoint,
    train,
)
from manyshot.train.optim import learning_rate, make_optimizer


def test_the_loss_falls_on_digits(tmp_path):
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=8)))
    run = trainer(net, tmp_path, images=1024, epochs=15, batch_size=64, log_steps=40)
    train(run)
    losses = [row["loss"] for row in records.read_lines(tmp_path / "train.jsonl")]
    assert len(losses) == 6
    assert losses[-1] < 0.75 * losses[0]
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
    one, two = trainer(), trainer()
    two.seed = 6
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
    class First:
        def plan(self, rng, step):
            return Plan((Path((0, 0, 0, 0)), Path((1, 0, 0, 0))))

        feedback, state_dict = Uniform.feedback, Uniform.state_dict
        load_state_dict = Uniform.load_state_dict

    run = trainer()
    run.sampler = First()
    before = weights(run.net)
    train(run)
    for name, tensor in weights(run.net).items():
        off = ".options." in name and not (".project." in name or ("chain.1.options.conv1" in name))
        assert torch.equal(tensor, before[name]) == off, name


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
        {"clip_norm": 0.01},
        {"precision": "bf16"},
    ],
    ids=str,
)
def test_every_setting_is_used(settings):
    usual, other = trainer(), trainer(**settings)
    train(usual)
    train(other)
    assert not same(weights(usual.net), weights(other.net))
    assert all(tensor.isfinite().all() for tensor in weights(other.net).values())


@pytest.mark.parametrize("settings", [{"checkpoint_steps": 1}, {"log_steps": 7}], ids=str)
def test_how_often_it_writes_changes_nothing(settings, tmp_path):
    usual, other = trainer(), trainer(folder=tmp_path, **settings)
    train(usual)
    train(other)
    assert same(weights(usual.net), weights(other.net))


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
        accumulate(net, Plan(tuple(map(Path, archs))), images, labels, largest=(3, 3, 3, 3))
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
    settings = Training(epochs=2, batch_size=32)
    assert [row["lr"] for row in single] == [learning_rate(settings, t, 8, 4) for t in range(8)]


# -- stopping and going on ---------------------------------------------------------------------


def without_times(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def stop_after(monkeypatch, writes):
    left = [writes]

    def wrote(path):
        left[0] -= 1
        if left[0] < 0:
            raise Stopped

    monkeypatch.setattr(records, "wrote", wrote)


def interrupted(make, folder, monkeypatch, writes):
    """Whether a run of `make` was stopped after so many durable writes, then finished."""
    stop_after(monkeypatch, writes)
    try:
        train(make(folder))
        stopped = False
    except Stopped:
        stopped = True
    monkeypatch.undo()
    return stopped


@pytest.mark.parametrize(
    ("net", "sampler", "settings"),
    [
        (lambda: ms.Supernet(ms.zoo.tiny(width=4)), "uniform", {}),
        (lambda: ms.Supernet(ms.zoo.tiny(width=4)), "sandwich", {"optimizer": "adamw"}),
        (lambda: ms.Supernet(Dropping()), "fair", {"warmup_epochs": 1.0, "clip_norm": 1.0}),
    ],
)
def test_stopped_after_any_write_it_goes_on_to_the_same_end(
    net, sampler, settings, tmp_path, monkeypatch
):
    def make(folder):
        return trainer(seeded(net), folder, sampler, **settings)

    whole = make(tmp_path / "whole")
    train(whole)
    log = without_times(tmp_path / "whole" / "train.jsonl")
    writes = 0
    while interrupted(make, folder := tmp_path / str(writes), monkeypatch, writes):
        again = make(folder)
        train(again)
        assert same(weights(whole.net), weights(again.net)), writes
        assert without_times(folder / "train.jsonl") == log
        writes += 1
    assert writes >= 7  # four records, three checkpoints


def test_dropout_is_on():
    """So that resuming above was tested with it."""
    whole, none = (
        trainer(seeded(lambda: ms.Supernet(Dropping()))),
        trainer(seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))),
    )
    train(whole)
    train(none)
    assert not same(weights(whole.net), weights(none.net))


def test_a_checkpoint_holds_the_optimiser(tmp_path):
    run = trainer(folder=tmp_path)
    train(run)
    state = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert set(state) == {
        "schema", "fingerprint", "step", "losses", "weights", "optimizer", "sampler"
    }  # fmt: skip
    assert (state["schema"], state["step"]) == (1, 8)
    momenta = {i: s["momentum_buffer"] for i, s in state["optimizer"]["state"].items()}
    own = run.optimizer.state_dict()["state"]
    assert len(momenta) > 0
    assert all(torch.equal(momenta[i], own[i]["momentum_buffer"]) for i in momenta)


def test_what_a_sampler_has_learnt_is_restored(tmp_path, monkeypatch):
    class Counting:
        """Its plans depend on what was fed back."""

        def __init__(self) -> None:
            self.total = torch.zeros(())

        def plan(self, rng, step):
            return Plan((Path((int(self.total * 1000) % 4, 0, step % 4, 3)),))

        def feedback(self, plan, losses):
            self.total = self.total + sum(losses)

        def state_dict(self):
            return {"total": self.total}

        def load_state_dict(self, state):
            self.total = state["total"]

    def make(folder):
        run = trainer(folder=folder)
        run.sampler = Counting()
        return run

    whole = make(tmp_path / "whole")
    train(whole)
    assert interrupted(make, tmp_path / "part", monkeypatch, 3)
    again = make(tmp_path / "part")
    train(again)
    assert again.sampler.total == whole.sampler.total
    assert same(weights(whole.net), weights(again.net))


def test_a_finished_run_is_not_trained_again(tmp_path):
    whole = trainer(folder=tmp_path)
    train(whole)
    log = (tmp_path / "train.jsonl").read_text()
    again = trainer(folder=tmp_path)
    again.batches.epoch = None  # would fail if it were asked for
    train(again)
    assert same(weights(whole.net), weights(again.net))
    assert (tmp_path / "train.jsonl").read_text() == log


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    train(trainer(folder=tmp_path))
    other = trainer(folder=tmp_path)
    other.fingerprint = "other"
    with pytest.raises(CheckpointError, match=r"trainer.pt belongs to other settings \(mine, now"):
        train(other)


@pytest.mark.parametrize("damage", ["truncated", "noise", "empty", "schema", "code"])
def test_a_damaged_checkpoint_is_an_error_that_loses_nothing(tmp_path, damage):
    run = trainer(folder=tmp_path)
    train(run)
    path = tmp_path / "trainer.pt"
    good = path.read_bytes()
    if damage == "schema":
        torch.save({"schema": 2}, path)
    elif damage == "code":
        torch.save({"schema": 1, "step": torch.nn.Linear(1, 1)}, path)  # needs a pickled class
    else:
        changed = {"truncated": good[: len(good) // 2], "noise": b"x" * 100, "empty": b""}
        path.write_bytes(changed[damage])
    bad, log = path.read_bytes(), (tmp_path / "train.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"checkpoint .*trainer.pt (cannot be read|is of)"):
        train(trainer(folder=tmp_path))
    assert path.read_bytes() == bad
    assert (tmp_path / "train.jsonl").read_text() == log


@pytest.mark.parametrize("part", [0.3, 0.6, 0.97])
def test_a_flipped_byte_never_passes_silently(tmp_path, part):
    """The zip format of checkpoints has checksums; a change in the weights must be noticed."""
    train(trainer(folder=tmp_path))
    path = tmp_path / "trainer.pt"
    data = bytearray(path.read_bytes())
    good = load_checkpoint(path)
    data[int(len(data) * part)] ^= 0xFF
    path.write_bytes(bytes(data))
    try:
        state = load_checkpoint(path)
    except CheckpointError:
        return
    assert same(state["weights"], good["weights"])  # a byte of padding


# -- divergence --------------------------------------------------------------------------------


def test_divergence_names_step_architecture_and_way_out(tmp_path):
    run = trainer(folder=tmp_path, lr=1e9, schedule="constant", checkpoint_steps=1)
    with pytest.raises(NonFiniteLoss) as caught:
        train(run)
    message = str(caught.value)
    assert message.startswith(f"step {run.step}: ")
    assert "learning rate 1e+09" in message
    assert "Lower train.lr, set train.clip_norm, or add train.warmup_epochs" in message


class Exploding(nn.Module):
    """Gives nan from the n-th forward pass on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.linear, self.left = nn.Linear(64, 10), after

    def forward(self, images):
        self.left -= 1
        factor = 1.0 if self.left >= 0 else float("nan")
        return self.linear(images.flatten(1)) * factor


def test_the_last_good_checkpoint_survives(tmp_path):
    run = trainer(Standalone(seeded(lambda: Exploding(5))), tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"^step 5: the loss of architecture \(\) is nan"):
        train(run)
    state = load_checkpoint(tmp_path / "trainer.pt")
    assert state["step"] == 3
    assert all(tensor.isfinite().all() for tensor in state["weights"].values())
    assert f"the checkpoint {tmp_path / 'trainer.pt'} from before is kept" in str(
        _raised(lambda: train(trainer(Standalone(seeded(lambda: Exploding(1))), tmp_path)))
    )
    cured = trainer(Standalone(seeded(lambda: Exploding(99))), tmp_path)
    train(cured)
    assert cured.step == 8


def _raised(run):
    with pytest.raises(NonFiniteLoss) as caught:
        run()
    return caught.value


def test_divergence_before_the_first_checkpoint(tmp_path):
    error = _raised(lambda: train(trainer(Standalone(seeded(lambda: Exploding(0))), tmp_path)))
    assert "no checkpoint was saved before" in str(error)
    assert not (tmp_path / "trainer.pt").exists()


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    run = trainer(folder=tmp_path)
    run.step = 3
    with torch.no_grad():
        next(run.net.parameters()).fill_(float("inf"))
    with pytest.raises(NonFiniteLoss, match=r"step 2: it left weight 'model.* not finite"):
        run.save()
    assert not (tmp_path / "trainer.pt").exists()


def test_losses_on_a_device_are_checked_when_they_are_read(tmp_path, monkeypatch):
    """On a GPU reading a loss waits for it, so it is read for records and checkpoints only."""
    run = trainer(Standalone(seeded(lambda: Exploding(4))), tmp_path, log_steps=8)
    monkeypatch.setattr(run, "accelerator", _Elsewhere(run.accelerator))
    with pytest.raises(NonFiniteLoss, match=r"^step 4: .* is nan"):
        train(run)
    assert run.step == 6  # found when the checkpoint was due
    assert load_checkpoint(tmp_path / "trainer.pt")["step"] == 3


class _Elsewhere:
    """An accelerator that says it is no CPU, where losses are not read at every step."""

    def __init__(self, accelerator) -> None:
        self._accelerator, self.device = accelerator, _Device()

    def __getattr__(self, name):
        return getattr(self._accelerator, name)


class _Device:
    class Type(str):
        __slots__ = ()

        def __eq__(self, other):
            return False

        __hash__ = str.__hash__

    type = Type("cpu")


def test_a_batch_larger_than_the_images_is_an_error():
    with pytest.raises(ValueError, match="batch_size 256 is more than the 128 images"):
        trainer(batch_size=256)


def test_the_engine_is_one_process_on_the_cpu():
    accelerator = engine(CPU, Training())
    assert (accelerator.num_processes, accelerator.device.type) == (1, "cpu")
    assert accelerator.mixed_precision == "no"
    assert accelerator.trackers == []


def test_images_are_those_of_the_train_part():
    assert len(digits().train) == 128
