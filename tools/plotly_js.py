"""Fetches what draws the figures of pages anew: `python -m tools.plotly_js [VERSION]`.

It is a bundle of plotly.js, which npm has as a package of its own. Without a version it is the one
that the installed Python package plotly comes with, by whose schema tests check figures.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from manyshot.report import plotly_js

PACKAGE = "plotly.js-cartesian-dist-min"
"""The smallest bundle that draws scatter, bar and heatmap: the basic one has no heatmap."""
SCRIPT = "package/plotly-cartesian.min.js"
LICENCE = "package/LICENSE"
FOLDER = Path(plotly_js.__file__).parent / "plotly"


def fetch(version: str, folder: Path) -> None:
    """Writes the bundle, its licence and where it is from into a folder.

    Args:
        version: of plotly.js.
        folder: what is there is replaced.

    Raises:
        subprocess.CalledProcessError: if npm has no such version, or cannot be reached.
    """
    with tempfile.TemporaryDirectory() as place:
        command = ["npm", "pack", f"{PACKAGE}@{version}", "--pack-destination", place]
        subprocess.run(command, check=True)
        [packed] = Path(place).glob("*.tgz")
        write(packed.read_bytes(), version, folder)


def write(packed: bytes, version: str, folder: Path) -> None:
    """Writes what is taken of npm's archive into a folder.

    Args:
        packed: the archive.
        version: of plotly.js.
        folder: what is there is replaced.

    Raises:
        KeyError: if the archive lacks the script or its licence.
    """
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        script, licence = (_bytes_of(archive, name) for name in (SCRIPT, LICENCE))
    origin = plotly_js.Origin(
        package=PACKAGE,
        version=version,
        bytes=len(script),
        sha256=hashlib.sha256(script).hexdigest(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / plotly_js.SCRIPT).write_bytes(gzip.compress(script, mtime=0))
    (folder / plotly_js.LICENCE).write_bytes(licence)
    (folder / plotly_js.ORIGIN).write_text(json.dumps(origin._asdict(), indent=1) + "\n")


def _bytes_of(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # a file, or `extractfile` raises
    return file.read()


def main() -> None:
    """Fetches the version that is asked for."""
    from plotly.offline import get_plotlyjs_version

    version = sys.argv[1] if len(sys.argv) > 1 else get_plotlyjs_version()
    fetch(version, FOLDER)
    print(f"{FOLDER} has {PACKAGE} {version}")


if __name__ == "__main__":
    main()
