"""Every setting of a recipe is used: changing it changes what a run writes, or is refused."""

import sys
import types

import pytest
import torch
from PIL import Image

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.checks import check_batch_size, check_sampler
from manyshot.pipeline.identity import fingerprint
from manyshot.recipe import Recipe, RecipeError, TrainingSettings
from manyshot.tasks import DEFAULT
from pipeline_runs import outcome, run, small

CHANGES = {
    "name": "name=other",
    "seed": "seed=2",
    "network.options": "network.options.width=4",
    "data.validation": "data.validation=80",
    "data.train_size": "data.train_size=96",
    "data.image_size": "data.image_size=6",
    "data.pad": "data.pad=0",
    "data.padding_mode": "data.padding_mode=edge",
    "data.flip": "data.flip=true",
    "sampler.name": "sampler.name=fair",
    "sampler.options": "sampler.options.paths=2",
    "sampler.held_out": "sampler.held_out=16",
    "evaluate.calibration_images": "evaluate.calibration_images=32",
    "evaluate.images": "evaluate.images=32",
    "evaluate.batch_size": "evaluate.batch_size=16",
    "search.budgets": "search.budgets=['macs<=95%']",
    "search.candidates": "search.candidates=5",
    "search.generation": "search.generation=2",
    "finish.mode": "finish.mode=scratch",
    "finish.data": "finish.data=train+validation",
    "finish.training": "finish.training.lr=0.1",
    "controls.largest": "controls.largest=true",
    "controls.random": "controls.random=1",
    "export.formats": "export.formats=[]",
    "export.normalise": "export.normalise=false",
}
ELSEWHERE = {
    "schema": "another is refused (tests of recipes)",
    "device": "an unknown one is refused (tests of runs)",
    "threads": "below",
    "sharing": "tests of K-shot runs",
    "network.name": "below",
    "network.pretrained": "tests of networks",
    "network.weights": "tests of networks and of converted runs",
    "network.convert": "tests of networks and of converted runs",
    "finish.teacher": "tests of converted runs",
    "finish.taught_by": "tests of several teachers",
    "finish.distillation": "tests of several teachers",
    "controls.scaled": "tests of converted runs",
    "task": "tests of tasks",
    "evaluate.fitness": "tests of tasks",
    "data.options": "tests of data of one's own",
    "costs": "tests of costs that are functions",
    "search.reward": "tests of rewards",
    "search.name": "below",
    "search.options": "below",
    "data.name": "below",
    "data.root": "below",
    "data.download": "tests of data",
    "data.workers": "below",
    "data.crop_scale": "below",
    "data.memory": "below",
    "data.jitter": "below",
    "data.rand_augment": "below",
    "data.random_erasing": "below",
    "data.repeats": "below",
    "train": "each changes the weights (tests of the loop) and the fingerprint (below)",
    "latency": "tests of latency",
    "shifting": "tests of shifting searches",
    "data.bad": "tests of image folders",
    "transfer": "tests of transfers",
    "truth": "tests of truths",
    "teacher": "tests of teachers",
    "shrink": "tests of runs whose space shrinks",
}


def test_no_setting_is_forgotten():
    leaves = set()
    for section, value in Recipe().model_dump(by_alias=True).items():
        if isinstance(value, dict) and section not in ELSEWHERE:
            leaves |= {f"{section}.{key}" for key in value}
        else:
            leaves.add(section)
    assert leaves == set(CHANGES) | set(ELSEWHERE)


@pytest.mark.parametrize("setting", list(CHANGES))
def test_changing_it_changes_the_run(base, tmp_path, setting):
    run(small(CHANGES[setting]), tmp_path)
    base, other = outcome(base[0]), outcome(tmp_path)
    assert {k: v for k, v in other.items() if k != "recipe"} != {
        k: v for k, v in base.items() if k != "recipe"
    }
    same_weights = other["weights"] == base["weights"]
    later = setting.split(".")[0] in ("name", "evaluate", "search", "finish", "export", "controls")
    assert same_weights == later


