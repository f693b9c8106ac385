import numpy as np
import pytest
import torch
from cost_networks import NETWORKS, Elastic, Nested, Shrinking, Transformer, subnet_costs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from compilers import needs_graphs
from manyshot import cost, zoo
from small_zoo import SHAPE, small


def some(space: ms.SearchSpace, most: int) -> list[ms.Arch]:
    """All architectures if there are few, or the ends and some random ones."""
    if space.size <= 100:
        return list(space.enumerate())
    rng = np.random.default_rng(0)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(most - 2))]


def check(net: ms.Supernet, input_shape, most: int) -> None:
    archs = some(net.space, most)
    expected = [subnet_costs(net, arch, input_shape) for arch in archs]
    assert cost.macs(net, archs, input_shape).tolist() == [macs for macs, _ in expected]
    assert cost.params(net, archs).tolist() == [params for _, params in expected]


@pytest.mark.parametrize("name", NETWORKS)
def test_hard_networks_are_exact(name):
    make, shape = NETWORKS[name]
    check(ms.Supernet(make()), shape, most=12)


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_zoo_is_exact(name):
    net = ms.Supernet(small(name))
    check(net, SHAPE, most=6)
    check_policies(net)


def check_policies(net: ms.Supernet) -> None:
    """One-hot policies cost what their architectures do, and gradients are changes by a swap."""
    space = net.space
    archs = [space.smallest, space.sample(np.random.default_rng(1))]
    for table in cost._recorded[net].values():  # of `check`
        policies = {
            d: F.one_hot(torch.tensor([a[i] for a in archs]), len(d.options)).double()
            for i, d in enumerate(space.decisions)
        }
        for policy in policies.values():
            policy.requires_grad_()
        costs = cost.PolicyCost(table, space)(policies)
        assert costs.tolist() == table(archs).tolist()
        costs.sum().backward()
        for i, decision in enumerate(space.decisions):
            for row, arch in enumerate(archs):
                swaps = [(*arch[:i], o, *arch[i + 1 :]) for o in range(len(decision.options))]
                changes = table(swaps) - table([arch])
                grad = policies[decision].grad[row]
                assert (grad - grad[arch[i]]).tolist() == changes.tolist()  # integers: exact


def test_deep_elastic_network_is_exact():
    check(ms.Supernet(Elastic(stages=3, blocks=4)), (3, 16, 16), most=5)


