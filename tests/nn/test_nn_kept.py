"""Subclasses of batch norms: ours normalises, the rest of their forward is theirs.

The oracle is a plain batch norm of torch with the rest written behind it.
"""

import copy
import io
import warnings

import pytest
import torch
from nn_nets import calibrated, same_snapshot, snapshot
from torch import distributed, nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.evaluate.running import RunningStatistics
from manyshot.nn.batch_norm import SyncBatchNorm
from manyshot.nn.kept import searchable


class NormAct(nn.BatchNorm2d):
    """Writes out what torch's forward does, and an activation behind a module that may drop."""

    def __init__(self, features, act=nn.ReLU, **options):
        super().__init__(features, **options)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x):
        if x.ndim != 4:
            raise ValueError(f"expected four dimensions, got {x.ndim}")
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        by_batch = self.training or (self.running_mean is None and self.running_var is None)
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            by_batch,
            factor,
            self.eps,
        )
        return self.act(self.drop(x))


class Gated(nn.BatchNorm2d):
    """Uses torch's forward, reads its own scale and number again, and has a parameter more."""

    def __init__(self, features, **options):
        super().__init__(features, **options)
        self.gate = nn.Parameter(torch.tensor([0.5, 2.0]))
        self.register_buffer("shift", torch.tensor(0.25))

    def forward(self, x, power=1):
        assert self.running_mean.shape == self.weight.shape == (self.num_features,)
        x = super().forward(x) * self.gate.prod() ** power + self.shift
        return x + self.weight.view(1, -1, 1, 1)


class Nothing(nn.BatchNorm2d):
    pass


class Sync(nn.SyncBatchNorm):
    def forward(self, x):
        return super().forward(x).tanh()


def after(norm, x):
    """What each of them does behind the normalisation, written out."""
    if isinstance(norm, NormAct):
        return norm.act(x)
    if isinstance(norm, Gated):
        return x * norm.gate.prod() + norm.shift + norm.weight[: x.shape[1]].view(1, -1, 1, 1)
    return x.tanh() if isinstance(norm, Sync) else x


