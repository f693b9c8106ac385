"""Odd modules under a choice, and what cannot be done, said clearly."""

import copy
import io

import pytest
import torch
from sharing_nets import ConvNorm, k_shot, vary_codes
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import manyshot as ms
from manyshot.nn.mixing import Stacked


class Around(nn.Module):
    """A stem, a choice of the given modules, a head."""

    def __init__(self, *options: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.op, self.head = ms.nn.Choice(options, "op"), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.op(self.stem(x)))


class Recurrent(nn.Module):
    """Keeps references to parameters in a list of its own, as torch's recurrent layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, x):
        return self.gru(x.unsqueeze(1))[0].squeeze(1)


class Scaled(nn.Module):
    """A scalar parameter, a list, a dictionary, and a method named as one of a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.listed = nn.ParameterList([nn.Parameter(torch.randn(8)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.randn(1))})

    def cut(self, x):
        return x * self.scale

    def forward(self, x):
        return self.cut(x) + self.listed[1] + self.named["shift"]


class Attending(nn.Module):
    """Torch's attention, which reads its weights in many ways."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x.unsqueeze(1), x.unsqueeze(1), x.unsqueeze(1))[0].squeeze(1)


ODD = {
    "recurrent": Recurrent,
    "scaled": Scaled,
    "attending": Attending,
    "weight_norm": lambda: weight_norm(nn.Linear(8, 8)),
    "frozen": lambda: nn.Linear(8, 8).requires_grad_(False),
    "layer_norm": lambda: nn.LayerNorm(8),
}


@pytest.fixture(params=list(ODD))
def net(request):
    net = k_shot(lambda: Around(ODD[request.param](), nn.Linear(8, 8)), 3)
    vary_codes(net)
    return net


def test_it_extracts_moves_and_copies(net):
    images = torch.randn(5, 4)
    expected = net(images, (0,))
    assert torch.equal(net.extract((0,))(images), expected)
    assert torch.equal(copy.deepcopy(net)(images, (0,)), expected)
    net.double()
    assert torch.allclose(net(images.double(), (0,)), expected.double(), atol=1e-5)
    assert net.float().to("cpu")(images, (0,)).dtype == torch.float32
    watched = {"code_entropy_share", "code_spread", "effective_sharing", "slice_distance"}
    assert set(net.sharing.watch(net)) == watched
    subnet = net.extract((0,))
    [count] = ms.cost.params(net, [(0,)])
    assert count == sum(p.numel() for p in subnet.parameters())
    assert not any(isinstance(m, Stacked) for m in subnet.modules())


def test_state_dicts_may_be_assigned(net):
    images, state = torch.randn(5, 4), net.state_dict()
    expected = net(images, (0,))
    assigned = {name: tensor.clone() for name, tensor in state.items()}
    net.load_state_dict(assigned, assign=True)
    assert torch.equal(net(images, (0,)), expected)


def test_recurrent_layers_pickle():
    net = k_shot(lambda: Around(Recurrent(), nn.Linear(8, 8)), 2)
    images = torch.randn(5, 4)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    twin = torch.load(buffer, weights_only=False)
    assert torch.equal(twin(images, (0,)), net(images, (0,)))


def test_parametrised_elastic_layers_have_costs():
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((4, 8), "width")
            self.one, self.two = weight_norm(ms.nn.Linear(6, width)), ms.nn.Linear(width, 2)

        def forward(self, x):
            return self.two(self.one(x))

    net, images = k_shot(Wide, 2), torch.randn(3, 6)
    for arch in ((0,), (1,)):
        subnet = net.extract(arch)
        assert torch.equal(subnet(images), net(images, arch))
        assert ms.cost.params(net, [arch])[0] == sum(p.numel() for p in subnet.parameters())


def test_a_kept_mixture_is_for_its_path():
    net, images = k_shot(ConvNorm, 2), torch.randn(4, 1, 8, 8)
    kept = net.mixture((0, 1))
    with pytest.raises(ValueError, match=r"the mixture is of architecture \(0, 1\), not \(1, 1\)"):
        net(images, (1, 1), mixture=kept)
    with pytest.raises(ValueError, match="phase must be one of warmup, weights, code, joint, got"):
        net(images, (0, 1), phase="both")


def test_with_gradients_a_kept_mixture_is_merged_anew():
    net, images = k_shot(ConvNorm, 2), torch.randn(4, 1, 8, 8)
    kept = net.mixture((0, 1))
    with torch.no_grad():
        before = net(images, (0, 1), mixture=kept)
        for parameter in net.model.layers.parameters():
            parameter.add_(0.5)
        assert torch.equal(net(images, (0, 1), mixture=kept), before)  # as documented
    net(images, (0, 1), mixture=kept).sum().backward()
    assert net.model.layers[0].options["0"][0]._parameters["weight"].grad is not None


def test_a_refused_scheme_leaves_the_model_as_it_was():
    model = ConvNorm()
    for bad in ({"codes": "one_hot", "split": "nope"}, {"codes": "one_hot", "copies": 3}):
        with pytest.raises(ValueError, match="KShot: (split|copies) must be"):
            ms.Supernet(model, sharing=ms.sharing.KShot(**bad))
    images = torch.randn(4, 1, 8, 8)
    net = ms.Supernet(model, sharing=ms.sharing.KShot(2))
    assert net(images, (0, 0)).shape == (4, 10)
    for again in (None, ms.sharing.KShot(2)):
        with pytest.raises(ValueError, match="has stacked parameters already, of a supernet made"):
            ms.Supernet(model, sharing=again)


def test_an_attribute_named_uses_is_not_a_declaration():
    model = ConvNorm()
    model.uses = 3
    assert len(ms.Supernet(model).space) == 2


def test_a_stack_read_outside_a_path_is_named():
    net = k_shot(ConvNorm, 2)
    with pytest.raises(RuntimeError, match=r"weight of Conv2d 'layers.0.options.0.0' is a stack"):
        net.model.layers[0].options["0"][0].weight  # noqa: B018
    with pytest.raises(RuntimeError, match=r"compile the subnet that net\.extract\(\) gives"):
        net.compile_options()
