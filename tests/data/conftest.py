import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from manyshot.data import ImageSet

IDX_NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture
def make_set():
    """A set of random images and labels in which every class occurs."""

    def make(n: int, shape=(3, 6, 5), classes: int = 4, seed: int = 0) -> ImageSet:
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (n, *shape), dtype=np.uint8)
        labels = rng.permutation(np.arange(n) % classes)
        return ImageSet(
            images=torch.from_numpy(images), labels=torch.from_numpy(labels), classes=classes
        )

    return make


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def write_idx_set():
    """Write the four files of an MNIST-like set; returns the arrays."""

    def write(folder: Path, gz: bool = True, train: int = 60, test: int = 20):
        rng = np.random.default_rng(train)
        folder.mkdir(parents=True, exist_ok=True)
        arrays = []
        for n in (train, test):
            arrays.append(rng.integers(0, 256, (n, 28, 28), dtype=np.uint8))
            arrays.append((np.arange(n) % 10).astype(np.uint8))
        for name, array in zip(IDX_NAMES, arrays, strict=True):
            data = idx_bytes(array)
            path = folder / f"{name}-ubyte{'.gz' if gz else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if gz else data)
        return arrays

    return write


@pytest.fixture
def write_folder_set():
    """Write train/<class>/*.png and other parts, images of different sizes."""
    from PIL import Image

    def write(root: Path, parts=("train", "test"), classes=("cat", "ant"), each: int = 5) -> Path:
        rng = np.random.default_rng(1)
        for part in parts:
            for name in classes:
                (root / part / name).mkdir(parents=True, exist_ok=True)
                for i in range(each):
                    pixels = rng.integers(0, 256, (10 + i, 14 - i, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / part / name / f"{i}.png")
        return root

    return write
