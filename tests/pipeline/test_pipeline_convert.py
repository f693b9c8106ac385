"""Runs of converted networks, from a folder of images to exported files."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

import manyshot as ms
from manyshot import cli, records
from manyshot.pipeline import Workspace, build, train_only, transfer_recipe
from manyshot.pipeline import run as whole_run
from manyshot.pipeline.beforehand import check
from manyshot.pipeline.checks import check_settings
from manyshot.pipeline.networks import build_supernet
from manyshot.pipeline.stages.controls import choose_controls
from manyshot.recipe import Recipe, RecipeError
from manyshot.train import CheckpointError
from photos import tinted
from pipeline_runs import outcome, stopped
from plain_nets import worn

BASE = [
    "network.name=plain_nets:plain", "network.convert={}", "data.name=folder",
    "data.validation=12", "train.epochs=1", "train.batch_size=16", "train.lr=0.02",
    "evaluate.calibration_images=24", "search.budgets=['macs<=60%']", "search.candidates=6",
    "search.generation=3", "search.name=random", "finish.training.epochs=1",
    "finish.training.batch_size=16", "latency.warmup=0", "latency.repeats=1",
    "export.formats=['json']", "train.checkpoint_steps=1", "seed=1",
    "controls={largest=false, random=0, scaled=false}",
]  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of three colours, 24 pixels."""
    numbers = {"train": (16, 16, 16), "test": (6, 6, 6)}
    return tinted(tmp_path_factory.mktemp("data") / "photos", 24, 50, numbers)


@pytest.fixture
def asked(photos):
    return lambda *overrides: Recipe.load(None, [*BASE, f"data.root={photos}", *overrides])


@pytest.fixture(scope="module")
def weights(photos, tmp_path_factory):
    """A network trained on these images, as a file."""
    torch.manual_seed(0)
    model, splits = worn(), ms.data.load("folder", root=photos, validation=12)
    ms.fit(model, splits, settings=ms.TrainingSettings(epochs=8, batch_size=12, lr=0.05))
    path = tmp_path_factory.mktemp("weights") / "plain.pt"
    torch.save(model.state_dict(), path)
    return path


def original(path, classes=3):
    model = worn(classes=classes)
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def test_the_scaled_control_has_all_widths_at_one_share_of_the_original(asked):
    ws = Workspace.build(asked("controls.scaled=true"))
    [control] = choose_controls(ws, [])
    [limit] = ws.limits()
    assert (control.kind, control.budget) == ("scaled", "macs<=60%")
    assert limit.satisfied([control.arch]).all() and control.arch != ws.net.space.largest
    kinds = {decision.name: decision.kind for decision in ws.net.conversion.decisions}
    widths, shares = [], np.linspace(0, 1, 1001)
    for decision, option in zip(ws.net.space.decisions, control.arch, strict=True):
        values = np.array(decision.values)
        if kinds[decision.name] in ("width", "heads"):
            gaps_SO = np.abs(values - shares[:, None] * values.max())
            widths.append(gaps_SO[:, option] == gaps_SO.min(axis=1))
        else:
            assert values[option] == values.max()
    assert len(widths) > 1 and np.all(widths, axis=0).any()
    assert not choose_controls(Workspace.build(asked()), [])


def test_the_command_line_from_images_to_files(photos, tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("timm")
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\n[network]\nname = "timm:test_resnet"\n[network.convert]\nratios = [0.5]\n'
        f'[data]\nname = "folder"\nroot = {json.dumps(str(photos))}\n'
    )
    sets = [s for s in BASE if not s.startswith(("network", "data.name", "export"))]
    sets = [word for s in [*sets, 'export.formats=["pt2"]'] for word in ("--set", s)]
    with pytest.raises(SystemExit) as left:
        cli.main(["space", str(recipe), *sets, "--samples", "50"])
    printed = capsys.readouterr().out
    assert left.value.code == 0 and "of the parameters" in printed
    for word in ("Converted", "Not converted", "conv1.width", "Because"):
        assert word in printed
    with pytest.raises(SystemExit) as left:
        cli.main(["run", str(recipe), *sets, "--out", "run", "--quiet"])
    assert left.value.code == 0
    run = ms.Run("run")
    [winner] = run.winners
    images, splits = (
        torch.rand(2, 3, 24, 24),
        ms.data.load("folder", root=photos, validation=12, seed=1),
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (splits.mean, splits.std))
    exported = torch.export.load(winner.file("pt2")).module()
    torch.testing.assert_close(exported(images), winner.module()((images - mean) / std))
    assert type(winner.module()).__module__.startswith("timm.")
    assert sum(p.numel() for p in winner.module().parameters()) == winner.costs["params"]
    written = Recipe.load(tmp_path / "run" / "recipe.toml")
    assert (written.sampler.name, written.train.teacher) == ("sandwich", None)
    assert written.network.convert.ratios == [0.5]


