"""A decoder learns one text; what that does to its languages is written down as it goes.

    python -m experiments.finetune --config.model=FOLDER_OR_ID --config.text=FILE --workdir=DIR
    python -m experiments.finetune --config=configs/finetune/smollm2.py --config.text=FILE
    python -m experiments.finetune --config.freeze=paper:8 --config.frozen_states=memory

Writes log.csv (every step), and, every `evaluate` steps, bits.csv (bits per byte of each language)
and ilo.csv (ILO of each language at each hidden state, with its references) into the run
folder, and in the end the model as a Hugging Face folder, model/. A run that was killed
continues from its last checkpoint, and ends bit-equal to one that was not. On several hosts,
start it on each with --distributed and a WORKDIR that all of them see.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import tables
from experiments.finetune.board import Board
from experiments.finetune.setting import (
    Config,
    Setting,
    describe,
    kept_states_key,
    prepare,
    training_key,
)
from experiments.finetune.watch import Watch, read_slice
from experiments.launch import Run, say
from experiments.states import surroundings
from ilo_jax.evaluation.held_out import Slice
from ilo_jax.files import key_digest, write_text
from ilo_jax.models import parameters
from ilo_jax.models.hub import hf
from ilo_jax.models.parameters import Weights
from ilo_jax.models.transformer import Transformer
from ilo_jax.processes import alone, share
from ilo_jax.sharding import naming_knobs
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.checkpoints import Checkpoints
from ilo_jax.training.kept_states import KeptStates, compute_kept_states
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.loop import Every, Logged, train
from ilo_jax.training.order import place_rows
from ilo_jax.training.step import State, Step, abstract, begin, make_step

KNOBS = (
    "fewer rows_at_once, remat=True, a shorter row_length, dtype=bfloat16, more frozen blocks, or "
    "more devices to split the model over (model_parallel, fsdp)"
)
"""Of the configuration, where memory is short."""
LOGGED = ("loss", "tokens", "gradient_norm", "learning_rate", "seconds")


def finetune(config: Config, run: Run) -> Path | None:
    """Run the whole job and return the folder of the model; None if told to stop before.

    Raises:
        FloatingPointError: if the training diverges.
        ImportError: if a package that is asked for is not installed.
        MemoryError: if a device has too little.
        OSError: if a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: if another process failed.
        ValueError: if the settings, the text, the corpus or the model cannot be used.
    """
    setting, folder = prepare(config), run.workdir / "model"
    held_out = _held_out(config, setting) if config.evaluate else None
    run.workdir.mkdir(parents=True, exist_ok=True)
    with alone(str(run.workdir)):
        key = training_key(config, setting)
        checkpoints = Checkpoints(run.workdir / "checkpoints", key)
        if folder.is_dir() and checkpoints.latest() == config.steps:
            say(f"this training has ended already; its model is in {folder}")
            return folder
        if folder.exists():
            raise FileExistsError(
                f"{folder} is there, but the training that is to end in it has not ended; "
                "remove it, or choose another --workdir"
            )
        if not _Training(config, setting, run.workdir, checkpoints, held_out).run(folder):
            return None
        if jax.process_index() == 0:
            whole = {"config": dataclasses.asdict(config), "key": key, "ran_on": surroundings()}
            write_text(run.workdir / "config.json", json.dumps(whole, indent=2))
    return folder


def _held_out(config: Config, setting: Setting) -> Slice:
    measured = {"k": config.k, "min_languages": config.min_languages}
    return read_slice(config, setting.folder, setting.mesh, **measured)


class _Training:
    """One training with all that it writes."""

    def __init__(
        self,
        config: Config,
        setting: Setting,
        workdir: Path,
        checkpoints: Checkpoints,
        held_out: Slice | None,
    ):
        self.config, self.setting, self.workdir = config, setting, workdir
        self.checkpoints, self.held_out = checkpoints, held_out
        self.schedule = optimizers.warmup_cosine(
            config.learning_rate, warmup=config.warmup, steps=config.steps
        )
        self.optimizer = optimizers.adamw(
            self.schedule, weight_decay=config.weight_decay, clip=config.clip
        )

    def run(self, folder: Path) -> bool:
        """Train to the end and save the model; False if told to stop before."""
        config, setting = self.config, self.setting
        cached = bool(config.frozen_states and setting.lowest)
        say(describe(setting, cached=cached, remat=config.remat))
        model = hf.load(setting.folder, mesh=setting.mesh, fsdp=config.fsdp, dtype=jnp.float32)
        weights = parameters.weights(model)
        kept_states = self._kept_states(weights) if cached else None
        trainable, kept = freezing.split(weights, setting.frozen)
        state = begin(self.optimizer, trainable, setting.mesh)
        if self.checkpoints.latest() is not None:
            state = self.checkpoints.restore(abstract(self.optimizer, state.weights, setting.mesh))
            say(f"continuing after step {int(state.step)}")
        state = self._train(state, kept, model, kept_states)
        if int(state.step) < config.steps:
            say(f"stopped after step {int(state.step)}; start again to continue")
            return False
        parameters.put(model, state.weights | kept)
        hf.save(model, folder, like=setting.folder)
        say(f"the model is in {folder}, what was measured beside it")
        return True

    def _train(
        self, state: State, kept: Weights, model: Transformer, kept_states: KeptStates | None
    ) -> State:
        config, setting = self.config, self.setting
        # A run that begins anew is evaluated before its first step, whatever stands there.
        until = int(state.step) or -1
        board = Board(self.workdir / "tensorboard" if config.tensorboard else None)
        table = tables.Table(self.workdir / "log.csv", LOGGED, until=until)
        watch = self.held_out and Watch(
            self.workdir, self.held_out, board, name=setting.name, until=until
        )

        def log(logged: Logged) -> None:
            rate = np.asarray(self.schedule(logged.step - 1)).item()
            values = (*logged[1:4], rate, logged.seconds)
            row: dict[str, Any] = dict(zip(LOGGED, values, strict=True))
            table.add(logged.step, [row])
            board.add(logged.step, {name: row[name] for name in LOGGED})

        def evaluate(step: int, state: State) -> None:
            assert watch
            watch(step, parameters.assembled(model, state.weights | kept))

        order, length = setting.order, setting.text.row_length
        try:
            with naming_knobs(f"{order.part_rows} rows of {length} tokens", KNOBS):
                step, key = self._step(state), jax.random.key(config.seed)
                return train(
                    lambda n, state: step(state, kept, self._batch(n, kept_states), key),
                    state,
                    steps=config.steps,
                    every=Every(config.evaluate, config.save),
                    save=self.checkpoints.save,
                    log=log,
                    evaluate=evaluate,
                )
        except FloatingPointError as error:
            self.checkpoints.close()
            last = self.checkpoints.latest()
            kept_step = (
                "no checkpoint was written" if last is None else f"that of step {last} stays"
            )
            raise FloatingPointError(f"{error}; {kept_step}") from error
        finally:
            self.checkpoints.close()

    def _step(self, state: State) -> Step:
        config, setting = self.config, self.setting
        loss = next_token(
            setting.model,
            setting.mesh,
            dtype=jnp.dtype(config.dtype),
            lowest=setting.lowest,
            remat=config.remat,
        )
        return make_step(loss, self.optimizer, like=state, mesh=setting.mesh)

    def _batch(self, number: int, kept_states: KeptStates | None) -> Batch:
        text, order, mesh = self.setting.text, self.setting.order, self.setting.mesh
        states = None if kept_states is None else kept_states.at(order, number, mesh)
        return Batch(place_rows(text, order, number, mesh), states)

    def _kept_states(self, weights: Weights) -> KeptStates:
        """Return the states of the frozen blocks, and say what they cost."""
        config, setting, begun = self.config, self.setting, time.perf_counter()
        kept_states = compute_kept_states(
            setting.model,
            weights,
            setting.text,
            setting.order,
            setting.mesh,
            blocks=setting.lowest,
            dtype=config.dtype,
            file=self._kept_states_file() if config.frozen_states == "disk" else None,
        )
        size, seconds = kept_states.states.nbytes / 2**20, time.perf_counter() - begun
        file = getattr(kept_states.states, "filename", "memory")
        say(
            f"states of the {setting.lowest} frozen blocks: {size:.1f} MiB of {config.dtype} in "
            f"{file}, {seconds:.1f} s"
        )
        return kept_states

    def _kept_states_file(self) -> Path:
        """Return where they are kept: another file for whatever changes them."""
        setting, part = self.setting, share(self.setting.mesh)
        key = kept_states_key(self.config, setting)
        folder = Path(self.config.frozen_folder or self.workdir / "frozen")
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{key_digest(key)}-{part.index}-of-{part.count}.bin"
