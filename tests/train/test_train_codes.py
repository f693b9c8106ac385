"""Training K-shot supernets: phases, chunks, what moves, warnings (T6, T8)."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_nets import Dropping, same, seeded, trainer, weights

import manyshot as ms
from manyshot import records
from manyshot.sharing import widen
from manyshot.train import Plan, TrainingWarning, Uniform, train
from manyshot.train.optim import decay_groups
from manyshot.train.optimisation import held_by


def k_shot(copies=3, make=lambda: Dropping(dropout=0.0), **options):
    in_turn = "update_mode" not in options and options.get("codes", "learnt") == "learnt"
    usual = {"seed": 1, **({"code_every": 2} if in_turn else {})}
    sharing = ms.sharing.KShot(copies, **{**usual, **options})
    return seeded(lambda: ms.Supernet(make(), sharing=sharing))


class Moves:
    """Notes which parameters each optimiser step moved."""

    def __init__(self, run):
        self.run, self.kinds, self.before = run, [], weights(run.net)
        for optimizer in (run.optimisation.weights, run.optimisation.codes):
            if optimizer is not None:
                optimizer.step = self.noting(optimizer.step)

    def noting(self, step):
        def stepping():
            step()
            after = weights(self.run.net)
            moved = {n for n in after if not torch.equal(after[n], self.before[n])}
            codes = {n.startswith("sharing.") for n in moved}
            kinds = {frozenset({True}): "code", frozenset({False}): "weights", frozenset(): "none"}
            self.kinds.append(kinds[frozenset(codes)])
            self.before = after

        return stepping


def test_each_phase_moves_only_its_own():
    """64 steps: four of warm-up (5 %, rounded up), then weights and codes in turn, bit for bit."""
    run = trainer(k_shot(), epochs=16)
    seen = Moves(run)
    train(run)
    assert seen.kinds == ["weights"] * 4 + ["weights", "code"] * 30


def test_a_training_in_which_no_step_is_of_the_codes_is_told():
    with pytest.warns(TrainingWarning, match=r"none of the 8 steps moves the codes.*code_every"):
        trainer(k_shot(code_every=9), epochs=2)
    trainer(k_shot(code_every=7), epochs=2)


def test_joint_steps_move_both():
    run = trainer(k_shot(update_mode="joint", warm_frac=0.5))
    seen = Moves(run)
    train(run)
    assert seen.kinds == ["weights"] * 4 + ["weights", "code"] * 4


@pytest.mark.parametrize("options", [{"codes": "uniform"}, {"codes": "random"}, {"copies": 1}])
def test_without_learnt_codes_every_step_is_of_weights(options):
    run = trainer(k_shot(**options))
    before = weights(run.net)
    train(run)
    assert [run.net.sharing.phase(step, 8) for step in range(8)] == ["weights"] * 8
    after = weights(run.net)
    assert all(same({"": before[n]}, {"": after[n]}) for n in before if n.startswith("sharing."))
    assert run.journal.code_losses == []


@pytest.mark.parametrize("sampler", ["uniform", "fair", "sandwich"])
def test_the_loop_is_a_plain_loop(sampler):
    """The same weights as from a loop of PyTorch that uses no trainer, chunks and all."""
    options = {"m": 3, "optimizer": "adam", "lr": 0.02, "warm_frac": 0.2}
    run = trainer(k_shot(**options), sampler=sampler, clip_norm=0.5, lr=0.05)
    net = k_shot(**options)
    theta = torch.optim.SGD(
        decay_groups(net, 5e-4, list(net.sharing.parameters())), 0.05, 0.9, nesterov=True
    )
    sigma = torch.optim.Adam(net.sharing.parameters(), 0.02)
    kinds = ["warmup", "warmup", *["weights", "code"] * 3]
    step = 0
    for epoch in range(2):
        for images, labels in run.batches.epoch(epoch):
            run.step, kind = step, kinds[step]
            net.zero_grad(set_to_none=True)
            for i, own in enumerate(torch.arange(32).chunk(3) if kind == "code" else [slice(None)]):
                plan = run.plan(i) if kind == "code" else run.plan()
                share = len(labels[own]) / 32
                teacher = None
                for path in plan.paths:
                    logits = net(images[own], path.arch, phase=kind)
                    if path.target == "labels":
                        loss = F.cross_entropy(logits, labels[own])
                    else:
                        loss = F.cross_entropy(logits, teacher.softmax(1))
                    (share * path.weight * loss).backward()
                    if path.arch == net.space.largest and teacher is None:
                        teacher = logits.detach()
            moving = sigma if kind == "code" else theta
            for parameter in net.parameters() if kind == "code" else ():
                if all(parameter is not own for own in net.sharing.parameters()):
                    parameter.grad = None
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            for group in moving.param_groups:
                rate = 0.5 * (1 + np.cos(np.pi * step / 8))
                group["lr"] = rate * (0.02 if moving is sigma else 0.05)
            moving.step()
            step += 1
    run.step = 0
    train(run)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(run.net.state_dict()[name], tensor, rtol=1e-5, atol=1e-6)


def test_paths_without_a_mixture_have_no_say_in_codes():
    """A choice without weights: the codes get the gradient of the other paths only, or none."""

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = ms.nn.Choice([nn.Identity(), nn.Linear(64, 64)], "op")
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            return self.head(self.op(x.flatten(1)))

    run = trainer(k_shot(make=Bare, warm_frac=0.0, m=1), epochs=4)
    seen = Moves(run)
    drawn = []
    plan = run.plan
    run.plan = lambda *chunk: drawn.append(plan(*chunk).paths[0].arch) or plan(*chunk)
    train(run)
    codes = [arch for step, arch in enumerate(drawn) if step % 2]
    assert {(0,), (1,)} <= set(codes)
    assert seen.kinds.count("code") == codes.count((1,))


def test_a_sampler_rests_while_codes_move():
    class Listening(Uniform):
        heard = 0

        def feedback(self, plan: Plan, losses, probed=None) -> None:
            assert len(losses) == len(plan.paths)
            self.heard += 1

    run = trainer(k_shot(warm_frac=0.0))
    run.sampler = Listening(run.net.space)
    train(run)
    assert run.sampler.heard == 4  # of eight steps


def test_the_regulariser_moves_codes_apart():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((2, 4, 6, 8), "width")
            self.one, self.two = ms.nn.Linear(64, width), ms.nn.Linear(width, 10)

        def forward(self, x):
            return self.two(torch.relu(self.one(x.flatten(1))))

    cosines = {}
    for beta in (0.0, 5.0):
        net = k_shot(4, Wide, beta=beta, optimizer="adam", lr=0.01)
        run = trainer(net, epochs=10)
        train(run)
        codes = net.sharing.code([(i,) for i in range(4)]).detach()
        widths = torch.tensor([0.25, 0.5, 0.75, 1.0])
        cosines[beta] = float(ms.sharing.distinctness(codes, widths, "cos"))
    assert cosines[5.0] < cosines[0.0] - 0.2


def test_records_have_both_losses_and_what_is_watched(tmp_path):
    run = trainer(k_shot(warm_frac=0.5), tmp_path, log_steps=2)
    train(run)
    rows = records.read_lines(tmp_path / "train.jsonl")
    assert ["code_loss" in row for row in rows] == [False, False, True, True]
    for row in rows:
        assert {"loss", "code_entropy_share", "code_spread", "slice_distance"} <= set(row)
    with torch.no_grad():
        watched = run.net.sharing.watch(run.net)
    assert {k: rows[-1][k] for k in watched} == watched


def test_a_dead_start_is_told():
    """Equal slices under uniform codes: the gradient of the logits is exactly zero."""
    net, one = k_shot(4), seeded(lambda: ms.Supernet(Dropping(dropout=0.0)))
    net.load_state_dict(widen(net, one.state_dict(), spread=0.0))
    with torch.no_grad():
        net.sharing.simplex_net.last.weight.zero_()
    F.cross_entropy(net(torch.randn(4, 64), (0, 0), phase="code"), torch.arange(4)).backward()
    assert all((p.grad == 0).all() for p in net.sharing.simplex_net.parameters())
    net.zero_grad(set_to_none=True)
    assert told(trainer(net))[0].startswith("dead start: the 4 slices of every tensor are equal")


def told(run):
    """What training warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(run)
    return [str(w.message) for w in caught if issubclass(w.category, TrainingWarning)]


