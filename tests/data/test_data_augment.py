import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from manyshot.data import Augment
from manyshot.data.augment import Moves, augmented, crop_box, draw_moves, fit, move

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
# torch.rand gives multiples of 2**-53 in [0, 1).
UNIT = st.floats(0, 1, exclude_max=True)


@SETTINGS
@given(st.integers(1, 3), st.integers(2, 7), st.integers(2, 7), st.integers(0, 3), st.booleans())
def test_move_equals_a_loop_over_images(channels, height, width, pad, flip):
    n = 9
    rng = np.random.default_rng(channels + 10 * height + 100 * width)
    images = rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    moves = draw_moves(n, Augment(pad=pad, flip=True), seed=height, epoch=width)
    if not flip:
        moves = moves._replace(flip_N=torch.zeros(n, dtype=torch.bool))
    moved = move(torch.from_numpy(images), moves, pad).numpy()
    for image, top, left, mirrored, result in zip(images, *moves, moved, strict=True):
        black = np.zeros((channels, height + 2 * pad, width + 2 * pad), dtype=np.uint8)
        black[:, pad : pad + height, pad : pad + width] = image
        window = black[:, top : top + height, left : left + width]
        assert np.array_equal(result, window[:, :, ::-1] if mirrored else window)


def test_moves_follow_seed_and_epoch_and_nothing_else():
    augment = Augment(pad=2, flip=True)

    def text(*arguments) -> str:
        return str([tensor.tolist() for tensor in draw_moves(*arguments)])

    base = text(50, augment, 1, 2)
    assert text(50, augment, 1, 2) == base
    assert (
        len({base, text(50, augment, 2, 1), text(50, augment, 1, 3), text(50, augment, 2, 2)}) == 4
    )
    # What one option draws does not depend on the other.
    only_flip = draw_moves(50, Augment(flip=True), 1, 2)
    assert torch.equal(only_flip.flip_N, draw_moves(50, augment, 1, 2).flip_N)
    assert not only_flip.top_N.any()
    assert not draw_moves(50, Augment(pad=2), 1, 2).flip_N.any()
    assert draw_moves(50, Augment(), 1, 2) is None


def test_every_shift_and_both_directions_are_equally_likely():
    moves = draw_moves(50_000, Augment(pad=2, flip=True), seed=0, epoch=0)
    kind = (moves.top_N * 5 + moves.left_N) * 2 + moves.flip_N
    counts = torch.bincount(kind, minlength=50).double()
    # Chi-square with 49 degrees of freedom: 99.99th percentile 96.
    assert len(counts) == 50
    assert float(((counts - 1000) ** 2 / 1000).sum()) < 96


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"pad": -1}, "pad must be .* got -1"),
        ({"pad": 1.5}, "pad must be .* got 1.5"),
        ({"pad": True}, "pad must be .* got True"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be"),
        ({"crop_scale": (0.5, 0.4)}, "crop_scale must be"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale must be"),
        ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1.0"),
        ({"jitter": -0.1}, "jitter must be"),
    ],
)
def test_options_outside_their_range(option, message):
    with pytest.raises(ValueError, match=message):
        Augment(**option)


@SETTINGS
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    st.lists(UNIT, min_size=4, max_size=4),
)
def test_crop_lies_inside_the_image(height, width, scale, draws):
    top, left, h, w = crop_box(height, width, tuple(scale), draws)
    assert top >= 0
    assert top + h <= height
    assert left >= 0
    assert left + w <= width
    assert h >= 1
    assert w >= 1


def test_crop_has_the_drawn_area_and_ratio():
    # Large and central enough never to be cut; rounding to pixels is below 1 %.
    for area, ratio in ((0.0, 0.0), (0.3, 0.5), (0.9, 0.999)):
        _, _, h, w = crop_box(1000, 1000, (0.1, 0.5), [area, ratio, 0.0, 0.0])
        assert h * w == pytest.approx(1e6 * (0.1 + 0.4 * area), rel=0.01)
        assert w / h == pytest.approx(0.75 * (16 / 9) ** ratio, rel=0.01)
    assert crop_box(50, 60, (1.0, 1.0), [0.5, 0.9, 0.9, 0.9])[3] == 60


def test_fit_covers_and_cuts_the_centre():
    image = torch.arange(4 * 8, dtype=torch.uint8).reshape(1, 4, 8)
    assert torch.equal(fit(image, 4, 8), image)
    assert torch.equal(fit(image, 4, 4), image[:, :, 2:6])
    assert torch.equal(fit(image.mT, 4, 4), image.mT[:, 2:6])
    smooth = torch.full((3, 30, 50), 77, dtype=torch.uint8)
    assert torch.equal(fit(smooth, 12, 9), torch.full((3, 12, 9), 77, dtype=torch.uint8))
    assert fit(smooth, 7, 7).shape == (3, 7, 7)


def one(image, augment, seed, side=12):
    return augmented(image, side, side, augment, torch.Generator().manual_seed(seed))


def test_file_image_is_moved_like_one_of_the_possible_moves():
    image = torch.arange(1, 145, dtype=torch.uint8).reshape(1, 12, 12).expand(3, -1, -1)
    possible = {}
    for top in range(3):
        for left in range(3):
            for flip in (False, True):
                moves = Moves(torch.tensor([top]), torch.tensor([left]), torch.tensor([flip]))
                moved = move(image[None], moves, 1)[0]
                possible[moved.numpy().tobytes()] = (top, left, flip)
    assert len(possible) == 18
    seen = {
        possible[one(image, Augment(pad=1, flip=True), s).numpy().tobytes()] for s in range(200)
    }
    assert (
        len(seen) == 18
    )  # missing one has probability 18 * (17/18)^200, about 2e-4; seeds are fixed


def test_every_option_changes_a_file_image_and_only_by_its_generator():
    gradient = torch.arange(20, dtype=torch.uint8)
    image = torch.stack(
        [(gradient[:, None] * f + gradient * g) for f, g in ((5, 2), (1, 9), (3, 3))]
    )
    plain = one(image, Augment(), 0)
    assert torch.equal(plain, fit(image, 12, 12))
    for augment in (
        Augment(pad=3),
        Augment(flip=True),
        Augment(crop_scale=(0.2, 0.6)),
        Augment(jitter=0.5),
    ):
        results = [one(image, augment, s) for s in range(8)]
        assert all(r.shape == (3, 12, 12) and r.dtype == torch.uint8 for r in results)
        assert any(not torch.equal(r, plain) for r in results)
        assert torch.equal(one(image, augment, 5), results[5])


def test_jitter_is_the_three_adjustments_with_factors_around_one():
    image = torch.randint(0, 256, (3, 12, 12), generator=torch.Generator().manual_seed(1))
    image = image.to(torch.uint8)
    draws = torch.rand(10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    factors = (1 + 0.3 * (2 * draws[7:] - 1)).tolist()
    expected = v2.functional.adjust_brightness(image, factors[0])
    expected = v2.functional.adjust_contrast(expected, factors[1])
    expected = v2.functional.adjust_saturation(expected, factors[2])
    assert torch.equal(one(image, Augment(jitter=0.3), 4), expected)
