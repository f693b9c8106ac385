"""Network, data and task that do not fit one another: said before anything trains or is written."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

import manyshot as ms
from manyshot.pipeline.matching import Matching
from manyshot.recipe import RecipeError
from manyshot.tasks import Classification, Dense, MultiLabel, OneLoss, Regression

COUNT, CLASSES = 40, 3


class Net(nn.Module):
    """An elastic layer; what comes out is shaped and cleaned as a test needs it."""

    def __init__(self, outputs=CLASSES, clean=False, forms=lambda x: x):
        super().__init__()
        width = ms.choose((4, 8), "width")
        self.first, self.norm = ms.nn.Linear(6, width), ms.nn.BatchNorm1d(width)
        self.last, self.clean, self.forms = ms.nn.Linear(width, outputs), clean, forms

    def forward(self, x):
        x = x.nan_to_num() if self.clean else x
        return self.forms(self.last(self.norm(self.first(x)).relu()))


def inputs(count=COUNT):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(0))


def labels(count=COUNT):
    return torch.arange(count) % CLASSES


def changed(tensor, at, value):
    tensor = tensor.clone()
    tensor[at] = value
    return tensor


class ReadOne(Dataset):
    """Not in memory."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


GOOD = TensorDataset(inputs(), labels())
NAN, INF = float("nan"), float("inf")


def refused(tmp_path, match, *, network=None, task="classification", **parts):
    """Runs it, which is refused in these words before the folder is made."""
    data = {"train": GOOD, "validation": GOOD, "test": GOOD, **parts}
    out = tmp_path / "run"
    small = ("train.batch_size=8", "finish.training.batch_size=8")
    with pytest.raises(RecipeError, match=match):
        ms.run(
            network=network or Net(),
            data=data,
            task=task,
            budgets=["macs<=80%"],
            out=out,
            overrides=small,
        )
    assert not out.exists()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            TensorDataset(inputs().double(), labels()),
            r"samples 0 and 1: .*float64.*of its weights, which is torch.fl",
        ),
        (
            ReadOne(inputs().byte(), labels()),
            r"samples 0 and 1: .*uint8.*give what its forward takes",
        ),
        (TensorDataset(inputs(), labels().float()), r"samples 0 and 1: .*type torch.float32\. All"),
        (ReadOne(inputs(), labels()[:, None]), r"samples 0 and 1: .*shape \(2, 1\)"),
        (TensorDataset(inputs(), changed(labels(), 37, 7)), r"samples 0 to 39: .*in 0\.\.7"),
        (TensorDataset(changed(inputs(), (31, 2), NAN), labels()), r"sample 31: .* nan, as inputs"),
        (list(zip(changed(inputs(), (9, 0), INF), labels(), strict=True)), r"sample 9: .*inputs"),
    ],
)
def test_every_part_is_looked_at(part, bad, words, tmp_path):
    refused(tmp_path, rf"task = 'classification': data\.{part}, {words}", **{part: bad})


@pytest.mark.parametrize("part", ["validation", "test"])
def test_another_shape_than_in_training(part, tmp_path):
    bad = TensorDataset(inputs()[:, :5], labels())
    refused(tmp_path, rf"data\.{part}, samples 0 and 1: the network does not run", **{part: bad})


def test_one_class_is_nothing_to_learn(tmp_path):
    one = TensorDataset(inputs(), torch.zeros(COUNT, dtype=torch.int64))
    parts = {"train": one, "validation": one, "test": one}
    refused(tmp_path, "of two classes or more", network=Net(1), **parts)


class Scored(OneLoss):
    """A task whose loss and metric are a test's."""

    def __init__(self, loss=F.cross_entropy, metric=None, compared=None):
        self._loss, self._metric, self._compared = loss, metric or Share, compared

    def check(self, outputs, targets):
        pass

    def loss(self, outputs, targets):
        return self._loss(outputs, targets)

    def metrics(self, outputs):
        return {"share": self._metric()}

    def compared(self, outputs, targets):
        return self._compared(outputs, targets) if self._compared else (outputs, targets)


class Share:
    higher_is_better = True

    def __init__(self):
        self.right = self.count = 0

    def to(self, device):
        pass

    def update(self, outputs, targets):
        self.right += int((outputs.argmax(1) == targets).sum())
        self.count += len(targets)

    def compute(self):
        return self.right / self.count


class Precision(Share):
    """Not a number where nothing is predicted, which depends on the network."""

    def update(self, outputs, targets):
        positive = outputs.argmax(1) == 2
        self.right += int((positive & (targets == 2)).sum())
        self.count += int(positive.sum())

    def compute(self):
        return self.right / self.count if self.count else NAN


class Many(Share):
    def compute(self):
        return torch.ones(3)


class Nothing(Share):
    def compute(self):
        return NAN


def look(task, data=GOOD, part="validation", network=None, net=None):
    net = net or ms.Supernet(network or Net(), example_inputs=inputs(2))
    samples = ms.data.OwnSet.of(data)
    return Matching(net, task, lambda own: own.batch(range(len(own)))).look(part, samples)


