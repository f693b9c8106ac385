"""Stopped at any write, the loop goes on to the same end; a damaged checkpoint is an error."""

import functools
import json

import pytest
import torch
from train_nets import (
    LOOK,
    Dropping,
    Stopped,
    digits,
    same,
    seeded,
    trainer,
    weights,
)

import manyshot as ms
from kills import EVERY, left_by_kills
from manyshot import records
from manyshot.train import CheckpointError, Plan, PlannedPath, Probe, Stateless, train
from manyshot.train.checkpoint import load_checkpoint
from photos import members, tinted, write_shard

OTHERS = {
    "optimizer": functools.partial(torch.optim.RMSprop, lr=0.01),
    "schedule": lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.02, total_steps=steps, cycle_momentum=False
    ),
}


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


def k_shot(**options):
    return ms.Supernet(Dropping(), sharing=ms.sharing.KShot(2, **options))


@EVERY
@pytest.mark.parametrize(
    ("net", "sampler", "settings"),
    [
        (lambda: ms.Supernet(ms.zoo.tiny(width=4)), "uniform", {}),
        (lambda: ms.Supernet(ms.zoo.tiny(width=4)), "sandwich", {"optimizer": "adamw"}),
        (
            lambda: ms.Supernet(Dropping()),
            "sandwich",
            {"mixup": 0.2, "cutmix": 1.0, "accumulate": 2},
        ),
        (lambda: ms.Supernet(Dropping()), "fair", {"warmup_epochs": 1.0, "clip_norm": 1.0}),
        (lambda: k_shot(m=2, code_every=2), "uniform", {}),
        (lambda: k_shot(optimizer="adam", update_mode="joint"), "sandwich", {}),
        (lambda: ms.Supernet(ms.zoo.tiny(width=4)), "uniform", {"ema": 0.9, "factories": OTHERS}),
        (lambda: k_shot(m=2, code_every=2), "uniform", {"ema": 0.5, "factories": OTHERS}),
    ],
)
def test_stopped_after_any_write_it_goes_on_to_the_same_end(net, sampler, settings, of, tmp_path):
    def make(folder):
        return trainer(seeded(net), folder, sampler, **settings)

    whole = make(tmp_path / "whole")
    left = left_by_kills(tmp_path / "whole", lambda: train(whole))
    log = without_times(tmp_path / "whole" / "train.jsonl")
    for name, folder in dict.fromkeys([left[0], *of(left)]):  # the first is before a checkpoint
        again = make(folder)
        train(again)
        assert same(weights(whole.net), weights(again.net)), name
        assert without_times(folder / "train.jsonl") == log
    assert len(left) >= 7  # four records, three checkpoints


def test_broken_off_on_a_device_it_goes_on_to_the_same_end(tmp_path, monkeypatch, device):
    def make(folder):
        return trainer(seeded(lambda: ms.Supernet(Dropping())), folder, device=device)

    whole, again = make(tmp_path / "whole"), make(tmp_path / "again")
    train(whole)
    assert interrupted(make, tmp_path / "again", monkeypatch, 3)
    train(again)
    assert again.step == whole.step and same(weights(whole.net), weights(again.net))


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_images_in_files_of_growing_sizes_go_on_in_the_middle_of_an_epoch(tmp_path):
    """Killed in the first epoch it goes on from the folder, in the second from shards of it."""
    root = tinted(tmp_path / "folder", 9, 100, {"train": (8, 8, 8), "test": (1, 1, 1)})
    entries = [*members(root, "train")]
    for i in range(3):
        write_shard(tmp_path / "shards" / "train" / f"{i}.tar", entries[16 * i : 16 * (i + 1)])
    write_shard(tmp_path / "shards" / "test" / "0.tar", members(root, "test"))
    shapes = []

    def make(folder, kind):
        splits = ms.data.load(kind, root=tmp_path / kind, image_size=8, validation=0, memory=0)
        batches = ms.data.Batches(
            splits.train,
            6,
            mean=splits.mean,
            std=splits.std,
            seed=1,
            augment=ms.data.Augment(flip=True, crop_scale=(0.5, 1.0), random_erasing=0.5),
            growth=ms.data.Growth((6, 8), 2),
            workers=1,
        )
        net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4, channels=3)))
        net.model.register_forward_pre_hook(lambda _, args: shapes.append(args[0].shape[-2:]))
        return trainer(net, folder, batches=batches, batch_size=6, image_sizes=[6, 8])

    whole = make(tmp_path / "whole", "folder")
    left = left_by_kills(tmp_path / "whole", lambda: train(whole))
    assert (whole.step, shapes) == (8, [(6, 6)] * 4 + [(8, 8)] * 4)
    kept = [folder for name, folder in left if name == "trainer.pt"]
    kinds = {3: "folder", 6: "shards"}  # of epochs of four steps
    for folder in kept:
        kind = kinds.pop(load_checkpoint(folder / "trainer.pt")["step"], None)
        if kind is not None:
            again = make(folder, kind)
            train(again)
            assert same(weights(whole.net), weights(again.net)), kind
    assert not kinds


