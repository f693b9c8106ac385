"""How many images a second an epoch of an image folder has, at the first start and the next.

    python -m benchmarks.speed.image_folder [--images 5000] [--size 64] [--memory 2GB] [--workers 0]

Half of the files are JPEG and half PNG, of 200 to 500 pixels a side. A start is everything until
the first batch can be made: importing torch, listing, looking at files, decoding what is kept in
memory, mean and standard deviation. The cache folder is an empty one, and each start a process of
its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import manyshot as ms
from manyshot.recipe import bytes_of


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the images are; by default made anew")
    options = parser.parse_args()
    if "IN_A_START" in os.environ:
        epochs(options.folder, options)
        return
    with tempfile.TemporaryDirectory() as work:
        folder = options.folder or Path(work) / "images"
        if not folder.exists():
            write_images(folder, options.images)
        own = {"XDG_CACHE_HOME": work, "IN_A_START": "yes"}
        for start in ("first start", "next start"):
            print(start, flush=True)
            command = [sys.executable, "-m", "benchmarks.speed.image_folder", *sys.argv[1:]]
            subprocess.run([*command, f"--folder={folder}"], check=True, env={**os.environ, **own})
        kept = sum(path.stat().st_size for path in Path(work).glob("manyshot/decoded/*"))
        print(f"on disk: {kept / 1e6:.0f} MB")


def write_images(folder: Path, count: int) -> None:
    """Smooth colours with some noise, in ten classes."""
    rng = np.random.default_rng(0)
    for index in range(count):
        height, width = rng.integers(200, 500, 2)
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        noise = rng.integers(-8, 9, (height, width, 3))
        pixels = np.clip(np.asarray(smooth).astype(int) + noise, 0, 255).astype(np.uint8)
        of_class = folder / "train" / str(index % 10)
        of_class.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(of_class / f"{index}.{'png' if index % 2 else 'jpg'}")


def epochs(folder: Path, options: argparse.Namespace) -> None:
    """Times a start and two epochs of training batches."""
    start = time.monotonic()
    splits = ms.data.load(
        "folder",
        root=folder,
        image_size=options.size,
        memory=bytes_of(options.memory),
        workers=options.workers,
    )
    print(f"    until the first batch: {time.monotonic() - start:.1f} s")
    batches = ms.data.Batches(
        splits.train,
        64,
        mean=splits.mean,
        std=splits.std,
        seed=0,
        augment=ms.data.Augment(pad=4, flip=True),
        workers=options.workers,
    )
    for epoch in range(2):
        start, seen = time.monotonic(), 0
        for images, _ in batches.epoch(epoch):
            seen += len(images)
        took = time.monotonic() - start
        print(f"    epoch {epoch + 1}: {seen / took:,.0f} images/s ({seen} in {took:.2f} s)")


if __name__ == "__main__":
    main()
