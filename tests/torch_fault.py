"""Says whether the installed torch takes the gradient of strided 1x1 convolutions unsafely.

    python tests/torch_fault.py

A script, not collected by pytest; it needs nothing but torch. Every case runs in a process of its
own, with the instructions of this processor and with those of AVX2, with one thread and two. See
`manyshot.nn.pointwise` for what is done about it, and `constraints.txt` for what was found.
"""

import os
import subprocess
import sys

CHANNELS = (2, 4, 7, 8, 12, 15, 16)
CASE = """
import sys, torch
torch.set_num_threads(int(sys.argv[2])); torch.manual_seed(0)
last = torch.channels_last
for _ in range(20):
    x = torch.randn(32, int(sys.argv[1]), 64, 64)
    weight = torch.randn(16, int(sys.argv[1]), 1, 1)
    leaf = weight.clone(memory_format=last).requires_grad_()
    torch.nn.functional.conv2d(x.contiguous(memory_format=last), leaf, stride=2).sum().backward()
    exact = weight.double().detach().requires_grad_()
    torch.nn.functional.conv2d(x.double(), exact, stride=2).sum().backward()
    assert torch.allclose(leaf.grad.double(), exact.grad, rtol=1e-4, atol=1e-2), "wrong gradient"
"""


def outcome(channels: int, instructions: str, threads: int) -> str:
    """What became of one case: ok, or how it ended."""
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    command = [sys.executable, "-c", CASE, str(channels), str(threads)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return "hangs"
    return "ok" if done.returncode == 0 else f"ends with {done.returncode}"


def main() -> None:
    """Prints a line per processor, number of threads and number of input channels."""
    subprocess.run([sys.executable, "-c", "import torch; print('torch', torch.__version__)"])
    for instructions in ("AVX2", "ALL"):
        for threads in (1, 2):
            for channels in CHANNELS:
                said = outcome(channels, instructions, threads)
                print(f"{instructions}, {threads} threads, {channels} channels: {said}", flush=True)


if __name__ == "__main__":
    main()
