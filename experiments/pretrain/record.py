"""What a pre-training writes down as it goes."""

import jax.numpy as jnp
import optax

from experiments.board import Board
from experiments.launch import say
from experiments.pretrain.config import Config
from experiments.pretrain.health import judge
from experiments.pretrain.learner import learning_rate
from experiments.pretrain.setting import Setting
from experiments.watch import StepLog, Watch
from ilo_jax.evaluation.held_out import Slice
from ilo_jax.models import parameters
from ilo_jax.models.parameters import Weights
from ilo_jax.training.loop import Every, Logged
from ilo_jax.training.series import Series, kept_steps


class Record:
    """log.csv of every step, the series, and what `Watch` writes; TensorBoard where asked for."""

    def __init__(self, config: Config, setting: Setting, series: Series, held_out: Slice | None):
        """Keep what is asked for; nothing is opened before it is known where the run goes on.

        Raises:
            ImportError: If TensorBoard is asked for and not installed.
        """
        self.config, self.setting, self.series, self.held_out = config, setting, series, held_out
        self.workdir = series.folder.parent
        self.board = Board(self.workdir / "tensorboard" if config.tensorboard else None)
        self.rate: optax.Schedule = learning_rate(config)
        self.assemble = parameters.assembler(setting.model, setting.mesh, dtype=jnp.float32)
        self.kept = kept_steps(config.steps, every=config.keep)
        self.judge = judge(config, setting)

    @property
    def every(self) -> Every:
        """When `evaluate` is called, and checkpoints to go on from are written."""
        return Every(self.config.evaluate, self.config.save, at=self.kept)

    def begin(self, step: int) -> None:
        """Open the tables where a run goes on after a step: rows of later ones are dropped."""
        if step:
            say(f"continuing after step {step}")
        # A run that begins anew is evaluated before its first step, whatever stands there.
        until = step or -1
        self.steps = StepLog(self.workdir, self.board, self.rate, until=until)
        if self.held_out:
            watched = {"name": self.workdir.name, "until": until}
            self.watch = Watch(self.workdir, self.held_out, self.board, **watched)

    def log(self, logged: Logged) -> None:
        """Write down a step."""
        self.steps(logged)

    def evaluate(self, step: int, trainable: Weights, frozen: Weights) -> None:
        """Keep the model after some steps in the series, or judge it by aligned sentences."""
        model = self.assemble(trainable | frozen)
        if step in self.kept:
            found = self.series.keep(model, step, lambda: self.judge(model))
            self.board.add(step, {"held_out_loss": found.loss})
            say(f"step {step}: {found.loss:.3f} nats for each held-out token")
        if self.held_out and self.every.regular(step, last=step == self.config.steps):
            self.watch(step, model)
