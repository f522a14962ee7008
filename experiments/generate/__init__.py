r"""A decoder goes on from prompts: one, streamed to the terminal, or many, into a file.

    python -m experiments.generate --config.model=FOLDER --config.prompt="Hello" --config.chat
    python -m experiments.generate --config.model=FOLDER_OR_ID --config.prompts=FILE --workdir=DIR
    python -m experiments.generate --config.prompts=FILE --config.temperature=0.7 --config.samples=4
    python -m experiments.generate --config.stops='["\n\n"]' --config.edits=FILE

Of a file of prompts, writes generated.jsonl into the run folder, a line for every sample of every
prompt, in order: "line" (of the file, from 1), "sample" (from 1), "prompt", "text" (without special
tokens, up to a stop string), "ended" (end, stop or maximum), "tokens" and "log_likelihood" (of the
tokens, in nats, by the model's own scores); and config.json, which says from what. A run that was
killed continues behind its last whole block, and ends bit-equal to one that was not. On several
hosts, start it on each with --distributed and a WORKDIR that all of them see.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from tqdm import tqdm

from experiments.generate.answers import Answers
from experiments.generate.config import Config
from experiments.generate.saying import block, streamed
from experiments.generate.setting import Setting, generation_key, prepare
from experiments.launch import Run, say
from experiments.provenance import leave_config
from ilo_jax.files import claim, kvstore
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.parameters import Weights
from ilo_jax.processes import alone, quiet, together
from ilo_jax.sharding import naming_knobs

__all__ = ["Config", "speak"]

NAME = "generated.jsonl"
KNOBS = (
    "fewer rows, fewer max_tokens, shorter prompts, dtype=bfloat16, or more devices to split the "
    "model over (model_parallel, fsdp)"
)
"""Fields of the configuration to change where memory is short."""


def speak(config: Config, job: Run) -> Path | None:
    """Run the whole job, and return the file of what was said; None if it was streamed.

    Raises:
        ImportError: If a package that is asked for is not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the prompts, the edits or the model cannot be used.
    """
    setting = prepare(config)
    if config.prompt:
        with naming_knobs("what is said", KNOBS):
            for text in streamed(setting, _weights(setting)):
                say(text, end="")
        return None
    job.make_folder()
    with alone(str(job.workdir)):
        return _written(setting, job)


def _weights(setting: Setting) -> Weights:
    config = setting.config
    dtype = jnp.dtype(config.param_dtype or config.dtype)
    model = loading.load(setting.folder, mesh=setting.mesh, fsdp=config.fsdp, dtype=dtype)
    return parameters.weights(model)


def _written(setting: Setting, job: Run) -> Path:
    """Go on behind what the file has, until all is said."""
    config, file, key = setting.config, job.workdir / NAME, generation_key(setting)
    together(lambda: _claim(file, key), what=f"claiming {file}")
    samples, count = config.samples, max(1, config.rows // config.samples)
    answers = Answers(file, lines=len(setting.ids) * samples, block=count * samples)
    rest = range(answers.whole // samples, len(setting.ids))
    if not rest:
        say(f"all of it has been said already; it is in {file}")
        return file
    begun, weights = time.perf_counter(), _weights(setting)
    shown = tqdm(desc="generating", total=len(setting.ids), initial=rest.start, disable=quiet())
    with shown as bar, naming_knobs(f"{count * samples} rows", KNOBS):
        for start in range(0, len(rest), count):
            which = rest[start : start + count]
            answers.add(block(setting, weights, which, count=count))
            bar.update(len(which))
    took = {"seconds": round(time.perf_counter() - begun, 3)}
    leave_config(job.workdir, config, key, took=took)
    say(f"{len(rest) * samples} texts in {took['seconds']} s; they are in {file}")
    return file


def _claim(file: Path, key: Mapping[str, Any]) -> None:
    claim(
        kvstore(file.parent),
        f"{file.name}.key",
        key,
        what=f"{file} is of another generation",
        advice=f"remove it and {file.name}.key, or choose another --workdir",
    )
