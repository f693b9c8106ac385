import itertools
import os
import random  # noqa: TID251 - to see that its state is left alone
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from manyshot.data import Augment, Batches, Growth, ImageSet, fixed, load

MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.3, 0.25)
FULL = Augment(pad=2, flip=True)
MORE = Augment(flip=True, rand_augment=(2, 9), random_erasing=0.5, repeats=2)


def make(dataset, size=8, **options) -> Batches:
    channels = dataset.image_shape[0]
    defaults = {"mean": MEAN[:channels], "std": STD[:channels], "seed": 5}
    return Batches(dataset, size, **{**defaults, **options})


def equal(first, second) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.fixture
def files(tmp_path, write_folder_set):
    root = write_folder_set(tmp_path, each=7)
    return load("folder", root=root, image_size=8, validation=0).train


@pytest.fixture(params=["memory", "files"])
def either(request, make_set):
    """14 images, in memory and in files."""
    return make_set(14) if request.param == "memory" else request.getfixturevalue("files")


@pytest.mark.parametrize("channels_last", [False, True])
def test_normalisation_is_the_closed_form(make_set, channels_last):
    images = make_set(16)
    batch, labels = next(make(images, 16, shuffle=False, channels_last=channels_last).epoch(0))
    pixels = images.images.numpy().astype(np.float64)
    shape = (1, 3, 1, 1)
    expected = (pixels / 255 - np.reshape(MEAN, shape)) / np.reshape(STD, shape)
    # Values up to 3.5 in float32 after two roundings: errors below 1e-6.
    assert np.abs(batch.numpy() - expected).max() < 2e-6
    assert torch.equal(labels, images.labels)
    assert labels.dtype == torch.int64
    assert batch.is_contiguous(memory_format=torch.channels_last) == channels_last
    assert batch.is_contiguous() != channels_last


def test_dtype_only_rounds_the_result(make_set):
    images = make_set(16)
    exact = next(make(images, 16).epoch(0))[0]
    half = next(make(images, 16, dtype=torch.bfloat16).epoch(0))[0]
    assert torch.equal(half, exact.to(torch.bfloat16))


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own(make_set):
    images = make_set(40)
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    where = {image.numpy().tobytes(): i for i, image in enumerate(images.images)}

    def order(epoch: int, **options) -> list[int]:
        seen = []
        for batch, labels in make(images, **plain, **options).epoch(epoch):
            pixels = (batch * 255).round().to(torch.uint8).contiguous()
            index = [where[p.numpy().tobytes()] for p in pixels]
            assert labels.tolist() == images.labels[index].tolist()
            seen += index
        return seen

    orders = [order(0), order(1), order(2), order(0, seed=6)]
    assert all(sorted(o) == list(range(40)) for o in orders)
    assert len({tuple(o) for o in orders}) == 4
    assert order(1) == orders[1]
    assert order(3, shuffle=False) == list(range(40))


def test_black_comes_in_from_outside():
    """A white image with all shifts: what comes in is 0 before normalisation, exactly."""
    white = ImageSet(
        images=torch.full((200, 1, 4, 4), 255, dtype=torch.uint8),
        labels=torch.zeros(200, dtype=torch.int64),
        classes=1,
    )
    batch, _ = next(make(white, 200, augment=Augment(pad=1)).epoch(0))
    black, bright = (0 - MEAN[0]) / STD[0], (1 - MEAN[0]) / STD[0]
    is_black = (batch - black).abs() < 1e-6
    assert (is_black | ((batch - bright).abs() < 1e-6)).all()
    assert set(is_black.sum((1, 2, 3)).tolist()) == {0, 4, 7}  # none, a side, a corner


def test_augmentation_belongs_to_the_image_not_to_its_place(make_set):
    """With and without shuffling, each image gets the same augmentation in one epoch."""
    images = make_set(24, shape=(1, 6, 6), classes=24)
    by_label = []
    for shuffle in (False, True):
        batches = list(make(images, 8, augment=FULL, shuffle=shuffle).epoch(3))
        pictures = torch.cat([b for b, _ in batches])
        by_label.append(pictures[torch.cat([labels for _, labels in batches]).argsort()])
    assert torch.equal(*by_label)
    again = torch.cat([b for b, _ in make(images, 8, augment=FULL, shuffle=False).epoch(4)])
    assert not torch.equal(by_label[0], again), "another epoch, another augmentation"


