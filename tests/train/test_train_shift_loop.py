"""ShiftNAS's sampler in the training loop: what moves when, records, and stops at any moment."""

import contextlib
import functools
import json
import re

import numpy as np
import pytest
import torch
from shift_nets import Conv, Vit, k_shot, shift, shifting, supernet
from train_nets import Stopped, same, weights

import manyshot as ms
from kills import left_by_kills
from manyshot import records
from manyshot.nn.agreement import check_agreement
from manyshot.train import NonFiniteLoss, train
from manyshot.train.checkpoint import load_checkpoint
from manyshot.train.samplers.complexity import ComplexityDistribution

SAVED, UPDATED = 4, (7, 10, 13, 16, 19)
"""Of 20 steps a fifth is warm-up; updates follow every third."""


def learnt(run) -> dict[str, bytes]:
    """All that a run has learnt: weights, generator, distribution, optimisers, saved weights."""
    state = {
        "net": run.net.state_dict(),
        "saved": run.prober.saved,
        "sampler": run.sampler.state_dict(),
        "optimizer": run.optimisation.weights.state_dict()["state"],
        "codes": run.optimisation.codes and run.optimisation.codes.state_dict()["state"],
        "sampler_optimizer": run.optimisation.sampler.state_dict()["state"],
        "counts": [run.step, run.weight_step, run.prober.images],
    }
    leaves, _ = torch.utils._pytree.tree_flatten_with_path(state)
    kept = [(str(path), leaf) for path, leaf in leaves if not isinstance(leaf, str | None)]
    return {path: torch.as_tensor(leaf).numpy().tobytes() for path, leaf in kept}


def moved_in(one, other) -> set[str]:
    return {name for name in other if one.get(name) != other[name]}


def rows_of(folder, name) -> list[dict]:
    lines = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in lines]


def errors(sampler) -> list[float]:
    """By how many steps of the grid each target is missed, decoded one by one."""
    generator, found = sampler.generator, []
    for target in sampler.grid.centres:
        [arch] = generator.archs(generator(generator.encode([target]), greedy=True).policies)
        found.append((sampler.table([arch])[0] - target) / sampler.grid.step)
    return found


# -- what moves when ---------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", ["enumerated", "pathwise"])
def test_what_moves_when(estimator):
    run = shifting(shifts={"estimator": estimator})
    sampler, history = run.sampler, [learnt(run)]
    logits, note, feedback = sampler.distribution.logits, run.journal.note, sampler.feedback
    step, before = run.optimisation.sampler.step, []

    def stepping():
        rests = logits.clone()
        step()
        assert torch.equal(logits, rests)  # the optimiser of the generator has no hold on it
        before.append({n: t.clone() for n, t in sampler.generator.state_dict().items()})

    def feeding(*args):
        feedback(*args)
        assert same(before[-1], sampler.generator.state_dict())  # nor the distribution on this

    def noting(*args):
        note(*args)
        history.append(learnt(run))

    run.optimisation.sampler.step, sampler.feedback, run.journal.note = stepping, feeding, noting
    train(run)
    assert len(before) == 20
    for step, (one, other) in enumerate(zip(history, history[1:], strict=False), start=1):
        moved = moved_in(one, other)
        assert any("'generator'" in n and "cell" in n for n in moved)
        assert any("'adam'" in n for n in moved) == (step in UPDATED)
        assert step in UPDATED or not any("'distribution'" in n for n in moved)
        assert any("'saved'" in n for n in moved) == (step in (SAVED, *UPDATED))
    assert any("'logits'" in n for n in moved_in(history[0], history[-1]))
    assert not same(run.prober.saved, dict(run.net.named_parameters()))  # of step 19, not of 20
    assert sampler.counts.sum() == run.weight_step == 20


@pytest.mark.parametrize("limit", [0, 0.01, 0.1])
def test_the_gradient_of_the_generator_is_clipped_apart(limit):
    run = shifting(shifts={"clip_norm": limit}, epochs=1, clip_norm=1e-3)
    step, norms, others = run.optimisation.sampler.step, [], []

    def norm(parameters):
        return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())

    def stepping():
        norms.append(norm(run.sampler.generator.parameters()))
        step()

    own = run.optimisation.weights.step
    run.optimisation.weights.step = lambda: (others.append(norm(run.net.parameters())), own())
    run.optimisation.sampler.step = stepping
    train(run)
    if not limit:
        assert min(norms) > 0.12  # so that the limits limit
    else:
        assert norms == pytest.approx([limit] * 4, rel=1e-4)  # clipping adds 1e-6 to the norm
    assert others == pytest.approx([1e-3] * 4, rel=1e-2)


