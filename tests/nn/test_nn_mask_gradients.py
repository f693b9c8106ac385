"""Gradients with masks: of policies against differences of networks written out by hand, of weights
against the sliced form."""

import itertools

import pytest
import torch
from nn_masked import BY_HAND, NETWORKS, filled, fresh, images, policies
from nn_nets import archs, same_snapshot, snapshot
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn.layer import Layer
from manyshot.nn.structure import walk

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")
# float64, sums of up to some thousand numbers; relative to the largest entry.
CLOSE = 1e-10


def weighed(logits):
    """A loss in which every logit counts differently."""
    generator = torch.Generator().manual_seed(3)
    return (logits * torch.randn(logits.shape, generator=generator, dtype=logits.dtype)).sum()


def gradient_of(policy):
    """Zero where a decision is inactive."""
    return torch.zeros_like(policy) if policy.grad is None else policy.grad


def policy_gradients(net, arch, masks="full", loss=weighed):
    given = policies(net, arch)
    loss(net(images(), arch, policy=given, masks=masks)).backward()
    net.zero_grad()
    return {d.name: gradient_of(p) for d, p in given.items()}


def weight_gradients(net, arch, **options):
    weighed(net(images(), arch, **options)).backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    return gradients


def close(found, expected, scale=None):
    largest = float(expected.abs().max() if scale is None else scale)
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE * max(1.0, largest))


@pytest.mark.parametrize("name", BY_HAND)
def test_policy_gradient_is_the_slope_of_the_network_by_hand(name):
    net, by_hand = filled(name), BY_HAND[name]
    step = 1e-5
    for arch in archs(net, 3):
        given = policies(net, arch)
        p = {d.name: policy.detach() for d, policy in given.items()}
        with torch.no_grad():
            close(by_hand(net.model, images(), p), net(images(), arch))
        for decision, gradient in policy_gradients(net, arch).items():
            slopes = torch.zeros_like(gradient)
            for i in range(len(slopes)):
                losses = []
                for sign in (1, -1):
                    moved = p[decision].clone()
                    moved[i] += sign * step
                    with torch.no_grad():
                        out = by_hand(net.model, images(), {**p, decision: moved})
                        losses.append(weighed(out))
                slopes[i] = (losses[0] - losses[1]) / (2 * step)
            # step**2 = 1e-10 of curvature, 1e-16 / step = 1e-11 of rounding, times slopes up to 1e3
            torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-6)


def test_gradient_of_a_linear_layer_is_that_of_equation_9():
    width = ms.choose((2, 3, 5), "width")
    net = ms.Supernet(nn.Sequential(ms.nn.Linear(4, width), ms.nn.Linear(width, 3))).double()
    columns = torch.tensor([[1.0, 1, 1], [1, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 1]]).double()
    x = torch.randn((6, 4), generator=torch.Generator().manual_seed(0)).double()
    weights = torch.randn((6, 3), generator=torch.Generator().manual_seed(1)).double()
    first, second = net.model
    hidden = x @ first.weight.T + first.bias
    per_unit = torch.einsum("bo,ou,bu->u", weights, second.weight, hidden).detach()  # dL/dm_u
    for option, n in enumerate(width.options):
        for masks in ("full", "active"):
            given = policies(net, (option,))
            (net(x, (option,), policy=given, masks=masks) * weights).sum().backward()
            reached = 5 if masks == "full" else n
            close(given[width].grad, columns[:reached].T @ per_unit[:reached])


@pytest.mark.parametrize("name", BY_HAND)
def test_active_masks_give_larger_options_the_gradient_of_the_chosen(name):
    net = filled(name)
    for arch in archs(net, 3):
        full, active = (policy_gradients(net, arch, masks) for masks in ("full", "active"))
        for decision, chosen in zip(net.space.decisions, arch, strict=True):
            found, expected = active[decision.name], full[decision.name].clone()
            if decision.is_number and decision.name != "resolution":
                for i, n in enumerate(decision.values):
                    if n > decision.values[chosen]:
                        expected[i] = full[decision.name][chosen]
            else:
                expected[torch.arange(len(expected)) != chosen] = 0
            close(found, expected, expected.abs().max())


