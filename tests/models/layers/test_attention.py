import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jaxtyping import Array

from ilo_jax.models.config import AttentionConfig, Norm
from ilo_jax.models.layers import spans
from ilo_jax.models.layers.attention import Attention, _attend, alibi_slopes
from ilo_jax.models.layers.attention import attend as attend_by_operation
from ilo_jax.models.layers.layout import Places, layout
from tests.models.layers.places import (
    BATCH,
    CONFIG,
    PLACES,
    POSITIONS,
    ROPE,
    SEGMENTS,
    SEQ,
    at,
    seen,
)

TOLERANCE = 1e-6
# Whole: every operation of every span would be compiled for itself.
attend = jax.jit(attend_by_operation, static_argnames="config")


@pytest.fixture(autouse=True)
def _spans_of_two(monkeypatch):
    monkeypatch.setattr(spans, "SMALLEST", 2)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def softmax(scores: list[float]) -> np.ndarray:
    weights = np.exp(np.array(scores) - max(scores))
    return weights / weights.sum()


# Slopes


def by_the_paper(heads: int) -> list[float]:
    """Return the slopes as the authors' code does: a series, or two halves interleaved."""
    if math.log2(heads).is_integer():
        start = 2 ** (-(2 ** -(math.log2(heads) - 3)))
        return [start * start**i for i in range(heads)]
    below = 2 ** math.floor(math.log2(heads))
    return by_the_paper(below) + by_the_paper(2 * below)[0::2][: heads - below]


@pytest.mark.parametrize("heads", [*range(1, 13), 16, 112])
def test_alibi_slopes_by_the_paper(heads):
    got = alibi_slopes(heads)
    assert got.shape == (heads,)
    assert np.abs(got / by_the_paper(heads) - 1).max() <= TOLERANCE


def test_alibi_slopes_of_eight_heads():
    assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]


# Scores


