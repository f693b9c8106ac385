from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from manyshot.data import ImageFolderSet, ImageSet


def test_subset_takes_the_given_images_in_the_given_order(make_set):
    whole = make_set(10)
    part = whole.subset([7, 2, 7])
    assert len(part) == 3
    assert part.image_shape == (3, 6, 5)
    assert torch.equal(part.images, torch.stack([whole.images[i] for i in (7, 2, 7)]))
    assert part.labels.tolist() == [whole.labels[i].item() for i in (7, 2, 7)]
    part.images.zero_()
    assert whole.images.any(), "a subset is a copy"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(4, 1, 2, 2)}, "images must be uint8"),
        ({"images": torch.zeros(4, 2, 2, dtype=torch.uint8)}, "N, C, H, W"),
        ({"labels": torch.zeros(4, dtype=torch.int32)}, "labels must be int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "4 images but 3 labels"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, r"0\.\.1 \(2 classes\), got 0\.\.2"),
        ({"labels": torch.tensor([0, -1, 1, 0])}, r"got -1\.\.1"),
        ({"class_names": ("a", "b", "c")}, "2 classes but 3 class_names"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    good = {
        "images": torch.zeros(4, 1, 2, 2, dtype=torch.uint8),
        "labels": torch.tensor([0, 1, 1, 0]),
        "classes": 2,
    }
    ImageSet(**good)
    with pytest.raises(ValueError, match=message):
        ImageSet(**{**good, **change})


def test_digest_sees_pixels_labels_order_and_classes(make_set):
    base = make_set(8)
    pixels = base.images.clone()
    pixels[3, 1, 2, 2] ^= 1
    variants = [
        base,
        ImageSet(images=pixels, labels=base.labels, classes=4),
        ImageSet(images=base.images, labels=base.labels.flip(0), classes=4),
        ImageSet(images=base.images, labels=base.labels, classes=5),
        base.subset(list(range(7, -1, -1))),
        base.subset(list(range(7))),
    ]
    assert len({v.digest() for v in variants}) == len(variants)
    assert base.digest() == base.subset(list(range(8))).digest()


def test_folder_set_reads_what_was_written(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (5, 7, 4), dtype=np.uint8)
    rgba[:, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(rgba[:, :, 0].copy()).save(tmp_path / "grey.png")
    palette = Image.fromarray(rgba[:, :, 0] % 2, mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.save(tmp_path / "palette.png")
    files = ImageFolderSet(
        root=tmp_path,
        paths=("rgba.png", "grey.png", "palette.png"),
        contents=("1", "2", "3"),
        labels=torch.tensor([1, 0, 1]),
        class_names=("a", "b"),
        image_shape=(3, 4, 4),
    )
    assert (len(files), files.classes, files.image_shape) == (3, 2, (3, 4, 4))
    assert np.array_equal(files.read(0), rgba[:, :, :3].transpose(2, 0, 1))
    assert np.array_equal(files.read(1), np.repeat(rgba[None, :, :, 0], 3, axis=0))
    colours = np.array([[10, 20, 30], [40, 50, 60]])
    assert np.array_equal(files.read(2), colours[rgba[:, :, 0] % 2].transpose(2, 0, 1))
    reversed_ = files.subset([1, 0])
    assert reversed_.paths == ("grey.png", "rgba.png")
    assert reversed_.labels.tolist() == [0, 1]
    assert reversed_.digest() != files.digest()
    assert replace(files, labels=1 - files.labels).digest() != files.digest()
    assert replace(files, class_names=("a", "c")).digest() != files.digest()
    assert replace(files, contents=("1", "2", "4")).digest() != files.digest()
    assert reversed_.contents == ("2", "1")
    with pytest.raises(ValueError, match="3 paths but 2 contents"):
        replace(files, contents=("1", "2"))


@pytest.mark.parametrize("damage", ["text", "cut", "header", "nothing"])
def test_a_file_that_cannot_be_decoded_is_named(tmp_path, damage):
    path = tmp_path / "broken.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    cut = {"text": b"not a picture", "cut": whole[:200], "nothing": b""}
    path.write_bytes({**cut, "header": whole[:20] + b"?" * 400}[damage])
    files = ImageFolderSet(
        root=tmp_path,
        paths=("broken.png",),
        contents=("",),
        labels=torch.tensor([0]),
        class_names=("a",),
        image_shape=(3, 4, 4),
    )
    with pytest.raises(ValueError, match=r"broken\.png (cannot be decoded|is none of|is empty)"):
        files.read(0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"broken\.png"):
        files.read(0)
