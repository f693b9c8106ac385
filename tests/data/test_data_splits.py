import hashlib
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from manyshot.data import DATASETS, DataNotFound, load
from manyshot.data.sources import DEBIAN
from manyshot.export import about_images


def rows(images) -> list[bytes]:
    return [image.numpy().tobytes() for image in images.images]


def test_digits_equal_scikit_learn_and_its_parts_do_not_overlap():
    from sklearn.datasets import load_digits

    splits = load("digits", validation=200)
    bunch = load_digits()
    expected = sorted(
        (np.rint(image / 16 * 255).astype(np.uint8).tobytes(), int(label))
        for image, label in zip(bunch.images, bunch.target, strict=True)
    )
    parts = (splits.train, splits.validation, splits.test)
    assert [len(part) for part in parts] == [1148, 200, 449]
    together = [
        pair for part in parts for pair in zip(rows(part), part.labels.tolist(), strict=True)
    ]
    assert sorted(together) == expected  # nothing lost, nothing twice
    assert torch.bincount(splits.validation.labels).tolist() == [20] * 10
    assert set(torch.bincount(splits.test.labels).tolist()) == {44, 45}
    assert (splits.classes, splits.image_shape, splits.name) == (10, (1, 8, 8), "digits")
    assert int(splits.train.images.max()) == 255


def test_same_seed_same_split_other_seed_other_split():
    first, again = load("digits", seed=3), load("digits", seed=3)
    other = load("digits", seed=4)
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).images, getattr(again, part).images)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    assert not torch.equal(first.validation.images, other.validation.images)
    assert torch.equal(first.test.images, other.test.images)
    subsets = [load("digits", validation=0, train_size=50, seed=s).train for s in (3, 3, 4)]
    assert subsets[0].digest() == subsets[1].digest() != subsets[2].digest()


def test_test_part_is_untouched_by_validation_and_train_size():
    test = load("digits", validation=0).test.digest()
    assert load("digits", validation=0.5, train_size=100, seed=9).test.digest() == test


def test_train_size_is_balanced_nested_and_leaves_the_validation_alone():
    small = load("digits", train_size=100)
    large = load("digits", train_size=500)
    assert torch.bincount(small.train.labels).tolist() == [10] * 10
    assert torch.bincount(large.train.labels).tolist() == [50] * 10
    assert set(rows(small.train)) < set(rows(large.train))
    assert small.validation.digest() == large.validation.digest()
    assert not set(rows(large.train)) & set(rows(large.validation))


def test_mean_and_std_are_those_of_the_train_part():
    splits = load("digits", train_size=300)
    pixels = splits.train.images.numpy() / 255.0
    # float64 sums of 19,200 values in another order: differences far below 1e-12.
    assert splits.mean == pytest.approx([pixels.mean()], abs=1e-12)
    assert splits.std == pytest.approx([pixels.std()], abs=1e-12)


@pytest.mark.parametrize(
    ("validation", "count"), [(0, 0), (0.0, 0), (135, 135), (0.1, 135), (0.5, 674), (1000, 1000)]
)
def test_validation_is_a_count_or_a_fraction(validation, count):
    splits = load("digits", validation=validation)
    assert len(splits.validation) == count
    assert len(splits.train) == 1348 - count
    if count == 135:
        assert set(torch.bincount(splits.validation.labels).tolist()) == {13, 14}
    assert len(splits.train.labels.unique()) == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"validation": 1.0}, r"in \[0, 1\), got 1.0"),
        ({"validation": -1}, "cannot hold out -1"),
        ({"validation": 5000}, r"cannot hold out 5000 .* 0\.\.1338"),
        ({"validation": True}, "count or a fraction, got True"),
        ({"validation": float("nan")}, "got nan"),
        ({"train_size": 0}, r"data.train_size must be in 1\.\.1213"),
        ({"train_size": 1214}, r"data.train_size must be in 1\.\.1213 .* got 1214"),
        ({"image_size": 0}, r"data.image_size must be at least 1 pixel, or a pair .* got 0"),
        ({"root": "/nowhere"}, "takes no data.root, got '/nowhere': leave it out"),
    ],
)
def test_impossible_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load("digits", **arguments)


