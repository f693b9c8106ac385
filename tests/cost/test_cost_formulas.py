"""The multiply-adds of single operations against closed forms, and what has no formula."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d

import manyshot as ms
from manyshot import cost
from manyshot.nn.counting import FORMULAS, MultiplyAdds

B = 2


def on_meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def counted(run, *shapes: tuple[int, ...], device: str = "meta") -> int:
    with torch.no_grad(), MultiplyAdds() as count:
        run(*(torch.zeros(shape, device=device) for shape in shapes))
    return count.total


def layer(make, *args, **more):
    module = make(*args, **more, device="meta").eval()
    return lambda *inputs: module(*inputs)


CLOSED_FORMS = {
    # out channels * out positions * in channels per group * kernel positions
    "conv1d": (layer(nn.Conv1d, 4, 6, 3), [(B, 4, 10)], B * 6 * 8 * 4 * 3),
    "conv2d": (layer(nn.Conv2d, 4, 6, (3, 5), 2, 1), [(B, 4, 9, 11)], B * 6 * 5 * 5 * 4 * 15),
    "conv3d": (layer(nn.Conv3d, 4, 6, 2), [(B, 4, 5, 6, 7)], B * 6 * 4 * 5 * 6 * 4 * 8),
    "grouped": (layer(nn.Conv2d, 8, 6, 3, groups=2), [(B, 8, 5, 5)], B * 6 * 9 * 4 * 9),
    "depthwise": (layer(nn.Conv2d, 8, 8, 3, groups=8), [(B, 8, 5, 5)], B * 8 * 9 * 9),
    "dilated": (layer(nn.Conv2d, 4, 6, 3, dilation=2), [(B, 4, 9, 9)], B * 6 * 25 * 4 * 9),
    "unbatched": (layer(nn.Conv2d, 4, 6, 3), [(4, 5, 5)], 6 * 9 * 4 * 9),
    # every input value meets every out channel of its group at every kernel position
    "transposed1d": (layer(nn.ConvTranspose1d, 4, 6, 3, 2), [(B, 4, 5)], B * 4 * 5 * 6 * 3),
    "transposed2d": (
        layer(nn.ConvTranspose2d, 4, 6, 3, 2, 1, output_padding=1),
        [(B, 4, 5, 7)],
        B * 4 * 35 * 6 * 9,
    ),
    "transposed_grouped": (
        layer(nn.ConvTranspose2d, 4, 6, 3, groups=2),
        [(B, 4, 5, 5)],
        B * 4 * 25 * 3 * 9,
    ),
    "transposed3d": (layer(nn.ConvTranspose3d, 4, 6, 2), [(B, 4, 3, 3, 3)], B * 4 * 27 * 6 * 8),
    "deform": (
        lambda x, offset: DeformConv2d(4, 6, 3, padding=1).to("meta")(x, offset),
        [(B, 4, 5, 7), (B, 18, 5, 7)],
        B * 6 * 35 * 4 * 9,
    ),
    "deform_grouped_and_masked": (
        lambda x, o, m: DeformConv2d(4, 6, 3, 2, groups=2).to("meta")(x, o, m),
        [(B, 4, 7, 7), (B, 18, 3, 3), (B, 9, 3, 3)],
        B * 6 * 9 * 2 * 9,
    ),
    "conv_tbc": (torch.conv_tbc, [(7, B, 4), (3, 4, 6), (6,)], 5 * B * 6 * 3 * 4),
    "linear": (layer(nn.Linear, 4, 6), [(B, 3, 4)], B * 3 * 4 * 6),
    "linear_without_bias": (layer(nn.Linear, 4, 6, bias=False), [(B, 4)], B * 4 * 6),
    "bilinear": (layer(nn.Bilinear, 3, 4, 5), [(B, 3), (B, 4)], B * 5 * 3 * 4),
    "bilinear_of_sequences": (
        layer(nn.Bilinear, 3, 4, 5, bias=False),
        [(B, 7, 3), (B, 7, 4)],
        B * 7 * 5 * 3 * 4,
    ),
    "mm": (torch.mm, [(3, 4), (4, 5)], 3 * 4 * 5),
    "addmm": (torch.addmm, [(3, 5), (3, 4), (4, 5)], 3 * 4 * 5),
    "bmm": (torch.bmm, [(B, 3, 4), (B, 4, 5)], B * 3 * 4 * 5),
    "baddbmm": (torch.baddbmm, [(B, 3, 5), (B, 3, 4), (B, 4, 5)], B * 3 * 4 * 5),
    "addbmm": (torch.addbmm, [(3, 5), (B, 3, 4), (B, 4, 5)], B * 3 * 4 * 5),
    "mv": (torch.mv, [(3, 4), (4,)], 3 * 4),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)], 3 * 4),
    "dot": (torch.dot, [(4,), (4,)], 4),
    "vdot": (torch.vdot, [(4,), (4,)], 4),
    "inner": (torch.inner, [(3, 4), (5, 4)], 3 * 4 * 5),
    "addr": (torch.addr, [(3, 5), (3,), (5,)], 3 * 5),
    "matmul_with_a_vector": (torch.matmul, [(B, 3, 4), (4,)], B * 3 * 4),
    "matmul_broadcast": (torch.matmul, [(6, 1, 3, 4), (B, 4, 5)], 6 * B * 3 * 4 * 5),
    "tensordot": (torch.tensordot, [(B, 3, 4), (3, 4, 5)], B * 3 * 4 * 5),  # over two dimensions
    "einsum": (lambda a, b: torch.einsum("bij,kj->bik", a, b), [(B, 3, 4), (5, 4)], B * 60),
    # a rotation of two coordinates and one at each of 5 * 7 positions
    "affine_grid": (
        lambda theta: F.affine_grid(theta, [B, 3, 5, 7], align_corners=False),
        [(B, 2, 3)],
        B * 35 * 2 * 3,
    ),
    "attention": (F.scaled_dot_product_attention, [(B, 2, 7, 4)] * 3, B * 2 * 7 * 7 * (4 + 4)),
    "attention_across": (
        F.scaled_dot_product_attention,
        [(B, 2, 7, 4), (B, 2, 5, 4), (B, 2, 5, 6)],
        B * 2 * 7 * 5 * (4 + 6),
    ),
    "multi_head_attention": (
        lambda x: nn.MultiheadAttention(8, 2, batch_first=True, device="meta").eval()(x, x, x),
        [(B, 7, 8)],
        B * 7 * 8 * 8 * 4 + B * 2 * 7 * 7 * (4 + 4),
    ),
    # gates * hidden * (input + hidden), at each of 7 steps
    "rnn": (layer(nn.RNN, 4, 5), [(7, B, 4)], B * 7 * 5 * (4 + 5)),
    "gru": (layer(nn.GRU, 4, 5), [(7, B, 4)], B * 7 * 3 * 5 * (4 + 5)),
    "lstm": (layer(nn.LSTM, 4, 5), [(7, B, 4)], B * 7 * 4 * 5 * (4 + 5)),
    "lstm_of_two_layers_both_ways": (
        layer(nn.LSTM, 4, 5, 2, bidirectional=True),
        [(7, B, 4)],
        B * 7 * 2 * 4 * 5 * (4 + 5 + 2 * 5 + 5),
    ),
    "gru_cell": (layer(nn.GRUCell, 4, 5), [(B, 4)], B * 3 * 5 * (4 + 5)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_forms(name):
    run, shapes, expected = CLOSED_FORMS[name]
    assert counted(run, *shapes) == expected


@pytest.mark.parametrize("masked", [False, True])
def test_operations_that_exist_on_a_cpu_alone(masked):
    """Fused attention and the fast paths of torch's transformer, as scoring runs them."""

    def fused(q, k, v):
        mask = torch.ones(7, 5, dtype=torch.bool) if masked else None
        return F.scaled_dot_product_attention(q, k, v, mask)

    shapes = [(B, 2, 7, 4), (B, 2, 5, 4), (B, 2, 5, 4)]
    assert counted(fused, *shapes, device="cpu") == B * 2 * 7 * 5 * 8

    heads = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attending = B * 7 * 8 * 8 * 4 + B * 2 * 7 * 7 * (4 + 4)
    assert counted(lambda x: heads(x, x, x), (B, 7, 8), device="cpu") == attending
    feeding = B * 7 * 2 * 8 * 16
    assert counted(encoder, (B, 7, 8), device="cpu") == attending + feeding


