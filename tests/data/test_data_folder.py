import os
import time
import warnings

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
    path = tmp_path / "here" / before.validation.paths[0]
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1  # behind the image: as long as before, and of the same pixels
    time.sleep(0.02)  # more than a tick of the clock that file systems read
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = load("folder", root=tmp_path / "here", image_size=8, validation=2)
    assert again.fingerprint not in (after.fingerprint, before.fingerprint)
    assert load("folder", root=tmp_path / "here", image_size=7).fingerprint != prints[0]


def test_class_missing_in_one_part(tmp_path, write_folder_set):
    write_folder_set(tmp_path, classes=("ant", "cat"))
    write_folder_set(tmp_path, parts=("train",), classes=("bee",))
    with pytest.raises(ValueError, match="class 'bee' is in .*train but not in .*test"):
        load("folder", root=tmp_path)
    write_folder_set(tmp_path, parts=("test",), classes=("bee", "dog"))
    with pytest.raises(ValueError, match="class 'dog' is in .*test but not in .*train"):
        load("folder", root=tmp_path)


def test_class_folders_without_train_are_to_be_put_into_it(tmp_path, write_folder_set):
    root = (write_folder_set(tmp_path, parts=("train",)) / "train").rename(tmp_path / "photos")
    where = f"{root} holds folders of images"
    with pytest.raises(DataNotFound, match=rf"{where} itself: move them into .*/photos/train$"):
        load("folder", root=root)
    with pytest.raises(DataNotFound, match=rf"{where}: move them into {tmp_path}/train$"):
        load("folder", root=tmp_path)
    with pytest.raises(DataNotFound, match=r"give data\.root, the folder that holds train/"):
        load("folder", root=tmp_path / "none")


def test_the_folder_of_a_part_leads_to_the_folder_that_holds_it(tmp_path, write_folder_set):
    write_folder_set(tmp_path)
    with pytest.raises(DataNotFound, match=rf"give data.root = '{tmp_path}', which holds train/$"):
        load("folder", root=tmp_path / "train")


def test_other_mistakes_are_named(tmp_path, write_folder_set):
    with pytest.raises(DataNotFound, match="train/<class>/"):
        load("folder", root=tmp_path)
    with pytest.raises(ValueError, match=r"'folder' needs data.root, .* \(--set data.root=DIR\)"):
        load("folder")
    with pytest.raises(ValueError, match="cannot be downloaded: leave data.download out"):
        load("folder", root=tmp_path, download=True)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="train holds no class folders"):
        load("folder", root=tmp_path)
    (tmp_path / "train" / "ant").mkdir()
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "ant" / "._0.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"ant holds no image; .*\.png"):
        load("folder", root=tmp_path)


# -- what counts as an image, and what is said of the rest -----------------------------------------


def noise(seed: int, height: int = 9, width: int = 12) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_hidden_files_and_folders_are_no_part_of_a_set(tmp_path, write_folder_set):
    plain = load("folder", root=write_folder_set(tmp_path / "a"), image_size=8)
    root = write_folder_set(tmp_path / "b")
    for hidden in ("train/.ipynb_checkpoints", "train/ant/.thumbnails", "test/.empty"):
        (root / hidden).mkdir()
    noise(0).save(root / "train/.ipynb_checkpoints/x.png")
    noise(0).save(root / "train/ant/.thumbnails/x.png")
    for hidden in ("train/.DS_Store", "train/ant/._0.png"):
        (root / hidden).write_bytes(b"not a picture")
    assert load("folder", root=root, image_size=8).fingerprint == plain.fingerprint


def test_every_format_and_sub_folders_are_used(tmp_path):
    for label, name in enumerate(("ant", "cat")):
        (tmp_path / "train" / name / "more" / "still").mkdir(parents=True)
        for i, file in enumerate(
            ("a.bmp", "a.tif", "a.TIFF", "more/a.webp", "more/still/a.jpg", "z.jpeg", "z.png")
        ):
            noise(10 * label + i).save(tmp_path / "train" / name / file)
    splits = load("folder", root=tmp_path, image_size=8, validation=0)
    assert len(splits.train) + len(splits.test) == 14
    paths = {*splits.train.paths, *splits.test.paths}
    assert {"train/ant/more/still/a.jpg", "train/cat/a.TIFF"} <= paths
    assert splits.notes[0] == "14 used"


def test_what_is_left_out_is_counted_by_kind_and_warned_of(tmp_path, write_folder_set):
    write_folder_set(tmp_path, each=4)
    for i in range(3):
        noise(i).save(tmp_path / f"train/ant/{i}.GIF")
    (tmp_path / "test/cat/labels.csv").touch()
    (tmp_path / "test/README").touch()
    noise(4).save(tmp_path / "train/lost.png")
    with pytest.warns(UserWarning, match="6 left out") as caught:
        splits = load("folder", root=tmp_path, image_size=8)
    assert splits.notes[0] == (
        "16 used, 6 left out: 1 .csv, 3 .gif, 1 .png in no class folder, "
        "1 without an ending in no class folder"
    )
    [warning] = caught
    assert splits.notes[0] in str(warning.message)
    assert str(tmp_path) in str(warning.message)
    assert warning.filename == __file__
    assert {len(part) for part in (splits.train, splits.test)} == {7, 8}