def test_multiply_adds_are_of_the_size_that_images_have():
    sizes, images = [4, 8], digits(128).train
    run = trainer(
        batches=ms.data.Batches(images, 32, growth=ms.data.Growth(tuple(sizes), 2), **LOOK),
        image_sizes=sizes,
        factories={
            "macs_of": lambda archs: [0] * len(archs),
            "macs_at": lambda side: lambda archs: [side] * len(archs),
        },
    )
    train(run)
    assert run.compute.macs == 3 * 128 * (4 + 8)  # a backward is two forwards


def test_costs_of_one_size_do_not_do_for_images_of_several():
    growth = ms.data.Growth((4, 8), 2)
    with pytest.raises(ValueError, match=r"several, of \[4, 8\] pixels: give macs_at too"):
        trainer(
            batches=ms.data.Batches(digits(128).train, 32, growth=growth, **LOOK),
            image_sizes=[4, 8],
            factories={"macs_of": lambda archs: [0] * len(archs)},
        )


def test_probes_with_full_masks_count_held_out_images_at_their_full_size():
    """Also of a training that goes on when its own images have grown, as that by 8 alone does."""
    spent = {}
    for sizes in ([6, 8], [8]):
        run = trainer(
            batches=ms.data.Batches(
                digits(128).train, 32, growth=ms.data.Growth(tuple(sizes), 2), **LOOK
            ),
            image_sizes=sizes,
            factories={
                "macs_of": lambda archs: [0] * len(archs),
                "macs_at": lambda side: lambda archs: [0] * len(archs),
                "held_out": lambda images, seed: [(torch.rand(3, 1, 8, 8), torch.zeros(3).long())],
            },
        )
        run.sampler = Asking(run.net.space)
        train(run)
        spent[len(sizes)] = run.compute.probe_macs
    assert spent[2] == spent[1] > 0


class Asking(Stateless):
    """Trains the largest architecture, and asks about it with full masks after every step."""

    def __init__(self, space):
        policy = {d: torch.eye(len(d.options))[-1] for d in space.decisions}
        self.path = PlannedPath(space.largest, policy=policy, masks="full")

    def plan(self, rng, step):
        return Plan((PlannedPath(self.path.arch),))

    def probe(self, rng, step, steps):
        return Probe((self.path,), images=3)


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
        "schema", "fingerprint", "step", "losses", "weights", "optimizer", "schedule", "average",
        "code_optimizer",
        "sampler", "sampler_optimizer", "saved", "probed_images", "weight_step", "compute",
    }  # fmt: skip
    assert (state["schema"], state["step"]) == (1, 8)
    momenta = {i: s["momentum_buffer"] for i, s in state["optimizer"]["state"].items()}
    own = run.optimisation.weights.state_dict()["state"]
    assert len(momenta) > 0
    assert all(torch.equal(momenta[i], own[i]["momentum_buffer"]) for i in momenta)


def test_what_a_sampler_has_learnt_is_restored(tmp_path, monkeypatch):
    class Counting(Stateless):
        """Its plans depend on what was fed back."""

        def __init__(self) -> None:
            self.total = torch.zeros(())

        def plan(self, rng, step):
            return Plan((PlannedPath((int(self.total * 1000) % 4, 0, step % 4, 3)),))

        def feedback(self, plan, losses, probed=None):
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
    other = trainer(folder=tmp_path, fingerprint="other")
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


@pytest.mark.parametrize("part", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.97])
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
