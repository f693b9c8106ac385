"""Losses that are no numbers stop the loop, and the last good checkpoint stays."""

import re

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset
from train_nets import (
    seeded,
    trainer,
)

import manyshot as ms
from manyshot.train import NonFiniteLoss, Standalone, TrainingSettings, train
from manyshot.train.checkpoint import load_checkpoint


def test_divergence_names_step_architecture_and_way_out(tmp_path):
    """Which of its few steps diverges, and whether a loss or a weight says so, is the machine's."""
    run = trainer(folder=tmp_path, lr=1e30, schedule="constant", checkpoint_steps=1)
    with pytest.raises(NonFiniteLoss) as caught:
        train(run)
    found = re.match(
        r"step (\d+): (the loss of architecture \(\d(, \d){3}\) is (nan|inf)|"
        r"it left weight 'model\.\S+' not finite) \(learning rate 1e\+30\); ",
        str(caught.value),
    )
    assert found
    # The step that diverged is the one under way, or the last whose checkpoint was refused.
    assert int(found[1]) in (run.step, run.step - 1)
    assert str(caught.value).endswith(
        "Lower train.lr, set train.clip_norm, or add train.warmup_epochs"
    )


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
    elsewhere = _Elsewhere(run.optimisation.accelerator)
    monkeypatch.setattr(run.optimisation, "accelerator", elsewhere)
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


class Read(Dataset):
    """The samples of a data set, read one by one."""

    def __init__(self, samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize("kept", [TensorDataset, lambda *t: Read(TensorDataset(*t))])
@pytest.mark.parametrize(
    ("inputs_at", "targets_at", "words"),
    [
        ((), (), None),
        ((17,), (), "inputs of sample 17 of train_on"),
        ((), (40, 3), "targets of samples 3, 40 of train_on"),
        ((5, 6, 7, 8, 9, 10), (5,), "inputs of samples 5, 6, 7, 8, 9 and 1 more of train_on and "
            "targets of sample 5 of train_on"),
    ],
)  # fmt: skip
def test_data_that_are_not_finite_are_named_in_place_of_the_rate(
    tmp_path, kept, inputs_at, targets_at, words
):
    rng = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(48, n, generator=rng) for n in (6, 2))
    inputs[list(inputs_at), 1], targets[list(targets_at), 0] = float("nan"), float("inf")
    settings = TrainingSettings(
        batch_size=48, epochs=40, lr=0.01 if words else 1e30, schedule="constant"
    )
    with pytest.raises(NonFiniteLoss) as caught:
        ms.fit(
            seeded(lambda: nn.Linear(6, 2)), kept(inputs, targets), task="regression",
            settings=settings, folder=tmp_path,
        )  # fmt: skip
    said = str(caught.value)
    assert said.endswith(
        "Lower train.lr, set train.clip_norm, or add train.warmup_epochs"
        if words is None
        else f", and {words} are not all finite; no checkpoint was saved before. Mend them "
        "(torch.nan_to_num), or leave such samples out by torch.utils.data.Subset"
    )
    assert ("learning rate" in said) == (words is None)


def test_the_batch_that_fails_is_the_one_that_is_looked_at(tmp_path, monkeypatch):
    """On a GPU the losses of several steps are read together: the batch of the first is meant."""
    inputs, labels = torch.randn(128, 64), torch.arange(128) % 10
    own = ms.data.OwnSet.of(Read(TensorDataset(inputs, labels)), "data.train")
    batches = ms.data.Batches(own.subset(range(100, 128)), 4, seed=3)
    run = trainer(Standalone(seeded(lambda: nn.Linear(64, 10))), tmp_path, log_steps=7)
    run.batches, run.settings = batches, run.settings.model_copy(update={"checkpoint_steps": 7})
    odd = 100 + int(batches._split(1)[2][1])
    met = next(step for step in range(9) if odd - 100 in batches._split(step // 7)[step % 7])
    inputs[odd] = float("nan")
    elsewhere = _Elsewhere(run.optimisation.accelerator)
    monkeypatch.setattr(run.optimisation, "accelerator", elsewhere)
    with pytest.raises(
        NonFiniteLoss, match=f"^step {met}: .* inputs of sample {odd} of data.train"
    ):
        train(run)
