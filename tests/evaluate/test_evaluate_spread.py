"""Populations scored by workers, which here are this process with what it is sent pickled."""

import sys
import weakref
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from threading import Timer
from types import ModuleType

import cloudpickle
import numpy as np
import pytest
import torch
from joblib.externals import loky

import manyshot as ms
from manyshot import crews
from manyshot.crews import TRIES, Kept, Lacking, LocalCrew, _Held, gpu_of, pickled
from manyshot.data.own import OwnSet
from manyshot.evaluate import Population, Spread
from manyshot.evaluate.spread import REMEMBERED
from manyshot.sharing import KShot
from manyshot.train.checkpoint import digest
from pretended_crew import Pretended


def test_whoever_waits_is_told_that_tasks_go_on(monkeypatch):
    class Slow(Pretended):
        def _submit(self, worker, work, needed, task):
            future = Future()
            Timer(0.2, future.set_result, [task]).start()
            return future

    monkeypatch.setattr(crews, "_WATCH_SECONDS", 0.01)
    told = []
    assert dict(Slow(1).run(len, ["a", "b"], watch=lambda: told.append(1))) == {0: "a", 1: "b"}
    assert len(told) >= 2


@pytest.fixture(scope="module")
def batches():
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(6, 1, 8, 8, generator=rng)
    labels = torch.randint(10, (6,), generator=rng)
    return [(images[:4], labels[:4]), (images[4:], labels[4:])]


def drawn(net, count=9):
    rng = np.random.default_rng(0)
    return [net.space.sample(rng) for _ in range(count)]


NETS = {
    "a tree": lambda: ms.Supernet(ms.zoo.tiny(width=4)),
    "one by one": lambda: ms.Supernet(ms.zoo.tiny(width=4), sharing=KShot(2)),
}


@pytest.mark.parametrize("kind", NETS)
def test_workers_give_the_scores_of_one_process_with_every_version_of_the_weights(kind, batches):
    torch.manual_seed(0)
    net, crew = NETS[kind](), Pretended(3)
    spread, archs, before = Spread(crew), drawn(net), None
    given = {"calibration": batches, "validation": batches, "parts": 2}
    first = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for moved in (0, 0.1, None):  # the last are the first weights again
        with torch.no_grad():
            if moved is None:
                net.load_state_dict(first)
            for parameter in net.parameters():
                parameter += torch.randn(parameter.shape) * (moved or 0)
        expected = dict(Population(net, archs, **given))
        population = Population(net, archs, **given, known=archs[:2])
        scored = list(spread.scores(population, digest(net.state_dict())))
        assert len({arch for arch, *_ in scored}) == len(scored)
        scores = {arch: score for arch, score, _ in scored}
        assert scores == {arch: expected[arch] for arch in expected if arch not in archs[:2]}
        assert all(score.parts == expected[arch].parts for arch, score in scores.items())
        assert scores != before
        before = scores
    assert len(crew.sent) == 3 + 2  # the network, two sets of images; weights twice
    assert {worker for worker, _ in crew.asked} == {0, 1, 2}


def test_images_that_are_not_used_any_more_are_let_go(batches):
    net, crew = NETS["a tree"](), Pretended(1)
    spread, archs = Spread(crew), drawn(net, 3)
    gone = []
    for _ in range(REMEMBERED + 1):
        images = Images(batches)
        population = Population(net, archs, calibration=batches, validation=images)
        assert {a: s for a, s, _ in spread.scores(population, "")} == dict(population)
        gone.append(weakref.ref(images))
        del images, population
    assert [of() is None for of in gone] == [True, True] + [False] * (REMEMBERED - 1)


class Images(list):
    """Batches that can be referred to weakly."""


def test_statistics_of_an_architecture_go_with_it(batches):
    net, crew = NETS["a tree"](), Pretended(2)
    archs = drawn(net)
    stats = {arch: ms.evaluate.calibrate(net, arch, batches) for arch in archs}
    given = {"calibration": stats.__getitem__, "validation": batches}
    scored = Spread(crew).scores(Population(net, archs, **given), "")
    assert {arch: score for arch, score, _ in scored} == dict(Population(net, archs, **given))


def test_portions_are_branches_of_about_equal_work(batches):
    net = NETS["a tree"]()
    archs = drawn(net, 200)
    population = Population(net, archs, calibration=batches, validation=batches, known=archs[:9])
    portions = population.portions(4)
    asked = [arch for portion in portions for arch in portion]
    assert sorted(asked) == sorted(set(archs) - set(archs[:9]))
    assert len(portions) == 4
    macs = [sum(ms.cost.macs(net, portion, (1, 8, 8))) for portion in portions]
    assert max(macs) < 2 * min(macs)
    apart = []
    for portion in [*portions, asked]:
        part = Population(
            net, portion, calibration=batches, validation=batches, known=portion,
            survey=population.survey,
        )  # fmt: skip
        assert not list(part)  # counted alone
        apart.append(part.account.macs)
    assert sum(apart[:4]) < 1.25 * apart[4]  # at random it would be more than twice as much
    assert population.portions(1000) == [[arch] for arch in asked]
    done = Population(net, archs, calibration=batches, validation=batches, known=archs)
    assert done.portions(4) == []


