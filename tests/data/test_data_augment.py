import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import v2

from manyshot.data import Augment
from manyshot.data.augment import (
    Changes,
    augmented,
    change,
    crop_boxes,
    draw_changes,
    erase,
    fit,
    move,
)

SETTINGS = settings(derandomize=True, deadline=None, max_examples=40)
# torch.rand gives multiples of 2**-53 in [0, 1).
UNIT = st.floats(0, 1, exclude_max=True)


@SETTINGS
@given(
    st.integers(1, 3),
    st.integers(2, 7),
    st.integers(2, 7),
    st.integers(0, 3),
    st.sampled_from(["constant", "edge"]),
    st.booleans(),
)
def test_move_equals_a_loop_over_images(channels, height, width, pad, mode, flip):
    n = 9
    rng = np.random.default_rng(channels + 10 * height + 100 * width)
    images = rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8)
    augment = Augment(pad=pad, padding_mode=mode, flip=True)
    moves = draw_changes(n, augment, seed=height, epoch=width)
    if not flip:
        moves = replace(moves, flip_N=torch.zeros(n, dtype=torch.bool))
    moved = move(torch.from_numpy(images), moves, augment).numpy()
    places = (moves.top_N, moves.left_N, moves.flip_N)
    for image, top, left, mirrored, result in zip(images, *places, moved, strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode)
        window = padded[:, top : top + height, left : left + width]
        assert np.array_equal(result, window[:, :, ::-1] if mirrored else window)


def texts(*arguments) -> dict[str, str]:
    """What is drawn, by its name, as text."""
    drawn = draw_changes(*arguments)
    values = {field.name: getattr(drawn, field.name) for field in fields(drawn)}
    return {name: str(v.tolist()) for name, v in values.items() if v is not None}


EVERYTHING = Augment(pad=2, flip=True, crop_scale=(0.5, 1.0), jitter=0.2)


MORE = replace(EVERYTHING, rand_augment=(2, 9), random_erasing=0.5)


def test_changes_follow_seed_and_epoch_and_nothing_else():
    base = texts(50, MORE, 1, 2)
    assert len(base) == 7
    assert texts(50, MORE, 1, 2) == base
    others = [texts(50, MORE, *at) for at in ((2, 1), (1, 3), (2, 2))]
    for name in base:
        assert len({drawn[name] for drawn in (base, *others)}) == 4, name
    assert draw_changes(50, Augment(), 1, 2) is None


def test_what_one_option_draws_does_not_depend_on_the_others():
    base = texts(50, MORE, 1, 2)
    assert texts(50, Augment(rand_augment=(1, 0)), 1, 2) == {"seed_N": base["seed_N"]}
    assert texts(50, Augment(random_erasing=1.0), 1, 2) == {"erase_N5": base["erase_N5"]}
    assert texts(50, Augment(crop_scale=(0.1, 0.9)), 1, 2) == {"crop_N4": base["crop_N4"]}
    assert texts(50, Augment(jitter=0.2), 1, 2) == {"factors_N3": base["factors_N3"]}
    flips = texts(50, Augment(flip=True), 1, 2)
    zeros = str([0] * 50)
    assert flips == {"top_N": zeros, "left_N": zeros, "flip_N": base["flip_N"]}
    shifts = texts(50, Augment(pad=2), 1, 2)
    assert (shifts["top_N"], shifts["left_N"]) == (base["top_N"], base["left_N"])
    assert shifts["flip_N"] == str([False] * 50)


def test_every_shift_and_both_directions_are_equally_likely():
    moves = draw_changes(50_000, Augment(pad=2, flip=True), seed=0, epoch=0)
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
        ({"padding_mode": "reflect"}, "padding_mode must be 'constant' or 'edge', got 'reflect'"),
        ({"flip": 1}, "flip must be True or False, got 1"),
        ({"crop_scale": (0.0, 1.0)}, "crop_scale must be"),
        ({"crop_scale": (0.5, 0.4)}, "crop_scale must be"),
        ({"crop_scale": (0.5, 1.1)}, "crop_scale must be"),
        ({"jitter": 1.0}, r"jitter must be in \[0, 1\), got 1.0"),
        ({"jitter": -0.1}, "jitter must be"),
        ({"rand_augment": (0, 9)}, r"rand_augment must be .* got \(0, 9\)"),
        ({"rand_augment": (2, 31)}, r"a strength of 0\.\.30, got \(2, 31\)"),
        ({"rand_augment": (2, 9.5)}, r"rand_augment must be .* got \(2, 9.5\)"),
        ({"rand_augment": (2,)}, r"rand_augment must be .* got \(2,\)"),
        ({"random_erasing": 1.1}, r"random_erasing must be in \[0, 1\], got 1.1"),
        ({"repeats": 0}, "repeats must be a number, 1 or more, got 0"),
        ({"repeats": 2}, "repeats = 2 shows every image again as it was"),
        ({"repeats": 2, "padding_mode": "edge"}, "repeats = 2 shows every image again"),
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
    drawn = torch.tensor([draws], dtype=torch.float64)
    [[top, left, h, w]] = crop_boxes(height, width, tuple(scale), drawn).tolist()
    assert top >= 0
    assert top + h <= height
    assert left >= 0
    assert left + w <= width
    assert h >= 1
    assert w >= 1


