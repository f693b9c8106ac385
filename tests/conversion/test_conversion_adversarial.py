"""What a converter may stumble over: it decides, or says why not, and never guesses."""

import pytest
import torch
from conversion_nets import (
    Attending,
    AttributeView,
    Branching,
    ConstantView,
    Grouped,
    ListInputs,
    RawParameters,
    Shared,
    Shuffling,
    Tied,
    UNet,
)
from test_conversion_networks import check_forms, leaves, lively
from torch import nn

import manyshot as ms
from manyshot.conversion import ConversionError, convert
from manyshot.nn.agreement import check_agreement
from manyshot.nn.multihead import MultiheadAttention

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(0))


def built(kind, *args, **options):
    torch.manual_seed(0)
    return lively(kind(*args, **options))


def names(net, kind="width"):
    return {str(d.name): d.options for d in net.conversion.decisions if d.kind == kind}


def why(net):
    return {k.name: k.reason for k in net.conversion.fixed}


def test_a_module_that_is_called_twice_has_one_width():
    model = built(Shared)
    net = convert(model, IMAGES)
    assert names(net) == {"stem.width": (8, 16, 24, 32)}
    check_forms(net, model, IMAGES)


def test_tied_weights_stay_tied():
    model = built(Tied)
    net = convert(model, TOKENS)
    assert names(net) == {"embed.width": (8, 16, 24, 32), "up.width": (16, 32, 48, 64)}
    check_forms(net, model, TOKENS)
    plain = net.extract(net.space.smallest)
    assert plain.head.weight is plain.embed.weight
    assert plain.head.weight.shape == (11, 8)


def test_a_constant_in_a_forward_fixes_what_it_counts():
    model = built(ConstantView)
    net = convert(model, IMAGES)
    assert names(net) == {"hidden.width": (8, 16, 24, 32)}
    assert "another number does not run: module 'hidden' (Linear)" in why(net)["conv"]
    check_forms(net, model, IMAGES)


def test_an_attribute_in_a_forward_follows_what_it_counts():
    model = built(AttributeView)
    net = convert(model, IMAGES)
    assert names(net) == {"conv.width": (16, 32, 48, 64)}
    assert net.conversion.attributes == {"features": ("conv.width",)}
    check_forms(net, model, IMAGES)
    assert net.extract(net.space.smallest).features == 16
    assert type(net.extract(net.space.smallest)) is AttributeView


def test_a_child_that_cannot_be_traced_is_left_alone():
    model = built(Branching)
    net = convert(model, IMAGES)
    assert names(net) == {"body.width": (16, 32, 48, 64)}
    assert list(net.conversion.opaque) == ["child"]
    assert "reads values of tensors" in net.conversion.opaque["child"]
    with torch.no_grad():
        arch = net.space.smallest
        torch.testing.assert_close(net.eval()(IMAGES, arch), net.extract(arch).eval()(IMAGES))


def test_parameters_and_buffers_without_a_layer():
    model = built(RawParameters)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"stem.width", "network.width"}
    check_forms(net, model, IMAGES)
    check_agreement(net.eval(), IMAGES)
    plain = net.extract(net.space.smallest)
    assert (plain.scale.shape, plain.weight.shape) == ((8, 1, 1), (16, 8, 1, 1))
    assert (plain.shift.shape, plain.table.shape) == ((16,), (16,))
    assert isinstance(plain.scale, nn.Parameter)
    assert "table" in dict(plain.named_buffers())


def test_lists_of_tensors():
    model = built(ListInputs)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"first.width", "second.width", "neck.convs.0.width"}
    check_forms(net, model, IMAGES)


def test_skips_that_are_concatenated():
    model = built(UNet)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"down1.width", "down2.width", "up.width", "fuse.width"}
    check_forms(net, model, IMAGES)
    check_agreement(net.eval(), IMAGES)


def test_halves_of_channels_are_equal_or_stay():
    model = built(Shuffling)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"body.width"}
    assert any("splits its channels" in reason for reason in why(net).values())
    check_forms(net, model, IMAGES)


def test_groups_of_channels():
    model = built(Grouped)
    net = convert(model, IMAGES)
    assert names(net)["stem.width"] == (2, 4, 6, 8)  # groups of 8 and of 16 channels
    check_forms(net, model, IMAGES)
    plain = net.extract(net.space.smallest)
    assert (plain.groups.groups, plain.groups.in_channels) == (2, 16)
    assert (plain.norm.num_groups, plain.norm.num_channels) == (4, 32)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_encoders_of_torch(batch_first, norm_first):
    model = built(Attending, batch_first, norm_first)
    padding = torch.zeros(4, 6, dtype=torch.bool)
    padding[1, 4:] = True
    inputs = {"tokens": TOKENS, "padding": padding}
    net = convert(model, inputs)
    heads = names(net, "heads")
    assert list(heads.values()) == [(1, 2, 3, 4)] * 3
    assert names(net, "depth") == {"encoder.layers.depth": (1, 2, 3)}
    assert len(names(net)) == 3  # the inner widths; the embedding is returned
    check_forms(net, model, inputs)
    whole = net.extract(net.space.largest)
    assert type(whole.encoder.layers[0].self_attn) is nn.MultiheadAttention
    few = net.extract(net.space.smallest)
    assert type(few.encoder.layers[0].self_attn) is MultiheadAttention
    assert isinstance(few.encoder.layers[1], nn.Identity)


