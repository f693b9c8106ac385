"""Whether codes matter: measured on held-out images, without a trace in what is trained."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from train_nets import LOOK, Dropping, digits, same, seeded, trainer, weights

import manyshot as ms
from manyshot import records
from manyshot.run_folder import CodeEvidence, TrainLine
from manyshot.seeding import numpy_rng, stream
from manyshot.train import TrainingWarning, evidence, train
from manyshot.train.compute import Compute

SEED = 5


def validation(images, seed):
    """Batches of two sizes."""
    looks = {key: value for key, value in LOOK.items() if key != "seed"}
    return ms.data.fixed(digits(256).validation, images, 20, seed=seed, **looks)


def run_of(folder=None, given=True, macs_of=None, **options):
    in_turn = {"code_every": 2} if options.get("codes", "learnt") == "learnt" else {}
    sharing = {"seed": 1, "last_std": 1.0, **in_turn, **options}
    net = seeded(lambda: ms.Supernet(Dropping(0.2), sharing=ms.sharing.KShot(3, **sharing)))
    factories = {"macs_of": macs_of, **({"validation": validation} if given else {})}
    return trainer(net, folder, factories=factories, epochs=4, log_steps=4)


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(evidence, "COST", 3.0)  # of 16 steps it is 3 times


def test_it_changes_nothing_that_is_trained(often, tmp_path):
    told, silent = run_of(tmp_path / "told"), run_of(tmp_path / "silent", given=False)
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        train(told)
    assert torch.equal(state, torch.get_rng_state())
    train(silent)
    assert same(weights(told.net), weights(silent.net))
    rows = {
        name: records.read_lines(tmp_path / name / "train.jsonl") for name in ("told", "silent")
    }
    assert ["codes" in row for row in rows["told"]] == [False, True, True, True]
    for row, other in zip(rows["told"], rows["silent"], strict=True):
        row.pop("codes", None)
        assert row | {"images_per_second": 0} == other | {"images_per_second": 0}


def test_losses_are_those_of_plain_networks():
    """By one copy that holds the mixture, extracted, on each path's own images."""
    run = run_of()
    found = evidence.EvidenceOfCodes(run.optimisation, validation, SEED, 16, 32).measure()
    net, rng = run.net, numpy_rng(SEED, "evidence")
    archs = [net.space.sample(rng) for _ in range(evidence.PATHS)]
    mean = net.sharing.code([net.space.sample(rng) for _ in range(evidence.MEAN_OF)]).mean(0)
    codes = net.sharing.code(archs).detach()
    one = seeded(lambda: ms.Supernet(Dropping(0.2)))
    held = net.state_dict()

    def loss(path, code):
        one.load_state_dict(
            {
                name: torch.einsum("k,k...->...", code, held[name])
                if held[name].shape != tensor.shape
                else held[name]
                for name, tensor in one.state_dict().items()
            }
        )
        subnet = one.extract(archs[path]).eval()
        batches = list(validation(32, stream(SEED, "evidence_images", path)))
        assert len(batches) == 2
        losses = [F.cross_entropy(subnet(x), y, reduction="sum") for x, y in batches]
        return float(sum(losses).detach()) / sum(len(y) for _, y in batches)

    own = [loss(i, code) for i, code in enumerate(codes)]
    by_mean = [loss(i, mean.detach()) for i in range(len(codes))]
    other = [loss(i, codes[(i + 1) % len(codes)]) for i in range(len(codes))]
    for values, value, error in (
        (by_mean, found.mean_minus_own, found.mean_minus_own_error),
        (other, found.other_minus_own, found.other_minus_own_error),
    ):
        apart = np.subtract(values, own)
        assert value == pytest.approx(apart.mean(), abs=1e-6)
        assert error == pytest.approx(apart.std(ddof=1) / math.sqrt(len(own)), abs=1e-6)
        assert error > 1e-4
    assert found.own_loss == pytest.approx(np.mean(own), abs=1e-6)
    assert (found.paths, found.images) == (12, 32)
    assert 0 < found.reachable_share < 0.5


