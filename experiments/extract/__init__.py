"""What a model makes of a corpus, stored: pooled states, neurons, states of tokens.

    python -m experiments.extract --config=configs/extract/sample.py
    python -m experiments.extract --config.model=FOLDER_OR_ID --config.corpus=FOLDER --workdir=DIR
    python -m experiments.extract --config.taps=residual:mean,neurons:max@0+5,residual:tokens@12

The store is one zarr3 group, WORKDIR/states/KEY; see `ilo_jax.activations.store`. What
determines it is in WORKDIR/config.json. A run that was killed continues where it was, and
one that finds all of it there ends at once.
On several hosts, start it on each with --distributed.
"""

import dataclasses

from experiments.launch import Run
from experiments.provenance import leave_config
from experiments.settings import Extraction, check
from experiments.states import Stored, open_model, read_corpus, stored_states


@dataclasses.dataclass(kw_only=True)
class Config(Extraction):
    """What is taken from a model, on what, and how."""

    taps: str = "residual:mean"
    """SITE:POOLING or SITE:POOLING@LAYER+LAYER, separated by commas. Sites: residual (L + 1 hidden
    states), embedding, and of L blocks attn_out, heads, neurons, mlp_out, and the ends of linear
    maps such as attn/q/output. Poolings: mean, content (without special tokens), last,
    max, tokens (of one layer)."""


def extract(config: Config, run: Run) -> Stored:
    """Take what is asked for from every language that is not stored.

    Raises:
        ImportError: If the sample model's package is asked for and not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the corpus or the model cannot be used.
    """
    check(config)
    folder, corpus = open_model(config), read_corpus(config)
    run.make_folder()
    stored = stored_states(config, folder, corpus, run, taps=config.taps)
    leave_config(run.workdir, config, stored.key, corpus=corpus, took=stored.took)
    return stored
