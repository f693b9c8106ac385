"""Data of your own: any data set of inputs and targets, each a tensor or a tree of tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias, final

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)
from torch.utils.data import default_collate as torch_collate

from manyshot.data.balance import balanced, hold_out
from manyshot.seeding import all_seeded

Collate: TypeAlias = Callable[[list[Any]], Any]

PARTS = ("train", "validation", "test")
LOOKED_AT = 8
"""Of data that is not in memory, the digest is of its length and so many samples at either end."""


def collated(samples: Sequence[Any]) -> Any:
    """A batch of samples: leaf by leaf as torch's loader has it, in the structure of a sample.

    torch's own function would make lists of tuples, and a list is no tuple of positional inputs.
    The keys of a dictionary may come in any order.

    Raises:
        ValueError: for a sample of another structure than the first.
    """
    leaves, structure = pytree.tree_flatten(samples[0])
    rows = [leaves, *(structure.flatten_up_to(sample) for sample in samples[1:])]
    columns = zip(*rows, strict=True)
    return pytree.tree_unflatten([torch_collate(list(column)) for column in columns], structure)


def joined(batches: Sequence[Any]) -> Any:
    """Batches, each after the other, as one."""
    return pytree.tree_map(_joined, *batches)


def _joined(first: Any, *others: Any) -> Any:
    return torch.cat([first, *others]) if isinstance(first, Tensor) and first.dim() else first


@final
class OwnSet:
    """Samples of a data set, in memory or read when they are asked for.

    Attributes:
        samples: the data set, which maps an index to a pair of inputs and targets.
        indices: which of its samples there are, and in which order.
        collate: makes a batch of a list of samples.
        labels: their class indices, int64 [N], if targets are such and are at hand, else None.
        part: what it is, for messages.
    """

    def __init__(
        self,
        samples: Any,
        collate: Collate = collated,
        indices: Tensor | None = None,
        labels: Tensor | None = None,
        part: str = "data",
    ) -> None:
        """Makes a set; `of` looks at what there is.

        Args:
            samples: a map-style data set.
            collate: makes a batch of a list of samples.
            indices: int64 [N]; by default all in order.
            labels: int64 [N], of these samples.
            part: what it is, for messages.
        """
        self.samples, self.collate, self.part = samples, collate, part
        self.indices = torch.arange(len(samples)) if indices is None else indices
        self.labels = labels

    @classmethod
    def of(cls, data: Any, part: str = "data") -> OwnSet:
        """The samples of a data set, or of the one that a loader reads.

        Order and size of batches are those of training and scoring here; of a loader its data set
        and its `collate_fn` are used.

        Args:
            data: a data set, a list of samples, or a `DataLoader`.
            part: what it is, for messages.

        Raises:
            ValueError: for something else, a loader that chooses samples, samples that cannot be
                read or put together, or samples that are no pairs.
        """
        collate: Collate = collated
        loader = data if isinstance(data, DataLoader) else None
        if loader is not None:
            if loader.collate_fn is not torch_collate:
                collate = loader.collate_fn
            data = loader.dataset
        mapped = hasattr(data, "__getitem__") and hasattr(data, "__len__")
        if isinstance(data, IterableDataset | Mapping | str | Tensor) or not mapped:
            raise ValueError(
                f"{part} is a {type(data).__name__}: give a map-style torch Dataset (with __len__ "
                "and __getitem__), a list of samples, or a DataLoader of such; the order of "
                "anything else could not be repeated"
            )
        if loader is not None:
            _check_order(loader, part)
        own = cls(data, collate, labels=_labels(data), part=part)
        if len(own):
            first = own.batch([0])
            if not isinstance(first, tuple) or len(first) != 2:
                raise ValueError(
                    f"{part}: a sample must be a pair (inputs, targets), got {_kind(data[0])}. "
                    "Tensors of all inputs and all targets are pairs by "
                    "torch.utils.data.TensorDataset(inputs, targets); samples of another form are "
                    "pairs by a DataLoader with a collate_fn that gives a pair"
                )
        return own

    @property
    def classes(self) -> int:
        """One more than the largest class index; 0 if targets are no class indices."""
        return 0 if self.labels is None or not len(self.labels) else int(self.labels.max()) + 1

    @property
    def is_in_memory(self) -> bool:
        """Whether all samples are tensors that are there already."""
        return isinstance(self.samples, TensorDataset | list | tuple)

    def __len__(self) -> int:
        """The number of samples."""
        return len(self.indices)

    def subset(self, indices: Tensor | Sequence[int]) -> OwnSet:
        """The samples at `indices`, in that order."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        labels = None if self.labels is None else self.labels[chosen]
        return OwnSet(self.samples, self.collate, self.indices[chosen], labels, self.part)

    def batch(self, indices: Sequence[int]) -> tuple[Any, Any]:
        """The inputs and the targets of some samples.

        Raises:
            ValueError: if they cannot be read, or put together; the message names them.
        """
        at = self.indices[torch.as_tensor(indices, dtype=torch.int64)]
        if isinstance(self.samples, TensorDataset) and self.collate is collated:
            return tuple(tensor[at] for tensor in self.samples.tensors)  # type: ignore[return-value]
        reading = self.samples if self.is_in_memory else _Reading(self.samples, self.part)
        batch: tuple[Any, Any] = _Joining(self.collate, self.part)(
            [reading[i] for i in at.tolist()]
        )
        return batch

    def odd(self) -> list[int]:
        """The first sample, of those in memory, whose inputs are not all finite; or none."""
        if isinstance(self.samples, TensorDataset):
            inputs = self.samples.tensors[0][self.indices]
            if torch.isfinite(inputs).all():
                return []
            finite = torch.isfinite(inputs).view(len(inputs), -1).all(1)
            return [int((~finite).int().argmax())]
        every = range(len(self)) if self.is_in_memory else ()
        return next(([i] for i in every if not is_finite(self.batch([i])[0])), [])

    def known_targets(self, size: int) -> Iterator[Any]:
        """The targets of so many samples after another, if they are in memory.

        Those that a `collate_fn` makes may depend on which samples are together, and are not given.
        """
        if self.is_in_memory and self.collate is collated:
            for at in range(0, len(self), size):
                yield self.batch(range(at, min(at + size, len(self))))[1]

    def drawn(self, n: int, rng: np.random.Generator) -> Tensor:
        """Indices of `n` samples: class-balanced if they have class indices, else any."""
        if self.labels is not None:
            return balanced(self.labels, n, rng)
        return torch.from_numpy(rng.permutation(len(self))[:n].copy())

    def split(self, n: int, rng: np.random.Generator) -> tuple[OwnSet, OwnSet]:
        """What is left, and `n` samples: of every class the same share if there are class indices.

        Raises:
            ValueError: if `n` are not there.
        """
        if self.labels is not None:
            kept, held = hold_out(self.labels, n, rng, stratified=True)
        else:
            if not 0 <= n < len(self):
                raise ValueError(f"cannot hold out {n} of {len(self)} samples")
            order = torch.from_numpy(rng.permutation(len(self)))
            held, kept = order[:n].sort().values, order[n:].sort().values
        return self.subset(kept), self.subset(held)

    def digest(self) -> str:
        """A sha256 over all samples that are in memory; of others over their number and the ends.

        What those are that are not looked at, only their indices tell.
        """
        digest = hashlib.sha256(f"{len(self.samples)} ".encode())
        digest.update(self.indices.numpy().data)
        for indices in self._looked_at():
            leaves, structure = pytree.tree_flatten(self.batch(indices))
            digest.update(str(structure).encode())
            for leaf in leaves:
                digest.update(_bytes(leaf))
        return digest.hexdigest()

    def _looked_at(self) -> Iterator[list[int]]:
        """The samples that the digest is of: those of tensors together, others one by one."""
        every = range(len(self))
        if isinstance(self.samples, TensorDataset) and len(self):
            yield list(every)
        else:
            ends = sorted({*every[:LOOKED_AT], *every[-LOOKED_AT:]})
            yield from ([i] for i in (every if self.is_in_memory else ends))

    def loader(
        self, shares: Sequence[Tensor], workers: int, stream: Sequence[Any]
    ) -> Iterator[Any]:
        """Batches of samples, in order.

        What a data set draws from the global random numbers of torch, NumPy and Python depends on
        the stream and the sample.

        Args:
            shares: the indices of each batch.
            workers: processes that read.
            stream: names a random stream, as `manyshot.seeding.stream` takes it.
        """
        reading = _Reading(self.samples, self.part, tuple(stream))
        chosen = [self.indices[share].tolist() for share in shares]
        yield from DataLoader(
            reading,
            batch_sampler=chosen,
            num_workers=workers,
            collate_fn=_Joining(self.collate, self.part),
            generator=torch.Generator().manual_seed(0),  # else it draws from torch's global one
        )