@pytest.mark.parametrize("augment", [FULL, MORE])
@pytest.mark.parametrize("drop_last", [False, True])
def test_entering_an_epoch_late_gives_its_tail(either, drop_last, augment):
    batches = make(either, 4, augment=augment, drop_last=drop_last)
    whole = list(batches.epoch(2))
    assert len(whole) == len(batches) == (3 if drop_last else 4)
    assert [len(labels) for _, labels in whole] == [4, 4, 4, 2][: len(whole)]
    assert len(make(either, 7, drop_last=drop_last)) == 2
    for start in range(len(batches) + 1):
        assert equal(batches.epoch(2, start=start), whole[start:])


def test_steps_are_counted_through_all_epochs(either):
    batches = make(either, augment=Augment(pad=1, flip=True))
    three = [batch for epoch in range(3) for batch in batches.epoch(epoch)]
    for step in range(2 * len(batches) + 1):
        assert equal(itertools.islice(batches.from_step(step), len(three) - step), three[step:])


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("augment", [FULL, MORE])
def test_ranks_together_are_the_single_process(make_set, world, drop_last, augment):
    images = make_set(40)
    options = {"augment": augment, "drop_last": drop_last, "size": 12}
    single = make(images, **options)
    ranks = [make(images, rank=r, world=world, **options) for r in range(world)]
    assert {len(r) for r in ranks} == {len(single)}
    shares = zip(*(r.epoch(1, start=1) for r in ranks), strict=True)
    for (batch, labels), parts in zip(single.epoch(1, start=1), shares, strict=True):
        assert torch.equal(torch.cat([p for p, _ in parts]), batch)
        assert torch.equal(torch.cat([p for _, p in parts]), labels)
        sizes = [len(p) for _, p in parts]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("augment", [FULL, MORE])
def test_ranks_together_are_the_single_process_for_files(files, augment):
    single = make(files, 4, augment=augment)
    ranks = [make(files, 4, augment=augment, rank=r, world=2) for r in range(2)]
    joined = [
        tuple(torch.cat(p) for p in zip(a, b, strict=True))
        for a, b in zip(ranks[0].epoch(0), ranks[1].epoch(0), strict=True)
    ]
    assert equal(single.epoch(0), joined)


# The loader warns where the machine has fewer cores than workers; the result is the same.
@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_workers_do_not_change_the_result(files):
    augment = replace(MORE, pad=1, crop_scale=(0.3, 1.0), jitter=0.4)
    none, two = (make(files, 4, augment=augment, workers=w) for w in (0, 2))
    first = list(none.epoch(0))
    assert equal(two.epoch(0), first)
    assert equal(two.epoch(0, start=2), first[2:])
    assert not equal(none.epoch(1), first)
    assert first[0][0].shape == (4, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_no_global_random_state_is_touched(make_set, files):
    # Not ours: scikit-learn imports rich, which draws from Python's generator once, on import.
    import sklearn.datasets  # noqa: F401

    def states():
        name, words, *rest = np.random.get_state()  # noqa: NPY002 - only looked at
        return torch.get_rng_state().tolist(), [name, words.tolist(), *rest], random.getstate()

    before = states()
    splits = load("digits", train_size=200)
    options = {"mean": MEAN[:1], "std": STD[:1], "seed": 0}
    list(Batches(splits.train, 16, augment=FULL, **options).epoch(0))
    fixed(splits.validation, 20, 10, **options)
    augment = replace(MORE, pad=1, crop_scale=(0.3, 1.0), jitter=0.4)
    for workers in (0, 2):
        list(make(files, 4, augment=augment, workers=workers).epoch(0))
    assert states() == before


def test_global_random_state_does_not_change_the_result(either):
    first = list(make(either, 4, augment=MORE).epoch(0))
    with torch.random.fork_rng():
        torch.manual_seed(999)
        assert equal(make(either, 4, augment=MORE).epoch(0), first)


def test_batches_do_not_change_the_set_and_are_not_views_of_it(make_set):
    images = make_set(16)
    digest = images.digest()
    for options in ({}, {"augment": FULL}, {"shuffle": False}):
        for batch, labels in make(images, **options).epoch(0):
            batch.fill_(7)
            labels.fill_(3)
    assert images.digest() == digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "batch_size must be a multiple of world .* got 0"),
        ({"size": 7, "world": 2}, r"multiple of world \(2\).* got 7"),
        ({"size": 41}, "batch_size 41 is more than the 40 images"),
        ({"size": 13, "drop_last": False, "world": 1, "rank": 1}, "rank 1 and world 1"),
        ({"size": 3, "world": 3, "drop_last": False}, "last batch of 1 images .* 3 ranks"),
        ({"workers": -1}, "workers must be 0 or more, got -1"),
        ({"mean": (0.1,)}, "each of 3 channels, got 1 and 3"),
        ({"std": (0.1, 0.0, 0.1)}, "std must be above 0 in every channel"),
        ({"dtype": torch.int32}, "floating-point type, got torch.int32"),
        ({"augment": MORE, "size": 5}, r"a multiple of repeats \(2\), .* got 5"),
        ({"augment": Augment(pad=5)}, r"below the side of the images \(5 pixels\), got 5"),
    ],
)
def test_arguments_that_do_not_fit_are_named(make_set, options, message):
    with pytest.raises(ValueError, match=message):
        make(make_set(40), **options)


