"""Several teachers: the mean of what they predict, and the factors of AE-KD."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.nn import functional as F
from train_nets import digits, same, seeded, weights

import manyshot as ms
from manyshot.tasks import Classification, Regression
from manyshot.tasks.task import OneLoss
from manyshot.train import AEKD, MeanOfTeachers, Several, TrainingSettings
from manyshot.train.distilling import make_distiller, shortest, teachers_factors

TASK = Classification()


def logits(*seeds, batch=12, classes=5):
    return [
        2 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(s)) for s in seeds
    ]


def labels():
    raise AssertionError("labels have no share")


def test_the_mean_of_one_teacher_is_the_tasks_distillation():
    own, teacher = logits(1, 2)
    loss = MeanOfTeachers().loss(TASK, own, (teacher,), labels)
    assert torch.equal(loss, TASK.distillation(own, teacher))


def test_the_mean_has_the_gradient_of_its_closed_form():
    """Of softened cross-entropy with a share of the labels, written out by hand."""
    own, *taught = logits(1, 2, 3, 4)
    own.requires_grad_()
    targets = torch.arange(12) % 5
    distiller = MeanOfTeachers(temperature=3.0, labels=0.25)
    distiller.loss(TASK, own, taught, lambda: TASK.loss(own, targets)).backward()
    q = sum((t / 3).softmax(1) for t in taught) / 3
    soft = 3 * ((own / 3).softmax(1) - q) / 12  # T^2 times 1 / T
    hard = (own.softmax(1) - F.one_hot(targets, 5)) / 12
    torch.testing.assert_close(own.grad, (0.75 * soft + 0.25 * hard).detach())


def gram_of(vectors):
    return vectors @ vectors.T


@pytest.mark.parametrize("bound", [1.0, 0.6, 0.35])
def test_factors_are_those_of_a_solver_and_meet_the_conditions_of_a_minimum(bound):
    """SLSQP for the value; Karush, Kuhn and Tucker for the point itself."""
    rng = np.random.default_rng(0)
    for trial in range(40):
        count, length = int(rng.integers(3, 7)), int(rng.integers(1, 9))
        vectors = rng.normal(size=(count, length))
        if trial % 4 == 0:
            vectors[1] = vectors[0]  # teachers that agree
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        gram = gram_of(vectors)
        factors = shortest(gram, bound)
        assert factors.sum() == pytest.approx(1, abs=1e-12)
        assert factors.min() >= 0 and factors.max() <= bound + 1e-12
        solved = minimize(
            lambda w, gram=gram: w @ gram @ w,
            np.full(count, 1 / count),
            jac=lambda w, gram=gram: 2 * gram @ w,
            bounds=[(0, bound)] * count,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            method="SLSQP",
            options={"ftol": 1e-14, "maxiter": 500},
        )
        assert factors @ gram @ factors == pytest.approx(solved.fun, abs=1e-6)
        # Slopes are equal inside, no less at 0, no more at the bound.
        slopes = gram @ factors
        inside = (factors > 1e-9) & (factors < bound - 1e-9)
        level = slopes[inside].mean() if inside.any() else slopes[factors > 1e-9].max()
        assert np.abs(slopes[inside] - level).max(initial=0) < 1e-8
        assert (slopes[factors <= 1e-9] >= level - 1e-8).all()
        assert (slopes[factors >= bound - 1e-9] <= level + 1e-8).all()


def test_two_unit_vectors_share_alike_whatever_their_angle_and_lengths_are_undone():
    gradients = torch.tensor([[4.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(
        teachers_factors(gradients, 0.6), torch.tensor([0.2, 0.8], dtype=torch.float64)
    )
    opposed = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    assert teachers_factors(opposed, 0.6)[2] == pytest.approx(0.5)
    assert teachers_factors(opposed, 0.4)[2] == pytest.approx(0.4)  # as much as it may


def test_a_teacher_without_a_gradient_has_no_part():
    gradients = torch.tensor([[0.0, 0.0], [0.0, 2.0], [3.0, 0.0]], dtype=torch.float64)
    factors = teachers_factors(gradients, 0.4)
    assert factors[0] == 0 and float(factors.sum()) == pytest.approx(1)
    alike = teachers_factors(torch.zeros(4, 3, dtype=torch.float64), 0.6)
    assert alike.tolist() == [0.25] * 4


def test_the_loss_of_ae_kd_is_written_out_by_hand():
    """Gradients of KL in logits are T (p - q) / B by hand; the solver is scipy's."""
    own, *taught = logits(1, 2, 3, 4)
    own.requires_grad_()
    targets, t = torch.arange(12) % 5, 4.0
    loss = AEKD().loss(TASK, own, taught, lambda: TASK.loss(own, targets))
    loss.backward()
    p = (own.detach().double() / t).softmax(1)
    q = [(each.double() / t).softmax(1) for each in taught]
    grads = np.stack([((p - each) / t / 12).mean(0).numpy() for each in q])
    lengths = np.linalg.norm(grads, axis=1)
    gram = gram_of(grads / lengths[:, None])
    solved = minimize(
        lambda w: w @ gram @ w,
        np.full(3, 1 / 3),
        bounds=[(0, 0.6)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-15},
    ).x
    factors = solved / lengths / (solved / lengths).sum()
    apart = [float((each * (each.log() - p.log())).sum(1).mean()) for each in q]
    hard = float(F.cross_entropy(own.detach(), targets))
    assert float(loss.detach()) == pytest.approx(hard + 0.9 * t**2 * factors @ apart, rel=1e-4)
    kl = sum(f * t * (p - each) / 12 for f, each in zip(factors, q, strict=True))
    ce = (own.detach().double().softmax(1) - F.one_hot(targets, 5)) / 12
    torch.testing.assert_close(own.grad.double(), ce + 0.9 * kl, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("distiller", "task", "teachers", "words"),
    [
        (AEKD(), TASK, 1, "there is one: add"),
        (AEKD(bound=0.3), TASK, 3, "give at least 0.333"),
        (AEKD(), Regression(), 2, "temperature = 4 .* Regression has no softened"),
        (MeanOfTeachers(temperature=2.0), Regression(), 1, "set temperature = 1"),
    ],
)
def test_what_cannot_teach_is_refused(distiller, task, teachers, words):
    with pytest.raises(ValueError, match=words):
        distiller.check(task, teachers)