def test_the_space_as_plain_values(asked) -> None:
    from manyshot.pipeline import survey

    done = survey(asked(), 10)["conversion"]
    assert [d["name"] for d in done["decisions"]] == [
        "stem.0.width",
        "hidden.width",
        "blocks.depth",
    ]
    assert [kept["name"] for kept in done["fixed"]] == ["head"]
    json.dumps(done)


# -- the original as teacher -----------------------------------------------------------------------


def test_paths_learn_from_the_original_alone(weights) -> None:
    """One step of gradient descent, beside one by hand from the KL divergence."""
    teacher = original(weights)
    net = ms.convert(worn(), torch.rand(2, 3, 24, 24))
    by_hand = net.extract(net.space.smallest)
    images, labels = torch.rand(8, 3, 24, 24), torch.zeros(8, dtype=torch.long)

    class Smallest(ms.train.Stateless):
        def plan(self, rng, step):
            return ms.train.Plan((ms.train.PlannedPath(net.space.smallest),))

    settings = ms.TrainingSettings(
        epochs=1, batch_size=8, lr=0.1, momentum=0.0, weight_decay=0.0, schedule="constant"
    )
    before = {n: t.clone() for n, t in teacher.state_dict().items()}
    modes = [m.training for m in teacher.modules()]

    samples = list(zip(images, labels.tolist(), strict=True))
    ms.fit(net, samples, sampler=Smallest(), teacher=teacher, settings=settings)
    with torch.no_grad():
        probabilities = teacher(images).softmax(1)
    divergence = F.kl_div(
        by_hand.train()(images).log_softmax(1), probabilities, reduction="batchmean"
    )
    divergence.backward()
    with torch.no_grad():
        for parameter in by_hand.parameters():
            parameter -= 0.1 * parameter.grad
    trained = net.extract(net.space.smallest)
    for one, other in zip(trained.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert all(torch.equal(before[n], t) for n, t in teacher.state_dict().items())
    assert modes == [m.training for m in teacher.modules()]


@pytest.mark.parametrize(
    ("overrides", "teacher"),
    [
        ((), "original"),
        (("sampler.name=uniform",), None),
        (("sampler.options.distil=false",), None),
        (("train.teacher=none",), "none"),
        (("sampler.name=uniform", "train.teacher=original"), "original"),
    ],
)
def test_who_teaches_by_default(overrides, teacher, asked, weights) -> None:
    ws = Workspace.build(asked(f"network.weights={weights}", *overrides))
    assert ws.recipe.train.teacher == teacher
    assert Workspace.build(asked(*overrides[:1])).recipe.train.teacher != "original"


def test_the_original_in_a_run_is_the_network_of_the_file(asked, weights) -> None:
    ws = Workspace.build(asked(f"network.weights={weights}"))
    images = torch.rand(2, 3, 24, 24)
    torch.testing.assert_close(ws.original.module(images), original(weights)(images))


def test_labels_alone_where_nobody_teaches(asked, weights, tmp_path, monkeypatch) -> None:
    targets = []
    from manyshot.train import gradients

    def noted(*args, **kwargs):
        targets.extend(path.target for path in args[1].paths)
        return accumulate(*args, **kwargs)

    accumulate = gradients.accumulate
    monkeypatch.setattr("manyshot.train.optimisation.accumulate", noted)
    for teacher in ("none", "original", "largest"):
        targets.clear()
        recipe = asked(f"network.weights={weights}", f"train.teacher={teacher}")
        whole_run(recipe, tmp_path / teacher)
        trained, finished = targets[:8], targets[-2:]
        assert set(finished) == {"labels"}
        if teacher == "largest":
            assert trained == ["labels", "largest", "largest", "largest"] * 2
        else:
            assert set(trained) == {{"none": "labels"}.get(teacher, teacher)}
    targets.clear()
    recipe = asked(f"network.weights={weights}", "finish.teacher=original", "train.epochs=0")
    whole_run(recipe, tmp_path / "finish")
    assert set(targets) == {"original"}


def test_a_killed_run_ends_as_one_that_was_not(asked, weights, tmp_path, monkeypatch) -> None:
    moved = tmp_path / "weights.pt"
    shutil.copy(weights, moved)
    recipe = asked(f"network.weights={moved}", "finish.teacher=original")
    whole_run(recipe, tmp_path / "whole")
    moved_away = False
    for writes in range(4, 40, 5):
        folder = tmp_path / "killed"
        if stopped(monkeypatch, writes, lambda folder=folder: whole_run(recipe, folder)) is None:
            break
        if not moved_away:  # the run has what it began with
            assert (folder / "original.safetensors").exists()
            torch.save(worn().state_dict(), moved)
            moved_away = True
    assert moved_away
    whole_run(recipe, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


def test_a_run_goes_on_without_the_file(asked, weights, tmp_path, monkeypatch) -> None:
    moved = tmp_path / "weights.pt"
    shutil.copy(weights, moved)
    whole_run(asked(f"network.weights={moved}"), tmp_path / "run")
    moved.unlink()
    run = ms.Run(tmp_path / "run")
    assert run.resume().result == run.result
    [winner], splits = run.winners, Workspace.build(run.recipe, run.folder).splits
    batches = ms.data.fixed(splits.test, None, 99, mean=splits.mean, std=splits.std, seed=0)
    [(images, labels)] = batches
    with monkeypatch.context() as patch:
        patch.setattr(build, "load_data", lambda recipe: pytest.fail("it asked for images"))
        plain = winner.module()
    with torch.no_grad():
        right = plain(images).argmax(1) == labels
    assert right.double().mean() == pytest.approx(winner.test_score)
    run.export(run.net.space.smallest, "json")


def test_a_network_with_decisions_may_begin_with_weights(photos, tmp_path) -> None:
    sets = [s for s in BASE if not s.startswith("network")]
    model = ms.zoo.tiny(channels=3, classes=3)
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    given = [f"network.weights={tmp_path / 'tiny.pt'}", f"data.root={photos}", "train.epochs=0"]
    given.append("network.name=tiny")
    recipe = Recipe.load(None, [*sets, "data.image_size=8", *given])
    whole_run(recipe, tmp_path / "run")
    (tmp_path / "tiny.pt").unlink()
    net = ms.Run(tmp_path / "run").net
    held = dict(net.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, held[name])


def test_other_weights_are_another_run(asked, weights, tmp_path) -> None:
    moved = tmp_path / "weights.pt"
    shutil.copy(weights, moved)
    recipe = asked(f"network.weights={moved}")
    whole_run(recipe, tmp_path / "run")
    (tmp_path / "run" / "original.safetensors").unlink()
    torch.save(worn().state_dict(), moved)
    with pytest.raises(CheckpointError, match="belong to other settings"):
        whole_run(recipe, tmp_path / "run")


# -- no training -----------------------------------------------------------------------------------


def test_ordered_slices_are_searched_without_training(asked, weights, tmp_path) -> None:
    recipe = asked(f"network.weights={weights}", "train.epochs=0", "finish.mode=inherit")
    result = whole_run(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / "train.jsonl").exists()
    assert result.images_forwarded["train"] == 0
    ws = Workspace.build(recipe)
    net = ms.convert(original(weights), torch.rand(2, 3, 24, 24))
    written = ms.Run(tmp_path / "run").net.state_dict()
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in written.items())
    for line in records.read_lines(tmp_path / "run" / "search.jsonl"):
        arch = net.space.from_text(line["arch"])
        plain = net.extract(arch)  # batch norms by hand: mean over batches of batch statistics
        assert accuracy_by_hand(plain, ws) == pytest.approx(line["proxy_score"])


def accuracy_by_hand(plain, ws) -> float:
    """Validation accuracy of a plain module, once its norms have averaged calibration batches."""
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    plain.train()
    with torch.no_grad():
        for images, _ in ws.calibration():
            plain(images)
        plain.eval()
        right = [
            (plain(images).argmax(1) == labels) for images, labels in ws.fixed("validation", None)
        ]
    return float(torch.cat(right).float().mean())


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["train.teacher=original", "network.name=torchvision:squeezenet1_1"], "new weights: give"),
        (["finish.teacher=original", "network.name=tiny"], "finish.teacher.*is not converted"),
        (["train.epochs=0", "network.name=tiny"], "train.epochs = 0 searches.*weights are new"),
        (["train.epochs=0", "network.name=torchvision:squeezenet1_1"], "the weights are new"),
    ],
)
def test_what_cannot_teach_or_be_searched(overrides, words, asked) -> None:
    names = [text for text in overrides if text.startswith("network.name")]
    recipe = asked(*overrides)
    if names == ["network.name=tiny"]:
        network = recipe.network.model_copy(update={"convert": None})
        recipe = recipe.model_copy(update={"network": network})
    with pytest.raises(RecipeError, match=words):
        check(Workspace.build(recipe))


