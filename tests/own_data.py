"""Data of tests that a recipe names: tokens with masks, and labels by the first token."""

import torch
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler

from token_nets import batch


class Sentences(Dataset):
    """Samples made one by one; `changed` alters a sample in the middle, `noisy` draws a token."""

    def __init__(self, count, seed, changed=None, noisy=False, first=None):
        self.inputs, self.targets = batch(count, seed)
        if changed is not None:
            self.inputs["tokens"][changed] += 1
        if first is not None:
            self.inputs["tokens"][0] = first
        self.noisy = noisy

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        tokens = self.inputs["tokens"][index].clone()
        if self.noisy:
            tokens[-1] = torch.randint(0, 11, ())
        return {"tokens": tokens, "mask": self.inputs["mask"][index]}, self.targets[index]


def sentences(count=96, noisy=False):
    """Train and test."""
    return Sentences(count, 1, noisy=noisy), Sentences(48, 2)


def three(count=96):
    """Train, validation and test."""
    return Sentences(count, 1), Sentences(40, 3), Sentences(48, 2)


def wrong(gives):
    """What is no data."""
    if gives == "an error":
        raise KeyError("file")
    one = Sentences(8, 1)
    loader = DataLoader(one, sampler=SubsetRandomSampler([0, 1]))
    return {"three of four": (one,) * 4, "a loader of some": (loader, one)}.get(gives)


def in_five():
    """Lists of samples, labelled by the first token in another way."""
    parts = Sentences(96, 1), Sentences(48, 2)
    return tuple(
        [(inputs, inputs["tokens"][0] % 5) for inputs, _ in (part[i] for i in range(len(part)))]
        for part in parts
    )


def untold():
    """The same sentences, which do not tell all their targets."""
    return tuple(Subset(part, range(len(part))) for part in sentences())
