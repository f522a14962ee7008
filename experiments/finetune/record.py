"""What a fine-tuning writes down as it goes."""

from pathlib import Path

import jax.numpy as jnp
import optax

from experiments.board import Board
from experiments.finetune.config import Config
from experiments.finetune.learner import learning_rate
from experiments.finetune.setting import Setting
from experiments.launch import say
from experiments.watch import StepLog, Watch
from ilo_jax.evaluation.held_out import Slice
from ilo_jax.models import parameters
from ilo_jax.models.parameters import Weights
from ilo_jax.training.loop import Logged


class Record:
    """log.csv of every step, what `Watch` writes, and all of it for TensorBoard where asked for."""

    def __init__(self, config: Config, setting: Setting, workdir: Path, held_out: Slice | None):
        """Keep what is asked for; nothing is opened before it is known where the run goes on.

        Raises:
            ImportError: If TensorBoard is asked for and not installed.
        """
        self.workdir, self.name, self.held_out = workdir, setting.folder.name, held_out
        self.board = Board(workdir / "tensorboard" if config.tensorboard else None)
        self.rate: optax.Schedule = learning_rate(config)
        self.assemble = parameters.assembler(setting.model, setting.mesh, dtype=jnp.float32)

    def begin(self, step: int) -> None:
        """Open the tables where a run goes on after a step: rows of later ones are dropped."""
        if step:
            say(f"continuing after step {step}")
        # A run that begins anew is evaluated before its first step, whatever stands there.
        until = step or -1
        self.steps = StepLog(self.workdir, self.board, self.rate, until=until)
        if self.held_out:
            watched = {"name": self.name, "until": until}
            self.watch = Watch(self.workdir, self.held_out, self.board, **watched)

    def log(self, logged: Logged) -> None:
        """Write down a step."""
        self.steps(logged)

    def evaluate(self, step: int, trainable: Weights, frozen: Weights) -> None:
        """Judge the model after some steps by the held-out text."""
        self.watch(step, self.assemble(trainable | frozen))
