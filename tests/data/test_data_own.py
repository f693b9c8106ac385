"""Data of one's own: which samples come, in which order and structure, and what identifies them."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from manyshot.data import Augment, Batches, OwnSet, fixed, own_data
from own_data import Sentences


def tensors(count=20, classes=3):
    return TensorDataset(torch.arange(count * 2.0).view(count, 2), torch.arange(count) % classes)


class Pairs(Dataset):
    """Inputs are a tuple and targets a dict; they cannot be split by class."""

    def __init__(self, count=20):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return (torch.full((2,), float(index)), index), {"y": torch.tensor(index / 2)}


def indices_of(batches):
    return [inputs[1].tolist() for inputs, _ in batches]


def test_batches_keep_the_structure_of_samples():
    own = OwnSet.of(Pairs())
    batches = list(Batches(own, 6, seed=3).epoch(0))
    assert [len(batch[0][1]) for batch in batches] == [6, 6, 6]
    for inputs, targets in batches:
        assert isinstance(inputs, tuple) and inputs[0].shape == (6, 2)
        assert torch.equal(inputs[0][:, 0], inputs[1].float())
        assert torch.equal(targets["y"], inputs[1] / 2)


def test_order_depends_on_seed_and_epoch_alone():
    own = OwnSet.of(Pairs())
    one, same = Batches(own, 5, seed=3), Batches(own, 5, seed=3)
    first = indices_of(one.epoch(0))
    assert sorted(sum(first, [])) == list(range(20))
    assert indices_of(same.epoch(0)) == first != indices_of(one.epoch(1))
    assert indices_of(one.epoch(0, start=2)) == first[2:]
    assert first != indices_of(Batches(own, 5, seed=4).epoch(0))
    images = Batches(OwnSet.of(tensors()), 5, seed=3)  # as a set of any other kind
    assert [(x[:, 0] / 2).long().tolist() for x, _ in images.epoch(0)] == first


def test_processes_share_a_batch():
    own = OwnSet.of(Pairs())
    whole = indices_of(Batches(own, 6, seed=0).epoch(0))
    shares = [indices_of(Batches(own, 6, seed=0, rank=r, world=2).epoch(0)) for r in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_data_set_draws_depends_on_the_sample_alone(workers):
    """Not on what was drawn before, on workers, or on the step that is begun at."""
    own = OwnSet.of(Sentences(24, 0, noisy=True))
    torch.manual_seed(workers)
    before = torch.get_rng_state()
    batches = list(Batches(own, 8, seed=1, workers=workers).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)
    expected = list(Batches(own, 8, seed=1).epoch(0))
    later = list(Batches(own, 8, seed=1, workers=workers).epoch(0, start=1))
    for got, want in ((batches, expected), (later, expected[1:])):
        for (x, _), (y, _) in zip(got, want, strict=True):
            assert torch.equal(x["tokens"], y["tokens"])
    other = list(Batches(own, 8, seed=1).epoch(1))
    drawn = lambda bs: sorted(row[-1].item() for x, _ in bs for row in x["tokens"])  # noqa: E731
    assert drawn(other) != drawn(batches)


def test_loaders_give_their_data_set_and_collate_function():
    called = []

    def collate(samples):
        called.append(len(samples))
        return {"x": torch.stack([x for x, _ in samples])}, torch.stack([y for _, y in samples])

    loader = DataLoader(tensors(), batch_size=7, shuffle=True, collate_fn=collate)
    batches = list(Batches(OwnSet.of(loader), 10, seed=0).epoch(0))
    assert [batch[0]["x"].shape for batch in batches] == [(10, 2)] * 2
    assert 10 in called
    plain = Batches(OwnSet.of(DataLoader(tensors(), batch_size=7)), 10, seed=0).epoch(0)
    for (one, _), (other, _) in zip(batches, plain, strict=True):
        assert torch.equal(one["x"], other)


def test_fixed_batches_are_class_balanced_where_targets_are_classes():
    chosen = fixed(OwnSet.of(tensors(21)), 6, 4, seed=0)
    assert torch.bincount(torch.cat([labels for _, labels in chosen])).tolist() == [2, 2, 2]
    some = fixed(OwnSet.of(Pairs()), 7, 4, seed=0)
    assert indices_of(some) == indices_of(some) and len(set(sum(indices_of(some), []))) == 7
    everything = fixed(OwnSet.of(Pairs(9)), None, 4, seed=0)
    assert indices_of(everything) == [[0, 1, 2, 3], [4, 5, 6, 7, 8]]  # one is no batch
    assert len(everything) == 2


def test_parts_are_disjoint_and_stratified():
    labels = torch.tensor([0] * 40 + [1] * 20)
    data = TensorDataset(torch.arange(60), labels)
    splits = own_data((data, tensors(5)), validation=0.25, held_out=6, seed=1, train_size=12)
    parts = [splits.train, splits.validation, splits.held_out]
    assert [len(part) for part in parts] == [12, 15, 6]
    assert torch.bincount(splits.validation.labels).tolist() == [10, 5]
    assert torch.bincount(splits.held_out.labels).tolist() == [4, 2]
    every = torch.cat([part.indices for part in parts])
    assert len(every.unique()) == len(every)
    assert splits.class_counts["validation"] == (10, 5, 0)  # a class of test alone
    assert (splits.classes, splits.image_shape, splits.mean) == (3, (), ())
    again = own_data((data, tensors(5)), validation=0.25, held_out=6, seed=1)
    assert torch.equal(again.validation.indices, splits.validation.indices)
    other = own_data((data, tensors(5)), validation=0.25, held_out=6, seed=2)
    assert not torch.equal(other.validation.indices, splits.validation.indices)


def test_a_validation_part_is_taken_as_it_is():
    splits = own_data({"train": Pairs(20), "validation": Pairs(4), "test": Pairs(3)})
    assert [len(splits.train), len(splits.validation), len(splits.test)] == [20, 4, 3]
    assert splits.classes == 0 and splits.class_counts == {}
    assert splits.defaults == {}
    drawn = own_data((Pairs(20), Pairs(3)), validation=5)
    assert sorted([*drawn.train.indices.tolist(), *drawn.validation.indices.tolist()]) == [
        *range(20)
    ]


def test_digests_are_of_all_that_is_in_memory():
    def digest(data):
        return OwnSet.of(data).digest()

    base = tensors()
    assert digest(base) == digest(tensors())
    changed = tensors()
    changed.tensors[0][10, 1] += 1
    relabelled = tensors()
    relabelled.tensors[1][10] += 1
    longer = TensorDataset(base.tensors[0].double(), base.tensors[1])
    assert len({digest(d) for d in (base, changed, relabelled, longer, tensors(19))}) == 5
    rows = [(torch.ones(i + 1), i) for i in range(30)]
    assert digest(rows) != digest([*rows[:15], (torch.zeros(16), 15), *rows[16:]])
    assert digest(base) != OwnSet.of(base).subset([1, 0, *range(2, 20)]).digest()


def test_digests_of_others_are_of_their_ends_and_say_so():
    base = OwnSet.of(Sentences(40, 0)).digest()
    assert base != OwnSet.of(Sentences(40, 0, changed=39)).digest()
    assert base == OwnSet.of(Sentences(40, 0, changed=20)).digest()
    assert own_data((tensors(), tensors())).notes == ()
    [note] = own_data((Sentences(40, 0), tensors())).notes
    assert "train, validation are of their length" in note and "unseen" in note


class Endless(IterableDataset):
    def __iter__(self):
        yield 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ((Endless(), tensors()), "data.train is a Endless: give a map-style"),
        ((DataLoader(Endless()), tensors()), "data.train is a Endless"),
        ((tensors(), torch.zeros(3)), "data.test is a Tensor"),
        (([1, 2], tensors()), r"a sample must be a pair \(inputs, targets\), got int"),
        (tensors(), r"data is a TensorDataset: give \(train, test\)"),
        ({"train": tensors()}, "data has the parts train: give"),
        ({"train": tensors(), "tests": tensors()}, "data has the parts train, tests"),
        (([], tensors()), "data.train has no samples"),
    ],
)
def test_what_is_no_data_is_said(data, words):
    with pytest.raises(ValueError, match=words):
        own_data(data, validation=0)


def test_numbers_that_do_not_fit_are_said():
    with pytest.raises(ValueError, match=r"data.validation = 25: cannot hold out 25 of 20"):
        own_data((Pairs(), Pairs()), validation=25)
    with pytest.raises(ValueError, match=r"data.train_size must be in 1..18"):
        own_data((Pairs(), Pairs()), train_size=19)
    with pytest.raises(ValueError, match="come as|as they are"):
        Batches(OwnSet.of(tensors()), 4, seed=0, augment=Augment(flip=True))


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (lambda d: DataLoader(d, sampler=SubsetRandomSampler(range(5))), "a SubsetRandomSampler"),
        (
            lambda d: DataLoader(d, sampler=WeightedRandomSampler([1.0] * 20, 20)),
            "a WeightedRandom",
        ),
        (lambda d: DataLoader(d, sampler=RandomSampler(d, num_samples=7)), "a RandomSampler"),
        (lambda d: DataLoader(d, sampler=RandomSampler(d, replacement=True)), "a RandomSampler"),
        (lambda d: DataLoader(d, batch_sampler=Pairwise()), "a Pairwise"),
        (lambda d: DataLoader(d, batch_size=None), "batch_size=None"),
    ],
)
def test_a_loader_that_chooses_samples_is_refused(loader, words):
    """Its data set has others, such as those held out."""
    with pytest.raises(ValueError, match=rf"data.train is a DataLoader with {words}.*Subset\("):
        own_data((loader(tensors()), tensors()))
    for plain in (DataLoader(tensors(), 4, shuffle=True), DataLoader(tensors(), 4, drop_last=True)):
        assert len(own_data((plain, tensors()), validation=0).train) == 20


class Pairwise:
    def __iter__(self):
        return iter([[0, 1]])


class Made(Dataset):
    """Samples that a function makes."""

    def __init__(self, make, count=12):
        self.make, self.count = make, count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.make(index)


def broken(index):
    if index == 7:
        raise KeyError("label")
    return torch.zeros(2), 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_cannot_be_read_is_named(workers):
    own = OwnSet.of(Made(broken), "data.test")
    with pytest.raises(
        ValueError, match=r"data.test: sample 7 of 12 cannot be read \(KeyError: 'l"
    ):
        list(Batches(own, 4, seed=0, shuffle=False, workers=workers).epoch(0))
    with pytest.raises(ValueError, match="data.test: sample 7 of 12"):
        own.batch([6, 7])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda i: (Image.new("L", (4, 4)), i), r"tuple of 2 \(Image, int\).*ToTensor\(\)"),
        (lambda i: None, "samples, such as NoneType"),
        (lambda i: (torch.zeros(2 + i % 2), i), "of one structure and one shape"),
        (lambda i: (torch.zeros(2), i) if i else (torch.zeros(2), {"y": i}), "of one structure"),
    ],
)
def test_samples_that_make_no_batch_are_said(make, words):
    with pytest.raises(ValueError, match=f"data: a batch cannot be made of .*{words}"):
        OwnSet.of(Made(make)).batch([0, 1])


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ((torch.zeros(2), 1, 2), r"got tuple of 3 \(Tensor, int, int\)"),
        ({"x": torch.zeros(2), "y": 1}, "got dict of 'x', 'y'.*collate_fn"),
    ],
)
def test_samples_that_are_no_pairs_are_said(sample, words):
    with pytest.raises(ValueError, match=words):
        OwnSet.of(Made(lambda i: sample))
    with pytest.raises(ValueError, match=r"got Tensor\. .*TensorDataset\(inputs, targets\)"):
        own_data(((torch.zeros(4, 2), torch.zeros(4)), tensors()))


def test_keys_may_come_in_any_order():
    """Else what one sample calls ids is mixed with what another calls mask."""

    def make(index):
        pairs = [("ids", torch.tensor([index, 1])), ("mask", torch.tensor([100 + index, 0]))]
        return dict(pairs if index % 2 else reversed(pairs)), index

    inputs, _ = OwnSet.of(Made(make)).batch(range(4))
    assert inputs["ids"][:, 0].tolist() == [0, 1, 2, 3]
    assert inputs["mask"][:, 0].tolist() == [100, 101, 102, 103]
    with pytest.raises(ValueError, match="of one structure"):
        OwnSet.of(Made(lambda i: ({"ids" if i else "tokens": torch.zeros(2)}, i))).batch([0, 1])


def test_labels_are_unknown_where_targets_are_changed_in_reading():
    data = tensors()
    data.targets = torch.arange(20)  # as torchvision's data sets have them
    read = Made(lambda i: (torch.zeros(2), i % 2), 20)
    read.targets, read.target_transform = torch.arange(20), None
    assert OwnSet.of(read).classes == 20
    read.target_transform = lambda target: target % 2
    assert OwnSet.of(read).labels is None


def of_numpy():
    return np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("workers", [0, 2])
def test_global_random_numbers_of_all_three_depend_on_the_sample_alone(workers):
    def make(index):
        drawn = [random.random(), np.random.rand(), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor(drawn), index

    own = OwnSet.of(Made(make))
    states = random.getstate(), of_numpy(), torch.get_rng_state().tolist()
    first = dict(read(own, 0, workers))
    assert own.digest() == own.digest()  # else a run could not be resumed
    after = random.getstate(), of_numpy(), torch.get_rng_state().tolist()
    assert states == after
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert dict(read(own, 0, 0)) == first
    other = dict(read(own, 1, workers))
    for at in range(3):
        values = [row[at] for row in (*first.values(), *other.values())]
        assert len(set(values)) == 24 and 0 <= min(values) < max(values) < 1


def read(own, epoch, workers):
    for inputs, targets in Batches(own, 4, seed=5, workers=workers).epoch(epoch):
        yield from zip(targets.tolist(), map(tuple, inputs.tolist()), strict=True)
