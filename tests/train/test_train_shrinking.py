"""Training in views of the space: angles, drops, records, resuming."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from train_nets import Stopped, same, seeded, trainer, weights

import manyshot as ms
from manyshot import records
from manyshot.run_folder import RunFolder
from manyshot.space import Decision, SearchSpace
from manyshot.testing.shrinkers import ShrinkerSuite
from manyshot.train import (
    Angle,
    Forgetful,
    Judged,
    Plan,
    PlannedPath,
    Probe,
    Shrinking,
    Shrunk,
    Stage,
    TrainingSettings,
    Uniform,
    train,
)
from manyshot.train.shrinkers.angle import fixed_vectors
from manyshot.train.shrinking import means_of_options, without_lowest


def stage_of(net, space=None, **how):
    how = {"judge": None, "allows": lambda view: True, "fits": lambda arch: True, **how}
    rng = np.random.default_rng(0)
    return Stage(net, space or net.space, number=1, of=1, rng=rng, **how)


class TestAngle(ShrinkerSuite):
    def make_shrinker(self, space):
        return Angle(drop=2, samples=20, renew=2)


class TestAnglePerDecision(ShrinkerSuite):
    def make_shrinker(self, space):
        return Angle(per="decision", samples=5, pooling="empty")


def plain(width=4):
    return seeded(lambda: ms.Supernet(ms.zoo.tiny(width=width), input_shape=(1, 8, 8)))


@pytest.mark.parametrize(("factor", "expected"), [(1, 0), (-1, math.pi), (8, 0), (-0.5, math.pi)])
def test_angles_are_of_directions(factor, expected):
    """Equal weights 0, opposite ones pi; their length does not count."""
    net, angle = plain(), Angle()
    angle.begin(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter *= factor
    for arch in (net.space.smallest, net.space.largest):
        assert angle.angle(net, arch) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("sharing", [None, ms.sharing.KShot(2, codes="uniform")])
def test_angles_are_those_of_the_weights_of_one_path(sharing):
    """By hand, of all weights of a network of tiny; what other paths use does not count."""
    net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4), sharing=sharing))
    angle = Angle()
    angle.begin(net)
    arch = (1, 0, 3, 2)

    def vector():
        return np.concatenate(
            [p.detach().numpy().ravel() for p in net.extract(arch).parameters() if p.ndim > 1]
        )

    before = vector()
    with torch.no_grad():
        for number, parameter in enumerate(net.parameters()):
            parameter += 0.3 * torch.from_numpy(
                np.random.default_rng(number).normal(size=tuple(parameter.shape))
            )
    now = vector()
    cosine = before @ now / np.linalg.norm(before) / np.linalg.norm(now)
    assert 0.2 < math.acos(cosine) < 2
    assert angle.angle(net, arch) == pytest.approx(math.acos(cosine), abs=1e-5)


def test_a_pooling_is_a_vector_of_one_over_its_area():
    """Of 1/9 for each of 9 entries and 5 channels; empty it does not hold an angle back."""

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 5, 1, bias=False)
            options = {"pool": nn.AvgPool2d(3, 1, 1), "skip": nn.Identity()}
            self.op = ms.nn.Choice(options, "op")

        def forward(self, x):
            return self.op(self.stem(x))

    net = ms.Supernet(Pooled(), input_shape=(1, 4, 4))
    assert fixed_vectors(stage_of(net)) == [(0, 0, pytest.approx(5 / 9))]
    with torch.no_grad():
        net.model.stem.weight.fill_(1.0)
    found = {}
    for pooling in ("filled", "empty"):
        angle = Angle(pooling=pooling)
        angle.begin(net)
        with torch.no_grad():
            net.model.stem.weight[0] = -1.0
        found[pooling] = angle.shrink(stage_of(net)).scores
        with torch.no_grad():
            net.model.stem.weight.fill_(1.0)
    ones = np.ones(5)
    turned = np.array([-1.0, 1, 1, 1, 1])
    pool = np.full(45, 1 / 9)

    def by_hand(*vectors):
        one, other = (np.concatenate([v, *vectors]) for v in (ones, turned))
        return math.acos(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    assert found["empty"] == {(0, 0): pytest.approx(by_hand()), (0, 1): pytest.approx(by_hand())}
    assert found["filled"][0, 1] == pytest.approx(by_hand())
    assert by_hand(pool) < by_hand()
    assert found["filled"][0, 0] == pytest.approx(by_hand(pool))


def test_what_turned_least_is_dropped_and_w0_renewed():
    """One option of each layer stays as it was: it goes; after more than two W0 is what is now."""
    net, angle = plain(), Angle(drop=2, samples=40, renew=2)
    angle.begin(net)
    began = angle.initial
    still = {0: "conv1", 1: "sep3"}
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "options" in name and not any(
                f"chain.{i + 1}." in name and option in name for i, option in still.items()
            ):
                parameter.copy_(-parameter)
    first = angle.shrink(stage_of(net))
    gone = [
        {d.options[o] for o in range(4)} - {d.options[o] for o in allowed}
        for d, allowed in zip(net.space.decisions, first.space.allowed, strict=True)
    ]
    assert gone == [{"conv1"}, {"sep3"}, set(), set()]
    assert angle.initial is began and angle.dropped == 2
    angle.shrink(stage_of(net, first.space))
    assert angle.dropped == 0 and same(angle.initial, dict(net.named_parameters()))


def test_the_mean_of_an_option_is_over_networks_where_it_matters():
    op, inner = Decision(("a", "b"), "op"), Decision((1, 2), "inner")
    space = SearchSpace([op, inner], uses={inner: [((op, frozenset({1})),)]})
    means = means_of_options(space, [(0, 0), (0, 1), (1, 0), (1, 1)], [1.0, 2.0, 4.0, 8.0])
    assert means == {(0, 0): 1.5, (0, 1): 6.0, (1, 0): 4.0, (1, 1): 8.0}


def test_the_lowest_go_that_may():
    net = plain()
    scores = {(i, o): float(o) for i in range(4) for o in range(4)}
    scores[2, 3] = -1.0

    def allowed(drop, **how):
        return without_lowest(stage_of(net, **how.pop("stage", {})), scores, drop, **how).allowed

    every = (0, 1, 2, 3)
    assert allowed(2) == ((1, 2, 3), every, (0, 1, 2), every)
    assert allowed(100) == ((3,), (3,), (2,), (3,))
    assert allowed(100, keep=3) == ((1, 2, 3),) * 2 + ((0, 1, 2), (1, 2, 3))
    assert allowed(1, per_decision=True) == ((1, 2, 3),) * 2 + ((0, 1, 2), (1, 2, 3))
    small = {"allows": lambda view: view.smallest[0] == 0}
    assert allowed(3, stage=small)[0] == every


class Halves(Forgetful):
    """Drops the last option of every decision, by a made-up score."""

    measure, judges = "nothing", False

    def shrink(self, stage):
        space = stage.space
        kept = {d: a[:-1] or a for d, a in zip(space.decisions, space.allowed, strict=True)}
        return Shrunk(space.restricted(kept), {(0, space.allowed[0][-1]): 0.5})


def shrinking(shrinker=None, at=(0.25, 0.5, 1.0)):
    return Shrinking(shrinker or Halves(), at, seed=3)


@pytest.mark.parametrize("sampler", ["uniform", "fair", "sandwich"])
def test_each_stage_trains_its_view_and_is_on_record(tmp_path, sampler):
    run = trainer(folder=tmp_path, sampler=sampler, factories={"shrinking": shrinking()})
    seen = []
    take = run.compute.take
    run.compute.take = lambda trained, **more: (
        seen.append({path.arch for done in trained for path in done.plan.paths})
        or take(trained, **more)
    )
    train(run)
    lines = RunFolder(tmp_path).shrink_lines()
    assert [(line.stage, line.step, line.size) for line in lines] == [
        *((0, 0, 256), (1, 2, 81), (2, 4, 16), (3, 8, 1))
    ]
    for step, archs in enumerate(seen):
        [line] = [line for line in lines if line.step <= step][-1:]
        assert all(arch in line.view_of(run.net.space) for arch in archs)
    assert lines[-1].view_of(run.net.space).allowed == run.shrinking.space.allowed == ((0,),) * 4
    first = lines[1]
    changes = [(c.decision, c.option, c.index, c.change, c.score) for c in first.changes]
    assert changes[0] == ("layer0", "conv3", 3, "dropped", 0.5) and len(changes) == 4
    assert (first.shrinker, first.measure, first.judged) == ("Halves", "nothing", 0)


@pytest.mark.parametrize("kill", [2, 5, 8])
def test_a_killed_run_goes_on_to_the_same(tmp_path, kill):
    """In a stage, between two, at the end; W0, views and records are as of one never
    killed."""

    def made(folder):
        angle = Angle(drop=3, samples=10, renew=4)
        return trainer(folder=folder, checkpoint_steps=1, factories={"shrinking": shrinking(angle)})

    whole = made(tmp_path / "whole")
    train(whole)
    killed = made(tmp_path / "killed")
    shrink = killed.shrink

    def stop():
        shrink()
        if killed.step == kill:
            raise Stopped

    killed.shrink = stop
    with pytest.raises(Stopped):
        train(killed)
    again = made(tmp_path / "killed")
    train(again)
    assert same(weights(whole.net), weights(again.net))
    logs = [records.read_lines(tmp_path / name / "shrink.jsonl") for name in ("whole", "killed")]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    one, other = (run.shrinking.state_dict() for run in (whole, again))
    assert same(one["shrinker"].pop("initial"), other["shrinker"].pop("initial"))
    assert one == other


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="sampler ConditionalTable cannot go on in a view"):
        ms_table = ms.train.ConditionalTable(
            plain().space, {"macs": ms.cost.macs_table(plain(), (1, 8, 8))}
        )
        ms.fit(plain(), ms.data.load("digits"), sampler=ms_table, shrinking=shrinking())
    with pytest.raises(ValueError, match="this module has none"):
        ms.fit(nn.Linear(2, 2), ms.data.load("digits"), shrinking=shrinking())
    for at in ([], [0.5, 0.5], [0.0], [0.5, 1.1], [0.6, 0.4]):
        with pytest.raises(ValueError, match="shares of training in ascending order"):
            shrinking(at=at)

    class Judging(Halves):
        judges = True

    with pytest.raises(ValueError, match="Judging scores architectures: give"):
        shrinking(Judging())

    class Twice(Halves):
        stages = 2

    with pytest.raises(ValueError, match=r"asked 2 times, and at = .* are 3"):
        shrinking(Twice())
    only = Shrinking(Halves(), [0.5], allows=lambda view: view.size > 100)
    with pytest.raises(ValueError, match="left no network within a budget"):
        train(trainer(factories={"shrinking": only}))


def test_scores_are_counted():
    class Judging(Halves):
        judges = True

        def shrink(self, stage):
            assert stage.judge([stage.space.smallest] * 3)[0].loss == 2.0
            return super().shrink(stage)

    by = Shrinking(Judging(), [0.5], judge=lambda archs: [Judged(1.0, 2.0) for _ in archs])
    net = plain()
    by.begin(net)
    assert by.due(4, 8) and not by.due(3, 8)
    assert by.shrink(net, 4, trainer(net).optimisation.accelerator).judged == 3


class Stubborn(Uniform):
    """Goes on in the whole space, as it is called or as it probes."""

    def __init__(self, space, probes=False):
        super().__init__(space)
        self.probes = probes

    def narrow(self, space, step):
        if self.probes:
            super().narrow(space, step)

    def plan(self, rng, step):
        return super().plan(rng, step) if self.probes else Plan((PlannedPath((3,) * 4),))

    def probe(self, rng, step, steps):
        return Probe((PlannedPath((3,) * 4),), images=8) if self.probes else None


@pytest.mark.parametrize("probes", [False, True])
def test_who_leaves_the_view_is_named(probes):
    """A sampler in its paths or its probes, also where it is wrapped."""
    net, of_view = plain(), "proposed architecture .3, 3, 3, 3.: layer0: option 3 .conv3. is not "
    sampler = Stubborn(net.space, probes)
    with pytest.raises(ValueError, match=f"^sampler Stubborn {of_view}allowed in this view"):
        ms.fit(
            net,
            ms.data.load("digits", train_size=64, held_out=16),
            sampler=sampler,
            teacher=plain().extract(net.space.largest),
            settings=TrainingSettings(epochs=2, batch_size=32),
            shrinking=shrinking(at=[0.25]),
        )


def test_a_shrinker_that_judges_nonsense_is_named():
    class Judging(Halves):
        judges = True

        def shrink(self, stage):
            stage.judge([(0, 0, 0, 9)])

    by, net = Shrinking(Judging(), [0.5], judge=lambda archs: []), plain()
    by.begin(net)
    with pytest.raises(ValueError, match=r"^shrinker Judging proposed .*: layer3: option 9 is not"):
        by.shrink(net, 4, trainer(net).optimisation.accelerator)
