"""What text costs those who know bytes only."""

import math
import random
from collections import Counter

import pytest

from ilo_jax.evaluation.compression import ngram_bits_per_byte, xz_bits_per_byte

LEARNT = ["the cat sat on the mat", "the dog sat on the log", "żółw"]
HELD_OUT = ["the rat sat on the mat", "żaba"]


def by_definition(learnt: list[str], held_out: list[str], order: int) -> float:
    """Return the bits per byte of an n-gram model, counted byte for byte."""
    border = bytes(max(1, order - 1))
    counts: Counter[bytes] = Counter()
    for text in learnt:
        data = border + text.encode()
        for end in range(len(border) + 1, len(data) + 1):
            counts.update(data[end - n : end] for n in range(1, order + 1))

    def probability(context: bytes, byte: int, n: int) -> float:
        if n == 0:
            return 1 / 256
        context = context[len(context) - n + 1 :]
        after = [counts[context + bytes([other])] for other in range(256)]
        shorter = probability(context[1:], byte, n - 1)
        total, kinds = sum(after), sum(count > 0 for count in after)
        return (after[byte] + kinds * shorter) / (total + kinds) if total else shorter

    bits, size = 0.0, 0
    for text in held_out:
        data = border + text.encode()
        for place in range(len(border), len(data)):
            bits -= math.log2(probability(data[:place], data[place], order))
            size += 1
    return bits / size


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_ngrams_equal_their_definition(order):
    found = ngram_bits_per_byte(LEARNT, HELD_OUT, order=order)
    assert found == pytest.approx(by_definition(LEARNT, HELD_OUT, order), rel=1e-12)


def test_random_bytes_cost_what_they_hold():
    letters = random.Random(0)
    texts = ["".join(letters.choices("abcdefgh", k=2000)) for _ in range(20)]
    learnt, held_out = texts[:18], texts[18:]
    assert 3 <= ngram_bits_per_byte(learnt, held_out, order=2) < 3.05
    assert 3 <= xz_bits_per_byte(learnt, held_out) < 3.6
    # Higher orders know less of each context.
    assert ngram_bits_per_byte(learnt, held_out, order=5) > 3.05


def test_what_was_learnt_costs_next_to_nothing():
    text = "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz ", k=5000))
    assert xz_bits_per_byte([text], [text]) < 0.05
    assert xz_bits_per_byte([text[::-1]], [text]) > 4


def test_an_order_that_is_none_and_a_text_with_nul_are_refused():
    with pytest.raises(ValueError, match=r"order must be from 1 to 8, got 9"):
        ngram_bits_per_byte(LEARNT, HELD_OUT, order=9)
    with pytest.raises(ValueError, match=r"no NUL, got one in number 2"):
        ngram_bits_per_byte(["a", "b\0"], HELD_OUT)
