import subprocess
import sys

import pytest

COUNT = """
import resource, sys
import numpy as np
from manyshot.allocation import hold_freed_memory

print(hold_freed_memory() if "hold" in sys.argv else None)
np.ones(2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # of 8 MiB, then of 12 MiB, as activations of two paths
    np.ones(2**20), np.ones(3 * 2**19)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def counted(how: str, **environment: str) -> tuple[str, int]:
    run = subprocess.run(
        [sys.executable, "-c", COUNT, how],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), **environment},
    )
    changed, faults = run.stdout.split()
    return changed, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="the C library of Linux alone")
def test_freed_memory_is_used_again() -> None:
    changed, held = counted("hold")
    _, plain = counted("leave")
    if changed != "True":
        pytest.skip("another C library than glibc")
    assert held < 20 * 5 * 256  # less than once more, of pages of 4 KiB; 20 times without it
    assert held < plain / 2


def test_what_somebody_has_set_up_stays() -> None:
    changed, _ = counted("hold", MALLOC_ARENA_MAX="2")
    assert changed == "False"
