"""Shipped tasks against scikit-learn, closed forms and plain torch, over uneven batches."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.nn import functional as F

import manyshot as ms
from manyshot.evaluate.score import total
from manyshot.tasks import Classification, Dense, MultiLabel, OneLoss, Regression

UNEVEN = (17, 1, 30, 2)
IMAGES = sum(UNEVEN)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def classes(*shape, below=4, seed=1):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


def scored(task, outputs, targets):
    """The score over uneven batches."""
    parts = zip(outputs.split(UNEVEN), targets.split(UNEVEN), strict=True)
    return total(task, parts)


def test_classification():
    logits, labels = drawn(IMAGES, 6), classes(IMAGES)  # two classes are in no label
    score = scored(Classification(), logits, labels)
    guesses = logits.argmax(1)
    assert score.value == score.metrics["accuracy"] == metrics.accuracy_score(labels, guesses)
    right = [float((guesses[labels == c] == c).double().mean()) for c in range(4)]
    assert score.metrics["balanced accuracy"] == pytest.approx(np.mean(right), abs=1e-15)
    assert score.loss == pytest.approx(float(F.cross_entropy(logits.double(), labels)), rel=1e-6)
    assert (score.metric, score.higher_is_better, score.images) == ("accuracy", True, IMAGES)


@pytest.mark.parametrize("ignore", [None, 255])
@pytest.mark.parametrize("size", [(5, 3), (7,), (2, 3, 2)])
def test_dense(ignore, size):
    logits, pixels = drawn(IMAGES, 6, *size), classes(IMAGES, *size)
    if ignore is not None:
        pixels[drawn(IMAGES, *size, seed=2) > 0.3] = ignore
        pixels[17] = ignore  # a batch in which nothing counts
        pixels = pixels.byte()
    task = Dense() if ignore is None else Dense(ignore_index=ignore)
    score = scored(task, logits, pixels)
    counts = torch.ones_like(pixels, dtype=torch.bool) if ignore is None else pixels != ignore
    truth, guesses = pixels[counts].long(), logits.argmax(1)[counts]
    expected = metrics.jaccard_score(truth, guesses, average=None, labels=range(6))
    there = [c for c in range(6) if c in truth or c in guesses]
    assert score.metric == "mean IoU"
    assert score.value == pytest.approx(expected[there].mean(), abs=1e-15)
    assert score.metrics["pixel accuracy"] == metrics.accuracy_score(truth, guesses)
    rows = logits.movedim(1, -1)[counts].double()
    assert score.loss == pytest.approx(float(F.cross_entropy(rows, truth)), rel=1e-6)


def test_a_dense_batch_in_which_nothing_counts_has_loss_and_gradient_zero():
    logits = drawn(2, 3, 4, 4).requires_grad_()
    loss = Dense(ignore_index=9).loss(logits, torch.full((2, 4, 4), 9))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


@pytest.mark.filterwarnings("ignore:No positive class found in y_true")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int64])
def test_multi_label(dtype):
    logits, labels = drawn(IMAGES, 5), classes(IMAGES, 5, below=2)
    labels[:, 3] = 0  # of this label average precision is undefined
    score = scored(MultiLabel(), logits, labels.to(dtype))
    probabilities = logits.sigmoid().double()
    by_label = [
        metrics.average_precision_score(labels[:, i], probabilities[:, i]) for i in (0, 1, 2, 4)
    ]
    assert score.metric == "mean average precision"
    assert score.value == pytest.approx(np.mean(by_label), abs=1e-6)
    right = ((logits > 0) == labels.bool()).double().mean()
    assert score.metrics["label accuracy"] == pytest.approx(float(right), abs=1e-15)
    expected = F.binary_cross_entropy(probabilities, labels.double())
    assert score.loss == pytest.approx(float(expected), rel=1e-6)


def test_multi_label_probabilities_are_taken_in_every_batch():
    """Logits that all happen to be in [0, 1] are logits too."""
    logits = torch.tensor([[0.2, 0.9], [0.8, 0.1], [5.0, -5.0], [-5.0, 5.0]])
    labels = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 1]])
    score = total(MultiLabel(), [(logits[:2], labels[:2]), (logits[2:], labels[2:])])
    expected = [metrics.average_precision_score(labels[:, i], logits[:, i]) for i in (0, 1)]
    assert score.value == pytest.approx(np.mean(expected), abs=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 4)])
def test_regression(shape):
    values, targets = drawn(IMAGES, *shape), 1000 + drawn(IMAGES, *shape, seed=3)
    score = scored(Regression(), values + 1000, targets)
    flat = [t.double().reshape(IMAGES, -1).numpy() for t in (targets, values + 1000)]
    assert score.metric == "R2" and score.higher_is_better
    assert score.value == pytest.approx(metrics.r2_score(*flat), abs=1e-9)
    assert score.metrics["MSE"] == pytest.approx(metrics.mean_squared_error(*flat), abs=1e-12)
    assert score.metrics["MAE"] == pytest.approx(metrics.mean_absolute_error(*flat), abs=1e-12)
    assert score.loss == pytest.approx(metrics.mean_squared_error(*flat), rel=1e-6)


def test_r2_of_small_targets():
    """Torchmetrics' own takes sums of squares below 1e-4 for 0."""
    values, targets = 1e-4 * drawn(IMAGES, 1), 1e-4 * drawn(IMAGES, 1, seed=3)
    expected = metrics.r2_score(targets.double(), values.double())
    assert scored(Regression(), values, targets).value == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("options", "loss", "metric"),
    [
        ({"loss": "mae", "metric": "MAE"}, F.l1_loss, metrics.mean_absolute_error),
        ({"loss": "huber", "metric": "MSE"}, F.huber_loss, metrics.mean_squared_error),
    ],
)
def test_regression_by_an_error(options, loss, metric):
    values, targets = drawn(IMAGES, 2), drawn(IMAGES, 2, seed=3)
    score = scored(Regression(**options), values, targets)
    expected = metric(targets.double(), values.double())
    assert (score.metric, score.higher_is_better) == (options["metric"], False)
    assert score.value == pytest.approx(expected, abs=1e-12)
    assert score.fitness == -score.value
    assert score.loss == pytest.approx(float(loss(values.double(), targets.double())), rel=1e-6)


