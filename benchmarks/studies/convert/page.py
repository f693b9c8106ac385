"""The page of `run.py`: what every arm gives at each cost, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib import kept
from benchmarks.lib.pages import markdown, with_reading

Rows = list[dict[str, Any]]
