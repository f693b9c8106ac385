"""What slices start from, and how they mix where a parameter is no weight by itself: weight
normalisation, embeddings with padding, complex numbers, weights that a hook computes."""

import pytest
import torch
from sharing_nets import k_shot, vary_codes
from torch import nn
from torch.nn.utils import parametrize, prune
from torch.nn.utils.parametrizations import weight_norm

import manyshot as ms
from manyshot.nn.mixing import Combination, Kept
from manyshot.sharing import bake, widen

# float32 sums of a few dozen numbers near one, in another order.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


class Around(nn.Module):
    """A choice of the given module and another, and a head."""

    def __init__(self, *options):
        super().__init__()
        self.op = ms.nn.Choice([*options, nn.Identity()], "op")

    def forward(self, x):
        return self.op(x)


class Spread(nn.Module):
    """A weight-normed elastic layer and one of another axis, in a depth."""

    def __init__(self):
        super().__init__()
        width = ms.choose((4, 6), "width")
        self.one = weight_norm(ms.nn.Linear(6, width))
        self.two = weight_norm(ms.nn.Linear(width, 6), dim=1)

    def forward(self, x):
        return self.two(torch.relu(self.one(x)))


def weight_of(state, path, k, dim):
    """g v / |v| of slice k, with the norm over all axes but one, written out."""
    g, v = (state[f"model.{path}.parametrizations.weight.original{i}"][k] for i in (0, 1))
    return g * v / v.square().sum(1 - dim, keepdim=True).sqrt()


@pytest.mark.parametrize("scope", ["path", "layer"])
def test_weight_norm_mixes_the_weights_and_not_their_factors(scope):
    net, x = k_shot(Spread, 3, code_scope=scope), torch.randn(5, 6)
    vary_codes(net)
    state = net.state_dict()
    for arch, width in (((0,), 4), ((1,), 6)):
        [code] = net.sharing.code([arch]).detach()
        layers = {}
        for path, dim in (("one", 0), ("two", 1)):
            row = net.model.get_submodule(f"{path}.parametrizations.weight")._stacks["original0"]
            own = code if scope == "path" else code[row]
            weights = torch.stack([weight_of(state, path, k, dim) for k in range(3)])
            bias = torch.einsum("k,ko->o", own, state[f"model.{path}.bias"])
            layers[path] = torch.einsum("k,koi->oi", own, weights), bias
        (w1, b1), (w2, b2) = layers["one"], layers["two"]
        hidden = torch.relu(x @ w1[:width].T + b1[:width])
        expected = hidden @ w2[:, :width].T + b2
        torch.testing.assert_close(net(x, arch), expected, **CLOSE)
        assert torch.equal(net.extract(arch)(x), net(x, arch))
        one = ms.Supernet(Spread())
        one.load_state_dict(bake(net, arch))
        torch.testing.assert_close(one(x, arch), expected, **CLOSE)


