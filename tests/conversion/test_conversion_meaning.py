"""Forwards that run with other numbers of channels and mean something else, or keep state.

The oracles are the original network and the plain network that is extracted, in both modes.
"""

import collections
import dataclasses
import math
import types

import pytest
import torch
from test_conversion_adversarial import IMAGES, built, names, why
from test_conversion_networks import check_forms
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

from manyshot.conversion import ConversionError, convert
from manyshot.cost import macs_table, subnet_macs
from manyshot.nn.agreement import check_agreement
from manyshot.seeding import numpy_rng

VECTORS = torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Two convolutions and a classifier; what is between them is what others change."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 64, 3)
        self.h = nn.Linear(64, 5)

    def between(self, x):
        return x

    def forward(self, x):
        return self.h(self.b(self.between(self.a(x).relu())).mean((2, 3)))


def check_training(net, inputs):
    """In train mode every architecture is what is extracted, whatever ran before it."""
    rng = numpy_rng(3, "checks")
    net.train()
    for arch in (net.space.smallest, net.space.largest, net.space.sample(rng), net.space.smallest):
        plain = net.extract(arch).train()
        torch.manual_seed(1)
        got = net(inputs, arch)
        torch.manual_seed(1)
        torch.testing.assert_close(got, plain(inputs), rtol=1e-5, atol=1e-5)
    net.eval()


@dataclasses.dataclass
class Outputs:
    logits: torch.Tensor
    features: list


class OwnDict(collections.OrderedDict):
    """A mapping of a class of one's own, as the outputs of libraries are."""


@pytest.mark.parametrize("kind", ["dataclass", "mapping", "object"])
def test_what_is_returned_in_an_object_stays(kind):
    """All that a caller gets keeps its channels, however it is packed."""

    class Packing(Plain):
        def forward(self, x):
            features = self.b(self.a(x).relu()).mean((2, 3))
            logits = self.h(features)
            if kind == "dataclass":
                return Outputs(logits, [features])
            if kind == "mapping":
                return OwnDict(logits=logits, features=features)
            return types.SimpleNamespace(logits=logits)

    net = convert(built(Packing), IMAGES)
    assert set(names(net)) == ({"a.width"} if kind != "object" else {"a.width", "b.width"})
    with torch.no_grad():
        small = net.eval()(IMAGES, net.space.smallest)
    logits = small["logits"] if kind == "mapping" else small.logits
    assert logits.shape == (4, 5)


def test_truths_and_infinities_are_compared_too():
    class Hiding(Plain):
        def forward(self, x):
            logits = super().forward(x)
            return logits, logits > 0, logits.masked_fill(logits < 0, float("-inf"))

    model = built(Hiding)
    net = convert(model, IMAGES)
    assert net.conversion.difference < 1e-5
    check_agreement(net.eval(), IMAGES)
    with torch.no_grad():
        for one, other in zip(net(IMAGES), model(IMAGES), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("how", ["assigned", "in place", "by data"])
def test_buffers_that_a_forward_writes_stay(how):
    """A part of a buffer that is cut is a copy: what is written to it would be lost."""

    class Averaging(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(32))

        def between(self, x):
            x = x - self.mean.view(1, -1, 1, 1)
            if self.training:
                now = x.detach().mean((0, 2, 3))
                if how == "assigned":
                    self.mean = 0.9 * self.mean + 0.1 * now
                elif how == "in place":
                    self.mean.mul_(0.9).add_(now, alpha=0.1)
                else:
                    self.mean.data.copy_(now)
            return x

    net = convert(built(Averaging), IMAGES)
    assert set(names(net)) == {"b.width"}
    assert "writes to it" in why(net)["a"] or "from one call to the next" in why(net)["a"]
    check_training(net, IMAGES)
    before = net.model.mean.clone()
    net.train()(IMAGES, net.space.smallest)
    assert not torch.equal(net.model.mean, before)


def test_what_a_module_keeps_between_calls_stays_and_the_rest_varies():
    class Caching(Plain):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.rand(32))
            self.cache = {}

        def between(self, x):
            if "scale" not in self.cache:
                self.cache["scale"] = self.scale.sigmoid()[:, None, None]
            self.last = x  # which nothing reads: it hinders nobody
            return x * self.cache["scale"]

        def train(self, mode=True):
            self.cache = {}
            return super().train(mode)

    model = built(Caching)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"b.width"}
    assert why(net)["a"] == "Caching keeps a tensor of it from one call to the next"
    check_forms(net, model, IMAGES)


