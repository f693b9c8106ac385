"""Several networks that teach together: of other runs, and of a run's own supernet."""

import pytest
import torch

import manyshot as ms
from manyshot import evaluate
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages import alone
from manyshot.pipeline.stages.alone import fingerprint_of, finished
from manyshot.pipeline.verbs.transfer import transfer_recipe
from manyshot.progress import Silent
from manyshot.recipe import Recipe, RecipeError
from manyshot.seeding import numpy_rng
from manyshot.train import AEKD, MeanOfTeachers, load_weights
from pipeline_runs import lines, small

BY_SUPERNET = (
    *("finish.teacher=supernet", "finish.taught_by=['largest', '0-0-0-0']"),
    *("finish.distillation={name='ae_kd', options={bound=0.7}}",),
)


def of_run(folder, arch="largest", *others):
    more = [f"{{run={str(folder)!r}, arch={other!r}}}" for other in others]
    return (
        *(f"teacher.run={str(folder)!r}", f"teacher.arch={arch!r}"),
        f"teacher.others=[{', '.join(more)}]",
    )


def test_a_supernet_learns_the_mean_of_what_several_networks_predict(base, tmp_path):
    """The loss of the first path is its cross-entropy to the mean of their probabilities."""
    recipe = small(
        "train.teacher=network", *of_run(base[0], "largest", "0-0-0-0"), "train.log_steps=1"
    )
    ws = Workspace.build(recipe)
    assert ws.recipe.teacher.digest is not None
    for other in (of_run(base[0]), of_run(base[0], "0-0-0-0", "largest")):
        changed = Workspace.build(small("train.teacher=network", *other)).recipe.teacher
        assert changed.digest != ws.recipe.teacher.digest
    folder = tmp_path / "taught"
    ms.run(recipe, out=folder)
    source = ms.Run(base[0])
    images, _ = next(iter(ws.batches(recipe.train).from_step(0)))
    [path] = ws.sampler().plan(numpy_rng(recipe.seed, "plan", 0), 0).paths
    theirs = Workspace.build(base[1])
    load_weights(source.files.weights, theirs.net)
    probabilities = []
    for text in ("largest", "0-0-0-0"):
        space = theirs.net.space
        arch = space.largest if text == "largest" else space.from_text(text)
        stats = evaluate.calibrate(theirs.net, arch, ws.calibration())
        probabilities.append(theirs.net.eval()(images, arch, stats=stats).detach().softmax(1))
    logits = ws.net.train()(images, path.arch)
    q = sum(probabilities) / 2
    by_hand = -(q * logits.log_softmax(1)).sum(1).mean().item()
    assert lines(folder, "train.jsonl")[0]["loss"] == pytest.approx(by_hand, rel=1e-4)
    largest, smallest = (ws.macs_of([a])[0] for a in (ws.net.space.largest, (0, 0, 0, 0)))
    macs = 3 * ws.macs_of([path.arch])[0] + largest + smallest
    assert lines(folder, "train.jsonl")[0]["macs"] == macs * recipe.train.batch_size
    assert Recipe.load(folder / "recipe.toml").teacher == ms.Run(folder).recipe.teacher


def test_winners_learn_from_architectures_of_their_supernet(base, tmp_path, monkeypatch):
    recipe = small(*BY_SUPERNET)
    ws = Workspace.build(recipe)
    seen = {}
    monkeypatch.setattr(alone, "fit", lambda *args, **kwargs: seen.update(kwargs))
    finished(
        ws,
        ms.train.engine(ws.device, recipe.finish.training),
        tmp_path,
        (1, 1, 1, 1),
        recipe.finish,
        Silent(),
    )
    assert isinstance(seen["distiller"], AEKD) and seen["distiller"].bound == 0.7
    images, _ = ws.together(ws.splits.validation)
    given = seen["teacher"](images)
    for arch, outputs in zip([ws.net.space.largest, (0, 0, 0, 0)], given, strict=True):
        stats = evaluate.calibrate(ws.net, arch, ws.calibration())
        with torch.no_grad():
            assert torch.equal(outputs, ws.net.eval()(images, arch, stats=stats))


