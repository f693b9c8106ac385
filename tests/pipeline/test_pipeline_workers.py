"""Candidates scored by other processes: the records of one process, also if one is killed."""

import contextlib
import importlib
import os
import pickle
import signal
import sys
from types import SimpleNamespace

import pytest
from joblib.externals.loky import ProcessPoolExecutor

from manyshot.crews import LocalCrew, _Asked
from manyshot.evaluate.spread import Portion
from manyshot.pipeline.stages.alone import Asked
from manyshot.pipeline.workers import BEGINNINGS, Processes, Ray, check_workers
from manyshot.run_folder import RunFolder
from pipeline_runs import lines, rank_run, run, small, timeless, truth_of_24
from pretended_crew import Pretended, helped


@pytest.fixture
def killed(monkeypatch):
    """Kills the process that gets the second task, while it does it; the processes there were."""
    submit, seen, tasks = LocalCrew._submit, [], []

    def submit_and_kill(crew, worker, work, needed, task):
        future = submit(crew, worker, work, needed, task)
        processes = list(crew._pools[worker]._processes)
        seen.extend(pid for pid in processes if pid not in seen)
        tasks.append(task)
        if len(tasks) == 2:
            os.kill(processes[0], signal.SIGKILL)
        return future

    monkeypatch.setattr(LocalCrew, "_submit", submit_and_kill)
    return seen, tasks


@pytest.fixture(scope="module")
def workers():
    """Two processes that all tests share."""

    with LocalCrew(2) as crew:
        yield SimpleNamespace(count=2, crew=lambda: contextlib.nullcontext(crew))


def test_two_processes_of_which_one_is_killed_record_what_one_does(base, tmp_path, killed, workers):
    """A search with the supernet of another run, and its networks: the records, byte for byte."""
    recipe = small("controls.random=2")
    folder, result = tmp_path / "one", run(recipe, tmp_path / "one", trained=base[0])
    again = run(recipe, tmp_path / "run", trained=base[0], workers=workers)
    processes, tasks = killed
    trained = {pickle.loads(task.beginner).text for task in tasks if isinstance(task, Asked)}
    assert len(trained) > 1 and trained <= {row["arch"] for row in lines(folder, "controls.jsonl")}
    assert len(processes) == 3 + 2  # one in place of that which was killed, and two that finish
    asked = [arch for task in tasks if isinstance(task, Portion) for arch in task.archs]
    assert len(asked) > len(set(asked))  # again
    one, two = RunFolder(folder), RunFolder(tmp_path / "run")
    assert one.search_log.read_bytes() == two.search_log.read_bytes()
    assert one.finish_log.read_bytes() == two.finish_log.read_bytes()
    assert one.controls_log.read_bytes() == two.controls_log.read_bytes()
    assert timeless(again) == timeless(result)


def test_rewards_of_processes_are_those_of_one(base, tmp_path):
    workers = helped(Pretended(2))
    recipe = small(
        'search.reward={target = "macs<=20%", above = -1.0}',
        *('finish.mode="inherit"', "export.formats=[]"),
    )
    for name, each in (("one", None), ("two", workers)):
        run(recipe, tmp_path / name, trained=base[0], workers=each)
    one, two = (RunFolder(tmp_path / name).search_log.read_text() for name in ("one", "two"))
    assert one == two and '"reward": 0.' in one


def test_a_ranking_by_processes_is_that_of_one(base, tmp_path, workers, monkeypatch):
    """With its supernet after another one's, by the same workers."""
    monkeypatch.setattr(importlib.import_module("manyshot.rank.statistics"), "DRAWS", 10)
    folder, recipe, _ = base
    one, two = (
        rank_run(recipe, folder, truth_of_24(), out=tmp_path / str(i), uncalibrated=0, workers=each)
        for i, each in enumerate((None, workers))
    )
    del one["evaluation"]["seconds"], two["evaluation"]["seconds"]
    assert one == two


def test_workers_of_one_of_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_workers(Processes(1))
    with pytest.raises(ValueError, match="workers = 3 beside 2 processes of torchrun"):
        check_workers(Processes(3))


def test_workers_of_the_search_end_before_winners_are_finished(base, tmp_path, monkeypatch):
    """Controls are scored before, by the workers of the search."""
    said = []

    class Noted(Pretended):
        def run(self, work, tasks, kept=(), watch=None):
            said.append(work.__name__)
            return super().run(work, tasks, kept, watch)

        def close(self):
            said.append("end")
            super().close()

    verb = importlib.import_module("manyshot.pipeline.verbs.run")
    finish = verb.finish
    monkeypatch.setattr(verb, "finish", lambda *a, **k: said.append("finish") or finish(*a, **k))
    folder, recipe, _ = base
    with_control = recipe.model_copy(
        update={"controls": recipe.controls.model_copy(update={"random": 1})}
    )
    run(with_control, tmp_path / "run", trained=folder, workers=helped(Noted(2)))
    at = said.index("end")
    assert set(said[:at]) == {"score_portion"}
    assert said[at + 1] == "finish" and set(said[at + 2 :]) == {"train_for"}


def test_an_interrupt_while_workers_end_leaves_none(monkeypatch):
    """Impatient people press Ctrl-C twice, or three times."""
    pools, shutdown = [], ProcessPoolExecutor.shutdown

    def interrupted(pool, **options):
        pools.append(pool)
        shutdown(pool, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt), LocalCrew(3) as crew:
        crew._begun = {worker: crew._begin(worker) for worker in range(3)}
        with contextlib.suppress(KeyboardInterrupt):
            crew._replace(2, _Asked(0), RuntimeError("lost"))
        crew.close()
    assert len(pools) == len(set(pools)) == 3


def test_a_ray_cluster_that_is_not_there_is_found_before_anything_trains(monkeypatch, tmp_path):
    begun = []

    def init(**how):
        begun.append(how)
        raise ConnectionError("nobody answers")

    ray = SimpleNamespace(
        init=init,
        shutdown=lambda: begun.append("shut down"),
        is_initialized=lambda: False,
        __file__="/nowhere/ray/__init__.py",
        exceptions=SimpleNamespace(RayActorError=OSError, WorkerCrashedError=OSError),
    )
    monkeypatch.setitem(sys.modules, "ray", ray)
    workers = Ray(2, cpus=3)
    check_workers(workers)  # a cluster of this machine is made when it is needed
    assert begun == []
    monkeypatch.setenv("RAY_ADDRESS", "there:6379")
    with pytest.raises(RuntimeError, match="cluster of RAY_ADDRESS=there:6379 .nobody answers."):
        run(small(), tmp_path / "run", workers=workers)
    assert begun == [{"log_to_driver": False}, "shut down"] and not (tmp_path / "run").exists()
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    with (
        pytest.raises(RuntimeError, match="ray start --head, or give --workers without --ray"),
        pytest.warns(UserWarning, match="a cluster here .nobody answers.: tried again, [23] of 3"),
        workers.crew(),
    ):
        pass
    here = {"num_cpus": 6, "include_dashboard": False, "log_to_driver": False}
    here["_system_config"] = {"worker_niceness": 0}
    assert begun[2:] == [here, "shut down"] * BEGINNINGS + ["shut down"]
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    with (
        pytest.raises(RuntimeError, match="unset PYTHONDONTWRITEBYTECODE, so that its processes"),
        pytest.warns(UserWarning, match="tried again"),
        workers.crew(),
    ):
        pass