def test_what_is_free_by_decision_counts_nothing():
    token = nn.Parameter(torch.zeros(1, 4, 1, 1, device="meta"))
    weight = nn.Parameter(torch.zeros(5, 4, device="meta"))

    def run(x):
        for norm in (nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)):
            x = norm.to("meta").eval()(x)
        x = nn.PReLU(4, device="meta")(x * token + token)
        x = F.interpolate(F.max_pool2d(F.pad(x, (1, 1, 1, 1), "reflect"), 2), size=(6, 6))
        x = torch.cat((x, token.expand_as(x)), 2).flatten(2).transpose(1, 2)
        x = nn.RMSNorm(4, device="meta")(nn.LayerNorm(4, device="meta")(x)).softmax(-1)
        x = x + F.embedding(torch.zeros(x.shape[1], dtype=torch.long, device="meta"), weight)
        return x.mean(1), torch.outer(weight[0], weight[1]), weight.std(), weight.norm(dim=1)

    assert counted(run, (B, 4, 6, 6)) == 0


@torch.library.custom_op("manyshot_tests::mix", mutates_args=())
def mix(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


@mix.register_fake
def _(x, weight):
    return x.new_empty(*x.shape[:-1], weight.shape[0])


class Mixing(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out, into))

    def forward(self, x):
        return torch.ops.manyshot_tests.mix(x, self.weight)


