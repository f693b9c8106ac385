import numpy as np
import pytest
import torch
from PIL import Image

from manyshot.data import DataNotFound, load


def test_classes_are_sorted_and_parts_are_separate(tmp_path, write_folder_set):
    write_folder_set(tmp_path)
    splits = load("folder", root=tmp_path, image_size=8, validation=4)
    assert splits.train.class_names == ("ant", "cat")
    assert (splits.classes, splits.image_shape) == (2, (3, 8, 8))
    for part, count in ((splits.train, 6), (splits.validation, 4), (splits.test, 10)):
        assert len(part) == count
        assert torch.bincount(part.labels).tolist() == [count // 2] * 2
        for path, label in zip(part.paths, part.labels.tolist(), strict=True):
            assert path.split("/")[1] == ("ant", "cat")[label]
    assert not set(splits.train.paths) & set(splits.validation.paths)
    assert all(path.startswith("test/") for path in splits.test.paths)


def test_order_on_disk_does_not_matter(tmp_path, write_folder_set):
    names = [f"{letter}{number}" for letter in "kaz" for number in (3, 10, 1)]
    write_folder_set(tmp_path, classes=names, each=12)
    splits = load("folder", root=tmp_path, image_size=8, validation=0)
    assert splits.train.class_names == tuple(sorted(names))
    assert list(splits.test.paths) == sorted(splits.test.paths)


def test_validation_folder_is_the_test_part_when_there_is_no_other(tmp_path, write_folder_set):
    write_folder_set(tmp_path, parts=("train", "val"))
    splits = load("folder", root=tmp_path, image_size=8)
    assert {path.split("/")[0] for path in splits.test.paths} == {"val"}


def test_without_a_test_folder_a_fixed_quarter_is_held_out(tmp_path, write_folder_set):
    write_folder_set(tmp_path, parts=("train",), each=8)
    splits = load("folder", root=tmp_path, image_size=8, validation=0)
    assert torch.bincount(splits.test.labels).tolist() == [2, 2]
    assert not set(splits.train.paths) & set(splits.test.paths)
    assert load("folder", root=tmp_path, image_size=8, seed=5).test.paths == splits.test.paths


def test_mean_and_std_of_files_at_their_final_size(tmp_path):
    rng = np.random.default_rng(0)
    pixels = []
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for i in range(3):
            array = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(array).save(tmp_path / part / "a" / f"{i}.PNG")
            if part == "train":
                pixels.append(array / 255)
    splits = load("folder", root=tmp_path, image_size=8, validation=0)
    assert splits.mean == pytest.approx(np.mean(pixels, (0, 1, 2)).tolist(), abs=1e-12)
    assert splits.std == pytest.approx(np.std(pixels, (0, 1, 2)).tolist(), abs=1e-12)


def test_fingerprint_follows_the_files_but_not_their_place(tmp_path, write_folder_set):
    prints = []
    for name in ("here", "there"):
        write_folder_set(tmp_path / name)
        prints.append(load("folder", root=tmp_path / name, image_size=8).fingerprint)
    assert prints[0] == prints[1]
    Image.new("RGB", (9, 9)).save(tmp_path / "there/test/ant/extra.jpg")
    changed = load("folder", root=tmp_path / "there", image_size=8)
    assert len(changed.test) == 11
    assert changed.fingerprint != prints[0]
    before = load("folder", root=tmp_path / "here", image_size=8, validation=2)
    with (tmp_path / "here" / before.validation.paths[0]).open("ab") as file:
        file.write(b"\0")
    after = load("folder", root=tmp_path / "here", image_size=8, validation=2)
    assert after.fingerprint != before.fingerprint
    assert load("folder", root=tmp_path / "here", image_size=7).fingerprint != prints[0]


def test_class_missing_in_one_part(tmp_path, write_folder_set):
    write_folder_set(tmp_path, classes=("ant", "cat"))
    write_folder_set(tmp_path, parts=("train",), classes=("bee",))
    with pytest.raises(ValueError, match="class 'bee' is in .*train but not in .*test"):
        load("folder", root=tmp_path)
    write_folder_set(tmp_path, parts=("test",), classes=("bee", "dog"))
    with pytest.raises(ValueError, match="class 'dog' is in .*test but not in .*train"):
        load("folder", root=tmp_path)


def test_other_mistakes_are_named(tmp_path, write_folder_set):
    with pytest.raises(DataNotFound, match="train/<class>/"):
        load("folder", root=tmp_path)
    with pytest.raises(ValueError, match="folder needs root="):
        load("folder")
    with pytest.raises(ValueError, match="cannot download"):
        load("folder", root=tmp_path, download=True)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train holds no class folders"):
        load("folder", root=tmp_path)
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not a picture")
    with pytest.raises(ValueError, match=r"ant holds no image; .*\.png"):
        load("folder", root=tmp_path)
