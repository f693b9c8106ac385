"""What runs spent, against plans that are made again, and sums over records."""

import itertools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from manyshot.pipeline import Workspace
from manyshot.pipeline.verbs import compare_spent
from manyshot.pipeline.verbs.compare_spent import anytime, spent_by
from manyshot.run_folder import RunFolder, Spent
from manyshot.seeding import numpy_rng
from manyshot.train import Uniform
from manyshot.train.compute import Compute
from manyshot.train.gradients import accumulate
from manyshot.train.optimisation import Trained
from manyshot.train.plan import Plan, PlannedPath
from pipeline_runs import B, P, S


def costs_of(archs):
    return [100 if arch == (1,) else 7 for arch in archs]


class Masked:
    """Full masks by which all runs for 120, of which gradients run back through the largest."""

    def __call__(self, arch):
        return 120

    def learning(self, arch):
        return (1,)


def test_multiply_adds_of_training_are_those_of_its_plans(base):
    folder, recipe, _ = base
    ws = Workspace.build(recipe)
    sampler, last = Uniform(ws.net.space), RunFolder(folder).train_lines()[-1]
    assert recipe.sampler.name == "uniform" and last.weight_steps == last.step
    total = 0
    for step in range(last.step):
        for path in sampler.plan(numpy_rng(recipe.seed, "plan", step), step).paths:
            total += 3 * recipe.train.batch_size * int(ws.costs["macs"]([path.arch])[0])
    assert last.macs == total and last.probe_macs is None


def test_spent_is_summed_over_records(base):
    folder, _, _ = base
    files, result = RunFolder(folder), RunFolder(folder).result()
    found, lines = spent_by(folder, result), files.train_lines()
    assert (found.macs["training"], found.macs["probes"]) == (lines[-1].macs, 0)
    searched = sum(line.macs * line.images_forwarded for line in files.search_lines())
    assert found.macs["search"] == searched and found.macs["shifting"] == 0
    assert found.seconds == files.seconds().seconds and not found.missing


def test_steps_of_shifting_move_weights_too(base, shifted):
    """12 candidates of 2 mini-batches, and what is scored again does not train here."""
    trained = spent_by(base[0], RunFolder(base[0]).result()).weight_steps
    found = spent_by(shifted[0], RunFolder(shifted[0]).result())
    assert trained == RunFolder(base[0]).train_lines()[-1].step
    assert found.weight_steps == trained + 12 * 2
    assert not found.missing


def test_the_best_by_then_is_that_of_all_candidates_so_far(base, tmp_path):
    folder, _, _ = base
    files, result = RunFolder(folder), RunFolder(folder).result()
    spent, lines = spent_by(folder, result), files.search_lines()
    limit = result.winners[0].budget
    assert limit.startswith("macs<=") and limit.endswith("%")
    most = float(limit[6:-1]) / 100 * files.space().largest["macs"]
    points = anytime(folder, result, spent, {})
    best = list(
        itertools.accumulate(
            (line.proxy_score if line.macs <= most else 0.0 for line in lines), max
        )
    )
    assert [p.score for p in points][-1] == best[-1]
    assert {p.score for p in points} <= set(best)
    macs = spent.macs["training"] + spent.macs["search"]
    assert points[-1].macs == macs and points[0].macs > spent.macs["training"]
    assert [p.macs for p in points] == sorted(p.macs for p in points)
    last = json.loads((folder / "search.jsonl").read_text().splitlines()[-1])
    shutil.copytree(folder, tmp_path / "run")
    with (tmp_path / "run" / "search.jsonl").open("a") as log:  # beyond every budget, and better
        log.write(json.dumps({**last, "macs": 10**9, "proxy_score": 1.0, "proxy_loss": 0.0}) + "\n")
    more = anytime(tmp_path / "run", result, spent, {})
    assert more[-1].score == points[-1].score
    assert more[-1].macs == macs + 10**9 * last["images_forwarded"]
    only = {result.winners[0].arch: 0.75}
    assert {p.score for p in anytime(folder, result, spent, only)} <= {0.75}


def test_a_search_that_trains_spends_what_its_candidates_cost(shifted):
    """Every candidate of a generation trains on S batches of B images, forward and backward."""
    folder, _, _ = shifted
    files, result, spent = RunFolder(folder), RunFolder(folder).result(), 0
    scored = files.search_lines()
    for line in files.shifting_lines():
        own = [c for c in scored if c.role == "candidate" and c.generation == line.generation]
        assert len(own) == P
        spent += sum(3 * S * B * candidate.macs for candidate in own)
        assert line.macs == spent
    found = spent_by(folder, result)
    assert found.macs["shifting"] == spent and not found.missing
    points = anytime(folder, result, found, {})
    first = files.shifting_lines()[0].macs
    assert points[0].macs > found.macs["training"] + first
    assert points[-1].macs <= sum(found.macs[part] for part in ("training", "shifting", "search"))


