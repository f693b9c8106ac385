"""Minutes become epochs before a run begins, and leave no other trace."""

import contextlib
import itertools
import time

import pytest
import torch

import manyshot as ms
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.stages import lengths
from manyshot.recipe import Recipe, RecipeError, TrainingSettings
from manyshot.run_folder import RunFolder
from manyshot.train import engine
from pipeline_runs import EVERYTHING, outcome, run, small

MINUTES = ("train.minutes=2.0", "finish.training.minutes=1.0", "finish.mode=finetune")


class Notes:
    """Progress that notes what is said."""

    def __init__(self, told):
        self.told = told

    def stage(self, name, total, done=0):
        return contextlib.nullcontext(lambda done, note: self.told.append((name, note)))


@pytest.fixture
def slow(monkeypatch):
    """Steps of the supernet take 10 seconds, those of a winner 5; real ones run, untimed."""
    steps = []

    def seconds(train, most):
        train(min(2, most))
        steps.append(most)
        return (10.0, 5.0)[len(steps) - 1]

    monkeypatch.setattr(lengths, "seconds_of_a_step", seconds)
    return steps


def test_a_run_by_minutes_is_the_run_by_the_epochs_that_they_become(tmp_path, slow):
    """128 images in batches of 16 are 8 steps an epoch: 80 and 40 seconds, in 120 and in 60."""
    batches = ("train.batch_size=16", "finish.training.batch_size=16")
    recipe = small(*batches, *MINUTES)
    run(recipe, tmp_path / "minutes")
    assert slow == [8, 8]
    resolved = RunFolder(tmp_path / "minutes").recipe()
    for training in (resolved.train, resolved.finish.training):
        assert (training.epochs, training.minutes) == (1, None)
    epochs = ("train.epochs=1", "finish.training.epochs=1", "finish.mode=finetune")
    run(small(*batches, *epochs), tmp_path / "epochs")
    assert outcome(tmp_path / "minutes") == outcome(tmp_path / "epochs")
    run(recipe, tmp_path / "minutes")  # goes on, with the epochs that it has
    assert slow == [8, 8]


def test_other_minutes_of_a_run_that_has_begun_are_said(tmp_path, slow):
    asked = ("train.batch_size=16", "finish.training.batch_size=16", *MINUTES)
    run(small(*asked), tmp_path / "run")
    before = outcome(tmp_path / "run")
    with pytest.warns(UserWarning, match="is not used") as warned:
        run(small(*asked, "train.minutes=3.5", "finish.training.minutes=9.0"), tmp_path / "run")
    for section, old, new, warning in (
        ("train", 2, 3.5, warned[0]),
        ("finish.training", 1, 9, warned[1]),
    ):
        assert str(warning.message) == (
            f"{section}.minutes = {new} is not used: {tmp_path / 'run'} holds a run that began "
            f"with {section}.minutes = {old}, which became {section}.epochs = 1, and it goes on "
            "with these. For other minutes choose another --out folder"
        )
    assert len(warned) == 2 and outcome(tmp_path / "run") == before
    epochs = ("train.epochs=1", "finish.training.epochs=1", "finish.mode=inherit")
    run(small(*epochs), tmp_path / "epochs")
    with pytest.warns(
        UserWarning, match=r"train\.minutes = 2 .* began with train\.epochs = 1, and"
    ):
        run(small(*epochs, "train.minutes=2.0", "finish.training.minutes=9.0"), tmp_path / "epochs")


def test_minutes_on_record_are_those_that_became_epochs(tmp_path, slow, monkeypatch):
    """Of a folder that checks had left, the minutes that the run then began with."""
    monkeypatch.setattr("manyshot.pipeline.verbs.run.train_stage", lambda *_: None)
    recipe = small("train.batch_size=16", "train.minutes=2.0", "finish.mode=inherit")
    train_only(recipe, tmp_path)
    assert RunFolder(tmp_path).space().minutes == {"train": 2}
    slow.clear()
    train_only(small("train.batch_size=16", "train.minutes=2.5", "finish.mode=inherit"), tmp_path)
    assert RunFolder(tmp_path).space().minutes == {"train": 2.5}


