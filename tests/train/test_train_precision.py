"""`precision = "auto"` is bf16 or fp32 by what the device has, and from then on one of them."""

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import manyshot as ms
from manyshot.pipeline import Workspace
from manyshot.pipeline.settling import said_of_precisions, with_precision
from manyshot.recipe import Recipe
from manyshot.train.precision import fast_precision
from pipeline_runs import run, small


def with_units(monkeypatch, has_them):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_them})


@pytest.mark.parametrize(("has_them", "wanted"), [(True, "bf16"), (False, "fp32")])
def test_training_is_in_what_the_processor_has_units_for(monkeypatch, has_them, wanted):
    with_units(monkeypatch, has_them)
    splits = ms.data.load("digits", train_size=128)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    ended = []
    for precision in ("auto", wanted, {"bf16": "fp32", "fp32": "bf16"}[wanted]):
        trained = copy.deepcopy(net)
        ms.fit(trained, splits, settings=ms.TrainingSettings(epochs=1, precision=precision))
        ended.append(torch.cat([p.detach().flatten() for p in trained.parameters()]))
    assert torch.equal(ended[0], ended[1]) and not torch.equal(ended[0], ended[2])


@pytest.mark.filterwarnings("ignore:precision = ")
def test_products_on_a_gpu_are_as_a_step_says_and_exact_in_scores(monkeypatch):
    """What torch was told while a network ran, as if that were on a GPU, and after it."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    seen = set()

    class Noted(nn.Linear):
        def forward(self, x):
            seen.add((self.training, *(place.fp32_precision for place in places)))
            return super().forward(x)

    splits = ms.data.load("digits", train_size=128)
    net = nn.Sequential(nn.Flatten(), Noted(64, 10))
    before = [place.fp32_precision for place in places]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: None)
    for precision, kind in (("fp32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")):
        seen.clear()
        ms.fit(net, splits, settings=ms.TrainingSettings(epochs=1, precision=precision))
        assert seen == {(True, kind, kind, kind)}
    seen.clear()
    ms.evaluate.score_module(net, [(torch.zeros(4, 64), torch.zeros(4, dtype=torch.int64))])
    assert seen == {(False, "ieee", "ieee", "ieee")}
    assert [place.fp32_precision for place in places] == before


def test_a_torch_that_does_not_say_trains_in_single_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert fast_precision(torch.device("cpu")) == "fp32"
    assert fast_precision(torch.device("meta")) == "fp32"


@pytest.mark.parametrize(
    ("units", "precision", "slow"),
    [
        ({"amx_bf16": False, "avx512_bf16": False}, "bf16", True),
        ({"amx_bf16": False, "avx512_bf16": False}, "auto", False),
        ({"amx_bf16": False, "avx512_bf16": False}, "fp32", False),
        ({"amx_bf16": False, "avx512_bf16": False}, "tf32", False),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16", False),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16", False),
        ({"sve_bf16": False}, "bf16", False),  # another kind of processor: nothing is known
    ],
)
def test_a_precision_without_units_is_said_to_be_slow(monkeypatch, units, precision, slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    recipe = Recipe.model_validate({"finish": {"training": {"precision": precision}}})
    device = torch.device("cpu")
    said = said_of_precisions(with_precision(recipe, device), device)
    assert said.startswith("finish.training.precision = 'bf16' is several times slower") is slow
    assert ("no amx_bf16, no avx512_bf16): say precision = 'auto'" in said) is slow
    assert said_of_precisions(recipe, torch.device("meta")) == ""


def test_fitting_in_a_precision_without_units_warns(monkeypatch):
    units = {"amx_bf16": False, "avx512_bf16": False}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: units)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    settings = ms.TrainingSettings(epochs=1, precision="bf16")
    with pytest.warns(UserWarning, match="precision = 'bf16' is several times slower"):
        ms.fit(net, ms.data.load("digits", train_size=64), settings=settings)


def test_a_run_keeps_what_it_began_with(monkeypatch, tmp_path):
    with_units(monkeypatch, True)
    auto = ("train.precision=auto", "finish.training.precision=auto", "finish.mode=finetune")
    recipe = small(*auto, "shifting.precision=auto", "finish.training.epochs=1")
    run(recipe, tmp_path / "run")
    kept = Recipe.load(tmp_path / "run" / "recipe.toml")
    said = {kept.train.precision, kept.finish.training.precision, kept.shifting.precision}
    assert said == {"bf16"}
    with_units(monkeypatch, False)  # as on another machine, where it goes on
    assert Workspace.build(kept).recipe.train.precision == "bf16"
    assert Workspace.build(recipe).recipe.train.precision == "fp32"


def test_a_truth_is_the_same_on_all_machines():
    with pytest.raises(ValidationError, match="say 'fp32' or 'bf16'"):
        Recipe.model_validate({"truth": {"training": {"precision": "auto"}}})
