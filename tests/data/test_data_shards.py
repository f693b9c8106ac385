"""Shards in the layout of WebDataset are read as the same images in folders are."""

import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from manyshot.data import Augment, Batches, DataNotFound, load
from manyshot.data import shards as shards_module
from photos import members, write_shard

CLASSES = ("ant", "cat")


@pytest.fixture
def folder(tmp_path, write_folder_set):
    return write_folder_set(tmp_path / "folder", classes=CLASSES, each=6)


@pytest.fixture
def shards(folder, tmp_path):
    """The same images, in three shards of train and one of test."""
    root = tmp_path / "shards"
    entries = [*members(folder, "train")]
    for i, start in enumerate((0, 8, 16)):
        write_shard(root / f"set-train-{i:04}.tar", entries[start : start + 8])
    write_shard(root / "set-test-0000.tar", members(folder, "test"))
    (root / "classes.txt").write_text("\n".join(CLASSES))
    return root


def batches(splits, workers=0, size=3, rank=0, world=1):
    made = Batches(
        splits.train,
        size,
        mean=splits.mean,
        std=splits.std,
        seed=3,
        augment=Augment(crop_scale=(0.3, 0.8), flip=True),
        workers=workers,
        rank=rank,
        world=world,
    )
    return made, [batch for epoch in range(2) for batch in made.epoch(epoch)]


def same(first, second):
    pairs = [
        (a, b)
        for one, two in zip(first, second, strict=True)
        for a, b in zip(one, two, strict=True)
    ]
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
@pytest.mark.parametrize("memory", [0, 10**9])
def test_split_order_and_batches_are_those_of_the_folder(folder, shards, memory):
    options = {"image_size": 8, "validation": 4, "seed": 2, "memory": memory}
    whole = load("folder", root=folder, **options)
    pieces = load("shards", root=shards, **options)
    assert pieces.class_names == whole.class_names == CLASSES
    for part in ("train", "validation", "test"):
        own = [path.rpartition("/")[2] for path in getattr(pieces, part).paths]
        assert own == ["_".join(path.split("/")[1:]) for path in getattr(whole, part).paths]
    _, expected = batches(whole)
    made, seen = batches(pieces, workers=2 * (memory == 0))
    assert same(seen, expected)
    step = len(made) - 1
    assert same([*made.epoch(1, start=step)], expected[len(made) + step :])


def test_processes_share_the_images_that_one_reads(shards):
    splits = load("shards", root=shards, image_size=8, validation=4, seed=2, memory=0)
    _, whole = batches(splits, size=4)
    shares = [batches(splits, size=4, rank=rank, world=2)[1] for rank in (0, 1)]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
        for pair in zip(*shares, strict=True)
    ]
    assert len(whole) == 4 and same(joined, whole)


def test_a_shard_is_read_once_until_it_changes(shards, monkeypatch):
    read, names = shards_module._read, []
    monkeypatch.setattr(shards_module, "_read", lambda p, e: names.append(p.name) or read(p, e))
    first = load("shards", root=shards, image_size=8)
    assert len(names) == 4
    names.clear()
    path = shards / "set-train-0001.tar"
    with tarfile.open(path) as archive:
        entries = [(e.name, archive.extractfile(e).read()) for e in archive]
    write_shard(path, entries[:-2])
    again = load("shards", root=shards, image_size=8)
    assert names == [path.name]
    assert len(again.train) + len(again.validation) == 11
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("image", r"set-train-0001.tar/cat_0.png is none of BMP"),
        ("cut", r"shard .*set-train-0001.tar (ends|cannot be read)"),
        ("header", r"shard .*set-train-0001.tar (is damaged at byte|cannot be read)"),
        ("gzip", r"shard .*set-train-0001.tar cannot be read as a plain tar file .*unpacked"),
        ("class", r"shard .*set-train-0001.tar holds no class of cat_1.png: .*\.cls"),
        ("classes", r"shard .*set-train-0001.tar says the class of cat_1 twice"),
        ("hole", r"shard .*set-train-0001.tar goes on after its end at byte"),
        ("joined", r"shard .*set-train-0001.tar goes on after its end .* joined one by one"),
        ("unfetched", r"shard .*set-train-0001.tar goes on after its end .* fetch it again"),
    ],
)
def test_what_is_wrong_names_the_shard_and_the_member(shards, damage, message):
    path = shards / "set-train-0001.tar"
    with tarfile.open(path) as archive:
        entries = {e.name: archive.extractfile(e).read() for e in archive}
        middle = archive.getmembers()[4].offset
    if damage == "image":
        entries["cat_0.png"] = b"not a picture"
    if damage == "class":
        del entries["cat_1.cls"]
    twice = [("cat_1.cls", b"0")] if damage == "classes" else []
    write_shard(path, [*entries.items(), *twice])
    content = bytearray(path.read_bytes())
    if damage == "hole":  # a header and what is before it, as where a fetch left out a piece
        content[middle - 512 : middle + 512] = bytes(1024)
        path.write_bytes(content)
    if damage == "joined":
        path.write_bytes(content * 2)
    if damage == "unfetched":
        path.write_bytes(content + bytes(2**20 + 1))
    if damage == "cut":
        path.write_bytes(content[: middle + 700])
    if damage == "header":
        content[middle : middle + 300] = b"?" * 300
        path.write_bytes(content)
    if damage == "gzip":
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(ValueError, match=message):
        load("shards", root=shards, image_size=8)


