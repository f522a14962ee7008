from collections.abc import Collection
from typing import Any

import numpy as np
import pytest

from ilo_jax.activations import schedule as module
from ilo_jax.activations.schedule import Block, Schedule, kinds, rows_needed, schedule
from ilo_jax.corpora.packing import Sentences, as_sentences, fill, plan

LANGUAGES = (0, 3, 4, 9, 11, 12, 20)
LENGTH, TOKEN_BYTES, SENTENCE_BYTES = 16, 4, 100
ONE: dict[str, Any] = {"row_lengths": (LENGTH,), "rows": (3,)}
TWO: dict[str, Any] = {"row_lengths": (6, LENGTH), "rows": (5, 3)}
ROWS = pytest.mark.parametrize("rows", [ONE, TWO], ids=["one kind", "two kinds"])


def language(index: int, *, count: int = 10) -> Sentences:
    """Sentences that no other language has, a token being of just one place in one of them."""
    lengths = np.random.default_rng(index).integers(1, LENGTH + 1, count)
    ids = [[1000 * index + 100 * i + place for place in range(n)] for i, n in enumerate(lengths)]
    return as_sentences(ids, [[token % 2 for token in one] for one in ids])


SENTENCES = {index: language(index) for index in LANGUAGES}


def planned(missing: Collection[int] = LANGUAGES, **changes: Any) -> Schedule:
    settings: dict[str, Any] = ONE | {"token_bytes": TOKEN_BYTES, "sentence_bytes": SENTENCE_BYTES}
    return schedule(SENTENCES, missing, **settings | changes)


def batches(chosen: Schedule) -> list[tuple[int, module.Batch]]:
    """Return kind and batch of all there is to do."""
    return [
        (kind, chosen.batch(chosen.work[place], kind, number * chosen.rows[kind]))
        for (place, kind), count in np.ndenumerate(chosen.counts())
        for number in range(count)
    ]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BATCHES", 4)


def test_every_language_is_in_one_block_and_in_order():
    blocks = planned().blocks
    assert [index for block in blocks for index in block.languages] == list(LANGUAGES)
    assert 1 < len(blocks) < len(LANGUAGES)


def test_a_block_holds_the_sentences_of_its_languages_in_order():
    for block in planned().blocks:
        parts = [SENTENCES[index] for index in block.languages]
        for got, arrays in zip(block.sentences, zip(*parts, strict=True), strict=True):
            np.testing.assert_array_equal(got, np.concatenate(arrays))


@ROWS
@pytest.mark.parametrize("missing", [(), (0,), (20,), (4, 11), (12, 9), (3, 99), LANGUAGES])
def test_what_is_missing_never_changes_how_languages_are_packed(missing, rows):
    some, every = planned(missing, **rows), planned(**rows)
    assert [block.languages for block in some.blocks] == [b.languages for b in every.blocks]
    for block, other in zip(some.blocks, every.blocks, strict=True):
        for got, expected in zip(block.plans, other.plans, strict=True):
            np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(block.sentences.tokens, other.sentences.tokens)
    wanted = [i for i, b in enumerate(every.blocks) if set(b.languages) & set(missing)]
    assert some.work == wanted


def sizes(blocks: list[Block], *, tokens: float, sentences: float) -> list[list[float]]:
    """What each language of each block takes."""
    return [
        [tokens * len(SENTENCES[i].tokens) + sentences * len(SENTENCES[i].lengths) for i in b[0]]
        for b in blocks
    ]


@pytest.mark.parametrize(("most", "rows"), [(1, 1), (2, 3), (4, 3), (100, 1)])
def test_a_block_ends_with_the_language_that_fills_its_batches(monkeypatch, most, rows):
    monkeypatch.setattr(module, "BLOCK_BATCHES", most)
    tokens = most * rows * LENGTH
    *before, final = sizes(planned(rows=(rows,)).blocks, tokens=1, sentences=0)
    for block in before:
        assert sum(block[:-1]) < tokens <= sum(block)
    assert sum(final[:-1]) < tokens


@pytest.mark.parametrize(
    ("tokens", "sentences"), [(TOKEN_BYTES, 0), (0, SENTENCE_BYTES), (TOKEN_BYTES, SENTENCE_BYTES)]
)
def test_a_block_ends_with_the_language_that_fills_the_host(monkeypatch, tokens, sentences):
    monkeypatch.setattr(module, "BLOCK_BATCHES", 1000)
    most = 2.5 * (80 * tokens + 10 * sentences)
    monkeypatch.setattr(module, "BLOCK_BYTES", most)
    blocks = planned(token_bytes=tokens, sentence_bytes=sentences).blocks
    assert len(blocks) > 1
    *before, final = sizes(blocks, tokens=tokens, sentences=sentences)
    for block in before:
        assert sum(block[:-1]) < most <= sum(block)
    assert sum(final[:-1]) < most


