"""How long a step of training takes: with nothing frozen, with early blocks frozen, and those kept.

    python -m experiments.bench.freezing --model=FOLDER
    python -m experiments.bench.freezing --model=FOLDER --blocks=8,24 --row_length=512 --rows=1

Times one AdamW step on random tokens, all variants in turn in one process, several rounds of it,
on one device. `floor` is the share of full fine-tuning's operations that a variant needs, counted
from shapes (`ilo_jax.training.cost`), `ratio` the share of its time that it took, and `beyond`
how many times the floor that is. Reading the kept states is part of the step; computing them
once is told apart, as is what they take. Appends to times.csv in --workdir.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import launch, tables
from experiments.bench import timing
from experiments.command_line import whole_numbers
from ilo_jax.activations.store import DTYPES
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.cost import step_cost
from ilo_jax.training.kept_states import compute_kept_states
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.order import Order, Text, packed, place_rows
from ilo_jax.training.step import Measures, begin, make_step

FLAGS = flags.FLAGS

SHOWN = "variant seconds cpu_seconds gflop floor ratio beyond kept_mib keeping_seconds".split()
EPOCH = 4
"""Steps: the text has that many batches."""


class Size(NamedTuple):
    """Size of a step: what it learns from, and in what type."""

    rows: int
    row_length: int
    """Tokens of a row."""
    dtype: str
    """Type of the computation."""


class Variant(NamedTuple):
    """A kind of step, and what it should cost."""

    step: Callable[[], Measures]
    """Takes the next step."""
    flops: int
    kept_mib: float
    """MiB that the states of the frozen blocks take."""
    keeping_seconds: float
    """To compute them once."""


def random_text(vocab: int, size: Size) -> tuple[Text, Order]:
    """Rows full of random tokens, and their order."""
    rng = np.random.default_rng(0)
    rows = rng.integers(0, vocab, (EPOCH * size.rows, size.row_length))
    text = packed(as_sentences(rows), row_length=size.row_length)
    return text, Order(len(rows), 1, size.rows, 0)


def variant(model: Transformer, size: Size, *, blocks: int | None, cached: bool) -> Variant:
    """A kind of step.

    Args:
        model: Left as it is.
        size: Of a step.
        blocks: How many are frozen, and the embedding, final norm and head; None: nothing is.
        cached: Whether their states are kept.
    """
    config, mesh, dtype = model.config, make_mesh(data=1), jnp.dtype(size.dtype)
    weights = parameters.weights(model)
    rules = freezing.everything_trains()
    if blocks is not None:
        rules = freezing.selective(config, blocks=blocks)
    frozen = freezing.frozen_mask(weights, rules)
    text, order = random_text(config.vocab, size)
    begun, known = time.perf_counter(), None
    if cached:
        known = compute_kept_states(
            config, weights, text, order, mesh, blocks=blocks or 0, dtype=size.dtype, file=None
        )
    seconds = time.perf_counter() - begun
    trainable, kept = freezing.split(weights, frozen)
    optimizer = optimizers.adamw(lambda step: 1e-6, weight_decay=0.01, clip=1.0)
    state = begin(optimizer, jax.tree.map(jnp.copy, trainable), mesh)
    loss = next_token(config, mesh, dtype=dtype, lowest=blocks or 0)
    step, key = make_step(loss, optimizer, like=state, mesh=mesh), jax.random.key(0)

    def take() -> Measures:
        nonlocal state
        number = int(state.step)
        states = known.at(order, number, mesh) if known else None
        batch = Batch(place_rows(text, order, number, mesh), states)
        state, measures = step(state, kept, batch, key)
        jax.block_until_ready(state)
        return measures

    cost = step_cost(
        config,
        {path: array.shape for path, array in weights.items()},
        frozen,
        rows=size.rows,
        row_length=size.row_length,
        cached=cached,
    )
    mib = known.states.nbytes / 2**20 if known else 0.0
    return Variant(take, cost.total, mib, seconds if cached else 0.0)


def main() -> None:
    """Time all variants and show them."""
    size = Size(FLAGS.rows, FLAGS.row_length, FLAGS.dtype)
    frozen = whole_numbers("blocks", FLAGS.blocks, least=0)
    folder = open_folder(FLAGS.model)
    model = loading.load(folder, mesh=make_mesh(data=1))
    variants = {"full": variant(model, size, blocks=None, cached=False)}
    for blocks in frozen:
        variants[f"{blocks} frozen"] = variant(model, size, blocks=blocks, cached=False)
        variants[f"{blocks} frozen, kept"] = variant(model, size, blocks=blocks, cached=True)
    steps = {name: each.step for name, each in variants.items()}
    timed = timing.alternating(steps, rounds=FLAGS.rounds)
    rows = [row(name, variants, timed) for name in variants]
    print(tables.columns([SHOWN, *([str(r[name]) for name in SHOWN] for r in rows)]))
    same = {"model": folder.name} | size._asdict() | {"device": jax.devices()[0].device_kind}
    file = Path(FLAGS.workdir) / "times.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    tables.extend(file, [*same, *SHOWN], [same | r for r in rows])
    print(f"added to {file}")


def row(name: str, variants: dict[str, Variant], timed: dict[str, timing.Timed]) -> dict[str, Any]:
    """What was measured of a variant, beside full fine-tuning."""
    one, full = variants[name], variants["full"]
    seconds, floor = timed[name].seconds, one.flops / full.flops
    ratio = seconds.wall / timed["full"].seconds.wall
    return {
        "variant": name,
        "seconds": round(seconds.wall, 3),
        "cpu_seconds": round(seconds.cpu, 3),
        "gflop": round(one.flops / 1e9, 1),
        "floor": round(floor, 3),
        "ratio": round(ratio, 3),
        "beyond": round(ratio / floor, 3),
        "kept_mib": round(one.kept_mib, 1),
        "keeping_seconds": round(one.keeping_seconds, 2),
    }


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A folder or hub id.", required=True)
    flags.DEFINE_list("blocks", ["8", "24"], "How many first blocks are frozen.")
    flags.DEFINE_integer("rows", 1, "Of a step.", lower_bound=1)
    flags.DEFINE_integer("row_length", 512, "Tokens of a row.", lower_bound=2)
    flags.DEFINE_enum("dtype", "float32", DTYPES, "Of the computation.")
    flags.DEFINE_integer("rounds", 5, "Of timing; medians are shown.", lower_bound=1)
    flags.DEFINE_string("workdir", "runs/bench_freezing", "Where times.csv is.")
    launch.start(main)
