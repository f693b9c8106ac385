"""The gradient of a plan against gradients computed separately, by hand, in float64."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.tasks import Classification
from manyshot.train import Fair, Plan, PlannedPath, Sandwich, Uniform
from manyshot.train.gradients import accumulate


@pytest.fixture
def net() -> ms.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ms.Supernet(ms.zoo.tiny(width=3)).double()


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn((12, 1, 8, 8), generator=generator, dtype=torch.float64)
    return images, torch.randint(10, (12,), generator=generator)


def gradients(net: nn.Module) -> dict[str, torch.Tensor | None]:
    found = {n: None if p.grad is None else p.grad.clone() for n, p in net.named_parameters()}
    net.zero_grad(set_to_none=True)
    return found


def summed(net, losses) -> dict[str, torch.Tensor | None]:
    """The sum of the losses' separate gradients, each from `torch.autograd.grad`."""
    total: dict[str, torch.Tensor | None] = dict.fromkeys(dict(net.named_parameters()))
    for loss in losses:
        own = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
        for name, gradient in zip(total, own, strict=True):
            if gradient is not None:
                before = total[name]
                total[name] = gradient if before is None else before + gradient
    return total


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        if gradient is None or other[name] is None:
            assert gradient is other[name], name
        else:
            torch.testing.assert_close(gradient, other[name], rtol=1e-12, atol=1e-14)


def cross_entropy(logits, labels, smoothing=0.0):
    """By the definition, not by torch's function."""
    log_p, classes = logits - logits.logsumexp(1, keepdim=True), logits.shape[1]
    target = torch.full_like(log_p, smoothing / classes)
    target[torch.arange(len(labels)), labels] += 1 - smoothing
    return -(target * log_p).sum(1).mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_of_a_fair_plan(net, batch, smoothing):
    images, labels = batch
    plan = Fair(net.space).plan(np.random.default_rng(0), 0)
    losses = accumulate(net, plan, images, labels, largest=net.space.largest, smoothing=smoothing)
    ours = gradients(net)
    by_hand = [cross_entropy(net(images, p.arch), labels, smoothing) for p in plan.paths]
    assert_same(ours, summed(net, by_hand))
    torch.testing.assert_close(torch.stack(losses), torch.stack(by_hand).detach())
    assert not any(loss.requires_grad for loss in losses)
    assert all(gradient is not None for gradient in ours.values())  # every option was trained


def test_gradient_of_the_sandwich(net, batch):
    """Labels for the largest; for the others the detached teacher, by KL divergence.

    KL and cross-entropy to the teacher differ by the teacher's entropy, which is constant.
    """
    images, labels = batch
    plan = Sandwich(net.space, random=2).plan(np.random.default_rng(3), 0)
    losses = accumulate(net, plan, images, labels, largest=net.space.largest, smoothing=0.1)
    ours = gradients(net)
    teacher = net(images, net.space.largest)
    by_hand = [cross_entropy(teacher, labels, 0.1)]
    with torch.no_grad():
        taught = torch.softmax(net(images, net.space.largest), 1)
    for path in plan.paths[1:]:
        student = F.log_softmax(net(images, path.arch), 1)
        by_hand.append(F.kl_div(student, taught, reduction="batchmean"))
    assert_same(ours, summed(net, by_hand))
    entropy = -(taught * taught.log()).sum(1).mean()
    for loss, divergence in zip(losses[1:], by_hand[1:], strict=True):
        torch.testing.assert_close(loss, divergence.detach() + entropy)


def test_weights_of_paths_scale_their_gradients(net, batch):
    images, labels = batch
    archs = [(0, 1, 2, 3), (3, 2, 1, 0)]
    plan = Plan(tuple(PlannedPath(a, weight=w) for a, w in zip(archs, (0.25, 3.0), strict=True)))
    losses = accumulate(net, plan, images, labels, largest=net.space.largest)
    ours = gradients(net)
    by_hand = [cross_entropy(net(images, arch), labels) for arch in archs]
    assert_same(ours, summed(net, [0.25 * by_hand[0], 3 * by_hand[1]]))
    torch.testing.assert_close(torch.stack(losses), torch.stack(by_hand).detach())  # unweighted


def test_options_off_the_plan_get_no_gradient(net, batch):
    plan = Uniform(net.space).plan(np.random.default_rng(0), 0)
    accumulate(net, plan, *batch, largest=net.space.largest)
    [arch] = [path.arch for path in plan.paths]
    for name, parameter in net.named_parameters():
        if ".options." not in name:
            assert parameter.grad is not None
            continue
        layer = int(name.split("chain.")[1].split(".")[0]) - 1
        option = net.space.decisions[layer].options[arch[layer]]
        assert (parameter.grad is not None) == (f".options.{option}." in name)


