"""Calibration and scores by hand, and that scoring changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.evaluate import Score, calibrate, evaluating, score, score_module

ARCHS = [(3, 3, 3, 3), (0, 1, 2, 3), (2, 2, 0, 1)]


class Noisy(nn.Module):
    """`tiny` with dropout before its classifier, which scoring must switch off."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.dropout = ms.zoo.tiny(width=4), nn.Dropout(0.5)

    def forward(self, images):
        return self.body(self.dropout(images))


@pytest.fixture
def net() -> ms.Supernet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ms.Supernet(Noisy())


def batches(seed: int, sizes=(16, 16, 7)) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn((n, 1, 8, 8), generator=generator), torch.arange(n) % 10) for n in sizes]


def whole_state(net: nn.Module):
    tensors = {n: t.clone() for n, t in [*net.named_parameters(), *net.named_buffers()]}
    grads = {n: p.grad for n, p in net.named_parameters()}
    return tensors, [m.training for m in net.modules()], grads, torch.get_rng_state()


def assert_untouched(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(before[0][n], after[0][n]) for n in before[0])
    assert before[1:3] == after[1:3]
    assert torch.equal(before[3], after[3])


@pytest.mark.parametrize("training", [True, False, "mixed"])
def test_nothing_is_changed(net, training):
    net.train(training is True)
    if training == "mixed":
        next(iter(net.model.body.children())).train()
    before = whole_state(net)
    stats = calibrate(net, ARCHS[1], batches(0))
    score(net, ARCHS[1], calibration=batches(0), validation=batches(1))
    assert_untouched(before, whole_state(net))
    assert not any(t.requires_grad for pair in stats.tensors.values() for t in pair)
    assert torch.is_grad_enabled()


def test_modes_come_back_after_an_error(net):
    def broken():
        yield batches(0)[0]
        raise OSError("a disk is gone")

    net.train()
    net.model.dropout.eval()
    before = whole_state(net)
    with pytest.raises(OSError, match="a disk is gone"):
        calibrate(net, ARCHS[0], broken())
    assert_untouched(before, whole_state(net))
    assert torch.is_grad_enabled()


def test_the_first_batch_norm_by_hand(net):
    """The mean of all images; their batches' unbiased variances, weighted by the images."""
    stats = calibrate(net, ARCHS[0], batches(0))
    [conv] = [m for n, m in net.named_modules() if n == "model.body.chain.0.0"]
    seen = [F.conv2d(x.double(), conv.weight.double(), padding=1) for x, _ in batches(0)]
    mean, pooled = torch.cat(seen).mean((0, 2, 3)), torch.cat(seen).var((0, 2, 3))
    variance = sum(len(x) * x.var((0, 2, 3)) for x in seen) / 39
    ours = stats.of("body.chain.0.1")
    torch.testing.assert_close(ours[0].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1].double(), variance, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(ours[1].double(), pooled, rtol=1e-4)