class TestCrew:
    def test_a_task_of_a_lost_worker_is_done_by_another(self):
        crew = Pretended(2, loses=(2, 4))
        results = dict(crew.run(_doubled, [1, 2, 3, 4, 5]))
        assert results == {0: 2, 1: 4, 2: 6, 3: 8, 4: 10}
        assert len(crew.asked) == 7

    def test_workers_that_ended_with_nothing_to_do_are_replaced(self, monkeypatch):
        """As those that are killed for memory while a search trains; no task is to blame."""
        pools = []

        class Pool:
            def __init__(self, *_, **__):
                pools.append(self)
                self.is_broken, self.held = False, _Held()

            def submit(self, _, work, needed, sent, task):
                if self.is_broken:
                    raise BrokenProcessPool("killed")
                future = Future()
                given = {name: (lambda p=packed: p) for name, packed in sent.items()}
                future.set_result(self.held.do(work, needed, given, task))
                return future

            def shutdown(self, **_):
                self.is_broken = True

        monkeypatch.setattr(loky, "ProcessPoolExecutor", Pool)
        kept = [Kept("factor", "1", lambda: 3)]
        with LocalCrew(TRIES + 1) as crew:
            for _ in range(2):
                assert dict(crew.run(_times, [1, 2, 3, 4], kept)) == {0: 3, 1: 6, 2: 9, 3: 12}
                for pool in pools:
                    pool.is_broken = True
        assert len(pools) == 2 * (TRIES + 1)

    def test_a_task_that_ends_every_worker_is_an_error(self):
        crew = Pretended(2, loses=range(1, 100))
        with pytest.raises(RuntimeError, match="perhaps for lack of memory; .* fewer --workers"):
            list(crew.run(_doubled, [1]))
        assert len(crew.asked) == TRIES

    def test_an_exception_that_cannot_be_sent_says_what_it_said(self):
        """It would break the pipe to the worker, which would be taken for lost."""
        with pytest.raises(RuntimeError, match="^Odd: out of range$"):
            _Held().do(_odd, (), {}, 1)
        with pytest.raises(KeyError, match="missing"):
            _Held().do(_missing, (), {}, 1)

    def test_a_worker_that_lost_what_it_kept_is_sent_it_again(self):
        crew = Pretended(1)
        kept = [Kept("factor", "1", lambda: 3)]
        do, lacking = _Held.do, []

        def forgetful(self, work, needed, sent, task):
            if not lacking:
                lacking.append(task)
                return do(self, work, needed, {}, task)
            return do(self, work, needed, sent, task)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Held, "do", forgetful)
            assert dict(crew.run(_times, [5], kept)) == {0: 15}
        assert issubclass(Lacking, RuntimeError) and len(crew.asked) == 2

    def test_what_is_kept_is_sent_once_per_version(self):
        crew = Pretended(2)
        for version, factor in (("1", 3), ("1", 3), ("2", 4)):
            kept = [Kept("factor", version, lambda factor=factor: factor)]
            assert dict(crew.run(_times, [5, 6], kept)) == {0: 5 * factor, 1: 6 * factor}
        assert len(crew.sent) == 2
        crew.close()
        assert not crew._packed, "nothing is in memory for workers that there are not"
        assert dict(crew.run(_times, [5, 6], kept)) == {0: 20, 1: 24}
        assert len(crew.sent) == 3

    def test_what_cannot_bepickled_is_named(self):
        kept = [Kept("network", "1", lambda: (number for number in range(3)))]
        with pytest.raises(RuntimeError, match="the network cannot be sent .* --workers 1"):
            list(Pretended(2).run(_times, [1], kept))

    def test_images_in_memory_are_sent_without_the_data_set_that_they_are_of(self):
        """Which may be large, or hold what cannot be pickled, such as a lock or an open file."""

        class Locked(list):
            def __reduce_ex__(self, protocol):
                raise TypeError("it holds a lock")

        samples = Locked((torch.full((2,), float(i)), i % 2) for i in range(6))
        batches = ms.data.fixed(OwnSet.of(samples), 5, 4, seed=0)
        sent = cloudpickle.loads(pickled(Kept("calibration", "1", lambda: batches)))
        assert len(sent) == len(batches) == 1  # the last one image is joined
        assert torch.equal(next(iter(sent))[0], next(iter(batches))[0])

    def test_nothing_that_is_sent_needs_the_script_that_sent_it(self):
        """Torch's memory formats are pickled as those of any module that has imported torch."""
        torch_of_script = ModuleType("__mp_main__")
        torch_of_script.torch = torch
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "modules", {"__mp_main__": torch_of_script, **sys.modules})
            packed = pickled(Kept("images", "1", lambda: [torch.channels_last, torch.float16]))
        assert b"__mp_main__" not in packed
        assert cloudpickle.loads(packed) == [torch.channels_last, torch.float16]

    def test_gpus_are_dealt_out_in_turn(self, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        assert [gpu_of(i)["CUDA_VISIBLE_DEVICES"] for i in range(3)] == ["4", "7", "4"]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        assert gpu_of(0) == {}
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        assert gpu_of(3) == {"CUDA_VISIBLE_DEVICES": "1"}

    def test_at_least_one(self):
        with pytest.raises(ValueError, match="at least 1, got 0"):
            LocalCrew(0)


class Odd(Exception):
    """It is pickled by its arguments, of which it does not know the second."""

    def __init__(self, text, number):
        super().__init__(text)
        self.number = number


def _odd(kept, task):
    raise Odd("out of range", task)


def _missing(kept, task):
    raise KeyError("missing")


def _doubled(kept, task):
    return 2 * task


def _times(kept, task):
    return kept["factor"] * task
