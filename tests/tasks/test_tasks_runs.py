"""Whole runs of other tasks than classification: trained, searched, finished, judged, drawn."""

import importlib
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import TensorDataset

import manyshot as ms
from manyshot import pipeline, rank, records
from manyshot.pipeline import Workspace
from manyshot.pipeline.identity import load_final_weights
from manyshot.recipe import RecipeError
from manyshot.run_folder import RunFolder
from manyshot.tasks import Dense, make_task
from pipeline_runs import EVERYTHING, plain, small

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
SIZE = ('task.name="tests.tasks.own:Size"', "network.options.classes=1")
"""Regression of digits, by a task of one's own that ranks by an error."""


def lines_of(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def sized(tmp_path_factory):
    """A run of the own task, with a sampler that distils."""
    folder = tmp_path_factory.mktemp("sized") / "run"
    run = ms.run(small(*SIZE, 'sampler.name="sandwich"'), out=folder)
    return run, folder


def test_a_run_of_ones_own_task_is_scored_by_it(sized):
    """Every record is what plain torch says of the networks, in the task's unit and direction."""
    run, folder = sized
    ws = Workspace.build(run.recipe)
    load_final_weights(ws, RunFolder(folder))
    batches = list(ws.fixed("validation", None))
    for line in lines_of(folder, "search.jsonl"):
        arch = ws.net.space.from_text(line["arch"])
        stats = ms.evaluate.calibrate(ws.net, arch, ws.calibration())
        subnet = ws.net.extract(arch, stats=stats).eval()
        with torch.no_grad():
            off = torch.cat([subnet(x)[:, 0] - y / 9 for x, y in batches]).double()
        assert line["proxy_score"] == pytest.approx(float(off.abs().mean()), rel=1e-5)
        assert line["proxy_loss"] == pytest.approx(float(off.square().mean()), rel=1e-5)
    result = run.result
    assert plain(result.task) == {
        "name": "tests.tasks.own:Size",
        "metric": {"name": "mean error", "higher_is_better": False, "share": False},
        "fitness": "metric",
    }
    tested = list(ws.fixed("test", None))
    for winner in run.winners:
        with torch.no_grad():
            off = torch.cat([winner.module()(x)[:, 0] - y / 9 for x, y in tested]).double()
        assert winner.test_score == pytest.approx(float(off.abs().mean()), rel=1e-5)
        expected = {"mean error": off.abs().mean(), "squared error": off.square().mean()}
        assert winner.test_metrics == pytest.approx(
            {k: float(v) for k, v in expected.items()}, rel=1e-5
        )


def test_winners_have_the_least_error(sized):
    run, folder = sized
    scored = {line["arch"]: line for line in lines_of(folder, "search.jsonl")}
    largest = json.loads((folder / "space.json").read_text())["largest"]["macs"]
    for winner in run.result.winners:
        share = float(winner.budget.removeprefix("macs<=").removesuffix("%")) / 100
        within = [s["proxy_score"] for s in scored.values() if s["macs"] <= share * largest]
        assert winner.proxy_score == min(within) < max(within)


def test_pages_and_cards_call_the_metric_by_its_name(sized):
    run, folder = sized
    page = run.report().read_text(encoding="utf-8")
    assert "proxy mean error" in page and "Cost against mean error" in page
    assert "oxy accuracy" not in page and "est accuracy" not in page
    [winner, *_] = run.result.winners
    card = json.loads((folder / winner.files["json"]).read_text())
    assert card["scores"]["test mean error"] == winner.test_score
    assert card["scores"]["proxy mean error"] == winner.proxy_score


def test_truth_and_rank_take_an_error_for_what_it_is(sized, tmp_path, monkeypatch):
    """Against a truth that is the proxy itself, tau is 1 and the pick is the least error."""
    monkeypatch.setattr(importlib.import_module("manyshot.rank.statistics"), "DRAWS", 10)
    run, folder = sized
    recipe = small(*SIZE, 'truth.plan="uniform"', "truth.count=3", "truth.seeds=[0]",
                   "truth.training.epochs=1", "truth.training.batch_size=64")  # fmt: skip
    pipeline.truth(recipe, tmp_path / "truth")
    trained = lines_of(tmp_path / "truth", "truth.jsonl")
    assert {line["metric"]["name"] for line in trained} == {"mean error"}
    scored = {line["arch"]: line["proxy_score"] for line in lines_of(folder, "search.jsonl")}
    archs = list(scored)
    rows = [{**trained[0], "arch": arch, "test_score": scored[arch]} for arch in archs]
    (tmp_path / "own").mkdir()
    records.write_lines(tmp_path / "own" / "truth.jsonl", rows)
    table = rank.load_truth(tmp_path / "own")
    ranking = pipeline.rank_run(run.recipe, folder, table, out=tmp_path / "rank")
    proxy = ranking.sets[0].predictors["proxy"]
    assert proxy.kendall.value == pytest.approx(1) and proxy.regret.value == 0
    assert ranking.points[0].truth == pytest.approx(ranking.points[0].proxy_score, rel=1e-6)
    assert proxy.best_rank["1"] == 1
    least = min(scored, key=scored.__getitem__)
    upside_down = [{**row, "test_score": -row["test_score"]} for row in rows]
    records.write_lines(tmp_path / "own" / "truth.jsonl", upside_down)
    table = rank.load_truth(tmp_path / "own")
    ranking = pipeline.rank_run(run.recipe, folder, table, out=tmp_path / "rank")
    proxy = ranking.sets[0].predictors["proxy"]
    assert proxy.kendall.value == pytest.approx(-1)
    assert proxy.regret.value == pytest.approx(max(scored.values()) - scored[least])


def test_by_loss_other_networks_rank_first(tmp_path):
    """With losses that order against the metric, fitness says which of the two is followed."""
    order = {}
    for fitness in ("metric", "loss"):
        recipe = small(
            'task="tests.tasks.test_tasks_runs:Opposed"',
            f'evaluate.fitness="{fitness}"',
            *('search.name="random"', "search.options={}", 'search.budgets=["macs<=100%"]'),
            'finish.mode="inherit"',
        )
        run = ms.run(recipe, out=tmp_path / fitness)
        scored = {line["arch"]: line for line in lines_of(tmp_path / fitness, "search.jsonl")}
        order[fitness] = scored
        [winner] = run.result.winners
        by_score = max(scored.values(), key=lambda line: line["proxy_score"])
        by_loss = min(scored.values(), key=lambda line: line["proxy_loss"])
        assert by_score["arch"] != by_loss["arch"]
        expected = by_score if fitness == "metric" else by_loss
        assert winner.arch == expected["arch"]
    assert order["metric"].keys() == order["loss"].keys()


class Opposed(ms.tasks.OneLoss):
    """The loss is the mean of the logits, the metric ranks by it: the better the one the worse."""

    shares = ()

    def check(self, outputs, targets):
        assert outputs.shape == (len(targets), 10)

    def loss(self, outputs, targets):
        return outputs.square().mean()

    def metrics(self, outputs):
        return {"spread": Spread()}


class Spread:
    """The mean square of the logits, where higher is better."""

    higher_is_better = True

    def __init__(self):
        self.values = []

    def to(self, device):
        pass

    def update(self, outputs, targets):
        self.values.append(outputs.double().square())

    def compute(self):
        return torch.cat(self.values).mean()


def test_codes_shifted_sampling_and_shifting_learn_numbers(tmp_path):
    """All three methods in one run of regression."""
    recipe = small(*EVERYTHING, *SIZE)
    result = ms.run(recipe, out=tmp_path / "run").result
    assert result.images_forwarded["shifting"] and result.images_forwarded["probe"]
    moved = result.order["global"]
    assert moved.mean_score_before != moved.mean_score_after
    assert all(0 < winner.test_score < 1 for winner in result.winners)


# -- what is refused before training ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (('task="dense"',), r"task = 'dense': .*\(2, 10\).*Allowed in task 'dense'"),
        (('task="regression"',), r"\(2, 10\) .*the targets a tensor of shape \(2,\)"),
        ((*SIZE[:1],), r"outputs \(2, 10\) are not \(2, 1\)"),
        ((*SIZE, "finish.training.mixup=0.2"), r"finish.training.mixup = 0.2: Size has no"),
        ((*SIZE, "train.label_smoothing=0.1"), r"train.label_smoothing = 0.1: Size has no"),
        (('task="multi_lable"',), "did you mean 'multi_label'"),
        (('task.name="dense"', "task.options={ignore_index=1.5}"), "ignore_index = 1.5"),
    ],
)
def test_what_cannot_be_learnt_is_said_before_anything_is_written(settings, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        ms.run(small(*settings), out=tmp_path / "run")
    assert not (tmp_path / "run" / "recipe.toml").exists()


# -- in Python -------------------------------------------------------------------------------------


class Convs(nn.Module):
    """Two convolutions, and a mean over the image if there is one answer per image."""

    def __init__(self, outputs, *, dense):
        super().__init__()
        width = ms.choose((4, 8, 16), "width")
        self.first = ms.nn.Conv2d(1, width, 3, padding=1)
        self.second = ms.nn.Conv2d(width, outputs, 1)
        self.dense = dense

    def forward(self, x):
        y = self.second(torch.relu(self.first(x)))
        return {"out": y, "aux": x} if self.dense else y.mean((2, 3))


def toy(kind):
    """Noise, with whether each pixel is bright (none in the first row), or how bright it all is."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((160, 1, 8, 8), generator=generator)
    if kind == "dense":
        targets = (images[:, 0] > 0).long()
        targets[:, 0] = 255
        task = {"name": "dense", "options": {"output": "out", "ignore_index": 255}}
        return images, targets, Convs(2, dense=True), task
    images = images * torch.rand((160, 1, 1, 1), generator=generator)
    targets = images.abs().mean((1, 2, 3))[:, None]
    task = {"name": "regression", "options": {"metric": "MAE"}}
    return images, targets, Convs(1, dense=False), task


@pytest.mark.parametrize("kind", ["dense", "regression"])
def test_a_toy_is_learnt_searched_and_finished(kind, tmp_path):
    images, targets, model, task = toy(kind)
    parts = [TensorDataset(images[a:b], targets[a:b]) for a, b in ((0, 96), (96, 128), (128, 160))]
    run = ms.run(
        out=tmp_path / "run",
        network=model,
        data=tuple(parts),
        task=task,
        budgets=["macs<=100%"],
        sampler={"name": "sandwich"},
        train={"epochs": 30, "batch_size": 32},
        search={"name": "random", "candidates": 3, "generation": 3},
        finish={"training": {"epochs": 15, "batch_size": 32, "lr": 0.1}},
        latency={"warmup": 0, "repeats": 1},
        export={"formats": ["json"]},
    )
    [winner] = run.result.winners
    scored = [line["proxy_score"] for line in lines_of(tmp_path / "run", "search.jsonl")]
    assert winner.proxy_score == (max if kind == "dense" else min)(scored)
    subnet = model_of(run, kind, winner)
    with torch.no_grad():
        outputs = subnet(images[128:])
    if kind == "dense":
        right = (outputs["out"].argmax(1) == targets[128:])[:, 1:]
        assert winner.test_metrics["pixel accuracy"] == float(right.double().mean()) > 0.9
    else:
        off = (outputs - targets[128:]).double().abs().mean()
        assert winner.test_score == pytest.approx(float(off), rel=1e-6)
        mean = (targets[128:] - targets[:96].mean()).abs().mean()
        assert winner.test_score < 0.5 * float(mean), "else nothing is learnt"
    assert "class" not in json.loads((tmp_path / "run" / "space.json").read_text())["task"]["name"]


def model_of(run, kind, winner):
    """The finished network, by its weights on file."""
    outputs, dense = (2, True) if kind == "dense" else (1, False)
    net = ms.Supernet(Convs(outputs, dense=dense))
    subnet = net.extract(net.space.from_text(winner.arch)).eval()
    subnet.load_state_dict(load_file(run.files.subnets / f"{winner.arch}.safetensors"))
    return subnet


def test_many_at_once_and_one_by_one_have_the_same_scores():
    images, targets, model, task = toy("regression")
    net = ms.Supernet(model, input_shape=(1, 8, 8))
    uneven = list(zip(images.split(70), targets.split(70), strict=True))
    how = {"calibration": uneven, "validation": uneven, "task": make_task(**task)}
    for arch, score in ms.evaluate.Population(net, net.space.enumerate(), **how):
        assert score == ms.evaluate.score(net, arch, **how)


def test_find_ranks_by_the_task_and_by_the_loss():
    images, targets, model, task = toy("regression")
    net, task = ms.Supernet(model, input_shape=(1, 8, 8)), make_task(**task)
    data = [TensorDataset(images[a:b], targets[a:b]) for a, b in ((0, 96), (96, 160))]
    ms.fit(net, data[0], task=task, settings=ms.TrainingSettings(epochs=2, batch_size=32))
    budgets, how = ["macs<=100%"], {"searcher": "random", "candidates": 3, "generation": 3}
    for fitness in ("metric", "loss"):
        found = ms.find(net, budgets=budgets, score=tuple(data), task=task, fitness=fitness, **how)
        for arch, score in found.history:
            with torch.no_grad():
                off = (net(images[96:], arch) - targets[96:]).double()
            error = off.abs().mean() if fitness == "metric" else off.square().mean()
            assert score == pytest.approx(-float(error), rel=1e-5)


def test_a_task_by_its_name_is_that_of_its_class():
    assert type(make_task("dense", {"ignore_index": 3})) is Dense
    assert make_task("dense", {"ignore_index": 3}).ignore == 3
