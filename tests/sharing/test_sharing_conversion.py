"""One copy to K copies and back."""

import pytest
import torch
from sharing_nets import ConvNorm, Mixed, k_shot, seeded, vary_codes

import manyshot as ms
from manyshot.sharing import bake, slice_distance, widen
from manyshot.sharing.dictionary import rows

SHAPES = {Mixed: (3, 8, 8), ConvNorm: (1, 8, 8)}


@pytest.mark.parametrize("make", [Mixed, ConvNorm])
@pytest.mark.parametrize("source", ["one_shot", "k_1"])
def test_one_copy_widens(make, source):
    one = seeded(lambda: ms.Supernet(make()), 3) if source == "one_shot" else k_shot(make, 1)
    many = k_shot(make, 4)
    images = torch.randn(5, *SHAPES[make])
    many.load_state_dict(widen(many, one.state_dict(), spread=0.3, seed=1))
    assert slice_distance(rows(many)) > 0.1
    for arch in (many.space.largest, many.space.smallest):
        expected = one(images, arch)
        torch.testing.assert_close(
            many(images, arch, phase="warmup"), expected, rtol=1e-3, atol=1e-4
        )
    many.load_state_dict(widen(many, one.state_dict(), spread=0.0))
    assert slice_distance(rows(many)) == pytest.approx(0, abs=1e-7)
    vary_codes(many)
    torch.testing.assert_close(many(images, arch), expected, rtol=1e-3, atol=1e-4)


def test_the_noise_has_the_deviation_asked_for_and_the_one_copy_as_mean():
    one = seeded(lambda: ms.Supernet(ms.zoo.macro(width=16)), 3)
    many = k_shot(lambda: ms.zoo.macro(width=16), 4)
    name = "model.chain.8.options.mb6_k5.body.0.weight"
    own = one.state_dict()[name]
    wide = widen(many, one.state_dict(), spread=0.2)[name]
    torch.testing.assert_close(wide.mean(0), own)
    for part in wide:
        assert float((part - own).std()) == pytest.approx(0.2 * float(own.std()), rel=0.02)
    again = widen(many, one.state_dict(), spread=0.2)[name]
    other = widen(many, one.state_dict(), spread=0.2, seed=1)[name]
    assert torch.equal(wide, again) and not torch.equal(wide, other)


@pytest.mark.parametrize("scope", ["path", "layer"])
@pytest.mark.parametrize("make", [Mixed, ConvNorm])
def test_k_copies_bake_into_one_for_a_path(make, scope):
    many, one = k_shot(make, 3, code_scope=scope), ms.Supernet(make())
    vary_codes(many)
    images = torch.randn(5, *SHAPES[make])
    for arch in (many.space.largest, many.space.smallest):
        baked = bake(many, arch)
        one.load_state_dict(baked)
        torch.testing.assert_close(one(images, arch), many(images, arch), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused():
    many, one = k_shot(ConvNorm, 2), ms.Supernet(ConvNorm())
    state = one.state_dict()
    with pytest.raises(ValueError, match="spread must be at least 0 and finite, got -1"):
        widen(many, state, spread=-1)
    with pytest.raises(ValueError, match="has no model.layers.0.options.0.0.weight; is it of the"):
        widen(many, {n: t for n, t in state.items() if "layers" not in n})
    with pytest.raises(ValueError, match=r"shape \(5, 4, 3, 3\), which does not become"):
        name = "model.layers.0.options.1.0.weight"
        widen(many, {**state, name: torch.zeros(5, 4, 3, 3)})
    with pytest.raises(ValueError, match="weight has 3 slices; give the state dict of one copy"):
        widen(many, k_shot(ConvNorm, 3).state_dict())
    with pytest.raises(ValueError, match="Supernet has no K-shot weights: make it by"):
        bake(one, (0, 0))