@pytest.mark.parametrize("name", BY_HAND)
def test_larger_options_have_gradients_of_their_own_from_the_start(name):
    def loss(logits):
        return F.cross_entropy(logits, torch.arange(len(logits)))

    net = fresh(name)
    names = [decision.name for decision in net.space.decisions]
    deep = list(net.space.smallest)
    deep[names.index("depth")] = 2  # so that no decision is inactive
    found = policy_gradients(net, tuple(deep), loss=loss)
    found["depth"] = policy_gradients(net, net.space.smallest, loss=loss)["depth"]
    found.pop("resolution", None)  # whose other options get none
    for decision, own in found.items():
        gaps = [abs(float(a - b)) for a, b in itertools.combinations(own, 2)]
        assert min(gaps) > 1e-6 * float(own.abs().max()) > 0, decision


def used(net, arch):
    """By elastic parameter, where the architecture's slices are."""
    found = {}
    with net.selecting(arch) as selection:
        for _, module, use in walk(net.model):
            if isinstance(module, Layer) and selection.holds(use):
                for name, _ in module.shapes():
                    parameter = module._parameters[name]
                    where = found.setdefault(parameter, torch.zeros(parameter.shape).bool())
                    where[module.part(name, selection)] = True
    return found


@pytest.mark.parametrize(
    ("name", "masks"),
    [
        pytest.param(name, masks, marks=() if i == j % 2 else pytest.mark.slow)
        for j, name in enumerate(NETWORKS)
        for i, masks in enumerate(("active", "full"))
    ],
)
def test_weight_gradients_are_those_of_slices(name, masks):
    net = filled(name)
    unused = 0
    for arch in archs(net, 2):
        sliced = weight_gradients(net, arch)
        masked = weight_gradients(net, arch, policy=policies(net, arch), masks=masks)
        largest = max(float(g.abs().max()) for g in sliced.values() if g is not None)
        where = used(net, arch)
        for key, parameter in net.named_parameters():
            assert (masked[key] is None) == (sliced[key] is None), key
            if masked[key] is not None:
                close(masked[key], sliced[key], largest)
                tail = masked[key][~where[parameter]] if parameter in where else masked[key][:0]
                assert (tail == 0).all(), key
                unused += len(tail)
    assert unused > 0 or name in ("macro", "tiny")  # which have no sizes


@pytest.mark.parametrize(
    ("name", "scope"),
    [
        ("tokens", "path"),
        ("convolutions", "layer"),
        pytest.param("tokens", "layer", marks=pytest.mark.slow),
        pytest.param("convolutions", "path", marks=pytest.mark.slow),
    ],
)
def test_k_copies_are_masked_as_they_are_sliced(name, scope):
    net = filled(name, sharing=ms.sharing.KShot(3, seed=1, code_scope=scope))
    with torch.no_grad():
        net.sharing.simplex_net.last.weight.normal_(0, 1, generator=torch.manual_seed(0))
    for arch in archs(net, 1):
        sliced = weight_gradients(net, arch)
        largest = max(float(g.abs().max()) for g in sliced.values() if g is not None)
        for masks in ("full", "active"):
            given = policies(net, arch)
            masked = weight_gradients(net, arch, policy=given, masks=masks)
            with torch.no_grad():
                close(net(images(), arch, policy=given, masks=masks), net(images(), arch))
            for key, gradient in sliced.items():
                assert (masked[key] is None) == (gradient is None), key
                if gradient is not None:
                    close(masked[key], gradient, largest)


class Late(nn.Module):
    """Its width is first mixed in a block that may be dropped, then by two heads."""

    def __init__(self):
        super().__init__()
        width = ms.choose((2, 3, 5), "width")
        self.stem = ms.nn.Linear(4, width)
        self.blocks = ms.nn.Depth([ms.nn.Linear(width, width)], (0, 1), "depth")
        self.heads = nn.ModuleList([ms.nn.Linear(width, 3) for _ in range(2)])

    def forward(self, x):
        x = self.blocks(self.stem(x))
        return self.heads[0](x) * self.heads[1](x)


def test_layers_add_their_gradients_also_behind_a_dropped_block_that_came_first():
    net = ms.Supernet(Late()).double()
    width, depth = net.space.decisions
    x = torch.randn((6, 4), generator=torch.Generator().manual_seed(0)).double()
    for option, n in enumerate(width.options):
        given = policies(net, (option, 0))
        net(x, (option, 0), policy=given).sum().backward()
        with torch.no_grad():
            hidden = x @ net.model.stem.weight.T + net.model.stem.bias
            one, two = net.model.heads
            outs = [hidden[:, :n] @ h.weight[:, :n].T + h.bias for h in (one, two)]
            per_unit = ((outs[1] @ one.weight + outs[0] @ two.weight) * hidden).sum(0)
        expected = torch.stack([per_unit[:k].sum() for k in width.options])
        close(given[width].grad, expected)