def test_unknown_name_names_the_nearest_and_all():
    with pytest.raises(ValueError, match="unknown data set 'fashionmnist'; did you mean") as error:
        load("fashionmnist")
    assert "'fashion_mnist'?" in str(error.value)
    assert all(name in str(error.value) for name in DATASETS)
    with pytest.raises(ValueError, match="'zzz'; have cifar10"):
        load("zzz")


def test_image_size_resizes_every_part():
    splits = load("digits", image_size=16)
    assert splits.image_shape == (1, 16, 16)
    assert splits.validation.image_shape == splits.test.image_shape == (1, 16, 16)


@pytest.mark.parametrize("size", [4, 11, 16])
def test_resizing_is_bilinear_and_antialiased(size):
    original = load("digits", validation=0).train.images.float()
    expected = torch.nn.functional.interpolate(
        original, size=(size, size), mode="bilinear", antialias=True
    )
    result = load("digits", validation=0, image_size=size).train.images.float()
    # uint8 arithmetic rounds, so a grey level of difference is allowed.
    assert (result - expected).abs().max() <= 1


def test_splits_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        load("digits").mean = (0.0,)


# -- held out for samplers -------------------------------------------------------------------

PARTS = ("train", "validation", "held_out", "test")


def test_the_held_out_part_overlaps_no_other_and_nothing_is_lost():
    splits, without = load("digits", validation=200, held_out=150), load("digits", validation=200)
    assert [len(getattr(splits, part)) for part in PARTS] == [998, 200, 150, 449]
    found = [set(rows(getattr(splits, part))) for part in PARTS]
    assert sum(map(len, found)) == len(set.union(*found)) == 1797  # no two images are equal
    assert found[0] | found[2] == set(rows(without.train))
    for part in ("validation", "test"):
        assert getattr(splits, part).digest() == getattr(without, part).digest()
    assert torch.bincount(splits.held_out.labels).tolist() == [15] * 10


@pytest.mark.parametrize(("held_out", "count"), [(0, 0), (0.0, 0), (121, 121), (0.1, 121)])
def test_the_held_out_part_is_a_count_or_a_share_of_what_validation_left(held_out, count):
    splits = load("digits", held_out=held_out)
    assert (len(splits.held_out), len(splits.train)) == (count, 1213 - count)
    if count:
        assert set(torch.bincount(splits.held_out.labels).tolist()) == {12, 13}
    assert splits.held_out.image_shape == (1, 8, 8)