@pytest.mark.parametrize("make", [Vit, Conv])
def test_losses_fall_and_costs_come_near_their_targets(make):
    """52 steps, with and without batch norm; that it learns, not how well."""
    run, seen = shifting(make=make, epochs=13, lr=1e-2), []
    feedback, first = run.sampler.feedback, np.abs(errors(run.sampler)).mean()

    def feeding(plan, losses, probed=None):
        seen.append(float(losses[0]))
        feedback(plan, losses, probed)

    run.sampler.feedback = feeding
    train(run)
    assert np.mean(seen[-10:]) < np.mean(seen[:10]) - 0.1
    assert np.abs(errors(run.sampler)).mean() < first


def test_held_out_images_are_for_the_distribution_alone():
    """Of eight steps the last has the only update: the weights have not heard of it yet."""
    runs = [shifting(epochs=2, shifts={"warmup": 0.5, "period": 4}) for _ in range(2)]
    make = runs[1].prober.held_out
    runs[1].prober.held_out = lambda *args: [(1 - images, labels) for images, labels in make(*args)]
    for run in runs:
        train(run)
    one, other = runs
    assert same(weights(one.net), weights(other.net))
    assert same(*(run.sampler.generator.state_dict() for run in runs))
    assert not torch.equal(*(run.sampler.distribution.averages for run in runs))


@pytest.mark.parametrize("estimator", ["enumerated", "pathwise"])
def test_in_half_precision_the_generator_gets_whole_gradients(estimator):
    run, kinds = shifting(precision="bf16", shifts={"estimator": estimator}, epochs=3), set()
    step, before = run.optimisation.sampler.step, learnt(run)

    def stepping():
        grads = [p.grad for p in run.sampler.generator.parameters()]
        kinds.update(grad.dtype for grad in grads)
        assert all(grad.isfinite().all() for grad in grads)
        step()

    run.optimisation.sampler.step = stepping
    train(run)
    assert kinds == {torch.float32}
    assert any("'logits'" in name for name in moved_in(before, learnt(run)))


# -- records -----------------------------------------------------------------------------------


def test_records(tmp_path):
    run = shifting(folder=tmp_path)
    answers, feedback = {}, run.sampler.feedback

    def feeding(plan, losses, answered=None):
        answers[run.step + 1] = answered
        feedback(plan, losses, answered)

    run.sampler.feedback = feeding
    train(run)
    rows = records.read_lines(tmp_path / "sampler.jsonl")
    assert [row["step"] for row in rows] == sorted({3, 6, 9, 12, 15, 18, 20, *UPDATED})
    always = {"schema", "step", "metric", "targets", "probabilities", "counts"}
    always |= {"kind", "update", "error_grid_steps", "entropy_nats"}
    always |= {"distinct", "bin_entropy_nats"}
    of_updates = {"bins", "held_out_loss", "change"}
    of_updates |= {"gain", "standard_error", "signal_to_noise", "level_noise", "verdict"}
    for row in rows:
        unknown = {"signal_to_noise", "level_noise"} if row["step"] == UPDATED[0] else set()
        told = of_updates - unknown if row["step"] in UPDATED else set()
        assert set(row) == always | told
        assert row["metric"] == "macs"
        assert row["targets"] == run.sampler.grid.centres.tolist()
        assert sum(row["counts"]) == row["step"]
        assert sum(row["probabilities"]) == pytest.approx(1)
        if row["step"] in UPDATED:
            assert (row["update"], row["bins"]) == (True, [0, 1, 2, 3])
            losses, before = answers[row["step"]].losses, answers[row["step"]].before
            assert row["held_out_loss"] == losses.tolist()
            assert row["change"] == (losses - before).tolist()
    by_step = {row["step"]: row for row in rows}
    assert by_step[UPDATED[0]]["verdict"] == "too few updates to tell"
    last, gains = by_step[UPDATED[-1]], run.sampler.distribution.gains[:, -5:].numpy()
    assert last["verdict"] in ("indistinguishable from noise", "distinguishable from noise")
    assert last["gain"] == pytest.approx(gains.mean(1), rel=1e-9)
    # four targets, centred: three quarters of the degrees of freedom of five updates each
    noise = np.square(gains - gains.mean(1, keepdims=True)).sum() / (3 * 4)
    assert last["standard_error"] == pytest.approx([np.sqrt(noise / 5)] * 4, rel=1e-9)
    spread = max(0.0, gains.mean(1).var(ddof=1) - noise / 5)
    assert last["signal_to_noise"] == pytest.approx(np.sqrt(spread / noise), rel=1e-9)
    assert rows[-1]["error_grid_steps"] == pytest.approx(
        errors(run.sampler), abs=1e-12
    )  # of costs, float64
    assert all(0 < entropy < 6 * np.log(3) for row in rows for entropy in row["entropy_nats"])
    assert rows[-1]["probabilities"] == run.sampler.distribution.probabilities().tolist()
    for row in records.read_lines(tmp_path / "train.jsonl"):
        # 60 images for four targets, at two weights each
        assert row.get("probed_images", 0) == 480 * sum(step <= row["step"] for step in UPDATED)