def test_closed_form_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.width, self.kernel = ms.choose((4, 6, 10), "w"), ms.choose((1, 3, 5), "k")
            self.conv = ms.nn.Conv2d(3, self.width, self.kernel, 2, self.kernel // 2)
            self.norm, self.head = ms.nn.BatchNorm2d(self.width), ms.nn.Linear(self.width, 7)

        def forward(self, x):
            return self.head(self.norm(self.conv(x)).mean((2, 3)))

    net = ms.Supernet(Net())
    archs = list(net.space.enumerate())
    sizes = [((4, 6, 10)[i], (1, 3, 5)[j]) for i, j in archs]
    assert cost.macs(net, archs, (3, 8, 10)).tolist() == [
        w * 3 * k * k * 4 * 5 + 7 * w for w, k in sizes
    ]
    assert cost.params(net, archs).tolist() == [
        (w * 3 * k * k + w) + 2 * w + (7 * w + 7) for w, k in sizes
    ]
    assert cost.macs(net, archs, (3, 8, 10)).dtype == np.int64


BLOCK = st.tuples(
    st.sampled_from(["conv", "choice", "depth", "depthwise"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=2, unique=True),
    st.sampled_from([(1,), (1, 3), (3,)]),
    st.integers(1, 2),
)


class Drawn(nn.Module):
    """A chain of blocks drawn by Hypothesis."""

    def __init__(self, blocks):
        super().__init__()
        self.parts, width = nn.ModuleList(), ms.choose((2, 3), "first")
        self.parts.append(ms.nn.Conv2d(3, width, 1))
        for i, (kind, widths, kernels, stride) in enumerate(blocks):
            kernel = ms.choose(kernels, f"kernel{i}")
            same = dict(padding=kernel // 2)
            if kind == "conv":
                wider = ms.choose(widths, f"width{i}")
                self.parts.append(ms.nn.Conv2d(width, wider, kernel, stride, **same))
                width = wider
            elif kind == "depthwise":
                self.parts.append(ms.nn.Conv2d(width, width, kernel, stride, groups=width, **same))
            elif kind == "choice":
                conv = ms.nn.Conv2d(width, width, kernel, **same)
                self.parts.append(ms.nn.Choice([nn.Identity(), conv], f"op{i}"))
            else:
                convs = [ms.nn.Conv2d(width, width, kernel, stride, **same) for _ in range(2)]
                self.parts.append(ms.nn.Depth(convs, (0, 2), f"depth{i}"))

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(BLOCK, min_size=1, max_size=3))
def test_drawn_networks_are_exact(blocks):
    check(ms.Supernet(Drawn(blocks)), (3, 9, 9), most=12)


def test_recording_touches_nothing():
    net = ms.Supernet(Elastic())
    net.model.body[0].eval()
    net.model.register_buffer("count", torch.zeros(3))
    modes = [module.training for module in net.modules()]
    before = {name: (tensor.clone(), tensor._version) for name, tensor in net.state_dict().items()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    streams = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002

    cost.macs(net, [net.space.largest], (3, 8, 8))
    cost.params(net, [net.space.largest])

    assert [module.training for module in net.modules()] == modes
    after = net.state_dict()
    assert after.keys() == before.keys()
    for name, (tensor, version) in before.items():
        assert torch.equal(after[name], tensor)
        assert after[name]._version == version
    assert hooks == [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert (np.random.get_state()[1] == streams[1]).all()  # noqa: NPY002
    assert all(p.grad is None for p in net.parameters())


def test_recording_does_not_run_the_users_modules():
    ran = []

    class Noisy(nn.Module):
        def forward(self, x):
            ran.append(x.device.type)
            return x

    model = nn.Sequential(Noisy(), ms.nn.Conv2d(3, ms.choose((2, 4), "w"), 1))
    cost.macs_table(ms.Supernet(model), (3, 4, 4))
    assert set(ran) == {"meta"}


@needs_graphs
def test_compiled_options_count_the_same():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(
            ms.nn.Choice([nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1)], "op"), nn.Flatten()
        )

    plain, compiled = ms.Supernet(make()), ms.Supernet(make())
    assert compiled.compile_options(backend="eager") == 2
    archs = list(plain.space.enumerate())
    assert (
        cost.macs(compiled, archs, (3, 5, 5)).tolist()
        == cost.macs(plain, archs, (3, 5, 5)).tolist()
        == [300, 2700]
    )


def test_other_floating_types_and_bare_choices():
    net = ms.Supernet(ms.nn.Choice([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)], "op"))
    net.to(torch.bfloat16)
    assert cost.macs(net, [(0,), (1,)], (3, 4, 4)).tolist() == [6 * 16, 54 * 16]
    assert cost.params(net, [(0,), (1,)]).tolist() == [8, 56]


def test_input_shape_is_part_of_what_is_remembered():
    net = ms.Supernet(Shrinking())
    small, large = (cost.macs(net, [(0, 0)], (3, side, side))[0] for side in (8, 16))
    assert large - 60 - 0 == (small - 60) * 4  # all but the classifier's 6 x 10


@pytest.mark.parametrize("fused", [False, True])
def test_subnet_macs_counts_plain_modules(fused):
    net = ms.Supernet(Transformer(fused))
    arch = net.space.largest
    subnet = net.extract(arch).train()
    assert cost.subnet_macs(subnet, (3, 8, 8)) == cost.macs(net, [arch], (3, 8, 8))[0]
    assert subnet.training and next(subnet.parameters()).device.type == "cpu"


def test_subnet_macs_of_tied_weights_unsaved_buffers_and_bare_tensors():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            self.register_buffer("shift", torch.ones(4), persistent=False)
            self.scale = torch.ones(4)

        def forward(self, x):
            return self.b(self.a(x * self.scale + self.shift))

    assert cost.subnet_macs(Net().double(), (4,)) == 32


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_wrong_architectures_are_errors(metric):
    net = ms.Supernet(Nested())
    good = net.space.largest
    tables = {"macs": lambda n: cost.macs_table(n, (3, 6, 6)), "params": cost.params_table}
    table = tables[metric](net)
    assert table([]).tolist() == []
    with pytest.raises(ValueError, match=rf"{metric}: expected .* got lengths \[5\]"):
        table([good[:-1]])
    with pytest.raises(ValueError, match=r"write \[arch\]"):
        table(good)
    with pytest.raises(ValueError, match=r"lengths \[5, 6\]"):
        table([good, good[:-1]])
    with pytest.raises(ValueError, match=r"option 2 of decision 0 is not in 0\.\.1"):
        table([good, (2, *good[1:])])
    with pytest.raises(ValueError, match=r"option -1 of decision 5 is not in"):
        table([(*good[:-1], -1)])
    with pytest.raises(ValueError, match="float64"):
        table([tuple(float(o) for o in good)])