@pytest.mark.parametrize(("minutes", "epochs"), [(0.01, 1), (8.0, 6), (100.0, 75)])
def test_as_many_epochs_as_fit_and_at_least_one(tmp_path, monkeypatch, minutes, epochs):
    """Of 8 steps of 10 seconds each."""
    told = []
    monkeypatch.setattr(lengths, "seconds_of_a_step", lambda train, most, *_: 10.0)
    monkeypatch.setattr("manyshot.pipeline.verbs.run.train_stage", lambda *_: None)

    train_only(small("train.batch_size=16", f"train.minutes={minutes}"), tmp_path, Notes(told))
    assert RunFolder(tmp_path).recipe().train.epochs == epochs
    [words] = [note for name, note in told if name == "timing"]
    assert words.startswith(f"train: about {epochs} epochs in ") and "at 2 images/s" in words


@pytest.mark.parametrize("method", [(), EVERYTHING], ids=["uniform", "everything"])
def test_timing_leaves_weights_as_they_are(method):
    ws = Workspace.build(small(*method, *MINUTES, "train.batch_size=16"))
    before = {name: tensor.clone() for name, tensor in ws.net.state_dict().items()}
    accelerator = engine(ws.device, ws.recipe.train, None)
    for train in (lengths._train_supernet, lengths._finish):
        # The warnings of a sampler that has too few steps here are not those of the run.
        took = lengths.seconds_of_a_step(
            lambda count, train=train: train(ws, accelerator, count), 2
        )
        assert 0 < took < 60
    assert all(torch.equal(tensor, before[name]) for name, tensor in ws.net.state_dict().items())


def test_what_ends_the_timing_of_a_shared_out_supernet_is_said(monkeypatch):
    """Its tensors are NaN without a place of their own then, as `sharded` leaves them."""

    def failing(ws, *_):
        for parameter in ws.net.parameters():
            parameter.data = torch.full((), torch.nan).expand(parameter.shape)
        raise ArithmeticError("what went wrong first")

    monkeypatch.setattr(lengths, "train_supernet", failing)
    ws = Workspace.build(small("train.minutes=1.0"))
    with pytest.raises(ArithmeticError, match="what went wrong first"):
        lengths._train_supernet(ws, engine(ws.device, ws.recipe.train), 1)


def test_steps_are_timed_until_they_took_long_enough():
    """0.1 s each, and 7 s more for the first ones."""
    calls = []

    def train(count):
        calls.append(count)
        return 0.1 * count + (7 if len(calls) == 1 else 0)

    assert lengths.seconds_of_a_step(train, 1000) == pytest.approx(0.1)
    assert calls == [2, 4, 8, 8, 8, 8, 8]  # stretches of 0.6 s at least
    calls.clear()
    assert lengths.seconds_of_a_step(train, 5) == pytest.approx(0.1)
    assert calls == [2, 4, 5, 5, 5, 5, 5]  # no more than an epoch at once
    calls.clear()
    assert lengths.seconds_of_a_step(lambda count: calls.append(count) or 3 * count, 100) == 3.0
    assert calls == [2, 4]  # 12 s are enough


def test_what_else_the_machine_does_for_a_while_does_not_count():
    """Two stretches of five take four times as long as the others."""
    busy = itertools.cycle((1.0, 4.0, 1.0, 4.0, 1.0))
    took = lengths.seconds_of_a_step(lambda count: 0.2 * count * next(busy), 8)
    assert took == pytest.approx(0.2)


def test_making_a_training_is_not_counted_as_its_steps(monkeypatch):
    """Of a few steps an epoch it took most of the time."""
    ws = Workspace.build(small("finish.mode=finetune"))
    accelerator = engine(ws.device, ws.recipe.train)
    for name, train in {"train_supernet": lengths._train_supernet, "fit": lengths._finish}.items():
        real, plain = getattr(lengths, name), train(ws, accelerator, 2)

        def slow(*args, real=real, **kwargs):
            time.sleep(2.0)
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(lengths, name, slow)
            assert 0 < train(ws, accelerator, 2) < plain + 2.0