class Heads(nn.Module):
    """Heads by a view with a -1, which runs with any number of features."""

    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.inside, self.qkv, self.out = nn.Linear(32, 32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.inside(x)
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.qkv(x).chunk(3, -1)
        )
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        return self.head((x + self.out((weights @ v).transpose(1, 2).flatten(2))).mean(1))


def test_fewer_heads_have_all_their_features():
    model = built(Heads, 4)
    net = convert(model, VECTORS)
    assert names(net, "heads") == {"qkv.heads": (1, 2, 3, 4)}
    assert net.conversion.attributes == {"heads": ("qkv.heads",)}
    assert net.extract(net.space.smallest).heads == 1
    check_forms(net, model, VECTORS)
    check_agreement(net.eval(), VECTORS)


def test_heads_by_a_constant_stay():
    class Constant(Heads):
        heads = property(lambda self: 4, lambda self, value: None)

        def __init__(self, heads):
            super().__init__(heads)
            self.num_heads = heads

        def forward(self, x):
            self.num_heads = 4  # cannot follow anything
            return super().forward(x)

    model = built(Constant, 4)
    net = convert(model, VECTORS)
    assert not names(net, "heads")
    assert "counts them by a number of its own" in why(net)["qkv"]
    check_forms(net, model, VECTORS)


def test_groups_that_meet_in_one_layer_have_names_of_their_own():
    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.big = nn.Conv2d(3, 64, 3)
            self.a, self.b = nn.Conv2d(3, 32, 3), nn.Conv2d(3, 32, 3)
            self.h = nn.Linear(64, 5)

        def forward(self, x):
            x = self.big(x) + torch.cat([self.a(x), self.b(x)], 1)
            return self.h(x.relu().mean((2, 3)))

    class LoRA(nn.Linear):
        def __init__(self, into, out, rank):
            super().__init__(into, out)
            self.down = nn.Parameter(torch.randn(rank, into))
            self.up = nn.Parameter(torch.randn(out, rank))

        def forward(self, x):
            return super().forward(x) + x @ self.down.t() @ self.up.t()

    model = built(Meeting)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"a.width", "b.width"}
    check_forms(net, model, IMAGES)
    model = built(nn.Sequential, nn.Linear(32, 48), LoRA(48, 64, 16), nn.Linear(64, 5))
    net = convert(model, VECTORS)
    assert sorted(names(net).values()) == [(8, 16), (16, 24, 40, 48), (16, 32, 48, 64)]
    check_forms(net, model, VECTORS)


@pytest.mark.parametrize("what", ["numbers", "shapes"])
def test_numbers_that_a_forward_reads_of_its_layers(what):
    class Reading(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 32, 3), nn.Linear(32, 64), nn.Linear(64, 5)

        def forward(self, x):
            x = F.adaptive_avg_pool2d(self.a(x), 1)
            if what == "numbers":
                x = self.b(x.view(-1, self.a.out_channels)) / math.sqrt(self.b.in_features)
            else:
                x = self.b(x.view(-1, self.a.weight.shape[0])) / self.b.weight.shape[1] ** 0.5
            return self.h(x)

    model = built(Reading)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"a.width", "b.width"}
    check_forms(net, model, IMAGES)
    assert type(net.extract(net.space.smallest).a) is nn.Conv2d


MOVES = {
    "padded and cut": (lambda x: F.pad(x, (0, 0, 0, 0, 1, -1)), "takes a part of it, or pads it"),
    "strided": (
        lambda x: x.as_strided(x.shape, (x.stride(0), 1, x.shape[1] * 16, x.shape[1])),
        "reads it in an order of its own",
    ),
    "random": (lambda x: x + torch.randn_like(x), "draws random numbers for it"),
}


@pytest.mark.parametrize("name", MOVES)
def test_operations_that_depend_on_the_place_of_a_channel(name):
    move, reason = MOVES[name]

    class Moving(Plain):
        def between(self, x):
            return move(x.contiguous())

    net = convert(built(Moving), IMAGES)
    assert set(names(net)) == {"b.width"}
    assert reason in why(net)["a"]
    check_training(net, IMAGES)