def test_options_are_checked_and_a_task_of_ones_own_needs_a_vote():
    with pytest.raises(ValueError, match=r"distiller 'ae_kd': bound = 2.0"):
        make_distiller("ae_kd", {"bound": 2.0})
    with pytest.raises(ValueError, match="unknown distiller 'aekd'; did you mean 'ae_kd'"):
        make_distiller("aekd")

    class Mine(OneLoss):
        pass

    with pytest.raises(ValueError, match="Mine has no vote"):
        MeanOfTeachers().check(Mine(), 2)


def linear(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize("distiller", [None, AEKD()], ids=["mean", "ae_kd"])
def test_a_network_learns_from_several_and_they_stay_as_they_are(distiller):
    settings = TrainingSettings(epochs=2, batch_size=32)
    teachers, net = seeded(lambda: [linear(1), linear(2)]), seeded(lambda: linear(3))
    before = [weights(teacher) for teacher in teachers]
    ms.fit(net, digits(), settings=settings, teacher=teachers, distiller=distiller)
    assert all(same(weights(t), b) for t, b in zip(teachers, before, strict=True))
    again = seeded(lambda: linear(3))
    ms.fit(again, digits(), settings=settings, teacher=Several(teachers), distiller=distiller)
    assert same(weights(again), weights(net))
    from_one = seeded(lambda: linear(3))
    ms.fit(from_one, digits(), settings=settings, teacher=teachers[0])
    assert not same(weights(from_one), weights(net))
    with pytest.raises(ValueError, match="distiller says how to learn from a teacher"):
        ms.fit(net, digits(), settings=settings, distiller=AEKD())