def test_a_usual_winner_costs_about_the_mean_of_the_largest_within_budgets():
    ws = Workspace.build(small("search.budgets=['macs<=30%', 'macs<=90%']"))
    macs = ws.costs["macs"]
    networks = list(ws.net.space.enumerate())
    largest = macs([ws.net.space.largest])[0]
    most = [max(c for c in macs(networks) if c <= share * largest) for share in (0.3, 0.9)]
    usual = macs([lengths._usual_winner(ws)])[0]
    assert abs(usual - sum(most) / 2) < 0.1 * largest


def test_all_processes_train_as_long_as_the_first_took(monkeypatch):
    """This one is the second, and quick: the first took a second for each step."""
    calls = []
    monkeypatch.setattr(lengths, "broadcast_object_list", lambda _: [float(calls[-1])])

    def train(count):
        calls.append(count)
        return 0.0

    assert lengths.seconds_of_a_step(train, 1000, enough_s=30.0) == 1.0
    assert calls == [2, 4, 8, 8, 8, 8, 8]


def test_minutes_are_for_runs_alone():
    with pytest.raises(
        RecipeError, match="minutes = 1.0 is for runs, .* a truth is to be the same"
    ):
        Recipe.build({"truth": {"training": {"minutes": 1.0}}}, (), "here")
    with pytest.raises(ValueError, match="settings.minutes = 1.0 is for runs, .*: give epochs"):
        ms.fit(torch.nn.Linear(2, 2), [], settings=TrainingSettings(minutes=1.0))
    with pytest.raises(RecipeError, match="train.minutes"):
        Recipe.build({"train": {"minutes": 0.0}}, (), "here")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.123, "0.12 s"),
        (40.4, "40 s"),
        (89, "89 s"),
        (720, "12 min"),
        (5000, "83 min"),
        (12600, "3.5 h"),
    ],
)
def test_times_in_words(seconds, words):
    assert lengths.in_words(seconds) == words


def test_an_estimate_is_shown_once_and_changes_nothing(tmp_path, monkeypatch):
    """8 steps of 10 s, 2 epochs; 20 scores of 3 s; 2 winners and 6 controls of 8 steps of 2 s."""
    steps = iter((10.0, 2.0))
    monkeypatch.setattr(lengths, "seconds_of_a_step", lambda *_: next(steps))
    monkeypatch.setattr(lengths, "_seconds_of_a_score", lambda ws: 3.0)
    sets = (
        *("train.batch_size=16", "train.epochs=2", "finish.mode=finetune"),
        *("finish.training.batch_size=16", "finish.training.epochs=1"),
        *("search.budgets=['macs<=40%', 'macs<=60%']", "search.candidates=20"),
        *("controls.random=2", "controls.largest=true"),
    )
    told = []
    run(small(*sets), tmp_path / "watched", progress=Notes(told))
    assert [note for name, note in told if name == "estimate"] == [
        "about: training 2.7 min, search 60 s, finishing 2.1 min"
    ]
    told.clear()
    run(small(*sets), tmp_path / "watched", progress=Notes(told))  # has begun
    assert "estimate" not in {name for name, _ in told}
    run(small(*sets), tmp_path / "silent")
    assert outcome(tmp_path / "watched") == outcome(tmp_path / "silent")


def test_real_steps_and_scores_of_an_estimate_change_nothing(tmp_path):
    told = []
    run(small(), tmp_path / "watched", progress=Notes(told))
    [words] = [note for name, note in told if name == "estimate"]
    assert words.startswith("about: training ") and "search " in words
    run(small(), tmp_path / "silent")
    assert outcome(tmp_path / "watched") == outcome(tmp_path / "silent")