def test_no_training_trains_no_generator(asked) -> None:
    with pytest.raises(RecipeError, match="trains no generator"):
        check_settings(asked("train.epochs=0", "search.name=generator", "sampler.name=shiftnas"))


def test_a_new_classifier_has_to_be_trained(asked, tmp_path) -> None:
    torch.save(worn(classes=7).state_dict(), tmp_path / "seven.pt")
    given = f"network.weights={tmp_path / 'seven.pt'}"
    ws = Workspace.build(asked(given))
    assert ws.recipe.train.teacher is None and ws.original.new_classifier == "head"
    check(ws)
    with pytest.warns(UserWarning, match="classifier 'head' is new, and learns by training"):
        train_only(asked(given), tmp_path / "run")
    for refused in ("train.epochs=0", "train.teacher=original"):
        with pytest.raises(RecipeError, match="'head' is new, since the weights are of other"):
            check(Workspace.build(asked(given, refused)))


def test_a_function_may_load_weights_itself(asked, tmp_path) -> None:
    own = asked("network.name=plain_nets:worn", "train.epochs=0", "train.teacher=original")
    check(Workspace.build(own))


def test_without_conversion_the_error_says_how(asked) -> None:
    recipe = asked()
    network = recipe.network.model_copy(update={"convert": None})
    with pytest.raises(ValueError, match=r"has no decisions.*\[network.convert\]"):
        Workspace.build(recipe.model_copy(update={"network": network}))


