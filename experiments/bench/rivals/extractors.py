"""Ours, as `experiments.bench.extract` compares it: all of it, its forward, and the floor of that.

Everyone takes the mean over tokens of every hidden state of the same token ids, with the
same weights in the same dtype, on one device. What is done once is done before the time
is taken, for torch as for us: finding tokens, sorting, padding, planning what is packed.
"""

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.rivals.work import Work
from experiments.bench.timing import Seconds
from ilo_jax.activations import extraction
from ilo_jax.activations.extraction import extract
from ilo_jax.activations.forward import compiled_forward
from ilo_jax.activations.gathering import layouts
from ilo_jax.activations.schedule import Batch, Schedule
from ilo_jax.activations.store import Store, open_store
from ilo_jax.activations.taps import Tap
from ilo_jax.models import parameters
from ilo_jax.models.config import AttentionConfig
from ilo_jax.models.layers.linear import matmul_precision
from ilo_jax.models.layers.spans import spans
from ilo_jax.models.transformer import Transformer


class Found(NamedTuple):
    """What an extraction gives."""

    vectors: Callable[[], np.ndarray] | None
    """Returns them, "layer sent dim" in float32; None of a floor."""
    padding: float
    """Share of the computed positions that hold no token."""
    batch: str
    """What is computed at a time."""
    compile_seconds: float | None = None
    seconds: Seconds | None = None
    """Without compiling; None where all of the call is meant."""


Search = Callable[[], Found]


def ours(work: Work) -> Search:
    """This library, as `experiments.extract` uses it: a new store each time, and written."""
    size = _size(planned(work)[0])

    def search() -> Found:
        store = _new_store(work, "states")
        report = extract(
            work.model,
            dict(enumerate(work.sentences)),
            store,
            work.mesh,
            taps=work.taps,
            batch_tokens=work.batch_tokens,
            dtype=jnp.dtype(work.dtype),
        )
        seconds = Seconds(report.seconds, report.cpu_seconds)
        vectors = partial(_stored, store, work.taps[0])
        return Found(vectors, report.padding, size, report.compile_seconds, seconds)

    return search


def _new_store(work: Work, folder: str) -> Store:
    lang, sent = len(work.languages), len(work.sentences[0].lengths)
    arrays = layouts(work.taps, lang=lang, sent=sent, longest=0, dtype="float32")
    shutil.rmtree(work.scratch / folder, ignore_errors=True)
    return open_store(work.scratch / folder, {"of": work.name}, arrays, lang=lang)


def _stored(store: Store, tap: Tap) -> np.ndarray:
    layers = [store.read(tap.name, layer) for layer in tap.layers]
    return np.stack(layers).reshape(len(layers), -1, tap.width)


def planned(work: Work) -> tuple[Schedule, list[tuple[int, Batch]]]:
    """How `extract` goes about the sentences, and its batches, each with its kind of row."""
    plan = extraction.planned(
        work.model.config,
        dict(enumerate(work.sentences)),
        # Of another, nothing may be missing.
        _new_store(work, "planned"),
        work.taps,
        batch_tokens=work.batch_tokens,
        width=1,
    )
    return plan, [(step.kind, step.make()) for step in extraction.steps_of(plan)]


def _size(plan: Schedule) -> str:
    kinds = zip(plan.rows, plan.row_lengths, strict=True)
    return " or ".join(f"{rows} x {length}" for rows, length in kinds) + " tokens"


def _padding(work: Work, batches: list[tuple[int, Batch]]) -> float:
    return 1 - float(work.lengths.sum()) / sum(batch.rows.tokens.size for _, batch in batches)


def forward(work: Work) -> Search:
    """The forward of `ours` alone, states left where they are computed."""
    plan, batches = planned(work)
    begun = time.perf_counter()
    forwards = [
        compiled_forward(
            work.model,
            work.mesh,
            work.taps,
            rows=plan.padding(kind).rows,
            segments=segments,
            dtype=jnp.dtype(work.dtype),
        )
        for kind, segments in enumerate(plan.segments)
    ]
    seconds = time.perf_counter() - begun

    def search() -> Found:
        found = [forwards[kind](batch.rows)[work.taps[0].name] for kind, batch in batches]
        jax.block_until_ready(found)
        vectors = partial(_unpacked, plan, [batch for _, batch in batches], found)
        return Found(vectors, _padding(work, batches), _size(plan), seconds)

    return search


