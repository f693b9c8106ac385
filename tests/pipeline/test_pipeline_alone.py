"""Winners and controls that workers train: the files of one process, also if a worker is lost."""

import dataclasses
import pickle

import pytest
import torch

import manyshot as ms
from kills import left_by_kills
from manyshot.crews import Kept, pickled
from manyshot.pipeline import Workspace
from manyshot.pipeline.stages import alone
from manyshot.pipeline.stages.alone import Asked, Beginner, Lessons, train_for
from manyshot.run_folder import RunFolder
from pipeline_runs import Stages, lines, run, small, timeless
from pretended_crew import Lost, Pretended, helped

LONGER = ("finish.training.epochs=3", "controls.random=1", "controls.largest=true")
"""Of so few images six steps for a network, and a checkpoint at each."""
STEPS = 6


@pytest.fixture(scope="module")
def one(base, tmp_path_factory):
    """The folder of a run by this process, and what it returned; tests only read it."""
    folder = tmp_path_factory.mktemp("one") / "run"
    return folder, run(small(*LONGER), folder, trained=base[0])


def check_same(one, two):
    """All that is written of finished networks, but for times."""
    for name in ("finish.jsonl", "controls.jsonl", "search.jsonl"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    first, second = (RunFolder(folder).subnets for folder in (one, two))
    assert sorted(path.name for path in first.iterdir()) == sorted(
        path.name for path in second.iterdir()
    )
    logs = sorted(path.name for path in first.glob("*.train.jsonl"))
    assert len(logs) > 2
    for name in logs:
        rows = [lines(folder, name) for folder in (first, second)]
        for row in (*rows[0], *rows[1]):
            del row["images_per_second"]
        assert rows[0] == rows[1]
    for path in first.glob("*.safetensors"):
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_a_lost_worker_is_followed_by_one_that_goes_on_from_its_checkpoint(
    base, one, tmp_path, monkeypatch
):
    asked, lost, torn = tmp_path / "asked", tmp_path / "lost", tmp_path / "two" / "subnets"
    own, winners = Lessons.of, {winner["arch"] for winner in one[1]["winners"]}
    here = STEPS * (len(winners) == 1)  # of a single winner the main process takes care itself

    def dangerous(*args, **kwargs):
        class Dangerous(ms.tasks.Classification):
            """Counts the steps in all processes, and once ends the worker in the middle."""

            def loss(self, outputs, targets):
                with asked.open("ab") as file:
                    file.write(b".")
                if asked.stat().st_size == here + 5 and not lost.exists():
                    lost.touch()
                    (torn / ".any.manyshot-part.pt").touch()  # as in the middle of a checkpoint
                    raise Lost("killed")
                return super().loss(outputs, targets)

        return dataclasses.replace(own(*args, **kwargs), task=Dangerous())

    monkeypatch.setattr(Lessons, "of", dangerous)
    stages, crew = Stages(), Pretended(2)
    result = run(small(*LONGER), tmp_path / "two", stages, trained=base[0], workers=helped(crew))
    check_same(one[0], tmp_path / "two")
    assert timeless(result) == timeless(one[1])
    finished = [task for _, task in crew.asked if isinstance(task, Asked)]
    networks = {pickle.loads(task.beginner).text for task in finished}
    assert lost.exists() and len(finished) == len(networks) + 1 >= 4
    assert asked.stat().st_size == here + STEPS * len(networks) + 1  # one step was done again
    bars = [(total, counts[-1]) for name, total, counts in stages.seen if name == "finish"]
    assert sum(total for total, _ in bars) == here + STEPS * len(networks)
    assert all(last == total for total, last in bars)


def test_a_command_that_is_killed_while_workers_train_goes_on(base, one, tmp_path):
    def done(folder):
        run(small(*LONGER), folder, trained=base[0], workers=helped(Pretended(2)))

    left = left_by_kills(tmp_path / "two", lambda: done(tmp_path / "two"))
    at = [copy for name, copy in left if name.endswith(".trainer.pt")]
    for copy in (at[STEPS + 3], at[-1]):
        done(copy)
        check_same(one[0], copy)


@pytest.mark.parametrize("teacher", ["supernet", "network"])
def test_workers_are_taught_as_this_process_is(base, tmp_path, teacher):
    """By architectures of the supernet together, or by that of another run."""
    more = {
        "supernet": ("finish.taught_by=['largest', '0-0-0-0']", "finish.distillation.name=ae_kd"),
        "network": (f"teacher.run={str(base[0])!r}", "teacher.arch=largest"),
    }
    recipe = small(f"finish.teacher={teacher}", *more[teacher], "controls.random=2")
    results = [
        run(recipe, tmp_path / name, trained=base[0], workers=workers)
        for name, workers in (("one", None), ("two", helped(Pretended(2))))
    ]
    check_same(tmp_path / "one", tmp_path / "two")
    assert timeless(results[0]) == timeless(results[1])


def test_who_cannot_be_sent_is_finished_here_and_that_is_said(base, one, tmp_path, monkeypatch):
    own = Lessons.of

    class Unsendable(ms.tasks.Classification):
        def __reduce__(self):
            raise pickle.PicklingError("it is tied to this process")

    monkeypatch.setattr(
        Lessons, "of", lambda *a, **k: dataclasses.replace(own(*a, **k), task=Unsendable())
    )
    with pytest.warns(UserWarning, match="one after the other: the lessons cannot be sent .* tied"):
        run(small(*LONGER), tmp_path / "two", trained=base[0], workers=helped(Pretended(2)))
    check_same(one[0], tmp_path / "two")


@pytest.mark.parametrize("seen", [True, False])
def test_a_worker_that_does_not_see_the_folder_sends_its_records(base, tmp_path, seen, monkeypatch):
    recipe = small("finish.training.log_steps=1")
    ws, torn = Workspace.build(recipe), "a warning of training"
    fit = alone.fit
    monkeypatch.setattr(
        alone, "fit", lambda *a, **k: alone.warnings.warn(torn, stacklevel=1) or fit(*a, **k)
    )
    subnets = RunFolder(tmp_path).subnets
    subnets.mkdir()
    arch = (1, 0, 1, 0)
    beginner = Beginner("1-0-1-0", ws.net.extract(arch), "any")
    inode = tmp_path.stat().st_ino + (not seen)
    asked = Asked(pickled(Kept("network", "", lambda: beginner)), tmp_path, inode)
    answer = train_for({"lessons": Lessons.of(ws, recipe.finish)}, asked)
    assert answer.said == (torn,)
    assert ({path.name for path in subnets.iterdir()} == set()) is not seen
    records = answer.log if not seen else (subnets / "1-0-1-0.train.jsonl").read_text()
    assert (answer.log is None) is seen and records.count("\n") == 2
    before = ws.net.extract(arch).state_dict()
    assert answer.state.keys() == before.keys()
    assert not any(torch.equal(answer.state[name], before[name]) for name in before)