@final
class _Reading(Dataset[Any]):
    """A view of a data set; what a sample draws depends on the stream and its index only."""

    def __init__(self, samples: Any, part: str, stream: tuple[Any, ...] = ("any", "look")) -> None:
        self._samples, self._part, self._stream = samples, part, stream

    def __getitem__(self, index: int) -> Any:
        try:
            with all_seeded(*self._stream, index):
                return self._samples[index]
        except Exception as error:  # a data set is anybody's code
            raise ValueError(
                f"{self._part}: sample {index} of {len(self._samples)} cannot be read "
                f"({type(error).__name__}: {error}): mend the data set, or leave the sample out by "
                "torch.utils.data.Subset"
            ) from error


@final
class _Joining:
    """Makes a batch of a list of samples, a tuple of inputs and targets."""

    def __init__(self, collate: Collate, part: str) -> None:
        self._collate, self._part = collate, part

    def __call__(self, samples: list[Any]) -> Any:
        try:
            batch = self._collate(samples)
        except Exception as error:  # a collate function is anybody's code
            raise ValueError(
                f"{self._part}: a batch cannot be made of {len(samples)} samples, such as "
                f"{_kind(samples[0])} ({type(error).__name__}: {error}): samples must hold "
                "tensors, numpy arrays or numbers, of one structure and one shape (of PIL images, "
                "torchvision.transforms.ToTensor() makes such); of others a DataLoader is given "
                "whose collate_fn makes a batch"
            ) from error
        return tuple(batch) if isinstance(batch, list) else batch


