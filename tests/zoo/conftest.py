from pathlib import Path

import pytest
import torch

from manyshot.nn.batch_norm import Collector


@pytest.fixture(scope="session")
def tables() -> Path:
    """The folder of published tables, which is no part of the package."""
    repository = Path(__file__).parents[2]
    for folder in (repository / "shared" / "data", repository.parent / "shared" / "data"):
        if folder.is_dir():
            return folder
    pytest.skip("the published tables (shared/data) are not beside this checkout")


@pytest.fixture(scope="session")
def statistics():
    """Statistics of one architecture from two batches of noise."""

    def collect(net, arch, shape):
        generator = torch.Generator().manual_seed(1)
        collector, training = Collector(), net.training
        net.eval()
        with torch.no_grad():
            for _ in range(2):
                net(torch.randn((16, *shape), generator=generator), arch, stats=collector)
        net.train(training)
        return collector.stats(arch)

    return collect
