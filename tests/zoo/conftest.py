import pytest
import torch

from manyshot.nn.batch_norm import Collector


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
