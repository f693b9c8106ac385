"""Networks of timm, if it is installed: what varies, and that every form computes the same."""

import pytest
import torch
from test_conversion_networks import check_forms, lively, marked

from manyshot.conversion import convert


@pytest.fixture(scope="module")
def timm():
    """Imported by these tests alone, which takes seconds."""
    return pytest.importorskip("timm", reason="timm is an extra")


# decisions on widths, on heads and on depths
NETWORKS = {
    "resnet50": (37, 0, 4),
    "efficientnet_b0": (40, 0, 5),
    "mobilenetv4_conv_small": (21, 0, 2),
    "regnety_004": (37, 0, 0),
    "tf_efficientnetv2_b0": (44, 0, 5),
    "vit_tiny_patch16_224": (13, 12, 1),
    "convnextv2_atto": (4, 0, 4),
    "ghostnet_100": (31, 0, 5),
}


QUICK = {"resnet50", "vit_tiny_patch16_224"}
"""The others take ten seconds and longer, or are like one of torchvision."""


@pytest.mark.parametrize("name", marked(NETWORKS, NETWORKS.keys() - QUICK))
def test_networks_of_timm(timm, name):
    torch.manual_seed(0)
    options = {"img_size": 64} if name.startswith("vit") else {}
    model = lively(timm.create_model(name, **options))
    images = torch.randn(2, 3, 64, 64)
    net = convert(model, images)
    kinds = [decision.kind for decision in net.conversion.decisions]
    found = tuple(kinds.count(kind) for kind in ("width", "heads", "depth"))
    assert found == NETWORKS[name], str(net.conversion)
    assert not net.conversion.opaque
    check_forms(net, model, images, archs=[net.space.smallest])
    small = net.extract(net.space.smallest)
    assert type(small) is type(model)