def test_the_network_is_the_one_named(tmp_path):
    ws = Workspace.build(small("network={name='macro', options={width=1, layers=[1, 1]}}"))
    assert type(ws.net.model).__name__ == "Macro"
    assert [len(d.options) for d in ws.net.space.decisions] == [3, 3]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("random", "RandomSearch"),
        ("evolution", "Evolution"),
        ("regularised_evolution", "Evolution"),
        ("nsga2", "NSGA2"),
        ("predictor", "WeakPredictor"),
    ],
)
def test_the_searcher_is_the_one_named(tmp_path, name, kind):
    """With few candidates they all draw at random, and so agree."""
    ws = Workspace.build(small(f"search.name={name}", "search.options={}"))
    assert type(ws.searcher(ws.limits())).__name__ == kind


def test_options_of_the_searcher_reach_it(tmp_path):
    ws = Workspace.build(small("search.options={population = 60, parents = 7}"))
    searcher = ws.searcher(ws.limits())
    assert (searcher.options.population, searcher.options.parents) == (60, 7)


def test_where_images_come_from_reaches_the_loader(tmp_path):
    with pytest.raises(ms.data.DataNotFound, match="mnist"):
        Workspace.build(small("data.name=mnist", f"data.root={tmp_path}"))
    with pytest.raises(ValueError, match="digits comes with scikit-learn and takes no data.root"):
        Workspace.build(small(f"data.root={tmp_path}"))
    ws = Workspace.build(small("data.workers=3"))
    assert ws.batches(ws.recipe.train).workers == 3