def test_whole_numbers_are_targets_of_regression():
    counts = classes(IMAGES, 1, below=9)
    score = scored(Regression(), counts.float(), counts)
    assert (score.value, score.loss) == (1.0, 0.0)


@pytest.mark.parametrize("output", ["out", 1])
def test_a_task_picks_its_part_of_the_outputs(output):
    logits, labels = drawn(8, 3), classes(8, below=3)
    other = drawn(8, 3, seed=5)
    outputs = {"aux": other, "out": logits} if output == "out" else (other, logits)
    score = total(Classification(output=output), [(outputs, labels)])
    assert score == total(Classification(), [(logits, labels)])


# -- distillation ----------------------------------------------------------------------------------


def test_pixels_are_distilled_by_their_divergence():
    student, teacher = (
        drawn(3, 4, 2, 2).double().requires_grad_(),
        drawn(3, 4, 2, 2, seed=6).double(),
    )
    Dense(ignore_index=255).distillation(student, teacher).backward()
    own = student.detach().requires_grad_()
    p = teacher.softmax(1)
    divergence = (p * (p.log() - own.log_softmax(1))).sum(1).mean()
    divergence.backward()
    torch.testing.assert_close(student.grad, own.grad)


def test_labels_are_distilled_by_probabilities():
    student, teacher = drawn(3, 4).requires_grad_(), drawn(3, 4, seed=6)
    MultiLabel().distillation(student, teacher).backward()
    expected = (student.sigmoid() - teacher.sigmoid()).detach() / 12
    torch.testing.assert_close(student.grad, expected)


def test_numbers_are_distilled_by_the_loss():
    student, teacher = drawn(3, 4).requires_grad_(), drawn(3, 4, seed=6)
    Regression(output="y").distillation({"y": student}, {"y": teacher}).backward()
    torch.testing.assert_close(student.grad, 2 * (student - teacher).detach() / 12)


# -- what does not fit -----------------------------------------------------------------------------