def test_records_of_drawn_updates(tmp_path):
    train(shifting(folder=tmp_path, shifts={"estimator": "pathwise"}))
    rows = {row["step"]: row for row in records.read_lines(tmp_path / "sampler.jsonl")}
    assert {step for step, row in rows.items() if row["update"]} == set(UPDATED)
    assert all(len(rows[step]["change"]) == 4 for step in UPDATED)
    assert "bins" not in rows[UPDATED[0]]


# -- stops -------------------------------------------------------------------------------------


RUNS = {
    "enumerated": {"make": functools.partial(Vit, dropout=0.3)},
    "pathwise": {"shifts": {"estimator": "pathwise", "tau": 0.5, "jitter": True}},
    "codes": {"sharing": k_shot},
    "joint": {"sharing": lambda: k_shot(update_mode="joint"), "shifts": {"estimator": "pathwise"}},
    "bounded": {"shifts": {"rule": "bounded", "period": 1, "window": 4}},
    "batch norm": {"make": Conv, "optimizer": "sgd", "lr": 0.05},
    "ours": {
        "make": Conv,
        "shifts": {
            "rule": "bounded",
            "kept": "answers",
            "dead_zone": 0.5,
            "entropy_weight": 0.1,
            "mix_uniform": 0.3,
            "policy_share": 0.5,
            "policy_every": 2,
            "tau_end": 0.5,
        },
    },
}


def made(kind, folder, **settings):
    options = {**RUNS[kind], **settings}
    sharing = options.pop("sharing", lambda: None)()
    make = options.pop("make", Vit)
    net = supernet(make, sharing)
    sampler = shift(net, Conv if make is Conv else Vit, **options.pop("shifts", {}))
    return shifting(sampler, net, folder, **options)


@pytest.mark.parametrize(
    ("kind", "writes"),
    [("pathwise", 9), ("codes", 9), ("bounded", 9), ("batch norm", 1), ("ours", 9)]
    + [pytest.param(*of, marks=pytest.mark.slow) for of in (("joint", 11), ("ours", 3))],
)
def test_stopped_it_goes_on_to_the_same_end(kind, writes, tmp_path):
    """Before the first checkpoint or later, between an update and its checkpoint, bit for bit.

    Joint updates are codes beside draws, and "batch norm" is stopped before a checkpoint too.
    """
    whole = made(kind, tmp_path / "whole")
    _, part = left_by_kills(tmp_path / "whole", lambda: train(whole))[writes]
    again = made(kind, part)
    train(again)
    assert learnt(whole) == learnt(again)
    for name in ("train.jsonl", "sampler.jsonl"):
        assert rows_of(part, name) == rows_of(tmp_path / "whole", name)
    assert whole.prober.images > 0
    if kind not in ("bounded", "ours"):  # by which P moves only where gains can be told from noise
        assert (whole.sampler.distribution.logits != 0).any()
    assert kind in ("pathwise", "joint") or not whole.sampler.distribution.gains.isnan().all()