def test_steps_are_timed_without_a_shrinker(monkeypatch):
    """Its turns are as many in an epoch of few steps as in all of training."""
    shrinks = ("shrink.name=balanced", "shrink.at=[0.5]", "shrink.options={ samples = 8 }")
    ws = Workspace.build(small(*shrinks, "sampler.name=fair"))
    trained = []
    monkeypatch.setattr(lengths, "train_supernet", lambda few, *_: trained.append(few.recipe))
    lengths._train_supernet(ws, engine(ws.device, ws.recipe.train), 2)
    assert [recipe.shrinks for recipe in trained] == [False] and ws.recipe.shrinks


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (("train.least_images=1000", "train.epochs=2"), 8),  # of 128 images
        (("train.least_images=1024", "train.epochs=2"), 8),
        (("train.least_images=1025", "train.epochs=2"), 9),
        (("train.least_images=1000", "train.epochs=20"), 20),
        (("train.least_images=0", "train.epochs=2"), 2),
        (("train.least_images=1000000", "train.epochs=20"), 200),
        (("train.least_images=1000000", "train.epochs=300"), 300),
        (("train.epochs=2",), 2),
    ],
)
def test_epochs_are_so_many_that_the_least_number_of_images_is_seen(settings, wanted):
    train = Workspace.build(small(*settings)).recipe.train
    assert (train.epochs, train.least_images) == (wanted, None)


def test_winners_that_learn_from_validation_images_too_need_fewer_epochs():
    least = ("finish.training.least_images=1920",)  # of 128 images, and 64
    epochs = {
        data: Workspace.build(small(*least, f"finish.data={data}")).recipe.finish.training.epochs
        for data in ("train", "train+validation")
    }
    assert epochs == {"train": 15, "train+validation": 10}


def test_least_images_are_of_runs():
    with pytest.raises(ValueError, match="least_images = 5 is for runs"):
        ms.fit(torch.nn.Linear(1, 1), [], settings=TrainingSettings(least_images=5))
    with pytest.raises(
        RecipeError, match="least_images = 5 is for runs, .* leave least_images out"
    ):
        Recipe.build({"truth": {"training": {"least_images": 5}}}, (), "here")
    Recipe.build({"truth": {"training": {"least_images": 0}}}, (), "none is asked for")
    data = [(torch.zeros(1), 0), (torch.ones(1), 1)] * 2
    none = TrainingSettings(least_images=0, epochs=1, batch_size=2)
    assert ms.fit(torch.nn.Linear(1, 2), data, settings=none).step == 2
    late = {"epochs": 2, "snapshots": {"number": 1, "epochs": 3}, "least_images": 0}
    with pytest.raises(RecipeError, match="the first snapshot would come when"):
        Recipe.build({"train": late}, (), "0 adds no epochs")


def test_an_epoch_of_all_images_may_be_timed(tmp_path):
    """Of 128 training images and 64 for validation an epoch of finishing has six steps of 32."""
    small_epochs = ("finish.data=train+validation", "finish.training.batch_size=32")
    ws = Workspace.build(small(*small_epochs, "finish.mode=finetune"))
    accelerator = engine(ws.device, ws.recipe.train)
    counts = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lengths, "fit", lambda net, batches, **kwargs: counts.append(len(batches)))
        for steps in (4, 6):
            lengths._finish(ws, accelerator, steps)
    assert counts == [4, 6]
    assert lengths.estimate(ws, accelerator, whole=True)["finishing"] > 0


@pytest.mark.parametrize(("workers", "turns"), [(1, 8), (2, 1 + 3), (4, 1 + 2), (64, 1 + 1)])
def test_workers_finish_winners_and_then_controls_in_turns(monkeypatch, workers, turns):
    """Two winners and six controls, each of 8 steps of 2 s."""
    monkeypatch.setattr(lengths, "seconds_of_a_step", lambda *_: 2.0)
    sets = (
        *("finish.training.batch_size=16", "finish.training.epochs=1", "finish.mode=finetune"),
        *("controls.random=2", "controls.largest=true"),
    )
    ws = Workspace.build(small(*sets))
    seconds = lengths.estimate(ws, engine(ws.device, ws.recipe.train), whole=True, workers=workers)
    beginning = lengths.BEGINNING_S if workers > 1 else 0
    assert seconds["finishing"] == 16 * turns + beginning
