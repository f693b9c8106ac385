"""A new classifier: found where it is, drawn as it says, and nothing else touched."""

import copy
import functools
import itertools
import re

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

import manyshot as ms
from manyshot.sharing import KShot
from manyshot.train import CheckpointError, load_weights, save_weights
from manyshot.train.checkpoint import digest
from manyshot.transfer import classifier, head_parameters, new_head
from manyshot.zoo import NETWORKS
from small_zoo import CLASSES, SHAPE, small, supernet

OLD, NEW, COPIES = CLASSES, 7, 3


@functools.cache
def made(name, mix=None):
    """Without `mix` one copy, else K with the fixed layers stacked or not."""
    if mix is None:
        return supernet(name)
    sharing = KShot(COPIES, mix_fixed_layers=mix)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ms.Supernet(small(name, classes=OLD), sharing=sharing, input_shape=SHAPE)


def images(batch=4):
    return torch.randn((batch, *SHAPE), generator=torch.Generator().manual_seed(0))


def held(net):
    """All parameters and buffers, themselves, by path."""
    return {**dict(net.named_parameters()), **dict(net.named_buffers())}


def body(net, path):
    """`held` without the classifier's."""
    head = (f"model.{path}.weight", f"model.{path}.bias")
    return {name: tensor for name, tensor in held(net).items() if name not in head}


def settings(net, path):
    """All that can be seen of modules, but for what a new classifier changes."""
    return {
        name: (type(m), m.training, m.extra_repr(), len(m._forward_hooks))
        for name, m in net.named_modules()
        if name != f"model.{path}"
    }


def one_layer(*after, head=None, **kwargs):
    """(4,) through a choice, a head (by default 3 classes), and what comes after it."""
    head = nn.Linear(8, 3) if head is None else head
    op = ms.nn.Choice({"plain": nn.Linear(4, 8), "other": nn.Linear(4, 8, bias=False)}, "op")
    return ms.Supernet(nn.Sequential(op, head, *after), **{"input_shape": (4,), **kwargs})


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