def test_rows_and_images_are_those_that_run():
    """Against the forwards that `accumulate` makes, of two processes with 24 images each."""
    ran = []

    def forward(images, arch, **masked):
        ran.append(len(images) * (120 if masked else 7))
        weight = sum(masked["policy"].values()).sum() if masked else torch.ones(())
        return images * (weight if masked else weight.requires_grad_())

    path = PlannedPath((0,), policy={"d": torch.ones(2)}, policy_share=0.25)
    images, labels = torch.randn(24, 3), torch.zeros(24, dtype=torch.int64)
    losses = accumulate(forward, Plan((path,)), images, labels, largest=(1,))
    assert ran == [24 * 7, 16 * 120]
    compute = Compute(costs_of, (1,), processes=2, masks=Masked)
    compute.take([Trained(0, "weights", Plan((path,)), losses, 24)])
    assert compute.macs == 2 * (sum(ran) + 2 * (24 * 7 + 16 * 100))
    before = compute.macs
    compute.take([Trained(0, "weights", Plan((PlannedPath((0,)),)), [], 24)], backward=False)
    assert compute.macs - before == 2 * 24 * 7


@pytest.mark.parametrize(("masks", "cost"), [("full", 120 + 2 * 100), ("active", 3 * 7)])
def test_masks_probes_and_code_steps(masks, cost):
    compute = Compute(costs_of, (1,), masks=Masked)
    masked = PlannedPath((0,), policy={}, masks=masks)
    compute.take([Trained(0, "weights", Plan((masked,)), [], 8)])
    assert (compute.weight_steps, compute.macs) == (1, 8 * cost)
    taught = PlannedPath((0,), target="original")
    compute.take([Trained(1, "weights", Plan((taught,)), [], 8)])
    assert compute.macs == 8 * cost + 3 * 8 * 7 + 8 * 100
    before = compute.macs
    compute.take([Trained(2, "code", Plan((PlannedPath((0,)),)), [], n) for n in (3, 3, 2)])
    assert (compute.weight_steps, compute.macs - before) == (2, 3 * 8 * 7)
    compute.probe([PlannedPath((0,)), PlannedPath((1,))], 16)
    assert compute.probe_macs == 16 * 107
    other = Compute(None, (1,))
    other.load_state_dict(compute.state_dict())
    assert other.state_dict() == compute.state_dict() and not other.is_known


def test_every_process_has_a_share_of_its_own_images_for_policies():
    """Of 64 images in two processes each has half of its own: 16 at least."""
    path = PlannedPath((0,), policy={}, policy_share=0.25)
    for processes, rows in ((1, 16), (2, 2 * 16), (8, 8 * 8)):
        compute = Compute(costs_of, (1,), processes, masks=Masked)
        compute.take([Trained(0, "weights", Plan((path,)), [], 64 // processes)])
        assert compute.macs == 3 * 64 * 7 + rows * (120 + 2 * 100)


def test_a_probe_by_full_masks_runs_forward_alone():
    compute = Compute(costs_of, (1,), masks=Masked)
    compute.probe([PlannedPath((0,), policy={})], 16)
    assert compute.probe_macs == 16 * 120
    with pytest.raises(ValueError, match="whose cost is not known"):
        Compute(costs_of, (1,)).probe([PlannedPath((0,), policy={})], 16)


class _Folder:
    """A run of three candidates, whose third costs more than the budget allows."""

    path = Path("run")
    space_file = Path("run/space.json")
    search_log = Path(__file__)  # it exists
    largest: ClassVar = {"macs": 100.0}

    def __init__(self, _path):
        pass

    def space(self):
        return SimpleNamespace(largest=self.largest)

    def search_lines(self):
        return [
            SimpleNamespace(
                arch=str(i), macs=macs, params=1, latency_ms=None, costs=None, images_forwarded=2,
                proxy_score=score, proxy_loss=0.0, generation=0,
                fitness=lambda task, score=score: task.fitness_of(score, 0.0),
            )
            for i, (macs, score) in enumerate([(40, 0.5), (50, 0.6), (90, 0.9)])
        ]  # fmt: skip

    def shifting_lines(self):
        return []


def by_then(monkeypatch, budget):
    monkeypatch.setattr(compare_spent, "RunFolder", _Folder)
    spent = Spent(weight_steps=1, macs={"training": 10, "probes": 0, "shifting": 0}, seconds={})
    task = SimpleNamespace(fitness_of=lambda score, loss: score)
    result = SimpleNamespace(winners=[SimpleNamespace(budget=budget)], task=task)
    return [(point.macs, point.score) for point in anytime(Path("run"), result, spent, {})]


def test_the_last_point_is_of_all_that_was_spent(monkeypatch):
    """The last candidate is beyond the budget, and what it took was spent all the same."""
    expected = [(10 + 80, 0.5), (10 + 180, 0.6), (10 + 360, 0.6)]
    assert by_then(monkeypatch, "macs<=60%") == expected
    assert by_then(monkeypatch, "macs<=60") == expected


def test_a_share_of_a_cost_that_is_not_known_is_left_out_with_the_reason(monkeypatch):
    """As of latency, which is measured after the space is written."""
    monkeypatch.setattr(_Folder, "largest", {"params": 3.0})
    assert by_then(monkeypatch, "macs<=60%") == []
    result = SimpleNamespace(winners=[SimpleNamespace(budget="macs<=60%")])
    said = compare_spent.not_by_then(Path("run"), result)
    assert "share of the largest macs" in said and "has on record params" in said
    result.winners[0].budget = "macs<=60"
    assert compare_spent.not_by_then(Path("run"), result) is None
