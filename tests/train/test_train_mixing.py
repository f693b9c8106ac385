"""Mixed images and targets against closed forms, plain torch and what single images say."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from train_nets import Dropping, random_states, seeded, trainer, weights

import manyshot as ms
from manyshot.nn.inputs import in_parts
from manyshot.tasks import Classification, MultiLabel
from manyshot.tasks.task import Mixed, learnt, loss_function
from manyshot.train import TrainingSettings, Uniform, engine
from manyshot.train.mixing import Mixer

CPU = torch.device("cpu")
MIXUP, CUTMIX = {"mixup": 0.4}, {"cutmix": 1.0}


def drawn(shape, seed=0, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mixer(seed=3, **settings):
    settings = TrainingSettings(**settings)
    return Mixer(settings, Classification(), seed, engine(CPU, settings))


def shares_of(images, mixed):
    """By least squares of each image: how much of it is its own, the rest of the one before it."""
    own, other = images.flatten(1), images.roll(1, 0).flatten(1)
    apart = own - other
    shares = ((mixed.flatten(1) - other) * apart).sum(1) / apart.square().sum(1)
    assert torch.allclose(mixed.flatten(1), other + shares[:, None] * apart)
    return shares


@pytest.mark.parametrize("count", [2, 5])
def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before(count):
    images, labels = drawn((count, 3, 6, 5)), torch.arange(count)
    mixed, targets = mixer(**MIXUP)(7, images, labels)
    assert torch.allclose(shares_of(images, mixed), targets.share_B.double(), atol=1e-7)
    assert 0 < targets.share_B[0] < 1
    assert torch.equal(targets.targets, labels)
    assert targets.others.tolist() == [(i - 1) % count for i in range(count)]


def test_cutmix_is_a_rectangle_of_the_image_before_and_its_area_the_share():
    images, labels = drawn((4, 1, 16, 12)), torch.arange(4)
    several = set()
    for step in range(40):
        mixed, targets = mixer(**CUTMIX)(step, images, labels)
        is_other = (mixed != images)[:, 0]
        assert torch.equal(mixed, torch.where(is_other[:, None], images.roll(1, 0), images))
        height, width = is_other.any(2).sum(1), is_other.any(1).sum(1)
        assert torch.equal(height * width, is_other.sum((1, 2))), "a rectangle"
        share = 1 - (height * width) / (16 * 12)
        assert torch.allclose(targets.share_B, share.float())
        several.add(float(share[0]))
    assert len(several) > 20


def test_shares_follow_beta_and_both_kinds_come_as_often():
    images, labels, both = drawn((3, 1, 2, 2)), torch.arange(3), mixer(mixup=0.4, cutmix=0.4)
    alone = mixer(**MIXUP)
    shares = [float(alone(step, images, labels)[1].share_B[0]) for step in range(600)]
    # Beta(a, a) has a variance of 1 / (8a + 4) = 0.139; errors are 0.015 of the mean and, by a
    # fourth central moment of 0.028, 0.0038 of the variance.
    assert abs(np.mean(shares) - 0.5) < 0.06
    assert abs(np.var(shares) - 1 / (8 * 0.4 + 4)) < 0.016
    cut = sum(
        bool(((mixed == images) | (mixed == images.roll(1, 0))).all())
        for mixed, _ in (both(step, images, labels) for step in range(400))
    )
    assert abs(cut - 200) < 40  # a standard deviation of 10


def test_mixing_follows_seed_and_step_alone():
    images, labels = drawn((4, 3, 6, 6)), torch.arange(4)
    before = random_states()
    results = [
        mixer(seed, mixup=0.4, cutmix=1.0)(step, images, labels)[0]
        for seed, step in ((3, 5), (3, 5), (3, 6), (4, 5))
    ]
    assert random_states() == before
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


@pytest.mark.parametrize("settings", [MIXUP, CUTMIX])
def test_mixed_images_keep_their_type_and_memory_format(settings):
    for layout in (torch.channels_last, torch.contiguous_format):
        images = drawn((4, 3, 6, 5), dtype=torch.float32).contiguous(memory_format=layout)
        mixed, _ = mixer(**settings)(0, images, torch.arange(4))
        assert mixed.dtype == torch.float32
        assert mixed.stride() == images.stride()


def test_without_mixing_everything_stays():
    images, labels = drawn((4, 3, 6, 6)), torch.arange(4)
    same = mixer()(0, images, labels)
    assert same[0] is images and same[1] is labels


def mixed_targets(labels, share):
    return Mixed(labels, labels.roll(1, 0), torch.full((len(labels),), share))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_loss_is_torchs_of_soft_targets_and_the_mean_of_both_losses(smoothing, share):
    logits, labels = 3 * drawn((6, 5)), torch.tensor([0, 1, 4, 2, 2, 3])
    targets = learnt(Classification(), logits, mixed_targets(labels, share))
    loss = loss_function(Classification(), smoothing)(logits, targets)
    soft = torch.zeros(6, 5, dtype=torch.float64)
    for i, label in enumerate(labels.tolist()):
        soft[i, label] += share
        soft[i, labels[i - 1]] += 1 - share
    torch_loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
    # The share is a number of 32 bits.
    torch.testing.assert_close(loss, torch_loss(logits, soft), rtol=1e-7, atol=1e-7)
    both = share * torch_loss(logits, labels) + (1 - share) * torch_loss(logits, labels.roll(1, 0))
    torch.testing.assert_close(loss, both, rtol=1e-7, atol=1e-7)


def test_labels_of_several_mix_as_their_losses_do():
    logits, labels = 3 * drawn((6, 4)), (drawn((6, 4), 1) < 0.5).long()
    loss = MultiLabel().loss(logits, learnt(MultiLabel(), logits, mixed_targets(labels, 0.25)))
    of = F.binary_cross_entropy_with_logits
    both = 0.25 * of(logits, labels.double()) + 0.75 * of(logits, labels.roll(1, 0).double())
    torch.testing.assert_close(loss, both)


def test_mixed_targets_are_checked_and_cut_into_parts():
    labels = torch.tensor([0, 1, 2, 3])
    whole = mixed_targets(labels, 0.3)
    parts = in_parts(whole, 3)
    assert [len(part.share_B) for part in parts] == [3, 1]
    assert all(isinstance(part, Mixed) for part in parts)
    assert parts[1].targets.tolist() == [3] and parts[1].others.tolist() == [2]
    with pytest.raises(ValueError, match=r"the targets are in 0\.\.3"):
        learnt(Classification(), torch.zeros(4, 3), whole)


def test_a_step_is_that_of_plain_torch_on_the_mixed_images():
    """Weights after one step of SGD, by the losses against both labels."""

    def make():
        return seeded(lambda: ms.Supernet(Dropping(dropout=0.0))).double()

    options = {"dtype": torch.float64, "momentum": 0.0, "weight_decay": 0.0, "mixup": 0.4}
    run, net = trainer(make(), epochs=1, schedule="constant", **options), make()
    images, labels = next(run.batches.from_step(0))
    plan = run.plan()
    run.optimisation.step(0, run.turns("weights", images, labels), "weights", 0.1)
    mixed, targets = mixer(5, mixup=0.4)(0, images, labels)
    share = float(targets.share_B[0])
    assert not torch.equal(mixed, images) and 0 < share < 1
    for path in plan.paths:
        outputs = net(mixed, path.arch)
        own, other = (F.cross_entropy(outputs, t) for t in (labels, labels.roll(1, 0)))
        (share * own + (1 - share) * other).backward()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    expected = weights(net)
    for name, tensor in weights(run.net).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-9)


class Watching(nn.Module):
    """Remembers what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.seen = nn.Linear(64, 10), []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.inner(images.flatten(1))


