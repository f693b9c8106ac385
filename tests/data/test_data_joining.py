"""Parts of a data set become one set, in order."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset, default_collate

from manyshot.data import OwnSet, load, own_data
from manyshot.data.joining import joined


def samples(one):
    """What is in a set, sample by sample."""
    if isinstance(one, OwnSet):
        return [tuple(part.tolist() for part in one.batch([i])) for i in range(len(one))]
    labels = one.labels.tolist()
    return [(one.read(i).tolist(), label) for i, label in zip(range(len(one)), labels, strict=True)]


def test_images_in_memory(make_set):
    whole = make_set(20)
    both = joined(whole.subset(range(12)), whole.subset(range(12, 20)))
    assert samples(both) == samples(whole)
    for other in (make_set(8, shape=(3, 6, 6)), make_set(8, classes=5), OwnSet.of([(1, 1)])):
        with pytest.raises(ValueError, match="cannot be one set"):
            joined(whole, other)


@pytest.mark.parametrize("memory", [0, 10**6])
def test_image_files(write_folder_set, tmp_path, memory):
    root = write_folder_set(tmp_path)
    splits = load("folder", root=root, image_size=8, validation=4, memory=memory)
    every = joined(splits.train, splits.validation)
    whole = load("folder", root=root, image_size=8, validation=0, memory=memory).train
    order = [every.paths.index(path) for path in whole.paths]
    again = every.subset(order)
    assert samples(again) == samples(whole) and again.digest() == whole.digest()
    assert (every.images is None) == (memory == 0)
    other = write_folder_set(tmp_path / "other")
    with pytest.raises(ValueError, match="cannot be one set"):
        joined(splits.train, load("folder", root=other, image_size=8).train)


def numbers(first, last):
    at = torch.arange(first, last)
    return TensorDataset(at[:, None].float(), at % 3)


def test_data_of_ones_own_split_here():
    whole = OwnSet.of(numbers(0, 20))
    splits = own_data((numbers(0, 20), numbers(0, 3)), validation=6)
    every = joined(splits.train, splits.validation)
    assert samples(every.subset(every.indices.argsort())) == samples(whole)
    assert torch.equal(every.labels, every.indices % 3)


def test_data_of_ones_own_that_came_in_parts():
    splits = own_data((numbers(0, 13), numbers(13, 20), numbers(0, 3)))
    every = joined(splits.train, splits.validation)
    assert samples(every) == samples(OwnSet.of(numbers(0, 20)))
    assert torch.equal(every.labels, torch.arange(20) % 3)
    untold = [(torch.ones(2), {"y": torch.ones(1)})] * 4
    assert joined(splits.train, OwnSet.of(untold)).labels is None


def test_parts_that_are_batched_differently():
    def reversed_batch(samples):
        return default_collate(samples[::-1])

    loaders = [
        DataLoader(numbers(0, 9), collate_fn=collate) for collate in (reversed_batch, None, None)
    ]
    splits = own_data(loaders)
    with pytest.raises(ValueError, match="data.train and data.validation .* one collate_fn"):
        joined(splits.train, splits.validation)
