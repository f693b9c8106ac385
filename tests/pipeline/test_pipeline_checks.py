"""What would fail only after training is found before anything is written."""

import sys

import pytest

from manyshot.pipeline import Workspace
from manyshot.recipe import Recipe, RecipeError
from pipeline_runs import export_architecture, run, small


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (["train.batch_size=4096"], "train.batch_size = 4096 is more than the 128 training images"),
        (
            ["finish.training.batch_size=129"],
            "finish.training.batch_size = 129 is more than the 128 training images",
        ),
        (["data.pad=8"], "data: pad must be below the side of the images (8 pixels), got 8"),
        (["data.jitter=0.1"], "data: crop_scale and jitter work on images in files only"),
        (
            ["search.candidates=3"],
            "search.candidates = 3 are all drawn at random, because the searcher only learns from "
            "scores after the first 3: lower that in search.options, raise search.candidates, or",
        ),
        (
            ["search.name=predictor", "search.options={}", "search.candidates=20"],
            "search.candidates = 20 are all drawn at random, because the searcher only learns from "
            "scores after the first 20",
        ),
        (["device='cuda:1'"], "choose the GPU by the environment: CUDA_VISIBLE_DEVICES=1"),
    ],
    ids=str,
)
def test_found_before_anything_is_written(tmp_path, overrides, text):
    with pytest.raises(RecipeError) as caught:
        run(small(*overrides), tmp_path / "run")
    assert text in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_settings_that_are_not_used_are_not_checked(tmp_path):
    overrides = ("finish.training.batch_size=999", "finish.mode=inherit", "search.candidates=3")
    random = ("search.name=random", "search.options={}")
    Workspace.build(small(*overrides, *random)).check()


def test_batches_are_shared_by_all_processes(tmp_path):
    ws = Workspace.build(small())
    ws.check(world=2)
    with pytest.raises(RecipeError, match=r"train.batch_size = 32 is not a multiple of the 3 proc"):
        ws.check(world=3)


def test_packages_for_onnx_are_looked_for_first(base, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    recipe = small("export.formats=['onnx']")
    with pytest.raises(RecipeError, match=r"onnxscript.*pip install 'manyshot\[onnx\]'"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RecipeError, match="export.formats has 'onnx'"):
        export_architecture(recipe, base[0], "3-0-2-1")


def test_options_of_the_default_searcher_are_not_those_of_a_named_one():
    assert Recipe().search.options["population"] == 30
    assert Recipe.load(None, ["search.name=random"]).search.options == {}
    assert Recipe.load(None, ["search.candidates=9"]).search.options["population"] == 30