def test_crop_has_the_drawn_area_and_ratio():
    # Large and central enough never to be cut; rounding to pixels is below 1 %.
    drawn = [[0.0, 0.0, 0.0, 0.0], [0.3, 0.5, 0.0, 0.0], [0.9, 0.999, 0.0, 0.0]]
    boxes = crop_boxes(1000, 1000, (0.1, 0.5), torch.tensor(drawn, dtype=torch.float64)).tolist()
    for (area, ratio, *_), (_, _, h, w) in zip(drawn, boxes, strict=True):
        assert h * w == pytest.approx(1e6 * (0.1 + 0.4 * area), rel=0.01)
        assert w / h == pytest.approx(0.75 * (16 / 9) ** ratio, rel=0.01)
    wide = torch.tensor([[0.5, 0.9, 0.9, 0.9]], dtype=torch.float64)
    assert crop_boxes(50, 60, (1.0, 1.0), wide)[0, 3] == 60


@SETTINGS
@given(st.sampled_from([1, 3]), st.integers(2, 24), st.integers(2, 24), st.floats(0.05, 1))
def test_crops_of_a_batch_are_torchvisions_of_each_image(channels, height, width, least):
    """Both round to whole pixels, torchvision after either direction: one apart at most."""
    n, augment = 6, Augment(crop_scale=(least, 1.0))
    rng = np.random.default_rng(height * 100 + width)
    images = torch.from_numpy(rng.integers(0, 256, (n, channels, height, width), dtype=np.uint8))
    changes = draw_changes(n, augment, seed=height, epoch=width)
    boxes = crop_boxes(height, width, (least, 1.0), changes.crop_N4).tolist()
    for image, box, result in zip(images, boxes, change(images, changes, augment), strict=True):
        expected = v2.functional.resized_crop(image, *box, size=[height, width], antialias=True)
        assert result.dtype == torch.uint8
        assert (result.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_torchvisions_three_adjustments_one_after_the_other(channels):
    """The factors are float32 here and float64 there, so that a value may round otherwise."""
    images = torch.randint(
        0, 256, (20, channels, 9, 12), generator=torch.Generator().manual_seed(1)
    )
    images, augment = images.to(torch.uint8), Augment(jitter=0.4)
    changes = draw_changes(20, augment, 5, 6)
    assert changes.factors_N3.min() >= 0.6 and changes.factors_N3.max() <= 1.4
    assert changes.factors_N3.std() > 0.15  # 0.4 / sqrt(3) is 0.23
    results = change(images, changes, augment)
    for image, factors, result in zip(images, changes.factors_N3.tolist(), results, strict=True):
        expected = v2.functional.adjust_brightness(image, factors[0])
        expected = v2.functional.adjust_contrast(expected, factors[1])
        expected = v2.functional.adjust_saturation(expected, factors[2])
        distance = (result.int() - expected.int()).abs()
        assert distance.max() <= 2 and (distance > 0).float().mean() < 0.02


def test_fit_covers_and_cuts_the_centre():
    image = torch.arange(4 * 8, dtype=torch.uint8).reshape(1, 4, 8)
    assert torch.equal(fit(image, 4, 8), image)
    assert torch.equal(fit(image, 4, 4), image[:, :, 2:6])
    assert torch.equal(fit(image.mT, 4, 4), image.mT[:, 2:6])
    smooth = torch.full((3, 30, 50), 77, dtype=torch.uint8)
    assert torch.equal(fit(smooth, 12, 9), torch.full((3, 12, 9), 77, dtype=torch.uint8))
    assert fit(smooth, 7, 7).shape == (3, 7, 7)


def test_rand_augment_draws_each_of_its_operations_for_each_image():
    """Pillow's operations are the oracle; shears, shifts and turns are what is none of them."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(20, 230, (24, 24, 3), dtype=np.uint8)  # of fewer Pillow equalises none
    image = Image.fromarray(pixels)
    strength = 9 / 30 * 0.9
    possible = {"same": [image], "auto": [ImageOps.autocontrast(image)]}
    possible["equalize"] = [ImageOps.equalize(image)]
    possible["posterize"] = [ImageOps.posterize(image, 8 - round(9 / 30 * 4))]
    possible["solarize"] = [ImageOps.solarize(image, math.ceil(255 * 21 / 30))]
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        enhanced = getattr(ImageEnhance, name)(image)
        possible[name] = [enhanced.enhance(1 + sign * strength) for sign in (-1, 1)]
    known = [(name, np.array(at)) for name, results in possible.items() for at in results]
    n, augment = 1400, Augment(rand_augment=(1, 9))
    images = torch.from_numpy(pixels).permute(2, 0, 1).expand(n, -1, -1, -1)
    changed = change(images, draw_changes(n, augment, 3, 4), augment)
    counts = dict.fromkeys([*range(len(known)), "moved"], 0)
    for result in changed.permute(0, 2, 3, 1).int().numpy():
        off = [np.abs(result - other).max() for _, other in known]  # torchvision rounds otherwise
        counts[int(np.argmin(off)) if min(off) <= 2 else "moved"] += 1
    expected = {i: n / 14 / len(possible[name]) for i, (name, _) in enumerate(known)}
    expected["moved"] = n * 5 / 14
    # Chi-square with 13 degrees of freedom: 99.99th percentile 42.
    assert sum((counts[k] - expected[k]) ** 2 / expected[k] for k in counts) < 42, counts


@SETTINGS
@given(
    st.integers(1, 9), st.integers(1, 9), st.lists(UNIT, min_size=5, max_size=5), st.floats(0, 1)
)
def test_what_is_erased_is_the_rectangle_that_torchvision_erases(height, width, draws, probability):
    drawn = torch.tensor([draws], dtype=torch.float64)
    image = 1 + torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
    [box] = crop_boxes(height, width, (0.02, 0.33), drawn[:, 1:], math.log(10 / 3)).tolist()
    expected = v2.functional.erase(image, *box, torch.zeros(1, 1, 1))
    expected = expected if draws[0] < probability else image
    assert torch.equal(erase(image.clone(), drawn, probability), expected)


def test_so_many_images_are_erased_and_so_much_of_each():
    n, side = 4000, 100
    draws = draw_changes(n, Augment(random_erasing=0.25), 0, 0).erase_N5
    erased = (erase(torch.ones(n, 1, side, side), draws, 0.25) == 0)[:, 0]
    height, width = erased.any(2).sum(1), erased.any(1).sum(1)
    assert torch.equal(height * width, erased.sum((1, 2))), "a rectangle"
    happens = height > 0
    # 1000 expected with a standard deviation of 27.
    assert abs(int(happens.sum()) - 1000) < 110
    area = (height * width)[happens] / side**2
    ratio = (width / height)[happens]
    # Sides are whole pixels of 8 or more: areas are off by an eighth of the least at most.
    assert 0.017 < area.min() < 0.03 and 0.3 < area.max() < 0.34
    # Uniform between its ends: a mean of 0.175 with an error of 0.0028.
    assert abs(float(area.mean()) - 0.175) < 0.012
    assert 0.26 < ratio.min() < 0.4 and 2.5 < ratio.max() < 3.8
    assert abs(float(ratio.log().mean())) < 0.1


def one(image, augment, seed, side=12):
    return augmented(image, side, side, augment, draw_changes(1, augment, seed, 0))


@pytest.mark.parametrize(
    "augment",
    [Augment(pad=2, flip=True), Augment(jitter=0.4), Augment(rand_augment=(3, 15)), EVERYTHING],
)
def test_an_image_in_a_file_changes_as_one_in_memory_does(augment):
    """Alone and in a batch; but a crop that torchvision takes, which rounds otherwise."""
    images = torch.randint(0, 256, (7, 3, 12, 12), generator=torch.Generator().manual_seed(3))
    images = images.to(torch.uint8)
    changes = draw_changes(7, augment, 0, 0)
    together = change(images, changes, augment)
    for i, image in enumerate(images):
        alone = augmented(image, 12, 12, augment, changes.of(torch.tensor([i])))
        most = 0 if augment.crop_scale is None else 3
        assert (alone.int() - together[i].int()).abs().max() <= most
    assert not torch.equal(together, images)


def test_file_image_is_moved_like_one_of_the_possible_moves():
    image = torch.arange(1, 145, dtype=torch.uint8).reshape(1, 12, 12).expand(3, -1, -1)
    possible = {}
    for top in range(3):
        for left in range(3):
            for flip in (False, True):
                moves = Changes(
                    top_N=torch.tensor([top]),
                    left_N=torch.tensor([left]),
                    flip_N=torch.tensor([flip]),
                )
                moved = move(image[None], moves, Augment(pad=1))[0]
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
        Augment(pad=3, padding_mode="edge"),
        Augment(flip=True),
        Augment(crop_scale=(0.2, 0.6)),
        Augment(jitter=0.5),
        Augment(rand_augment=(2, 20)),
    ):
        results = [one(image, augment, s) for s in range(8)]
        assert all(r.shape == (3, 12, 12) and r.dtype == torch.uint8 for r in results)
        assert any(not torch.equal(r, plain) for r in results)
        assert torch.equal(one(image, augment, 5), results[5])
