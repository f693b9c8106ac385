"""Networks that people have, converted: what varies, and that every form of it computes the same.

The oracle of the largest is the original network; that of any other architecture is the network
that is extracted, of the user's own class with plain layers.
"""

import copy
import warnings

import pytest
import torch
import torchvision
from conversion_nets import Grouped, RawParameters, UNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

import manyshot as ms
from manyshot.conversion import convert
from manyshot.nn.agreement import check_agreement
from manyshot.nn.batch_norm import BatchNorm
from manyshot.nn.inputs import as_call
from manyshot.nn.layer import Layer
from manyshot.seeding import numpy_rng

SIZE = 64
# decisions on widths and heads; of vit_b_16 13 and 12, of swin_t those of its MLPs alone
TORCHVISION = {
    "resnet18": 12,
    "mobilenet_v3_small": 27,
    "densenet121": 120,
    "efficientnet_b0": 40,
    "convnext_tiny": 22,
    "googlenet": 61,
    "squeezenet1_1": 25,
    "mnasnet1_0": 25,
    "resnext50_32x4d": 21,
    "vgg11_bn": 10,
    "vit_b_16": 25,
    "swin_t": 12,
    "shufflenet_v2_x1_0": 18,
    "regnet_y_400mf": 37,
}


def network(name):
    """A network of torchvision with weights and statistics as of one that was trained."""
    torch.manual_seed(0)
    options = {"googlenet": {"init_weights": False}, "vit_b_16": {"image_size": SIZE}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torchvision.models.get_model(name, **options.get(name, {}))
    if name == "vgg11_bn":  # 100 million parameters less, and the same channels
        model.avgpool, model.classifier[0] = nn.AdaptiveAvgPool2d(1), nn.Linear(512, 4096)
    return lively(model)


def lively(model):
    """No weights that are all zeros or ones, and statistics as after training."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.eq(parameter.flatten()[0]).all():
                parameter.copy_(0.5 + 0.5 * torch.rand(parameter.shape, generator=generator))
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                module.running_mean.copy_(torch.randn(module.num_features, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
    return model.eval()


SLOW = {"densenet121", "googlenet", "mnasnet1_0", "regnet_y_400mf", "swin_t", "vit_b_16"}
SLOW |= {"convnext_tiny", "efficientnet_b0", "resnext50_32x4d", "vgg11_bn"}
"""These take ten seconds and longer, or are of layers that the others, `Grouped` and
`small_convnext` have too."""


def marked(names, slow):
    """The names as parameters of a test, the slow ones marked so."""
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in names]


@pytest.mark.parametrize("name", marked(TORCHVISION, SLOW))
def test_networks_of_torchvision(name):
    """Counts, the original as the largest, and extracted networks with their exact costs."""
    model = network(name)
    before = copy.deepcopy(model.state_dict())
    images = torch.randn(2, 3, SIZE, SIZE)
    net = convert(model, images)
    free = [d for d in net.conversion.decisions if d.kind in ("width", "heads")]
    assert len(free) == TORCHVISION[name], net.conversion
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    check_forms(net, model, images)


def check_forms(net, model, inputs, archs=None):
    """The largest is the original; others are what is extracted, and cost what is counted."""
    args, kwargs = as_call(inputs)
    net.eval()
    with torch.no_grad():
        expected = model(*args, **kwargs)
        largest = net(inputs, stats=net.conversion.stats)
        for one, other in leaves(largest, expected):
            scale = max(1.0, float(other.abs().max()))  # sums in another order, in float32
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale)
        rng = numpy_rng(0, "checks")
        archs = archs or [net.space.smallest, *(net.space.sample(rng) for _ in range(2))]
        for arch in dict.fromkeys(archs):
            plain = net.extract(arch, stats=unit_stats(net, arch)).eval()
            assert not any(isinstance(m, Layer) for m in plain.modules())
            got = net(inputs, arch, stats=unit_stats(net, arch))
            for one, other in leaves(got, plain(*args, **kwargs)):
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            assert int(ms.cost.params(net, [arch])[0]) == sum(p.numel() for p in plain.parameters())


def leaves(one, other):
    ours, theirs = (torch.utils._pytree.tree_leaves(tree) for tree in (one, other))
    assert len(ours) == len(theirs)
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if isinstance(a, torch.Tensor)]


def unit_stats(net, arch):
    """Statistics that normalise nothing, of the norms that an architecture has."""
    tensors = {}
    with net.selecting(arch) as selection:
        for norm in net.model.modules():
            if isinstance(norm, BatchNorm):
                n = selection.count(norm.num_features)
                tensors[norm.path] = (torch.zeros(n), torch.ones(n))
    return ms.nn.BatchNormStats(tuple(arch), tensors)


def small_convnext():
    """Depthwise convolutions, layer norms of a class of their own, and a parameter per block."""
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    torch.manual_seed(0)
    stages = [CNBlockConfig(32, 48, 2), CNBlockConfig(48, None, 2)]
    return lively(ConvNeXt(stages, num_classes=7))


def small_mobilenet():
    """Batch norms, depthwise convolutions, squeeze and excitation: three blocks of the large."""
    torch.manual_seed(0)
    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1),
        InvertedResidualConfig(16, 3, 48, 24, False, "RE", 2, 1, 1),
        InvertedResidualConfig(24, 5, 64, 24, True, "HS", 1, 1, 1),
    ]
    return lively(MobileNetV3(blocks, 64, num_classes=7))


@pytest.mark.parametrize("kind", [UNet, Grouped, RawParameters, small_convnext])
def test_macs_are_those_of_what_is_extracted(kind):
    torch.manual_seed(0)
    net = convert(kind(), torch.randn(2, 3, 32, 32))
    macs = ms.cost.macs_table(net, (3, 32, 32))
    rng = numpy_rng(1, "checks")
    for arch in (net.space.smallest, net.space.largest, net.space.sample(rng)):
        counted = ms.cost.subnet_macs(net.extract(arch), (3, 32, 32))
        assert int(macs([arch])[0]) == counted


def test_shallower_networks_load_into_the_users_own_class():
    """Of full widths: what is dropped are the last blocks of every stage."""
    model = network("resnet18")
    images = torch.randn(2, 3, SIZE, SIZE)
    net = convert(model, images, ratios=(1.0,), importance=None)
    depths = [d for d in net.space.decisions if str(d.name).endswith("depth")]
    assert [d.name for d in depths] == [f"layer{i}.depth" for i in (1, 2, 3, 4)]
    plain = net.extract(net.space.smallest)
    own = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    assert own.load_state_dict(plain.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(own.eval()(images), plain.eval()(images))


def test_the_narrow_keep_what_matters_most():
    """Channels that only scale others by next to nothing are the first to go."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 4, 5))
    with torch.no_grad():
        quiet = torch.arange(0, 32, 2)
        model[0].weight[quiet] *= 1e-4
        model[0].bias[quiet] *= 1e-4
    images = torch.randn(4, 3, 4, 4)
    net = convert(model, images, ratios=(0.5, 1.0)).eval()
    with torch.no_grad():
        half = net(images, net.space.smallest)
        torch.testing.assert_close(half, model(images), rtol=0, atol=1e-3)
        unordered = convert(model, images, ratios=(0.5, 1.0), importance=None).eval()
        assert (unordered(images, net.space.smallest) - half).abs().max() > 0.05


@pytest.mark.parametrize("importance", ["l1", "l2", "scale", None])
def test_every_importance_leaves_the_function_as_it_is(importance):
    model = small_mobilenet()
    images = torch.randn(2, 3, 32, 32)
    net = convert(model, images, importance=importance)
    assert net.conversion.importance == (importance or "none")
    assert net.conversion.difference < 1e-4
    if importance is None:
        assert net.conversion.difference == 0.0


def test_kernels_are_centres():
    model = network("mobilenet_v3_small")
    images = torch.randn(2, 3, SIZE, SIZE)
    net = convert(model, images, kernel=True)
    kernels = {d.name: d.options for d in net.conversion.decisions if d.kind == "kernel"}
    assert len(kernels) == 8  # the depthwise convolutions of 5 x 5
    assert set(kernels.values()) == {(3, 5)}
    check_forms(net, model, images)


def test_masks_do_what_slices_do():
    """Converted networks take policies, for samplers that learn."""
    model = small_convnext()
    images = torch.randn(2, 3, 32, 32)
    net = convert(model, images).eval()
    check_agreement(net, images, archs=[net.space.smallest])


def test_k_shot_sharing_of_a_converted_network():
    """Slices that are equal give what one copy gives, also of parameters without a layer."""
    model = small_convnext()
    images = torch.randn(2, 3, 32, 32)
    one = convert(model, images, importance=None).eval()
    many = convert(model, images, importance=None, sharing=ms.sharing.KShot(copies=2)).eval()
    state = ms.sharing.widen(many, one.state_dict(), spread=0.0)
    many.load_state_dict(state)
    with torch.no_grad():
        for arch in (one.space.smallest, one.space.largest):
            torch.testing.assert_close(many(images, arch), one(images, arch))
            plain = many.extract(arch)
            torch.testing.assert_close(plain(images), many(images, arch))
