"""Processors against those of `transformers`, and draws against the exact distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy import stats
from transformers.generation import logits_process

from ilo_jax.generation.past import Past, begun
from ilo_jax.generation.sampling import chosen, nucleus, processed, sampling

VOCAB, SEQ = 12, 30
ENDS = np.arange(VOCAB) == 4
DRAWS = 20_000


@pytest.fixture(scope="module")
def scores() -> np.ndarray:
    return np.random.default_rng(0).normal(scale=2, size=(8, VOCAB)).astype(np.float32)


@pytest.fixture(scope="module")
def past() -> Past:
    """Eight rows that repeat themselves, of different lengths."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 3, (8, SEQ)).astype(np.int32)
    lengths = np.array([2, 3, 5, 9, 14, 20, 25, SEQ])
    return begun(jnp.asarray(tokens), jnp.asarray(lengths), positions=SEQ + 4)


def by_torch(processors, past: Past, scores: np.ndarray) -> np.ndarray:
    """Each row alone, of its own tokens."""
    found = []
    for row, length in enumerate(past.lengths.tolist()):
        ids = torch.tensor(np.asarray(past.tokens)[row : row + 1, :length]).long()
        one = torch.from_numpy(scores[row : row + 1].copy())
        for processor in processors(row, length):
            one = processor(ids, one)
        found.append(one.numpy()[0])
    return np.stack(found)


def test_penalty_ngrams_and_minimum_are_those_of_transformers(past, scores):
    """In one call, with another setting in each row."""
    penalties = np.array([1.0, 1.3, 0.7, 2.0, 1.0, 1.3, 1.1, 1.5])
    ngrams = np.array([0, 1, 2, 2, 3, 4, 3, 0])
    minimum = np.array([0, 1, 2, 3, 4, 0, 9, 3])
    said = 2

    def processors(row: int, length: int):
        yield logits_process.RepetitionPenaltyLogitsProcessor(penalties[row].item())
        if ngrams[row]:
            yield logits_process.NoRepeatNGramLogitsProcessor(ngrams[row].item())
        yield logits_process.MinNewTokensLengthLogitsProcessor(
            length - said, minimum[row].item(), [4]
        )

    asked = sampling(
        8, repetition_penalty=penalties, no_repeat_ngram=ngrams, minimum=minimum, maximum=9
    )
    found = jax.jit(processed)(
        jnp.asarray(scores), past, asked, ends=jnp.asarray(ENDS), number=jnp.int32(said)
    )
    wanted = by_torch(processors, past, scores)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert (np.isinf(wanted).sum(axis=1) > 0).sum() >= 5


def test_what_is_cut_is_what_transformers_cut(past, scores):
    """The k likeliest, and of those the p likeliest: with ties, all and none of them."""
    scores = scores.copy()
    scores[2, :6] = 1.5
    top_k = np.array([0, 1, 3, 5, 99, 4, 0, 12])
    top_p = np.array([0.9, 1.0, 1.0, 0.5, 0.3, 0.999, 0.01, 1.0], np.float32)

    def processors(row: int, length: int):
        if top_k[row]:
            yield logits_process.TopKLogitsWarper(top_k[row].item())
        if top_p[row] < 1:
            yield logits_process.TopPLogitsWarper(top_p[row].item())

    found = jax.jit(nucleus)(jnp.asarray(scores), jnp.asarray(top_k), jnp.asarray(top_p))
    wanted = by_torch(processors, past, scores)
    np.testing.assert_array_equal(found, wanted)
    kept = np.isfinite(wanted).sum(axis=1)
    assert kept[1] == kept[6] == 1
    assert kept[7] == VOCAB
    assert kept[2] == 6


def test_equal_scores_are_all_kept_by_top_p():
    scores = jnp.zeros((1, 5)).at[0, 2].set(1.0)
    cut = jax.jit(nucleus)(scores, jnp.asarray([0]), jnp.asarray([0.5]))
    assert np.isfinite(cut).all()