def test_gradients_of_weight_norm_are_those_of_the_mixture():
    net, x = k_shot(Spread, 2, codes="uniform", compensate=False), torch.randn(5, 6)
    net.double()
    held = dict(net.named_parameters())
    names = [n for n in held if n.startswith("model.") and "one.param" in n]

    def mixed():
        return sum(weight_of(held, "one", k, 0) for k in range(2)) / 2

    def loss():
        return net(x.double(), (1,)).square().sum()

    given = torch.autograd.grad(loss(), [held[n] for n in names])
    weight = mixed().detach().requires_grad_()
    bias = held["model.one.bias"].mean(0)
    two = sum(weight_of(held, "two", k, 1) for k in range(2)) / 2
    hidden = torch.relu(x.double() @ weight.T + bias)
    (hidden @ two.T + held["model.two.bias"].mean(0)).square().sum().backward()
    expected = torch.autograd.grad(mixed(), [held[n] for n in names], weight.grad)
    for ours, theirs in zip(given, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_a_slice_alone_is_the_layer_that_holds_it_and_one_copy_is_one_shot():
    net, x = k_shot(Spread, 2), torch.randn(5, 6)
    plain = ms.Supernet(Spread())
    own = {n.removeprefix("model."): t for n, t in net.state_dict().items() if "sharing" not in n}
    plain.model.load_state_dict({n: t[1] for n, t in own.items()})
    kept = Kept((1,), Combination(torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(net(x, (1,), mixture=kept), plain(x, (1,)), **CLOSE)
    single = k_shot(Spread, 1)
    state = {n: t[0] for n, t in single.state_dict().items() if n.startswith("model.")}
    plain.load_state_dict(state)
    assert torch.equal(single(x, (0,)), plain(x, (0,)))


def test_weight_norm_widens():
    one, many, x = ms.Supernet(Spread()), k_shot(Spread, 4), torch.randn(5, 6)
    many.load_state_dict(widen(many, one.state_dict(), spread=0.3))
    v = many.state_dict()["model.one.parametrizations.weight.original1"]
    assert (v[0] - v[1]).abs().max() > 0.01
    for arch in ((0,), (1,)):
        torch.testing.assert_close(many(x, arch, phase="warmup"), one(x, arch), **CLOSE)


class Product(nn.Module):
    """A weight of rank one."""

    def forward(self, column, row):
        return column * row

    def right_inverse(self, weight):
        return weight[:, :1], weight[:1] / weight[:1, :1]


def test_other_weights_of_several_tensors_are_refused():
    layer = parametrize.register_parametrization(nn.Linear(4, 4), "weight", Product())
    message = r"op\.options\.0\.parametrizations\.weight\.original0 is one of several.*Product"
    with pytest.raises(ValueError, match=message):
        k_shot(lambda: Around(layer), 2)
    ms.Supernet(Around(layer))  # one copy mixes nothing


# -- what slices start from -------------------------------------------------------------------


class Eyes(nn.Module):
    """Starts from a multiple of the identity, which a rearrangement would destroy."""

    def __init__(self, scales):
        super().__init__()
        self.weight, self.scales = nn.Parameter(torch.empty(4, 4)), scales
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.copy_(torch.eye(4) * (self.scales + torch.rand(())))

    def forward(self, x):
        return x @ self.weight


def test_slices_are_what_the_module_itself_draws():
    net = k_shot(lambda: Around(Eyes(3.0)), 4)
    stack = net.state_dict()["model.op.options.0.weight"]
    assert torch.equal(stack != 0, torch.eye(4).bool().expand(4, 4, 4))
    scales = stack[:, 0, 0]
    assert len(set(scales.tolist())) == 4 and (scales >= 3).all() and (scales < 4).all()


def test_slices_are_functions_of_the_seed_and_leave_the_random_stream_alone():
    def stack(seed):
        net = k_shot(lambda: Around(nn.Linear(4, 4), nn.Linear(4, 4)), 3, seed=seed)
        return torch.stack([net.state_dict()[f"model.op.options.{i}.weight"] for i in (0, 1)])

    one, again, other = stack(1), stack(1), stack(2)
    assert torch.equal(one, again)
    assert torch.equal(one[:, 0], other[:, 0]) and not (one[:, 1:] == other[:, 1:]).any()
    slices = one.flatten(0, 1).flatten(1)  # of two equal modules too
    assert all(not (a == b).any() for i, a in enumerate(slices) for b in slices[:i])
    model = Around(nn.Linear(4, 4))
    after = torch.get_rng_state()
    ms.Supernet(model, sharing=ms.sharing.KShot(3))
    assert torch.equal(torch.get_rng_state(), after)


def test_parameters_without_reset_are_rearranged():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.arange(6.0))

        def forward(self, x):
            return x * self.scale

    stack = k_shot(lambda: Around(Bare()), 3).state_dict()["model.op.options.0.scale"]
    assert all(torch.equal(part.sort()[0], torch.arange(6.0)) for part in stack)
    assert not torch.equal(stack[0], stack[1])


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_padding_rows_stay_zero(kind):
    def make():
        return Around(nn.Sequential(kind(5, 3, padding_idx=2)))

    net, plain = k_shot(make, 3), ms.Supernet(make())
    name = "model.op.options.0.0.weight"
    for state in (net.state_dict(), widen(net, plain.state_dict(), spread=0.5)):
        stack = state[name]
        assert not stack[:, 2].any()
        assert (stack[:, [0, 1, 3, 4]] != 0).all() and not torch.equal(stack[0], stack[1])


# -- what is refused --------------------------------------------------------------------------


class Turning(nn.Module):
    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(4, dtype=torch.complex64))

    def forward(self, x):
        return (x * self.turn).real


def test_complex_parameters_are_named():
    with pytest.raises(ValueError, match=r"op\.options\.0\.turn is a complex parameter \(torch\.c"):
        k_shot(lambda: Around(Turning()), 2)
    ms.Supernet(Around(Turning()))  # one copy mixes nothing


@pytest.mark.parametrize("sharing", [None, "k_shot"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda layer: nn.utils.weight_norm(layer),
            r"op\.options\.0: weight of Linear has the old torch\.nn\.utils\.weight_norm.*"
            r"use torch\.nn\.utils\.parametrizations\.weight_norm",
        ),
        (
            lambda layer: nn.utils.spectral_norm(layer),
            r"op\.options\.0: weight of Linear .*use torch\.nn\.utils\.parametrizations\.spectral",
        ),
        (
            lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
            r"op\.options\.0: bias of Linear is pruned.*prune\.remove\(module, 'bias'\)",
        ),
        (
            lambda layer: prune.random_structured(
                prune.l1_unstructured(layer, "weight", 0.5), "weight", 0.25, dim=0
            ),
            r"op\.options\.0: weight of Linear is pruned.*prune\.remove\(module, 'weight'\)",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_weights_that_a_hook_computes_are_named_with_the_way_out(change, message, sharing):
    model = Around(change(nn.Linear(4, 4)))
    scheme = None if sharing is None else ms.sharing.KShot(2)
    with pytest.raises(TypeError, match=message):
        ms.Supernet(model, sharing=scheme)


def test_the_way_out_of_pruning_works():
    layer = prune.l1_unstructured(nn.Linear(4, 4), "weight", 0.5)
    prune.remove(layer, "weight")
    assert ms.Supernet(Around(layer))(torch.randn(2, 4)).shape == (2, 4)