class Net(nn.Module):
    def __init__(self, norm, elastic):
        super().__init__()
        self.width = ms.choose((4, 6, 8), "width") if elastic else 8
        if elastic:
            adopt(norm, self.width)
        kernel = ms.choose((1, 3), "kernel")
        self.conv = ms.nn.Conv2d(3, self.width, kernel, padding=kernel // 2)
        self.norm = norm
        self.head = ms.nn.Linear(self.width, 5)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


def adopt(norm, size):
    searchable(norm).adopt(norm, size)


NORMS = {
    "written out": lambda: NormAct(8),
    "written out, cumulative, parameters": lambda: NormAct(8, nn.PReLU, momentum=None, eps=1e-3),
    "written out, not affine": lambda: NormAct(8, nn.SiLU, affine=False),
    "torch's forward": lambda: Gated(8),
    "nothing more": lambda: Nothing(8),
    "synchronous": lambda: Sync(8),
}


def supernet(name, elastic, dtype=torch.float64, **options):
    net = ms.Supernet(Net(NORMS[name](), elastic), input_shape=(3, 6, 6), **options).to(dtype)
    for i, parameter in enumerate(net.model.parameters()):
        generator = torch.Generator().manual_seed(i)
        with torch.no_grad():
            parameter.copy_(0.3 + 0.5 * torch.randn(parameter.shape, generator=generator))
    return net


def images(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((5, 3, 6, 6), generator=generator, dtype=torch.float64).to(dtype)


def by_hand(net, arch, x, stats=None):
    """The whole network, with a batch norm of torch's functions alone."""
    norm = net.model.norm
    with net.selecting(arch):
        hidden = net.model.conv(x)
        width = hidden.shape[1]
        scale, shift = (None if t is None else t[:width] for t in (norm.weight, norm.bias))
        mean, variance = (None, None) if stats is None else stats.of("norm")
        hidden = F.batch_norm(hidden, mean, variance, scale, shift, stats is None, 0.0, norm.eps)
        return net.model.head(after(norm, hidden).mean((2, 3)))


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_a_kept_forward_is_the_norm_and_the_rest_by_hand(name, elastic):
    net, x = supernet(name, elastic), images()
    kind = type(NORMS[name]())
    assert isinstance(net.model.norm, kind) and type(net.model.norm).__name__ == kind.__name__
    assert not [name for name in net.state_dict() if "running" in name or "num_batches" in name]
    before = snapshot(net)
    for arch in net.space.enumerate():
        net.train()
        assert torch.equal(net(x, arch), by_hand(net, arch, x))
        net.eval()
        assert torch.equal(net(x, arch, stats="batch"), by_hand(net, arch, x))
        stats = calibrated(net, arch, x, 2 * x)
        assert torch.equal(net(x, arch, stats=stats), by_hand(net, arch, x, stats))
        with pytest.raises(RuntimeError, match="batch norm 'norm' in eval mode has no statistics"):
            net(x, arch)
    net.train()
    assert same_snapshot(before, snapshot(net))


@pytest.mark.parametrize("sharing", [None, "k_shot"])
@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_extraction_gives_the_users_class_with_plain_sizes_and_statistics(name, elastic, sharing):
    scheme = sharing and ms.sharing.KShot(3, last_std=1.0, mix_fixed_layers=True)
    net, x = supernet(name, elastic, torch.float32, sharing=scheme), images(torch.float32)
    kind = type(NORMS[name]())
    fresh = {key: tensor.dim() for key, tensor in NORMS[name]().state_dict().items()}
    archs = list(net.space.enumerate())
    params = ms.cost.params(net, archs)
    for arch, count in zip(archs, params, strict=True):
        width = net.space.choices(arch).get("width", 8)
        net.train()
        small = net.extract(arch)
        assert type(small.norm) is kind and small.norm.num_features == width
        assert {key: t.dim() for key, t in small.norm.state_dict().items()} == fresh
        assert count == sum(p.numel() for p in small.parameters())
        assert not [m for m in small.modules() if type(m).__module__.startswith("manyshot")]
        assert torch.equal(net(x, arch), small(x))
        assert small.norm.num_batches_tracked == 1
        net.eval()
        stats = calibrated(net, arch, x, x.flip(0) * 2)
        small = net.extract(arch, stats=stats)
        assert torch.equal(small.norm.running_mean, stats.of("norm")[0])
        assert torch.equal(net(x, arch, stats=stats), small(x))
        small.norm.running_mean += 1
        assert torch.equal(net(x, arch, stats=stats), net.extract(arch, stats=stats)(x))


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_gradients_are_those_by_hand(name, elastic):
    net, x = supernet(name, elastic).train(), images()
    for arch in net.space.enumerate():
        grads = []
        for run in (lambda: net(x, arch), lambda: by_hand(net, arch, x)):  # noqa: B023
            net.zero_grad()
            run().square().sum().backward()
            grads.append({key: p.grad for key, p in net.named_parameters()})
        for key, grad in grads[0].items():
            assert (grad is None) == (grads[1][key] is None), key
            if grad is not None:
                # float64 rounding of sums of a few hundred numbers
                torch.testing.assert_close(grad, grads[1][key], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", NORMS)
def test_k_shot_mixes_all_it_holds(name):
    scheme = ms.sharing.KShot(3, last_std=1.0)
    net, x = supernet(name, True, sharing=scheme).train(), images()
    plain = supernet(name, True).train()
    for arch in net.space.enumerate():
        plain.load_state_dict(ms.sharing.bake(net, arch))
        expected = by_hand(plain, arch, x)
        torch.testing.assert_close(net(x, arch), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("masks", ["full", "active"])
@pytest.mark.parametrize("name", NORMS)
def test_masks_give_what_slices_give(name, masks):
    net, x = supernet(name, True).train(), images()
    for arch in net.space.enumerate():
        pairs = zip(net.space.decisions, arch, strict=True)
        policy = {
            d: torch.eye(len(d.options), dtype=torch.float64)[o].requires_grad_() for d, o in pairs
        }
        masked = net(x, arch, policy=policy, masks=masks)
        torch.testing.assert_close(masked, net(x, arch), rtol=1e-10, atol=1e-10)
        masked.square().sum().backward()
        assert all(p.grad.abs().max() > 0 for p in policy.values())
        net.eval()
        stats = calibrated(net, arch, x, 2 * x)
        masked = net(x, arch, stats=stats, policy=policy, masks=masks)
        torch.testing.assert_close(masked, net(x, arch, stats=stats), rtol=1e-10, atol=1e-10)
        net.train()


def test_what_it_holds_is_part_of_the_network():
    """Modules inside it may have sizes: they are found, counted and extracted."""
    width = ms.choose((4, 6, 8), "width")
    norm = NormAct(8, lambda: ms.nn.PReLU(width))
    adopt(norm, width)
    kernel = ms.choose((1, 3), "kernel")
    conv = ms.nn.Conv2d(3, width, kernel, padding=kernel // 2)
    net, x = ms.Supernet(nn.Sequential(conv, norm), input_shape=(3, 6, 6)), images(torch.float32)
    for arch in net.space.enumerate():
        small = net.extract(arch)
        assert type(small[1].act) is nn.PReLU
        assert torch.equal(net(x, arch), small(x))
        [params], [macs] = ms.cost.params(net, [arch]), ms.cost.macs(net, [arch], (3, 6, 6))
        w, k = width.options[arch[0]], kernel.options[arch[1]]
        assert params == (3 * k * k + 1) * w + 3 * w and macs == 36 * 3 * w * k * k
    assert {d.name for d in net.space.decisions} == {"width", "kernel"}


def test_running_averages_are_those_of_its_input():
    net, x = supernet("torch's forward", True).train(), images()
    averages = RunningStatistics(net, momentum=0.5)
    with averages.watching():
        net(x, net.space.largest)
    hidden = F.conv2d(x, net.model.conv.weight, net.model.conv.bias, padding=1)
    mean, variance = averages.tensors["norm"]
    torch.testing.assert_close(mean, hidden.mean((0, 2, 3)))
    torch.testing.assert_close(variance, hidden.var((0, 2, 3)))


def test_it_takes_more_than_its_input():
    norm = Gated(3)
    kernel = ms.choose((1, 3), "kernel")

    class More(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = ms.nn.Conv2d(3, 3, kernel, padding=kernel // 2), norm

        def forward(self, x):
            return self.norm(self.conv(x), power=3)

    net, x = ms.Supernet(More()), images(torch.float32)
    with torch.no_grad():
        norm.gate.copy_(torch.tensor([2.0, 3.0]))
    with net.selecting((1,)):
        hidden = F.batch_norm(net.model.conv(x), None, None, training=True)
    torch.testing.assert_close(net(x, (1,)), hidden * 6**3 + 0.25 + 1)
    assert torch.equal(net(x, (1,)), net.extract((1,))(x))


@pytest.mark.parametrize("sharing", [None, "k_shot"])
@pytest.mark.parametrize("name", NORMS)
def test_copies_pickles_and_states(name, sharing):
    scheme = sharing and ms.sharing.KShot(2, last_std=1.0)
    net, x = supernet(name, True, sharing=scheme).train(), images()
    arch = net.space.smallest
    expected = net(x, arch)
    twin = copy.deepcopy(net)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    other = supernet(name, True, sharing=sharing and ms.sharing.KShot(2, last_std=1.0))
    other.load_state_dict(dict(net.state_dict()))  # without versions, as from safetensors
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    for copied in (twin, loaded, other):
        assert torch.equal(copied(x, arch), expected)


def test_hooks_and_holders_stay():
    norm, calls = NormAct(8), []
    norm.register_forward_hook(lambda *_: calls.append(1))
    weight = norm.weight
    net, x = ms.Supernet(Net(norm, False)).double(), images()
    assert net.model.norm is norm and norm.weight is weight
    net(x, (0,))
    assert len(calls) == 1
    assert net.extract((0,)).norm(torch.randn(3, 8, 2, 2).double()).shape == (3, 8, 2, 2)


@pytest.mark.parametrize("name", ["written out", "torch's forward"])
def test_options_that_hold_one_may_be_compiled(name):
    class Options(nn.Module):
        def __init__(self):
            super().__init__()
            self.op = ms.nn.Choice([NORMS[name](), nn.Identity()], "op")

        def forward(self, x):
            return self.op(x)

    net = ms.Supernet(Options()).train()
    x = torch.randn(3, 8, 4, 4)
    expected = net(x, (0,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net.compile_options(backend="eager")
        torch.testing.assert_close(net(x, (0,)), expected)


# -- what is refused ---------------------------------------------------------------------------


class Twice(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + super().forward(x)


class Never(nn.BatchNorm2d):
    def forward(self, x):
        return x


class Before(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x * 2)


class Frozen(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class Always(nn.BatchNorm2d):
    def forward(self, x):
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *tensors, training=True)


class Foreign(nn.BatchNorm2d):
    def forward(self, x):
        tensors = (self.running_mean, torch.ones(4), self.weight, self.bias)
        return F.batch_norm(x, *tensors, self.training)


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        tensors = (self.running_mean, self.running_var, self.weight * 2, self.bias)
        return F.batch_norm(x, *tensors, self.training)


class Unmeasured(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, None, None, self.weight, self.bias, True)


class ByHand(nn.BatchNorm2d):
    def forward(self, x):
        mean, root = self.running_mean.view(1, -1, 1, 1), self.running_var.sqrt()
        return (x - mean) / root.view(1, -1, 1, 1)


class Leaking(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + self.running_mean.mean()


@pytest.mark.parametrize(
    ("kind", "training", "what"),
    [
        (Twice, True, "calls torch.nn.functional.batch_norm more than once"),
        (Never, True, "does not call torch.nn.functional.batch_norm"),
        (Before, True, "normalises something else than its input"),
        (Frozen, True, "normalises in train mode with training=False"),
        (Always, False, "normalises in eval mode with training=True"),
        (Foreign, True, "normalises with another running_var than its own"),
        (Scaled, True, "normalises with another weight than its own"),
        (Unmeasured, True, "normalises with another running_mean than its own"),
        (ByHand, False, "gives its running statistics to view"),
        (Leaking, True, "gives its running statistics to mean"),
    ],
)
def test_forwards_that_cannot_be_kept_are_refused(kind, training, what):
    kernel = ms.choose((1, 3), "kernel")
    model = nn.Sequential(ms.nn.Conv2d(3, 4, kernel, padding=kernel // 2), kind(4))
    net = ms.Supernet(model).train(training)
    stats = None if training else "batch"
    message = rf"1: the forward of {kind.__name__} {what}.*Use torch\.nn\.BatchNorm1d/2d/3d and do"
    with pytest.raises(TypeError, match=message):
        net(images(torch.float32), (0,), stats=stats)
    plain = ms.nn.BatchNorm2d(4)
    assert plain(torch.randn(3, 4, 2, 2)).shape == (3, 4, 2, 2), "nothing is left behind"


class Zero(nn.BatchNorm2d):
    """Starts from other values than torch's."""

    def reset_parameters(self):
        super().reset_parameters()
        nn.init.constant_(self.weight, 0.5)

    def extra_repr(self):
        return f"half of {super().extra_repr()}"


def test_its_own_initial_values_are_those_of_every_slice():
    net = ms.Supernet(Net(Zero(8), True), sharing=ms.sharing.KShot(3))
    stored = net.model.norm._parameters
    assert torch.equal(stored["weight"], torch.full((3, 8), 0.5)) and not stored["bias"].any()
    assert "half of Decision(width: 4, 6, 8), eps=1e-05" in repr(net.model.norm)


class Named(nn.BatchNorm2d):
    def normalise(self, x):
        return x

    def forward(self, x):
        return self.normalise(super().forward(x))


def with_path():
    norm = Nothing(4)
    norm.path = "mine"
    return norm


@pytest.mark.parametrize(("norm", "name"), [(lambda: Named(4), "normalise"), (with_path, "path")])
def test_names_that_ours_would_hide_are_refused(norm, name):
    kernel = ms.choose((1, 3), "kernel")
    first, last = nn.BatchNorm2d(4), norm()
    model = nn.Sequential(ms.nn.Conv2d(3, 4, kernel, padding=kernel // 2), first, last)
    with pytest.raises(TypeError, match=rf"2: \w+, a batch norm .*has {name}, which a supernet"):
        ms.Supernet(model)
    assert type(first) is nn.BatchNorm2d, "a refusal leaves the module as it was"


def test_a_dry_run_names_it():
    kernel = ms.choose((1, 3), "kernel")
    model = nn.Sequential(ms.nn.Conv2d(3, 4, kernel, padding=kernel // 2), Never(4))
    with pytest.raises(ms.cost.DryRunError, match="the forward of Never does not call"):
        ms.Supernet(model, input_shape=(3, 6, 6))


@pytest.mark.parametrize("size", [ms.choose((2, 4), "w"), ms.choose((4, 9), "w")])
def test_an_elastic_number_of_features_must_fit(size):
    for norm in (nn.BatchNorm2d(8), NormAct(8)):
        with pytest.raises(ValueError, match=r"num_features .* at its largest, the layer has 8"):
            adopt(norm, size)
        assert norm.running_mean is not None, "a refusal leaves the module as it was"


# -- synchronous norms ---------------------------------------------------------------------------


@pytest.mark.parametrize("elastic", [False, True])
def test_a_synchronous_norm_is_a_batch_norm_in_one_process(elastic):
    sync = Net(nn.SyncBatchNorm(8, eps=1e-3), elastic)
    net, x = ms.Supernet(sync).double().train(), images()
    assert type(net.model.norm) is SyncBatchNorm
    nn.init.normal_(net.model.norm.weight, 1, 0.5)
    for arch in net.space.enumerate():
        net.train()
        assert torch.equal(net(x, arch), by_hand(net, arch, x))
        small = net.extract(arch)
        assert type(small.norm) is nn.SyncBatchNorm and small.norm.process_group is None
        assert torch.equal(small(x), net(x, arch))
        net.eval()
        stats = calibrated(net, arch, x, 2 * x)
        assert torch.equal(net.extract(arch, stats=stats)(x), net(x, arch, stats=stats))


def test_synchronous_norms_do_not_train_in_several_processes(monkeypatch):
    net, x = ms.Supernet(Net(nn.SyncBatchNorm(8), False)).double().train(), images()
    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 2)
    with pytest.raises(RuntimeError, match=r"'norm' trains in 2 processes.*Use torch\.nn\.BatchN"):
        net(x, (0,))
    net.eval()
    assert net(x, (0,), stats="batch").shape == (5, 5)
    monkeypatch.setattr(distributed, "get_world_size", lambda group=None: 1)
    assert net.train()(x, (0,)).shape == (5, 5)


# -- timm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("elastic", [False, True])
def test_norms_of_timm_are_kept(elastic):
    layers = pytest.importorskip("timm.layers")
    net, x = ms.Supernet(Net(layers.BatchNormAct2d(8), elastic)).double(), images()
    for arch in net.space.enumerate():
        net.train()
        small = net.extract(arch)
        assert type(small.norm) is layers.BatchNormAct2d
        assert torch.equal(net(x, arch), small(x))
        net.eval()
        stats = calibrated(net, arch, x, 2 * x)
        assert torch.equal(net(x, arch, stats=stats), net.extract(arch, stats=stats)(x))