CHANGES = {
    "plain": {},
    "mha": {"kv_heads": 4},
    "mqa": {"kv_heads": 1},
    "scale": {"scale": 6**-0.5},
    "softcap": {"softcap": 1.5},
    "alibi": {"alibi": True},
    "alibi mqa": {"alibi": True, "kv_heads": 1},
    "window": {"window": 2},
    "all": {"softcap": 1.5, "alibi": True, "window": 3},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("causal", [False, True])
def test_attend_against_the_definition(change, causal):
    config = dataclasses.replace(CONFIG, **change)
    query = normal(BATCH, SEQ, config.heads, config.head_dim)
    key, value = normal(2, BATCH, SEQ, config.kv_heads, config.head_dim, seed=1)
    got = attend(
        jnp.asarray(query),
        jnp.asarray(key),
        jnp.asarray(value),
        at(config, causal=causal),
        config=config,
    )
    expected = np.zeros(query.shape)
    for b, q, h in np.ndindex(*query.shape[:3]):
        shared = h // (config.heads // config.kv_heads)
        keys = seen(b, q, causal=causal, window=config.window)
        scores = []
        for k in keys:
            score = config.scale * float(query[b, q, h].astype(float) @ key[b, k, shared])
            if config.softcap is not None:
                score = config.softcap * math.tanh(score / config.softcap)
            if config.alibi:
                score -= by_the_paper(config.heads)[h] * (POSITIONS[b, q] - POSITIONS[b, k])
            scores.append(score)
        expected[b, q, h] = softmax(scores) @ value[b, keys, shared].astype(np.float64)
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("window", [None, 3])
def test_gradients_are_the_same_in_spans_and_whole(monkeypatch, window):
    config = dataclasses.replace(CONFIG, window=window)
    query = jnp.asarray(normal(BATCH, SEQ, 4, 6))
    key, value = jnp.asarray(normal(2, BATCH, SEQ, 2, 6, seed=1))
    wanted = jnp.asarray(normal(BATCH, SEQ, 4, 6, seed=2))

    def gradients() -> list[np.ndarray]:
        where = at(config)

        def loss(query: Array, key: Array, value: Array) -> Array:
            return (attend(query, key, value, where, config=config) * wanted).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(query, key, value)

    in_spans = gradients()
    monkeypatch.setattr(spans, "SMALLEST", SEQ)
    for got, expected in zip(in_spans, gradients(), strict=True):
        assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_bfloat16_scores_are_float32():
    """With keys 256 and 257 times the query, bfloat16 scores would tie."""
    config = AttentionConfig(heads=1, kv_heads=1, head_dim=2, scale=2**-0.5)
    where = layout([config], Places(jnp.asarray([[0, 1]]), jnp.ones((1, 2), int)), causal=False)
    query = jnp.ones((1, 2, 1, 2), jnp.bfloat16)
    key = jnp.asarray([[[[128.0, 128.0]], [[128.0, 129.0]]]], jnp.bfloat16)
    value = jnp.asarray([[[[1.0, 0.0]], [[0.0, 1.0]]]], jnp.bfloat16)
    got = attend(query, key, value, where, config=config)
    assert got.dtype == jnp.bfloat16
    expected = softmax([256 / 2**0.5, 257 / 2**0.5])
    assert np.abs(got[0, 0, 0].astype(np.float32) - expected).max() <= 2**-8


def test_bfloat16_weights_are_added_up_in_float32():
    """Of 257 equal weights the sum is no number of bfloat16."""
    config = AttentionConfig(heads=1, kv_heads=1, head_dim=2, scale=1.0)
    query, keys = jnp.zeros((1, 1, 1, 1, 2), jnp.bfloat16), jnp.ones((1, 1, 257, 2), jnp.bfloat16)
    mixed = _attend(query, keys, keys, jnp.zeros((1, 1, 1, 1, 257)), config=config)
    assert mixed.dtype == jnp.float32
    assert (mixed == 1).all()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_last_queries_alone_see_what_they_saw_in_the_row(change):
    """As where keys are those of all tokens that were read before."""
    config = dataclasses.replace(CONFIG, **change)
    query = jnp.asarray(normal(BATCH, SEQ, config.heads, config.head_dim))
    key, value = jnp.asarray(normal(2, BATCH, SEQ, config.kv_heads, config.head_dim, seed=1))
    whole_row = attend(query, key, value, at(config), config=config)
    last = Places(*(array[:, 5:] for array in PLACES))
    where = layout([config], last, PLACES, causal=True)
    got = attend(query[:, 5:], key, value, where, config=config)
    real = SEGMENTS[:, 5:] > 0
    assert got.shape == (BATCH, SEQ - 5, config.heads, config.head_dim)
    assert np.isfinite(got).all()
    expected = np.asarray(whole_row)[:, 5:][real]
    assert np.abs(got[real] - expected).max() <= TOLERANCE * np.abs(expected).max()


# The layer


def by_definition(layer: Attention, hidden: np.ndarray, *, causal: bool) -> np.ndarray:
    """Project, norm, rotate, attend, project: one head after the other, in float64."""
    config = layer.config

    def project(linear: nnx.Linear, x: np.ndarray) -> np.ndarray:
        product = x @ np.asarray(linear.kernel[...], np.float64)
        return product if linear.bias is None else product + np.asarray(linear.bias[...])

    def rms(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / math.sqrt(np.mean(x * x) + 0.5) * scale

    def normed(x: np.ndarray, norm) -> np.ndarray:
        if norm is None:
            return x.reshape(-1, config.head_dim)
        scale = np.asarray(norm.scale[...], np.float64)
        if config.qk_norm_over == "all":
            return rms(x, scale).reshape(-1, config.head_dim)
        heads = x.reshape(-1, config.head_dim)
        scales = np.broadcast_to(scale, heads.shape)
        return np.stack([rms(h, s) for h, s in zip(heads, scales, strict=True)])

    def turned(head: np.ndarray, position: int) -> np.ndarray:
        if config.rope is None:
            return head
        half, head = config.rope.dims // 2, head.copy()
        for i in range(half):
            angle = position * config.rope.theta ** (-i / half)
            pair = complex(head[i], head[i + half]) * complex(math.cos(angle), math.sin(angle))
            head[i], head[i + half] = pair.real, pair.imag
        return head

    heads: dict[str, np.ndarray] = {}
    x = hidden.astype(np.float64)
    for name, norm in (("q", layer.q_norm), ("k", layer.k_norm), ("v", None)):
        projected = project(getattr(layer, name), x)
        each = np.stack([[normed(token, norm) for token in row] for row in projected])
        if name != "v":
            for b, s, h in np.ndindex(*each.shape[:3]):
                each[b, s, h] = turned(each[b, s, h], int(POSITIONS[b, s]))
        heads[name] = each
    mixed = np.zeros_like(heads["q"])
    for b, q, h in np.ndindex(*mixed.shape[:3]):
        shared = h // (config.heads // config.kv_heads)
        keys = seen(b, q, causal=causal, window=config.window)
        scores = [config.scale * heads["q"][b, q, h] @ heads["k"][b, k, shared] for k in keys]
        mixed[b, q, h] = softmax(scores) @ heads["v"][b, keys, shared]
    return project(layer.o, mixed.reshape(BATCH, SEQ, -1))


def parameters_of(layer: Attention) -> list[tuple[str, nnx.Param]]:
    flat = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return [("/".join(map(str, path)), param) for path, param in flat]


def drawn(config: AttentionConfig, *, dim: int) -> Attention:
    """Return a layer of random weights."""
    layer = Attention(config, dim=dim, dtype=jnp.float32, rngs=nnx.Rngs(0))
    for i, (_, param) in enumerate(parameters_of(layer)):
        param.set_value(jnp.asarray(0.5 * normal(*param.shape, seed=i)))
    return layer


NORM = Norm(kind="rms", eps=0.5)
LAYERS: dict[str, dict] = {
    "plain": {},
    "biases": {"qkv_bias": True, "out_bias": True},
    "rope": {"rope": ROPE},
    "window": {"rope": ROPE, "window": 2},
    "norm per head": {"rope": ROPE, "qk_norm": NORM},
    "norms of each head": {"rope": ROPE, "qk_norm": NORM, "qk_norm_over": "each"},
    "norm of all heads": {"rope": ROPE, "qk_norm": NORM, "qk_norm_over": "all"},
}


@pytest.mark.parametrize("change", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("causal", [False, True])
def test_layer_against_the_definition(change, causal):
    config = dataclasses.replace(CONFIG, **change)
    layer, hidden = drawn(config, dim=10), normal(BATCH, SEQ, 10, seed=99)
    expected = by_definition(layer, hidden, causal=causal)
    got = nnx.jit(Attention.__call__)(layer, jnp.asarray(hidden), at(config, causal=causal))
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize(
    ("over", "query", "key"),
    [("head", (6,), (6,)), ("each", (4, 6), (2, 6)), ("all", (24,), (12,))],
)
def test_shapes_of_the_norms_of_queries_and_keys(over, query, key):
    config = dataclasses.replace(CONFIG, qk_norm=NORM, qk_norm_over=over)
    layer = Attention(config, dim=10, dtype=jnp.float32, rngs=nnx.Rngs(0))
    norms = {name: weight.shape for name, weight in parameters_of(layer) if "norm" in name}
    assert norms == {"q_norm/scale": query, "k_norm/scale": key}
