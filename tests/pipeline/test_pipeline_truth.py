"""Truth: architectures trained alone, in one process or several, killed and gone on with."""

import copy
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from manyshot import evaluate, records
from manyshot.cost.timing import on_threads
from manyshot.pipeline import TruthFailed, Workspace, truth
from manyshot.pipeline.identity import truth_fingerprint
from manyshot.pipeline.verbs.truth import alone
from manyshot.pipeline.workers import Failed, Processes, Task
from manyshot.rank import TruthError, load_truth
from manyshot.rank.published import name_of_truth
from manyshot.recipe import RecipeError
from manyshot.run_folder import RunFolder
from manyshot.writing import writing
from pipeline_runs import SMALL, Stages, lines, small, stopped

EPOCHS = 12  # fewer leave batch norms where they began, and all accuracies equal
TRAINING = f"truth.training={{epochs={EPOCHS}, batch_size=32, lr=0.05}}"
SETS = (TRAINING, "truth.seeds=[1, 4]")
OF_ONE_SEED = (TRAINING, "truth.seeds=[4]")
ARCHS = ("0-1-2-3", "3-0-0-1", "1-1-1-1")


def rows(folder):
    """The trainings on record, but for times, in one order."""
    found = [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in lines(folder, "truth.jsonl")
    ]
    return sorted(found, key=lambda row: (row["arch"], row["seed"]))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished truth, which tests only read."""
    folder = tmp_path_factory.mktemp("truth")
    recipe = small(*SETS)
    assert truth(recipe, folder, archs=ARCHS) == 6
    return folder


def bare_loop(ws, arch):
    """Test accuracy and loss after an own loop of plain PyTorch."""
    module = ws.net.extract(arch).to(memory_format=torch.channels_last)
    groups = [
        {"params": [p for p in module.parameters() if p.dim() > 1], "weight_decay": 5e-4},
        {"params": [p for p in module.parameters() if p.dim() == 1], "weight_decay": 0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=0.9, nesterov=True)
    own = ws.batches(ws.recipe.truth.training)
    batches = [batch for epoch in range(EPOCHS) for batch in own.epoch(epoch)]
    for step, (images, labels) in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / len(batches))) / 2
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images), labels).backward()
        optimizer.step()
    module.eval()
    with torch.no_grad():
        images, labels = (torch.cat(part) for part in zip(*ws.fixed("test", None), strict=True))
        logits = module(images)
    right = (logits.argmax(1) == labels).float().mean()
    return right.item(), nn.functional.cross_entropy(logits, labels).item()


def test_a_training_is_a_bare_loop(done, tmp_path):
    torch.set_num_threads(1)
    for seed in (1, 4):
        ws = Workspace.build(small(*SETS, f"seed={seed}"))
        for row in rows(done):
            if row["seed"] == seed:
                arch = ws.net.space.from_text(row["arch"])
                accuracy, loss = bare_loop(ws, arch)
                # the same operations; sums over other batches of test images differ in float32
                assert row["test_loss"] == pytest.approx(loss, rel=1e-4)
                assert row["test_score"] == pytest.approx(accuracy, abs=1.01 / 449)
                assert row["macs"] == ws.costs["macs"]([arch])[0]
                assert row["images_forwarded"] == EPOCHS * 128


def test_the_seed_of_a_training_draws_its_dropout(tmp_path):
    ws = Workspace.build(small(TRAINING))
    linear = nn.Linear(8 * 8, 10)

    def loss(seed):
        net = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), copy.deepcopy(linear))
        return alone(ws, net, ws.recipe.truth.training, seed).loss

    assert loss(1) == loss(1) != loss(2)


def test_the_record_is_a_truth_table(done):
    found = load_truth(done)
    assert found.archs == ((0, 1, 2, 3), (1, 1, 1, 1), (3, 0, 0, 1))
    assert found.runs == ("seed 1", "seed 4") and set(found.costs) == {"macs", "params"}
    assert len(np.unique(found.scores_NR)) > 3


def test_a_truth_is_found_by_its_name_where_the_command_puts_it(done, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TruthError, match="'mine' does not exist: train networks alone first"):
        load_truth("mine")
    shutil.copytree(done, tmp_path / "truth" / "mine")
    (tmp_path / "mine").mkdir()  # something else of this name
    found = load_truth("mine")
    assert found.name == name_of_truth("truth/mine") == name_of_truth("mine") == "mine"
    assert found.digest == load_truth(done).digest
    with pytest.raises(TruthError, match="tmp holds no truth.jsonl: near it: truth/mine; or train"):
        load_truth(shutil.copytree(tmp_path / "mine", tmp_path / "tmp"))


def test_the_recipes_own_seed_sharing_and_sampler_have_no_part(done, tmp_path):
    other = ("seed=9", "sharing.name=k_shot", "sampler.held_out=16", "sampler.name=fair")
    truth(small(*SETS, *other), tmp_path, archs=ARCHS[:1])
    assert rows(tmp_path) == [row for row in rows(done) if row["arch"] == ARCHS[0]]


def test_what_is_on_record_is_not_trained_again(done, tmp_path):
    recipe = small(TRAINING, "truth.seeds=[4]")
    assert truth(recipe, tmp_path, archs=ARCHS[:2]) == 2
    assert all(row["seconds"] > 0 for row in lines(tmp_path, "truth.jsonl"))
    (tmp_path / "environment.json").write_text("where it began")
    assert truth(recipe, tmp_path, archs=ARCHS[:2]) == 0
    assert (tmp_path / "environment.json").read_text() == "where it began"
    assert truth(small(*SETS), tmp_path, archs=ARCHS) == 4
    assert rows(tmp_path) == rows(done)


@pytest.mark.parametrize("writes", [1, 3])
def test_killed_after_a_durable_write(done, tmp_path, monkeypatch, writes):
    recipe = small(*OF_ONE_SEED)

    def work():
        truth(recipe, tmp_path, archs=ARCHS)

    assert stopped(monkeypatch, writes, work) is not None
    before, stages = len(rows(tmp_path)), Stages()
    assert before < 3
    assert truth(recipe, tmp_path, stages, archs=ARCHS) == 3 - before
    assert stages.seen == [("truth", 3, list(range(before, 4)))]
    assert rows(tmp_path) == [row for row in rows(done) if row["seed"] == 4]


def test_killed_in_the_middle_of_a_line(done, tmp_path):
    recipe = small(*OF_ONE_SEED)
    truth(recipe, tmp_path, archs=ARCHS[:2])
    log = tmp_path / "truth.jsonl"
    log.write_bytes(log.read_bytes()[:-20])
    assert truth(recipe, tmp_path, archs=ARCHS) == 2
    assert rows(tmp_path) == [row for row in rows(done) if row["seed"] == 4]


@pytest.mark.slow
def test_killed_for_good_with_processes(done, tmp_path):
    """SIGKILL of the command: its processes end too, and the next one goes on."""
    (tmp_path / "small.toml").write_text(SMALL)
    words = ["--out", str(tmp_path / "truth"), "--workers", "2", "--quiet"]
    for override in (*SETS, "truth.seeds=[1, 4, 5, 6, 7, 8, 9, 10]"):
        words += ["--set", override]
    for arch in ARCHS:
        words += ["--arch", arch]
    command = [sys.executable, "-m", "manyshot", "truth", str(tmp_path / "small.toml"), *words]
    process = subprocess.Popen(command)
    log = tmp_path / "truth" / "truth.jsonl"
    until = time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    children = _children(process.pid)
    assert len(children) >= 2
    with process:
        process.kill()
    until = time.monotonic() + 60
    while any(_alive(child) for child in children):
        assert time.monotonic() < until, "a process outlives the command that made it"
        time.sleep(0.1)
    recipe = small(*SETS)
    truth(recipe, tmp_path / "truth", archs=ARCHS)
    assert [r for r in rows(tmp_path / "truth") if r["seed"] in (1, 4)] == rows(done)


def _children(pid):
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    return [int(word) for word in listed.stdout.split()]


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] != "Z"


def test_other_settings_need_another_folder(done, tmp_path):
    other = small(*SETS, "truth.training.epochs=2")
    before = (done / "truth.jsonl").read_bytes()
    unseen = small(*SETS, "truth.training.epochs=2", "truth.seeds=[8]")
    for recipe in (other, unseen):
        with pytest.raises(records.RecordError, match="another network, images or truth.training"):
            truth(recipe, done, archs=["2-2-2-2"])
    assert (done / "truth.jsonl").read_bytes() == before


def test_a_training_that_diverges_is_named_after_all_others(tmp_path, monkeypatch):
    recipe = small(*SETS)
    module = importlib.import_module("manyshot.pipeline.verbs.truth")
    work = module.trained_alone

    def some_fail(task):
        return Failed(task, "loss is nan") if task.arch == ARCHS[0] else work(task)

    monkeypatch.setattr(module, "trained_alone", some_fail)
    with pytest.raises(TruthFailed, match=f"2 of 6 trainings.*{ARCHS[0]} with seed 1: loss is nan"):
        truth(recipe, tmp_path, archs=ARCHS)
    assert len(rows(tmp_path)) == 4


def test_loss_that_is_no_number_is_a_failure(tmp_path):
    recipe = small("truth.training={epochs=2, lr=1e30}", "truth.seeds=[0]")
    with pytest.raises(TruthFailed, match="1 of 1 trainings gave no score"):
        truth(recipe, tmp_path, archs=ARCHS[:1])


def test_a_score_that_is_no_number_is_a_failure(tmp_path, monkeypatch):
    module = importlib.import_module("manyshot.pipeline.verbs.truth")
    score = evaluate.Score(0.1, math.nan, 449)
    monkeypatch.setattr(module.evaluate, "score_module", lambda *args, **kwargs: score)
    with pytest.raises(TruthFailed, match="its loss on the test images is nan"):
        truth(small(*SETS), tmp_path, archs=ARCHS[:1])
    assert rows(tmp_path) == []


def test_one_command_at_a_time(done, tmp_path):
    recipe = small(*SETS)
    with writing(tmp_path, "another command"):
        with pytest.raises(records.RecordError, match="another command .* is at work"):
            truth(recipe, tmp_path, archs=ARCHS[:1])
        assert not (tmp_path / "truth.jsonl").exists()
    assert truth(recipe, tmp_path, archs=ARCHS[:1]) == 2


MANY = [
    "network.name=shufflenet",
    "network.options={widths=[8], repeats=[9], strides=[2], stem=4, tail=8}",
]


class TestPlans:
    def planned(self, tmp_path, *overrides, trained=(), **kwargs):
        """The architectures that a plan would train."""
        recipe = small(TRAINING, *overrides)
        (tmp_path / "lock").touch()
        for record in trained:
            records.append(tmp_path / "truth.jsonl", record)

        class Only:
            tasks = ()

            def run(self, work, tasks):
                self.tasks = tasks
                return iter(())

        only = Only()
        truth(recipe, tmp_path, workers=only, **kwargs)
        return [task.arch for task in only.tasks]

    def test_all(self, tmp_path):
        archs = self.planned(tmp_path, "truth.seeds=[0]")
        assert len(archs) == len(set(archs)) == 256
        assert archs != sorted(archs), "a beginning of the plan should be a sample"

    def test_seeds_come_one_after_the_other(self, tmp_path):
        archs = self.planned(tmp_path, "truth.plan=uniform", "truth.count=5", "truth.seeds=[2,0]")
        assert len(archs) == 10 and archs[:5] == archs[5:]

    @pytest.mark.parametrize("plan", ["all", "uniform", "stratified"])
    def test_the_recipes_seed_draws_whatever_seeds_train(self, tmp_path, plan):
        sets = (f"truth.plan={plan}", "truth.count=9")
        one, other, third = (
            self.planned(tmp_path, *sets, f"truth.seeds=[{train}]", f"seed={seed}")
            for seed, train in ((1, 0), (1, 5), (2, 0))
        )
        assert one == other != third

    def test_uniform(self, tmp_path):
        archs = self.planned(tmp_path, "truth.plan=uniform", "truth.count=5", "truth.seeds=[0]")
        assert len(set(archs)) == 5

    def test_stratified(self, tmp_path):
        sets = ("truth.plan=stratified", "truth.count=24", "truth.strata=4", "truth.seeds=[0]")
        archs = self.planned(tmp_path, *sets)
        ws = Workspace.build(small())
        costs = ws.costs["macs"]
        everything = costs(list(ws.net.space.enumerate()))
        edges = np.linspace(everything.min(), everything.max(), 5)
        macs = costs([ws.net.space.from_text(a) for a in archs])
        assert np.histogram(macs, edges)[0].tolist() == [6, 6, 6, 6]
        assert np.histogram(macs[:8], edges)[0].tolist() == [2, 2, 2, 2]

    def test_an_empty_stratum_leaves_its_share_to_others(self, tmp_path):
        sets = ("truth.plan=stratified", "truth.count=250", "truth.strata=9", "truth.seeds=[0]")
        assert len(set(self.planned(tmp_path, *sets))) == 250

    def test_a_space_too_large_to_list_is_sampled(self, tmp_path, monkeypatch):
        monkeypatch.setattr("manyshot.pipeline.verbs.truth_plans.MOST", 100)
        monkeypatch.setattr("manyshot.pipeline.verbs.truth_plans.DRAWS", 60)
        sets = ("truth.plan=stratified", "truth.count=80", "truth.strata=3", "truth.seeds=[0]")
        assert len(set(self.planned(tmp_path, *sets))) == 60

    def test_top_and_winners_of_runs(self, base, tmp_path):
        folder, _, result = base
        sets = ("truth.seeds=[0]", "truth.count=3")
        scored = {r["arch"]: r["proxy_score"] for r in lines(folder, "search.jsonl")}
        top = self.planned(tmp_path, "truth.plan=top", *sets, of=[folder])
        assert sorted(scored[a] for a in top) == sorted(scored.values())[-3:]
        winners = self.planned(tmp_path, "truth.plan=winners", *sets, of=[folder])
        assert set(winners) == {w["arch"] for w in result["winners"]}
        assert self.planned(tmp_path, "truth.plan=winners", *sets, of=[folder] * 2) == winners

    def test_best_of_the_truth_so_far(self, tmp_path):
        ws = Workspace.build(small(TRAINING))
        metric = ws.task_record.metric.plain()
        same = {"metric": metric, "schema": 2}
        same["settings"] = truth_fingerprint(ws, ws.recipe.truth.training)
        accuracies = {"0-0-0-0": 0.4, "1-0-0-0": 0.6, "2-0-0-0": 0.5, "3-0-0-0": 0.6}
        trained = [
            {"arch": arch, "seed": 1, "test_score": accuracy, **same}
            for arch, accuracy in accuracies.items()
        ]
        ws = Workspace.build(small(TRAINING, "seed=3"))
        same["settings"] = truth_fingerprint(ws, ws.recipe.truth.training)
        trained.append({"arch": "0-0-0-0", "seed": 3, "test_score": 0.9, **same})
        sets = ("truth.plan=best", "truth.count=3", "truth.seeds=[2]")
        archs = self.planned(tmp_path, *sets, trained=trained)
        assert archs == ["1-0-0-0", "3-0-0-0", "2-0-0-0"]
        with pytest.raises(RecipeError, match="must not judge"):
            self.planned(tmp_path, *sets[:2], "truth.seeds=[1, 2]")

    def test_aliases_are_one_architecture(self, tmp_path):
        network = ("network.name=macro", "network.options={width=2}")
        archs = ["0-1-1-0-1-1-0-2", "0-1-1-1-0-1-2-0"]
        assert self.planned(tmp_path, *network, "truth.seeds=[0]", archs=archs) == [archs[1]]
        every = self.planned(tmp_path, *network, "truth.plan=all", "truth.seeds=[0]")
        assert len(every) == len(set(every)) == 3969

    @pytest.mark.parametrize(
        ("sets", "given", "message"),
        [
            (["truth.plan=best"], {}, "there are none yet"),
            (["truth.plan=top"], {}, "give their folders by --of"),
            (["truth.plan=all"], {"of": ["run"]}, "--of is for"),
            (MANY, {}, "at most 100,000 encodings"),
            (["truth.training.batch_size=4096"], {}, "truth.training"),
        ],
    )
    def test_what_cannot_be_planned(self, tmp_path, sets, given, message):
        with pytest.raises(RecipeError, match=message):
            self.planned(tmp_path, *sets, **given)
        assert not (tmp_path / "truth.jsonl").exists()

    def test_runs_of_another_network(self, base, tmp_path):
        sets = ("truth.plan=winners", "network.options={width=4}")
        with pytest.raises(RecipeError, match="'width': 3.*'width': 4"):
            self.planned(tmp_path, *sets, of=[base[0]])

    def test_an_architecture_outside_the_space(self, tmp_path):
        with pytest.raises(RecipeError, match="--arch: .*option 7 is not in"):
            self.planned(tmp_path, archs=["7-0-0-0"])


def test_processes_give_what_one_gives(done, tmp_path):
    recipe = small(*OF_ONE_SEED)
    assert truth(recipe, tmp_path, archs=ARCHS, workers=Processes(2)) == 3
    assert rows(tmp_path) == [row for row in rows(done) if row["seed"] == 4]


class TestWorkers:
    """In this order a test goes on with the processes of the one before, which saves seconds."""

    tasks = [Task("", "0", seed) for seed in range(3)]

    def test_an_exception_ends_it(self):
        with pytest.raises(ZeroDivisionError):
            list(Processes(1).run(_divided, self.tasks))

    def test_outcomes_come_as_tasks_finish(self, tmp_path):
        """The first task waits until the outcome of the second has arrived."""
        outcomes = Processes(2).run(_waits, [Task(str(tmp_path / "go"), "0", s) for s in (1, 0)])
        assert next(outcomes) == {"value": 0}
        (tmp_path / "go").touch()
        assert list(outcomes) == [{"value": 1}]

    def test_each_has_as_many_threads_as_this_process(self):
        with on_threads(1):
            assert list(Processes(2).run(_threads, self.tasks[:2])) == [1, 1]

    def test_a_process_that_dies_is_an_error_with_a_way_out(self):
        with pytest.raises(RuntimeError, match="one of 2 processes .* fewer --workers"):
            list(Processes(2).run(_dies, self.tasks[:1]))

    def test_each_has_more_threads_if_this_process_has(self):
        with on_threads(3):
            assert list(Processes(2).run(_threads, self.tasks[:2])) == [3, 3]

    def test_what_has_not_begun_is_dropped(self, tmp_path):
        tasks = [Task(str(tmp_path), "0", seed) for seed in range(40)]
        with on_threads(3), pytest.raises(ZeroDivisionError):
            list(Processes(2).run(_divided, tasks))
        begun = len(list(tmp_path.iterdir()))
        assert 0 < begun < 20  # what a process has been handed may go on
        time.sleep(1)
        assert len(list(tmp_path.iterdir())) == begun

    def test_a_process_in_the_middle_of_hours_of_work_ends_with_its_parent(self, tmp_path):
        (tmp_path / "sleeping.py").write_text(SLEEPING)
        command = [sys.executable, "-c", "import sleeping; sleeping.main()", str(tmp_path)]
        with subprocess.Popen(command, cwd=tmp_path) as process:
            until = time.monotonic() + 120
            while len(busy := [int(path.name) for path in tmp_path.glob("[0-9]*")]) < 2:
                assert time.monotonic() < until and process.poll() is None
                time.sleep(0.05)
            assert all(map(_alive, busy)) and process.pid not in busy
            process.kill()
        until = time.monotonic() + 30
        while any(map(_alive, busy)):
            assert time.monotonic() < until, "a process goes on with work that nobody waits for"
            time.sleep(0.1)

    def test_a_process_without_work_ends(self):
        others = set(Processes(2).run(_who, self.tasks))  # one may be ready before the other is
        until = time.monotonic() + 30
        while any(map(_alive, others)):
            assert time.monotonic() < until, "processes wait for more work for ever"
            time.sleep(0.1)
        assert os.getpid() not in others

    def test_no_tasks(self):
        assert list(Processes(2).run(_dies, [])) == []

    def test_at_least_one(self):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            Processes(0)

    def test_one_is_this_process_and_does_a_task_when_asked(self):
        assert list(Processes(1).run(_who, self.tasks[:1])) == [os.getpid()]
        outcomes = Processes(1).run(_divided, self.tasks[1:])
        assert next(outcomes) == {"value": 1.0}


SLEEPING = """
import os, sys, time
from pathlib import Path
from manyshot.pipeline.workers import Processes, Task

