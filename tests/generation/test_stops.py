import numpy as np
import pytest
import torch
from transformers import StopStringCriteria

from ilo_jax.generation.pieces import pieces
from ilo_jax.generation.stops import COMPLETE, refuse_special, stop_table
from tests.generation.material import byte_fallback, byte_level

STOPS = [
    ["stop"],
    ["\n\n", "\n \n"],
    ["é", "你", "s t"],
    ["stops", "top", "stopp", "opop", "pst"],
    ["aaab", "aab", "baaa"],
]
KINDS = {"bytes": byte_level, "fallback": byte_fallback}


def states(table: np.ndarray, tokens: list[int]) -> list[int]:
    """The state after each token, from the start of a text on."""
    found = [0]
    for token in tokens:
        found.append(COMPLETE if found[-1] == COMPLETE else int(table[found[-1], token]))
    return found[1:]


def likely(rng: np.random.Generator, own: list[bytes], stops: list[str]) -> list[int]:
    """Tokens of which most could be of a stop string."""
    letters = {*"".join(stops).encode()}
    near = [id for id, piece in enumerate(own) if letters & {*piece}]
    return [int(rng.choice(near if rng.random() < 0.9 else len(own))) for _ in range(12)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", STOPS, ids=str)
def test_a_text_is_complete_when_its_bytes_have_a_stop_string(kind, stops):
    words = KINDS[kind]()
    own, rng, complete = pieces(words, vocab=len(words)), np.random.default_rng(0), 0
    table = stop_table(stops, own)
    for _ in range(400):
        tokens = likely(rng, own, stops)
        texts = [b"".join(own[token] for token in tokens[:n]) for n in range(1, len(tokens) + 1)]
        expected = [any(stop.encode() in text for stop in stops) for text in texts]
        assert [state == COMPLETE for state in states(table, tokens)] == expected
        complete += expected[-1]
    assert 20 < complete < 400
    assert table.dtype == np.int32
    assert len(table) <= 1 + sum(len(stop.encode()) - 1 for stop in stops)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", STOPS[:4], ids=str)
def test_it_is_complete_at_the_token_where_transformers_stops(kind, stops):
    words = KINDS[kind]()
    own, rng = pieces(words, vocab=len(words)), np.random.default_rng(1)
    table, theirs = stop_table(stops, own), StopStringCriteria(words, stops)
    silent = {*words.all_special_ids}
    for _ in range(100):
        # To them a special token is text.
        tokens = [token for token in likely(rng, own, stops) if token not in silent]
        found = [state == COMPLETE for state in states(table, tokens)]
        rows = (torch.tensor([tokens[:n]]) for n in range(1, len(tokens) + 1))
        stopped = [bool(theirs(row, None)) for row in rows]
        first = stopped.index(True) if True in stopped else len(tokens)
        assert found == [n >= first for n in range(len(tokens))]


def test_by_hand():
    table = stop_table(["abab"], [b"", b"a", b"b", b"ab", b"ba", b"xabab", b"babx"])
    assert table.tolist() == [
        [0, 1, 0, 2, 1, -1, 0],
        [1, 1, 2, 2, 3, -1, -1],
        [2, 3, 0, -1, 1, -1, 0],
        [3, 1, -1, 2, -1, -1, -1],
    ]


def test_without_stop_strings_there_is_one_state():
    assert stop_table([], [b"a", b"", b"bc"]).tolist() == [[0, 0, 0]]


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ValueError, match=r"^a stop string must have a character, got ''$"):
        stop_table(["a", ""], [b"a"])


def test_a_stop_string_with_a_special_token_is_refused():
    refuse_special(["</s", "stop"], byte_level())
    message = r"has no special tokens \(give those as end tokens\); got '</s>', 'a<s>'$"
    with pytest.raises(ValueError, match=message):
        refuse_special(["</s>", "stop", "a<s>"], byte_level())