@pytest.mark.parametrize(
    "rows", [ONE, ONE | {"rows": (1,)}, ONE | {"rows": (50,)}, TWO, TWO | {"rows": (1, 2)}]
)
def test_batches_hold_every_sentence_of_the_work_once(rows):
    chosen = planned((3, 12), **rows)
    seen: dict[int, list[int]] = {}
    for kind, batch in batches(chosen):
        count, length = rows["rows"][kind], rows["row_lengths"][kind]
        assert batch.plan.shape == (count, chosen.blocks[batch.block].plans[kind].shape[1])
        assert all(array.shape == (count, length) for array in batch.rows)
        assert (batch.plan >= 0).any()
        seen.setdefault(batch.block, []).extend(batch.plan[batch.plan >= 0].tolist())
    assert list(seen) == chosen.work
    for block, sentences in seen.items():
        assert sorted(sentences) == list(range(len(chosen.blocks[block].sentences.lengths)))


def test_long_rows_are_for_long_sentences_and_short_ones_fill_them():
    """No sentence is in a row of its own kind that would have fitted a longer one."""
    for block in planned(**TWO).blocks:
        lengths = block.sentences.lengths
        short, long = block.plans
        placed = np.where(long >= 0, lengths[long], 0)
        assert {*np.flatnonzero(lengths > 6).tolist()} <= {*long[long >= 0].tolist()}
        assert (placed.max(1) > 6).all()
        room = LENGTH - placed.sum(1)
        assert room.min() >= 0
        left = lengths[short[short >= 0]]
        assert not len(left) or left.min() > room.max()


def test_rows_of_one_kind_are_those_of_a_plan():
    for block in planned(**ONE).blocks:
        (only,) = block.plans
        np.testing.assert_array_equal(only, plan(block.sentences.lengths, row_length=LENGTH))


def test_a_kind_of_row_that_no_sentence_needs_takes_no_batches():
    chosen = planned(row_lengths=(LENGTH, 2 * LENGTH), rows=(3, 2))
    assert not chosen.counts()[:, 1].any()
    assert (chosen.segments[1], chosen.longest[1]) == (1, 1)


@ROWS
def test_rows_of_a_batch_are_those_of_its_plan(rows):
    chosen = planned(**rows)
    for kind, batch in batches(chosen):
        sentences = chosen.blocks[batch.block].sentences
        expected = fill(sentences, batch.plan, row_length=rows["row_lengths"][kind])
        for got, wanted in zip(batch.rows, expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert any(batch.rows.special.any() for _, batch in batches(chosen))


def test_the_last_batch_is_made_up_by_padding():
    chosen = planned(rows=(50,))
    assert chosen.counts().tolist() == [[1]] * len(chosen.blocks)
    for _, batch in batches(chosen):
        real = len(chosen.blocks[batch.block].plans[0])
        assert (batch.rows.segments[:real] > 0).any(1).all()
        assert (batch.plan[real:] == -1).all()
        assert not any(array[real:].any() for array in batch.rows)


@pytest.mark.parametrize("kind", [0, 1])
def test_a_batch_of_padding_has_the_shape_of_all_others(kind):
    chosen = planned(**TWO)
    padding, other = chosen.padding(kind), chosen.batch(0, kind, 0)
    assert padding.block == -1
    assert (padding.plan == -1).all()
    for array, like in zip(padding.rows, other.rows, strict=True):
        assert (array.shape, array.dtype) == (like.shape, like.dtype)
        assert not array.any()


@ROWS
def test_lengths_are_of_the_sentences_to_be_computed(rows):
    chosen = planned((9,), **rows)
    (block,) = (block for block in chosen.blocks if 9 in block.languages)
    expected = np.concatenate([SENTENCES[index].lengths for index in block.languages])
    np.testing.assert_array_equal(chosen.lengths(), expected)
    assert chosen.lengths().dtype == np.int32
    tokens = sum((batch.rows.segments > 0).sum() for _, batch in batches(chosen))
    assert tokens == chosen.lengths().sum()


@ROWS
def test_sizes_are_of_all_blocks_whatever_is_missing(rows):
    every, some = planned(**rows), planned((20,), **rows)
    by_kind = list(zip(*(block.plans for block in every.blocks), strict=True))
    sentences = [max((p >= 0).sum(1).max(initial=1) for p in plans) for plans in by_kind]
    assert every.segments == some.segments == sentences
    assert every.longest == some.longest == [max(1, *map(len, plans)) for plans in by_kind]


@ROWS
def test_nothing_to_do_is_a_schedule_too(rows):
    nothing = schedule({}, LANGUAGES, **rows, token_bytes=1, sentence_bytes=1)
    for chosen in (planned((), **rows), nothing):
        assert chosen.counts().shape == (0, len(rows["rows"]))
        assert chosen.lengths().shape == (0,)
    assert nothing.segments == nothing.longest == [1] * len(rows["rows"])
    for kind, (count, length) in enumerate(zip(rows["rows"], rows["row_lengths"], strict=True)):
        assert nothing.padding(kind).rows.tokens.shape == (count, length)


def test_short_rows_are_powers_of_two_beside_the_whole():
    assert kinds(1) == kinds(256) == [(256,), (64, 256), (128, 256), (64, 128, 256)]
    pairs = [(64, 128, 384), (64, 256, 384), (128, 256, 384)]
    assert kinds(300) == [(384,), (64, 384), (128, 384), (256, 384), *pairs]


def test_rows_that_sentences_need():
    lengths = np.array([16, 3, 3, 2, 9], np.int32)
    assert rows_needed(lengths, (16,)) == [3]
    assert rows_needed(lengths, (6, 16)) == [1, 2]
    assert rows_needed(lengths[:1], (6, 16)) == [0, 1]