def test_an_unused_validation_folder_is_warned_of(tmp_path, write_folder_set):
    write_folder_set(tmp_path, parts=("train", "val", "test"))
    with pytest.warns(
        UserWarning, match="20 used; the folder val/ is not used, since test/ is there"
    ):
        splits = load("folder", root=tmp_path, image_size=8)
    assert {path.split("/")[0] for path in splits.test.paths} == {"test"}


def test_links_are_followed_but_not_in_a_circle(tmp_path, write_folder_set):
    root = write_folder_set(tmp_path / "root")
    elsewhere = write_folder_set(tmp_path / "other", parts=("train",), classes=("ant",))
    try:
        (root / "train/ant/linked").symlink_to(elsewhere / "train/ant", target_is_directory=True)
        (root / "train/ant/circle").symlink_to(root / "train/ant", target_is_directory=True)
    except OSError:
        pytest.skip("this user may make no links")
    splits = load("folder", root=root, image_size=8, validation=0)
    assert len(splits.train) == 15


# -- the size of images ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(20, 90), (41, 30), (1000, 33)], 32),
        ([(300, 900)] * 2, 224),
        ([(5, 3)] * 2, 8),
        ([(28, 28)] * 2, 28),
    ],
)
def test_the_size_by_default_is_the_median_shorter_side(tmp_path, sides, expected):
    for name in ("ant", "cat"):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
        for i, (height, width) in enumerate(sides):
            noise(i, height, width).save(tmp_path / "train" / name / f"{i}.png")
        noise(0, 64, 64).save(tmp_path / "test" / name / "0.png")  # the test part has no say
    splits = load("folder", root=tmp_path, validation=0)
    assert splits.image_shape == (3, expected, expected)
    assert f"{expected}x{expected}" in splits.notes[-1]


def test_images_may_be_rectangles(tmp_path, write_folder_set):
    splits = load("folder", root=write_folder_set(tmp_path), image_size=(6, 10))
    assert splits.image_shape == (3, 6, 10)
    assert load("folder", root=tmp_path, image_size=[6, 10]).fingerprint == splits.fingerprint
    digits = load("digits", image_size=(4, 12))
    assert tuple(digits.train.images.shape[1:]) == digits.image_shape == (1, 4, 12)
    for wrong in (0, (4, 0), (4,), (4, 4, 4)):
        with pytest.raises(ValueError, match="image_size must be at least 1 pixel, or a pair"):
            load("digits", image_size=wrong)


def test_grey_images_stay_grey_only_if_all_are(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8), dtype=np.uint8)
    for part in ("train", "test"):
        for label, name in enumerate(("ant", "cat")):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(4):
                Image.fromarray(pixels[label, i]).save(tmp_path / part / name / f"{i}.png")
    splits = load("folder", root=tmp_path, image_size=8, validation=0)
    assert splits.image_shape == (1, 8, 8)
    assert "grey" in splits.notes[-1]
    assert np.array_equal(splits.train.read(5), pixels[1, 1][None])
    assert splits.mean == pytest.approx([pixels.mean() / 255], abs=1e-12)
    noise(0).save(tmp_path / "test/cat/0.png")
    coloured = load("folder", root=tmp_path, image_size=8, validation=0)
    assert coloured.image_shape == (3, 8, 8)
    assert np.array_equal(coloured.train.read(5), np.repeat(pixels[1, 1][None], 3, axis=0))


# -- files that cannot be used ---------------------------------------------------------------------


def with_bad_files(root, count):
    for i in range(count):
        (root / "train/ant" / f"bad{i:02}.png").write_bytes(b"" if i % 2 else b"not a picture")
    return root


def test_all_bad_files_are_listed_at_once(tmp_path, write_folder_set):
    root = with_bad_files(write_folder_set(tmp_path), 12)
    (root / "test/cat/4.png").write_bytes((root / "test/cat/4.png").read_bytes()[:60])
    with pytest.raises(ValueError, match="13 of 32 image files in .* cannot be used:") as error:
        load("folder", root=root, image_size=8)
    lines = str(error.value).splitlines()
    assert lines[1].startswith("  train/ant/bad00.png is none of BMP, JPEG, PNG, TIFF, WEBP")
    assert lines[2] == "  train/ant/bad01.png is empty"
    assert [line.split()[0] for line in lines[1:11]] == [
        f"train/ant/bad{i:02}.png" for i in range(10)
    ]
    assert lines[11] == "  and 3 more"
    assert "data.bad = 'skip'" in lines[12]


