"""Weights on disk: what is saved is what is loaded, and nothing else loads."""

import io
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import manyshot as ms
from manyshot import records
from manyshot.train import CheckpointError, checkpoint, load_weights, save_weights
from manyshot.train.checkpoint import digest, load_checkpoint, save_checkpoint


class Tied(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)
        self.two.weight = self.one.weight
        self.register_buffer("count", torch.tensor(3))
        self.conv = nn.Conv2d(3, 4, 3)


def filled(net: nn.Module, value: float) -> nn.Module:
    with torch.no_grad():
        for tensor in net.state_dict().values():
            tensor.fill_(value)
    return net


def test_weights_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "w.safetensors"
    net = ms.Supernet(ms.zoo.tiny(width=4)).to(memory_format=torch.channels_last)
    save_weights(path, net)
    other = ms.Supernet(ms.zoo.tiny(width=4))
    assert digest(net.state_dict()) != digest(other.state_dict())
    load_weights(path, other)
    assert digest(net.state_dict()) == digest(other.state_dict())
    with safe_open(path, "pt") as file:
        formats = {k for k in file.metadata() if k.startswith("memory_format:")}
        assert file.metadata()["schema"] == "1"
        assert all(file.get_tensor(name).is_contiguous() for name in file.keys())  # noqa: SIM118
    assert formats  # channels last, and said so


def test_tied_weights_are_saved_once_and_stay_tied(tmp_path):
    path, net = tmp_path / "w.safetensors", filled(Tied(), 7)
    save_weights(path, net)
    with safe_open(path, "pt") as file:
        assert sorted(file.keys()) == [
            "conv.bias", "conv.weight", "count", "one.bias", "one.weight", "two.bias"
        ]  # fmt: skip
        assert file.metadata()["tied:two.weight"] == "one.weight"
    other = filled(Tied(), 0)
    load_weights(path, other)
    assert other.two.weight is other.one.weight
    assert all((tensor == 7).all() for tensor in other.state_dict().values())


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, Tied())
    wide = Tied(width=5)
    before = digest(wide.state_dict())
    with pytest.raises(CheckpointError, match=r"of another network.*other shapes \['one.weight"):
        load_weights(path, wide)
    assert digest(wide.state_dict()) == before  # nothing was loaded
    with pytest.raises(CheckpointError, match=r"missing \['weight'\], unknown \['"):
        load_weights(path, nn.Embedding(4, 4))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_damaged_weights_are_refused(tmp_path, keep):
    path = tmp_path / "w.safetensors"
    save_weights(path, Tied())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"w.safetensors cannot be read .*delete the file"):
        load_weights(path, Tied())


def test_no_flipped_bit_loads(tmp_path):
    """Not in the length, the header with names, types and shapes, its metadata, or the numbers."""
    path, net = tmp_path / "w.safetensors", nn.Linear(2, 2)
    save_weights(path, net, "print")
    whole = path.read_bytes()
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"w.safetensors (cannot|are|have|belong)"):
            load_weights(path, net, "print")


def test_weights_of_other_settings_are_refused(tmp_path):
    path, net = tmp_path / "w.safetensors", nn.Linear(2, 2)
    save_weights(path, net, "seed 1")
    load_weights(path, net, "seed 1")
    load_weights(path, net)  # whoever does not know takes what is there
    with pytest.raises(CheckpointError, match=r"another seed .*fingerprint seed 1, here seed 2\)"):
        load_weights(path, net, "seed 2")


def test_equal_weights_are_equal_files(tmp_path):
    files = []
    for number in range(8):  # safetensors itself writes metadata in any order
        path = tmp_path / f"{number}.safetensors"
        save_weights(path, filled(Tied(), 7).to(memory_format=torch.channels_last))
        files.append(path.read_bytes())
    assert len(set(files)) == 1


def test_weights_of_another_schema_are_refused(tmp_path):
    net = nn.Linear(2, 2)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="have schema None; this version reads 1"):
        load_weights(tmp_path / "w.safetensors", net)


def test_a_missing_file_is_not_a_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.safetensors", Tied())


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"step": lambda: None})
    assert load_checkpoint(path) == {"schema": 1, "step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]


def test_a_digest_depends_on_names_and_values():
    one, two = torch.zeros(2), torch.ones(2)
    assert digest({"a": one, "b": two}) == digest({"b": two, "a": one})
    assert digest({"a": one, "b": two}) != digest({"a": two, "b": one})
    assert digest({"a": torch.zeros(1, dtype=torch.bfloat16), "b": torch.tensor(3)})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
@pytest.mark.parametrize("numbers", [10, 10**6])
def test_a_checkpoint_on_a_full_disk_says_so(tmp_path, monkeypatch, numbers):
    """Torch alone says `unexpected pos 896 vs 790`, whether at a tensor or at the end."""
    path, link = tmp_path / "trainer.pt", tmp_path / ".trainer.manyshot-part.pt"
    save_checkpoint(path, {"step": 1})
    before = path.read_bytes()

    def on_a_full_disk(suffix, prefix, folder):
        link.symlink_to("/dev/full")
        return os.open("/dev/full", os.O_WRONLY), str(link)

    monkeypatch.setattr(records.tempfile, "mkstemp", on_a_full_disk)
    with pytest.raises(OSError, match=f"the disk is full, so {path} was not written: make room"):
        save_checkpoint(path, {"step": 2, "weights": torch.ones(numbers)})
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_stops_a_command_in_the_middle_of_a_checkpoint_is_no_error_of_torch(
    tmp_path, monkeypatch, kind
):
    """A signal while bytes are written; torch says of the cut file `unexpected pos 896 vs 790`."""
    path, written = tmp_path / "trainer.pt", []
    save_checkpoint(path, {"step": 1})
    before = path.read_bytes()

    class Stopped(io.BufferedWriter):
        def write(self, buffer):
            written.append(len(buffer))
            if len(written) == 9:
                raise kind
            return super().write(buffer)

    monkeypatch.setattr(
        checkpoint, "open", lambda path, mode: Stopped(io.FileIO(path, mode)), raising=False
    )
    with pytest.raises(kind):
        save_checkpoint(path, {"step": 2, "weights": torch.ones(10**5)})
    assert len(written) >= 9
    assert path.read_bytes() == before and [*tmp_path.iterdir()] == [path]
