"""What a generation starts from, before any weight is read."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int32

from experiments.generate.config import Config, check
from experiments.generate.edits import read_edits
from experiments.hardware import make_mesh
from experiments.states import listed_names, open_model
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.corpora.prompts import Prompt, read_prompts
from ilo_jax.generation.decoding import Decoder
from ilo_jax.generation.edits import Edit, held
from ilo_jax.generation.ends import end_tokens
from ilo_jax.generation.pieces import pieces
from ilo_jax.generation.stops import refuse_special, stop_table
from ilo_jax.generation.texts import prompt_tokens
from ilo_jax.models.hub.folder import Folder
from ilo_jax.recipes import FORWARD, GENERATION, digest_of, key_of


class Setting(NamedTuple):
    """What a generation starts from, before any weight is read."""

    config: Config
    folder: Folder
    mesh: Mesh
    decoder: Decoder
    prompts: Sequence[Prompt]
    ids: list[list[int]]
    """Token ids of each prompt."""
    edits: list[Edit]
    ends: Bool[np.ndarray, " vocab"]
    """Which tokens end a text."""
    stops: Int32[np.ndarray, "state vocab"]
    """The automaton of the stop strings."""
    pieces: list[bytes]
    """Bytes of each token."""


def prepare(config: Config) -> Setting:
    """What a generation starts from.

    Raises:
        ImportError: If a package that is asked for is not installed.
        OSError: If the model, the prompts or the edits are absent.
        ValueError: If the settings, the model, its tokenizer, the prompts or the edits cannot be
            used.
    """
    check(config)
    prompts = [config.prompt] if config.prompt else read_prompts(config.prompts)
    folder, mesh, edits = open_model(config), make_mesh(config), read_edits(config.edits)
    decoder = Decoder(folder.config, mesh, dtype=jnp.dtype(config.dtype))
    held([edits], folder.config)
    refuse_special(config.stop_strings, folder.tokenizer)
    ends = end_tokens(folder, more=listed_names(config.ends))
    own = pieces(folder.tokenizer, vocab=folder.config.vocab)
    ids = prompt_tokens(
        prompts,
        folder.tokenizer,
        limits=folder.config.limits,
        chat=config.chat,
        name=lambda index: f"{config.prompts} line {index + 1}" if config.prompts else "prompt",
    )
    stops = stop_table(config.stop_strings, own)
    return Setting(config, folder, mesh, decoder, prompts, ids, edits, ends, stops, own)


NO_BEARING = ("model", "ignore_keys", "prompt", "prompts", "chat", "stops", "ends", "edits")
"""Fields of a Config whose meaning is in other parts of the key, and need not be where it was."""


def generation_key(setting: Setting) -> dict[str, Any]:
    """All that determines what is said, to the last bit."""
    given = dataclasses.asdict(setting.config)
    return key_of(
        FORWARD,
        GENERATION,
        model=setting.folder.fingerprint,
        tokens=digest_of(as_sentences(setting.ids)),
        settings={name: value for name, value in given.items() if name not in NO_BEARING}
        | {
            "stops": setting.config.stop_strings,
            "ends": np.flatnonzero(setting.ends).tolist(),
            "edits": [_plain(edit) for edit in setting.edits],
            "mesh": dict(setting.mesh.shape),
        },
    )


def _plain(edit: Edit) -> dict[str, Any]:
    return dataclasses.asdict(edit) | {"values": np.asarray(edit.values).tolist()}
