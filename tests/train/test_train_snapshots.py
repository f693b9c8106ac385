"""Earlier weights that vote, and the noise of Langevin dynamics."""

import copy

import pytest
import torch
from scipy.stats import chi2
from torch import nn
from train_nets import Dropping, digits, same, seeded, trainer, weights

import manyshot as ms
from manyshot.recipe import RecipeError, SupernetSettings
from manyshot.tasks import Classification, MultiLabel, Regression
from manyshot.tasks.task import OneLoss, divergence, voted
from manyshot.train import Plan, PlannedPath, train
from manyshot.train.gradients import accumulate
from manyshot.train.langevin import heat
from manyshot.train.snapshots import Snapshots


@pytest.fixture
def net():
    return seeded(lambda: ms.Supernet(Dropping(0.0)))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(16, 1, 8, 8, generator=generator), torch.arange(16) % 10


def moved(net, by):
    """A copy with other weights."""
    other, generator = copy.deepcopy(net), torch.Generator().manual_seed(by)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.3)
    return other


def remembered(net, *others, weight=1.0):
    """Snapshots of `net` that are the weights of others."""
    snapshots = Snapshots(net, Classification(), number=5, every=1, weight=weight)
    snapshots.kept = [{n: p.detach().clone() for n, p in o.named_parameters()} for o in others]
    return snapshots


def gradient(net, snapshots, batch, arch=(1, 0)):
    net.zero_grad()
    [loss] = accumulate(
        net, Plan((PlannedPath(arch),)), *batch, largest=net.space.largest, beside=snapshots
    )
    return loss, {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


def test_one_snapshot_of_the_present_weights_adds_nothing(net, batch):
    plain, plain_gradient = gradient(net, None, batch)
    loss, grads = gradient(net, remembered(net, net), batch)
    assert float(loss - plain) == pytest.approx(0, abs=1e-6)
    assert grads.keys() == plain_gradient.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, plain_gradient[name], rtol=0, atol=1e-7)


def test_two_snapshots_add_the_divergence_from_the_mean_of_their_probabilities(net, batch):
    """The closed form, from logits of two other networks and the gradient p - mean of them."""
    first, second = moved(net, 1), moved(net, 2)
    images, targets = batch
    logits = net(images, (1, 0)).detach().double()
    p = logits.softmax(1)
    q = sum(o(images, (1, 0)).detach().double().softmax(1) for o in (first, second)) / 2
    divergences = (q * (q.log() - p.log())).sum(1).mean()
    loss, grads = gradient(net, remembered(net, first, second, weight=0.7), batch)
    plain, plain_gradient = gradient(net, None, batch)
    assert float(loss - plain) == pytest.approx(0.7 * float(divergences), rel=1e-4)
    assert float(divergences) > 0.01
    wanted = 0.7 * (p - q).sum(0) / len(images)  # of the bias of the last layer
    added = grads["model.head.bias"] - plain_gradient["model.head.bias"]
    torch.testing.assert_close(added.double(), wanted, rtol=1e-3, atol=1e-6)


def test_votes_change_no_weight_mode_or_random_number(net, batch):
    before, state = weights(net), torch.get_rng_state()
    snapshots = remembered(net, moved(net, 1))
    net.train()
    vote = snapshots.targets(batch[0], (0, 1))
    assert vote.shape == (16, 10) and not vote.requires_grad
    assert same(weights(net), before) and net.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_newest_are_kept_and_come_in_time(net):
    snapshots = Snapshots(net, Classification(), number=2, every=3, weight=1.0)
    assert snapshots.targets(torch.zeros(2, 1, 8, 8), (0, 0)) is None
    for step in range(1, 11):
        with torch.no_grad():
            net.model.head.bias.fill_(step)
        snapshots.note(step)
    assert [float(kept["model.head.bias"][0]) for kept in snapshots.kept] == [6, 9]


def training(**more):
    return SupernetSettings(
        epochs=3, batch_size=32, checkpoint_steps=2, log_steps=2, lr=0.05, **more
    )


VOTED = {"snapshots": {"number": 2, "epochs": 0.5, "weight": 2.0}}
NOISY = {"sgld": 1e-4}


def fitted(folder=None, **more):
    net = seeded(lambda: ms.Supernet(Dropping()))
    run = ms.fit(net, digits(), settings=training(**more), seed=5, folder=folder)
    return net, run


@pytest.mark.parametrize("more", [VOTED, NOISY], ids=["snapshots", "noise"])
def test_a_training_that_stopped_goes_on_to_the_same(more, tmp_path, monkeypatch):
    from manyshot.train.trainer import Trainer

    whole, _ = fitted(**more)
    due = Trainer.checkpoint_due

    def stops(run):
        if run.step == 7:
            raise KeyboardInterrupt
        return due(run)

    monkeypatch.setattr(Trainer, "checkpoint_due", stops)
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path, **more)
    monkeypatch.undo()
    resumed, run = fitted(tmp_path, **more)
    assert same(weights(whole), weights(resumed))
    plain, _ = fitted()
    assert not same(weights(whole), weights(plain))
    if more is VOTED:
        assert len(run.snapshots.kept) == 2