def test_all_batch_norms_against_torch(net):
    """`torch.nn.BatchNorm2d` in train mode, whose momentum is the share of the batch's images."""
    for arch in ARCHS:
        stats = calibrate(net, arch, batches(0))
        subnet = net.extract(arch).eval()
        norms = [m for m in subnet.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.train()
            norm.reset_running_stats()
        with torch.no_grad():
            for (images, _), seen in zip(batches(0), (16, 32, 39), strict=True):
                for norm in norms:
                    norm.momentum = len(images) / seen
                subnet(images)
        expected = net.extract(arch, stats=stats)
        others = [m for m in expected.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == len(others) == len(stats.tensors)
        for norm, other in zip(norms, others, strict=True):
            assert torch.equal(norm.running_mean, other.running_mean)
            assert torch.equal(norm.running_var, other.running_var)


def test_equal_batches_average_bit_for_bit_as_torch_with_cumulative_momentum(net):
    equal = batches(0, (8,) * 7)
    stats = calibrate(net, ARCHS[0], equal)
    subnet = net.extract(ARCHS[0]).eval()
    first = next(m for m in subnet.modules() if isinstance(m, nn.BatchNorm2d))
    first.train()
    first.momentum = None
    with torch.no_grad():
        for images, _ in equal:
            subnet(images)
    mean, variance = stats.of("body.chain.0.1")
    assert torch.equal(first.running_mean, mean) and torch.equal(first.running_var, variance)


def test_one_more_image_moves_the_statistics_by_its_share(net):
    """As 257 images in batches of 256 have: the last one weighs one part in 257."""
    [(most, _)] = batches(3, (256,))
    odd = torch.full((1, 1, 8, 8), 50.0)
    [conv] = [m for n, m in net.named_modules() if n == "model.body.chain.0.0"]
    with torch.no_grad():
        values = F.conv2d(torch.cat([most, odd]).double(), conv.weight.double(), padding=1)
    mean, _ = calibrate(net, ARCHS[0], [most, odd]).of("body.chain.0.1")
    torch.testing.assert_close(mean.double(), values.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_scores_depend_neither_on_order_nor_on_earlier_calls(net):
    def scored(arch):
        return score(net, arch, calibration=batches(0), validation=batches(1))

    forward = {arch: scored(arch) for arch in ARCHS}
    net(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(7)), ARCHS[2])
    calibrate(net, ARCHS[0], batches(5))
    backward = {arch: scored(arch) for arch in reversed(ARCHS)}
    assert forward == backward
    assert len({s.loss for s in forward.values()}) == len(ARCHS)


def test_a_score_by_hand_and_by_the_extracted_subnet(net, device):
    net.to(device)
    known, new = ([(x.to(device), y.to(device)) for x, y in batches(seed)] for seed in (0, 1))
    for arch in ARCHS:
        ours = score(net, arch, calibration=known, validation=new)
        subnet = net.extract(arch, stats=calibrate(net, arch, known)).eval()
        with torch.no_grad():
            logits = torch.cat([subnet(images) for images, _ in new]).double().cpu().numpy()
        labels = np.concatenate([y.numpy() for _, y in batches(1)])
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        assert ours.images == 39
        assert ours.value == (logits.argmax(1) == labels).sum() / 39
        assert ours.loss == pytest.approx(-log_p[np.arange(39), labels].mean(), rel=1e-6)
        if device.type == "cpu":
            assert score_module(subnet, new) == ours


def test_score_leaves_the_module_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 10))
    module.train()
    before = whole_state(module)
    assert score_module(module, batches(0)) == score_module(module, batches(0))
    assert_untouched(before, whole_state(module))


def test_calibration_matters(net):
    one = score(net, ARCHS[0], calibration=batches(0), validation=batches(1))
    scaled = [(3 * x + 1, y) for x, y in batches(0)]
    assert score(net, ARCHS[0], calibration=scaled, validation=batches(1)) != one


def test_images_alone_calibrate_too(net):
    pairs = calibrate(net, ARCHS[0], batches(0)).tensors
    alone = calibrate(net, ARCHS[0], [images for images, _ in batches(0)]).tensors
    assert all(torch.equal(a, b) for p in pairs for a, b in zip(pairs[p], alone[p], strict=True))


def test_no_batches_is_an_error(net):
    with pytest.raises(ValueError, match="calibrate got no batches; give at least one"):
        calibrate(net, ARCHS[0], [])
    with pytest.raises(ValueError, match="no images to score on"):
        score(net, ARCHS[0], calibration=batches(0), validation=[])
    with pytest.raises(ValueError, match="option 4 is not in 0..3"):
        calibrate(net, (4, 0, 0, 0), batches(0))


def test_evaluating_is_eval_mode_without_gradients(net):
    net.train()
    with evaluating(net):
        assert not any(m.training for m in net.modules())
        assert not torch.is_grad_enabled()
    assert all(m.training for m in net.modules())


def test_a_score_is_a_plain_value():
    assert Score(0.5, 1.0, 2) == Score(0.5, 1.0, 2)
    assert Score(0.5, 1.0, 2) != Score(0.5, 1.0, 4)


