"""Costs and shapes of equal networks are the same, and half of the time of a small run.

That recording costs and comparing shapes do what they should, and touch nothing, is tested where
they are.
"""

import contextlib
import functools
from collections.abc import Iterator

import pytest

from manyshot import supernet
from manyshot.pipeline import build
from manyshot.space import SearchSpace


def once(measure):
    """Of networks with one text, one space and parameters of one size, `measure` sees the first."""
    seen = {}

    @functools.wraps(measure)
    def remembering(net, *others):
        sizes = [(name, p.shape, p.dtype) for name, p in net.named_parameters()]
        spaces = (x for x in (getattr(net, "space", None), *others) if isinstance(x, SearchSpace))
        shapes = (x for x in others if not isinstance(x, SearchSpace))
        key = (str(net), str(sizes), *(str(s.to_dict()) for s in spaces), *map(tuple, shapes))
        if key not in seen:
            seen[key] = measure(net, *others)
        return seen[key]

    return remembering


REMEMBERING = {
    (module, name): once(getattr(module, name))
    for module, name in (
        (build, "macs_table"),
        (build, "params_table"),
        (supernet, "check_options"),
    )
}


@contextlib.contextmanager
def measured_once() -> Iterator[None]:
    """Equal networks are measured once, in all that is done in the block."""
    with pytest.MonkeyPatch.context() as patch:
        for (module, name), remembering in REMEMBERING.items():
            patch.setattr(module, name, remembering)
        yield