def test_a_run_that_distils_is_resumed_and_told_apart(base, tmp_path):
    folder = tmp_path / "run"
    ms.run(small(*BY_SUPERNET), out=folder)
    before = (folder / "finish.jsonl").read_bytes()
    ms.Run(folder).resume()
    assert (folder / "finish.jsonl").read_bytes() == before
    ws = Workspace.build(small(*BY_SUPERNET))
    prints = set()
    for overrides in (
        BY_SUPERNET,
        BY_SUPERNET[:2],
        BY_SUPERNET[:1],
        (*BY_SUPERNET[:2], "finish.mode=scratch"),
        (*BY_SUPERNET[:1], "finish.mode=scratch"),
        (),
    ):
        prints.add(fingerprint_of(ws, small(*overrides).finish, "0-0-0-0"))
    assert len(prints) == 6
    plain = Workspace.build(small())
    assert isinstance(plain.distiller(small("finish.teacher=supernet").finish), MeanOfTeachers)
    assert plain.distiller(plain.recipe.finish) is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("finish.taught_by=['0-0-0-0']",), "set teacher = 'supernet', or leave taught_by out"),
        (("finish.teacher=supernet", "finish.taught_by=[]"), "at least one architecture"),
        (("finish.distillation.name=ae_kd",), "and teacher = 'none': name one, or leave"),
        (("finish.teacher=supernet", "finish.mode=inherit"), "'inherit' trains nothing"),
        (("teacher.others=[{run='x', arch='largest'}]",), "give the first teacher in"),
        (
            ("teacher.run=x", "teacher.arch=largest", "teacher.others=[{run='y'}]"),
            "say which of its networks: budget",
        ),
        (
            ("teacher.run=x", "teacher.arch=largest", "teacher.others=[{run='y', arc='1'}]"),
            "unknown key 'arc'; did you mean 'arch'?",
        ),
        (
            ("teacher.run=x", "teacher.arch=largest", "teacher.others=[{others=[], run='y'}]"),
            "digest and others are of",
        ),
    ],
)
def test_teachers_that_say_nothing_are_refused(overrides, words):
    with pytest.raises(RecipeError) as refused:
        small(*overrides)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((*BY_SUPERNET[::2],), "there is one: add [[teacher.others]]"),
        (
            ("finish.teacher=supernet", "finish.taught_by=['9-9-9-9']"),
            "'9-9-9-9' is no architecture of this space",
        ),
        (("finish.teacher=supernet", "finish.distillation.name=aekd"), "did you mean 'ae_kd'?"),
        (
            ("finish.teacher=supernet", "finish.distillation.options={temprature=2.0}"),
            "did you mean 'temperature'?",
        ),
    ],
)
def test_what_would_fail_at_the_end_is_said_before_anything_trains(overrides, words, tmp_path):
    with pytest.raises(RecipeError) as refused:
        ms.run(small(*overrides), out=tmp_path / "run")
    assert words in str(refused.value)
    assert not (tmp_path / "run" / "train.jsonl").exists()


def test_a_run_that_moves_leaves_its_distillation_behind(base, tmp_path):
    import shutil

    moved = shutil.copytree(base[0], tmp_path / "moved")
    whole = small(
        *of_run("x"), "finish.teacher=network", "finish.distillation.options={labels=0.5}"
    )
    (moved / "recipe.toml").write_text(whole.to_toml())
    asked = transfer_recipe(moved, None, "digits", ["search.budgets=['macs<=50%']"])
    assert asked.finish.teacher == "none" and asked.finish.distillation.options == {}


def test_code_that_distillation_names_is_code_of_the_recipe():
    recipe = small("finish.teacher=supernet", "finish.distillation.name=my.module:Mine")
    assert recipe.named_code == {"finish.distillation.name": "my.module:Mine"}
    named = "[{name='my.teachers:net', weights='f', mean=[0.1], std=[0.2]}]"
    recipe = small(*of_run("x")[:2], f"teacher.others={named}", "train.teacher=network")
    assert recipe.named_code == {"teacher.others[0].name": "my.teachers:net"}
