"""What is found of equal networks is the same, and more than half of the time of a small run.

That recording costs, comparing shapes, comparing masks and trying formats do what they should, and
touch nothing, is tested where they are.
"""

import contextlib
import functools
import importlib
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch.utils import _pytree as pytree

from manyshot import supernet
from manyshot.pipeline import build
from manyshot.space import SearchSpace

running = importlib.import_module("manyshot.pipeline.verbs.run")


def shown(value):
    """A text of what a network is measured with: tensors are told apart by shape and type alone."""
    leaves, structure = pytree.tree_flatten(value)
    plain = [(x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves]
    return f"{plain} {structure}"


def looks_of(net, *spaces):
    """Networks of one key have modules of the same classes and texts, one space, and one size."""
    sizes = [(name, p.shape, p.dtype) for name, p in net.named_parameters()]
    spaces = [s for s in (getattr(net, "space", None), *spaces) if s is not None]
    classes = tuple(map(type, net.modules()))
    return classes, str(net), str(sizes), *(str(space.to_dict()) for space in spaces)


def once(measure):
    """Of equal networks, measured with inputs of one shape, `measure` sees the first."""
    seen = {}

    @functools.wraps(measure)
    def remembering(net, *others):
        spaces = [x for x in others if isinstance(x, SearchSpace)]
        inputs = [x for x in others if not isinstance(x, SearchSpace)]
        key = (*looks_of(net, *spaces), shown(inputs))
        if key not in seen:
            seen[key] = measure(net, *others)
        return seen[key]

    return remembering


def tried_once(try_formats):
    """Of equal networks and settings that were written without a warning, it sees the first."""
    seen = set()

    @functools.wraps(try_formats)
    def trying(ws, progress):
        of = ws.recipe
        shape = ws.splits.image_shape
        key = (*looks_of(ws.net), str(of.export), str(of.task), of.data.name, str(shape))
        if key in seen:
            return
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try_formats(ws, progress)
        for warning in said:
            warnings.warn(warning.message, stacklevel=2)
        if not said:
            seen.add(key)

    return trying


REMEMBERING = {
    **{
        (module, name): once(getattr(module, name))
        for module, name in (
            (build, "macs_table"),
            (build, "params_table"),
            (supernet, "check_options"),
            (supernet, "check_agreement"),
        )
    },
    (running, "try_formats"): tried_once(running.try_formats),
}


@contextlib.contextmanager
def measured_once() -> Iterator[None]:
    """Equal networks are measured once, in all that is done in the block."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), remembering in REMEMBERING.items():
            patch.setattr(module, name, remembering)
        yield
