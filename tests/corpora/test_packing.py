import itertools
import time
from collections.abc import Sequence

import numpy as np
import pytest

from ilo_jax.corpora.packing import (
    Plan,
    Rows,
    Sentences,
    abstract_rows,
    as_sentences,
    even_batches,
    fill,
    joined,
    plan,
    row_length,
    windows,
)
from ilo_jax.sharding import along_data, make_mesh, place_own


def random_sentences(seed: int, *, count: int, longest: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, count)
    return [generator.integers(1, 1000, length).tolist() for length in lengths]


def padding_share(rows: Rows) -> float:
    """The share of all places that hold no token."""
    return float(np.mean(rows.segments == 0))


def pack(sentences: Sequence[Sequence[int]], *, row_length: int) -> tuple[Plan, Rows]:
    flat = as_sentences(sentences)
    planned = plan(flat.lengths, row_length=row_length)
    return planned, fill(flat, planned, row_length=row_length)


def unpack(planned: Plan, rows: Rows) -> dict[int, list[int]]:
    """Read the sentences back by the definition, and check all that `Rows` promises."""
    found: dict[int, list[int]] = {}
    for row, members in enumerate(planned.tolist()):
        used = [sentence for sentence in members if sentence >= 0]
        assert members == used + [-1] * (len(members) - len(used))
        at = 0
        for segment, sentence in enumerate(used, 1):
            places = np.flatnonzero(rows.segments[row] == segment)
            assert places.tolist() == list(range(at, at + len(places)))
            assert rows.positions[row, places].tolist() == list(range(len(places)))
            assert sentence not in found
            found[sentence] = rows.tokens[row, places].tolist()
            at += len(places)
        for array in rows:
            assert not array[row, at:].any()
    return found


def assert_same(some: tuple[np.ndarray, ...], others: tuple[np.ndarray, ...]) -> None:
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "longest", "row_length"), [(1, 1, 1), (40, 9, 9), (300, 50, 64)])
def test_every_sentence_is_there_once_and_whole(seed, count, longest, row_length):
    sentences = random_sentences(seed, count=count, longest=longest)
    planned, rows = pack(sentences, row_length=row_length)
    assert rows.tokens.shape == (len(planned), row_length)
    assert unpack(planned, rows) == dict(enumerate(sentences))