def test_rand_augment_is_for_grey_and_coloured_images(make_set):
    images = make_set(8, shape=(2, 6, 6))
    with pytest.raises(ValueError, match="rand_augment .* and these have 2 channels"):
        make(images, 8, mean=(0.0,) * 2, std=(1.0,) * 2, augment=Augment(rand_augment=(2, 9)))


def test_a_batch_has_every_image_as_often_as_it_repeats_each_time_another(make_set):
    """Of 24 images of their own labels: which come, how often, and where in the batch."""
    images = make_set(24, classes=24, shape=(1, 12, 12))
    plain = {"mean": (0.0,), "std": (1.0,)}
    batches = make(images, 6, augment=Augment(pad=5, repeats=3), **plain)
    seen = []
    for epoch in range(2):
        whole = list(batches.epoch(epoch))
        assert len(whole) == len(batches) == 4
        for batch, labels in whole:
            first, *copies = labels.view(3, 2).tolist()
            assert copies == [first] * 2 and len(set(first)) == 2
            # 121 shifts are possible: of 16 triples one may agree in two by chance.
            assert len({image.numpy().tobytes() for image in batch}) >= 5
        seen.append({label for _, labels in whole for label in labels.tolist()})
        assert len(seen[-1]) == 8, "an epoch shows a third of the images"
    assert seen[0] != seen[1]


def test_what_is_erased_has_the_mean_colour_and_all_else_stays(either):
    for augment in (Augment(flip=True), Augment(rand_augment=(1, 9))):
        erased = make(either, 4, augment=replace(augment, random_erasing=0.5)).epoch(0)
        count = 0
        for (batch, labels), (plain, same) in zip(
            erased, make(either, 4, augment=augment).epoch(0), strict=True
        ):
            assert torch.equal(labels, same)
            other = batch != plain
            assert (batch[other] == 0).all()
            count += int(other.flatten(1).any(1).sum())
        assert 0 < count < 12


def test_epoch_and_start_are_checked_at_the_call(make_set):
    batches = make(make_set(40))
    with pytest.raises(ValueError, match="epoch must be 0 or more, got -1"):
        batches.epoch(-1)
    for start in (-1, 6):
        with pytest.raises(ValueError, match=rf"start must be in 0\.\.5 .* got {start}"):
            batches.epoch(0, start=start)
    with pytest.raises(ValueError, match="holds no images"):
        make(make_set(40).subset([]))


def test_fixed_is_balanced_seeded_and_every_batch_is_mixed(make_set):
    images = make_set(80)
    options = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    batches = fixed(images, 40, 8, seed=1, **options)
    assert [len(labels) for _, labels in batches] == [8] * 5
    for _, labels in batches:
        assert torch.bincount(labels).tolist() == [2] * 4
    assert equal(batches, fixed(images, 40, 8, seed=1, **options))
    assert not equal(batches, fixed(images, 40, 8, seed=2, **options))
    pixels = torch.cat([(b * 255).round().to(torch.uint8) for b, _ in batches]).contiguous()
    chosen = {p.numpy().tobytes() for p in pixels}
    assert len(chosen) == 40
    assert chosen <= {p.numpy().tobytes() for p in images.images}


