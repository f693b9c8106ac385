"""What manyshot adds to the arithmetic: steps, evaluation, costs, start-up, memory.

    python benchmarks/speed.py [steps loop evaluation costs help memory] [--at macro] [--rounds 20]

Both sides of a ratio run in one process, one torch thread, taking turns step by step, in CPU time.
Every result is a line of `speed.jsonl`; `--report` writes the page from the lines.
"""

from __future__ import annotations

import argparse
import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import COLUMNS, HERE, alternate, cpu_seconds, latest, provenance, ratio, row, spread
from page import write_page
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

import manyshot as ms
from manyshot import records
from manyshot.data import Augment, Batches, ImageSet
from manyshot.recipe import Training
from manyshot.train import Only, Path as TrainPath, Plan, Trainer, engine, train
