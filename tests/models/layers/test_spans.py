"""Against the definition: who may see whom, one pair after the other."""

import itertools

import pytest

from ilo_jax.models.layers import spans as module
from ilo_jax.models.layers.spans import MOST, compared, spans

KINDS = [*itertools.product([True, False], [None, 1, 2, 5, 100])]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 1)


def sees(query: int, key: int, *, causal: bool, window: int | None) -> bool:
    return not (causal and key > query) and (window is None or query - key < window)


@pytest.mark.parametrize("seq", [1, 2, 3, 7, 8, 9, 16, 33])
@pytest.mark.parametrize(("causal", "window"), KINDS)
def test_nothing_that_may_be_seen_is_left_out_and_the_rest_is(seq, causal, window):
    found = list(spans(seq, causal=causal, window=window))
    assert [i for span in found for i in range(seq)[span.queries]] == list(range(seq))
    for queries, keys in found:
        pairs = itertools.product(range(seq)[queries], range(seq))
        seen = {key for query, key in pairs if sees(query, key, causal=causal, window=window)}
        assert keys == slice(min(seen), max(seen) + 1)
    assert 1 <= len(found) <= MOST


@pytest.mark.parametrize("seq", [1, 63, 64, 100, 1000])
def test_a_row_in_which_all_see_all_is_not_cut(seq):
    assert list(spans(seq, causal=False, window=None)) == [(slice(0, seq), slice(0, seq))]


def test_spans_are_long_enough_to_be_worth_it(monkeypatch):
    monkeypatch.setattr(module, "SMALLEST", 64)

    def sizes(seq: int) -> list[int]:
        found = spans(seq, causal=True, window=None)
        return [span.queries.stop - span.queries.start for span in found]

    assert sizes(64) == [64]
    assert sizes(100) == [64, 36]
    assert sizes(256) == [64] * 4
    assert sizes(384) == [128] * 3
    assert sizes(640) == [192, 192, 192, 64]
    assert sizes(4096) == [1024] * 4


@pytest.mark.parametrize(("causal", "window"), KINDS)
def test_pairs_compared_are_those_of_the_spans(causal, window):
    pairs = {
        pair
        for queries, keys in spans(33, causal=causal, window=window)
        for pair in itertools.product(range(33)[queries], range(33)[keys])
    }
    assert compared(33, causal=causal, window=window) == len(pairs)


def test_four_spans_of_a_causal_row_leave_five_eighths():
    assert compared(64, causal=True, window=None) * 8 == 64**2 * 5
