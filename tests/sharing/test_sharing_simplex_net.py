"""The simplex-net and the codes it gives (T3)."""

import numpy as np
import pytest
import torch
from sharing_nets import ConvNorm, Mixed, k_shot, vary_codes

import manyshot as ms
from manyshot.sharing import SimplexNet
from manyshot.space import Commutation


def space_of(*counts, commutations=False):
    decisions = [ms.choose([f"o{j}" for j in range(n)], f"d{i}") for i, n in enumerate(counts)]
    return ms.SearchSpace(
        decisions, commutations=[Commutation(tuple(decisions), 0)] if commutations else []
    )


def codes_of(net, archs):
    return net(net.encode(archs))


def test_codes_are_on_the_simplex_and_start_near_uniform():
    space = space_of(3, 3, 3, 3)
    archs = list(space.enumerate())
    for copies in (2, 4, 8):
        codes = codes_of(SimplexNet(space, copies), archs)
        assert codes.shape == (81, copies)
        assert (codes >= 0).all()
        torch.testing.assert_close(codes.sum(1), torch.ones(81))
        assert (codes - 1 / copies).abs().max() < 0.05  # logits of a last layer of deviation 0.01


def test_position_counts():
    net = SimplexNet(space_of(3, 3), 4, last_std=1.0)
    one, other = codes_of(net, [(0, 1), (1, 0)])
    assert (one - other).abs().max() > 1e-3


def test_aliases_of_one_network_get_one_code():
    net = SimplexNet(space_of(3, 3, 3, commutations=True), 4, last_std=1.0)
    alias, other, different = codes_of(net, [(0, 1, 2), (1, 0, 2), (2, 1, 0)])
    assert torch.equal(alias, other)
    assert not torch.equal(alias, different)
    macro = k_shot(lambda: ms.zoo.macro(width=1, channels=1), 3)
    vary_codes(macro)
    one, other = (2, 1, 2, 0, 1, 1, 0, 1), (2, 1, 2, 1, 0, 1, 1, 0)
    assert macro.space.canonical(one) == macro.space.canonical(other)
    assert torch.equal(*macro.sharing.code([one, other]))


def test_codes_by_hand():
    """One-hots, Linear, ReLU, Linear, softmax, in numpy."""
    space = ms.SearchSpace([ms.choose(("a", "b"), "op"), ms.choose((8, 16, 24), "width")])
    net = SimplexNet(space, 3, widths=[space.decisions[1]], tau=2.0, last_std=1.0).double()
    state = {n: t.numpy() for n, t in net.state_dict().items()}
    one_hot, wide = np.array([0.0, 1.0]), np.array([0.0, 0.0, 1.0])
    hidden = state["operations.weight"] @ one_hot + state["operations.bias"]
    hidden = np.maximum(hidden + state["channels.weight"] @ wide, 0)
    logits = (state["last.weight"] @ hidden + state["last.bias"]) / 2
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(codes_of(net, [(1, 2)])[0].detach().numpy(), expected, rtol=1e-12)
    assert "channels.bias" not in state


@pytest.mark.parametrize(("options", "units"), [(3, 64), (13, 128)])
def test_hidden_units_grow_with_the_space(options, units):
    assert SimplexNet(space_of(*[options] * 21), 4).last.in_features == (
        units if options == 13 else 64
    )


def test_a_space_of_widths_alone():
    space = ms.SearchSpace([ms.choose((8, 16), "width")])
    net = SimplexNet(space, 2, widths=space.decisions)
    assert net.operations is None
    assert codes_of(net, [(0,), (1,)]).shape == (2, 2)


