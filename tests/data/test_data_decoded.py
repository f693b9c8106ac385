"""Image files are decoded once; what is kept of them never gives other pixels than they have."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from manyshot.data import Augment, Batches, decoded, fixed, images, load
from manyshot.watching import watched

SIDE = 8
IMAGE = 3 * SIDE * SIDE
AUGMENT = Augment(pad=1, flip=True, jitter=0.3)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is kept, an empty one for each test, with two images in a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "CHUNK_BYTES", 2 * IMAGE)
    return tmp_path / "cache/manyshot/decoded"


@pytest.fixture
def root(tmp_path):
    """12 training and 4 test files of all kinds of pixels and sizes; 6 and 2 files are kept."""
    rng = np.random.default_rng(0)
    modes = ("RGB", "L", "P", "RGBA")
    for part, count in (("train", 6), ("test", 2)):
        for name in ("ant", "bee"):
            (tmp_path / "files" / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (9 + 3 * i, 20 - i, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert(modes[i % 4])
                image.save(tmp_path / "files" / part / name / f"{i}.png")
            Image.fromarray(pixels).save(tmp_path / "files" / part / name / f"{i}.png")
    return tmp_path / "files"


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were decoded for their pixels."""
    names, contents = [], images.contents

    def watched(path):
        names.append(str(path))
        return contents(path)

    monkeypatch.setattr(images, "contents", watched)
    return names


def loaded(root, **options):
    return load("folder", root=root, image_size=SIDE, validation=4, **options)


def by_hand(path):
    """A file as Pillow and torchvision make it: scaled to cover the square, its centre cut out."""
    pixels = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)
    scale = SIDE / min(pixels.shape[1:])
    size = [max(SIDE, round(side * scale)) for side in pixels.shape[1:]]
    return functional.center_crop(functional.resize(pixels, size, antialias=True), [SIDE, SIDE])


def whole(root, splits):
    """Whether all pixels in memory are those of the files."""
    parts = (splits.train, splits.validation, splits.test)
    return all(
        torch.equal(image, by_hand(root / path))
        for part in parts
        for image, path in zip(part.images, part.paths, strict=True)
    )


def batches(splits, augment):
    normal = {"mean": splits.mean, "std": splits.std, "seed": 3}
    training = Batches(splits.train, 4, augment=augment, **normal)
    every = [batch for epoch in range(2) for batch in training.epoch(epoch)]
    every += [*fixed(splits.validation, 3, 2, **normal), *fixed(splits.test, None, 3, **normal)]
    return [tensor for batch in every for tensor in batch]


def same(first, second):
    return all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_nothing_depends_on_where_the_pixels_come_from(root, tmp_path, monkeypatch):
    from_files = loaded(root, memory=0)
    cold, warm = loaded(root), loaded(root)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a file"))
    with pytest.warns(UserWarning, match="cannot be kept in .*a file.*: make room, or set XDG"):
        without = loaded(root)
    assert from_files.train.images is None
    for splits in (cold, warm, without):
        assert whole(root, splits)
        assert same(batches(splits, AUGMENT), batches(from_files, AUGMENT))
        for name in ("mean", "std", "fingerprint", "training_fingerprint", "digests"):
            assert getattr(splits, name) == getattr(from_files, name)


def test_random_crops_are_of_the_pixels_in_memory(root):
    splits = loaded(root)
    augment = Augment(crop_scale=(0.3, 0.5))
    [images, *_], [plain, *_] = batches(splits, augment), batches(splits, Augment())
    assert images.shape == plain.shape and not torch.equal(images, plain)
    assert not same(batches(splits, augment), batches(loaded(root, memory=0), augment))


def test_a_file_is_decoded_once_until_it_changes(root, read, cache):
    loaded(root)
    assert len(read) == len(set(read)) == 16
    read.clear()
    loaded(root, seed=5)
    assert read == []
    Image.new("RGB", (9, 9), "red").save(root / "train/bee/0.png")
    assert whole(root, loaded(root))
    assert sorted(Path(name).name for name in read) == ["0.png", "1.png"]  # those kept together
    read.clear()
    assert load("folder", root=root, image_size=SIDE + 1).image_shape == (3, 9, 9)
    assert len(read) == 16
    assert {path.suffix for path in cache.iterdir()} == {".safetensors", ".lock"}


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything", "another's"])
def test_what_is_damaged_is_decoded_again_and_said(root, read, cache, damage):
    loaded(root)
    read.clear()
    file, other, *_ = sorted(cache.glob("*.safetensors"))
    content = bytearray(file.read_bytes())
    if damage == "a bit":
        content[-1 - IMAGE] ^= 4
    file.write_bytes(
        {"a bit": content, "the end": content[:-1], "everything": b""}.get(
            damage, other.read_bytes()
        )
    )
    with pytest.warns(UserWarning, match=f"{file.name} are damaged .*: they are decoded again"):
        splits = loaded(root)
    assert whole(root, splits)
    assert len(read) == 2
    assert whole(root, loaded(root))  # without a warning, which would be an error
    assert len(read) == 2