@pytest.mark.parametrize(
    ("entropy", "spread", "step", "kinds"),
    [
        (0.99, 0.01, 60, set()),
        (0.01, 0.4, 10, {"one-hot codes"}),
        (1.0, 1e-5, 60, set()),  # what codes are worth is measured, not how far apart they are
        (1.0, 0.0, 2, set()),  # warm-up
    ],
)
def test_collapse_is_told(entropy, spread, step, kinds):
    watched = {"code_entropy_share": entropy, "code_spread": spread, "slice_distance": 0.5}
    assert set(k_shot().sharing.concerns(watched, step, 100)) == kinds
    assert not k_shot(codes="uniform").sharing.concerns(watched, step, 100)


def test_each_concern_is_told_once():
    run = trainer(k_shot(warm_frac=0.0, lr=1e-9), epochs=4, log_steps=1)
    with torch.no_grad():
        run.net.sharing.simplex_net.last.bias[0] = 50.0
    [words] = told(run)
    assert words.startswith("one-hot codes: codes collapsed to one-hot")


def test_roles_decide_what_decays():
    """Stacked scales, shifts and biases have a dimension more; their roles do not change."""

    class Everything(nn.Module):
        def __init__(self):
            super().__init__()
            odd = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
            nn.utils.parametrize.register_parametrization(odd, "bias", nn.Tanh())
            self.op = ms.nn.Choice(
                [nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), nn.LayerNorm(4), odd], "op"
            )
            self.head = ms.nn.Linear(ms.choose((2, 4), "width"), 2)

        def forward(self, x):
            return self.head(self.op(x))

    net = k_shot(2, Everything)
    code = net.sharing.code_optimizer(0.1, 0.9)
    decayed, free = decay_groups(net, 0.1, held_by(code))
    names = {id(p): n for n, p in net.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} == {
        "model.op.options.0.0.weight",
        "model.op.options.2.parametrizations.weight.original0",
        "model.op.options.2.parametrizations.weight.original1",
        "model.head.weight",
    }
    groups = [decayed, free, *code.param_groups]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, net.parameters()))
    assert [g["weight_decay"] for g in groups] == [0.1, 0.0, 0]