SLOW = {"attentivenas", "mbv2_se", "tiny_cnn"}
"""These end as `bignas` does, of whose blocks they are."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in NETWORKS]
)
class TestEveryNetwork:
    @pytest.fixture
    def net(self, name):
        return copy.deepcopy(made(name))

    @pytest.fixture
    def expected(self, net):
        """Every network of the zoo ends with its classifier: the last module of the last stage."""
        stages = net.model.stages()
        return f"chain.{len(stages) - 1}.{len(stages[-1]) - 1}", stages[-1][-1]

    def test_classifier_is_the_last_layer(self, net, expected):
        before, state = settings(net, None), torch.get_rng_state()
        path, layer = classifier(net)
        assert (path, layer) == expected
        assert classifier(net, path) == expected
        assert head_parameters(net) == [p for p in (layer.weight, layer.bias) if p is not None]
        assert settings(net, None) == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_nothing_else_changes(self, net, expected):
        net.eval()  # most modules; some not, to see that each keeps its own mode
        net.model.stages()[0].train()
        path, layer = expected
        others, before = body(net, path), settings(net, path)
        bits, old = digest(others), head_parameters(net)
        state = torch.get_rng_state()
        assert new_head(net, NEW) == path
        assert torch.equal(torch.get_rng_state(), state)
        after, new = body(net, path), head_parameters(net)
        assert after.keys() == others.keys()
        assert all(after[name] is tensor for name, tensor in others.items())
        assert (digest(after), settings(net, path)) == (bits, before)
        assert classifier(net) == expected and layer.out_features == NEW
        assert [p.shape for p in new] == [(NEW, *p.shape[1:]) for p in old]
        assert not {id(p) for p in new} & {id(p) for p in old}

    def test_logits_are_of_the_new_classes_and_extract_agrees(self, net):
        new_head(net, NEW)
        check_logits(net)


def check_logits(net):
    net.eval()
    for arch in (net.space.smallest, net.space.sample(np.random.default_rng(0))):
        found = ms.evaluate.calibrate(net, arch, [images(8)])
        with torch.no_grad():
            logits = net(images(), arch, stats=found)
            assert logits.shape == (4, NEW)
            assert torch.equal(logits, net.extract(arch, stats=found).eval()(images()))


@pytest.mark.parametrize("name", ["tiny", "autoformer"])
def test_costs_recorded_anew_count_the_new_classifier(name):
    """Closed form: every further class has a weight per feature, and a bias."""
    net = copy.deepcopy(made(name))
    archs = [net.space.smallest, net.space.largest]
    params, macs = ms.cost.params_table(net)(archs), ms.cost.macs_table(net, SHAPE)(archs)
    new_head(net, NEW)
    features = np.array([net.extract(a).stages()[-1][-1].in_features for a in archs])
    more = NEW - OLD
    assert np.array_equal(ms.cost.params_table(net)(archs), params + more * (features + 1))
    assert np.array_equal(ms.cost.macs_table(net, SHAPE)(archs), macs + more * features)


class TestValues:
    def test_weights_are_normal_and_the_bias_is_zero(self):
        """5 standard errors: of the mean σ / √n, of the standard deviation σ / √(2n)."""
        net = one_layer()
        new_head(net, 20_000)
        weight, bias = (p.detach().double().numpy() for p in head_parameters(net))
        n = weight.size
        assert n == 160_000
        assert abs(weight.mean()) < 5 * 0.01 / n**0.5
        assert abs(weight.std() - 0.01) < 5 * 0.01 / (2 * n) ** 0.5
        assert scipy_stats.kstest(weight.ravel() / 0.01, "norm").pvalue > 1e-3
        assert bias.shape == (20_000,) and not bias.any()

    def test_a_function_of_the_seed(self):
        nets = one_layer(), one_layer(), one_layer()
        for net, seed in zip(nets, (3, 3, 4), strict=True):
            new_head(net, NEW, seed=seed)
        one, same, other = (head_parameters(net)[0] for net in nets)
        assert torch.equal(one, same)
        assert not torch.isclose(one, other).any()

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["float64", "bfloat16"])
    def test_type_is_kept_and_the_numbers_are_those_of_float32(self, dtype):
        single, other = one_layer(), one_layer().to(dtype)
        new_head(single, NEW)
        new_head(other, NEW)
        assert all(p.dtype == dtype for p in head_parameters(other))
        assert all(map(torch.equal, head_parameters(single.to(dtype)), head_parameters(other)))

    @pytest.mark.parametrize("mix", [None, True], ids=["one", "stacked"])
    def test_device_is_kept(self, mix):
        with torch.device("meta"):
            net = one_layer(sharing=mix and KShot(2, mix_fixed_layers=True))
        new_head(net, NEW)
        assert all(p.is_meta and p.shape[-2 + i] == NEW for i, p in enumerate(head_parameters(net)))

    def test_default_device_plays_no_part(self):
        net, other = one_layer(), one_layer()
        new_head(net, NEW)
        with torch.device("meta"):
            new_head(other, NEW)
        assert all(map(torch.equal, head_parameters(net), head_parameters(other)))

    def test_what_was_frozen_stays_so(self):
        net = one_layer()
        head_parameters(net)[0].requires_grad_(False)
        new_head(net, NEW)
        assert [p.requires_grad for p in head_parameters(net)] == [False, True]


@pytest.mark.parametrize(
    ("name", "mix"),
    [
        pytest.param("tiny", False, id="tiny-searched"),
        pytest.param("tiny", True, id="tiny-all"),
        pytest.param("shufflenet", True, id="shufflenet-all"),
        pytest.param("tiny_vit", False, id="tiny_vit-searched"),
        pytest.param("shufflenet", False, id="shufflenet-searched", marks=pytest.mark.slow),
        pytest.param("tiny_vit", True, id="tiny_vit-all", marks=pytest.mark.slow),
    ],
)
def test_slices_are_drawn_each_for_itself(name, mix):
    """The classifier of `tiny_vit` is elastic, so it is always stacked."""
    net, one = copy.deepcopy(made(name, mix)), copy.deepcopy(made(name))
    stacked = mix or name == "tiny_vit"
    path = new_head(one, NEW, seed=2)
    others, bits = body(net, path), digest(body(net, path))
    assert new_head(net, NEW, seed=2) == path
    assert all(body(net, path)[name] is tensor for name, tensor in others.items())
    assert digest(others) == bits
    for alone, many in zip(head_parameters(one), head_parameters(net), strict=True):
        assert many.shape == ((COPIES, *alone.shape) if stacked else alone.shape)
        assert torch.equal(many[0] if stacked else many, alone)  # the seed's first draws
    weight, *bias = (p.detach() for p in head_parameters(net))
    assert not any(b.any() for b in bias)
    if stacked:
        for left, right in itertools.combinations(weight, 2):
            assert not torch.isclose(left, right).any()
    # 5 standard errors of a standard deviation
    assert abs(float(weight.std()) - 0.01) < 5 * 0.01 / (2 * weight.numel()) ** 0.5
    check_logits(net)


@pytest.mark.parametrize("mix", [None, False, True], ids=["one", "searched", "all"])
@pytest.mark.parametrize("name", ["tiny", "tiny_vit"])
def test_only_the_head_moves_if_all_else_is_frozen(name, mix):
    net = copy.deepcopy(made(name, mix))
    path, head = new_head(net, NEW), head_parameters(net)
    for parameter in net.parameters():
        parameter.requires_grad_(any(parameter is own for own in head))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    bits, before = digest(body(net, path)), [p.detach().clone() for p in head]
    loss = F.cross_entropy(net(images(), net.space.largest), torch.arange(4), label_smoothing=0.1)
    loss.backward()
    optimizer.step()
    assert digest(body(net, path)) == bits
    assert all((p != old).any(-1).all() for p, old in zip(head, before, strict=True))


def test_elastic_inputs_are_the_first_columns():
    net = copy.deepcopy(made("tiny_vit"))
    new_head(net, NEW)
    (_, layer), (weight, bias) = classifier(net), head_parameters(net)
    with net.selecting(net.space.largest) as selection:  # all of it, without a copy
        assert layer.part("weight", selection) == (slice(None), slice(None))
    for option, width in enumerate((32, 48, 64)):
        arch = (option, *net.space.smallest[1:])
        linear = net.extract(arch).stages()[-1][-1]
        assert torch.equal(linear.weight, weight[:, :width])
        assert torch.equal(linear.bias, bias)


@pytest.mark.parametrize("mix", [None, False, True], ids=["one", "searched", "all"])
def test_copies_are_independent_before_and_after(mix):
    net = made("tiny", mix)
    bits = digest(held(net))
    other = copy.deepcopy(net)
    assert other.input_shape == SHAPE
    new_head(other, NEW)
    again = copy.deepcopy(other)
    assert torch.equal(again(images()), other(images()))
    new_head(again, NEW + 1)
    assert digest(held(net)) == bits
    assert [n(images()).shape[1] for n in (net, other, again)] == [OLD, NEW, NEW + 1]


@pytest.mark.parametrize("mix", [None, True], ids=["one", "stacked"])
def test_weights_of_the_old_classes_do_not_load(tmp_path, mix):
    net, file = copy.deepcopy(made("tiny", mix)), tmp_path / "w.safetensors"
    save_weights(file, net)
    path = new_head(net, NEW)
    bits, features = digest(held(net)), head_parameters(net)[0].shape[-1]
    lead = f"{COPIES}, " if mix else ""
    shapes = f"({lead}{OLD}, {features}) instead of ({lead}{NEW}, {features})"
    with pytest.raises(CheckpointError, match=re.escape(f"model.{path}.weight {shapes}")):
        load_weights(file, net)
    assert digest(held(net)) == bits
    save_weights(file, net)
    other = copy.deepcopy(made("tiny", mix))
    new_head(other, NEW, seed=1)
    load_weights(file, other)
    assert digest(held(other)) == bits


def test_a_loss_from_before_may_be_alive():
    """Its graph keeps what autograd knew of the old parameters, shapes included."""
    net = copy.deepcopy(made("tiny"))
    before = net(images()).sum()
    new_head(net, NEW)
    net(images()).sum().backward()
    before.backward()
    assert [p.grad.shape for p in head_parameters(net)] == [p.shape for p in head_parameters(net)]


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, "5", None], ids=repr)
def test_classes_are_whole_numbers_from_one(classes):
    net = one_layer()
    with pytest.raises(ValueError, match=r"new_head: classes must be an int of at least 1, got "):
        new_head(net, classes)
    assert head_parameters(net)[0].shape == (3, 8)


class TestFinding:
    def test_what_passes_the_logits_on_is_looked_through(self):
        net = one_layer(nn.Identity(), nn.Dropout(0.5))
        assert net.training and classifier(net)[0] == "1"
        assert all(module.training for module in net.modules())

    def test_the_model_itself(self):
        net = ms.Supernet(ms.nn.Linear(ms.choose((4,), "same"), 3), input_shape=(4,))
        assert new_head(net, NEW) == ""
        assert net(torch.ones(2, 4)).shape == (2, NEW)

    def test_what_changes_the_logits_needs_a_name(self):
        net = one_layer(nn.LogSoftmax(1))
        with pytest.raises(
            ValueError, match=r"not found.*smallest.*none.*Give the path .*name=.*'1'"
        ):
            new_head(net, NEW)
        assert new_head(net, NEW, name="1") == "1"
        total = net(torch.randn(2, 4)).exp().sum(1)
        assert torch.allclose(total, torch.ones(2))  # default tolerances, of float32

    def test_no_shape_needs_a_name(self):
        net = one_layer(input_shape=None)
        assert net.input_shape is None
        with pytest.raises(ValueError, match=r"give the path .*name=.* or make .*input_shape="):
            new_head(net, NEW)
        assert (new_head(net, NEW, name="1"), len(head_parameters(net, "1"))) == ("1", 2)

    def test_both_ends_must_agree(self):
        heads = ms.nn.Choice([nn.Linear(8, 3), nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 3))])
        with pytest.raises(ValueError, match=r"smallest .*'1.options.0', in .*'1.options.1.1'"):
            classifier(one_layer(head=heads))

    def test_unknown_names(self):
        net = made("tiny", True)
        with pytest.raises(ValueError, match=r"'chain.5.3'.*did you mean 'chain.5.2'\?"):
            classifier(net, "chain.5.3")
        with pytest.raises(ValueError, match="'chain.0.0' is a Conv2d, not a linear layer.*5.2"):
            classifier(net, "chain.0.0")

    def test_a_name_is_of_any_place_that_holds_the_layer(self):
        head = nn.Linear(8, 3)
        net = ms.Supernet(Beside(head, head), input_shape=(8,))
        assert classifier(net) == ("head", head)
        assert classifier(net, "beside") == ("beside", head)


class Beside(nn.Module):
    """A choice and a head, and something else that nothing calls."""

    def __init__(self, head, beside=None):
        super().__init__()
        self.op, self.head = ms.nn.Choice([nn.Identity(), nn.Linear(8, 8)], "op"), head
        self.beside = beside

    def forward(self, x):
        return self.head(self.op(x))


def tied(kind):
    model = Beside(nn.Linear(8, 3), nn.Embedding(3, 8))
    if kind == "weight":
        model.beside.weight = model.head.weight
    elif kind == "bias":
        model.shift = model.head.bias
    else:
        model.register_buffer("table", model.head.weight)
    return model


REFUSED = {
    "weight": (lambda: tied("weight"), "'head' shares a tensor with beside,"),
    "bias": (lambda: tied("bias"), "'head' shares a tensor with the network itself"),
    "buffer": (lambda: tied("buffer"), "'head' shares a tensor with the network itself"),
    "choice": (
        lambda: Beside(ms.nn.Choice([nn.Linear(8, 3)], "only")),
        "'head.options.0' is part of a choice",
    ),
    "elastic": (
        lambda: Beside(ms.nn.Linear(8, ms.choose((3, 4), "classes"))),
        "'head' has elastic outputs, .*classes",
    ),
    "parametrised": (
        lambda: Beside(weight_norm(nn.Linear(8, 3))),
        "'head' has the parameters bias, parametrizations.weight.original0",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("named", [False, True], ids=["found", "named"])
@pytest.mark.parametrize("mix", [None, True], ids=["one", "stacked"])
def test_what_cannot_be_replaced(case, named, mix):
    build, message = REFUSED[case]
    sharing = mix and KShot(2, mix_fixed_layers=True)
    net = ms.Supernet(build(), sharing=sharing, input_shape=(8,))
    bits = digest(held(net))
    with pytest.raises(ValueError, match=f"classifier {message}"):
        new_head(net, NEW, name=message.split("'")[1] if named else None)
    assert digest(held(net)) == bits


def test_a_block_that_can_be_dropped_is_no_classifier():
    blocks = [nn.Linear(8, 8), nn.Linear(8, 8)]
    net = ms.Supernet(Beside(ms.nn.Depth(blocks, (1, 2), "last")), input_shape=(8,))
    with pytest.raises(ValueError, match=r"smallest .*'head.blocks.0', in .*'head.blocks.1'"):
        classifier(net)
    with pytest.raises(ValueError, match="'head.blocks.1' is part of a choice or an elastic depth"):
        classifier(net, "head.blocks.1")