def test_forwards_of_snapshots_are_counted():
    def macs_of(archs):
        return [10] * len(archs)

    counted = []
    for more in ({}, VOTED):
        net = seeded(lambda: ms.Supernet(Dropping()))
        run = ms.fit(net, digits(), settings=training(**more), macs_of=macs_of)
        counted.append(run.compute.macs)
    images = 32 * 10  # a forward, and a backward of two
    assert counted[0] == 12 * 3 * images
    # Of 12 steps the first 2 have none, the next 2 one, the others two.
    assert counted[1] - counted[0] == (2 * 1 + 8 * 2) * images


def test_several_snapshots_need_a_task_that_votes(net):
    class Mine(OneLoss):
        pass

    with pytest.raises(ValueError, match=r"3 networks .* Mine has no vote: write vote\(outputs\)"):
        Snapshots(net, Mine(), number=3, every=1, weight=1.0)


@pytest.mark.parametrize(
    ("task", "predicts"),
    [
        (Classification(output="out"), lambda x: x["out"].softmax(1)),
        (MultiLabel(output="out"), lambda x: x["out"].sigmoid()),
        (Regression(output="out"), lambda x: x["out"]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_vote_predicts_the_mean_and_is_at_no_distance_from_itself(task, predicts):
    some = [{"out": 5 * torch.randn(6, 4, dtype=torch.float64)} for _ in range(3)]
    vote = voted(task, some)
    torch.testing.assert_close(predicts(vote), torch.stack([*map(predicts, some)]).mean(0))
    assert float(divergence(task, vote, vote)) == pytest.approx(0, abs=1e-12)
    assert float(divergence(task, some[0], vote)) > 0.01
    assert voted(task, some[:1]) is some[0]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.snapshots={epochs=2.0}", "number = 0 keeps none: give number"),
        ("train.snapshots={number=2, epochs=100.0}", "the first snapshot would come when"),
        ("train.snapshots.number=-1", "greater than or equal to 0"),
    ],
)
def test_snapshots_that_never_vote_are_refused(override, words):
    with pytest.raises(RecipeError, match=words):
        ms.recipe.Recipe.load(None, [override])


# -- noise -----------------------------------------------------------------------------------------


def test_noise_has_the_variance_of_langevin_dynamics():
    """Two groups at two rates, of known gradients: what is left after the step is N(0, 2 T r)."""
    first, second, idle = (nn.Parameter(torch.zeros(20_000)) for _ in range(3))
    rates = (0.1, 0.02)
    optimizer = torch.optim.SGD(
        [{"params": [first, idle], "lr": rates[0]}, {"params": [second], "lr": rates[1]}]
    )
    first.grad, second.grad = torch.full((20_000,), 2.0), torch.full((20_000,), -1.0)
    optimizer.step()
    heat(optimizer, 0.5, 7)
    for parameter, rate in zip((first, second), rates, strict=True):
        noise = (parameter + rate * parameter.grad).detach().double()
        ratio = float((noise**2).sum() / (2 * 0.5 * rate))  # chi squared, of 20,000
        assert 1e-4 < chi2.cdf(ratio, len(noise)) < 1 - 1e-4
        assert abs(float(noise.mean())) < 4 * (rate / len(noise)) ** 0.5
    assert float(torch.corrcoef(torch.stack([first, second]).detach())[0, 1]) == pytest.approx(
        0, abs=0.03
    )
    assert torch.equal(idle, torch.zeros_like(idle))


def test_what_has_no_gradient_rests():
    parameter = nn.Parameter(torch.zeros(6))
    parameter.grad = torch.tensor([1.0, 0, 0, 2, 3, 0])
    heat(torch.optim.SGD([parameter], lr=0.1), 1.0, 3)
    assert ((parameter != 0) == (parameter.grad != 0)).all()


def test_noise_follows_seed_and_step_and_none_is_none():
    def after(seed=5, steps=1, **more):
        run = trainer(seed=seed, images=64, epochs=steps, **{"schedule": "constant", **more})
        train(run)
        return weights(run.net)

    plain = after()
    assert same(plain, after(sgld=0.0))
    hot = after(sgld=1e-3)
    assert same(hot, after(sgld=1e-3)) and not same(hot, plain)
    state = torch.get_rng_state()
    parameters = [nn.Parameter(torch.zeros(50)) for _ in range(3)]
    for parameter, number in zip(parameters, (1, 1, 2), strict=True):
        parameter.grad = torch.ones(50)
        heat(torch.optim.SGD([parameter], lr=0.1), 1.0, number)
    assert torch.equal(parameters[0], parameters[1])
    assert not torch.equal(parameters[0], parameters[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_of_sgd():
    with pytest.raises(RecipeError, match=r"sgld = 0.1 is noise in steps of SGD.*adamw"):
        ms.recipe.Recipe.load(None, ["train.sgld=0.1", "train.optimizer=adamw"])