def work(task):
    Path(task.recipe, str(os.getpid())).touch()
    time.sleep(3600)

def main():
    list(Processes(2).run(work, [Task(sys.argv[1], "0", seed) for seed in range(4)]))
"""


def _divided(task):
    if task.recipe:
        time.sleep(0.1)
        (Path(task.recipe) / str(task.seed)).touch()
    return {"value": 1 / task.seed}


def _dies(task):
    os._exit(3)


def _waits(task):
    until = time.monotonic() + 60
    while task.seed and not Path(task.recipe).exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return {"value": task.seed}


def _threads(task):
    return torch.get_num_threads()


def _who(task):
    return os.getpid()


RAY = """
import json, sys
from pathlib import Path
import ray
import torch
from manyshot.crews import RayCrew
from manyshot.pipeline import run, truth
from manyshot.pipeline.workers import Ray
from manyshot.recipe import Recipe

folder, archs, sets, base = json.loads(sys.argv[1])
submit, asked = RayCrew._submit, []

def submit_and_kill(crew, worker, work, needed, task):
    future = submit(crew, worker, work, needed, task)
    asked.append(worker)
    if len(asked) == 2:
        ray.kill(crew._actors[worker])
    return future

RayCrew._submit = submit_and_kill
torch.set_num_threads(1)
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)  # once for both
recipe = Recipe.load(Path(folder) / "small.toml", sets)
assert truth(recipe, Path(folder) / "truth", workers=Ray(2, 1), archs=archs) == 3
assert not asked
run(Recipe.load(Path(base) / "recipe.toml"), Path(folder) / "search", trained=Path(base),
    workers=Ray(2, 1))
assert len(asked) == 6 + 1, asked  # one candidate at a time, one of them twice
"""


@pytest.mark.slow
def test_ray_gives_what_one_process_gives(done, base, tmp_path):
    """Trainings alone, and a search of which one actor is killed in the middle."""
    pytest.importorskip("ray")
    (tmp_path / "small.toml").write_text(SMALL)
    given = json.dumps([str(tmp_path), ARCHS, OF_ONE_SEED, str(base[0])])
    # Ray's workers are nice by 15 and would starve beside other tests.
    settings = os.environ | {"RAY_worker_niceness": "0", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", RAY, given], check=True, timeout=600, env=settings)
    assert rows(tmp_path / "truth") == [row for row in rows(done) if row["seed"] == 4]
    searches = [RunFolder(path).search_log.read_bytes() for path in (tmp_path / "search", base[0])]
    assert searches[0] == searches[1]
