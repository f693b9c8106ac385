"""What a user does that no dry run can follow: the message names the module and the way out."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

import manyshot as ms
from manyshot.cost import DryRunError

IMAGES = (3, 8, 8)
EVERYWHERE = torch.ones(1, 1, 1, 8)


class Own(nn.Module):
    """A module of the user's, with what it holds and what its forward does."""

    def __init__(self, run, **held):
        super().__init__()
        self.run = run
        for name, value in held.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.run(self, x)


class Plain:
    """An object that is no module and no container."""

    def __init__(self):
        self.tensor = EVERYWHERE.clone()


def network(module, *after):
    width = ms.choose((4, 8), "width")
    inner = nn.Sequential(nn.Identity(), module)
    return nn.Sequential(ms.nn.Conv2d(3, width, 1), inner, *after)


def dry_runs(make, input_shape=IMAGES):
    """What construction and the recording of costs say."""
    said = []
    with pytest.raises(DryRunError) as error:
        ms.Supernet(make(), input_shape=input_shape)
    said.append(str(error.value))
    net = ms.Supernet(make())
    with pytest.raises(DryRunError) as error:
        ms.cost.macs(net, [net.space.smallest], input_shape)
    said.append(str(error.value))
    return said


ARRAY = np.ones((1, 1, 1, 8), np.float32)
BUFFER, VALUES, NUMPY = "self.register_buffer(name, tensor)", "depend on shapes", "torch.from_numpy"
WRONG = {
    "a global tensor": (lambda: Own(lambda self, x: x * EVERYWHERE), BUFFER),
    "a tensor in an object": (lambda: Own(lambda self, x: x * self.a.tensor, a=Plain()), BUFFER),
    "an array": (lambda: Own(lambda self, x: x * self.a, a=ARRAY), NUMPY),
    "an array first": (lambda: Own(lambda self, x: self.a * x, a=ARRAY), NUMPY),
    "an array as a tensor": (
        lambda: Own(lambda self, x: x * torch.from_numpy(self.a), a=ARRAY),
        BUFFER,
    ),
    "numpy in forward": (lambda: Own(lambda self, x: x * np.tanh(x.numpy())), NUMPY),
    "item": (lambda: Own(lambda self, x: x * x.mean().item()), VALUES),
    "float": (lambda: Own(lambda self, x: x * float(x.mean())), VALUES),
    "tolist": (lambda: Own(lambda self, x: x * x.flatten().tolist()[0]), VALUES),
    "if": (lambda: Own(lambda self, x: x if x.sum() > 0 else -x), VALUES),
    "range": (lambda: Own(lambda self, x: sum(x for _ in range(x.argmax()))), VALUES),
    "a mask": (lambda: Own(lambda self, x: x + x[x > 0].mean()), VALUES),
    "nonzero": (lambda: Own(lambda self, x: x + x.nonzero().float().mean()), VALUES),
    "unique": (lambda: Own(lambda self, x: x + x.unique().mean()), VALUES),
    "another device": (lambda: Own(lambda self, x: x.cpu()), VALUES),
    "a shape that does not fit": (
        lambda: Own(lambda self, x: x.view(-1, 7)),
        "is invalid for input of size",
    ),
    "an attribute": (lambda: Own(lambda self, x: x * self.nothing), "no attribute 'nothing'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_dry_run_cannot_follow_is_named_with_the_way_out(name):
    make, remedy = WRONG[name]
    for words in dry_runs(lambda: network(make())):
        assert words.startswith("module '1.1' (Own) failed on inputs of shapes ((1, ")
        assert remedy in words
        assert words.endswith("This was a dry run without values, on inputs of shape (1, 3, 8, 8)")


def test_an_operation_without_shapes_is_named():
    @torch.library.custom_op("manyshot_tests::unshaped", mutates_args=())
    def unshaped(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    with pytest.raises(DryRunError) as error:
        ms.Supernet(network(Own(lambda self, x: unshaped(x))), input_shape=IMAGES)
    assert str(error.value).startswith("module '1.1' (Own) failed on inputs of shapes ((1, ")
    assert "torch.library.register_fake" in str(error.value)


def test_lazy_layers_are_named():
    for words in dry_runs(lambda: network(nn.LazyConv2d(4, 1))):
        assert words.startswith("module '1.1' has a lazy parameter")
        assert "run the network once before" in words


@pytest.mark.parametrize(
    "held", [[EVERYWHERE], {"a": EVERYWHERE}, ({"b": [0, EVERYWHERE]},)], ids=["list", "dict", "in"]
)
def test_tensors_in_lists_and_dicts_are_followed(held):
    def first(value):
        if isinstance(value, torch.Tensor):
            return value
        items = list(value.values() if isinstance(value, dict) else value)
        return first(items[-1])

    net = ms.Supernet(
        network(Own(lambda self, x: x * first(self.held), held=held)), input_shape=IMAGES
    )
    assert ms.cost.macs(net, [(0,), (1,)], IMAGES).tolist() == [64 * 3 * 4, 64 * 3 * 8]
    assert first(net.model[1][1].held) is EVERYWHERE  # what is run for real is untouched
    assert torch.equal(EVERYWHERE, torch.ones(1, 1, 1, 8))


LAYERS = {
    "Conv2d": (lambda: nn.Conv2d(6, 6, 1), "in_channels"),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(6, 4, 2, 2), "in_channels"),
    "ConvTranspose2d grouped": (lambda: nn.ConvTranspose2d(6, 4, 2, groups=2), "in_channels"),
    "DeformConv2d": (
        lambda: Own(
            lambda self, x: self.a(x, x.new_empty(1, 18, 8, 8)), a=DeformConv2d(6, 6, 3, padding=1)
        ),
        "in_channels",
    ),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(6), "num_features"),
    "GroupNorm": (lambda: nn.GroupNorm(3, 6), "num_channels"),
    "Conv2d of ours": (lambda: ms.nn.Conv2d(6, 6, 1), "in_channels"),
    "elastic": (lambda: ms.nn.Conv2d(ms.choose((6, 7), "into"), 6, 1), "in_channels"),
    "Linear": (
        lambda: Own(lambda self, x: self.a(x.mean((2, 3))), a=nn.Linear(6, 6)),
        "in_features",
    ),
    "ConvTranspose1d": (
        lambda: Own(lambda self, x: self.a(x.flatten(2)), a=nn.ConvTranspose1d(6, 4, 2)),
        "in_channels",
    ),
    "ConvTranspose3d": (
        lambda: Own(lambda self, x: self.a(x[..., None]), a=nn.ConvTranspose3d(6, 4, 1)),
        "in_channels",
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_channels_of_every_layer_are_compared(name):
    make, attribute = LAYERS[name]

    def net():
        return nn.Sequential(ms.nn.Choice([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)], "op"), make())

    for build in (
        lambda: ms.Supernet(net(), input_shape=IMAGES),
        lambda: ms.cost.macs(ms.Supernet(net()), [(0,) * len(ms.Supernet(net()).space)], IMAGES),
    ):
        with pytest.raises(DryRunError) as error:
            build()
        words = str(error.value)
        kind = name.split()[0].replace("elastic", "Conv2d")
        path = "'1.a'" if isinstance(make(), Own) else "'1'"
        assert words.startswith(f"module {path} ({kind}) takes ")
        assert f"takes 6 channels ({attribute})" in words or "takes 7 channels" in words
        assert "has 4:" in words


def test_right_channels_pass():
    model = nn.Sequential(
        ms.nn.Choice([nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(3, 4, 1)], "op"),
        nn.ConvTranspose2d(4, 6, 2, 2, groups=2),
        nn.GroupNorm(3, 6),
        nn.BatchNorm2d(6),
        nn.Flatten(2),
        nn.ConvTranspose1d(6, 2, 3),
        nn.Linear(16 * 16 + 2, 5),
    )
    net = ms.Supernet(model, input_shape=IMAGES)
    # in * positions * out per group * kernel, and the linear layer's two rows
    rest = 4 * 64 * 3 * 4 + 6 * 256 * 2 * 3 + 2 * 258 * 5
    assert ms.cost.macs(net, [(0,), (1,)], IMAGES).tolist() == [64 * 12 + rest] * 2


def test_a_functional_transposed_convolution_of_other_channels_has_no_cost():
    weight = nn.Parameter(torch.ones(6, 4, 1, 1))
    net = ms.Supernet(network(Own(lambda self, x: F.conv_transpose2d(x, self.w), w=weight)))
    with pytest.raises(DryRunError, match=r"module '1\.1' \(Own\).* takes 6 channels, .* has 8"):
        ms.cost.macs(net, [(1,)], IMAGES)


def test_images_of_other_channels_are_named():
    for shape, has in (((1, 8, 8), 1), ((4, 8, 8), 4)):
        for words in dry_runs(lambda: network(nn.Identity()), shape):
            assert words.startswith("module '0' (Conv2d) takes 3 channels (in_channels)")
            assert f"has {has}: change in_channels" in words
            assert "the channels of the images. This was a dry run without values, " in words
            assert words.endswith(f"on inputs of shape {(1, *shape)}")


def test_plain_modules_are_named_too():
    for layer in (nn.Conv2d(4, 2, 1), nn.ConvTranspose2d(4, 2, 1)):
        with pytest.raises(DryRunError, match=rf"'1' \({type(layer).__name__}\) takes 4 channels"):
            ms.cost.subnet_macs(nn.Sequential(nn.Conv2d(3, 6, 1), layer), IMAGES)
    with pytest.raises(DryRunError, match=r"the network \(Own\) failed .*depend on shapes"):
        ms.cost.subnet_macs(Own(lambda self, x: x * x.mean().item()), IMAGES)


SIZE = ms.choose((4, 8), "width")
ELASTIC = {
    "Conv2d out": lambda: nn.Conv2d(3, SIZE, 1),
    "Conv2d in": lambda: nn.Conv2d(SIZE, 3, 1),
    "Conv2d kernel": lambda: nn.Conv2d(3, 3, SIZE),
    "Conv2d groups": lambda: nn.Conv2d(8, 8, 1, groups=SIZE),
    "Conv2d of an expression": lambda: nn.Conv2d(3, SIZE * 2, 1),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(SIZE, 3, 1),
    "Linear in": lambda: nn.Linear(SIZE, 3),
    "Linear out": lambda: nn.Linear(3, SIZE),
    "BatchNorm2d": lambda: nn.BatchNorm2d(SIZE),
    "LayerNorm": lambda: nn.LayerNorm(SIZE),
    "GroupNorm": lambda: nn.GroupNorm(2, SIZE),
    "Embedding": lambda: nn.Embedding(5, SIZE),
    "PReLU": lambda: nn.PReLU(SIZE),
    "Parameter": lambda: nn.Parameter(torch.zeros(1, SIZE)),
    "range": lambda: [nn.Identity() for _ in range(SIZE)],
}


@pytest.mark.parametrize("name", ELASTIC)
def test_elastic_sizes_in_layers_of_torch_say_what_to_use(name):
    with pytest.raises(TypeError) as error:
        ELASTIC[name]()
    assert "Decision(width: 4, 8)" in str(error.value)
    assert "pass the size itself to an ms.nn layer (ms.nn.Conv2d in place of" in str(error.value)


def test_policies_of_another_supernet_are_refused():
    def head():
        return Own(lambda self, x: x.mean(1))

    one, other = (ms.Supernet(network(nn.Identity(), head())) for _ in range(2))
    images = torch.zeros(2, *IMAGES)
    policy = {decision: torch.eye(2)[0] for decision in other.space.decisions}
    table = ms.cost.macs_table(one, IMAGES)
    for run in (
        lambda: one(images, policy=policy),
        lambda: one(images, (0,), policy=policy),
        lambda: one(images, (0,), policy=policy, masks="active"),
        lambda: ms.cost.PolicyCost(table, one.space)(policy),
    ):
        with pytest.raises(ValueError, match=r"Decision\(width: 4, 8\), which is not in this netw"):
            run()
