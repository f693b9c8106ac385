"""K-shot slices that begin as the weights of a trained run with one copy."""

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from manyshot import records
from manyshot.pipeline import Workspace, train_only
from manyshot.pipeline.identity import weights_fingerprint
from manyshot.pipeline.inherit import inherit
from manyshot.recipe import RecipeError
from manyshot.train import CheckpointError, Trainer
from pipeline_runs import small

EQUAL = ("sharing.name=k_shot", "sharing.options={copies=2, code_every=2, start='equal'}")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inherit") / "one"
    train_only(small(), folder)
    return folder


def heir(one, *overrides):
    return small(*EQUAL, f"sharing.inherit={str(one)!r}", *overrides)


def test_slices_begin_as_the_trained_copy(one):
    held = load_file(one / "supernet.safetensors")
    for start, is_equal in (("equal", True), ("independent", False)):
        net = Workspace.build(heir(one, f"sharing.options.start={start}")).net
        state, stacked = net.state_dict(), 0
        for name, tensor in held.items():
            if state[name].shape == tensor.shape:
                assert torch.equal(state[name], tensor), name
                continue
            stacked += 1
            assert all(torch.equal(part, tensor) for part in state[name]) or not is_equal, name
            torch.testing.assert_close(state[name].mean(0), tensor, rtol=1e-4, atol=1e-5)
        assert stacked
        parts = state["model.chain.1.options.conv3.0.weight"]
        assert torch.equal(parts[0], parts[1]) == is_equal


def test_one_copy_may_inherit_too(one):
    net = Workspace.build(heir(one, "sharing.options={copies=1}")).net.state_dict()
    for name, tensor in load_file(one / "supernet.safetensors").items():
        assert torch.equal(net[name].reshape(tensor.shape), tensor)


def test_a_killed_run_goes_on_when_the_other_is_gone(one, tmp_path, monkeypatch):
    """It ends with the weights of one that was never killed, and of no other weights' run."""
    shutil.copytree(one, tmp_path / "moved")
    recipe = heir(tmp_path / "moved")
    train_only(recipe, tmp_path / "whole")
    save = Trainer.save

    def killed(self):
        save(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Trainer, "save", killed)
        train_only(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "moved")
    train_only(recipe, tmp_path / "run")
    one_file, other = (tmp_path / name / "supernet.safetensors" for name in ("whole", "run"))
    assert one_file.read_bytes() == other.read_bytes()
    (tmp_path / "run" / "inherited.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"it has no supernet.safetensors"):
        train_only(recipe, tmp_path / "run")
    train_only(small("train.lr=0.01"), tmp_path / "moved")
    with pytest.raises(CheckpointError, match="belong to other settings"):
        train_only(recipe, tmp_path / "run")


def test_the_same_weights_elsewhere_are_the_same_run(one, tmp_path):
    """What weights depend on is their digest, not the folder."""
    shutil.copytree(one, tmp_path / "moved")
    there, here = (Workspace.build(heir(run)) for run in (tmp_path / "moved", one))
    assert weights_fingerprint(there) == weights_fingerprint(here)
    without = Workspace.build(small(*EQUAL))
    assert weights_fingerprint(without) != weights_fingerprint(here)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["network.options.width=4"], r"another network \(network.options\)"),
        (["network.name=macro", "network.options={width=1}"], "its space has .* here"),
        (["seed=2"], "its validation images are others"),
        (["data.validation=32"], "its validation images are others"),
        (["data.name=digits", "task=multi_label"], "its task is 'classification'"),
        (["sharing.name=one_shot", "sharing.options={}"], "sharing.name = 'one_shot' has none"),
        (["sampler.held_out=40"], "trained on images that are held out for the sampler here"),
    ],
)
def test_what_does_not_fit_is_named(one, overrides, words):
    with pytest.raises((RecipeError, ValueError), match=words):
        Workspace.build(heir(one, *overrides))


def test_other_classes_are_named(one):
    ws = Workspace.build(heir(one))
    other = dataclasses.replace(ws.splits, classes=7)
    with pytest.raises(RecipeError, match="its images are of 10 classes, here 7"):
        inherit(ws.net, ws.recipe, other, None)


def test_runs_of_several_copies_and_without_weights_are_refused(one, tmp_path):
    shutil.copytree(one, tmp_path / "bare")
    (tmp_path / "bare" / "supernet.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"it has no supernet.safetensors: give the folder of"):
        Workspace.build(heir(tmp_path / "bare"))
    train_only(heir(one), tmp_path / "two")
    with pytest.raises(RecipeError, match=r"it trained 2 copies, and slices are inherited from"):
        Workspace.build(heir(tmp_path / "two"))


def test_a_run_that_does_not_say_what_it_trained_on_is_refused(one, tmp_path):
    shutil.copytree(one, tmp_path / "bare")
    path = tmp_path / "bare" / "space.json"
    described = records.read_json(path)
    del described["images"]
    path.write_text(json.dumps(described))
    with pytest.raises(RecipeError, match=r"its space\.json has no 'images'.*train it again"):
        Workspace.build(heir(tmp_path / "bare"))
    path.unlink()
    with pytest.raises(RecipeError, match=r"it has no space\.json, which says what it was"):
        Workspace.build(heir(tmp_path / "bare"))