def test_crops_of_files_are_other_training_than_crops_in_memory(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(10):
                Image.new("L", (12 + i, 12), 9 * i).save(tmp_path / part / name / f"{i}.png")
    on = ("data.name=folder", f"data.root={tmp_path}", "data.image_size=8", "data.train_size=12")

    def of_training(*overrides):
        ws = Workspace.build(small(*on, "data.validation=4", *overrides))
        return fingerprint(ws, ws.recipe.train)

    assert of_training("data.memory=0B") == of_training()
    crops = "data.crop_scale=[0.5, 1.0]"
    assert len({of_training(), of_training(crops), of_training(crops, "data.memory=0B")}) == 3


@pytest.mark.parametrize(
    "override",
    [
        "data.crop_scale=[0.5, 1.0]", "data.jitter=0.2", "data.rand_augment=[2, 9]",
        "data.random_erasing=0.5",
    ],
)  # fmt: skip
def test_augmentations_reach_the_batches(override):
    images = []
    for overrides in ((override,), ()):
        ws = Workspace.build(small("data.pad=0", *overrides))
        images.append(next(ws.batches(ws.recipe.train).epoch(0))[0])
    assert not torch.equal(*images)


@pytest.mark.parametrize(
    "override",
    [
        "train.epochs=2", "train.batch_size=16", "train.optimizer=adamw", "train.lr=0.2",
        "train.momentum=0.8", "train.weight_decay=0.1", "train.schedule=linear",
        "train.accumulate=2", "train.min_lr=0.01", "train.mixup=0.2", "train.cutmix=1.0",
        "train.warmup_epochs=1.0", "train.label_smoothing=0.1", "train.clip_norm=1.0",
        "train.precision=bf16", "train.teacher=none", "train.shard=true", "train.compile=true",
        "data.jitter=0.1", "data.crop_scale=[0.5, 1.0]", "data.rand_augment=[2, 9]",
        "data.random_erasing=0.5", "data.repeats=2",
        "seed=2", "network.options.width=4", "data.pad=0",
        "data.flip=true", "data.validation=80", "data.train_size=96", "data.image_size=6",
        "sampler.name=fair", "sampler.options.paths=2",
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_value_would_be_refused(override):
    one, other = Recipe(), Recipe.load(None, [override])
    assert _fingerprint(one) != _fingerprint(other)


@pytest.mark.parametrize(
    "override",
    ["train.checkpoint_steps=7", "train.log_steps=3", "search.candidates=99", "name=other",
     "finish.mode=inherit", "evaluate.images=9", "data.workers=2"],
)  # fmt: skip
def test_what_weights_do_not_depend_on_is_not_in_the_fingerprint(override):
    assert _fingerprint(Recipe()) == _fingerprint(Recipe.load(None, [override]))


def _loading(recipe):
    data = recipe.data
    return {
        "name": data.name,
        "validation": data.validation,
        "seed": recipe.seed,
        "train_size": data.train_size,
        "image_size": data.image_size,
    }


def _fingerprint(recipe: Recipe) -> str:
    splits = ms.data.load(**_loading(recipe))
    ws = Workspace(recipe, torch.device("cpu"), DEFAULT, splits, None, {}, None)
    return fingerprint(ws, recipe.train)


def test_data_of_your_own_are_not_augmented():
    for setting in ("rand_augment=[2, 9]", "random_erasing=0.1", "repeats=2"):
        with pytest.raises(RecipeError, match=f"{setting[:6]}.* is for images"):
            Recipe.load(None, ["data.name=package:function", f"data.{setting}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rand_augment=[2]", "at least 2 items"),
        ("rand_augment=[0, 9]", r"1 to 14 operations .* such as \[2, 9\]"),
        ("rand_augment=[2, 31]", "a strength of 0 to 30"),
        ("rand_augment=[2, 9.5]", "integer"),
        ("random_erasing=1.1", "less than or equal to 1"),
        ("repeats=0", "greater than or equal to 1"),
    ],
)
def test_augmentations_have_bounds(override, message):
    with pytest.raises(RecipeError, match=f"data.{override.split('=')[0]}.*{message}"):
        Recipe.load(None, [f"data.{override}"])


def test_batches_hold_all_copies_of_an_image():
    with pytest.raises(RecipeError, match=r"batch_size must be a multiple of repeats \(3\)"):
        check(Workspace.build(small("data.repeats=3", "train.batch_size=32")))


def test_parts_of_batches_teach_no_sampler_that_learns_by_gradients():
    learns = types.SimpleNamespace(optimizer=object, probes=False)
    recipe = Recipe.load(None, ["train.accumulate=2"])
    with pytest.raises(RecipeError, match="train.accumulate = 2 .* sampler.name = 'uniform'"):
        check_sampler(recipe, learns, 0, ())
    with pytest.raises(RecipeError, match="finish.training: accumulate = 4 .* over 2 processes"):
        check_batch_size("finish.training", TrainingSettings(accumulate=4, batch_size=12), 96, 2)
    with pytest.raises(RecipeError, match="accumulate = 5 cuts batch_size = 64 over 1 process "):
        Recipe.load(None, ["train.accumulate=5"])


def test_two_stages_have_fingerprints_of_their_own(tmp_path):
    ws = Workspace.build(small())
    settings = ws.recipe.train
    prints = {fingerprint(ws, settings), fingerprint(ws, settings, "finetune", "0-0-0-0")}
    prints |= {fingerprint(ws, settings, "scratch", "0-0-0-0")}
    assert len(prints) == 3


def test_the_tracker_gets_both_stages(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = small("train.tracker=tensorboard", "finish.training.tracker=tensorboard")
    result = run(recipe, tmp_path)
    [folder] = {p.parent for p in tmp_path.rglob("events.out.tfevents.*")}
    events = EventAccumulator(str(folder)).Reload()
    arch = result["winners"][0]["arch"]
    assert {"train/loss", "train/lr", f"{arch}.train/loss"} <= set(events.Tags()["scalars"])
    assert [e.step for e in events.Scalars("train/loss")] == [2, 4]


@pytest.mark.parametrize(("setting", "inside"), [("2", 2), ("1", 1), ("default", None)])
def test_threads_are_set_for_the_run_and_restored(tmp_path, monkeypatch, setting, inside):
    before, seen = torch.get_num_threads(), []
    module = sys.modules["manyshot.pipeline.verbs.run"]
    monkeypatch.setattr(
        module, "begin", lambda *_, **__: seen.append(torch.get_num_threads()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run(small(f"threads={setting}"), tmp_path)
    assert seen == [before if inside is None else inside]
    assert torch.get_num_threads() == before