def test_classes_may_have_names_and_shards_folders(tmp_path, folder):
    root = tmp_path / "named"
    for part in ("train", "test"):
        entries = [
            (name, name.split("_")[0].encode() if name.endswith(".cls") else content)
            for name, content in members(folder, part)
        ]
        write_shard(root / part / "0.tar", entries)
    splits = load("shards", root=root, image_size=8, validation=4)
    assert splits.class_names == CLASSES
    assert splits.class_counts == {"train": (4, 4), "validation": (2, 2), "test": (6, 6)} | {
        "held_out": (0, 0)
    }
    with pytest.raises(DataNotFound, match=r"train/\*\.tar"):
        load("shards", root=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "names", [("Training/0.tar", "Valid/0.tar"), ("x_Train_0.tar", "x-valid-0.tar")]
)
def test_parts_have_the_names_that_folders_of_images_have(tmp_path, folder, names):
    for part, name in zip(("train", "test"), names, strict=True):
        write_shard(tmp_path / "named" / name, members(folder, part))
    splits = load("shards", root=tmp_path / "named", image_size=8)
    assert splits.class_counts["test"] == (6, 6)


def test_a_shard_that_changes_under_a_run_gives_no_image_of_another(shards):
    """Of the same length, with another image at the same place."""
    path = shards / "set-train-0001.tar"
    with tarfile.open(path) as archive:
        entries = {e.name: archive.extractfile(e).read() for e in archive}
    one, other = sorted(name for name in entries if name.endswith(".png"))[:2]
    most = max(len(entries[name]) for name in (one, other))
    for name in (one, other):
        entries[name] = entries[name].ljust(most, b"\0")
    write_shard(path, entries.items())
    splits = load("shards", root=shards, image_size=8, memory=0)
    index = splits.train.paths.index(f"{path.name}/{one}")
    assert splits.train.read(index).shape[0] == 3
    length = path.stat().st_size
    entries[one], entries[other] = entries[other], entries[one]
    write_shard(path, entries.items())
    assert path.stat().st_size == length
    with pytest.raises(ValueError, match=f"0001.tar/{one} has changed since it was looked at"):
        splits.train.read(index)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("12", r"no image of class 0, and there are classes up to 2: number them from 0"),
        ("02", r"no image of class 1, .* or name all of them in classes.txt"),
        ("0\N{ARABIC-INDIC DIGIT SEVEN}", r"no image of class 1, and there are classes up to 7"),
        (["0", "20261129000"], r"no image of class 1, .* up to 20261129000"),
    ],
)
def test_numbers_of_classes_leave_no_gap_that_no_list_of_names_fills(tmp_path, labels, message):
    entries = [(f"{i}.png", b"") for i in range(2)]
    entries += [(f"{i}.cls", label.encode()) for i, label in enumerate(labels)]
    write_shard(tmp_path / "train.tar", entries)
    with pytest.raises(ValueError, match=message):
        load("shards", root=tmp_path, image_size=8)


def test_a_list_of_names_may_hold_classes_without_images(shards):
    (shards / "classes.txt").write_text("ant\ncat\ndog\n")
    splits = load("shards", root=shards, image_size=8, validation=4)
    assert splits.class_names == ("ant", "cat", "dog")
    assert splits.class_counts["train"] == (4, 4, 0)


def test_a_name_of_two_parts_is_refused(shards):
    (shards / "set-test-0000.tar").rename(shards / "set-train-test.tar")
    with pytest.raises(ValueError, match="train-test.tar has both train and test in its name"):
        load("shards", root=shards, image_size=8)


def test_endings_begin_at_the_first_dot_and_links_are_told(shards):
    path = shards / "set-train-0001.tar"
    with tarfile.open(path) as archive:
        entries = [(e.name, archive.extractfile(e).read()) for e in archive]
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("again.png")
        link.type, link.linkname = tarfile.LNKTYPE, entries[0][0]
        archive.addfile(link)
    with pytest.warns(UserWarning, match="1 left out: 1 that are links, or no plain files, in sha"):
        load("shards", root=shards, image_size=8)
    only = shards.parent / "dotted"
    dotted = [(name.replace("_", ".v2."), content) for name, content in entries]
    write_shard(only / "train.tar", dotted)
    with pytest.raises(ValueError, match=r"first dot of a name, and there are \.v2.*\.png"):
        load("shards", root=only, image_size=8)


@pytest.mark.filterwarnings("ignore:images in:UserWarning")
def test_all_kinds_of_images_and_names_are_those_of_the_folder(tmp_path):
    """16 bits, CMYK, transparent, a GIF; names that are no UTF-8, or have a line break."""
    rng, folder = np.random.default_rng(0), tmp_path / "folder"
    kinds = {
        "deep.png": Image.fromarray(rng.integers(0, 2**16, (9, 9)).astype(np.uint16)),
        "print.jpg": Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)).convert(
            "CMYK"
        ),
        "moves.gif": Image.fromarray(rng.integers(0, 256, (9, 9)).astype(np.uint8)).convert("P"),
        "see\nthrough.png": Image.fromarray(rng.integers(0, 256, (9, 9, 4)).astype(np.uint8)),
        "gr\udcfcn.png": Image.fromarray(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8)),
    }
    for part in ("train", "test"):
        for name in CLASSES:
            (folder / part / name).mkdir(parents=True)
            for file, image in kinds.items():
                image.save(folder / part / name / file)
        write_shard(tmp_path / "shards" / part / "0.tar", members(folder, part))
    (tmp_path / "shards" / "classes.txt").write_text("\n".join(CLASSES))
    options = {"image_size": 8, "validation": 2, "seed": 2, "memory": 0}
    whole = load("folder", root=folder, **options)
    pieces = load("shards", root=tmp_path / "shards", **options)
    assert len(pieces.train) == len(whole.train) == 2 * 4 - 2  # a GIF is none of the formats
    assert all(
        torch.equal(whole.train.read(i), pieces.train.read(i)) for i in range(len(whole.train))
    )
    assert same(batches(pieces)[1], batches(whole)[1])