def test_paths_are_of_the_view_that_trains():
    """Where the space shrank."""
    run = run_of()
    measured = evidence.EvidenceOfCodes(run.optimisation, validation, SEED, 16, 32)
    one = run.net.space.decisions[0]
    measured.space = run.net.space.restricted({one: {1, 2}})
    seen, code = [], run.net.sharing.code
    run.net.sharing.code = lambda archs: seen.extend(archs) or code(archs)
    assert measured.measure() is not None
    assert len(seen) == evidence.PATHS + evidence.MEAN_OF
    assert {arch[0] for arch in seen} == {1, 2}


def test_it_says_how_many_images_there_were():
    """Where there are fewer than a path is to have."""

    def few(images, seed):
        return validation(min(images, 10), seed)

    measured = evidence.EvidenceOfCodes(run_of().optimisation, few, SEED, 16, 32).measure()
    assert measured.images == 10


def test_what_it_costs_is_on_record(often, tmp_path):
    """12 paths run by 3 codes, 3 of them with a gradient besides, on 32 images: 3 times in all."""
    run = run_of(tmp_path)
    each = Compute(lambda archs: [7] * len(archs), run.net.space.largest)
    size = run.settings.batch_size
    evidence.EvidenceOfCodes(run.optimisation, validation, SEED, 16, size, each).measure()
    assert each.evidence_macs == 7 * 32 * (12 * 3 + 3 * 3)
    assert (each.macs, each.probe_macs, each.weight_steps) == (0, 0, 0)
    run = run_of(tmp_path, macs_of=lambda archs: [7] * len(archs))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TrainingWarning)
        train(run)
    rows = records.load_lines(tmp_path / "train.jsonl", TrainLine)
    assert [row.evidence_macs for row in rows] == [
        None if not times else times * each.evidence_macs for times in range(4)
    ]


def test_a_few_times_in_a_run_and_never_in_a_short_one():
    """A forward on at most a batch is at most a third of a step: times cost COST of the steps."""
    run = run_of()
    for steps, log_steps, times in ((700, 50, 0), (1600, 50, 2), (10**5, 50, 10), (6000, 2000, 3)):
        measured = evidence.EvidenceOfCodes(run.optimisation, validation, SEED, steps, 32)
        marks = [*range(log_steps, steps, log_steps), steps]
        due = [s for s in marks if measured.is_due(s, (s - 1) // log_steps * log_steps)]
        assert len(due) == times
        assert measured.times * (3 * 12 + 3 * 3) / 3 <= 0.02 * steps
        assert not due or due[-1] == steps


@pytest.mark.parametrize("options", [{"codes": "uniform"}, {"copies": 1}])
def test_one_code_for_all_is_not_compared(options):
    sharing = ms.sharing.KShot(**{"copies": 3, **options})
    net = seeded(lambda: ms.Supernet(Dropping(0.0), sharing=sharing))
    run = trainer(net)
    assert evidence.EvidenceOfCodes(run.optimisation, validation, SEED, 1, 32).measure() is None


def seen(better, error):
    return CodeEvidence(
        paths=12, images=32, own_loss=1.0, mean_minus_own=better, mean_minus_own_error=error,
        other_minus_own=0.0, other_minus_own_error=0.1, reachable_share=0.1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("better", "options", "warned"),
    [(0.05, {}, False), (0.019, {}, True), (-0.05, {}, True), (0.0, {"codes": "random"}, False)],
)
def test_codes_without_effect_are_told_at_the_end(often, monkeypatch, better, options, warned):
    """Within two standard errors of 0.01; of codes that do not learn nothing is expected."""
    monkeypatch.setattr(evidence.EvidenceOfCodes, "measure", lambda self: seen(better, 0.01))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(run_of(**options))
    told = [str(w.message) for w in caught if issubclass(w.category, TrainingWarning)]
    assert [words.partition(":")[0] for words in told] == ["codes without effect"] * warned


def test_what_is_recorded_is_strict():
    line = {"schema": 1, "step": 1, "epoch": 1.0, "images": 1, "lr": 0.1}
    good = seen(0.1, 0.01).plain()
    assert TrainLine.of({**line, "codes": good}).codes == seen(0.1, 0.01)
    for bad in ({"paths": 1}, {**good, "more": 1.0}, {**good, "reachable_share": 1.5}):
        with pytest.raises(ValueError, match="codes"):
            TrainLine.of({**line, "codes": bad})
    assert records.Part in CodeEvidence.__mro__
