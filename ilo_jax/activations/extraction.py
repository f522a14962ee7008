"""A model over a corpus: packed rows in, one vector per layer and sentence out."""

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float32, Int
from tqdm import tqdm

from ilo_jax import sharding
from ilo_jax.activations import pooling
from ilo_jax.activations.store import Store
from ilo_jax.corpora.packing import Rows, pack
from ilo_jax.models.transformer import Transformer

BLOCK_TOKENS = 131_072
"""Languages are packed together until they have this many tokens, then written."""

RECIPE = 2
"""Part of every store's key: raise it when a change here or in the models changes a value."""

Pooled = Float32[Array, "layer batch segment dim"]
Forward = Callable[[Array, Array, Array], Pooled]


class Report(NamedTuple):
    """What an extraction did."""

    tokens: int
    """Real tokens, special tokens included."""
    padding: float
    """Share of the computed positions that hold no token."""
    compile_seconds: float
    """Wall time of the first batch, which is compiled and then computed again."""
    seconds: float
    """Wall time of all batches after that, writing included."""


class Block(NamedTuple):
    """Consecutive languages that are packed, computed and written together."""

    languages: list[int]
    rows: Rows


def row_length(longest: int) -> int:
    """Return the row length for sentences up to `longest` tokens: a multiple of 128, from 256."""
    return max(256, -(-longest // 128) * 128)


def blocks(ids: Sequence[Sequence[Sequence[int]]], *, length: int) -> list[Block]:
    """Pack the languages, in order, into blocks of at least `BLOCK_TOKENS` tokens.

    Args:
        ids: token ids as [lang][sent][token].
        length: of a row, in tokens.
    """
    groups: list[list[int]] = [[]]
    for language in range(len(ids)):
        if sum(len(s) for member in groups[-1] for s in ids[member]) >= BLOCK_TOKENS:
            groups.append([])
        groups[-1].append(language)
    return [
        Block(group, pack([s for member in group for s in ids[member]], row_length=length))
        for group in groups
    ]


def pooled_forward(model: Transformer, mesh: Mesh, *, segments: int) -> Forward:
    """Return the jitted forward that pools every layer inside the jit.

    It takes tokens, positions and segments ("batch seq"), sharded over "data", and
    returns "layer batch segment dim" in float32, sharded likewise.

    Args:
        model: whose weights lie on `mesh`.
        mesh: with an axis "data".
        segments: the most that any row holds.
    """
    graph, state = nnx.split(model)

    @functools.partial(jax.jit, out_shardings=sharding.along_data(mesh, axis=1))
    def forward(
        state: nnx.State,
        tokens: Int[Array, "batch seq"],
        positions: Int[Array, "batch seq"],
        members: Int[Array, "batch seq"],
    ) -> Pooled:
        tap = functools.partial(pooling.mean, segments=members, count=segments)
        return jnp.stack(nnx.merge(graph, state)(tokens, positions, members, tap=tap))

    return functools.partial(forward, state)


def _batches(rows: Rows, batch: int) -> Iterator[Rows]:
    """Split rows into batches, the last filled with rows of padding."""
    count = len(rows.tokens)
    spare = -count % batch
    filled = Rows(*(np.pad(a, ((0, spare), (0, 0))) for a in rows))
    filled.sentence[count:] = -1
    for start in range(0, count, batch):
        yield Rows(*(a[start : start + batch] for a in filled))


def _collect(
    block: Block, batch: int, forward: Callable[[Rows], Pooled], *, sent: int, bar: tqdm
) -> Float32[np.ndarray, "layer lang sent dim"]:
    """Run a block; one batch is computed while the one before is copied to its place."""
    states = None
    pending: list[tuple[Rows, Pooled]] = []

    def place(rows: Rows, pooled: Pooled) -> None:
        nonlocal states
        values = np.asarray(pooled)
        if states is None:
            total = len(block.languages) * sent
            states = np.full((len(values), total, values.shape[-1]), np.nan, np.float32)
        used = rows.sentence >= 0
        width = used.shape[1]
        states[:, rows.sentence[used]] = values[:, :, :width][:, used]
        bar.update(int((rows.segments > 0).sum()))

    for rows in _batches(block.rows, batch):
        pending.append((rows, forward(rows)))
        if len(pending) > 1:
            place(*pending.pop(0))
    for item in pending:
        place(*item)
    assert states is not None
    return states.reshape(len(states), len(block.languages), sent, -1)


def refuse_unusable(
    states: Float32[np.ndarray, "layer lang sent dim"],
    languages: Sequence[str],
    *,
    first_layer: int = 0,
) -> None:
    """Stop at vectors without a direction, which no cosine is defined for.

    Values that are not finite spread to the sentences packed into the same row.

    Raises:
        ValueError: naming layer (counted from `first_layer`), language and sentence of a
            vector that is not finite or is all zero.
    """
    norms = np.maximum(states.max(-1), -states.min(-1))
    broken = np.argwhere(~np.isfinite(norms) | (norms == 0))
    if len(broken):
        layer, lang, sent = broken[0]
        kind = "all zero" if norms[layer, lang, sent] == 0 else "not finite"
        raise ValueError(
            f"hidden state {first_layer + layer} of {languages[lang]} sentence {sent + 1} "
            f"is {kind} ({len(broken)} such vectors in all, some perhaps of sentences that "
            "shared a row with the cause)"
        )


def extract(
    model: Transformer,
    ids: Sequence[Sequence[Sequence[int]]],
    store: Store,
    mesh: Mesh,
    *,
    languages: Sequence[str],
    batch_tokens: int,
) -> Report:
    """Compute and store the pooled hidden states of every language that is missing.

    Languages are packed in blocks and written as soon as their block is whole. A run
    that was killed continues with the blocks that are not, packed as before: on the
    same devices, with the same `batch_tokens`, it ends bit-equal to one that was not.

    Args:
        model: whose weights lie on `mesh`.
        ids: token ids as [lang][sent][token], as many sentences for each language; at
            least one language must be missing from the store.
        store: receives "layer sent dim" for each language.
        mesh: rows are sharded over its axis "data".
        languages: their names, for messages.
        batch_tokens: positions computed at a time on each device.

    Raises:
        ValueError: if a state is not finite or all zero.
        OSError: if the store cannot be written.
    """
    sent = len(ids[0])
    length = row_length(max(len(s) for sentences in ids for s in sentences))
    batch = max(1, batch_tokens // length) * mesh.shape["data"]
    planned = blocks(ids, length=length)
    most = max(block.rows.sentence.shape[1] for block in planned)
    missing = set(store.missing())
    work = [block for block in planned if missing & set(block.languages)]
    forward = pooled_forward(model, mesh, segments=most)
    put = functools.partial(jax.device_put, device=sharding.along_data(mesh))

    def run(rows: Rows) -> Pooled:
        return forward(*map(put, rows[:3]))

    begun = time.perf_counter()
    run(next(_batches(work[0].rows, batch))).block_until_ready()
    compiled = time.perf_counter()
    tokens = sum(int((block.rows.segments > 0).sum()) for block in work)
    with tqdm(total=tokens, desc="hidden states", unit="token", disable=None) as bar:
        for block in work:
            states = _collect(block, batch, run, sent=sent, bar=bar)
            refuse_unusable(states, [languages[i] for i in block.languages])
            for position, language in enumerate(block.languages):
                store.write(language, states[:, position])
    computed = sum(-(-len(block.rows.tokens) // batch) for block in work) * batch * length
    done = time.perf_counter()
    return Report(tokens, 1 - tokens / computed, compiled - begun, done - compiled)
