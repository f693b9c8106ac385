"""How long it takes to list, to look at and to load a folder of very many image files.

    python -m benchmarks.speed.files [--images 130000] [--classes 1000]

Files are images of one pixel, so that what counts is the number of files. Each row is measured in a
process of its own: its time, its CPU time, and by how much its peak of resident memory rose. The
first load decodes all files; the next one is what every further start takes. All is in a temporary
folder, and is deleted at the end.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from PIL import Image

import manyshot as ms
from benchmarks.lib.measuring import peak_mb
from manyshot.data import folder
from manyshot.data.looking import look


def write_tree(root: Path, images: int, classes: int) -> None:
    """Writes `root/train/<class>/` and one image of each class in `root/val`."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG")
    for label in range(classes):
        for part, count in (("train", images // classes), ("val", 1)):
            of_class = root / part / f"n{label:08}"
            of_class.mkdir(parents=True)
            for i in range(count):
                (of_class / f"n{label:08}_{i}.png").write_bytes(file.getvalue())


def listing(root: Path) -> int:
    """Lists the training part, without asking any file for anything."""
    return len(folder._list(root, "train", Counter()).paths)


def states(root: Path) -> int:
    """Lists it, and recalls what is known of its files by their times of change."""
    return len(look(root, folder._list(root, "train", Counter()).paths))


def loading(root: Path) -> int:
    """All that comes before the first batch: listed, recalled or decoded, split, digested."""
    splits = ms.data.load("folder", root=root, image_size=8, validation=0.01, memory=0)
    return len(splits.train) + len(splits.validation)


def _measured(work: Callable[[Path], int], root: Path) -> tuple[float, float, float, int]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    peak, wall, cpu = peak_mb(), time.perf_counter(), time.process_time()
    count = work(root)
    return time.perf_counter() - wall, time.process_time() - cpu, peak_mb() - peak, count


def main() -> None:
    """Writes the tree, measures, prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=130_000)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--work", type=Path, help="where the tree goes for as long as it is needed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        os.environ["XDG_CACHE_HOME"] = work
        root = Path(work) / "images"
        write_tree(root, options.images, options.classes)
        context = multiprocessing.get_context("fork")  # so that nothing is imported again
        rows: tuple[tuple[str, Callable[[Path], int]], ...] = (
            ("first load", loading),
            ("listing", listing),
            ("listing, and what is known of the files", states),
            ("next load", loading),
        )
        for what, work_on in rows:
            with context.Pool(1) as pool:
                wall, cpu, mb, count = pool.apply(_measured, (work_on, root))
            print(f"{what}: {count:,} images, {wall:.2f} s, CPU {cpu:.2f} s, {mb:.0f} MB")


if __name__ == "__main__":
    main()