class Giving(nn.Module):
    """A searchable network that gives whatever `give` makes of its features (B, 4, 8, 8)."""

    def __init__(self, give):
        super().__init__()
        self.give, width = give, ms.choose((4, 6), "width")
        self.first, self.last = ms.nn.Conv2d(1, width, 1), ms.nn.Conv2d(width, 4, 1)

    def forward(self, images):
        return self.give(self.last(self.first(images)))


def pooled(x):
    return x.mean((2, 3))


def labels(*shape, to=4, dtype=torch.int64):
    return torch.arange(torch.Size(shape).numel()).view(shape).remainder(to).to(dtype)


NOT_CLASSES = {
    "dense": (lambda x: x, labels(6, 8, 8), "(6, 4, 8, 8)", "(6, 8, 8)"),
    "dense outputs, labels by image": (lambda x: x, labels(6), "(6, 4, 8, 8)", "(6,)"),
    "several labels": (pooled, labels(6, 4, to=2).float(), "(6, 4)", "(6, 4) and type torch.float"),
    "several whole labels": (pooled, labels(6, 4, to=2), "(6, 4)", "(6, 4) and type torch.int64"),
    # shapes that broadcast, with as many images as classes
    "square": (lambda x: pooled(x[:4]), labels(4, 4, to=2).float(), "(4, 4)", "(4, 4)"),
    "regression": (lambda x: pooled(x)[:, :1], torch.randn(6, 1), "(6, 1)", "(6, 1)"),
    "regression of vectors": (lambda x: pooled(x)[:, 0], torch.randn(6), "(6,)", "(6,)"),
    "labels in a column": (pooled, labels(6, 1), "(6, 4)", "(6, 1)"),
    "floats for classes": (pooled, labels(6).float(), "(6, 4)", "(6,) and type torch.float32"),
    "bools": (pooled, labels(6, to=2).bool(), "(6, 4)", "(6,) and type torch.bool"),
    "other integers": (pooled, labels(6, dtype=torch.int32), "(6, 4)", "type torch.int32"),
    "fewer labels": (pooled, labels(5), "(6, 4)", "(5,)"),
    "no tensor": (pooled, [0, 1, 2, 3, 0, 1], "(6, 4)", "a list of 6"),
    "predicted classes": (lambda x: pooled(x).argmax(1), labels(6), "(6,)", "(6,)"),
    "whole outputs": (lambda x: pooled(x).long(), labels(6), "(6, 4) and type torch.int64", "(6,)"),
    "a tuple": (lambda x: (pooled(x), x), labels(6), "a tuple of 2 (a tensor of shape", "(6,)"),
    "a dict": (lambda x: {"out": pooled(x), "aux": x}, labels(6), "a dict of 'out', 'aux'", "(6,)"),
    "nothing": (lambda x: None, labels(6), "a NoneType", "(6,)"),
}


def scorers(give):
    """Every way to an accuracy, as a function of (images, labels)."""
    net = ms.Supernet(Giving(give))
    archs = list(net.space.enumerate())

    def population(images, labels):
        return list(
            ms.evaluate.Population(net, archs, calibration=[images], validation=[(images, labels)])
        )

    return {
        "score": lambda x, y: score(net, (1,), calibration=[x], validation=[(x, y)]),
        "module": lambda x, y: score_module(net.extract((1,)), [(x, y)]),
        "population": population,
    }


@pytest.mark.parametrize("way", ["score", "module", "population"])
@pytest.mark.parametrize("name", NOT_CLASSES)
def test_what_is_no_classification_has_no_score(name, way):
    give, wrong, shown, also = NOT_CLASSES[name]
    with pytest.raises(ValueError) as error:
        scorers(give)[way](torch.ones(6, 1, 8, 8), wrong)
    first, _, second = str(error.value).partition(", the targets ")
    assert shown in first and also in second
    assert "are outputs (B, classes)" in second and "0..classes-1" in second