class Alike(Plain):
    """Masks of channels, states of zeros, constants that are written in place."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout2d(0.3)

    def between(self, x):
        x = self.drop(x)
        x[:, :, :2] = 0
        state = torch.zeros(x.shape[0], x.shape[1], 1, 1, device=x.device)
        return x * (state + 2)


class Recurrent(nn.Module):
    """Cells of torch and by hand, whose states begin as zeros."""

    def __init__(self):
        super().__init__()
        self.hidden = 48
        self.cell, self.gates = nn.GRUCell(32, 24), nn.Linear(24 + 48, 96)
        self.new, self.h = nn.Linear(24 + 48, 48), nn.Linear(48, 5)

    def forward(self, x):
        inner, state = None, torch.zeros(x.shape[0], self.hidden, device=x.device)
        for step in x.unbind(1):
            inner = self.cell(step, inner)
            both = torch.cat([inner, state], -1)
            reset, keep = self.gates(both).sigmoid().chunk(2, -1)
            new = self.new(torch.cat([inner, reset * state], -1)).tanh()
            state = (1 - keep) * new + keep * state
        return self.h(state)


class Computed(Plain):
    """A weight that is computed of two parameters."""

    def __init__(self):
        super().__init__()
        self.w, self.g = nn.Parameter(torch.randn(32, 32)), nn.Parameter(torch.rand(32, 1))

    def between(self, x):
        return F.conv2d(x, (self.w * self.g)[:, :, None, None]).relu()


class Spread(nn.Module):
    """Gates over tokens by a convolution of one, unpooling, sampling, and an unflattened gate."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 32, 3, padding=1), nn.Conv2d(32, 32, 3, padding=1)
        self.gate = nn.Sequential(
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16), nn.ReLU()),
            *(nn.Linear(16, 32), nn.Sigmoid(), nn.Unflatten(1, (32, 1, 1))),
        )
        self.tokens, self.h = nn.Conv1d(64, 64, 1), nn.Linear(32, 5)

    def forward(self, x):
        x, places = F.max_pool2d(self.a(x), 2, return_indices=True)
        x = x * self.gate(x)
        tokens = x.flatten(2).transpose(1, 2)
        x = (tokens + self.tokens(tokens)).transpose(1, 2).unflatten(2, (8, 8))
        x = F.max_unpool2d(self.b(x), places, 2)
        grid = F.affine_grid(torch.eye(2, 3).expand(len(x), 2, 3), [len(x), 1, 8, 8], False)
        return self.h(F.grid_sample(x, grid.to(x), align_corners=False).mean((2, 3)))


class Reading(nn.Module):
    """Learnt queries that read tokens by torch's attention, a gated layer, and an RMS norm."""

    def __init__(self):
        super().__init__()
        self.queries, self.inside = nn.Parameter(torch.randn(1, 8, 48)), nn.Linear(32, 48)
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)
        self.norm, self.gates = nn.RMSNorm(48), nn.Linear(48, 128)
        self.out, self.h = nn.Linear(64, 48), nn.Linear(48, 5)

    def forward(self, x):
        x, queries = self.inside(x), self.queries.expand(len(x), -1, -1)
        x = queries + self.attention(queries, x, x, need_weights=False)[0]
        one, other = self.gates(self.norm(x)).chunk(2, -1)
        return self.h((x + self.out(F.silu(one) * other)).mean(1))


VARYING = {
    Reading: (VECTORS, 2),
    Alike: (IMAGES, 2),
    Recurrent: (VECTORS, 2),
    Computed: (IMAGES, 3),
    Spread: (IMAGES, 2),
}


@pytest.mark.parametrize("kind", VARYING)
def test_what_need_not_stay_varies(kind):
    inputs, count = VARYING[kind]
    model = built(kind)
    net = convert(model, inputs)
    assert len(names(net)) == count, str(net.conversion)
    assert len(names(net, "heads")) == (kind is Reading)
    check_forms(net, model, inputs)
    check_training(net, inputs)
    check_agreement(net.eval(), inputs)
    macs = macs_table(net)
    for arch in (net.space.smallest, net.space.largest):
        assert int(macs([arch])[0]) == subnet_macs(net.extract(arch), example_inputs=inputs)


def test_weights_that_a_parametrisation_computes_stay():
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.ReLU()),
        *(nn.Conv2d(48, 64, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5)),
    )

    class Doubled(nn.Module):
        def forward(self, weight):
            return weight * 2

    parametrize.register_parametrization(model[2], "weight", Doubled())
    net = convert(model.eval(), IMAGES)
    assert set(names(net)) == {"4.width"}
    assert "a parametrisation computes with it" in why(net).values()
    check_forms(net, model, IMAGES)
    parametrizations.spectral_norm(model[4])
    with pytest.raises(ConversionError, match="nothing in the network can vary"):
        convert(model, IMAGES)