def each(outputs, targets):
    return F.cross_entropy(outputs, targets, reduction="none")


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (Scored(each), r"Scored.loss gives a tensor of shape \(2,\) .*loss.mean\(\)"),
        (Scored(lambda o, t: each(o, t).mean(0, keepdim=True)), r"loss gives .*shape \(1,\)"),
        (Scored(lambda o, t: 1.5), "loss gives a float"),
        (Scored(lambda o, t: (each(o, t).mean(), {})), "loss gives a tuple of 2"),
        (Scored(lambda o, t: each(o, t).mean() * NAN), "nan of outputs and targets that are fini"),
        (Scored(lambda o, t: t["y"]), "samples 0 and 1: (TypeError|IndexError)"),
        (Scored(lambda o, t: each(o.detach(), t).mean()), "without a gradient"),
        (Scored(metric=Many), r"'share' computes a tensor of shape \(3,\)"),
        (Scored(metric=Nothing), "the share of these 40 samples is no number, whatever"),
        (Scored(metric=lambda: print), "'share' is a builtin.*has no update, compute, to"),
        (Scored(compared=lambda o, t: o), "compared gives a tensor"),
        (Scored(compared=lambda o, t: {"preds": o}), "compared gives a dict of 'preds'"),
    ],
)
def test_a_task_of_ones_own_is_held_to_its_contract(task, words):
    part = "train" if "gradient" in words else "validation"
    with pytest.raises(ValueError, match=f"data.{part}.*{words}"):
        look(task, part=part)


def numbers(y):
    return TensorDataset(inputs(), y)


@pytest.mark.parametrize(
    ("task", "data", "network", "words"),
    [
        (Regression(), numbers(torch.ones(COUNT, 2)), Net(2), "the R2 of these 40 samples is no"),
        (Regression(), numbers(changed(inputs()[:, :2], 33, NAN)), Net(2), "as targets are not"),
        (Regression(), numbers(inputs()[:, :2] * 1e30), Net(2), "inf of outputs and targets"),
        (MultiLabel(), numbers(torch.zeros(COUNT, 3)), Net(), "the mean average precision of the"),
        (MultiLabel(), numbers(changed(torch.zeros(COUNT, 3), 30, 0.5)), Net(), "in 0..0.5"),
    ],
)
def test_targets_in_memory_are_all_looked_at(task, data, network, words):
    with pytest.raises(ValueError, match=words):
        look(task, data, network=network)


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.op = ms.nn.Choice({"one": nn.Conv2d(1, 2, 1), "three": nn.Conv2d(1, 2, 3, padding=1)})

    def forward(self, x):
        return self.op(x)


def test_pixels_that_do_not_count():
    images = torch.randn(12, 1, 4, 4)
    pixels = torch.zeros(12, 4, 4, dtype=torch.int64)
    net = ms.Supernet(Pixels(), input_shape=(1, 4, 4))
    some = TensorDataset(images, changed(pixels, slice(0, 4), 255))
    assert [*look(Dense(ignore_index=255), some, net=net)] == ["mean IoU", "pixel accuracy"]
    with pytest.raises(ValueError, match="no target of the 12 samples counts"):
        look(Dense(ignore_index=255), TensorDataset(images, pixels + 255), net=net)
    with pytest.raises(ValueError, match=r"samples 0 to 11: the targets are in 0\.\.2"):
        look(Dense(), TensorDataset(images, changed(pixels, (11, 3, 3), 2)), net=net)


def test_what_fits_is_not_refused():
    """Odd inputs that the network takes, a metric without a value by chance, one sample..."""
    odd = TensorDataset(changed(inputs(), (31, 2), NAN), labels())
    assert [*look(Classification(), odd, network=Net(clean=True))][0] == "accuracy"
    never = Net(forms=lambda x: torch.stack([x[:, 0], x[:, 1], x.min(1).values - 1], 1))
    assert look(Scored(metric=Precision), network=never).keys() == {"share"}
    assert look(Classification(), TensorDataset(inputs(1), labels(1)))
    alone = TensorDataset(inputs(1), inputs(1)[:, :2])
    assert look(Regression(metric="MAE"), alone, network=Net(2))
    with_side = Net(forms=lambda x: {"logits": x, "penalty": x.square().mean()})
    assert look(Classification(output="logits"), network=with_side)

    def padded(samples):
        longest = max(len(y) for _, y in samples)
        rows = [F.pad(y, (0, longest - len(y)), value=-1) for _, y in samples]
        return torch.stack([x for x, _ in samples]), torch.stack(rows)

    ragged = [(x, torch.zeros(1 + i % 3)) for i, x in enumerate(inputs())]

    class Long(Scored):
        def check(self, outputs, targets):
            if targets.shape != (len(outputs), 2):  # of the first two samples
                raise ValueError("padded with others")

    loss = Long(lambda o, t: o.mean(), compared=lambda o, t: (o, t[:, 0].long()))
    assert look(loss, DataLoader(ragged, collate_fn=padded))


def test_looking_changes_nothing():
    net = ms.Supernet(Net(), example_inputs=inputs(2)).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    states = torch.get_rng_state()
    look(Classification(), net=net, part="train")
    assert net.training and torch.equal(states, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_metric_without_a_value_besides_is_left_out(tmp_path):
    """R2 of one image is no number, and the run ranks by the error."""
    wide = TensorDataset(inputs(), inputs()[:, :2])
    alone = TensorDataset(inputs(1), inputs(1)[:, :2])
    run = ms.run(
        network=Net(2),
        data=(wide, alone),
        task={"name": "regression", "options": {"metric": "MAE"}},
        budgets=["macs<=80%"],
        train={"epochs": 1, "batch_size": 8},
        search={"name": "random", "candidates": 2},
        finish={"mode": "inherit"},
        latency={"warmup": 0, "repeats": 1},
        export={"formats": ["json"]},
        out=tmp_path / "run",
    )
    [winner] = run.winners
    x, y = alone[0]
    with torch.no_grad():
        error = (winner.module()(x[None]) - y).abs().double().mean()
    assert winner.test_metrics.keys() == {"MAE", "MSE"}
    assert winner.test_score == pytest.approx(float(error), rel=1e-6)