def test_twenty_steps_and_twenty_more_are_forty(tmp_path, monkeypatch):
    settings = {"epochs": 10, "checkpoint_steps": 20, "log_steps": 7}
    whole = made("enumerated", tmp_path / "whole", **settings)
    train(whole)
    save = ms.train.Trainer.save

    def saving(run):
        save(run)
        raise Stopped

    monkeypatch.setattr(ms.train.Trainer, "save", saving)
    first = made("enumerated", tmp_path / "parts", **settings)
    with pytest.raises(Stopped):
        train(first)
    monkeypatch.undo()
    assert first.step == 20
    again = made("enumerated", tmp_path / "parts", **settings)
    again.restore()
    assert learnt(first) == learnt(again)
    train(again)
    assert again.step == 40
    assert learnt(whole) == learnt(again)
    assert not same(whole.prober.saved, first.prober.saved)
    for name in ("train.jsonl", "sampler.jsonl"):
        assert rows_of(tmp_path / "parts", name) == rows_of(tmp_path / "whole", name)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_stopped_beside_an_update(after, tmp_path, monkeypatch):
    """The second, of step 10; the last checkpoint is of step 8, records go to step 9."""
    whole = shifting(folder=tmp_path / "whole")
    train(whole)
    update, left = ComplexityDistribution.update, [2]

    def updating(*args):
        left[0] -= 1
        if after or left[0]:
            update(*args)
        if not left[0]:
            raise Stopped

    monkeypatch.setattr(ComplexityDistribution, "update", updating)
    with pytest.raises(Stopped):
        train(shifting(folder=tmp_path / "part"))
    monkeypatch.undo()
    assert [row["step"] for row in rows_of(tmp_path / "part", "sampler.jsonl")] == [3, 6, 7, 9]
    assert load_checkpoint(tmp_path / "part" / "trainer.pt")["step"] == 8
    again = shifting(folder=tmp_path / "part")
    again.restore()
    assert [row["step"] for row in rows_of(tmp_path / "part", "sampler.jsonl")] == [3, 6, 7]
    train(again)
    assert learnt(whole) == learnt(again)
    assert rows_of(tmp_path / "part", "sampler.jsonl") == rows_of(
        tmp_path / "whole", "sampler.jsonl"
    )


def test_a_checkpoint_of_other_targets_is_refused(tmp_path):
    train(shifting(folder=tmp_path, epochs=1))
    with pytest.raises(ValueError, match="the sampler's state is of targets"):
        train(shifting(folder=tmp_path, epochs=1, shifts={"bins": 5}))


def test_divergence_that_a_probe_sees_first_is_divergence(tmp_path):
    run = shifting(folder=tmp_path)
    probe = run.sampler.probe

    def breaking(rng, step, steps):
        if step == 10:
            with torch.no_grad():
                run.net.model.head.bias.fill_(float("inf"))
        return probe(rng, step, steps)

    run.sampler.probe = breaking
    with pytest.raises(NonFiniteLoss, match=r"step 9: the held-out loss of architecture .* is nan"):
        train(run)
    assert load_checkpoint(tmp_path / "trainer.pt")["step"] == 8


def test_held_out_samples_that_are_not_finite_are_named(tmp_path):
    run = shifting(folder=tmp_path)
    held_out = run.prober.held_out

    def odd(images, seed):
        for x, labels in held_out(images, seed):
            x = x.clone()
            x[0, 0, 0, 0] = float("nan")
            yield x, labels

    run.prober.held_out = odd
    with pytest.raises(NonFiniteLoss, match="is nan, and inputs of held-out samples are not all"):
        train(run)


def test_the_bar_of_training_says_that_masks_are_compared_first(monkeypatch):
    monkeypatch.setattr("manyshot.supernet.check_agreement", check_agreement)  # every time
    notes = []

    class Noted:
        @contextlib.contextmanager
        def stage(self, name, total, done=0):
            yield lambda done, note: notes.append((done, note))

    train(shifting(None, None, None, epochs=1), Noted())
    compared = [note for note in notes if "masks compared" in note[1]]
    assert compared[0][0] == 0
    assert re.fullmatch(r"masks compared with slices: 0 of \d+", compared[0][1])
    assert notes[: len(compared)] == compared and len(notes) > len(compared)
