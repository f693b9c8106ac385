"""K-shot weights against plain modules that hold them (T2, T4 of the K-shot reference)."""

import copy
import io

import numpy as np
import pytest
import torch
from sharing_nets import ConvNorm, Mixed, k_shot, seeded, vary_codes
from torch import nn
from torch.nn import functional as F

import manyshot as ms
from manyshot.nn.mixing import Combination, Kept, Stacked, combine, combine_channels, restack
from manyshot.sharing.dictionary import rows

NETS = {
    "mixed": (Mixed, (3, 8, 8)),
    "macro": (lambda: ms.zoo.macro(width=2, channels=1), (1, 16, 16)),
    "tiny": (lambda: ms.zoo.tiny(width=4), (1, 8, 8)),
    "cell": (lambda: ms.zoo.cell(width=4, cells=1), (3, 8, 8)),
}


@pytest.fixture(params=list(NETS))
def case(request):
    make, shape = NETS[request.param]
    images = torch.randn((6, *shape), generator=torch.Generator().manual_seed(2))
    return make, images


def archs_of(space, count=6):
    rng = np.random.default_rng(3)
    return [space.smallest, space.largest, *(space.sample(rng) for _ in range(count))]


@pytest.mark.parametrize(
    ("memory_format", "fixed_layers"),
    [
        (torch.contiguous_format, True),
        (torch.channels_last, False),
        pytest.param(torch.contiguous_format, False, marks=pytest.mark.slow),
        pytest.param(torch.channels_last, True, marks=pytest.mark.slow),
    ],
)
def test_extract_equals_the_path_bit_for_bit(case, memory_format, fixed_layers):
    make, images = case
    net = k_shot(make, mix_fixed_layers=fixed_layers)
    vary_codes(net)
    net.to(memory_format=memory_format)
    images = images.to(memory_format=memory_format)
    for arch in archs_of(net.space, 3):
        subnet = net.extract(arch)
        assert not any(isinstance(m, Stacked) for m in subnet.modules())
        assert torch.equal(net(images, arch), subnet(images))
        stats = ms.evaluate.calibrate(net, arch, [images])
        net.eval()
        expected = net(images, arch, stats=stats)
        net.train()
        assert torch.equal(net.extract(arch, stats=stats).eval()(images), expected)


@pytest.mark.parametrize("chosen", [0, 2])
def test_a_one_hot_code_is_the_plain_network_that_holds_the_slice(case, chosen):
    make, images = case
    net = k_shot(make, 3)
    plain = seeded(lambda: ms.Supernet(make()))
    state = net.state_dict()
    stacked = {id(p) for p in rows(net)}
    own = {
        name: state[name][chosen] if id(tensor) in stacked else state[name]
        for name, tensor in net.state_dict(keep_vars=True).items()
        if not name.startswith("sharing.")
    }
    plain.load_state_dict(own)
    code = F.one_hot(torch.tensor(chosen), 3).float()
    for arch in archs_of(net.space):
        assert torch.equal(
            net(images, arch, mixture=Kept(arch, Combination(code))), plain(images, arch)
        )


def test_one_copy_is_the_one_shot_network(case):
    make, images = case
    net, plain = k_shot(make, 1), seeded(lambda: ms.Supernet(make()))
    for arch in archs_of(net.space):
        assert torch.equal(net(images, arch), plain(images, arch))


def test_keys_are_those_of_one_shot_with_a_leading_axis(case):
    make, _ = case
    own = {n: t.shape for n, t in k_shot(make, 3).state_dict().items() if n.startswith("model.")}
    one = {n: t.shape for n, t in seeded(lambda: ms.Supernet(make())).state_dict().items()}
    assert own.keys() == one.keys()
    wide = {name for name, shape in own.items() if shape != one[name]}
    assert wide
    assert all(own[name] == (3, *one[name]) for name in wide)


