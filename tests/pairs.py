"""Two processes of one JAX program, on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_two(script: Path, *arguments: list[str]) -> list[subprocess.CompletedProcess]:
    """Run a script once for each process to its end: with its number, a port and its arguments."""
    port = str(free_port())
    return ended([
        start([str(script), str(number), port, *own]) for number, own in enumerate(arguments)
    ])


def start(command: list[str], **environment: str) -> subprocess.Popen:
    """Start Python on the CPU, with what tests force upon JAX left out."""
    root = str(Path(__file__).parents[1])
    own = {"PYTHONPATH": root, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, *command],
        env=os.environ | own | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(processes: list[subprocess.Popen]) -> list[subprocess.CompletedProcess]:
    """Wait until all have ended, or end them."""
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
