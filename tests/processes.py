"""Two processes of one JAX program, on this machine."""

import os
import socket
import subprocess
import sys
from pathlib import Path


def run_two(script: Path, *arguments: list[str]) -> list[subprocess.CompletedProcess]:
    """Run a script once for each process to its end: with its number, a port and its arguments."""
    port, root = str(_free_port()), str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(number), port, *own],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, own in enumerate(arguments)
    ]
    try:
        outputs = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *output)
        for process, output in zip(processes, outputs, strict=True)
    ]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
