"""The model is the same twice, and random tokens are in its vocabulary."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.bench.extract import SEARCHERS, difference
from experiments.bench.rivals import work as extract_work
from experiments.bench.rivals.work import RANDOM, prepare, random_ids, random_model
from experiments.settings import Source
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.models import parameters
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.hub.folder import open_folder

SMALL = RANDOM["llama8b"] | {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_the_large_shape_has_eight_billion_weights():
    model = parameters.abstract(read_config(RANDOM["llama8b"]), dtype=jnp.bfloat16)
    sizes = [int(np.prod(like.shape)) for like in parameters.shapes(model).values()]
    # As Llama 3.1 8B, whose head is not needed.
    assert sum(sizes) == 8_030_261_248 - 128256 * 4096


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-5), pytest.param("bfloat16", 0.05, marks=pytest.mark.slow)],
)
def test_random_weights_are_the_same_twice(dtype, tolerance, tiny, text, tmp_path, monkeypatch):
    monkeypatch.setitem(RANDOM, "small", SMALL)
    work = prepare(
        Source(model=str(tiny), corpus=str(text), sentences=3, batch_tokens=512),
        random="small",
        dtype=dtype,
        torch_batch=4,
        scratch=tmp_path,
    )
    assert work.name == "random small"
    assert {str(w.dtype) for w in parameters.weights(work.model).values()} == {dtype}
    assert {w.dtype for w in work.theirs.parameters()} == {getattr(torch, dtype)}
    ours, theirs = (SEARCHERS[name](work)().vectors for name in ("ours", "paper"))
    assert ours is not None
    assert theirs is not None
    assert theirs().std() > 0.1
    assert difference(ours(), theirs()) < tolerance


def test_a_weight_that_is_left_out_is_seen(monkeypatch):
    sources = extract_work.sources
    some = lambda *given: {p: f for p, f in sources(*given).items() if p != "norm/scale"}  # noqa: E731
    monkeypatch.setattr(extract_work, "sources", some)
    with pytest.raises(AssertionError):
        random_model(SMALL, "float32")


def test_random_ids_are_of_the_vocabulary():
    rng = np.random.default_rng(0)
    sentences = as_sentences([[1] * 50, [2] * 70])
    found = random_ids(sentences, 10, rng)
    np.testing.assert_array_equal(found.lengths, [50, 70])
    assert {*found.tokens.tolist()} == {*range(10)}
    assert (random_ids(sentences, 10, rng).tokens != found.tokens).any()


def test_torch_computes_nothing_that_is_not_asked_for(tiny):
    _, theirs = extract_work.stored_model(open_folder(tiny), "float32")
    assert theirs.pooler is None
    assert not theirs.training
    output = theirs(torch.tensor([[1, 2]]), output_hidden_states=True)
    assert output.pooler_output is None
    assert len(output.hidden_states) == 3
