"""The greedy sampler: what it trains, its pool, and the end of training by it."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from train_nets import same, seeded, weights

import manyshot as ms
from kills import left_by_kills
from manyshot import records
from manyshot.run_folder import SamplerLine, TrainLine
from manyshot.search import EvolutionOptions, Limit
from manyshot.train import Greedy, Probed, Taught, Uniform
from manyshot.train.plan import ending_early

SPACE = ms.SearchSpace([ms.choose(range(3), f"d{i}") for i in range(2)])


def loss_of(arch):
    return 1.0 + arch[0] + 0.1 * arch[1]


def go(sampler, steps, first=1, total=100, seed=0):
    """Steps of a sampler, whose losses are `loss_of`; what was proposed and then trained."""
    rows = []
    for step in range(first, first + steps):
        probe = sampler.probe(np.random.default_rng((seed, step)), step, total)
        probed, archs = None, []
        if probe is not None:
            archs = [path.arch for path in probe.paths]
            probed = Probed(torch.tensor([loss_of(a) for a in archs], dtype=torch.float64))
        sampler.feedback(None, [], probed)
        plan = sampler.plan(np.random.default_rng((seed, step, 1)), step)
        rows.append((archs, [path.arch for path in plan.paths]))
    return rows


def test_the_lowest_losses_of_what_was_proposed_are_trained_next():
    for proposed, trained in go(Greedy(SPACE, proposed=5, trained=2, warmup=0.0), 30):
        assert len(proposed) == 5
        assert [loss_of(a) for a in trained] == sorted(map(loss_of, proposed))[:2]


def test_with_all_of_them_trained_and_no_pool_it_is_uniform_paths():
    sampler = Greedy(SPACE, proposed=3, trained=3, exploit=0.0, warmup=0.0)
    rng, uniform = np.random.default_rng(5), Uniform(SPACE, paths=3)
    assert sampler.plan(rng, 0) == uniform.plan(np.random.default_rng(5), 0)
    rows = go(sampler, 600, total=600)
    drawn = Counter(arch for _, trained in rows for arch in trained)
    assert chisquare([drawn[arch] for arch in SPACE.enumerate()]).pvalue > 1e-3
    for step, (_, trained) in enumerate(rows, 1):
        rng = np.random.default_rng((0, step))
        # uniform paths, but for a number that says whether each is drawn from the pool
        alike = [(rng.random(), SPACE.sample(rng))[1] for _ in range(3)]
        assert sorted(trained) == sorted(alike)


def test_the_pool_is_bounded_sorted_and_halves_scores():
    sampler = Greedy(SPACE, proposed=4, trained=1, size=3, warmup=0.0, stop=None)
    expected = {}
    for proposed, _ in go(sampler, 40):
        # by loss, since a repeated path counts once more
        for arch in sorted(proposed, key=loss_of):
            expected[arch] = loss_of(arch)
        expected = dict(sorted(expected.items(), key=lambda item: item[1])[:3])
        assert len(sampler.pool()) <= 3
    assert sampler.pool() == list(expected) == [(0, 0), (0, 1), (0, 2)]
    sampler.probe(np.random.default_rng(0), 50, 100)
    sampler._asked = [(0, 2)] * 4
    sampler.feedback(None, [], Probed(torch.tensor([0.4] * 4, dtype=torch.float64)))
    assert sampler.pool() == [(0, 2), (0, 0), (0, 1)]
    assert sampler.state_dict()["losses"][0] == pytest.approx(0.4 + (1.2 - 0.4) / 16)


def test_the_share_from_the_pool_goes_up_to_what_is_asked_for():
    sampler = Greedy(SPACE, proposed=8, trained=1, size=1, warmup=0.2, exploit=0.6, stop=None)
    rows = go(sampler, 999, total=1000)
    assert all(not proposed for proposed, _ in rows[:198])
    for begin in (300, 600, 900):
        part = [arch for proposed, _ in rows[begin : begin + 99] for arch in proposed]
        share = 0.6 * (begin + 50 - 200) / 800
        chance = share + (1 - share) / 9
        hits = sum(arch == (0, 0) for arch in part)
        assert abs(hits - len(part) * chance) < 4 * np.sqrt(len(part) * chance * (1 - chance))


def test_a_pool_at_rest_ends_training_and_one_that_is_not_full_does_not():
    options = {"proposed": 4, "trained": 1, "warmup": 0.0, "compare": 0.05}
    frozen = Greedy(SPACE, size=2, **options)
    go(frozen, 99)
    assert frozen.ended
    assert frozen.pool() == [(0, 0), (0, 1)]
    for other in (Greedy(SPACE, size=10, **options), Greedy(SPACE, size=2, stop=None, **options)):
        go(other, 99)
        assert not other.ended  # 9 networks fill no pool of 10; told never to end


def test_a_pool_that_moves_goes_on():
    sampler = Greedy(SPACE, proposed=1, trained=1, size=2, warmup=0.0, compare=0.01)
    archs = list(SPACE.enumerate())
    for step, arch in enumerate(archs, 1):  # each is better than all before
        sampler.probe(np.random.default_rng(step), step, 100)
        sampler._asked = [arch]
        sampler.feedback(None, [], Probed(torch.tensor([-float(step)], dtype=torch.float64)))
        assert not sampler.ended
        replaced = sampler.report()["replaced"]
        assert replaced == (0.5 if step > 2 else None)


def test_it_says_what_is_wrong():
    with pytest.raises(ValueError, match="trained = 6 are chosen among proposed = 3"):
        Greedy(SPACE, proposed=3, trained=6)


# -- in the loop ---------------------------------------------------------------------------

ENDING = {"proposed": 4, "trained": 2, "images": 64, "size": 2, "stop": 0.5, "compare": 0.1}


def fit(folder=None, teacher=None, **options):
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4), input_shape=(1, 8, 8)))
    sampler = Greedy(net.space, **{**ENDING, **options})
    settings = ms.TrainingSettings(epochs=10, batch_size=32, checkpoint_steps=4, log_steps=3)
    splits = ms.data.load("digits", train_size=160, held_out=64)
    trainer = ms.fit(
        net, splits, sampler=sampler, settings=settings, seed=3, folder=folder, teacher=teacher
    )
    return trainer, net, sampler


def test_only_what_is_trained_gets_a_gradient():
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4), input_shape=(1, 8, 8)))
    before = weights(net)
    sampler = Greedy(net.space, proposed=4, trained=1, images=32, warmup=0.0, stop=None)
    splits, planned = ms.data.load("digits", train_size=64, held_out=32), []
    plan = sampler.plan
    sampler.plan = lambda rng, step: planned.append(plan(rng, step)) or planned[-1]
    ms.fit(net, splits, sampler=sampler, settings=ms.TrainingSettings(epochs=1, batch_size=32))
    moved = {name for name, tensor in weights(net).items() if not torch.equal(tensor, before[name])}
    trained = {path.arch for plan in planned for path in plan.paths}
    assert len(planned) == len(trained) == 2  # of the 8 that were seen
    used = set()
    for arch in trained:
        net.zero_grad(set_to_none=True)
        net(torch.ones(4, 1, 8, 8), arch).sum().backward()
        used |= {name for name, p in net.named_parameters() if p.grad is not None}
    assert moved <= used


def test_the_pools_end_is_the_end_of_training_and_is_resumed(tmp_path):
    done = {}

    def work():
        done["whole"] = fit(tmp_path / "run")

    left = left_by_kills(tmp_path / "run", work)
    trainer, net, sampler = done["whole"]
    assert sampler.ended and trainer.step < trainer.steps == 50
    assert trainer.step % 5 == 0  # where pools are compared
    lines = records.load_lines(tmp_path / "run" / "train.jsonl", TrainLine)
    assert lines[-1].step == trainer.step
    said = records.load_lines(tmp_path / "run" / "sampler.jsonl", SamplerLine)
    assert [line.step for line in said if line.ended] == [trainer.step]
    for _, copy in (*left[len(left) // 2 :: 4], left[-1]):
        again, other, restored = fit(copy)
        assert again.step == trainer.step and restored.ended
        assert same(weights(net), weights(other))
        assert restored.state_dict() == sampler.state_dict()
        assert (copy / "sampler.jsonl").read_text() == (
            tmp_path / "run" / "sampler.jsonl"
        ).read_text()


def test_taught_it_ends_too():
    teacher = seeded(lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)))
    trainer, _, sampler = fit(teacher=teacher)
    assert isinstance(trainer.sampler, Taught) and sampler.ended
    assert trainer.step < trainer.steps


def test_that_it_may_end_training_is_seen_through_what_wraps_it():
    sampler = Greedy(SPACE)
    assert ending_early(Taught(Taught(sampler, "original"), "labels")) is sampler
    assert ending_early(Taught(Uniform(SPACE), "labels")) is None


# -- in a search ---------------------------------------------------------------------------


def test_evolution_begins_with_the_pool_within_the_limit():
    sampler = Greedy(SPACE, proposed=4, trained=1, size=4, warmup=0.0)
    go(sampler, 60)
    pool = sampler.pool()
    assert len(pool) == 4
    limit = Limit("sum<=2", lambda archs: [float(sum(a)) for a in archs], 1.0)
    options = {"population": 3, "parents": 1, "mutants": 2, "crossovers": 1}
    searcher = ms.search.make_searcher(
        "evolution", SPACE, seed=0, limits=[limit], options=options, sampler=sampler
    )
    within = [arch for arch in pool if sum(arch) <= 1]
    assert searcher.ask(len(within)) == within
    alone = ms.search.Evolution(SPACE, seed=0, limits=[limit], options=EvolutionOptions(**options))
    nothing = ms.search.Evolution(
        SPACE, seed=0, limits=[limit], sampler=Uniform(SPACE), options=EvolutionOptions(**options)
    )
    assert alone.ask(3) == nothing.ask(3)


def test_find_offers_the_sampler():
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4), input_shape=(1, 8, 8)))
    sampler = Greedy(net.space, warmup=0.0, stop=None)
    good = [net.space.canonical(net.space.largest), net.space.canonical(net.space.smallest)]
    sampler.load_state_dict(
        {"pool": good, "losses": [0.1, 0.2], "before": [], "next": [], "ended": False}
    )
    told = ms.find(
        net, budgets=["macs<=100%"], score=lambda arch: 0.0, sampler=sampler, candidates=70
    ).history
    assert [arch for arch, _ in told[:2]] == good
    with pytest.raises(ValueError, match="sampler is for a searcher by name"):
        searcher = ms.search.make_searcher("random", net.space, seed=0)
        ms.find(net, budgets=["macs<=100%"], score=len, searcher=searcher, sampler=sampler)
