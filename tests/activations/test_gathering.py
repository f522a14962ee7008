from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from ilo_jax import sharding
from ilo_jax.activations import schedule as module
from ilo_jax.activations.gathering import Gathering, layouts
from ilo_jax.activations.schedule import Batch, Schedule, schedule
from ilo_jax.activations.store import Store, open_store
from ilo_jax.activations.taps import Tap
from ilo_jax.activations.usable import naming
from ilo_jax.corpora.packing import Sentences, as_sentences

POOLED = Tap("residual", "mean", (0, 2), 4)
NEURONS = Tap("neurons", "max", (1,), 3)
TOKENS = Tap("residual", "tokens", (2,), 4)
TAPS = (POOLED, NEURONS, TOKENS)
LANG, SENT, LENGTH = 5, 7, 16
NAMES = tuple("abcde")


def token(lang: int, sent: int, place: int) -> int:
    return 1 + place + 20 * (sent + SENT * lang)


def language(lang: int) -> Sentences:
    lengths = np.random.default_rng(lang).integers(1, LENGTH + 1, SENT)
    return as_sentences([[token(lang, s, i) for i in range(n)] for s, n in enumerate(lengths)])


SENTENCES = {lang: language(lang) for lang in range(LANG)}
LONGEST = max(len(sentences.tokens) for sentences in SENTENCES.values())


def planted(tap: Tap, first: np.ndarray) -> np.ndarray:
    """Return the states of what begins with a token: another value at each layer and dim."""
    layers, dims = np.array(tap.layers), np.arange(tap.width)
    offsets = 0.25 * (1 + layers)[:, None] + 0.03125 * dims
    shape = (len(layers), *[1] * first.ndim, tap.width)
    return (first[None, ..., None] + offsets.reshape(shape)).astype(np.float32)


def computed(batch: Batch, taps: tuple[Tap, ...], *, segments: int) -> dict[str, jax.Array]:
    """Return what a forward that plants values finds, by the tokens of the rows alone."""
    tokens, ids = batch.rows.tokens, batch.rows.segments
    first = np.full((len(tokens), segments), 1e6)
    for row, place in np.argwhere((ids > 0) & (batch.rows.positions == 0)):
        first[row, ids[row, place] - 1] = tokens[row, place]
    mesh = sharding.make_mesh(data=2, model=2)
    found = {}
    for tap in taps:
        values, axis = planted(tap, first), 1
        if tap.pooling == "tokens":
            values, axis = planted(tap, np.where(ids > 0, tokens, 1e6))[0], 0
        found[tap.name] = jax.device_put(values, sharding.along_data(mesh, axis=axis))
    return found


def opened(folder: Path, taps: tuple[Tap, ...] = TAPS, dtype: str = "float32") -> Store:
    arrays = layouts(taps, lang=LANG, sent=SENT, longest=LONGEST, dtype=dtype)
    return open_store(folder, {}, arrays, lang=LANG)


def planned(missing: Collection[int] = range(LANG)) -> Schedule:
    rows: dict[str, Any] = {"row_lengths": (6, LENGTH), "rows": (2, 4)}
    return schedule(SENTENCES, missing, **rows, token_bytes=0, sentence_bytes=0)


def batches(plan: Schedule) -> list[tuple[Batch, int]]:
    """Return all there is to do, and how many sentences a row may have."""
    return [
        (plan.batch(plan.work[place], kind, number * plan.rows[kind]), plan.segments[kind])
        for (place, kind), count in np.ndenumerate(plan.counts())
        for number in range(count)
    ]


def gathered(
    store: Store, taps: tuple[Tap, ...] = TAPS, *, missing: Collection[int] = range(LANG)
) -> Schedule:
    plan = planned(missing)
    gathering = Gathering(plan, store, taps)
    for batch, segments in batches(plan):
        tokens = gathering.take(batch, computed(batch, taps, segments=segments))
        assert tokens == (batch.rows.segments > 0).sum()
    return plan


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BATCHES", 10)