def test_the_smallest_case_in_full():
    sentences = as_sentences([[7], [8, 9, 10], [5, 6]], [[1], [1, 0, 1], [0, 0]])
    planned = plan(sentences.lengths, row_length=4)
    rows = fill(sentences, planned, row_length=4)
    assert planned.tolist() == [[1, 0], [2, -1]]
    assert rows.tokens.tolist() == [[8, 9, 10, 7], [5, 6, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert rows.segments.tolist() == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert rows.special.tolist() == [[True, False, True, True], [False] * 4]
    assert padding_share(rows) == 0.25


def test_sentences_lie_one_after_the_other():
    found = as_sentences([[7], [8, 9, 10], [5, 6]], [[1], [0, 0, 1], [1, 0]])
    assert found.tokens.tolist() == [7, 8, 9, 10, 5, 6]
    assert found.special.tolist() == [True, False, False, True, True, False]
    assert found.lengths.tolist() == [1, 3, 2]


def test_nothing_is_special_and_everything_a_target_unless_it_is_said():
    found = as_sentences([[7], [8, 9]])
    assert not found.special.any()
    assert found.target.all()


def test_targets_stay_with_their_sentence_and_padding_is_none():
    ids = random_sentences(6, count=60, longest=20)
    sentences = as_sentences(ids, target=[[token % 3 == 0 for token in one] for one in ids])
    assert not sentences.special.any()
    rows = fill(sentences, plan(sentences.lengths, row_length=32), row_length=32)
    np.testing.assert_array_equal(rows.target, (rows.tokens % 3 == 0) & (rows.segments > 0))


@pytest.mark.parametrize("ids", [[], [[]], [[1], [], [2, 3]]])
def test_dtypes_do_not_depend_on_what_is_there(ids):
    found = as_sentences(ids)
    assert [array.dtype for array in found] == [np.int32, bool, bool, np.int32]
    assert found.lengths.tolist() == [len(one) for one in ids]


def test_joined_are_the_sentences_of_all_in_order():
    parts = [random_sentences(seed, count=5, longest=4) for seed in range(3)]
    special = [[[token % 2 for token in one] for one in part] for part in parts]
    found = joined(map(as_sentences, parts, special))
    assert isinstance(found, Sentences)
    assert_same(found, as_sentences(itertools.chain(*parts), itertools.chain(*special)))


def test_all_arrays_but_flags_are_int32():
    planned, rows = pack([[1]], row_length=2)
    assert planned.dtype == np.int32
    assert [array.dtype for array in rows] == [np.int32, np.int32, np.int32, bool, bool]


def test_special_tokens_stay_with_their_sentence():
    ids = random_sentences(4, count=60, longest=20)
    sentences = as_sentences(ids, [[token % 3 == 0 for token in one] for one in ids])
    planned = plan(sentences.lengths, row_length=32)
    rows = fill(sentences, planned, row_length=32)
    np.testing.assert_array_equal(rows.special, (rows.tokens % 3 == 0) & (rows.segments > 0))


def test_filling_part_of_a_plan_equals_that_part_of_all():
    sentences = as_sentences(random_sentences(5, count=80, longest=20))
    planned = plan(sentences.lengths, row_length=32)
    whole = fill(sentences, planned, row_length=32)
    for part in (slice(0, 3), slice(5, 6), [4, 1, 1]):
        rows = fill(sentences, planned[part], row_length=32)
        assert_same(rows, tuple(array[part] for array in whole))


def test_a_row_of_nothing_is_all_padding():
    sentences = as_sentences([[7, 8], [9]], [[1, 1], [1]])
    planned = np.array([[-1, -1], [0, 1], [-1, -1]], np.int32)
    rows = fill(sentences, planned, row_length=4)
    for array in rows:
        assert not array[[0, 2]].any()
    assert rows.tokens[1].tolist() == [7, 8, 9, 0]


def test_rows_of_nothing_alone_need_no_sentences():
    rows = fill(as_sentences([]), np.full((2, 1), -1, np.int32), row_length=3)
    for array in rows:
        assert array.shape == (2, 3)
        assert not array.any()


def naive_best_fit(lengths: list[int], row_length: int) -> list[int]:
    """Tokens in every row: the longest first, each where the least room remains.

    Rows with equal room may hold other sentences, but not another number of tokens.
    """
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [row for row, tokens in enumerate(rows) if tokens + length <= row_length]
        if fits:
            rows[max(fits, key=rows.__getitem__)] += length
        else:
            rows.append(length)
    return rows


@pytest.mark.parametrize("seed", range(8))
def test_it_is_best_fit_decreasing(seed):
    sentences = random_sentences(seed, count=120, longest=40)
    _, rows = pack(sentences, row_length=50)
    tokens = (rows.segments > 0).sum(1).tolist()
    assert sorted(tokens) == sorted(naive_best_fit(list(map(len, sentences)), 50))


def planned_of(lengths: Sequence[int], *, row_length: int) -> list[list[int]]:
    return plan(np.array(lengths, np.int32), row_length=row_length).tolist()


def test_best_fit_prefers_the_tighter_row():
    assert planned_of([6, 7, 3, 4], row_length=10) == [[1, 2], [0, 3]]


def test_sentences_as_long_as_a_row_leave_no_padding():
    planned, rows = pack([[1] * 8] * 3, row_length=8)
    assert planned.tolist() == [[0], [1], [2]]
    assert padding_share(rows) == 0


def test_the_same_lengths_give_the_same_rows():
    generator = np.random.default_rng(3)
    lengths = generator.integers(1, 61, 500).astype(np.int32)
    first, second = (plan(lengths.copy(), row_length=64) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_token_id_0_inside_a_sentence_is_no_padding():
    _, rows = pack([[0, 0], [0]], row_length=4)
    assert rows.segments.tolist() == [[1, 1, 2, 0]]
    assert padding_share(rows) == 0.25


def test_tuples_pack_as_lists():
    assert unpack(*pack(((1, 2), (3,)), row_length=3)) == {0: [1, 2], 1: [3]}


def test_a_corpus_of_the_papers_size_takes_below_a_second_and_wastes_below_one_percent():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(36), 0.45, 31_372), 3, 500).astype(np.int32)
    tokens = np.arange(lengths.sum(), dtype=np.int32)
    sentences = Sentences(tokens, tokens < 0, tokens >= 0, lengths)
    begun = time.perf_counter()
    planned = plan(lengths, row_length=512)
    rows = fill(sentences, planned, row_length=512)
    assert time.perf_counter() - begun < 1
    assert padding_share(rows) < 0.01
    assert sorted(itertools.chain(*planned.tolist()))[-31_372:] == list(range(31_372))


def test_sentences_that_fit_no_row_are_named():
    with pytest.raises(
        ValueError,
        match=r"^a sentence must have 1 to 2 tokens to fit a row, got "
        r"3 at index 1, 0 at index 3$",
    ):
        planned_of([1, 3, 2, 0], row_length=2)


def test_many_sentences_that_fit_no_row_are_counted():
    with pytest.raises(ValueError, match=r"got 0 at index 0, .*, 0 at index 9, and 3 more$"):
        planned_of([0] * 13, row_length=2)


def test_a_row_has_room():
    with pytest.raises(ValueError, match=r"^row_length must be at least 1, got 0$"):
        planned_of([1], row_length=0)


def test_nothing_is_no_corpus():
    with pytest.raises(ValueError, match=r"^sentences must be at least one, got none$"):
        planned_of([], row_length=4)


def test_short_sentences_may_only_fill():
    lengths = np.array([2, 9, 3, 5, 8, 1, 4], np.int32)
    planned = plan(lengths, row_length=10, opening=5)
    assert planned.tolist() == [[1, 5], [4, 0]]
    assert plan(lengths[:1], row_length=10, opening=5).tolist() == []


def test_abstract_rows_are_like_those_that_are_there():
    sharding = along_data(make_mesh())
    rows = abstract_rows(8, 16, sharding=sharding)
    filled = fill(as_sentences([[1]] * 8), np.arange(8, dtype=np.int32)[:, None], row_length=16)
    for like, array in zip(rows, place_own(filled, sharding), strict=True):
        assert (like.shape, like.dtype, like.sharding) == (array.shape, array.dtype, sharding)
    assert abstract_rows(2, 8, 16, sharding=along_data(make_mesh(), axis=1)).special.shape == (
        2,
        8,
        16,
    )


def test_rows_are_as_long_as_the_longest_sentence_needs():
    assert [row_length(n) for n in (1, 256, 257, 384, 385)] == [256, 256, 384, 384, 512]


@pytest.mark.parametrize(
    ("count", "batch_tokens", "shapes"),
    [
        (1, 256, [8]),
        (8, 256, [8]),
        (9, 256, [8, 8]),
        (9, 512, [16]),
        (17, 512, [16, 16]),
        (32, 768, [16, 16]),
    ],
)
def test_batches_are_of_one_shape_and_even(count, batch_tokens, shapes):
    sentences = as_sentences([[1] * 200] * count)
    batches = list(even_batches(sentences, batch_tokens=batch_tokens, places=8))
    assert [len(rows.tokens) for _, rows in batches] == shapes
    assert sorted(i for planned, _ in batches for i in planned.ravel() if i >= 0) == [*range(count)]


# Windows


@pytest.mark.parametrize("length", [2, 3, 7, 50])
def test_every_token_but_the_first_follows_another_in_one_window(length):
    texts = random_sentences(5, count=40, longest=30)
    flags = [[token % 3 == 0 for token in text] for text in texts]
    sentences = as_sentences(texts, flags, target=[[not flag for flag in own] for own in flags])
    found = windows(sentences, length=length)
    ends = np.cumsum(found.pieces.lengths)[:-1]
    expected = [
        (number, text[start : start + length])
        for number, text in enumerate(texts)
        for start in range(0, max(1, len(text) - 1), length - 1)
    ]
    pieces = [piece.tolist() for piece in np.split(found.pieces.tokens, ends)]
    assert list(zip(found.sentence.tolist(), pieces, strict=True)) == expected
    assert found.pieces.special.tolist() == (found.pieces.tokens % 3 == 0).tolist()
    assert found.pieces.target.tolist() == (found.pieces.tokens % 3 != 0).tolist()
    assert found.pieces.lengths.max() <= length


def test_a_window_of_one_token_predicts_nothing_and_is_refused():
    with pytest.raises(ValueError, match=r"^a piece must have 2 tokens or more .*, got 1$"):
        windows(as_sentences([[1, 2]]), length=1)
