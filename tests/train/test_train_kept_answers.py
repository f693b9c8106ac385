"""Probes that are compared with answers of a period before: against weights that are all kept."""

import copy

import numpy as np
import pytest
import torch
from shift_nets import APART, Conv, Vit, held_out, known_costs, shift, shifting, supernet
from torch.nn import functional as F

from manyshot.train import CheckpointError, PlannedPath, Probe, Probed, train
from manyshot.train.probing import PART
from manyshot.train.samplers.complexity import ComplexityDistribution
from manyshot.train.samplers.kept import Answers

K = 4
OURS = {"rule": "bounded", "kept": "answers", "warmup": 0.2, "period": 3, "images": 1024}
"""Of 20 steps the first four are warm-up: answers of steps 2 to 4 are the first that are kept."""
UPDATED = (7, 10, 13, 16, 19)


def loss_by_hand(net, arch, batch):
    images, labels = batch
    with torch.no_grad():
        logits = copy.deepcopy(net).eval()(images, arch, stats="batch")
    return float(F.cross_entropy(logits, labels))


def watched(make, macs_of=None, **options):
    """A finished run; the network after every step; the records by step."""
    run = shifting(make=make, dtype=torch.float64, shifts={**OURS, **options}, macs_of=macs_of)
    nets, probe, rows = [copy.deepcopy(run.net)], run.sampler.probe, {}

    def probing(rng, step, steps):
        nets.append(copy.deepcopy(run.net))
        return probe(rng, step, steps)

    note = run.journal.note

    def noting(step, report):
        rows.update({} if report is None else {step: report})
        note(step, report)

    run.sampler.probe, run.journal.note = probing, noting
    train(run)
    return run, nets, rows


@pytest.mark.parametrize("make", [Vit, Conv])
def test_a_change_is_that_of_the_same_images_and_paths_a_period_apart(make):
    """Two batches, due in the second and the third of three steps; losses from kept copies."""
    run, nets, rows = watched(make)
    batches = list(held_out(APART, run.prober.image_seed(0), torch.float64))
    sizes = [len(labels) for _, labels in batches]
    assert sizes == [32, 28]
    assert [step for step, row in rows.items() if row.get("update")] == list(UPDATED)
    asked = run.sampler.probed
    assert any(networks[2] != networks[3] for networks in asked)  # so that the turn matters
    for step in UPDATED:
        for k, networks in enumerate(asked):
            now, then = (
                sum(
                    size * loss_by_hand(nets[step - off - ago], networks[turn], batch)
                    for size, batch, off, turn in zip(sizes, batches, (1, 0), (2, 3), strict=True)
                )
                / APART
                for ago in (0, 3)
            )
            # 1e-6: probes take the softmax in float32
            assert rows[step]["held_out_loss"][k] == pytest.approx(now, rel=1e-6)
            assert rows[step]["change"][k] == pytest.approx(now - then, abs=2e-6)
    assert run.prober.saved == {}
    assert any(abs(change) > 1e-4 for change in rows[UPDATED[-1]]["change"])


def test_the_compute_of_probes_is_that_of_the_images_they_forward():
    macs_of = known_costs(Vit)["macs"]
    run, _, _ = watched(Vit, macs_of=lambda archs: macs_of(archs).astype(int))
    turns = [[networks[turn] for networks in run.sampler.probed] for turn in (2, 3)]
    each = [size * macs_of(archs).sum() for size, archs in zip((32, 28), turns, strict=True)]
    assert run.compute.probe_macs == 6 * sum(each) > 0  # five updates, and what they compare with


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda state: state.pop("compute"), "compute"),
        (lambda state: state["compute"].pop("split_macs"), "compute.split_macs"),
        (lambda state: state["sampler"].pop("answers"), "answers"),
        (lambda state: state["sampler"].update(answers=None), "answers"),
        (lambda state: state["sampler"].pop("distance"), "distance"),
    ],
)
def test_checkpoints_without_an_entry_are_refused_by_its_name(tmp_path, spoil, name):
    train(shifting(shifts=OURS, folder=tmp_path))
    path = tmp_path / "trainer.pt"
    state = torch.load(path, weights_only=True)
    spoil(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=rf"trainer\.pt.* no '{name}'.*from the beginning"):
        train(shifting(shifts=OURS, folder=tmp_path))


def test_images_are_shared_out_over_turns_each_once():
    run = shifting(shifts=OURS)
    run.prober.held_out = lambda images, seed: held_out(APART, seed)
    ask = Probe((PlannedPath(run.net.space.smallest),), which=0, turns=5)
    seen = [run.prober.answer(Probe(**{**fields(ask), "turn": t}), 9) for t in range(1, 6)]
    assert [answer.weight for answer in seen] == [0.0, 0.0, 32.0, 0.0, 28.0]
    whole = run.prober.answer(Probe(ask.paths, which=0), 3)
    mean = sum(answer.weight * answer.losses for answer in seen) / APART
    # the loss of a batch is float32
    torch.testing.assert_close(mean, whole.losses, rtol=1e-6, atol=0)
    back = run.prober.answer(Probe(**{**fields(ask), "turn": 3}), 9)  # out of order, as resumed
    assert torch.equal(back.losses, seen[2].losses)
    assert run.prober.images == 2 * APART + 32


