"""Losses against log-softmax in float64 loops, and against torch's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from ilo_jax.corpora.packing import Rows
from ilo_jax.models import losses, parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.layers.heads import Scorer
from ilo_jax.models.losses import next_token_losses, predicted
from ilo_jax.sharding import make_mesh
from tests.models.hub.same import ONE
from tests.models.variants import TOLERANCE

CAUSAL = pytest.mark.parametrize("variant", ["llama-gqa", "gemma2-both"])


@pytest.fixture(scope="module")
def rows(packed) -> Rows:
    """The packed rows, some tokens given."""
    target = np.random.default_rng(2).random(packed.tokens.shape) >= 0.3
    special = ~target
    return Rows(*(jnp.asarray(array) for array in (*packed[:3], special, target)))


def final_of(model, rows: Rows):
    return model.run(rows).value


def definition(logits: np.ndarray, rows: Rows) -> np.ndarray:
    """Minus log p of the next token of each segment, in float64 loops."""
    tokens, _, segments, _, target = map(np.asarray, rows)
    expected = np.zeros(tokens.shape)
    for row, seq in np.ndindex(tokens.shape):
        last = seq + 1 == tokens.shape[1]
        if last or segments[row, seq] == 0 or segments[row, seq + 1] != segments[row, seq]:
            continue
        if target[row, seq + 1]:
            scores = logits[row, seq].astype(np.float64)
            log_total = scores.max() + np.log(np.exp(scores - scores.max()).sum())
            expected[row, seq] = log_total - scores[tokens[row, seq + 1]]
    return expected


def test_what_is_predicted():
    rows = Rows(
        tokens=jnp.array([[5, 6, 7, 8, 9, 0], [5, 6, 7, 8, 9, 4]]),
        positions=jnp.zeros((2, 6), int),
        segments=jnp.array([[1, 1, 2, 2, 2, 0], [1, 2, 2, 2, 2, 1]]),
        special=jnp.array([[0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool),
        target=jnp.array([[1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1]], bool),
    )
    # Of the second row, the ends are of one segment, but no neighbours.
    expected = [[1, 0, 0, 1, 0, 0], [0, 1, 1, 1, 0, 0]]
    np.testing.assert_array_equal(predicted(rows), np.array(expected, bool))


@CAUSAL
def test_losses_are_log_softmax_of_the_logits(ours, forward, packed, rows, variant):
    states, logits = forward(ours(variant), packed)
    found = np.asarray(next_token_losses(ours(variant), jnp.asarray(states[-1]), rows))
    expected = definition(logits, rows)
    assert (expected > 0).sum() > 30
    np.testing.assert_array_equal(found == 0, expected == 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * expected.max())


@CAUSAL
def test_losses_are_torchs(ours, forward, tiny, packed, sentences, rows, variant):
    plain = rows._replace(target=jnp.ones_like(rows.target))
    final = jnp.asarray(forward(ours(variant), packed)[0][-1])
    found = np.asarray(next_token_losses(ours(variant), final, plain))
    for tokens, (row, where) in zip(sentences, packed.places, strict=True):
        if len(tokens) == 1:
            assert found[row, where] == 0
            continue
        ids = torch.from_numpy(tokens)[None]
        with torch.no_grad():
            expected = tiny(variant).torch(ids, labels=ids).loss.item()
        assert found[row, where].sum() / (len(tokens) - 1) == pytest.approx(expected, rel=1e-5)


def value_and_gradient(model, rows: Rows):
    graph, state = nnx.split(model)

    def total(state):
        merged = nnx.merge(graph, state)
        return next_token_losses(merged, final_of(merged, rows), rows).sum()

    return jax.jit(jax.value_and_grad(total))(state)


def test_parts_give_the_same_losses_and_gradients(ours, rows, monkeypatch):
    model, (row, seq) = ours("llama-tied"), rows.tokens.shape
    whole, gradient = value_and_gradient(model, rows)
    held = []
    losses.cross_entropies.clear_cache()
    scores = Scorer.__call__
    monkeypatch.setattr(
        Scorer, "__call__", lambda self, h: held.append(h.shape[:2]) or scores(self, h)
    )
    monkeypatch.setattr(losses, "SCORES", row * seq * model.config.vocab // 6)
    value, found = value_and_gradient(model, rows)
    assert {*held} == {(row, seq // 6)}
    assert value == pytest.approx(float(whole), rel=1e-6)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(gradient), strict=True):
        scale = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * scale)


def test_scores_of_parts_are_not_kept_for_the_way_back(ours, rows, monkeypatch):
    model, shape = ours("llama-tied"), rows.tokens.shape
    scores = rows.tokens.size * model.config.vocab
    monkeypatch.setattr(losses, "SCORES", scores // 6)

    def way_back(final):
        return jax.vjp(lambda final: next_token_losses(model, final, rows), final)[1]

    kept = jax.eval_shape(way_back, jax.ShapeDtypeStruct((*shape, model.config.dim), jnp.float32))
    assert max(leaf.size for leaf in jax.tree.leaves(kept)) < scores


@pytest.mark.parametrize(
    ("seq", "scores", "parts"), [(12, 100, 1), (12, 101, 2), (12, 401, 6), (7, 101, 7), (4, 999, 4)]
)
def test_rows_are_cut_into_as_few_equal_parts_as_may_be(monkeypatch, seq, scores, parts):
    """Of a prime number of positions, one at a time; and never less than one."""
    monkeypatch.setattr(losses, "SCORES", 100)
    assert losses._parts(seq, scores) == parts


@pytest.mark.parametrize(
    ("data", "split", "held"), [(1, 1, (8, 2)), (2, 2, (8, 6)), (8, 1, (8, 12)), (4, 2, (8, 12))]
)
def test_scores_are_counted_for_each_device(ours, monkeypatch, data, split, held):
    """Eight rows of 12 tokens and a vocabulary that divides: more devices, fewer parts."""
    config, mesh = ours("llama-tied").config, make_mesh(data=data, model=split)
    model = parameters.abstract(config, dtype=jnp.float32)
    model.mesh, shapes, scores = mesh, [], Scorer.__call__
    monkeypatch.setattr(
        Scorer, "__call__", lambda self, h: shapes.append(h.shape[:2]) or scores(self, h)
    )
    losses.cross_entropies.clear_cache()
    monkeypatch.setattr(losses, "SCORES", 8 * 12 * config.vocab // 6)
    empty = jnp.zeros((8, 12), int)
    rows = Rows(empty, empty, empty, empty > 0, empty > 0)
    jax.eval_shape(next_token_losses, model, jnp.zeros((8, 12, config.dim)), rows)
    assert {*shapes} == {held}


@pytest.mark.parametrize(
    ("rows", "vocab", "devices"), [(8, 64, 8), (6, 64, 2), (8, 63, 4), (5, 61, 1)]
)
def test_what_does_not_divide_is_whole_on_every_device(rows, vocab, devices):
    assert losses._devices(make_mesh(data=4, model=2), rows=rows, vocab=vocab) == devices


def test_float32_whatever_the_dtype_of_the_states(ours, rows):
    final = jnp.ones((*rows.tokens.shape, 32), jnp.bfloat16)
    assert next_token_losses(ours("llama-gqa"), final, rows).dtype == jnp.float32


def test_what_is_made_of_bfloat16_scores_is_float32(tiny, rows):
    model = loading.load(open_folder(tiny("llama-gqa").folder), mesh=ONE, dtype=jnp.bfloat16)
    final = jax.random.normal(jax.random.key(0), (*rows.tokens.shape, 32), jnp.bfloat16)
    logits = model.logits(final)
    assert logits.dtype == jnp.bfloat16
    expected = definition(np.asarray(logits.astype(jnp.float32)), rows)
    np.testing.assert_allclose(next_token_losses(model, final, rows), expected, rtol=1e-5)


def test_a_bare_backbone_is_refused(ours, rows):
    with pytest.raises(ValueError, match="it has no head for logits"):
        next_token_losses(ours("llama-bare"), jnp.ones((*rows.tokens.shape, 32)), rows)