def test_what_cannot_be_converted_says_so(asked) -> None:
    with pytest.raises(RecipeError, match="nothing in the network can vary"):
        Workspace.build(asked("network.convert.keep=['*']"))
    with pytest.raises(RecipeError, match="is a layer of ms.nn already"):
        Workspace.build(asked("network.name=tiny"))


def test_new_weights_are_not_those_that_are_given(asked, weights) -> None:
    """Networks that are trained alone, for a truth or from scratch, begin anew."""
    recipe = asked(f"network.weights={weights}")
    splits = Workspace.build(recipe).splits
    fresh, original = build_supernet(recipe, splits, given=False)
    assert not original.is_given
    given, _ = build_supernet(recipe, splits)
    for name, parameter in fresh.named_parameters():
        if parameter.dim() > 1:
            assert not torch.equal(parameter, dict(given.named_parameters())[name])


def test_a_converted_supernet_moves_to_other_classes(asked, weights, photos, tmp_path) -> None:
    whole_run(asked(f"network.weights={weights}", "finish.teacher=original"), tmp_path / "run")
    shutil.copytree(photos / "train" / "red", tmp_path / "more" / "train" / "one")
    shutil.copytree(photos / "train" / "blue", tmp_path / "more" / "train" / "two")
    to = [f"data.root={tmp_path / 'more'}", "data.validation=8", "transfer.head_epochs=1"]
    shift = ["shifting.batch_size=4", "shifting.steps=1", "train.batch_size=8"]
    finish = ["finish.training.batch_size=8"]
    refused = transfer_recipe(tmp_path / "run", None, "folder", [*to, *shift, *finish])
    with pytest.raises(RecipeError, match="finish.teacher.*the weights are those of another run"):
        whole_run(refused, tmp_path / "refused", source=tmp_path / "run")
    recipe = transfer_recipe(
        tmp_path / "run", None, "folder", [*to, *shift, *finish, "finish.teacher=none"]
    )
    whole_run(recipe, tmp_path / "moved", source=tmp_path / "run")
    moved = ms.Run(tmp_path / "moved")
    assert moved.winners[0].module()(torch.rand(1, 3, 24, 24)).shape == (1, 2)
    assert not (tmp_path / "moved" / "original.safetensors").exists()


def test_a_network_given_in_python_is_the_one_in_a_file(photos, asked, weights, tmp_path) -> None:
    """Both are converted alike, and learn alike from what they were."""
    whole_run(asked(f"network.weights={weights}", "train.teacher=original"), tmp_path / "file")
    sets = [s for s in BASE if not s.startswith("network")]
    ms.run(
        network=original(weights),
        overrides=[*sets, f"data.root={photos}", "train.teacher=original"],
        out=tmp_path / "given",
    )
    one, other = (load_file(tmp_path / n / "supernet.safetensors") for n in ("file", "given"))
    assert one.keys() == other.keys() and all(torch.equal(t, other[n]) for n, t in one.items())