CASES = {
    "dense, a class per image": (Dense(), drawn(4, 3, 2, 2), classes(4), "(4, 3, 2, 2)", "(4,)"),
    "dense, another size": (
        Dense(),
        drawn(4, 3, 2, 2),
        classes(4, 4, 4),
        "(4, 3, 2, 2)",
        "(4, 4, 4)",
    ),
    "dense, floats": (Dense(), drawn(4, 3, 2, 2), drawn(4, 2, 2), "(4, 3, 2, 2)", "torch.float32"),
    "dense, a dict": (Dense(), {"out": drawn(4, 3, 2, 2)}, classes(4, 2, 2), "'out'", "(4, 2, 2)"),
    "multi-label, classes": (MultiLabel(), drawn(4, 3), classes(4), "(4, 3)", "(4,)"),
    "regression, (B,)": (Regression(), drawn(4, 1), drawn(4), "(4, 1)", "(4,)"),
    "regression, whole outputs": (Regression(), classes(4), drawn(4), "torch.int64", "(4,)"),
    "regression, bool": (Regression(), drawn(4), drawn(4) > 0, "(4,)", "torch.bool"),
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_named(name):
    task, outputs, targets, shown, also = CASES[name]
    with pytest.raises(ValueError) as error:
        total(task, [(outputs, targets)])
    first, _, second = str(error.value).partition(", the targets ")
    assert shown in first and also in second and "Allowed in task" in second


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "shown"),
    [
        (Dense(), drawn(2, 3, 2), torch.tensor([[0, 1], [2, 3]]), r"0\.\.3.* 0\.\.2"),
        (Dense(ignore_index=255), drawn(2, 3, 1), torch.tensor([[254], [255]]), r"254\.\.254"),
        (MultiLabel(), drawn(2, 2), torch.tensor([[0, 2], [1, 1]]), r"0\.\.2"),
        (Classification(output="logits"), {"out": 1}, classes(2), "no 'logits'.*output"),
        (Classification(output=2), (1, 2), classes(2), "no 2"),
    ],
)
def test_values_and_parts_that_there_are_not(task, outputs, targets, shown):
    with pytest.raises(ValueError, match=shown):
        total(task, [(outputs, targets)])


# -- a task of one's own ---------------------------------------------------------------------------


class Undirected(OneLoss):
    def check(self, outputs, targets):
        pass

    def loss(self, outputs, targets):
        return outputs.mean()

    def metrics(self, outputs):
        from torchmetrics import MeanMetric

        return {"mean": MeanMetric()}


def test_a_metric_must_have_a_direction():
    with pytest.raises(ValueError, match="'mean', whose higher_is_better is None"):
        total(Undirected(), [(drawn(3), drawn(3))])


def test_a_task_that_lacks_something_is_named():
    with pytest.raises(ValueError, match="has no .*compared"):
        ms.tasks.make_task("tests.tasks.test_tasks_metrics:Nothing")
    with pytest.raises(ValueError, match="did you mean 'regression'"):
        ms.tasks.make_task("regresion")
    with pytest.raises(ValueError, match="no option 'ignore'.*ignore_index"):
        ms.tasks.make_task("dense", {"ignore": 3})
    with pytest.raises(ValueError, match="metric = 'RMSE'"):
        ms.tasks.make_task("regression", {"metric": "RMSE"})


class Nothing:
    def check(self, outputs, targets):
        pass

    def loss(self, outputs, targets):
        pass


def test_one_label():
    """A thing that is there or not: a network with one logit."""
    logits, there = drawn(IMAGES, 1), classes(IMAGES, 1, below=2)
    score = scored(MultiLabel(), logits, there)
    expected = metrics.average_precision_score(there[:, 0], logits[:, 0].sigmoid())
    assert score.value == pytest.approx(expected, rel=1e-6)
    assert score.metrics["label accuracy"] == metrics.accuracy_score(there, logits > 0)


class Keeps(OneLoss):
    """It gives the same metric every time."""

    def __init__(self):
        from torchmetrics.classification import MulticlassAccuracy

        self.metric = MulticlassAccuracy(4, average="micro")

    def check(self, outputs, targets):
        pass

    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets)

    def metrics(self, outputs):
        return {"accuracy": self.metric}


def test_a_metric_that_a_task_keeps_counts_no_network_into_the_next():
    task = Keeps()
    for seed in range(3):
        logits, labels = drawn(IMAGES, 4, seed=seed), classes(IMAGES, seed=seed)
        expected = metrics.accuracy_score(labels, logits.argmax(1))
        assert scored(task, logits, labels).value == pytest.approx(expected, rel=1e-6)


def test_a_score_without_a_value_is_said():
    score = scored(Regression(), drawn(IMAGES, 2), torch.ones(IMAGES, 2))
    assert np.isnan(score.value) and score.finite_metrics.keys() == {"MSE", "MAE"}
    with pytest.raises(ValueError, match="the R2 of this one is nan: look for"):
        score.checked("this one")
    errors = scored(Regression(metric="MAE"), drawn(IMAGES, 2), torch.ones(IMAGES, 2))
    assert errors.checked("this one") is errors


@pytest.mark.parametrize(
    ("task", "words"),
    [(Dense, "task is the class Dense: give an object"), (3, "task is 3: give"), (None, "is None")],
)
def test_what_is_no_task_is_said(task, words):
    with pytest.raises(ValueError, match=words):
        ms.evaluate.score_module(torch.nn.Linear(2, 2), [], task=task)