class Recomputed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return ms.nn.checkpoint(self.inner, x)


@pytest.mark.parametrize(
    ("name", "where"),
    [
        pytest.param(name, where, marks=() if i == j % 2 else pytest.mark.slow)
        for j, name in enumerate(BY_HAND)
        for i, where in enumerate(("blocks", "all"))
    ],
)
def test_checkpointing_changes_no_gradient(name, where):
    plain = filled(name)
    model = NETWORKS[name]()
    if where == "blocks":
        inner = model.blocks.blocks
        model.blocks.blocks = nn.ModuleList([Recomputed(block) for block in inner])
    net = ms.Supernet(Recomputed(model) if where == "all" else model).double()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        ours.data.copy_(theirs.data)
    for arch, masks in itertools.product(archs(net, 1), ("full", "active")):
        found, expected = (policy_gradients(each, arch, masks) for each in (net, plain))
        for decision, gradient in expected.items():
            close(found[decision], gradient, gradient.abs().max())
        found, expected = (
            list(weight_gradients(each, arch, policy=policies(each, arch), masks=masks).values())
            for each in (net, plain)
        )
        for gradient, other in zip(found, expected, strict=True):
            assert (gradient is None) == (other is None)
            if gradient is not None:
                close(gradient, other, other.abs().max())


def test_saved_weights_are_masked_in_place_of_the_networks():
    net, other = filled("tokens"), filled("tokens", seed=1)
    before = snapshot(net)
    saved = dict(other.named_parameters())
    for arch in archs(net, 1):
        given = policies(net, arch)
        out = torch.func.functional_call(net, saved, (images(), arch), {"policy": given})
        weighed(out).backward()
        found = {d.name: gradient_of(policy) for d, policy in given.items()}
        for decision, gradient in policy_gradients(other, arch).items():
            close(found[decision], gradient, gradient.abs().max())
    assert same_snapshot(before, snapshot(net))


class Between(nn.Module):
    """Something searchable whose output is changed in place."""

    def __init__(self, op):
        super().__init__()
        self.stem, self.op = nn.Linear(4, 4), op

    def forward(self, x, in_place=True):
        x = self.stem(x)
        out = self.op(x)
        if isinstance(out, tuple):
            return out[0]
        if not in_place:
            return torch.relu(out + x)
        out += x
        return torch.relu_(out)


def rectified(inplace):
    return nn.Sequential(nn.ReLU(inplace=inplace), nn.Linear(4, 4))


@pytest.mark.parametrize("masks", ["full", "active"])
def test_what_leaves_a_block_may_be_changed_in_place(masks):
    x = torch.randn((6, 4), generator=torch.Generator().manual_seed(0)).double()
    for op in (
        ms.nn.Choice([nn.Identity(), nn.Linear(4, 4)], "op"),
        ms.nn.Depth([nn.Linear(4, 4), rectified(False)], (0, 1, 2), "op"),
    ):
        net = ms.Supernet(Between(op)).double()
        for arch in net.space.enumerate():
            results = []
            for in_place in (True, False):
                given = policies(net, arch)
                with net.selecting(arch, policy=given, masks=masks):
                    out = net.model(x, in_place)
                weighed(out).backward()
                results.append((out, gradient_of(given[net.space.decisions[0]])))
            for found, expected in zip(*results, strict=True):
                assert torch.equal(found, expected)


def test_a_block_that_changes_its_input_in_place_is_refused():
    x = torch.randn((6, 4), generator=torch.Generator().manual_seed(0)).double()
    depth = ms.nn.Depth([nn.Linear(4, 4), rectified(True)], (1, 2), "op")
    choice = ms.nn.Choice({"skip": nn.Identity(), "relu": rectified(True)}, "op")
    for op, message in ((depth, "depth 'op': block 1"), (choice, "choice 'op': option 'relu'")):
        net = ms.Supernet(Between(op)).double()
        for arch in net.space.enumerate():
            with pytest.raises(ValueError, match=f"{message} changes its input in place"):
                net(x, arch, policy=policies(net, arch))


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (lambda: ms.nn.Choice([Pair(), Pair()], "op"), "choice 'op': .* one tensor, got tuple"),
        (lambda: ms.nn.Depth([Pair()], (0, 1), "op"), "depth 'op': .* one tensor, got tuple"),
    ],
)
def test_blocks_of_several_tensors_are_refused(op, message):
    net = ms.Supernet(Between(op()))
    for arch in net.space.enumerate():
        with pytest.raises(TypeError, match=message):
            net(torch.ones(2, 4), arch, policy=policies(net, arch))