def _check_order(loader: DataLoader[Any], part: str) -> None:
    """Refuses a loader that chooses samples, which order and size of batches here would undo.

    Raises:
        ValueError: then.
    """
    sampler, batches = loader.sampler, loader.batch_sampler
    takes_all = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler
        and not sampler.replacement
        and sampler.num_samples == len(sampler.data_source)
    )
    if not takes_all or type(batches) is not BatchSampler:
        chooses = sampler if not takes_all else batches
        what = "batch_size=None" if chooses is None else f"a {type(chooses).__name__}"
        raise ValueError(
            f"{part} is a DataLoader with {what}: which samples there are and how they are batched "
            "is decided here, so that a run can be repeated. Give a data set of single samples "
            "with all that you mean, such as torch.utils.data.Subset(data, indices), or a "
            "DataLoader of such with shuffle and batch_size alone"
        )


def _kind(sample: Any) -> str:
    """What a sample is, for messages."""
    if isinstance(sample, tuple | list):
        parts = ", ".join(type(part).__name__ for part in sample[:3])
        return f"{type(sample).__name__} of {len(sample)} ({parts})"
    if isinstance(sample, Mapping):
        return f"{type(sample).__name__} of {', '.join(map(repr, [*sample][:5]))}"
    return type(sample).__name__


def is_finite(values: Any) -> bool:
    """Whether no tensor in a tree holds an infinity or what is no number."""
    tensors = (leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor))
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def not_finite_rows(values: Any, count: int) -> list[int] | None:
    """The rows of a tree of tensors in which anything is not finite; None if all is.

    What has no row per sample is for all of them: of that alone the list is empty.

    Args:
        values: tensors, and what else there is.
        count: how many samples there are.
    """
    rows: set[int] = set()
    for leaf in pytree.tree_leaves(values):
        if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == count:
            rows.update(
                torch.nonzero(~torch.isfinite(leaf).view(count, -1).all(1)).flatten().tolist()
            )
    return None if not rows and is_finite(values) else sorted(rows)


def _labels(data: Any) -> Tensor | None:
    """The class indices of a data set: its second tensor, `targets`, or of a list all samples'.

    What `targets` are transformed to when a sample is read is not known.
    """
    if isinstance(data, TensorDataset):
        found: Any = data.tensors[1] if len(data.tensors) == 2 else None
    elif isinstance(data, list | tuple):
        found = [s[1] for s in data if isinstance(s, tuple | list) and len(s) == 2]
    else:
        changed = getattr(data, "target_transform", None) or getattr(data, "transforms", None)
        is_plain = changed is None or getattr(changed, "target_transform", 0) is None
        found = getattr(data, "targets", None) if is_plain else None
    if isinstance(found, list | tuple | np.ndarray):
        numbers = all(
            isinstance(t, int | np.integer)
            or (isinstance(t, Tensor) and not t.dim() and not t.is_floating_point())
            for t in found
        )
        found = torch.tensor([int(t) for t in found]) if numbers and len(found) else None
    fits = isinstance(found, Tensor) and found.dtype == torch.int64 and found.dim() == 1
    return found if fits and len(found) == len(data) and not (found < 0).any() else None


def _bytes(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        plain = leaf.detach().cpu().contiguous()
        return (
            f"{plain.dtype} {tuple(plain.shape)} ".encode()
            + plain.view(-1).view(torch.uint8).numpy().tobytes()
        )
    return repr(leaf).encode()


def parts_of(data: Any) -> Mapping[str, Any]:
    """The parts of data: of `(train, test)`, `(train, validation, test)`, or a dict of these.

    Raises:
        ValueError: for something else, or without train or test.
    """
    if isinstance(data, tuple | list) and len(data) in (2, 3):
        names = PARTS if len(data) == 3 else ("train", "test")
        data = dict(zip(names, data, strict=True))
    wanted = "give (train, test), (train, validation, test), or a dict with these names"
    if not isinstance(data, Mapping):
        raise ValueError(f"data is a {type(data).__name__}: {wanted}")
    unknown = [str(name) for name in data if name not in PARTS]
    if unknown or any(data.get(name) is None for name in ("train", "test")):
        raise ValueError(f"data has the parts {', '.join(map(str, data))}: {wanted}")
    return MappingProxyType({name: part for name, part in data.items() if part is not None})
