"""Networks of other runs, of libraries and of files that teach, and those that cannot."""

import shutil
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline.beforehand import check, check_batches, check_sampling
from manyshot.pipeline.identity import fingerprint
from manyshot.pipeline.networks import build_network
from manyshot.pipeline.teachers import Pupil, Renormalised, load_teacher
from manyshot.pipeline.verbs.transfer import transfer_recipe
from manyshot.recipe import Recipe, RecipeError
from manyshot.seeding import numpy_rng
from pipeline_runs import lines, run, small

LIBRARY = "torchvision:shufflenet_v2_x0_5"
SIZED = "data.image_size=16"


def taught(*overrides: str, by: str = "train") -> Recipe:
    return small(f"{by}.teacher=network", *overrides)


def of_winner(folder) -> tuple[str, ...]:
    return f"teacher.run={str(folder)!r}", "teacher.budget='macs<=90%'"


def of_file(file, *, mean: str = "[0.3]", std: str = "[0.4]") -> tuple[str, ...]:
    return (
        *(f"teacher.name={LIBRARY}", f"teacher.weights={str(file)!r}"),
        *(f"teacher.mean={mean}", f"teacher.std={std}", SIZED),
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the library's network for the ten digits, and the network."""
    recipe = small(f"network.name={LIBRARY}", "network.options={}", SIZED)
    net = build_network(recipe, ms.data.load("digits", image_size=16)).eval()
    path = tmp_path_factory.mktemp("weights") / "digits.pt"
    torch.save(net.state_dict(), path)
    return path, net


@pytest.fixture(scope="module")
def ws():
    return Workspace.build(small())


def loaded(recipe, ws, **others):
    data, digests = others.get("data", ws.splits), ws.splits.digests
    return load_teacher(Pupil(recipe, data, digests, ws.calibration, ws.device))


def test_a_winner_and_an_architecture_of_a_supernet_teach_as_their_run_says(base, ws):
    images, _ = ws.together(ws.splits.validation)
    folder = ms.Run(base[0])
    winner = loaded(taught(*of_winner(base[0])), ws)
    assert torch.equal(winner.module(images), folder.winner("macs<=90%").module()(images))
    assert winner.said == ""
    supernet = taught(f"teacher.run={str(base[0])!r}", "teacher.arch=largest")
    largest = folder.net.space.largest
    expected = folder.net.eval()(images, largest, stats=folder.stats(largest))
    teacher = loaded(supernet, ws)
    assert torch.equal(teacher.module(images), expected)
    other = taught(f"teacher.run={str(base[0])!r}", "teacher.arch=0-0-0-0")
    assert len({teacher.digest, winner.digest, loaded(other, ws).digest}) == 3


def test_images_are_normalised_for_a_teacher_as_it_learnt_them(weights, ws):
    path, net = weights
    pixels = torch.rand((4, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    expected = net((pixels - 0.3) / 0.4)
    data = ms.data.load("digits", image_size=16)
    about = (data, data.digests, lambda: (), torch.device("cpu"))
    teacher = load_teacher(Pupil(taught(*of_file(path)), *about))
    ours = (pixels - data.mean[0]) / data.std[0]
    torch.testing.assert_close(teacher.module(ours), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(teacher.module, Renormalised)
    same = {"mean": str(list(data.mean)), "std": str(list(data.std))}
    alike = load_teacher(Pupil(taught(*of_file(path, **same)), *about))
    assert torch.equal(alike.module(ours), net(ours))


def test_a_supernet_and_winners_learn_what_a_teacher_predicts(base, tmp_path):
    """The loss of the first path is its cross-entropy to the teacher's probabilities."""
    source = shutil.copytree(base[0], tmp_path / "source")
    recipe = taught(*of_winner(source), "finish.teacher=network", "train.log_steps=1")
    folder = tmp_path / "taught"
    ms.run(recipe, out=folder)
    own = ms.Run(folder).recipe
    assert own.teacher.digest is not None and own.train.teacher == "network"
    ws = Workspace.build(recipe)
    images, _ = next(iter(ws.batches(recipe.train).from_step(0)))
    [path] = ws.sampler().plan(numpy_rng(recipe.seed, "plan", 0), 0).paths
    probabilities = ms.Run(source).winner("macs<=90%").module()(images).softmax(1)
    logits = ws.net.train()(images, path.arch)
    by_hand = -(probabilities * logits.log_softmax(1)).sum(1).mean().item()
    assert lines(folder, "train.jsonl")[0]["loss"] == pytest.approx(by_hand, rel=1e-5)
    macs = ws.macs_of([path.arch])[0] * 3 + ms.Run(source).winner("macs<=90%").costs["macs"]
    assert lines(folder, "train.jsonl")[0]["macs"] == macs * recipe.train.batch_size
    # What is trained needs its teacher no more, and what is not says that it is missing.
    shutil.move(source, tmp_path / "elsewhere")
    before = (folder / "result.json").read_bytes()
    ms.Run(folder).resume()
    assert (folder / "result.json").read_bytes() == before
    (folder / "supernet.safetensors").unlink()
    (folder / "trainer.pt").unlink()
    with pytest.raises(RecipeError, match=r"\[teacher\]: .*there is no folder .*source"):
        ms.Run(folder).resume()
    # Another teacher in its place is none.
    other = small("seed=2")
    run(other, source)
    with pytest.raises(RecipeError, match="its weights are others than when this run began"):
        ms.Run(folder).resume()


def test_what_cannot_teach_is_refused(base, ws, weights, tmp_path):
    folder = str(base[0])

    def refused(recipe, data=None):
        with pytest.raises(RecipeError) as caught:
            loaded(recipe, ws, **({} if data is None else {"data": data}))
        return str(caught.value)

    winner = taught(*of_winner(base[0]))
    larger = ms.data.load("digits", image_size=12)
    assert "takes images of shape (1, 8, 8), and these are of (1, 12, 12): set" in refused(
        winner, larger
    )
    assert "tells classes" in refused(winner, replace(ws.splits, classes=7))
    assert "has no winner in" in refused(
        taught(f"teacher.run={folder!r}", "teacher.budget='macs<=1%'")
    )
    assert "arch = '9-9-9-9'" in refused(taught(f"teacher.run={folder!r}", "teacher.arch=9-9-9-9"))
    assert "is not a run" in refused(
        taught(f"teacher.run={str(tmp_path)!r}", "teacher.arch=largest")
    )
    state = {n: t for n, t in weights[1].state_dict().items()}
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:7], state["fc.bias"][:7]
    torch.save(state, tmp_path / "seven.pt")
    assert (
        "its weights are of 7 classes (the classifier 'fc'), and these images are of 10"
        in refused(taught(*of_file(tmp_path / "seven.pt")))
    )
    three = of_file(weights[0], mean="[0.3, 0.3, 0.3]", std="[0.4, 0.4, 0.4]")
    assert "and these have 1 channel: give images like" in refused(taught(*three))
    assert "teacher.weights: there is no file" in refused(taught(*of_file(tmp_path / "none.pt")))


def test_a_teacher_that_does_not_run_on_the_images_is_said_before_anything_trains(tmp_path):
    recipe = taught(f"teacher.name={__name__}:Sized", *of_nothing(tmp_path))
    with pytest.raises(RecipeError, match=r"does not run on these images of shape \(1, 8, 8\)"):
        Workspace.build(recipe)


class Sized(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16 * 16, 10))


def of_nothing(folder) -> tuple[str, ...]:
    torch.save(Sized().state_dict(), folder / "sized.pt")
    file = f"teacher.weights={str(folder / 'sized.pt')!r}"
    return file, "teacher.mean=[0.3]", "teacher.std=[0.4]"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("train.teacher=network",), "names none: give teacher.run or teacher.name"),
        (("teacher.run=x", "teacher.arch=largest"), "that nothing learns from: set train.teacher"),
        (("teacher.run=x",), "say which of its networks: budget"),
        (("teacher.run=x", "teacher.name=timm:y"), "run and name are two teachers"),
        (("teacher.budget='macs<=9%'",), "budget without run or name says nothing"),
        (("teacher.run=x", "teacher.arch=largest", "teacher.mean=[1.0]"), "mean has no effect"),
        (
            ("teacher.run=x", "teacher.arch=largest", "train.teacher=network")
            + ("train.image_sizes=[6, 8]",),
            "image_sizes = [6, 8]: the network of [teacher], from which train learns",
        ),
        (("teacher.name=timm:y",), "teaches with weights: give weights = FILE"),
        (("teacher.name=tiny", "teacher.weights=f"), "a teacher is one network"),
        (("teacher.name=timm:y", "teacher.weights=f"), "give mean and std, such as"),
        (("teacher.name=a:b", "teacher.pretrained=true"), "and name = 'a:b' is none"),
        (
            ("teacher.run=x", "teacher.arch=largest", "train.teacher=network", "train.epochs=0"),
            "train.teacher = 'network' has no effect",
        ),
        (
            (
                "teacher.run=x",
                "teacher.arch=largest",
                "finish.teacher=network",
                "finish.mode=inherit",
            ),  # fmt: skip
            "finish.teacher = 'network' has no effect: finish.mode = 'inherit'",
        ),
        (("train.drop_path_for=largest",), "drop_path_for = 'largest' says which paths"),
    ],
)
def test_a_section_that_says_nothing_or_too_much_is_refused(overrides, words):
    with pytest.raises(RecipeError) as caught:
        small(*overrides)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("train.drop_path=0.1", "train: drop_path = 0.1 leaves out residual branches"),
        ("finish.training.drop_path=0.1", "finish.training: drop_path = 0.1 leaves out"),
        ("train.rates={nowhere = 2.0}", "train: rates: 'nowhere' fits no parameter"),
        ("finish.training.rates={nowhere = 2.0}", "finish.training: rates: 'nowhere'"),
    ],
)
def test_options_that_act_on_nothing_are_said_before_training(setting, words, ws):
    with pytest.raises(RecipeError) as caught:
        check(replace(ws, recipe=small(setting)))
    assert words in str(caught.value)