@pytest.fixture(scope="module")
def draws(past, scores) -> dict[str, np.ndarray]:
    """Tokens drawn from the first row's scores, one jitted call for all settings."""
    settings = {
        "temperature": {"temperature": 0.7},
        "top_k": {"temperature": 1.3, "top_k": 4},
        "top_p": {"temperature": 1.0, "top_p": 0.8},
        "both": {"temperature": 2.0, "top_k": 7, "top_p": 0.7},
    }
    count = len(settings) * DRAWS
    each = {
        name: np.repeat([setting.get(name, plain) for setting in settings.values()], DRAWS)
        for name, plain in (("temperature", 1.0), ("top_k", 0), ("top_p", 1.0))
    }
    asked = sampling(count, **each)
    nothing = begun(jnp.zeros((count, 1), jnp.int32), jnp.ones(count, jnp.int32), positions=1)
    keys = jax.random.split(jax.random.key(2), count)
    said = jax.jit(chosen)(
        jnp.broadcast_to(scores[0], (count, VOCAB)),
        nothing,
        asked,
        keys,
        ends=jnp.asarray(ENDS),
        number=jnp.int32(3),
    )
    found = np.asarray(said).reshape(len(settings), DRAWS)
    return dict(zip(settings, found, strict=True))


@pytest.mark.parametrize(
    ("name", "temperature", "top_k", "top_p"),
    [
        ("temperature", 0.7, 0, 1.0),
        ("top_k", 1.3, 4, 1.0),
        ("top_p", 1.0, 0, 0.8),
        ("both", 2.0, 7, 0.7),
    ],
)
def test_draws_follow_the_exact_distribution(draws, scores, name, temperature, top_k, top_p):
    """Computed in float64, by sorting."""
    scaled = scores[0].astype(np.float64) / temperature
    order = np.argsort(-scaled)[: top_k or None]
    chances = np.exp(scaled[order])
    chances /= chances.sum()
    before = np.cumsum(chances) - chances
    order, chances = order[before < top_p], chances[before < top_p]
    counts = np.bincount(draws[name], minlength=VOCAB)
    assert counts[order].sum() == DRAWS
    assert stats.chisquare(counts[order], DRAWS * chances / chances.sum()).pvalue > 1e-3
    # Another temperature would be seen.
    other = np.exp(np.log(chances) * 0.9)
    assert stats.chisquare(counts[order], DRAWS * other / other.sum()).pvalue < 1e-3


def test_a_row_draws_by_its_key_alone(past, scores):
    """Neither by its place nor by the others; another number is another draw."""
    keys = jax.random.split(jax.random.key(0), 8)
    asked = sampling(8, temperature=np.linspace(0, 3, 8))
    draw = jax.jit(chosen)

    def drawn(order: np.ndarray, number: int) -> np.ndarray:
        rows = jax.tree.map(lambda array: np.asarray(array)[order], (scores, past, asked))
        return np.asarray(draw(*rows, keys[order], ends=ENDS, number=jnp.int32(number)))

    order = np.array([3, 7, 0, 5, 1, 6, 2, 4])
    everywhere = np.stack([drawn(np.arange(8), number) for number in range(20)])
    np.testing.assert_array_equal(drawn(order, 0), everywhere[0][order])
    assert (everywhere[:, 0] == scores[0].argmax()).all()
    assert all(len(set(row)) > 1 for row in everywhere.T[1:])


def test_settings_out_of_range_are_refused_at_once():
    with pytest.raises(
        ValueError,
        match=r"^sampling cannot be as asked for:\n  temperature must be finite and at least 0, "
        r"got -1\.0\n  top_p must be in \(0, 1\], got 0\.0\n  repetition_penalty must be finite "
        r"and above 0, got nan\n  maximum must be at least 0, got -3$",
    ):
        sampling(
            2, temperature=-1, top_p=[0.5, 0], repetition_penalty=float("nan"), maximum=[1, -3]
        )