def test_a_teacher_sees_the_mixed_images_that_it_teaches():
    teacher, student = seeded(Watching), seeded(Watching)
    images, labels = drawn((64, 1, 8, 8), dtype=torch.float32), torch.arange(64) % 10
    settings = TrainingSettings(epochs=1, batch_size=32, mixup=0.4, cutmix=1.0)
    own = torch.utils.data.TensorDataset(images, labels)
    ms.fit(student, own, teacher=teacher, settings=settings)
    assert len(teacher.seen) == len(student.seen) == 2
    plain = {image.numpy().tobytes() for image in images}
    for taught, learns in zip(teacher.seen, student.seen, strict=True):
        assert torch.equal(taught, learns)
        assert sum(image.numpy().tobytes() in plain for image in taught) < 32


@pytest.mark.parametrize(("key", "strength"), [("mixup", 0.2), ("cutmix", 1.0)])
def test_what_cannot_be_mixed_is_refused(key, strength):
    settings = TrainingSettings(epochs=1, batch_size=4, **{key: strength})
    images = drawn((8, 3, 6, 6), dtype=torch.float32)
    pixels = torch.utils.data.TensorDataset(images, torch.zeros(8, 6, 6, dtype=torch.int64))
    message = f"{key} = {strength:g}: Dense has no mixed_targets, which .* set {key} = 0"
    with pytest.raises(ValueError, match=message):
        ms.fit(nn.Conv2d(3, 4, 1), pixels, task="dense", settings=settings)
    rows = torch.utils.data.TensorDataset(images.flatten(1), torch.zeros(8, dtype=torch.int64))
    message = rf"{key} = {strength:g} mixes images, .* the inputs are a tensor of shape \(4, 108\)"
    with pytest.raises(ValueError, match=message):
        ms.fit(nn.Linear(108, 4), rows, settings=settings)


def test_mixing_trains_a_supernet_to_finite_weights_that_repeat():
    def trained():
        net = seeded(lambda: ms.Supernet(ms.zoo.tiny(width=4)))
        settings = TrainingSettings(epochs=1, batch_size=32, mixup=0.2, cutmix=1.0)
        splits = ms.data.load("digits", train_size=96)
        ms.fit(net, splits, sampler=Uniform(net.space), settings=settings, seed=1)
        return weights(net)

    one, other = trained(), trained()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(math.isfinite(float(tensor.float().sum())) for tensor in one.values())