def test_heads_are_masked_as_they_are_cut():
    model = built(Attending)
    net = convert(model, {"tokens": TOKENS}, depth=False).eval()
    check_agreement(net, {"tokens": TOKENS})


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
def test_attention_is_that_of_torch(need_weights, average):
    """All arguments, against torch's own."""
    torch.manual_seed(0)
    for batch_first in (True, False):
        theirs = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
        ours = nn.MultiheadAttention(16, 4, batch_first=batch_first).eval()
        ours.load_state_dict(theirs.state_dict())
        MultiheadAttention.adopt(ours)
        q, k, v = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
        if not batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        padding = torch.zeros(2, 7, dtype=torch.bool)
        padding[0, 5:] = True
        masks = [None, torch.rand(5, 7) > 0.8, torch.randn(5, 7), torch.randn(8, 5, 7)]
        for mask in masks:
            for hidden in (None, padding):
                if mask is not None and hidden is not None and mask.dtype != torch.bool:
                    continue  # torch warns of masks of two types
                options = {"need_weights": need_weights, "average_attn_weights": average}
                options |= {"attn_mask": mask, "key_padding_mask": hidden}
                for one, other in leaves(ours(q, k, v, **options), theirs(q, k, v, **options)):
                    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
        one = torch.randn(6, 16)
        for got, expected in leaves(ours(one, one, one), theirs(one, one, one)):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_heads_under_another_name():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts, self.features = 4, 8
            self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)

        def forward(self, x):
            batch, tokens, _ = x.shape
            q, k, v = (
                part.reshape(batch, tokens, self.parts, self.features).transpose(1, 2)
                for part in self.qkv(x).chunk(3, -1)
            )
            weights = (q @ k.transpose(-2, -1)).softmax(-1)
            return x + self.out((weights @ v).transpose(1, 2).flatten(2))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inside, self.attention = nn.Linear(6, 32), Attention()
            self.head = nn.Linear(32, 3)

        def forward(self, x):
            return self.head(self.attention(self.inside(x)).mean(1))

    model, inputs = built(Model), torch.randn(2, 5, 6)
    assert not names(convert(model, inputs), "heads")
    ms.conversion.register(Attention, heads="parts")
    net = convert(model, inputs)
    assert names(net, "heads") == {"attention.qkv.heads": (1, 2, 3, 4)}
    assert net.conversion.attributes == {"attention.parts": ("attention.qkv.heads",)}
    check_forms(net, model, inputs)
    assert not names(convert(model, inputs, heads=False), "heads")
    with pytest.raises(TypeError, match="must be a class of nn.Module"):
        ms.conversion.register(int, heads="parts")
    with pytest.raises(TypeError, match="must be names of attributes"):
        ms.conversion.register(Attention, heads=())


def test_what_is_to_be_kept_is():
    model = built(UNet)
    net = convert(model, IMAGES, keep=("down*",))
    assert set(names(net)) == {"up.width", "fuse.width"}
    assert why(net)["down1"] == "keep has 'down*'"
    check_forms(net, model, IMAGES)


def test_arguments_that_are_not_allowed():
    model = built(UNet)
    for ratios in ((), (0.0, 1.0), (1.5,)):
        with pytest.raises(ValueError, match="ratios must be numbers above 0 and at most 1"):
            convert(model, IMAGES, ratios=ratios)
    with pytest.raises(ValueError, match="divisor must be a whole number"):
        convert(model, IMAGES, divisor=0)
    with pytest.raises(ValueError, match="no module has such a path"):
        convert(model, IMAGES, keep=("encoder",))
    with pytest.raises(ValueError, match="keep must be a sequence of patterns"):
        convert(model, IMAGES, keep="up")
    with pytest.raises(ConversionError, match="is a layer of ms.nn already"):
        convert(ms.zoo.tiny(), IMAGES)
    with pytest.raises(ConversionError, match="nothing in the network can vary: 0"):
        convert(nn.Sequential(nn.Linear(4, 3)), torch.randn(2, 4))
    with pytest.raises(ConversionError, match="does not run on example_inputs"):
        convert(model, torch.randn(2, 5, 16, 16))


def test_the_text_of_a_conversion_has_all_of_it():
    net = convert(built(Shuffling), IMAGES)
    text = str(net.conversion)
    for words in ("body.width", "splits its channels", "it is what the network returns"):
        assert words in text
    assert text.endswith(net.conversion.summary())
    assert "1 decisions" not in text


class Auxiliary(nn.Module):
    """A second head that only training has."""

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 64, 3)
        self.norm = nn.BatchNorm2d(64)
        self.aux, self.head = nn.Linear(32, 5), nn.Linear(64, 5)

    def forward(self, x):
        x = self.stem(x)
        aux = self.aux(x.mean((2, 3))) if self.training else None
        x = self.head(self.norm(self.body(x.relu())).mean((2, 3)))
        return (x, aux) if self.training else x


def test_a_head_that_only_training_has():
    model = built(Auxiliary)
    net = convert(model, IMAGES)
    assert set(names(net)) == {"stem.width", "body.width"}
    check_forms(net, model, IMAGES)
    logits, aux = net.train()(IMAGES, net.space.smallest)
    assert logits.shape == aux.shape == (4, 5)
    (logits.sum() + aux.sum()).backward()
    assert net.model.aux.weight.grad[:, :8].abs().sum() > 0
    assert net.model.aux.weight.grad[:, 8:].abs().sum() == 0