def test_what_is_stacked_by_default():
    net = k_shot(lambda: ms.zoo.macro(width=1, channels=1), 2)
    one = ms.Supernet(ms.zoo.macro(width=1, channels=1)).state_dict()
    shared = {
        n.split(".")[2] for n, t in net.state_dict().items() if n in one and t.shape == one[n].shape
    }
    assert shared == {"0", "9", "10"}  # stem, last convolution, classifier


def test_batch_norm_may_be_shared():
    net = k_shot(ConvNorm, 2, mix_bn_affine=False)
    shapes = {n: tuple(t.shape) for n, t in net.state_dict().items()}
    assert shapes["model.layers.0.options.0.1.weight"] == (4,)
    assert shapes["model.layers.0.options.0.0.weight"] == (2, 4, 4, 1, 1)


def test_fixed_layers_may_be_stacked():
    net = k_shot(ConvNorm, 2, mix_fixed_layers=True)
    assert net.state_dict()["model.stem.weight"].shape == (2, 4, 1, 3, 3)
    assert net.state_dict()["model.head.bias"].shape == (2, 10)


def test_tied_tensors_are_one_stack_and_stay_tied():
    net = k_shot(Mixed, 2)
    twice = net.model.op.options["twice"]
    assert twice[0]._parameters["weight"] is twice[3]._parameters["weight"]
    arch = tuple(2 if d.name == "op" else 0 for d in net.space.decisions)
    subnet = net.extract(arch)
    assert subnet.op[0].weight is subnet.op[3].weight


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize("copies", [2, 4, 8])
def test_gradients_of_slices_and_of_the_code(copies, compensate):
    """∂L/∂θ_k = λ_k ∂L/∂W, or that over ‖λ‖², and ∂L/∂λ_k = <∂L/∂W, θ_k>: a plain convolution's.

    Compensated a step of plain SGD moves the mixture as it would move one copy.
    """
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn((copies, 5, 3, 3, 3), generator=generator, dtype=torch.float64)
    code = torch.softmax(torch.randn(copies, generator=generator, dtype=torch.float64), 0)
    images = torch.randn((4, 3, 6, 6), generator=generator, dtype=torch.float64)
    stack.requires_grad_()
    code.requires_grad_()
    mixed = combine(code, stack, compensate=compensate)
    F.conv2d(images, mixed).square().sum().backward()
    weight = torch.einsum("k,koihw->oihw", code.detach(), stack.detach()).requires_grad_()
    F.conv2d(images, weight).square().sum().backward()
    expected = code.detach()[:, None, None, None, None] * weight.grad
    if compensate:
        expected /= (code.detach() ** 2).sum()
        moved = torch.einsum("k,koihw->oihw", code.detach(), stack.grad)
        torch.testing.assert_close(moved, weight.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(stack.grad, expected, rtol=1e-12, atol=1e-12)
    inner = (weight.grad * stack.detach()).flatten(1).sum(1)
    torch.testing.assert_close(code.grad, inner, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_gradcheck(last):
    generator = torch.Generator().manual_seed(0)
    slices = torch.randn((3, 2, 2, 3, 3), generator=generator, dtype=torch.float64)
    if last:
        slices = restack([part.to(memory_format=torch.channels_last) for part in slices])
    code = torch.rand(3, generator=generator, dtype=torch.float64)
    index = (slice(1), slice(None), slice(1, 2))
    inputs = (code.requires_grad_(), slices.requires_grad_())
    assert torch.autograd.gradcheck(lambda c, s: combine(c, s, index), inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slicing_and_mixing_commute(dtype):
    """Exactly: every entry is the same sum, whatever its neighbours."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn((4, 37, 19, 3, 3), generator=generator, dtype=dtype)
    code = torch.softmax(torch.randn(4, generator=generator, dtype=dtype), 0)
    for out in (1, 5, 36):
        for into in (1, 7, 18):
            index = (slice(out), slice(into), slice(1, 2), slice(1, 2))
            assert torch.equal(combine(code, stack, index), combine(code, stack)[index])


def test_weights_of_all_paths_have_rank_k():
    net = k_shot(lambda: ms.zoo.tiny(width=4), 3)
    vary_codes(net)
    layer = net.model.chain[1].options["conv3"][0]
    rows = []
    for arch in list(net.space.enumerate())[:64]:
        with net.selecting(arch):
            rows.append(layer.weight.detach().flatten().double())
    weights = torch.stack(rows)
    assert torch.linalg.matrix_rank(weights, rtol=1e-5) == 3
    assert torch.linalg.matrix_rank(weights - weights[:1], rtol=1e-5) == 2


def test_options_off_the_path_do_not_move():
    """Their gradient is None, momentum and decay do not touch them; all slices on it move."""
    net = k_shot(ConvNorm, 3)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    images = torch.randn(4, 1, 8, 8)
    for arch in ((0, 0), (1, 1)):
        optimizer.zero_grad(set_to_none=True)
        before = {n: t.clone() for n, t in net.state_dict().items()}
        net(images, arch, phase="weights").square().sum().backward()
        absent = {n for n, p in net.named_parameters() if p.grad is None}
        off = str(1 - arch[0])
        layers = {n for n in before if f".options.{off}." in n}
        codes = {n for n in before if n.startswith("sharing.")}
        assert absent == layers | codes
        optimizer.step()
        for name, tensor in net.state_dict().items():
            moved = (
                (tensor != before[name]).flatten(1).any(1)
                if tensor.dim() > 1
                else tensor != before[name]
            )
            if name in absent:
                assert not moved.any(), name
            elif "layers" in name:
                assert moved.all(), name


def test_every_slice_has_the_scale_of_one_tensor():
    """torch's bound is fan^-1/2 for the fan of one slice: the uniform's deviation is that / √3."""
    net = k_shot(lambda: ms.zoo.macro(width=16), 4)
    conv = net.model.chain[8].options["mb6_k5"].body[0]
    stack = conv._parameters["weight"].detach()
    expected = stack[0, 0].numel() ** -0.5 / 3**0.5
    for part in stack:
        assert float(part.std()) == pytest.approx(expected, rel=0.02)
    flat = stack.flatten(1)
    correlations = torch.corrcoef(flat) - torch.eye(4)
    assert correlations.abs().max() < 0.02  # about five deviations of independent ones


def test_slices_come_from_networks_made_afresh():
    made = []

    def init():
        made.append(ConvNorm())
        return made[-1]

    net = k_shot(ConvNorm, 3, init=init)
    stack = net.model.layers[0].options["1"][0]._parameters["weight"]
    assert len(made) == 2
    for part, other in zip(stack[1:], made, strict=True):
        assert torch.equal(part, other.layers[0].options["1"][0].weight)
    with pytest.raises(ValueError, match=r"init\(\) makes has shape .* init must make the same"):
        k_shot(ConvNorm, 2, init=lambda: ConvNorm(width=5))


def test_nothing_is_drawn_from_the_global_stream():
    torch.manual_seed(7)
    ms.Supernet(seeded(ConvNorm), sharing=ms.sharing.KShot(3))
    ms.Supernet(seeded(ConvNorm), sharing=ms.sharing.KShot(3, init=ConvNorm))
    drawn = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(1))


def test_copies_and_pickles(case):
    make, images = case
    net = k_shot(make, 2)
    vary_codes(net)
    arch = net.space.largest
    expected = net(images, arch)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(net(images, arch), expected)
    if make is Mixed:
        return  # torch does not pickle parametrised modules
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(images, arch), expected)


def test_moving_and_casting_go_slice_by_slice(case):
    make, images = case
    net = k_shot(make, 2)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    net.to(memory_format=torch.channels_last).double().float()
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
        if tensor.dim() == 5:
            assert tensor[1].is_contiguous(memory_format=torch.channels_last)
    assert all(t.is_meta for t in net.to("meta").state_dict().values())


def test_autocast_mixes_in_full_precision():
    net = k_shot(ConvNorm, 2)
    vary_codes(net)
    layer = net.model.layers[0].options["0"][0]
    arch = (0, 1)
    with net.selecting(arch):
        expected, kept = layer.weight, net.sharing.code([arch])
    images = torch.randn(4, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with net.selecting(arch):
            assert torch.equal(layer.weight, expected)
        assert torch.equal(net.sharing.code([arch]), kept)
        logits = net(images, arch)
    assert logits.dtype == torch.bfloat16
    logits.float().sum().backward()
    assert layer._parameters["weight"].grad.dtype == torch.float32


def test_checkpointing_carries_the_code():
    class Checkpointed(ConvNorm):
        def forward(self, x):
            x = ms.nn.checkpoint(self.layers, self.stem(x))
            return self.head(torch.relu(x).mean((2, 3)))

    grads = []
    for make in (ConvNorm, Checkpointed):
        net = k_shot(make, 3)
        vary_codes(net)
        net(torch.ones(2, 1, 8, 8), (1, 0)).sum().backward()
        grads.append({n: p.grad for n, p in net.named_parameters()})
    for name, grad in grads[0].items():
        other = grads[1][name]
        assert (grad is None and other is None) or torch.equal(grad, other), name
    assert grads[0]["sharing.simplex_net.last.weight"].abs().sum() > 0


def test_a_kept_mixture_is_merged_once(monkeypatch):
    from manyshot.nn import mixing

    calls = []
    monkeypatch.setattr(mixing, "combine", lambda *a, **k: calls.append(1) or combine(*a, **k))
    net = k_shot(ConvNorm, 3)
    images = torch.randn(4, 1, 8, 8)
    ms.evaluate.score(
        net, (1, 0), calibration=[images] * 3, validation=[(images, torch.zeros(4).long())] * 3
    )
    assert len(calls) == 6  # one per tensor on the path


def test_costs_do_not_depend_on_the_scheme(case):
    make, images = case
    one, many = seeded(lambda: ms.Supernet(make())), k_shot(make, 3, mix_fixed_layers=True)
    archs = archs_of(one.space)
    assert np.array_equal(ms.cost.params(one, archs), ms.cost.params(many, archs))
    shape = tuple(images.shape[1:])
    assert np.array_equal(ms.cost.macs(one, archs, shape), ms.cost.macs(many, archs, shape))


def test_it_can_be_printed(case):
    text = str(k_shot(case[0], 2))
    assert "Stacked" in text
    assert "codes='learnt'" in text


# -- codes per channel -----------------------------------------------------------------------------


def by_channel(make, copies=3, **options):
    """Codes that differ from channel to channel and from path to path."""
    net = k_shot(make, copies, code_scope="channel", **options)
    vary_codes(net)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        net.sharing.simplex_net.factors.weight.normal_(0, 1, generator=generator)
    return net


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["mixed", "macro"])
def test_channels_extract_bit_for_bit_and_bake(name, memory_format):
    make, shape = NETS[name]
    images = torch.randn((6, *shape), generator=torch.Generator().manual_seed(2))
    net = by_channel(make, mix_fixed_layers=True).to(memory_format=memory_format)
    images = images.to(memory_format=memory_format)
    one = ms.Supernet(make()).to(memory_format=memory_format)
    for arch in archs_of(net.space, 2):
        assert torch.equal(net(images, arch), net.extract(arch)(images))
        one.load_state_dict(ms.sharing.bake(net, arch))
        torch.testing.assert_close(one(images, arch), net(images, arch), rtol=1e-5, atol=1e-5)


def test_every_output_channel_has_the_code_that_is_told():
    """By loops over channels; weight and bias of a layer share codes, elastic layers keep them."""
    net = by_channel(Mixed)
    rng = np.random.default_rng(0)
    for arch in (net.space.largest, net.space.smallest, net.space.sample(rng)):
        [code] = net.sharing.code([arch]).detach()
        assert code.shape == (net.sharing.channels, 3) and float(code.std(0).min()) > 0.05
        widen, head = net.model.widen, net.model.head
        with torch.no_grad(), net.selecting(arch) as selection:
            for layer, names in ((widen, ("weight", "bias")), (head, ("weight",))):
                first = layer._code_channels["weight"].first
                for name in names:
                    used, stack = layer.cut(name, selection), layer._parameters[name]
                    part = layer.part(name, selection)
                    assert layer._code_channels[name].first == first
                    for channel in range(len(used)):
                        by_hand = sum(code[first + channel, k] * stack[k] for k in range(3))[part]
                        torch.testing.assert_close(used[channel], by_hand[channel])


def test_which_dimension_has_the_output_channels():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            width = ms.choose((2, 4), "width")
            self.up = ms.nn.ConvTranspose2d(3, width, 3)
            self.free = ms.nn.Parameter((1, width, 1, 1))
            self.op = ms.nn.Choice(
                [
                    nn.ConvTranspose2d(4, 6, 1, groups=2),
                    nn.Embedding(7, 5),
                    nn.utils.parametrizations.weight_norm(nn.Linear(5, 8)),
                ],
                "op",
            )

    net = k_shot(Layers, 2, code_scope="channel")
    options = net.model.op.options
    runs = {
        "up": net.model.up._code_channels["weight"],
        "up's bias": net.model.up._code_channels["bias"],
        "free": net.model.free._code_channels["weight"],
        "grouped": options["0"]._code_channels["weight"],
        "table": options["1"]._code_channels["weight"],
        "magnitude": options["2"].parametrizations.weight._code_channels["original0"],
        "direction": options["2"].parametrizations.weight._code_channels["original1"],
    }
    dims = {name: (run.count, run.dim) for name, run in runs.items()}
    assert dims == {
        "up": (4, 1), "up's bias": (4, 0), "free": (1, None), "grouped": (1, None),
        "table": (5, 1), "magnitude": (8, 0), "direction": (8, 0),
    }  # fmt: skip
    assert runs["up"].first == runs["up's bias"].first
    assert runs["magnitude"].first == runs["direction"].first
    every = [
        channel
        for run in {(run.first, run.count) for m in net.modules() if isinstance(m, Stacked)
                    for run in m._code_channels.values()}
        for channel in range(run[0], sum(run))
    ]  # fmt: skip
    assert sorted(every) == list(range(net.sharing.channels))  # no two modules share a code


@pytest.mark.parametrize("compensate", [False, True])
@pytest.mark.parametrize(("dim", "index"), [(0, ()), (0, (slice(3), slice(1))), (1, (slice(3),))])
def test_gradients_of_channels(dim, index, compensate):
    """Those of a plain sum in autograd; compensated, over ‖λ_c‖², and of the code as they are."""
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn((3, 4, 4, 2, 2), generator=generator, dtype=torch.float64)
    codes = torch.softmax(torch.randn((4, 3), generator=generator, dtype=torch.float64), 1)
    if dim == 0 and index:
        codes = codes[:3]
    weight = torch.randn((4, 4, 2, 2), generator=generator, dtype=torch.float64)[index]
    found = [t.clone().requires_grad_() for t in (codes, stack)]
    mixed = combine_channels(*found, index, dim=dim, compensate=compensate)
    (mixed.sin() * weight).sum().backward()
    plain = [t.clone().requires_grad_() for t in (codes, stack)]
    letters = "ck,kcihw->cihw" if dim == 0 else "ck,kichw->ichw"
    expected = torch.einsum(letters, plain[0], plain[1][(slice(None), *index)])
    (expected.sin() * weight).sum().backward()
    torch.testing.assert_close(mixed, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0].grad, plain[0].grad, rtol=1e-12, atol=1e-12)
    slices = plain[1].grad
    if compensate:
        norms = torch.ones(4, dtype=torch.float64)
        norms[: len(codes)] = codes.square().sum(1)
        slices = slices / norms.view([1, -1, 1, 1, 1] if dim == 0 else [1, 1, -1, 1, 1])
    torch.testing.assert_close(found[1].grad, slices, rtol=1e-12, atol=1e-12)
