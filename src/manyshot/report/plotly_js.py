"""What draws the figures of pages: a bundle of plotly.js, which is in the folder `plotly`.

It is the smallest with all kinds of traces that figures have, and `tools/plotly_js.py` fetches it.
So pages are the same wherever they are written, whatever else is installed.
"""

from __future__ import annotations

import base64
import json
from functools import lru_cache
from importlib import resources
from typing import NamedTuple

SCRIPT, LICENCE, ORIGIN = "plotly.js.gz", "LICENSE-plotly.txt", "origin.json"


class Origin(NamedTuple):
    """Where the bundle is from; the digest is of the script as it was published."""

    package: str
    version: str
    bytes: int
    sha256: str


def origin() -> Origin:
    """Where the bundle is from."""
    return Origin(**json.loads(_read(ORIGIN)))


def licence() -> str:
    """The licence of plotly.js, which goes where its script goes."""
    return _read(LICENCE).decode()


@lru_cache(maxsize=1)
def packed() -> str:
    """The compressed script as text, which `templates/script.js` unpacks."""
    return base64.b64encode(_read(SCRIPT)).decode()


def _read(name: str) -> bytes:
    return resources.files("manyshot.report").joinpath("plotly", name).read_bytes()
