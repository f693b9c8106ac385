import gzip
import os
import struct
import sys
import tracemalloc

import numpy as np
import pytest
import torch

from manyshot.data.idx import read_idx, read_idx_pair

ARRAY = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
# Written by hand, not by a packing function that could share a mistake with the reader.
RAW = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4]) + bytes(range(24))


def labels_bytes(*labels: int) -> bytes:
    return struct.pack(">HBBI", 0, 8, 1, len(labels)) + bytes(labels)


@pytest.mark.parametrize("gz", [False, True])
def test_reads_raw_and_gzipped(tmp_path, gz):
    path = tmp_path / ("x.gz" if gz else "x")
    path.write_bytes(gzip.compress(RAW, mtime=0) if gz else RAW)
    assert torch.equal(read_idx(path, 3), torch.from_numpy(ARRAY))


def test_long_sizes_are_big_endian(tmp_path):
    (tmp_path / "x").write_bytes(bytes([0, 0, 8, 1, 0, 0, 1, 2]) + bytes(258))
    assert read_idx(tmp_path / "x", 1).shape == (258,)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00\x00", "2 bytes are too few"),
        (RAW[:10], "inside its header"),
        (RAW[:-1], "promises 24 bytes .* found 23"),
        (RAW + b"\x00", "promises 24 bytes .* found more"),
        (bytes([0, 0, 13]) + RAW[3:], "magic number is 00000d03, expected 00000803"),
        (bytes([1]) + RAW[1:], "magic number is 01000803"),
        (labels_bytes(1, 2), "magic number is 00000801, expected 00000803"),
        (bytes([0, 0, 8, 3, 0, 0, 0, 0]) + RAW[8:16], "holds no data"),
        (gzip.compress(RAW, mtime=0), "magic number is 1f8b"),
    ],
)
def test_damage_is_named(tmp_path, data, message):
    (tmp_path / "damaged-file").write_bytes(data)
    with pytest.raises(ValueError, match=f"damaged-file: .*{message}"):
        read_idx(tmp_path / "damaged-file", 3)


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(RAW, mtime=0)[:-9],
        gzip.compress(RAW, mtime=0)[:5],
        RAW,
        gzip.compress(RAW, mtime=0)[:-6] + b"\xff" + gzip.compress(RAW, mtime=0)[-5:],
        gzip.compress(RAW, mtime=0)[:10] + b"\xff\xff\xff" + gzip.compress(RAW, mtime=0)[13:],
    ],
)
def test_damaged_gzip_is_named(tmp_path, data):
    (tmp_path / "cut.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"cut\.gz: not a complete gzip file"):
        read_idx(tmp_path / "cut.gz", 3)


def test_no_more_is_decompressed_than_the_header_promises(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(RAW + bytes(2**28), mtime=0))
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"bomb\.gz: header promises 24 bytes .* found more"):
        read_idx(path, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22  # of 2**28 bytes that are there; buffers take less than 2**20


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize(
    ("sizes", "message"), [((2**16, 2**15), "found 3"), ((2**31, 4), "allowed")]
)
def test_a_promise_that_is_not_kept_takes_no_memory(tmp_path, gz, sizes, message):
    data = bytes([0, 0, 8, 2]) + struct.pack(">II", *sizes) + b"abc"
    path = tmp_path / ("x.gz" if gz else "x")
    path.write_bytes(gzip.compress(data) if gz else data)
    tracemalloc.start()
    with pytest.raises(ValueError, match=f"promises {sizes[0] * sizes[1]} bytes .*{message}"):
        read_idx(path, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_a_pipe_is_refused_without_waiting_for_it(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name}: is not a regular file"):
        read_idx(tmp_path / name, 3)


def test_pair(tmp_path):
    (tmp_path / "images").write_bytes(RAW)
    (tmp_path / "labels").write_bytes(labels_bytes(1, 0))
    pair = read_idx_pair(tmp_path / "images", tmp_path / "labels", classes=2)
    assert torch.equal(pair.images, torch.from_numpy(ARRAY)[:, None])
    assert pair.labels.tolist() == [1, 0]
    (tmp_path / "labels").write_bytes(labels_bytes(1, 0, 1))
    with pytest.raises(ValueError, match="images holds 2 images but .*labels holds 3 labels"):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", classes=2)
    (tmp_path / "labels").write_bytes(labels_bytes(1, 2))
    with pytest.raises(ValueError, match=r"labels: label 2 is not in 0\.\.1"):
        read_idx_pair(tmp_path / "images", tmp_path / "labels", classes=2)
