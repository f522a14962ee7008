"""Held-out sentences in memory: what the model gives for each alone, whatever computes it."""

import copy
import json
import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.activations.pooled import compiled_pooled
from ilo_jax.corpora.packing import as_sentences, joined
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.parameters import build
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from tests.models.reading import states
from tests.models.variants import VARIANTS, VOCAB

LANG, SENT = 3, 5


def config_of(variant: str) -> ModelConfig:
    kind, given = VARIANTS[variant]
    config = kind.config_class(**copy.deepcopy(given), architectures=[kind.__name__])
    return read_config(json.loads(config.to_json_string()))


def random(config: ModelConfig, mesh: Any, *, seed: int) -> Transformer:
    """A model whose every weight is random, norms and biases included, on a mesh."""
    model = build(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(seed)
    lies = parameters.shardings(model, mesh, fsdp=False)
    noisy = {
        path: jax.device_put(weight + 0.2 * rng.normal(size=weight.shape), lies[path])
        for path, weight in parameters.weights(model).items()
    }
    single = {path: weight.astype(jnp.float32) for path, weight in noisy.items()}
    parameters.put(model, single)
    model.mesh = mesh
    return model


@pytest.fixture(scope="module", params=["llama-tied", "bert-model"])
def config(request) -> ModelConfig:
    return config_of(request.param)


@pytest.fixture(scope="module")
def ids() -> list[list[list[int]]]:
    rng = np.random.default_rng(2)
    lengths = rng.choice([1, 6, 45], size=(LANG, SENT))
    return [[rng.integers(0, VOCAB, n).tolist() for n in of_lang] for of_lang in lengths]


@pytest.fixture(scope="module")
def sentences(ids):
    """Half of the tokens are special: the mean is over all of them all the same."""
    return [as_sentences(of, [[i % 2 for i in range(len(s))] for s in of]) for of in ids]


show = nnx.jit(lambda model, *row: states(model, *row, show=lambda hidden: hidden[0]))


def alone(model: Transformer, ids: list[list[list[int]]]) -> np.ndarray:
    """From one sentence at a time without padding, averaged in float64."""
    found = []
    for sentence in (sentence for of_lang in ids for sentence in of_lang):
        row = jnp.asarray(sentence)[None]
        shown = show(model, row, jnp.arange(len(sentence))[None], jnp.ones_like(row))
        found.append([np.asarray(state, np.float64).mean(axis=0) for state in shown])
    return np.moveaxis(np.array(found).reshape(LANG, SENT, len(found[0]), -1), 2, 0)


@pytest.fixture(scope="module")
def expected(config, ids) -> np.ndarray:
    return alone(random(config, make_mesh(data=1), seed=1), ids)


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return np.max(np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1))


def pooled(config: ModelConfig, sentences, mesh, *, batch_tokens: int = 128, dtype=jnp.float32):
    size = {"batch_tokens": batch_tokens, "dtype": dtype}
    return compiled_pooled(config, sentences, mesh, **size)


@pytest.mark.parametrize(
    ("data", "model", "batch_tokens"),
    [
        pytest.param(1, 1, 1, marks=pytest.mark.slow),
        (1, 1, 128),
        pytest.param(1, 1, 4096, marks=pytest.mark.slow),
        pytest.param(8, 1, 64, marks=pytest.mark.slow),
        (4, 2, 128),
    ],
)
def test_every_batch_and_mesh_gives_the_sentence_alone(
    config, sentences, expected, data, model, batch_tokens
):
    mesh = make_mesh(data=data, model=model)
    found = pooled(config, sentences, mesh, batch_tokens=batch_tokens)(random(config, mesh, seed=1))
    assert found.shape == (config.layers + 1, LANG, SENT, config.dim)
    assert found.dtype == jnp.float32
    assert found.sharding.is_fully_replicated
    assert relative(np.asarray(found), expected) <= 1e-5


def test_other_weights_give_other_values_and_nothing_is_compiled_again(
    config, sentences, ids, caplog
):
    mesh = make_mesh(data=1)
    one, other = (random(config, mesh, seed=seed) for seed in (1, 2))
    function = pooled(config, sentences, mesh)
    compiled, found = [], []
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for model in (one, other, one):
            caplog.clear()
            found.append(np.asarray(function(model)))
            compiled.append([m for m in caplog.messages if m.startswith("Compiling")])
    assert len(compiled[0]) > 0
    assert compiled[1:] == [[], []]
    np.testing.assert_array_equal(found[0], found[2])
    assert relative(found[1], found[0]) > 0.1
    assert relative(found[1], alone(other, ids)) <= 1e-5


def test_a_sentence_is_found_where_it_was(config, sentences, ids):
    """Another sentence changes its own values, and those of no other."""
    mesh, changed = make_mesh(data=1), copy.deepcopy(ids)
    changed[1][3] = [(token + 1) % VOCAB for token in changed[1][3]]
    model = random(config, mesh, seed=1)
    others = [as_sentences(of_lang) for of_lang in changed]
    first, second = (np.asarray(pooled(config, each, mesh)(model)) for each in (sentences, others))
    assert np.argwhere((first != second).any(axis=(0, 3))).tolist() == [[1, 3]]


def test_compute_dtype_is_not_that_of_the_weights(config, sentences, expected):
    mesh = make_mesh(data=1)
    model = random(config, mesh, seed=1)
    found = pooled(config, sentences, mesh, dtype=jnp.bfloat16)(model)
    assert {weight.dtype for weight in parameters.weights(model).values()} == {jnp.dtype("float32")}
    assert 1e-4 < relative(np.asarray(found, np.float64), expected) < 0.1


def test_too_little_memory_names_what_to_change(config, sentences, monkeypatch):
    size = {"dtype": jnp.float32, "batch_tokens": 64}
    pooled = compiled_pooled(config, sentences, make_mesh(data=1), **size)

    def exhausted(arrays):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(jax, "block_until_ready", exhausted)
    with pytest.raises(MemoryError, match=r"too little device memory for .* batch_tokens"):
        pooled(build(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))


def test_languages_with_other_numbers_of_sentences_are_refused(config, sentences):
    with pytest.raises(ValueError, match=r"as many sentences, got \[5, 5, 10\]"):
        pooled(config, [*sentences[:2], joined(sentences[:2])], make_mesh(data=1))