def test_modules_that_cannot_be_converted_say_what_can():
    with pytest.warns(FutureWarning, match="deprecated"):
        normed = nn.Sequential(nn.utils.weight_norm(nn.Linear(32, 16)), nn.Linear(16, 5))
    with pytest.raises(TypeError, match=r"old torch\.nn\.utils\.weight_norm"):
        convert(normed, VECTORS)
    pruned = nn.Sequential(nn.Linear(32, 16), nn.Linear(16, 5))
    prune.l1_unstructured(pruned[0], "weight", 0.5)
    with pytest.raises(TypeError, match=r"prune\.remove\(module, 'weight'\)"):
        convert(pruned, VECTORS)
    with pytest.raises(ValueError, match=r"DataParallel: convert what it holds, model\.module"):
        convert(nn.DataParallel(built(Plain)), IMAGES)
    model = built(Plain)
    with pytest.warns(FutureWarning, match="deprecated"):
        model.a = torch.jit.script(model.a)
    with pytest.raises(ValueError, match=r"a is scripted by torch\.jit"):
        convert(model, IMAGES)
    with pytest.raises(TypeError, match=r"give Plain\(\.\.\.\)"):
        convert(Plain, IMAGES)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), torch.Size((2, 3, 16, 16)), [2, 3, 16, 16]])
def test_a_shape_is_no_input(shape):
    with pytest.raises(ValueError, match=r"give a tensor, such as torch\.zeros\(2, 3, 16, 16\)"):
        convert(built(Plain), shape)
    with pytest.raises(ValueError, match="example_inputs must hold a tensor, got ndarray"):
        convert(built(Plain), IMAGES.numpy())


def test_compiled_modules_are_what_they_were_compiled_from():
    model = built(Plain)
    expected = names(convert(model, IMAGES))
    inner = built(Plain)
    inner.b = torch.compile(inner.b)
    for compiled in (torch.compile(built(Plain)), inner):
        net = convert(compiled, IMAGES)
        assert names(net) == expected
        assert type(net.extract(net.space.smallest)) is Plain
        with torch.no_grad():
            torch.testing.assert_close(net.eval()(IMAGES), model(IMAGES), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_of_other_precision(dtype):
    net = convert(built(Plain).to(dtype), IMAGES.to(dtype))
    assert set(names(net)) == {"a.width", "b.width"}
    assert net.extract(net.space.smallest).a.weight.dtype == dtype


def test_a_batch_of_one_is_looked_at_in_train_mode():
    class Normed(Plain):
        def __init__(self):
            super().__init__()
            self.aux = nn.Sequential(nn.Linear(32, 48), nn.BatchNorm1d(48), nn.Linear(48, 5))

        def between(self, x):
            self.extra = self.aux(x.mean((2, 3))) if self.training else None
            return x

    net = convert(built(Normed), IMAGES[:1])
    assert not net.conversion.opaque
    assert set(names(net)) == {"a.width", "b.width", "aux.0.width"}
    assert why(net)["aux.2"].startswith("nothing takes it in but an attribute")
    net.train()(IMAGES, net.space.smallest)
    assert net.model.extra.shape == (4, 5)


def test_narrow_widths_have_smaller_divisors_unless_one_is_given():
    def narrow():
        layers = (nn.Linear(32, 8), nn.Linear(8, 6), nn.Linear(6, 12), nn.Linear(12, 5))
        return built(nn.Sequential, *layers)

    assert list(names(convert(narrow(), VECTORS)).values()) == [(4, 8), (4, 6), (8, 12)]
    assert list(names(convert(narrow(), VECTORS, divisor=8)).values()) == [(8, 12)]
    fixed = why(convert(narrow(), VECTORS, divisor=8))
    assert fixed["0"] == "8 channels have no other width that 8 divides"


def test_what_the_text_says_of_options_and_of_what_costs_cannot_see():
    class Branching(Plain):
        class Child(nn.Module):
            def forward(self, x):
                return x if x.sum().item() > 1e9 else -x

        def __init__(self):
            super().__init__()
            self.child = self.Child()

        def between(self, x):
            return self.child(x)

    net = convert(built(Branching), IMAGES, ratios=(0.5, 1.0))
    assert "32 or 64 of 64" in str(net.conversion)
    assert "child cannot run without values, so that the multiply-adds" in net.conversion.summary()
