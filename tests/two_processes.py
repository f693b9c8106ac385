"""A command as two ranks on the loopback, as torchrun would start it."""

import os
import socket
import subprocess


def start(command: list[str], rank: int, port: int) -> subprocess.Popen:
    environment = os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def two_processes(command: list[str]) -> list[subprocess.Popen]:
    """Runs a command as two ranks to their end, as torchrun would."""
    port = free_port()
    ranks = [start(command, rank, port) for rank in (0, 1)]
    try:
        for process in ranks:
            process.output, process.errors = process.communicate(timeout=600)
    finally:
        for process in ranks:
            with process:
                process.kill()
    return ranks
