"""What a training does to the languages that it does not learn: measured while it goes on."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from experiments import tables
from experiments.board import Board
from experiments.hardware import settled
from experiments.launch import say
from experiments.settings import Judged
from experiments.states import read_corpus
from ilo_jax.evaluation.held_out import Slice, compiled_slice, judge
from ilo_jax.metrics import IloSettings
from ilo_jax.models.hub.folder import Folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.training.loop import Logged

LOGGED = ("loss", "tokens", "gradient_norm", "learning_rate", "seconds")
TEXT = ("language", "bits_per_byte", "loss", "tokens")


def read_slice(source: Judged, folder: Folder, mesh: Mesh, *, k: int, min_languages: int) -> Slice:
    """The aligned sentences that a configuration asks for, ready for any weights.

    Raises:
        OSError: If the corpus is absent.
        ValueError: If it or the settings of ILO cannot be used.
    """
    return compiled_slice(
        read_corpus(source),
        folder.tokenizer,
        folder.config,
        mesh,
        settings=IloSettings(k=k, min_languages=min_languages),
        batch_tokens=settled(source).batch_tokens,
        dtype=jnp.dtype(source.dtype),
    )


class StepLog:
    """log.csv, a row for each step, and the same for TensorBoard where asked for."""

    def __init__(self, workdir: Path, board: Board, rate: optax.Schedule, *, until: int):
        """Open the table in a run folder; rows of steps after `until` are dropped."""
        self.board, self.rate = board, rate
        self.table = tables.Table(workdir / "log.csv", LOGGED, until=until)

    def __call__(self, logged: Logged) -> None:
        """Write down a step."""
        rate = np.asarray(self.rate(logged.step - 1)).item()
        values = (logged.loss, logged.count, logged.gradient_norm, rate, logged.seconds)
        row: dict[str, Any] = dict(zip(LOGGED, values, strict=True))
        self.table.add(logged.step, [row])
        self.board.add(logged.step, row)


class Watch:
    """Writes down, every so many steps, what a model in training makes of the languages."""

    def __init__(self, workdir: Path, held_out: Slice, board: Board, *, name: str, until: int):
        """Open bits.csv and ilo.csv in a run folder; rows of steps after `until` are dropped."""
        self.held_out, self.name, self.board = held_out, name, board
        self.bits = tables.Table(workdir / "bits.csv", TEXT, until=until)
        self.ilo = tables.Table(workdir / "ilo.csv", tables.INTERLINGUA, until=until)

    def __call__(self, step: int, model: Transformer) -> None:
        """Judge a model after some steps."""
        languages = self.held_out.corpus.languages
        found = judge(model, self.held_out, name=self.name)
        rows = zip(languages, *(array.tolist() for array in found.texts), strict=True)
        self.bits.add(step, [dict(zip(TEXT, row, strict=True)) for row in rows])
        self.ilo.add(step, tables.tidy(found.scores._asdict(), languages))
        sentences = len(self.held_out.corpus.sentences[0])
        caution = tables.caution(tables.open_shares(found.scores.uncertain, sentences=sentences))
        bits, best = found.texts.bits_per_byte, np.nanmean(found.scores.ilo, axis=1)
        of_languages = zip(languages, bits.tolist(), strict=True)
        self.board.add(step, {f"bits_per_byte/{language}": bit for language, bit in of_languages})
        self.board.add(step, {f"ilo/{state:03d}": mean for state, mean in enumerate(best.tolist())})
        say(
            f"step {step}: {bits.mean():.3f} bits per byte (mean of {len(languages)} languages); "
            f"mean ILO highest at state {best.argmax()}, {best.max():.3f}"
            + (f"; {caution}" if caution else "")
        )
