"""Scalars for TensorBoard."""

from collections.abc import Mapping
from pathlib import Path

import jax


class Board:
    """Scalars for TensorBoard, where asked for."""

    def __init__(self, folder: Path | None):
        """Open a folder of events.

        Raises:
            ImportError: If it is asked for and tensorboardX is not installed.
        """
        self.writer = None
        if folder is not None and jax.process_index() == 0:
            try:
                from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
            except ImportError as error:
                raise ImportError(
                    "tensorboard=True needs tensorboardX: pip install -e '.[tensorboard]'"
                ) from error
            self.writer = SummaryWriter(str(folder))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add the values of a step."""
        if self.writer is not None:
            for name, value in scalars.items():
                self.writer.add_scalar(name, value, step)