def test_large_batches_are_cut_in_parts_of_64_and_more():
    run = shifting(shifts=OURS)
    count = 3 * PART + 20
    batch = (torch.randn(count, 1, 8, 8), torch.arange(count) % 10)
    run.prober.held_out = lambda images, seed: [batch]
    path = (PlannedPath(run.net.space.smallest),)
    images = [
        run.prober.answer(Probe(path, which=0, turn=t, turns=6), 0).weight for t in range(1, 7)
    ]
    assert sum(images) == count
    assert images == [0, 71, 0, 71, 0, 70]


def fields(probe):
    return {name: getattr(probe, name) for name in probe.__dataclass_fields__}


# -- noise and signal ------------------------------------------------------------------------


def loop(seed, losses, *, bins=8, period=10, updates=22, learns=True):
    """Probabilities after so many updates of losses, `losses(draws of each target, rng)`.

    Four of ten turns have images. Targets are drawn in every step, by the probabilities of then.
    """
    rng, distribution = np.random.default_rng(seed), ComplexityDistribution(bins)
    answers, n = Answers(period), np.zeros(bins)
    for _ in range(updates + 1):
        drawn = distribution.sampling_probabilities()
        answers.begin(range(bins), drawn)
        for turn in range(1, period + 1):
            n += rng.multinomial(10, drawn.numpy())
            seen = 256.0 if turn in (3, 5, 8, 10) else 0.0
            answers.take(turn, Probed(torch.from_numpy(losses(n, rng)), weight=seen))
        change = answers.change()
        if change is not None and learns:
            distribution.update(change.deltas, change.bins, change.drawn)
    return distribution.probabilities().numpy(), n


def test_noise_in_answers_leaves_probabilities_near_uniform():
    """An answer is in two changes, with opposite signs."""
    found = [loop(seed, lambda n, rng: rng.normal(0, 0.03, 8))[0] for seed in range(40)]
    assert (np.abs(8 * np.array(found) - 1).max(1) <= 0.2).mean() >= 0.95


def test_a_signal_beyond_the_noise_moves_mass_to_it():
    slopes = 2e-4 * np.linspace(0.2, 1.8, 8)  # per draw

    def falling(n, rng):
        return -slopes * n + rng.normal(0, 0.003, 8)

    found = np.array([loop(seed, falling)[0] for seed in range(20)])
    assert (found @ slopes > slopes.mean()).mean() >= 0.95
    assert np.corrcoef(found.mean(0), slopes)[0, 1] > 0.9


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_closed_loop_with_equal_targets_ends_no_worse_than_uniform(noise):
    def mean_loss(seed, learns):
        def losses(n, rng):
            return 2 * np.exp(-8 * n / 1500) + noise * rng.normal(size=8)

        _, n = loop(seed, losses, updates=40, learns=learns)
        return np.mean(2 * np.exp(-8 * n / 1500))

    learnt, uniform = (
        np.mean([mean_loss(seed, learns) for seed in range(4)]) for learns in (True, False)
    )
    assert learnt <= 1.01 * uniform


def test_gains_are_per_draw_of_the_steps_in_between():
    """A turn in the middle of a period: half of its steps drew by the probabilities before."""
    first, second = (torch.tensor(p, dtype=torch.float64) for p in ([0.2, 0.8], [0.6, 0.4]))
    answers = Answers(4)
    for drawn, losses in ((first, [1.0, 2.0]), (second, [0.5, 1.0])):
        answers.begin([0, 1], drawn)
        for turn in range(1, 5):
            weight = {2: 100.0, 4: 50.0}.get(turn, 0.0)
            answers.take(turn, Probed(torch.tensor(losses).double(), weight=weight))
    change = answers.change()
    assert change.deltas.tolist() == pytest.approx([-0.5, -1.0])
    share = (100 * 2 / 4 + 50) / 150
    expected = share * second + (1 - share) * first
    torch.testing.assert_close(change.drawn, expected)
    distribution = ComplexityDistribution(2)
    distribution.update(change.deltas, change.bins, change.drawn)
    gains = np.array([0.5, 1.0]) / (2 * expected.numpy())
    assert distribution.gains[:, -1].numpy() == pytest.approx(gains - gains.mean(), rel=1e-12)


def test_what_is_kept_can_be_put_away_and_taken_up():
    one = Answers(2)
    drawn = torch.full((2,), 0.5, dtype=torch.float64)
    for value in (3.0, 1.0):
        one.begin([0, 1], drawn)
        for turn in (1, 2):
            other = Answers(2)
            other.load_state_dict(one.state_dict())
            one = other
            one.take(turn, Probed(torch.tensor([value, value * turn]).double(), weight=1.0))
    assert one.change().deltas.tolist() == [-2.0, -3.0]
    assert one.bins == [0, 1]


def test_without_room_for_an_update_nothing_is_asked():
    net = supernet()
    run = shifting(shift(net, **{**OURS, "period": 11}), net)
    with pytest.warns(UserWarning, match="the distribution over costs will not move"):
        train(run)
    assert run.prober.images == 0
