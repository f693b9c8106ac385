"""On a device other than the CPU nothing waits for it in each step, nor for each candidate.

The device is one that there is not (see `pretend_device`), whose operations say when the host would
have to wait. Runs on it end as those on the CPU do.
"""

import importlib
import re
from collections import Counter

import numpy as np
import pytest
import torch

import manyshot as ms
import pretend_device
from manyshot.cost import macs_table
from manyshot.data import Augment, Batches, ImageSet, fixed
from manyshot.train import (
    NonFiniteLoss,
    PathImportance,
    ShiftNAS,
    ShiftNASOptions,
    Trainer,
    Uniform,
    engine,
)
from manyshot.train.trainer import train
from pretend_device import DEVICE, Process, There, at_home, moved, pretended

LOOK = {"mean": (0.5,) * 3, "std": (0.3,) * 3, "seed": 0}
EVERYTHING = {"pad": 1, "flip": True, "jitter": 0.2, "crop_scale": (0.5, 1.0)}


def images(count):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=rng, dtype=torch.uint8)
    return ImageSet(images=pixels, labels=torch.randint(0, 4, (count,), generator=rng), classes=4)


def supernet(copies=1):
    sharing = ms.sharing.KShot(copies, warm_frac=0.2, code_every=2) if copies > 1 else None
    torch.manual_seed(0)
    net = ms.Supernet(ms.zoo.tiny(classes=4, channels=3), sharing=sharing)
    net._masks_agree = True  # that masks and slices agree is looked at once, on the CPU
    return net


def shiftnas(net, costs):
    options = ShiftNASOptions(period=2, warmup=0.0, bins=3, images=32, mix_uniform=0.0)
    return ShiftNAS(net.space, costs, options)


class BreaksAt:
    """Batches of which one has images that are no numbers."""

    def __init__(self, batches, step):
        self._batches, self._step = batches, step

    def __getattr__(self, name):
        return getattr(self._batches, name)

    def __len__(self):
        return len(self._batches)

    def from_step(self, first):
        for step, (images, labels) in enumerate(self._batches.from_step(first), first):
            yield images * (float("nan") if step == self._step else 1.0), labels


def trained(
    steps, device, copies=1, shifts=False, norms=False, folder=None, break_at=None, **settings
):
    """The run of so many steps, one epoch of 8 images each, on a device."""
    net = supernet(copies)
    costs = {"macs": macs_table(net, (3, 8, 8))} if shifts else {}
    net, accelerator = (net, engine(torch.device("cpu"), ms.TrainingSettings()))
    if device == DEVICE:
        net, accelerator = moved(net), Process(accelerator)
    sampler = shiftnas(net, costs) if shifts else Uniform(net.space)
    if norms:  # of which probabilities are made twice, however many steps there are
        sampler = PathImportance(net.space, every=0.5)
    augment = Augment(random_erasing=0.5, **EVERYTHING)
    run = Trainer(
        net,
        sampler,
        BreaksAt(Batches(images(8 * steps), 8, augment=augment, device=device, **LOOK), break_at),
        ms.TrainingSettings(epochs=1, batch_size=8, log_steps=1000, **settings),
        0,
        net.space.largest,
        accelerator,
        folder=folder,
        held_out=lambda count, seed: fixed(images(32), None, 16, device=device, **LOOK),
        # The same operations on both: torch fuses SGD on devices that it knows.
        optimizer=lambda groups: torch.optim.SGD(groups, 0.05, momentum=0.9, fused=False),
    )
    pretend_device.WAITS.clear()
    train(run)
    return run, Counter(pretend_device.WAITS)


@pytest.mark.parametrize(
    ("options", "steps", "each"),
    [
        ({"mixup": 0.4, "ema": 0.9, "clip_norm": 1.0, "label_smoothing": 0.1}, (1, 2), 0),
        ({"copies": 2}, (3, 5), 0),
        ({"norms": True}, (4, 8), 0),
        # The generator gets gradients of policies, and probes their answers, once in each step; and
        # every second step has a report, before which losses are read.
        ({"shifts": True}, (4, 6), 1 + 1 + 0.5),
    ],
    ids=["mixed", "k_shot", "norms", "shiftnas"],
)
def test_steps_do_not_wait_for_the_device(monkeypatch, options, steps, each):
    with pretended(monkeypatch):
        few, many = (trained(count, DEVICE, **options) for count in steps)
        here, _ = trained(steps[0], "cpu", **options)
    assert sum(few[1].values()) > 0  # records and the last look at the weights
    assert sum((many[1] - few[1]).values()) == (steps[1] - steps[0]) * each
    there = {name: at_home(tensor) for name, tensor in few[0].net.state_dict().items()}
    for name, tensor in here.net.state_dict().items():
        torch.testing.assert_close(there[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_not_finite_is_seen_at_the_next_record_and_nothing_is_saved(
    monkeypatch, tmp_path
):
    saved = []
    trainer = importlib.import_module("manyshot.train.trainer")
    monkeypatch.setattr(trainer, "save_checkpoint", lambda path, state: saved.append(state["step"]))
    with pretended(monkeypatch), pytest.raises(NonFiniteLoss) as caught:
        trained(8, DEVICE, folder=tmp_path, break_at=3, checkpoint_steps=2)
    assert re.match(r"step 3: the loss of architecture \(.+\) is nan", str(caught.value))
    assert saved == [2]  # that of step 4 was not written
    assert not (tmp_path / "train.jsonl").exists()


def test_a_score_is_read_once(monkeypatch):
    """However many batches, parts and metrics there are; and it is that of the CPU."""
    net = supernet()
    archs = [net.space.sample(np.random.default_rng(seed)) for seed in range(2)]
    with pretended(monkeypatch) as waits:
        there, counts = moved(net), []
        for count in (16, 32):
            on = {d: fixed(images(count), None, 8, device=d, **LOOK) for d in ("cpu", DEVICE)}
            waits.clear()
            ours = [
                ms.evaluate.score(there, a, calibration=on[DEVICE], validation=on[DEVICE], parts=2)
                for a in archs
            ]
            counts.append(len(waits))
            assert ours == [
                ms.evaluate.score(net, a, calibration=on["cpu"], validation=on["cpu"], parts=2)
                for a in archs
            ]
    assert counts[0] == counts[1] <= 3 * len(archs)


def test_what_makes_the_host_wait_is_seen(monkeypatch):
    """That the device that there is not tells what one that there is would do."""
    with pretended(monkeypatch) as waits:
        there, here = There(torch.arange(4.0)), torch.arange(4.0)
        (there + 1).sum().mul_(2)
        there.to(DEVICE), here.to(DEVICE, non_blocking=True), torch.zeros(3, device=DEVICE)
        there[There(torch.tensor([1, 2]))]
        assert waits == []
        ways = [
            lambda: there.sum().item(),
            lambda: float(there[0]),
            lambda: bool((there > 1).all()),
            there.tolist,
            there.cpu,
            lambda: there.to("cpu", non_blocking=True),
            there.nonzero,
            lambda: there[there > 1],
            lambda: torch.equal(there, there),
            lambda: here.to(DEVICE),
            lambda: torch.tensor([1.0], device=DEVICE),
            lambda: there[torch.tensor([1])],
            lambda: here.clone().copy_(there),
        ]
        for way in ways:
            waits.clear()
            way()
            assert len(waits) == 1, way
        with pytest.raises(RuntimeError, match="all tensors on one device"):
            there + here