@pytest.mark.parametrize(
    "paths",
    [
        lambda big: (PlannedPath((0, 0, 0, 0), target="largest"), PlannedPath(big)),
        lambda big: (PlannedPath((0, 0, 0, 0)), PlannedPath((1, 0, 0, 0), target="largest")),
        lambda big: (PlannedPath(big, target="largest"),),
    ],
)
def test_a_student_before_its_teacher_is_an_error(net, batch, paths):
    big = net.space.largest
    with pytest.raises(ValueError, match=r"learns from the largest architecture .* come before"):
        accumulate(net, Plan(paths(big)), *batch, largest=big)


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_label_smoothing_is_torchs_and_the_definition(classes, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((32, classes), generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (32,), generator=generator)
    ours = Classification().smoothed_loss(logits, labels, smoothing)
    torch.testing.assert_close(ours, nn.CrossEntropyLoss(label_smoothing=smoothing)(logits, labels))
    torch.testing.assert_close(ours, cross_entropy(logits, labels, smoothing))


@pytest.mark.parametrize(
    ("logits", "labels", "shown"),
    [
        (torch.ones(4, 3, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64), r"\(4, 2, 2\)"),
        (torch.ones(4, 3), torch.ones(4, 3), r"\(4, 3\) and type torch.float32"),
        (torch.ones(4, 1), torch.ones(4, 1), r"\(4, 1\)"),
        (torch.ones(4, 3), torch.zeros(4, dtype=torch.int32), "torch.int32"),
        ((torch.ones(4, 3),), torch.zeros(4, dtype=torch.int64), "a tuple of 1"),
        (torch.ones(4, 3), torch.tensor([0, 1, 2, 3]), r"0\.\.3, .* 0\.\.2"),
        (torch.ones(4, 3), torch.tensor([0, 1, 2, -100]), r"-100\.\.2, .* 0\.\.2"),
    ],
)
def test_what_is_no_classification_is_an_error(logits, labels, shown):
    with pytest.raises(ValueError, match=f"{shown}.*Allowed in task 'classification' are outputs"):
        Classification().check(logits, labels)


def test_training_on_pixels_stops_at_the_first_step():
    width = ms.choose((2, 4), "width")
    net = ms.Supernet(nn.Sequential(ms.nn.Conv2d(1, width, 1), ms.nn.Conv2d(width, 3, 1)))
    images, pixels = torch.ones(4, 1, 2, 2), torch.zeros(4, 2, 2, dtype=torch.int64)
    plan = Plan((PlannedPath(net.space.largest),))
    with pytest.raises(ValueError, match=r"\(4, 3, 2, 2\) .*are outputs \(B, classes\)"):
        accumulate(net, plan, images, pixels, largest=net.space.largest)


def test_distillation_gradient_is_the_difference_of_probabilities():
    """d/dlogits of the cross-entropy to p is (softmax(logits) - p) / B."""
    generator = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn((2, 8, 10), generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    Classification().distillation(logits, teacher).backward()
    expected = (logits.softmax(1) - teacher.softmax(1)).detach() / 8
    torch.testing.assert_close(logits.grad, expected)


def test_the_original_teaches_by_its_probabilities(net, batch):
    """The gradient is that of the cross-entropy to them, by its definition."""
    images, labels = batch
    original = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(64, 10)).double()
    paths = (net.space.smallest, net.space.largest)
    plan = Plan(tuple(PlannedPath(arch, target="original", weight=0.5) for arch in paths))
    losses = accumulate(
        net, plan, images, labels, largest=net.space.largest, original=original, smoothing=0.3
    )
    ours = gradients(net)
    assert original.training and all(p.grad is None for p in original.parameters())
    weight, bias = original[2].weight.detach(), original[2].bias.detach()
    scores = images.flatten(1) @ weight.T + bias  # without dropout
    taught = (scores - scores.logsumexp(1, keepdim=True)).exp()

    def by_hand(logits):
        return -(taught * (logits - logits.logsumexp(1, keepdim=True))).sum(1).mean()

    expected = [by_hand(net(images, arch)) for arch in paths]
    for one, other in zip(losses, expected, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=0)
    assert_same(ours, summed(net, [0.5 * loss for loss in expected]))


def test_without_an_original_nobody_learns_from_it(net, batch):
    plan = Plan((PlannedPath(net.space.smallest, target="original"),))
    with pytest.raises(ValueError, match="learns from the original, and there is none"):
        accumulate(net, plan, *batch, largest=net.space.largest)


def test_an_original_takes_inputs_as_networks_do(net, batch):
    """Of inputs by keyword and by position, what the original says is the same."""
    images, labels = batch

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = nn.Linear(64, 10).double()

        def forward(self, images, sign):
            return self.plain(sign * images.flatten(1))

    original, losses = Turned(), []
    plan = Plan((PlannedPath(net.space.smallest, target="original"),))
    for inputs in ((images, -1.0), {"images": images, "sign": -1.0}):
        losses += accumulate(
            lambda inputs, arch: net(images, arch),
            plan,
            inputs,
            labels,
            largest=net.space.largest,
            original=original,
        )
    taught = original.plain(-images.flatten(1)).softmax(1)
    logits = net(images, net.space.smallest)
    expected = -(taught * logits.log_softmax(1)).sum(1).mean()
    for loss in losses:
        torch.testing.assert_close(loss, expected.detach())
