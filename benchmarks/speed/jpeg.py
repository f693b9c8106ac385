"""How fast JPEG files become images of one size: as they are read here, and in other ways.

    python -m benchmarks.speed.jpeg [--images 40] [--rounds 7]

The ways take turns in one process on one thread, so that what else the machine does is shared out,
and their CPU times are divided by those of what is read here. Files are generated, of 500 x 375
pixels as ImageNet's are on average, and of 1600 x 1200. Ways are: as here, from bytes in memory;
Pillow at full size; torchvision at full size; each is then resized alike. The last column is how
far pixels are from those at full size, in levels of 255. Much of that is that an image which was
decoded smaller has a side that was rounded, so that all is moved by a part of a pixel.
"""

from __future__ import annotations

import argparse
import io
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyshot.data.augment import fit
from manyshot.data.decoding import covering, pixels

Way = Callable[[bytes, int], Tensor]


def photo(height: int, width: int, rng: np.random.Generator) -> bytes:
    """A JPEG with something of every size in it, about as long as one of a photograph."""
    total = np.zeros((height, width, 3))
    for cells, strength in ((4, 60), (16, 40), (64, 25), (160, 18)):
        shape = (max(2, height * cells // width), cells, 3)
        coarse = np.clip(128 + 40 * rng.normal(size=shape), 0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += (np.asarray(smooth).astype(float) - 128) * strength / 40
    total += 4 * rng.normal(size=(height, width, 1))
    file = io.BytesIO()
    Image.fromarray(np.clip(128 + total, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def as_here(data: bytes, side: int) -> Tensor:
    """What batches are made of."""
    return fit(pixels(data, 3, covering(side, side)), side, side)


def by_pillow(data: bytes, side: int) -> Tensor:
    """All pixels, by Pillow."""
    array = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    return fit(torch.from_numpy(array).permute(2, 0, 1), side, side)


def by_torchvision(data: bytes, side: int) -> Tensor:
    """All pixels, by torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    decoded = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    return fit(decoded, side, side)


WAYS: dict[str, Way] = {"here": as_here, "Pillow": by_pillow, "torchvision": by_torchvision}


def seconds(files: Sequence[bytes], side: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of an image by the ways in turn, of each round."""
    spent: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.process_time()
            for data in files:
                way(data, side)
            spent[name].append((time.process_time() - began) / len(files))
    return spent


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # that torchvision will not always decode
    rng = np.random.default_rng(0)
    for height, width, count in ((375, 500, options.images), (1200, 1600, options.images // 5)):
        files = [photo(height, width, rng) for _ in range(count)]
        size = sum(map(len, files)) / len(files) / 1000
        print(f"{width} x {height} pixels, {size:.0f} kB a file")
        for side in (224, 160, 128, 64):
            spent = seconds(files, side, options.rounds)
            ratios = [
                f"{name} {np.median(np.divide(own, spent['here'])):.2f}"
                for name, own in spent.items()
            ]
            apart = [as_here(data, side).float() - by_pillow(data, side).float() for data in files]
            levels = torch.stack(apart).abs().mean().item()
            rate = 1 / float(np.median(spent["here"]))
            print(f"    to {side}: {rate:,.0f} images/s; {', '.join(ratios)}; apart {levels:.2f}")


if __name__ == "__main__":
    main()