def test_bad_files_are_left_out_and_counted_if_asked(tmp_path, write_folder_set):
    plain = load("folder", root=write_folder_set(tmp_path / "a"), image_size=8)
    root = with_bad_files(write_folder_set(tmp_path / "b"), 12)
    with pytest.warns(UserWarning, match="20 used, 12 left out: 12 that cannot be used"):
        splits = load("folder", root=root, image_size=8, bad="skip")
    assert splits.fingerprint == plain.fingerprint
    assert "train/ant/bad01.png is empty" in splits.notes[1]
    assert splits.notes[1].endswith("and 2 more")
    with pytest.raises(ValueError, match="bad must be 'refuse' or 'skip', got 'ignore'"):
        load("folder", root=root, bad="ignore")


def test_a_class_of_bad_files_alone_is_an_error(tmp_path, write_folder_set):
    write_folder_set(tmp_path)
    for file in (tmp_path / "test/cat").iterdir():
        file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"test.cat holds no image that can be used:\n.*is empty"):
        load("folder", root=tmp_path, bad="skip")


# -- splits ----------------------------------------------------------------------------------------


def test_every_class_gives_the_share_that_was_asked_for(tmp_path):
    image = Image.new("L", (8, 8))
    for name, count in (("common", 190), ("rare", 10)):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(count):
            image.save(tmp_path / "train" / name / f"{i}.png")
    splits = load("folder", root=tmp_path, validation=0.2, held_out=0.1)
    # A quarter of 200, then 0.2 of 150, then 0.1 of 120; of the rare class 2.5, 1.5 or 1.6, 0.6.
    assert splits.class_counts == {
        "train": (103, 5),
        "validation": (28, 2),
        "held_out": (11, 1),
        "test": (48, 2),
    }
    assert splits.class_names == ("common", "rare")


def test_a_set_without_anything_to_say_warns_of_nothing(tmp_path, write_folder_set):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        splits = load("folder", root=write_folder_set(tmp_path))
    assert splits.notes == (
        "20 used",
        "images are of three colours, resized to cover 12x12 pixels and cut in the centre "
        "(data.image_size is not given)",
    )


def test_names_that_are_no_text_are_made_readable(tmp_path, write_folder_set):
    """Records are JSON in UTF-8, which holds no other bytes; files are found nevertheless."""
    names = [os.fsdecode(b"caf\xe9"), "dog"]
    write_folder_set(tmp_path, classes=names)
    bad = tmp_path / "train" / names[0] / os.fsdecode(b"\xff.p\xfe")
    bad.write_text("no image")
    (tmp_path / "train" / "dog" / os.fsdecode(b"\xff.png")).write_text("no image")
    with pytest.warns(UserWarning, match=r"1 \.p\\xfe, 1 that cannot be used") as warned:
        splits = load("folder", root=tmp_path, image_size=8, validation=4, bad="skip")
    assert splits.class_names == ("caf\\xe9", "dog")
    assert r"train/dog/\xff.png is none of" in str(warned[0].message)
    "".join((*splits.class_names, *splits.notes)).encode()
    assert splits.test.read(0).shape[0] == 3
    with pytest.raises(ValueError, match=r"train/dog/\\xff.png is none of"):
        load("folder", root=tmp_path, image_size=8)


@pytest.mark.parametrize(
    ("parts", "test"),
    [
        (("training", "testing"), "testing"),
        (("Train", "Valid"), "Valid"),
        (("train", "validation"), "validation"),
        (("TRAINING", "Test", "val"), "Test"),
    ],
)
def test_parts_have_other_names_too(tmp_path, write_folder_set, parts, test):
    write_folder_set(tmp_path, parts=parts)
    unused = rf"{parts[-1]}/ is not used, since {test}/ is there"
    with pytest.warns(UserWarning, match=unused) if len(parts) > 2 else warnings.catch_warnings():
        splits = load("folder", root=tmp_path, image_size=8)
    assert {path.split("/")[0] for path in splits.train.paths} == {parts[0]}
    assert {path.split("/")[0] for path in splits.test.paths} == {test}


def test_two_folders_of_one_part_are_refused(tmp_path, write_folder_set):
    write_folder_set(tmp_path, parts=("train", "valid", "val"))
    with pytest.raises(ValueError, match="holds val and valid, and both are names of the part val"):
        load("folder", root=tmp_path)


def test_a_folder_above_those_of_the_parts_is_told_which_to_take(tmp_path, write_folder_set):
    write_folder_set(tmp_path / "unpacked", parts=("training",))
    write_folder_set(tmp_path / "another", parts=("testing", "test"))
    (tmp_path / "locked").mkdir(mode=0)
    with pytest.raises(DataNotFound, match=r"give data.root = '.*/unpacked', which holds such a"):
        load("folder", root=tmp_path)