def test_fixed_without_a_number_is_everything_in_order(either):
    batches = fixed(either, None, 4, mean=MEAN, std=STD, seed=0)
    assert [len(labels) for _, labels in batches] == [4, 4, 4, 2]
    assert torch.equal(torch.cat([labels for _, labels in batches]), either.labels)
    assert equal(batches, make(either, 4, shuffle=False, drop_last=False).epoch(0))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize(
    ("n", "size", "lengths"),
    [(13, 4, [4, 4, 5]), (13, 12, [13]), (13, 13, [13]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_a_rest_of_one_image_joins_the_batch_before(either, monkeypatch, keep, n, size, lengths):
    if not keep:
        monkeypatch.setattr("manyshot.data.fixed_batches.KEPT_BYTES", 0)
    batches = fixed(either, n, size, mean=MEAN, std=STD, seed=0)
    for _ in range(2):
        assert [len(labels) for _, labels in batches] == lengths
    assert len(batches) == len(lengths) and batches.images == n
    [(whole, labels)] = fixed(either, n, n, mean=MEAN, std=STD, seed=0)
    assert torch.equal(torch.cat([images for images, _ in batches]), whole)
    assert torch.equal(torch.cat([labels for _, labels in batches]), labels)
    last = list(batches)[-1][0]
    assert last.stride() == whole[: len(last)].clone().stride()


def test_fixed_gives_at_most_the_images_there_are(either):
    with pytest.raises(ValueError, match=r"n must be at least 1, or None for all images, got 0"):
        fixed(either, 0, 4, mean=MEAN, std=STD, seed=0)
    more, every = (fixed(either, n, 4, mean=MEAN, std=STD, seed=0) for n in (15, 14))
    assert more.images == 14
    for (one, labels), (other, wanted) in zip(more, every, strict=True):
        assert torch.equal(one, other) and torch.equal(labels, wanted)


class Own:
    """A set that is not in memory: it has the members of LabelledImages that batches need."""

    def __init__(self, inner: ImageSet) -> None:
        self.inner = inner
        self.labels, self.classes, self.image_shape = inner.labels, inner.classes, inner.image_shape

    def __len__(self):
        return len(self.inner)

    def read(self, index):
        return self.inner.images[index]


@pytest.mark.parametrize("augment", [None, FULL, Augment(jitter=0.3), MORE])
def test_a_set_of_ones_own_gives_the_batches_of_one_in_memory(make_set, augment):
    inner = make_set(12)
    own = make(Own(inner), 4, augment=augment)
    assert equal(own.epoch(1), make(inner, 4, augment=augment).epoch(1))


def test_images_read_one_by_one_each_have_their_augmentation_per_epoch():
    same = torch.arange(36, dtype=torch.uint8).reshape(1, 1, 6, 6).expand(24, -1, -1, -1)
    images = Own(ImageSet(images=same, labels=torch.arange(24), classes=24))

    def by_label(epoch, **options):
        batches = list(make(images, 8, augment=FULL, **options).epoch(epoch))
        labels = torch.cat([labels for _, labels in batches])
        return torch.cat([b for b, _ in batches])[labels.argsort()]

    first = by_label(0)
    assert torch.equal(by_label(0, shuffle=False), first)
    assert not torch.equal(by_label(1), first)
    assert not torch.equal(by_label(0, seed=6), first)
    # 50 moves are possible, so 24 draws are all but sure to give more than 10 different ones.
    assert len(first.flatten(1).unique(dim=0)) > 10


def test_everything_happens_on_the_device(make_set):
    """The meta device computes nothing, but refuses to mix with tensors that are elsewhere."""
    images = make_set(40)
    for batch, labels in make(images, augment=FULL, device="meta").epoch(0):
        assert (batch.device.type, labels.device.type) == ("meta", "meta")
        assert batch.shape == (8, 3, 6, 5)
    assert next(iter(fixed(images, 8, 8, mean=MEAN, std=STD, seed=0, device="meta")))[0].is_meta


def test_large_fixed_sets_are_made_anew_in_every_pass(make_set, monkeypatch):
    images = make_set(20)
    options = {"mean": MEAN, "std": STD, "seed": 0}
    kept = fixed(images, 12, 5, **options)
    monkeypatch.setattr("manyshot.data.fixed_batches.KEPT_BYTES", 0)
    made = fixed(images, 12, 5, **options)
    assert (len(kept), kept.images) == (len(made), made.images) == (3, 12)
    assert next(iter(kept))[0] is next(iter(kept))[0]
    assert next(iter(made))[0] is not next(iter(made))[0]
    for _ in range(2):
        assert equal(list(kept), list(made))


# -- sizes that grow -------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [3, 4, 7])
def test_epochs_are_shared_out_equally_over_sizes(epochs):
    sides = [Growth((4, 6, 8), epochs).side(epoch) for epoch in range(epochs + 2)]
    assert sides == sorted(sides) and sides[epochs - 1 :] == [8] * 3
    counts = [sides[:epochs].count(side) for side in (4, 6, 8)]
    assert max(counts) - min(counts) <= 1
    with pytest.raises(ValueError, match="3 sizes need as many epochs, and there are 2"):
        Growth((4, 6, 8), 2)


def test_images_grow_by_the_epoch_and_are_resized_ones(make_set, files):
    images, growth = make_set(12, shape=(3, 8, 8)), Growth((5, 8), 2)
    look = {"mean": [0.0] * 3, "std": [1 / 255] * 3, "seed": 1, "shuffle": False}
    batches = Batches(images, 4, growth=growth, **look)
    [small, *_], [large, *_] = batches.epoch(0), batches.epoch(1)
    expected = functional.resize(images.images[:4], [5, 5], antialias=True)
    assert torch.equal(small[0].round().to(torch.uint8), expected)
    assert torch.equal(large[0].round().to(torch.uint8), images.images[:4])
    assert [batches.side(step) for step in range(6)] == [5] * 3 + [8] * 3
    full = Augment(pad=1, flip=True, crop_scale=(0.5, 0.9), random_erasing=0.5)
    side = files.image_shape[1]
    for dataset, last in ((images, 8), (files, side)):
        made = Batches(dataset, 4, augment=full, growth=Growth((5, last), 2), **look)
        late, whole = [*made.epoch(0, start=1)], [*made.epoch(0)]
        assert {batch[0].shape[-1] for batch in whole} == {5}
        assert all(torch.equal(a[0], b[0]) for a, b in zip(late, whole[1:], strict=True))
    with pytest.raises(ValueError, match="growth ends at images of 9 x 9 .* of 8 x 8"):
        Batches(images, 4, growth=Growth((5, 9), 2), **look)


# -- processes that read ---------------------------------------------------------------------------


class Telling:
    """A set whose images say which process read them, and their labels which image they are."""

    image_shape, classes = (1, 2, 2), 40
    labels = torch.arange(40)

    def __len__(self):
        return 40

    def read(self, index):
        return torch.frombuffer(bytearray(struct.pack("<I", os.getpid())), dtype=torch.uint8).view(
            1, 2, 2
        )


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_the_same_processes_read_all_epochs():
    look = {"mean": [0.0], "std": [1 / 255], "seed": 1, "channels_last": False}
    batches = Batches(Telling(), 4, workers=2, **look)

    def readers(epoch):
        pixels = torch.cat([images for images, _ in epoch]).round().to(torch.uint8)
        return {struct.unpack("<I", bytes(image.flatten().tolist()))[0] for image in pixels}

    def labels(epoch):
        return [labels.tolist() for _, labels in epoch]

    first = readers(batches.epoch(0))
    assert len(first) == 2 and os.getpid() not in first
    assert readers(batches.epoch(1)) == first
    expected = [labels(Batches(Telling(), 4, **look).epoch(epoch)) for epoch in range(3)]
    left = batches.epoch(0)
    next(left)
    left.close()  # in the middle, with batches on their way
    assert labels(batches.epoch(1)) == expected[1]
    one, other = batches.epoch(2), batches.epoch(0)  # at the same time, by processes of its own
    mixed = [[next(one)[1].tolist(), next(other)[1].tolist()] for _ in range(10)]
    assert [list(each) for each in zip(*mixed, strict=True)] == [expected[2], expected[0]]
    batches.release()
    assert not readers(batches.epoch(0)) & first
