"""Documents in rows: each token learnt once, nothing padded but the last, nothing lost."""

import numpy as np
import pytest

from ilo_jax.corpora.packing import Rows
from ilo_jax.training.streams import stream
from tests.training.languages import BOS, COUNTS, EOS, LENGTH, documents_of, files_of


@pytest.fixture(scope="module", params=enumerate(COUNTS.values()), ids=list(COUNTS))
def documents(request) -> list[list[int]]:
    return documents_of(*request.param)


def all_rows(documents: list[list[int]]) -> Rows:
    found = stream(files_of("x", documents), row_length=LENGTH, seed=0)
    return found.rows(np.arange(found.count))


@pytest.fixture(scope="module")
def rows(documents) -> Rows:
    return all_rows(documents)


def test_rows_hold_what_they_promise(rows):
    """As `Rows` has it: segments from the left without a gap, positions from 0 in each."""
    for i in range(len(rows.tokens)):
        used = int((rows.segments[i] > 0).sum())
        segments = rows.segments[i, :used]
        assert segments[0] == 1
        assert set(np.diff(segments).tolist()) <= {0, 1}
        for number in range(1, segments[-1] + 1):
            own = rows.positions[i, :used][segments == number]
            assert own.tolist() == list(range(len(own)))
        assert not any(array[i, used:].any() for array in rows)


def test_rows_are_the_documents_and_only_the_last_is_padded(rows, documents):
    """Read back from the rows: every document once and whole, in another order."""
    padded = (rows.segments == 0).any(axis=1)
    assert not padded[:-1].any()
    found = [*rows.tokens[0][rows.segments[0] > 0].tolist()]
    for tokens, segments in zip(rows.tokens[1:], rows.segments[1:], strict=True):
        assert tokens[0] == found[-1]
        found += tokens[segments > 0].tolist()[1:]
    ends = np.flatnonzero(np.array(found) == EOS) + 1
    assert ends[-1] == len(found)
    apart = [part.tolist() for part in np.split(np.array(found), ends[:-1])]
    assert sorted(apart) == sorted([BOS, *own, EOS] for own in documents)
    assert apart != [[BOS, *own, EOS] for own in documents]


def test_every_token_is_learnt_once_but_for_openings(rows, documents):
    learnt = rows.tokens[rows.target].tolist()
    assert sorted(learnt) == sorted(token for own in documents for token in [*own, EOS])
    assert (rows.positions[rows.target] > 0).all()
    assert rows.special.tolist() == np.isin(rows.tokens, (BOS, EOS)).tolist()


def test_segments_are_documents(rows):
    for tokens, segments in zip(rows.tokens, rows.segments, strict=True):
        same = segments[1:] == segments[:-1]
        inside = segments[1:] > 0
        assert ((tokens[1:] == BOS) == ~same)[inside].all()
        assert ((tokens[:-1] == EOS) == ~same)[inside].all()


def test_some_rows_are_those_of_all(rows, documents):
    found = stream(files_of("x", documents, shard=7), row_length=LENGTH, seed=0)
    chosen = np.array([3, 0, len(rows.tokens) - 1, 3])
    for some, every in zip(found.rows(chosen), rows, strict=True):
        assert np.array_equal(some, every[chosen])


@pytest.mark.parametrize("total", [2, 3, LENGTH, LENGTH + 1, 2 * LENGTH - 1, 2 * LENGTH])
def test_a_stream_of_any_length_has_as_few_rows_as_hold_it(total):
    rows = all_rows([list(range(10, 10 + total - 2))])
    assert len(rows.tokens) == 1 + max(0, -(-(total - LENGTH) // (LENGTH - 1)))
    assert (rows.segments > 0).sum() == total + len(rows.tokens) - 1
