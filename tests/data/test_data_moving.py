"""Batches go to a GPU one ahead, each used when it has arrived; elsewhere one by one."""

import contextlib

import pytest
import torch

from manyshot.data import moving as module
from manyshot.data.moving import moving


class Queue:
    """A stream of a GPU that there is not."""

    def __init__(self, said):
        self._said, self._sent = said, 0

    def record_event(self):
        self._sent += 1
        return self._sent - 1

    def wait_event(self, event):
        self._said.append(f"wait for {event}")


def read(said, count, fails=None):
    for i in range(count):
        if i == fails:
            raise ValueError("cannot be read")
        said.append(f"read {i}")
        yield torch.full((2,), i), {"target": torch.full((1,), -i)}


@pytest.fixture
def said(monkeypatch):
    """What happens, in order, with batches that go to a GPU."""
    said, side = [], []

    def sent(batch, device):
        assert side == [True] and device.type == "cuda"
        said.append(f"send {int(batch[0][0])}")
        return batch

    @contextlib.contextmanager
    def on_the_side(stream):
        side.append(True)
        yield
        side.clear()

    monkeypatch.setattr(module, "_sent", sent)
    monkeypatch.setattr(module, "_pinned", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Queue(said))
    monkeypatch.setattr(torch.cuda, "stream", on_the_side)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Queue(said))
    keep = lambda tensor, stream: said.append(f"keep {tensor[0]}")  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "record_stream", keep)
    return said


def test_a_batch_is_used_when_it_has_arrived_and_the_next_is_under_way(said):
    for i, (images, targets) in enumerate(moving(read(said, 3), torch.device("cuda"))):
        said.append(f"use {int(images[0])}")
        assert (int(images[0]), int(targets["target"][0])) == (i, -i)
    assert said == [
        *("read 0", "send 0", "read 1", "send 1"),
        *("wait for 0", "keep 0", "keep 0", "use 0", "read 2", "send 2"),
        *("wait for 1", "keep 1", "keep -1", "use 1"),
        *("wait for 2", "keep 2", "keep -2", "use 2"),
    ]
    assert list(moving(iter(()), torch.device("cuda"))) == []


def test_what_cannot_be_read_is_an_error_there_too(said):
    with pytest.raises(ValueError, match="cannot be read"):
        list(moving(read(said, 3, fails=2), torch.device("cuda")))


def test_on_the_cpu_nothing_is_read_ahead():
    said = []
    for images, _ in moving(read(said, 2), torch.device("cpu")):
        said.append(f"use {int(images[0])}")
    assert said == ["read 0", "use 0", "read 1", "use 1"]