def searchable():
    width = ms.choose((4, 6), "width")
    return nn.Sequential(
        ms.nn.Conv2d(3, width, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        ms.nn.Linear(width, 5),
        ms.nn.Choice({"mix": Mixing(5, 5), "no": nn.Identity()}, "last"),
    )


@pytest.fixture
def formulas(monkeypatch):
    monkeypatch.setattr("manyshot.nn.counting.FORMULAS", dict(FORMULAS))


def test_an_operation_without_a_formula_is_an_error_that_names_module_and_way_out():
    net = ms.Supernet(searchable())
    with pytest.raises(cost.UncountedOperation) as error:
        cost.macs(net, [net.space.largest], (3, 4, 4))
    assert "module '4.options.mix' (Mixing) runs manyshot_tests::mix" in str(error.value)
    assert "ms.cost.register('manyshot_tests::mix', formula)" in str(error.value)
    with pytest.raises(cost.UncountedOperation, match=r"module '1' \(Mixing\) runs"):
        cost.subnet_macs(nn.Sequential(nn.Linear(4, 5), Mixing(5, 6)), (4,))


@pytest.mark.parametrize("as_text", [False, True])
def test_a_registered_formula_counts(formulas, as_text):
    net = ms.Supernet(searchable())
    archs = list(net.space.enumerate())
    op = "manyshot_tests::mix" if as_text else torch.ops.manyshot_tests.mix
    cost.register(op, lambda out, x, weight: 0)
    base = [16 * 3 * w + 5 * w for w, _ in itertools.product((4, 6), range(2))]
    assert cost.macs(net, archs, (3, 4, 4)).tolist() == base
    cost.register(op, lambda out, x, weight: out.numel() * weight.shape[1])
    expected = [c + 25 * (option == 0) for c, (_, option) in zip(base, archs, strict=True)]
    assert cost.macs(net, archs, (3, 4, 4)).tolist() == expected
    assert cost.subnet_macs(net.extract(archs[0]), (3, 4, 4)) == expected[0]


@pytest.mark.parametrize("count", [1.5, -1, None, True])
def test_formulas_that_give_no_count_are_errors(formulas, count):
    cost.register("manyshot_tests::mix", lambda *args: count)
    with pytest.raises(cost.UncountedOperation, match=r"'0' \(Mixing\).*registered formula gave"):
        cost.subnet_macs(nn.Sequential(Mixing(4, 5)), (4,))


def test_what_cannot_be_registered_is_an_error():
    for name in ("mix", "mylib::", "::mix", "mylib::mix.default"):
        with pytest.raises(ValueError, match="is no operation; give torch.ops"):
            cost.register(name, lambda out: 0)
    with pytest.raises(TypeError, match="must be a function"):
        cost.register("mylib::mix", 3)


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (lambda x, w: torch.cdist(x, w), "_cdist_forward"),
        (lambda x, w: torch.linalg.inv(x), "linalg_inv_ex"),
        (lambda x, w: torch.fft.fft2(x), "_fft_"),
        (lambda x, w: torch.linalg.solve(x, w), "_linalg_solve_ex"),
    ],
)
def test_torchs_own_operations_that_hide_products_are_errors(run, name):
    with pytest.raises(cost.UncountedOperation, match=rf"the network runs aten::{name}"):
        counted(run, (4, 4), (4, 4))


def test_parameters_are_read_by_what_is_known_alone():
    """An operation of one tensor is no product, unless that is a parameter or a part of one."""
    weight = nn.Parameter(torch.zeros(4, 4, device="meta"))
    for part in (lambda: weight, lambda: weight[1:, 1:], weight.t):
        with pytest.raises(cost.UncountedOperation, match="the network runs aten::kthvalue"):
            counted(lambda part=part: torch.kthvalue(part(), 1))
    assert counted(lambda x: torch.kthvalue(x, 1), (4, 4)) == 0


def test_deformable_convolution_in_a_choice():
    class Deformed(nn.Module):
        def __init__(self):
            super().__init__()
            self.offset = nn.Conv2d(8, 18, 3, padding=1)
            self.conv = DeformConv2d(8, 8, 3, padding=1)

        def forward(self, x):
            return self.conv(x, self.offset(x))

    options = {"conv": nn.Conv2d(8, 8, 3, padding=1), "deform": Deformed()}
    model = nn.Sequential(nn.Conv2d(3, 8, 1), ms.nn.Choice(options, "op"))
    net = ms.Supernet(model, input_shape=(3, 10, 10))
    stem, conv, offset = 100 * 3 * 8, 100 * 9 * 8 * 8, 100 * 9 * 8 * 18
    assert cost.macs(net, [(0,), (1,)], (3, 10, 10)).tolist() == [
        stem + conv,
        stem + offset + conv,
    ]