def _unpacked(plan: Schedule, batches: list[Batch], found: list[jax.Array]) -> np.ndarray:
    counts = [len(block.sentences.lengths) for block in plan.blocks]
    starts = np.cumsum(counts) - counts
    layers, _, _, dim = found[0].shape
    states = np.full((layers, sum(counts), dim), np.nan, np.float32)
    for batch, values in zip(batches, found, strict=True):
        row, segment = np.nonzero(batch.plan >= 0)
        sentence = starts[batch.block] + batch.plan[row, segment]
        states[:, sentence] = np.asarray(values)[:, row, segment]
    return states


def products(work: Work) -> Search:
    """The bare matrix products of the blocks of `forward`, as fast as XLA makes them: the floor."""
    plan, batches = planned(work)
    config, shapes = work.model.config, list(zip(plan.rows, plan.row_lengths, strict=True))
    random = partial(jax.random.normal, jax.random.key(0), dtype=jnp.dtype(work.dtype))
    hidden = [random((rows, length, config.dim)) for rows, length in shapes]
    attentions = [block.attention for block in config.blocks]
    weights = [_kernels(work.model, f"layers/{i}/") for i in range(config.layers)]
    multiply = jax.jit(partial(all_products, attentions=attentions, causal=config.causal))

    def search() -> Found:
        jax.block_until_ready([multiply(hidden[kind], weights) for kind, _ in batches])
        return Found(None, _padding(work, batches), _size(plan))

    return search


def _kernels(model: Transformer, prefix: str) -> dict[str, jax.Array]:
    return {
        path.removeprefix(prefix): weight
        for path, weight in parameters.weights(model).items()
        if path.startswith(prefix) and path.endswith("/kernel")
    }


def all_products(
    hidden: jax.Array,
    weights: Sequence[Mapping[str, jax.Array]],
    *,
    attentions: Sequence[AttentionConfig],
    causal: bool,
) -> jax.Array:
    """A number that every product of every block has a part in."""
    update = jnp.zeros_like(hidden)
    for kernels, attention in zip(weights, attentions, strict=True):
        # A block waits for the one before, of which so little is added that nothing overflows.
        stream = hidden + jnp.asarray(1e-30, hidden.dtype) * update
        update = block_products(stream, kernels, attention, causal=causal)
    return update.sum(dtype=jnp.float32)


def block_products(
    hidden: jax.Array, kernels: Mapping[str, jax.Array], config: AttentionConfig, *, causal: bool
) -> jax.Array:
    """What a block's matrices, and its products of tokens with tokens, make of a state."""
    precision = matmul_precision(hidden.dtype)
    multiply = partial(jnp.matmul, precision=precision)
    product = partial(jnp.einsum, precision=precision, preferred_element_type=jnp.float32)
    query, key, value = (multiply(hidden, kernels[f"attn/{name}/kernel"]) for name in "qkv")
    batch, seq = hidden.shape[:2]
    key, value = (x.reshape(batch, seq, config.kv_heads, -1) for x in (key, value))
    query = query.reshape(batch, seq, config.kv_heads, -1, config.head_dim)
    parts = []
    for rows, seen in spans(seq, causal=causal, window=config.window):
        scores = product("bqhgd,bkhd->bhgqk", query[:, rows], key[:, seen]).astype(hidden.dtype)
        parts.append(product("bhgqk,bkhd->bqhgd", scores, value[:, seen]).astype(hidden.dtype))
    mixed = jnp.concatenate(parts, axis=1)
    hidden = multiply(mixed.reshape(batch, seq, -1), kernels["attn/o/kernel"])
    neurons = multiply(hidden, kernels["mlp/up/kernel"])
    if "mlp/gate/kernel" in kernels:
        neurons += multiply(hidden, kernels["mlp/gate/kernel"])
    return multiply(neurons, kernels["mlp/down/kernel"])