@pytest.mark.parametrize("way", ["score", "module", "population"])
@pytest.mark.parametrize(("wrong", "shown"), [(4, "0..4"), (-1, "-1..3"), (-100, "-100..3")])
def test_labels_outside_the_classes_are_errors(way, wrong, shown):
    classes = labels(6)
    assert scorers(pooled)[way](torch.ones(6, 1, 8, 8), classes)
    classes[4] = wrong
    pattern = (
        rf"targets are in {shown}, the network's outputs of shape \(6, 4\) have 4 classes, 0..3"
    )
    with pytest.raises(ValueError, match=pattern.replace("..", r"\.\.")):
        scorers(pooled)[way](torch.ones(6, 1, 8, 8), classes)


def test_bytes_are_class_indices_too():
    batch = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    scored = scorers(pooled)["score"]
    module = scorers(pooled)["module"]
    assert module(batch, labels(6, dtype=torch.uint8)).images == 6
    assert 0 <= scored(batch, labels(6, dtype=torch.uint8)).value <= 1


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_balanced_accuracy_is_the_mean_over_the_classes_that_there_are():
    """Scikit-learn's is the oracle; the class that is in no label counts for nothing."""
    from sklearn.metrics import balanced_accuracy_score

    from manyshot.evaluate.score import total
    from manyshot.tasks import DEFAULT

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator)
    labels = torch.multinomial(
        torch.tensor([0.8, 0.1, 0.07, 0.03, 0]), 200, True, generator=generator
    )
    scored = total(DEFAULT, zip(logits.split(64), labels.split(64), strict=True))
    expected = balanced_accuracy_score(labels.numpy(), logits.argmax(1).numpy())
    assert scored.metrics["balanced accuracy"] == pytest.approx(expected, abs=1e-12)
    assert scored.value == float((logits.argmax(1) == labels).double().mean())


class TestParts:
    """Random parts of the images, which are the same for all networks."""

    def test_they_make_up_the_whole(self, net):
        images = batches(1)
        whole = score_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), images, parts=4)
        assert [part.images for part in whole.parts] == [10, 10, 10, 9]
        assert sum(p.value * p.images for p in whole.parts) / 39 == pytest.approx(whole.value)
        assert sum(p.loss * p.images for p in whole.parts) / 39 == pytest.approx(whole.loss)
        assert whole.parts[0].metrics.keys() == {"accuracy"}

    def test_one_that_knows_the_answer_of_some_images_shows_which_part_they_are_in(self):
        marked = [(torch.zeros(8, 2), torch.zeros(8, dtype=torch.int64)) for _ in range(3)]
        for images, _ in marked:
            images[:, 1] = 1.0
        found = []
        for row in range(24):
            batch, at = divmod(row, 8)
            marked[batch][0][at] = torch.tensor([2.0, 1.0])
            parts = score_module(nn.Identity(), marked, parts=3).parts
            found.append([part.value > 0 for part in parts].index(True))
            assert sum(part.value > 0 for part in parts) == 1
            marked[batch][0][at] = torch.tensor([0.0, 1.0])
        assert sorted(found) == [0] * 8 + [1] * 8 + [2] * 8
        assert found[:8] != found[8:16] or found[8:16] != found[16:]  # drawn, not in turn

    def test_there_are_none_of_fewer_images_or_of_what_has_no_rows(self):
        few = [(torch.randn(1, 1, 8, 8), torch.tensor([3]))] * 2
        module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        assert [part.images for part in score_module(module, few, parts=20).parts] == [1, 1]

        class WithLoss(nn.Module):
            def forward(self, images):
                return {"logits": module(images), "loss": torch.tensor(1.0)}

        task = ms.tasks.Classification(output="logits")
        assert not score_module(WithLoss(), batches(1), task=task, parts=2).parts

    def test_they_are_those_of_a_supernet_too(self, net):
        half = score(net, ARCHS[0], calibration=batches(2), validation=batches(1), parts=2)
        subnet = net.extract(ARCHS[0], stats=calibrate(net, ARCHS[0], batches(2)))
        assert half.parts == score_module(subnet, batches(1), parts=2).parts