def test_the_held_out_part_is_a_function_of_the_seed_alone():
    first, again, other = (
        load("digits", validation=0, held_out=100, seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.held_out.images, again.held_out.images)
    assert not torch.equal(first.held_out.images, other.held_out.images)
    small = load("digits", validation=0, held_out=100, seed=3, train_size=50)
    assert small.held_out.digest() == first.held_out.digest()
    assert set(rows(small.train)) < set(rows(first.train))
    assert len(small.train) == 50


def test_the_fingerprint_is_as_it_was_without_and_changes_with_it():
    """Without, it is that of the three parts, as before there was a fourth."""
    plain = load("digits").fingerprint
    assert (
        plain == load("digits", held_out=0).fingerprint == load("digits", held_out=0.0).fingerprint
    )
    found = {load("digits", held_out=n).fingerprint for n in (0, 10, 20)}
    assert len(found) == 3
    splits = load("digits")
    digests = "/".join(getattr(splits, part).digest() for part in ("train", "validation", "test"))
    assert plain == hashlib.sha256(digests.encode()).hexdigest()[:16]


@pytest.mark.parametrize("held_out", [0, 20])
def test_parts_have_digests_of_their_own_and_training_one_without_the_test_images(held_out):
    splits = load("digits", held_out=held_out)
    parts = ["train", "validation", *(["held_out"] if held_out else []), "test"]
    whole = {part: getattr(splits, part).digest() for part in parts}
    assert dict(splits.digests) == {part: digest[:16] for part, digest in whole.items()}
    together = "/".join(whole[part] for part in parts[:-1])
    assert splits.training_fingerprint == hashlib.sha256(together.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("held_out", "message"),
    [
        (1.0, r"held_out as a fraction must be in \[0, 1\), got 1.0"),
        (-1, "cannot hold out -1 of 1213 images"),
        (1213, r"cannot hold out 1213 of 1213 images: allowed are 0\.\.1203"),
        ("half", "held_out must be a count or a fraction, got 'half'"),
    ],
)
def test_an_impossible_held_out_part_is_named(held_out, message):
    with pytest.raises(ValueError, match=message):
        load("digits", held_out=held_out)


def test_train_size_counts_what_the_held_out_part_leaves():
    with pytest.raises(ValueError, match=r"data.train_size must be in 1\.\.1113 .* got 1114"):
        load("digits", held_out=100, train_size=1114)


def test_mean_and_std_know_nothing_of_the_held_out_part():
    splits = load("digits", held_out=600)
    pixels = splits.train.images.numpy() / 255.0
    # float64 sums of 39,232 values in another order
    assert splits.mean == pytest.approx([pixels.mean()], abs=1e-12)
    assert splits.std == pytest.approx([pixels.std()], abs=1e-12)


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("gz", [False, True])
def test_idx_files_in_a_given_root(tmp_path, write_idx_set, name, gz):
    train, train_labels, test, test_labels = write_idx_set(tmp_path, gz=gz)
    splits = load(name, root=tmp_path, validation=0)
    assert np.array_equal(splits.train.images[:, 0], train)
    assert np.array_equal(splits.train.labels, train_labels)
    assert np.array_equal(splits.test.images[:, 0], test)
    assert np.array_equal(splits.test.labels, test_labels)
    assert splits.train.labels.dtype == torch.int64
    from torchvision import datasets

    names = datasets.FashionMNIST.classes if name == "fashion_mnist" else None
    assert splits.class_names == (names and tuple(names))
    resized = load(name, root=tmp_path, validation=10, train_size=20, image_size=14)
    assert resized.class_names == splits.class_names
    assert about_images(resized).get("class_names") == names
    held = load(name, root=tmp_path, validation=10).validation
    assert sorted(held.labels.tolist()) == list(range(10))


def test_idx_files_in_torchvisions_layout(tmp_path, write_idx_set):
    train, *_ = write_idx_set(tmp_path / "MNIST" / "raw", gz=False)
    splits = load("mnist", root=tmp_path, validation=0)
    assert np.array_equal(splits.train.images[:, 0], train)


def test_default_places_in_order(tmp_path, write_idx_set, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_idx_set(tmp_path / "home/.cache/manyshot/mnist", train=30)
    monkeypatch.delenv("MANYSHOT_DATA", raising=False)
    assert len(load("mnist", validation=0).train) == 30
    write_idx_set(tmp_path / "chosen/mnist", train=40)
    monkeypatch.setenv("MANYSHOT_DATA", str(tmp_path / "chosen"))
    assert len(load("mnist", validation=0).train) == 40


def test_missing_idx_files_are_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MANYSHOT_DATA", str(tmp_path / "chosen"))
    monkeypatch.setitem(DEBIAN, "fashion_mnist", tmp_path / "debian")
    with pytest.raises(DataNotFound) as error:
        load("fashion_mnist")
    text = str(error.value)
    for part in (
        "'fashion_mnist'",
        "train-images-idx3-ubyte",
        str(tmp_path / "chosen" / "fashion_mnist"),
        str(tmp_path / ".cache/manyshot/fashion_mnist/FashionMNIST/raw"),
        str(tmp_path / "debian"),
        "apt-get install dataset-fashion-mnist",
        "--set data.root=DIR",
        "--set data.download=true",
    ):
        assert part in text
    assert isinstance(error.value, FileNotFoundError)


def test_one_missing_file_is_missing_data(tmp_path, write_idx_set):
    write_idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataNotFound, match="t10k-labels-idx1-ubyte"):
        load("mnist", root=tmp_path)


def test_download_is_asked_of_torchvision_only_when_files_are_missing(
    tmp_path, write_idx_set, monkeypatch
):
    from torchvision import datasets

    calls = []

    def fetch(root, train, download):
        calls.append((root, download))
        write_idx_set(tmp_path / "MNIST" / "raw")

    monkeypatch.setattr(datasets, "MNIST", fetch)
    for _ in range(2):
        assert len(load("mnist", root=tmp_path, validation=0, download=True).train) == 60
    assert calls == [(str(tmp_path), True)]


def test_fashion_mnist_as_debian_installs_it():
    if not DEBIAN["fashion_mnist"].is_dir():
        pytest.skip("the set is not there: apt-get install dataset-fashion-mnist (Debian)")
    splits = load("fashion_mnist", root=DEBIAN["fashion_mnist"], validation=0)
    assert torch.bincount(splits.train.labels).tolist() == [6000] * 10
    assert torch.bincount(splits.test.labels).tolist() == [1000] * 10
    # The values printed in the literature for the 60,000 training images.
    assert splits.mean == pytest.approx([0.2860406], abs=1e-7)
    assert splits.std == pytest.approx([0.3530242], abs=1e-7)
    held = load("fashion_mnist", root=DEBIAN["fashion_mnist"], validation=5000, train_size=1000)
    assert torch.bincount(held.validation.labels).tolist() == [500] * 10
    assert torch.bincount(held.train.labels).tolist() == [100] * 10


@pytest.mark.parametrize(
    ("name", "folder", "classes"),
    [("cifar10", "cifar-10-batches-py", 10), ("cifar100", "cifar-100-python", 100)],
)
def test_cifar_through_torchvisions_own_reader(tmp_path, monkeypatch, name, folder, classes):
    import pickle  # noqa: TID251 - the published format, written here to test reading it

    from torchvision import datasets

    rng = np.random.default_rng(0)
    labels_key = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
    meta_key = {"cifar10": "label_names", "cifar100": "fine_label_names"}[name]

    def write(file: str, content) -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        data = pickle.dumps(content)
        (tmp_path / folder / file).write_bytes(data)
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def batch(n: int):
        return {
            "data": rng.integers(0, 256, (n, 3072), dtype=np.uint8),
            labels_key: [i % classes for i in range(n)],
        }

    first, second, held = batch(classes * 2), batch(classes), batch(classes)
    loader = getattr(datasets, name.upper())
    train = [("one", write("one", first)), ("two", write("two", second))]
    monkeypatch.setattr(loader, "train_list", train)
    monkeypatch.setattr(loader, "test_list", [("held", write("held", held))])
    meta = {"filename": "meta", "key": meta_key}
    meta["md5"] = write("meta", {meta_key: [f"class {i}" for i in range(classes)]})
    monkeypatch.setattr(loader, "meta", meta)

    splits = load(name, root=tmp_path, validation=0)
    # Rows are stored channel by channel, which is what [3, 32, 32] means.
    expected = np.concatenate([first["data"], second["data"]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(splits.train.images, expected)
    assert splits.train.labels.tolist() == first[labels_key] + second[labels_key]
    assert np.array_equal(splits.test.images, held["data"].reshape(-1, 3, 32, 32))
    assert (splits.classes, splits.image_shape) == (classes, (3, 32, 32))
    assert splits.class_names == tuple(f"class {i}" for i in range(classes))
    assert splits.mean == pytest.approx((expected / 255).mean((0, 2, 3)).tolist(), abs=1e-12)
    assert splits.std == pytest.approx((expected / 255).std((0, 2, 3)).tolist(), abs=1e-12)

    (tmp_path / folder / "two").write_bytes(b"damaged")
    with pytest.raises(DataNotFound, match=f"an intact {folder}/"):
        load(name, root=tmp_path)


def test_missing_cifar_is_explained(tmp_path):
    with pytest.raises(DataNotFound, match="'cifar10' was not found") as error:
        load("cifar10", root=tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "--set data.download=true" in str(error.value)
