"""Batch norm: whose statistics, by hand; and that evaluation changes nothing."""

import copy

import pytest
import torch
from nn_nets import Nasty, archs, calibrated, images, make, same_snapshot, snapshot
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import manyshot as ms
from manyshot.nn.batch_norm import Collector


def single():
    """One elastic batch norm, with a scale and a shift that matter."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = ms.nn.BatchNorm2d(ms.choose((2, 3), "width"), eps=1e-3)

        def forward(self, x):
            return self.norm(x)

    net = ms.Supernet(Net())
    with torch.no_grad():
        net.model.norm.weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
        net.model.norm.bias.copy_(torch.tensor([0.5, 0.25, -1.0]))
    return net.eval()


def by_hand(net, x, mean, variance):
    shape = (1, -1, 1, 1)
    scale, shift = net.model.norm.weight[: x.shape[1]], net.model.norm.bias[: x.shape[1]]
    normal = (x - mean.view(shape)) / (variance.view(shape) + 1e-3).sqrt()
    return normal * scale.view(shape) + shift.view(shape)


def test_eval_without_statistics_raises_and_names_the_call():
    net = make("nasty").eval()
    arch = net.space.smallest
    with pytest.raises(RuntimeError, match=r"'stem\.1' in eval.*ms\.evaluate\.calibrate\(net, ar"):
        net(images(2), arch)


def test_statistics_of_another_architecture_are_refused():
    net, x = make("nasty").eval(), images(4)
    a, b = net.space.smallest, net.space.largest
    stats = calibrated(net, a, x)
    with pytest.raises(ValueError, match=r"calibrated for architecture \(.*\), not \(.*calibrate"):
        net(x, b, stats=stats)


def test_statistics_in_train_mode_are_refused():
    net, x = make("nasty").eval(), images(4)
    arch = net.space.smallest
    stats = calibrated(net, arch, x)
    net.train()
    for given in (stats, "batch", Collector()):
        with pytest.raises(ValueError, match=r"net\.eval\(\)"):
            net(x, arch, stats=given)


def test_an_unknown_word_is_refused():
    net = make("nasty").eval()
    with pytest.raises(ValueError, match="'batch', got 'running'"):
        net(images(2), net.space.smallest, stats="running")


def test_statistics_of_another_network_are_refused():
    net, other = make("nasty").eval(), single()
    stats = calibrated(other, (0,), torch.randn(3, 2, 4, 4))
    stats.arch = net.space.smallest
    with pytest.raises(LookupError, match=r"none for batch norm 'stem\.1'.*calibrate"):
        net(images(2), net.space.smallest, stats=stats)


@pytest.mark.parametrize("option", [0, 1])
def test_batch_statistics_by_hand(option):
    net, x = single(), torch.randn(5, 2 + option, 4, 4)
    got = net(x, (option,), stats="batch")
    weight, bias = net.model.norm.weight[: 2 + option], net.model.norm.bias[: 2 + option]
    assert torch.equal(got, F.batch_norm(x, None, None, weight, bias, True, 0.0, 1e-3))
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    # Another order of operations than torch's fused kernel: float32 rounding.
    torch.testing.assert_close(got, by_hand(net, x, mean, variance), rtol=1e-5, atol=1e-5)


def test_collected_averages_weigh_batches_by_their_images():
    net = single()
    sizes = (2, 3, 7)
    batches = [torch.randn(n, 2, 4, 4, dtype=torch.float64) * n + n for n in sizes]
    net.to(torch.float64)
    stats = calibrated(net, (0,), *batches)
    mean, variance = stats.of("norm")
    pooled = torch.cat(batches)
    of_batches = torch.stack([b.var((0, 2, 3), unbiased=True) for b in batches])
    variances = torch.tensor(sizes, dtype=torch.float64) @ of_batches / 12
    # float64: only the order of a few additions differs.
    torch.testing.assert_close(mean, pooled.mean((0, 2, 3)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(variance, variances, rtol=1e-12, atol=1e-12)
    assert (variance - pooled.var((0, 2, 3))).abs().min() > 1  # means of batches differ
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    got = net(x, (0,), stats=stats)
    torch.testing.assert_close(got, by_hand(net, x, mean, variances), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [ms.nn.BatchNorm1d, ms.nn.BatchNorm2d])
def test_a_batch_of_one_value_per_feature_is_named(kind):
    net = ms.Supernet(nn.Sequential(kind(ms.choose((2, 3), "width")))).eval()
    shape = (1, 2) if kind is ms.nn.BatchNorm1d else (1, 2, 1, 1)
    with pytest.raises(ValueError, match=r"batch norm '0' gets one value.*ms\.data\.fixed"):
        calibrated(net, (0,), torch.randn(shape))


def test_collected_averages_equal_torch_with_cumulative_momentum():
    net, x = single(), [torch.randn(4, 3, 5, 5) for _ in range(3)]
    plain = nn.BatchNorm2d(3, eps=1e-3, momentum=None)
    for batch in x:
        plain(batch)
    mean, variance = calibrated(net, (1,), *x).of("norm")
    torch.testing.assert_close(mean, plain.running_mean)
    torch.testing.assert_close(variance, plain.running_var)


def test_collecting_starts_from_nothing():
    net, x = single(), torch.randn(4, 2, 5, 5)
    first, again = calibrated(net, (0,), x), calibrated(net, (0,), x)
    assert torch.equal(first.of("norm")[1], again.of("norm")[1])


def test_while_collecting_the_batch_normalises():
    net, x = make("nasty").eval(), images(4)
    arch = net.space.largest
    assert torch.equal(net(x, arch, stats=Collector()), net(x, arch, stats="batch"))
    net.train()
    assert torch.equal(net(x, arch), net.eval()(x, arch, stats="batch"))


def test_evaluation_leaves_everything_bit_identical():
    net, x = make("nasty").eval(), images(4)
    net.model.shared.train()  # an odd mode, which must survive
    before, state = snapshot(net), torch.get_rng_state()
    for arch in archs(net, 3):
        stats = calibrated(net, arch, x, x * 2)
        with torch.no_grad():
            net(x, arch, stats=stats)
            net(x, arch, stats="batch")
            net.extract(arch, stats=stats)
    assert same_snapshot(before, snapshot(net))
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None for p in net.parameters())


def test_evaluation_does_not_change_statistics():
    net, x = make("nasty").eval(), images(4)
    arch = net.space.largest
    stats = calibrated(net, arch, x)
    kept = copy.deepcopy(stats.tensors)
    net(x * 3, arch, stats=stats)
    for path, (mean, variance) in stats.tensors.items():
        assert torch.equal(mean, kept[path][0]) and torch.equal(variance, kept[path][1])


def test_a_collector_can_go_on_without_changing_what_it_gave():
    net, x = single(), torch.randn(4, 2, 5, 5)
    collector = Collector()
    net(x, (0,), stats=collector)
    stats = collector.stats((0,))
    kept = copy.deepcopy(stats.of("norm"))
    net(x * 5, (0,), stats=collector)
    assert torch.equal(stats.of("norm")[0], kept[0])


def test_a_supernet_has_no_running_statistics():
    net = make("nasty").train()
    net(images(4))
    assert not [name for name in net.state_dict() if "running" in name or "num_batches" in name]


def test_train_mode_of_one_path_does_not_change_the_eval_logits_of_another():
    net, x = make("tiny").eval(), images(8)
    a, b = net.space.smallest, net.space.largest
    stats = calibrated(net, a, x)
    expected = net(x, a, stats=stats)
    net.train()
    net(x * 100, b)
    assert torch.equal(net.eval()(x, a, stats=stats), expected)


def test_only_layers_on_the_path_are_collected():
    net, x = make("nasty").eval(), images(4)
    stats = calibrated(net, net.space.smallest, x)
    assert set(stats.tensors) == {"stem.1", "shared.norm", "post"}


def test_plain_batch_norms_are_adopted_wherever_they_are_held():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ms.nn.Linear(4, ms.choose((2, 3), "hidden"))
            self.norm = self.alias = nn.BatchNorm2d(3)
            self.frozen = nn.BatchNorm2d(3).eval()
            self.listed = [self.norm, self.frozen]

        def forward(self, x):
            for norm in self.listed:
                x = norm(x)
            return self.alias(x)

    model = Net()
    weight, calls = model.norm.weight, []
    model.norm.register_forward_hook(lambda *_: calls.append(1))
    net = ms.Supernet(model).eval()
    assert type(model.norm) is ms.nn.BatchNorm2d and model.alias is model.norm
    assert model.listed == [model.norm, model.frozen]
    assert model.norm.weight is weight and not list(model.buffers())
    x = torch.randn(4, 3, 2, 2)
    stats = calibrated(net, (0,), x)
    assert set(stats.tensors) == {"norm", "frozen"} and len(calls) == 2
    assert torch.equal(net(x, (0,), stats=stats), net.extract((0,), stats=stats)(x))


def test_modes_survive_adoption():
    model = Nasty()
    model.post.eval()
    ms.Supernet(model)
    assert model.training and not model.post.training


def test_a_batch_norm_with_scale_but_no_shift():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = ms.nn.Linear(2, ms.choose((3, 4), "width"))
            self.norm = nn.BatchNorm1d(2)
            self.norm.bias = None

        def forward(self, x):
            return self.fc(self.norm(x))

    net, x = ms.Supernet(Net()).eval(), torch.randn(6, 2)
    stats = calibrated(net, (0,), x)
    subnet = net.extract((0,), stats=stats)
    assert subnet.norm.bias is None
    assert torch.equal(net(x, (0,), stats=stats), subnet(x))


class Own(nn.BatchNorm2d):
    pass


class Two(nn.BatchNorm2d):
    """A scale of two dimensions, which a parametrisation can take."""

    def __init__(self, features):
        super().__init__(features)
        self.weight = nn.Parameter(torch.ones(features, 1))


@pytest.mark.parametrize(
    ("norm", "name"),
    [
        (lambda: parametrizations.spectral_norm(Two(4)), "ParametrizedTwo"),
        (lambda: nn.InstanceNorm2d(4, track_running_stats=True), "InstanceNorm2d"),
        (lambda: nn.LazyBatchNorm2d(), "LazyBatchNorm2d"),
    ],
)
def test_other_norms_with_running_statistics_are_refused(norm, name):
    fine = nn.BatchNorm2d(4)
    model = nn.Sequential(ms.nn.Conv2d(3, 4, ms.choose((1, 3), "k")), fine, norm())
    with pytest.raises(TypeError, match=f"2: {name} keeps running statistics.*BatchNorm1d/2d/3d"):
        ms.Supernet(model)
    assert type(fine) is nn.BatchNorm2d, "a refusal leaves the module as it was"


@pytest.mark.parametrize(
    "norm",
    [
        lambda: nn.BatchNorm2d(4, track_running_stats=False),
        lambda: Own(4, track_running_stats=False),
        lambda: nn.InstanceNorm2d(4),
        lambda: nn.GroupNorm(2, 4),
    ],
)
def test_norms_without_running_statistics_stay_as_they_are(norm):
    plain = norm()
    kernel = ms.choose((1, 3), "k")
    net = ms.Supernet(nn.Sequential(ms.nn.Conv2d(3, 4, kernel, padding=kernel // 2), plain)).eval()
    x = images(3)
    subnet = net.extract((1,))
    assert type(net.model[1]) is type(subnet[1]) is type(plain)
    assert torch.equal(net(x, (1,)), subnet(x))
    expected = F.conv2d(x, net.model[0].weight, net.model[0].bias, padding=1)
    assert torch.equal(net(x, (1,)), plain(expected))
