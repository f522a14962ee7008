from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax import sharding
from ilo_jax.activations import extraction
from ilo_jax.activations.extraction import extract, refuse_unusable, row_length
from ilo_jax.activations.store import Store, open_store
from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
    Rope,
)
from ilo_jax.models.parameters import build
from ilo_jax.models.transformer import Transformer

GATED = ModelConfig(
    causal=True,
    embedding=EmbeddingConfig(vocab=50, dim=16),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4,
                kv_heads=2,
                head_dim=6,
                scale=6**-0.5,
                qkv_bias=True,
                out_bias=True,
                rope=Rope(theta=100.0, dims=6),
            ),
            mlp=MlpConfig(dim=20, activation="silu", gated=True, bias=True),
            norm=Norm(kind="rms", eps=1e-6),
            norm_place="pre",
        ),
    )
    * 2,
    final_norm=Norm(kind="rms", eps=1e-6),
    head=HeadConfig(kind="none"),
    max_positions=64,
)
LAYER_NORM = Norm(kind="layer", eps=1e-6, bias=True)
BERT = ModelConfig(
    causal=False,
    embedding=EmbeddingConfig(
        vocab=50, dim=16, positions="learned", rows=64, token_types=2, norm=LAYER_NORM
    ),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4, kv_heads=4, head_dim=4, scale=0.5, qkv_bias=True, out_bias=True
            ),
            mlp=MlpConfig(dim=20, activation="gelu", bias=True),
            norm=LAYER_NORM,
            norm_place="post",
        ),
    )
    * 2,
    final_norm=None,
    head=HeadConfig(kind="none"),
    max_positions=64,
)
LANGUAGES = ["a", "b", "c"]


def perturbed(config: ModelConfig) -> Transformer:
    """A model whose every weight is random, norms and biases included."""
    model = build(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    state = nnx.state(model, nnx.Param)
    noise = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), state)
    nnx.update(model, jax.device_put(noise, sharding.replicated(sharding.make_mesh(data=1))))
    return model


@pytest.fixture(scope="module", params=[GATED, BERT], ids=["decoder", "encoder"])
def model(request) -> Transformer:
    return perturbed(request.param)


@pytest.fixture(scope="module")
def ids() -> list[list[list[int]]]:
    rng = np.random.default_rng(2)
    lengths = rng.choice([1, 2, 3, 7, 20, 59], size=(3, 20))
    return [[rng.integers(0, 50, n).tolist() for n in of_language] for of_language in lengths]


@pytest.fixture(scope="module")
def expected(model: Transformer, ids) -> np.ndarray:
    """One sentence at a time, no padding, the mean in float64."""
    alone = nnx.jit(lambda model, *row: model(*row, tap=lambda x: x[0]))
    states = np.zeros((3, 3, 20, 16))
    for lang, sentences in enumerate(ids):
        for sent, tokens in enumerate(sentences):
            row = jnp.asarray(tokens)[None]
            place = jnp.arange(len(tokens))[None]
            taps = alone(model, row, place, jnp.ones_like(row))
            states[:, lang, sent] = [np.asarray(tap, np.float64).mean(0) for tap in taps]
    return states


def opened(folder: Path) -> Store:
    return open_store(folder, {}, shape=(3, 3, 20, 16))


def everything(store: Store) -> np.ndarray:
    return np.stack([store.read(layer) for layer in range(3)])


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return np.max(np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1))


@pytest.mark.parametrize(
    ("devices", "batch_tokens", "length"),
    [(1, 256, 256), (1, 2048, 256), (4, 512, 256), (4, 128, 64), (1, 384, 384)],
)
def test_every_packing_batch_and_mesh_gives_the_sentence_alone(
    model, ids, expected, tmp_path, monkeypatch, devices, batch_tokens, length
):
    monkeypatch.setattr(extraction, "row_length", lambda longest: length)
    mesh = sharding.make_mesh(data=devices)
    nnx.update(model, jax.device_put(nnx.state(model), sharding.replicated(mesh)))
    store = opened(tmp_path)
    report = extract(model, ids, store, mesh, languages=LANGUAGES, batch_tokens=batch_tokens)
    assert store.missing() == []
    assert report.tokens == sum(len(s) for sentences in ids for s in sentences)
    assert 0 < report.padding < 1
    assert relative(everything(store), expected) <= 1e-5


def test_a_stopped_run_ends_bit_equal(model, ids, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "BLOCK_TOKENS", 1)
    mesh = sharding.make_mesh(data=1)
    nnx.update(model, jax.device_put(nnx.state(model), sharding.replicated(mesh)))
    whole, stopped = opened(tmp_path / "whole"), opened(tmp_path / "stopped")
    extract(model, ids, whole, mesh, languages=LANGUAGES, batch_tokens=256)

    written = []

    def stop_after_one(store: Store, language: int, states: np.ndarray) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(language)
        store.states[:, language].write(states).result()
        store.complete[language].write(1).result()

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            extract(model, ids, stopped, mesh, languages=LANGUAGES, batch_tokens=256)
    assert stopped.missing() == [1, 2]
    report = extract(model, ids, stopped, mesh, languages=LANGUAGES, batch_tokens=256)
    assert report.tokens == sum(len(s) for sentences in ids[1:] for s in sentences)
    np.testing.assert_array_equal(everything(stopped), everything(whole))


def test_another_sentence_in_the_row_changes_nothing(model, ids, tmp_path):
    mesh = sharding.make_mesh(data=1)
    nnx.update(model, jax.device_put(nnx.state(model), sharding.replicated(mesh)))
    changed = [[list(s) for s in sentences] for sentences in ids]
    changed[1][3] = [(t + 1) % 50 for t in changed[1][3]]
    first, second = opened(tmp_path / "first"), opened(tmp_path / "second")
    for store, text in ((first, ids), (second, changed)):
        extract(model, text, store, mesh, languages=LANGUAGES, batch_tokens=512)
    differs = (everything(first) != everything(second)).any(axis=(0, 3))
    assert np.argwhere(differs).tolist() == [[1, 3]]


def test_rows_are_as_long_as_the_longest_sentence_needs():
    assert [row_length(n) for n in (1, 256, 257, 384, 385)] == [256, 256, 384, 384, 512]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_states_that_are_not_finite_are_named(value: float):
    states = np.ones((3, 2, 4, 5), np.float32)
    states[2, 1, 3, 0] = value
    with pytest.raises(ValueError, match=r"state 2 of y sentence 4 is not finite \(1 such"):
        refuse_unusable(states, ["x", "y"])


def test_states_that_are_zero_are_named():
    states = np.ones((3, 2, 4, 5), np.float32)
    states[1, 0, 2] = 0
    states[2, 0, 2] = 0
    with pytest.raises(ValueError, match=r"hidden state 1 of x sentence 3 is all zero \(2 such"):
        refuse_unusable(states, ["x", "y"])


def test_nothing_is_stored_of_a_model_that_gives_nan(ids, tmp_path):
    model = perturbed(BERT)
    model.embed.tokens.embedding[...] = (
        model.embed.tokens.embedding[...].at[ids[1][4][0]].set(jnp.nan)
    )
    store = opened(tmp_path)
    with pytest.raises(ValueError, match="is not finite"):
        extract(
            model, ids, store, sharding.make_mesh(data=1), languages=LANGUAGES, batch_tokens=512
        )
    assert store.missing() == [0, 1, 2]
