import jax
import jax.numpy as jnp
import numpy as np

from ilo_jax.generation.past import Past, begun

LENGTHS = (1, 4, 9)
SEQ, ROOM = 9, 12
BEGUN = jax.jit(begun, static_argnames="positions")


def common_suffix(first: list[int], second: list[int]) -> int:
    pairs = zip(reversed(first), reversed(second), strict=False)
    count = 0
    for one, other in pairs:
        if one != other:
            break
        count += 1
    return count


def check(past: Past, texts: list[list[int]]) -> None:
    """Tokens, and of each position how many tokens before it are the last, too."""
    last, real = past.last, past.real
    past = jax.device_get(past)
    for row, text in enumerate(texts):
        assert past.tokens[row, : len(text)].tolist() == text
        assert past.lengths[row] == len(text)
        wanted = [common_suffix(text[:position], text) for position in range(len(text))]
        assert past.matches[row, : len(text)].tolist() == wanted
        assert last[row] == text[-1]
        assert real[row].sum() == len(text)


def test_tokens_are_added_to_some_rows_and_what_recurs_is_counted():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 2, (len(LENGTHS), SEQ)).astype(np.int32)
    texts = [row[:length].tolist() for row, length in zip(tokens, LENGTHS, strict=True)]
    past = BEGUN(jnp.asarray(tokens), jnp.asarray(LENGTHS), positions=ROOM)
    check(past, texts)
    then = jax.jit(Past.then)
    for rows in ([True, True, False], [True, True, True], [False, True, True], [True, False, True]):
        said = rng.integers(0, 2, len(LENGTHS)).astype(np.int32)
        past = then(past, said, jnp.asarray(rows))
        for text, token, more in zip(texts, said.tolist(), rows, strict=True):
            text += [token] * more
        check(past, texts)


def test_scores_of_tokens_at_chosen_positions_are_replaced():
    past = BEGUN(jnp.asarray([[2, 0, 2], [1, 1, 1]]), jnp.asarray([3, 1]), positions=3)
    scores = jnp.zeros((2, 4))
    values = jnp.asarray([[5.0, 6.0, 5.0], [7.0, 8.0, 9.0]])
    where = past.real & jnp.asarray([[True, False, True], [True] * 3])
    found = jax.jit(Past.put)(past, scores, values, where)
    np.testing.assert_array_equal(found, [[0, 0, 5, 0], [0, 7, 0, 0]])