def test_the_largest_alone_cannot_drop_where_steps_are_without_it(ws):
    settings = ("train.drop_path=0.1", "train.drop_path_for=largest")
    with pytest.raises(RecipeError, match="train: drop_path_for = 'largest' is for samplers that"):
        check_sampling(replace(ws, recipe=small(*settings)))
    check_sampling(replace(ws, recipe=small(*settings, "sampler.name=sandwich")))


def test_lamb_without_timm_is_said_before_training(ws, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.optim", None)
    lamb = ws.recipe.train.model_copy(update={"optimizer": "lamb"})
    with pytest.raises(RecipeError, match="train: optimizer = 'lamb' is timm's: pip install"):
        check_batches(ws, "train", lamb)


def test_other_teachers_make_other_weights_and_finished_networks(ws):
    def fingerprints(digest: str) -> tuple[str, str]:
        recipe = taught("teacher.run=x", "teacher.arch=largest", f"teacher.digest={digest}")
        one = replace(ws, recipe=recipe)
        return fingerprint(one, recipe.train), fingerprint(one, recipe.finish.training)

    assert fingerprints("a")[0] != fingerprints("b")[0]
    assert fingerprints("a")[1] == fingerprints("b")[1]  # winners learn from labels here


def test_a_run_that_moves_to_other_images_leaves_its_teacher_behind(base, tmp_path):
    moved = shutil.copytree(base[0], tmp_path / "moved")
    whole = taught("teacher.run=x", "teacher.arch=largest", "finish.teacher=network")
    (moved / "recipe.toml").write_text(whole.to_toml())
    asked = transfer_recipe(moved, None, "mnist", ())
    assert not asked.teacher.is_there
    assert (asked.train.teacher, asked.finish.teacher) == (None, "none")
