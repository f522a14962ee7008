"""States of a training on disk: written while it goes on, whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from ilo_jax.files import Key, claim, kvstore
from ilo_jax.processes import together
from ilo_jax.training.step import State

TORN = "*.orbax-checkpoint-tmp"
"""What Orbax calls a checkpoint that is not whole. It would clear them away itself, but in the
background, and fail where nothing else is done with the folder."""


class Checkpoints:
    """The checkpoints of one training, the last few of them, in a folder.

    Only what a step changes is in them; frozen weights are those of the model that the key
    names. Orbax writes in the background into a folder that takes its name when it is whole,
    so that a run may be killed at any moment.
    """

    def __init__(self, folder: Path, key: Key, *, keep: int = 2):
        """Open a folder, making it if it is not there.

        Args:
            folder: Of this training only.
            key: Kept beside the checkpoints.
            keep: How many checkpoints stay.

        Raises:
            ValueError: If what is there is of another key, naming what differs.
            OSError: If the folder cannot be written.
        """
        self.folder = folder.absolute()
        together(lambda: _open(self.folder, key), what=f"opening {folder}")
        latest: Any = ocp.training.preservation_policies.LatestN(keep)
        self._orbax = ocp.training.Checkpointer(str(self.folder), preservation_policy=latest)

    def latest(self) -> int | None:
        """The number of steps behind the last checkpoint; None if there is none."""
        found = self._orbax.latest
        return None if found is None else found.step

    def restore(self, like: State) -> State:
        """The last checkpoint.

        Args:
            like: The `abstract` state of the same training, for where arrays are put. Arrays are
                not wanted: that would be the state twice.

        Raises:
            ValueError: If it is damaged.
        """
        step = self.latest()
        try:
            return State(**self._orbax.load(abstract_state=like._asdict()))
        except (OSError, KeyError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(
                f"the checkpoint in {self.folder} is damaged: {reason}; remove "
                f"{self.folder / str(step)} to go on from the one before"
            ) from error

    def save(self, state: State) -> None:
        """Begin to write a state; what was begun before is finished first.

        Raises:
            OSError: If this or the one before cannot be written.
        """
        with _as_os_error(self.folder):
            # Orbax leaves a save out, unless forced, where the one before is still under way.
            self._orbax.save_async(int(state.step), state._asdict(), force=True)

    def close(self) -> None:
        """Wait until all is written.

        Raises:
            OSError: If it cannot be.
        """
        with _as_os_error(self.folder):
            self._orbax.close()


@contextmanager
def _as_os_error(folder: Path) -> Iterator[None]:
    """Say where it was that something could not be written; tensorstore's errors are many."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        raise OSError(f"cannot write a checkpoint in {folder}: {error}") from error


def _open(folder: Path, key: Key) -> None:
    """Claim a folder, and clear away what is torn in it."""
    claim(
        kvstore(folder),
        "key.json",
        key,
        what=f"the checkpoints in {folder} are of another training",
        advice="remove them, or choose another --workdir",
    )
    if jax.process_index() == 0:
        for torn in folder.glob(TORN):
            shutil.rmtree(torn)
