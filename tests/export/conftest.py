from pathlib import Path

import pytest
import torch
from torch import nn

import manyshot as ms
from manyshot.nn.batch_norm import Collector
from manyshot.zoo import shufflenet


@pytest.fixture(scope="session")
def images() -> torch.Tensor:
    return torch.randn((16, 3, 16, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="session")
def subnet(images) -> nn.Module:
    """A small network with calibrated batch norms, as a search would hand it over."""
    torch.manual_seed(0)
    model = shufflenet(
        classes=5, widths=(8, 12), repeats=(2, 1), strides=(2, 2), stem=4, tail=16, affine=True
    )
    net, arch, collector = ms.Supernet(model).eval(), (3, 0, 1), Collector()
    with torch.no_grad():
        net(images, arch, stats=collector)
    return net.extract(arch, stats=collector.stats(arch))


@pytest.fixture(scope="session")
def logits(subnet, images) -> torch.Tensor:
    with torch.no_grad():
        return subnet(images[:7])


def left_in(folder: Path) -> list[str]:
    """Every file in a folder, temporary ones too."""
    return sorted(path.name for path in folder.rglob("*"))


@pytest.fixture
def files():
    return left_in