def first_tokens() -> np.ndarray:
    return np.array([[token(lang, sent, 0) for sent in range(SENT)] for lang in range(LANG)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_end_at_their_language_and_sentence(tmp_path, dtype):
    store = opened(tmp_path, dtype=dtype)
    plan = gathered(store)
    assert len(plan.blocks) > 1
    assert store.missing() == []
    kind = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    for tap in (POOLED, NEURONS):
        expected = planted(tap, first_tokens()).astype(kind).astype(np.float32)
        for layer, states in zip(tap.layers, expected, strict=True):
            np.testing.assert_array_equal(store.read(tap.name, layer), states)
    for lang, sentences in SENTENCES.items():
        states = store.tokens(TOKENS.name, lang)
        assert states.dtype == kind
        np.testing.assert_array_equal(states, planted(TOKENS, sentences.tokens)[0].astype(kind))


def test_lengths_and_token_ids_lie_beside_states_of_tokens(tmp_path):
    store = opened(tmp_path)
    gathered(store)
    for lang, (ids, _, _, lengths) in SENTENCES.items():
        np.testing.assert_array_equal(store.arrays["lengths"][lang].read().result(), lengths)
        np.testing.assert_array_equal(store.tokens("token_ids", lang), ids)


def test_pooled_states_alone_need_neither(tmp_path):
    taps = (POOLED, NEURONS)
    store = opened(tmp_path, taps)
    gathered(store, taps)
    assert set(store.arrays) == {"residual_mean", "neurons_max"}
    np.testing.assert_array_equal(store.read("neurons_max", 1), planted(NEURONS, first_tokens())[0])


def test_only_blocks_with_something_missing_are_written(tmp_path):
    store = opened(tmp_path)
    plan = gathered(store, missing=[3])
    (block,) = (block for block in plan.blocks if 3 in block.languages)
    assert store.missing() == [lang for lang in range(LANG) if lang not in block.languages]


def test_a_block_is_written_when_it_is_whole_and_not_before(tmp_path):
    store, plan = opened(tmp_path), planned()
    gathering = Gathering(plan, store, TAPS)
    counts = plan.counts()
    assert counts.sum(axis=1).all()
    assert counts.max() > 1
    written: list[int] = []
    ends = {*counts.sum(axis=1).cumsum().tolist()}
    for done, (batch, segments) in enumerate(batches(plan), 1):
        gathering.take(batch, computed(batch, TAPS, segments=segments))
        if done in ends:
            written += plan.blocks[batch.block].languages
        assert store.missing() == [lang for lang in range(LANG) if lang not in written]


@pytest.mark.parametrize(
    ("tap", "value", "message"),
    [
        (POOLED, np.nan, r"^m: hidden state 0 of {} sentence 1 is not finite \(14 such"),
        (POOLED, 0.0, r"^m: hidden state 0 of {} sentence 1 is all zero \(14 such"),
        (NEURONS, np.inf, r"^m: neurons of block 1 of {} sentence 1 is not finite \(7 such"),
        (TOKENS, np.nan, r"^m: tokens of hidden state 2 of {} sentence 1 is not finite \(7 such"),
    ],
)
def test_what_is_unusable_is_named_before_anything_of_its_block_is_written(
    tmp_path, tap, value, message
):
    store, plan = opened(tmp_path), planned()
    second = plan.blocks[1].languages
    assert len(second) > 1
    gathering = Gathering(plan, store, TAPS)

    def run() -> None:
        for batch, segments in batches(plan):
            found = computed(batch, TAPS, segments=segments)
            # The last language of the second block, or it would be refused anyway.
            bad = token(second[-1], 0, 0) <= batch.rows.tokens
            bad &= batch.rows.tokens < token(second[-1] + 1, 0, 0)
            if batch.block == 1:
                found[tap.name] = spoil(found[tap.name], batch, bad, tap, value)
            gathering.take(batch, found)

    with pytest.raises(ValueError, match=message.format(NAMES[second[-1]])), naming("m", NAMES):
        run()
    assert store.missing() == [lang for lang in range(LANG) if lang >= second[0]]
    written = {index for other in TAPS for index in languages_with_chunks(store, other)}
    assert written == set(range(second[0]))


def spoil(found: jax.Array, batch: Batch, bad: np.ndarray, tap: Tap, value: float) -> jax.Array:
    values = np.array(found)
    if tap.pooling == "tokens":
        values[bad] = value
    for row, place in np.argwhere(bad):
        if tap.pooling != "tokens":
            values[:, row, batch.rows.segments[row, place] - 1] = value
    return jax.device_put(values, found.sharding)


def languages_with_chunks(store: Store, tap: Tap) -> set[int]:
    folder = Path(store.url) / tap.name / "c"
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {int(file.parts[tap.pooling != "tokens"]) for file in files}


def test_layouts_name_what_taps_take():
    found = layouts(TAPS, lang=LANG, sent=SENT, longest=50, dtype="bfloat16")
    assert {name: layout[:3] for name, layout in found.items()} == {
        "residual_mean": (("layer", "lang", "sent", "dim"), (2, LANG, SENT, 4), "bfloat16"),
        "neurons_max": (("layer", "lang", "sent", "dim"), (1, LANG, SENT, 3), "bfloat16"),
        "residual_tokens": (("lang", "token", "dim"), (LANG, 50, 4), "bfloat16"),
        "lengths": (("lang", "sent"), (LANG, SENT), "int32"),
        "token_ids": (("lang", "token"), (LANG, 50), "int32"),
    }
    assert {name: layout.layers for name, layout in found.items()} == {
        "residual_mean": (0, 2),
        "neurons_max": (1,),
        "residual_tokens": (2,),
        "lengths": (),
        "token_ids": (),
    }
