"""Shards in the layout of WebDataset are read as the same images in folders are."""

import tarfile

import pytest
import torch

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


def batches(splits, workers=0):
    made = Batches(
        splits.train,
        3,
        mean=splits.mean,
        std=splits.std,
        seed=3,
        augment=Augment(crop_scale=(0.3, 0.8), flip=True),
        workers=workers,
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
    write_shard(path, entries.items())
    content = bytearray(path.read_bytes())
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
