"""A series: checkpoints of one training that are kept, each a Hugging Face folder, and an index.

    SERIES/step0000000/  SERIES/step0000001/  SERIES/step0000002/  SERIES/step0000004/  ...
    SERIES/series.json   which steps there are, and how well each does
    SERIES/key.json      of which training

`models.hub.series` reads it.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax

from ilo_jax.files import Key, claim, kvstore, write_text
from ilo_jax.models.hub import saving
from ilo_jax.models.hub.series import INDEX, folder_name, read_index, weights_digest
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import by_first, together


class Health(NamedTuple):
    """How well a checkpoint does on text that nobody learns from; lower is better."""

    loss: float
    """Nats for each token that is to be found, over all languages together."""
    by_language: Mapping[str, float]
    """Of each language's text: bits for each byte under a causal model, nats for each hidden token
    under a masked one."""


def kept_steps(steps: int, *, every: int = 0) -> frozenset[int]:
    """The steps after which a checkpoint is kept: none, powers of two, regular ones, and all.

    Args:
        steps: How many there are in all.
        every: The regular ones are its multiples; 0: there are none.
    """
    powers = {2**n for n in range(steps.bit_length())}
    regular = set(range(every, steps + 1, every)) if every else set()
    return frozenset({0, steps} | powers | regular)


class Series:
    """Writes the checkpoints of one training; only the first process does, and all must call.

    A checkpoint that is there already stays: what a training ends with after a step is determined
    by its key, so that one that was killed and goes on from an earlier step comes by it again.
    """

    def __init__(
        self, folder: Path, key: Key, *, raw: Mapping[str, Any], beside: Path, measure: str
    ):
        """Open a folder, making it if it is not there.

        Args:
            folder: Of this training only.
            key: Of the training.
            raw: The config.json of the model, parsed.
            beside: A folder whose tokenizer goes with every checkpoint.
            measure: Name of what `Health.by_language` is.

        Raises:
            OSError: If it cannot be written.
            ValueError: If it holds the series of another training, naming what differs.
        """
        self.folder, self.raw, self.beside, self.measure = folder, raw, beside, measure
        together(lambda: _open(folder, key), what=f"opening {folder}")

    def keep(self, model: Transformer, step: int, health: Callable[[], Health]) -> Health:
        """Keep the checkpoint after a step, unless it is kept already, and tell how well it does.

        Args:
            model: After the step.
            step: How many steps are behind it.
            health: Measures it.

        Raises:
            OSError: If it cannot be written.
            RuntimeError: If another process could not.
        """
        folder = self.folder / folder_name(step)
        if known := self._known(step):
            return known
        if not self._is_there(folder):
            saving.save(model, folder, raw=self.raw, beside=self.beside)
        measured = health()
        together(lambda: self._enter(folder, step, measured), what=f"adding to {self.folder}")
        return measured

    def _known(self, step: int) -> Health | None:
        """What the index says of a step, the same on every process; None if it says nothing."""
        text = by_first(lambda: json.dumps(read_index(self.folder)).encode(), what="reading")
        entry = next((each for each in json.loads(text) if each["step"] == step), None)
        return entry and Health(entry["loss"], entry[self.measure])

    def _is_there(self, folder: Path) -> bool:
        """Whether it was written whole: a run may have been killed before it was entered."""
        there = by_first(lambda: b"yes" if folder.is_dir() else b"no", what="looking")
        return there == b"yes"

    def _enter(self, folder: Path, step: int, health: Health) -> None:
        """Add a checkpoint to the index, which is written whole."""
        if jax.process_index():
            return
        entry = {
            "step": step,
            "folder": folder.name,
            "loss": health.loss,
            self.measure: dict(health.by_language),
            "weights": weights_digest(folder),
        }
        others = [other for other in read_index(self.folder) if other["step"] != step]
        entries = sorted([*others, entry], key=lambda one: one["step"])
        write_text(self.folder / INDEX, json.dumps({"checkpoints": entries}, indent=2))


def _open(folder: Path, key: Key) -> None:
    claim(
        kvstore(folder),
        "key.json",
        key,
        what=f"the series in {folder} is of another training",
        advice="remove it, or choose another --workdir",
    )