def test_every_bit_of_the_pixels_counts(root, cache):
    """Whatever bit of a file is wrong, the pixels in memory are right."""
    loaded(root)
    file = min(cache.glob("*.safetensors"))
    good = file.read_bytes()
    for place in range(0, len(good), 23):
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        file.write_bytes(bad)
        with pytest.warns(UserWarning, match="damaged"):
            assert whole(root, loaded(root))


def test_an_interrupted_decoding_goes_on(root, read, cache, monkeypatch):
    decode, lock = images.ImageFolderSet.read_checked, threading.Lock()
    count = 0

    def interrupted(self, index, shrink):
        nonlocal count
        with lock:
            count += 1
            if count == 8:
                raise KeyboardInterrupt
        return decode(self, index, shrink)

    with monkeypatch.context() as patch:
        patch.setattr(images.ImageFolderSet, "read_checked", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loaded(root, workers=1)
    assert len(list(cache.glob("*.safetensors"))) == 3
    assert not list(cache.glob("*.part"))
    read.clear()
    assert whole(root, loaded(root))
    assert len(read) == 16 - 6


def test_a_file_that_changed_since_it_was_looked_at_is_not_kept(root, cache, monkeypatch):
    path, contents = root / "train/bee/0.png", images.contents

    def changed(of):
        if of == path:
            Image.new("RGB", (9, 9), "red").save(path)
        return contents(of)

    with monkeypatch.context() as patch:
        patch.setattr(images, "contents", changed)
        with pytest.raises(ValueError, match=r"bee.0\.png has changed since .*: start again"):
            loaded(root)
    assert whole(root, loaded(root))


def test_the_limit_is_on_the_pixels_of_all_parts(root):
    assert loaded(root, memory=16 * IMAGE).train.images is not None
    splits = loaded(root, memory=16 * IMAGE - 1)
    assert splits.train.images is splits.test.images is None
    assert splits.notes[-1] == (
        f"decoded anew in every epoch: in memory they are {16 * IMAGE:,} bytes, and data.memory "
        f"allows {16 * IMAGE - 1:,}"
    )


def test_what_was_not_used_for_longest_is_deleted(root, cache, monkeypatch):
    loaded(root)
    before = set(cache.glob("*.safetensors"))
    assert len(before) == 8
    for age, path in enumerate(sorted(before)):
        os.utime(path, (10**9 - age, 10**9 - age))
    for name in ("old.part", "old.lock"):
        (cache / name).touch()
        os.utime(cache / name, (10**9, 10**9))
    size = max(before).stat().st_size
    monkeypatch.setattr(decoded, "KEPT_BYTES", 12 * size)
    load("folder", root=root, image_size=(SIDE, SIDE - 1))
    left = set(cache.glob("*.safetensors"))
    assert len(left - before) == 8
    assert left & before == set(sorted(before)[:4])
    assert not list(cache.glob("old.*"))
    monkeypatch.setattr(decoded, "KEPT_BYTES", 0)
    loaded(root)
    assert set(cache.glob("*.safetensors")) == before  # those in use stay


def test_progress_is_told_of_what_is_decoded(root):
    told = []
    with watched(lambda *news: told.append(news)):
        loaded(root)
        assert {news[::2] for news in told} == {("decoding", 16)}
        counts = [done for _, done, _ in told]
        assert counts == sorted(counts) and counts[-1] == 16
        told.clear()
        loaded(root)
    assert told == []


def test_processes_that_start_together_decode_once_and_get_the_same(root, cache):
    code = (
        "import hashlib, sys; from manyshot.data import decoded, load, images\n"
        "contents, count = images.contents, [0]\n"
        "def counted(path):\n    count[0] += 1\n    return contents(path)\n"
        "images.contents = counted\n"
        f"decoded.CHUNK_BYTES = {2 * IMAGE}\n"
        f"splits = load('folder', root=sys.argv[1], image_size={SIDE}, validation=4)\n"
        "print(count[0], hashlib.sha256(splits.train.images.numpy().data).hexdigest())"
    )
    command = [sys.executable, "-c", code, str(root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    words = [process.communicate(timeout=120)[0].split() for process in both]
    assert words[0][1] == words[1][1]
    assert int(words[0][0]) + int(words[1][0]) == 16
    assert whole(root, loaded(root))
