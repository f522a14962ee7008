import itertools
import time

import numpy as np
import pytest

from ilo_jax.corpora.packing import Rows, pack, padding_share


def random_sentences(seed: int, *, count: int, longest: int) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, longest + 1, count)
    return [generator.integers(1, 1000, length).tolist() for length in lengths]


def unpack(rows: Rows) -> dict[int, list[int]]:
    """Read the sentences back by the definition, and check all that `Rows` promises."""
    found: dict[int, list[int]] = {}
    for row, members in enumerate(rows.sentence.tolist()):
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
        for array in (rows.tokens, rows.positions, rows.segments):
            assert not array[row, at:].any()
    return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("count", "longest", "row_length"), [(1, 1, 1), (40, 9, 9), (300, 50, 64)])
def test_every_sentence_is_there_once_and_whole(seed, count, longest, row_length):
    sentences = random_sentences(seed, count=count, longest=longest)
    rows = pack(sentences, row_length=row_length)
    assert rows.tokens.shape == (len(rows.sentence), row_length)
    assert unpack(rows) == dict(enumerate(sentences))


def test_the_smallest_case_in_full():
    rows = pack([[7], [8, 9, 10], [5, 6]], row_length=4)
    assert rows.tokens.tolist() == [[8, 9, 10, 7], [5, 6, 0, 0]]
    assert rows.positions.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert rows.segments.tolist() == [[1, 1, 1, 2], [1, 1, 0, 0]]
    assert rows.sentence.tolist() == [[1, 0], [2, -1]]
    assert padding_share(rows) == 0.25


def test_all_arrays_are_int32():
    assert {array.dtype for array in pack([[1]], row_length=2)} == {np.dtype(np.int32)}


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
    rows = pack(sentences, row_length=50)
    tokens = (rows.segments > 0).sum(1).tolist()
    assert sorted(tokens) == sorted(naive_best_fit(list(map(len, sentences)), 50))


def test_best_fit_prefers_the_tighter_row():
    sentences = [[1] * n for n in (6, 7, 3, 4)]
    assert pack(sentences, row_length=10).sentence.tolist() == [[1, 2], [0, 3]]


def test_sentences_as_long_as_a_row_leave_no_padding():
    rows = pack([[1] * 8] * 3, row_length=8)
    assert rows.sentence.tolist() == [[0], [1], [2]]
    assert padding_share(rows) == 0


def test_the_same_sentences_give_the_same_rows():
    sentences = random_sentences(3, count=500, longest=60)
    first, second = (pack(sentences, row_length=64) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_token_id_0_inside_a_sentence_is_no_padding():
    rows = pack([[0, 0], [0]], row_length=4)
    assert rows.segments.tolist() == [[1, 1, 2, 0]]
    assert padding_share(rows) == 0.25


def test_tuples_pack_as_lists():
    assert unpack(pack(((1, 2), (3,)), row_length=3)) == {0: [1, 2], 1: [3]}


def test_a_corpus_of_the_papers_size_takes_below_a_second_and_wastes_below_one_percent():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(np.log(36), 0.45, 31_372), 3, 500).astype(int)
    sentences = [list(range(1, length + 1)) for length in lengths]
    begun = time.perf_counter()
    rows = pack(sentences, row_length=512)
    assert time.perf_counter() - begun < 1
    assert padding_share(rows) < 0.01
    assert sorted(itertools.chain(*rows.sentence.tolist()))[-31_372:] == list(range(31_372))


def test_sentences_that_fit_no_row_are_named():
    with pytest.raises(
        ValueError,
        match=r"^a sentence must have 1 to 2 tokens to fit a row, got "
        r"3 at index 1, 0 at index 3$",
    ):
        pack([[1], [1, 2, 3], [1, 2], []], row_length=2)


def test_many_sentences_that_fit_no_row_are_counted():
    with pytest.raises(ValueError, match=r"got 0 at index 0, .*, 0 at index 9, and 3 more$"):
        pack([[]] * 13, row_length=2)


def test_a_row_has_room():
    with pytest.raises(ValueError, match=r"^row_length must be at least 1, got 0$"):
        pack([[1]], row_length=0)


def test_nothing_is_no_corpus():
    with pytest.raises(ValueError, match=r"^sentences must be at least one, got none$"):
        pack([], row_length=4)