def test_a_seed_gives_the_weights():
    space = space_of(3, 3)
    one, same, other = (SimplexNet(space, 2, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["last.weight"], other["last.weight"])


@pytest.mark.parametrize("bad", [{"copies": 0}, {"tau": 0.0}, {"hidden": 0}, {"last_std": -1.0}])
def test_numbers_out_of_range(bad):
    with pytest.raises(ValueError, match="SimplexNet: copies and hidden must be at least 1"):
        SimplexNet(space_of(2), **{"copies": 2, **bad})


def test_a_code_per_layer_mixes_each_layer_by_its_row():
    net = k_shot(ConvNorm, 3, code_scope="layer")
    vary_codes(net)
    assert net.sharing.layers == 2
    rows = net.sharing.code([(1, 1)])
    assert rows.shape == (1, 2, 3)
    assert not torch.allclose(rows[0, 0], rows[0, 1])
    with net.selecting((1, 1)):
        for i, layer in enumerate(net.model.layers):
            stack = layer.options["1"][0]._parameters["weight"]
            expected = torch.einsum("k,k...->...", rows[0, i], stack)
            torch.testing.assert_close(layer.options["1"][0].weight, expected)


def test_layers_are_decisions_blocks_and_single_modules():
    """Of `Mixed`: the choice, three blocks, and four elastic layers outside."""
    assert k_shot(Mixed, 2, code_scope="layer").sharing.layers == 1 + 3 + 4
    assert k_shot(lambda: ms.zoo.cell(width=2, cells=2), 2, code_scope="layer").sharing.layers == 6


def test_width_decisions_go_through_the_channel_branch():
    net = k_shot(Mixed, 2)
    assert [d.name for d in net.sharing.simplex_net.widths] == ["width"]
    assert k_shot(ConvNorm, 2).sharing.simplex_net.channels is None


def test_gradients_reach_it_through_the_merged_weights():
    net = k_shot(ConvNorm, 3)
    images = torch.randn(4, 1, 8, 8)
    for phase, learns in (
        ("code", True),
        ("joint", True),
        (None, True),
        ("weights", False),
        ("warmup", False),
    ):
        net.zero_grad(set_to_none=True)
        net(images, (0, 1), phase=phase).square().sum().backward()
        grads = [p.grad for p in net.sharing.simplex_net.parameters()]
        assert all((g is not None and bool(g.abs().sum() > 0)) == learns for g in grads)


def test_warming_up_has_uniform_codes_and_controls_have_theirs():
    for scope in ("path", "layer"):
        net = k_shot(ConvNorm, 4, code_scope=scope)
        vary_codes(net)
        assert (net.sharing.mixture((0, 0), "warmup").code == 0.25).all()
    uniform = k_shot(ConvNorm, 4, codes="uniform")
    assert uniform.sharing.code([(0, 1), (1, 1)]).tolist() == [[0.25] * 4] * 2
    hard = k_shot(ConvNorm, 2, codes="one_hot", split="layer1")
    assert hard.sharing.code([(0, 1), (1, 0)]).tolist() == [[0, 1], [1, 0]]
    frozen = k_shot(ConvNorm, 4, codes="random")
    codes = frozen.sharing.code(list(frozen.space.enumerate()))
    assert ms.sharing.spread(codes) > 0.02
    assert not any(p.requires_grad for p in frozen.sharing.simplex_net.parameters())
    assert frozen.sharing.code_optimizer(0.1, 0.9) is None


def test_one_hot_codes_split_by_an_option():
    """Few-shot NAS: paths with another option of the decision share no searched weight."""
    net = k_shot(ConvNorm, 2, codes="one_hot")
    net(torch.randn(4, 1, 8, 8), (1, 0)).square().sum().backward()
    grad = net.model.layers[1].options["0"][0]._parameters["weight"].grad
    assert (grad[0] == 0).all() and (grad[1] != 0).any()


def test_what_cannot_be_attached():
    scheme = ms.sharing.KShot(2)
    with pytest.raises(RuntimeError, match="KShot has no codes before ms.Supernet"):
        scheme.code([(0,)])
    ms.Supernet(ConvNorm(), sharing=scheme)
    with pytest.raises(RuntimeError, match="belongs to another supernet already: make a new one"):
        ms.Supernet(ConvNorm(), sharing=scheme)
    with pytest.raises(ValueError, match="split must be one of layer0, layer1, got 'layer9'"):
        k_shot(ConvNorm, 2, codes="one_hot", split="layer9")

    class Empty(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.op = ms.nn.Choice([torch.nn.Identity(), torch.nn.Tanh()], "op")
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.op(x))

    with pytest.raises(ValueError, match=r"no choice, depth or elastic layer .* has parameters"):
        k_shot(Empty, 2)
    assert k_shot(Empty, 2, mix_fixed_layers=True)(torch.ones(1, 4), (0,)).shape == (1, 2)
