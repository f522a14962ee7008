"""Likelihoods against torch, sentence by sentence, and what must not change them."""

import dataclasses
import json
import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from ilo_jax.corpora.continuations import continuations, rolling
from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.evaluation import likelihood as module
from ilo_jax.evaluation.likelihood import bits_per_byte, compiled_likelihood, predicted_tokens
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from tests.evaluation.material import VOCAB, split, tokenizer_of
from tests.pairs import run_two

TEXTS = [
    "The cat sat.",
    "Die Katze saß auf der Matte.",
    "猫坐在垫子上。",
    "x",
    " ab ab",
    "abcabab" * 9,
]


def definition(model: LlamaForCausalLM, sentences) -> np.ndarray:
    """By torch, one sentence at a time, each token by itself."""
    found = []
    for tokens, given in split(sentences):
        with torch.no_grad():
            logits = model(torch.tensor([tokens])).logits[0].double()
        logs = torch.log_softmax(logits, -1)
        wanted = [i for i in range(1, len(tokens)) if not given[i]]
        found.append(sum(logs[i - 1, tokens[i]].item() for i in wanted))
    return np.array(found)


def test_how_many_tokens_are_predicted(tokenizer):
    assert predicted_tokens(rolling(["abc", "c"], tokenizer)).tolist() == [2, 1]
    assert predicted_tokens(continuations(["cc"], ["dab"], tokenizer)).tolist() == [2]
    plain = as_sentences([[1, 2, 3], [4]], target=[[1, 1, 0], [1]])
    assert predicted_tokens(plain).tolist() == [1, 0]
    assert plain.target.tolist() == [True, True, False, True]


@pytest.fixture(scope="module")
def likelihood(ours):
    return compiled_likelihood(ours.config, make_mesh(), batch_tokens=256, dtype=jnp.float32)


def test_likelihoods_are_torchs_sentence_by_sentence(theirs, ours, likelihood, tokenizer):
    texts = rolling(TEXTS, tokenizer)
    found = likelihood(ours, texts)
    assert (found < 0).all()
    np.testing.assert_allclose(found, definition(theirs, texts), rtol=1e-5)


def test_what_is_given_is_not_counted(theirs, ours, likelihood, tokenizer):
    """p(context option) = p(context) p(option | context), where all begin alike."""
    tokenizer = tokenizer_of(template="<s> $A", bos_token="<s>")
    parts = continuations(["cat", "d" * 40, ""], [" sat", "e", "cab"], tokenizer)
    found = likelihood(ours, parts)
    np.testing.assert_allclose(found, definition(theirs, parts), rtol=1e-5)
    whole = likelihood(ours, rolling(["cat sat", "d" * 40 + "e", "cab"], tokenizer))
    contexts = np.append(likelihood(ours, rolling(["cat", "d" * 40], tokenizer)), 0)
    np.testing.assert_allclose(found, whole - contexts, rtol=1e-4)


@pytest.mark.parametrize(
    ("data", "model", "batch_tokens", "row_length"),
    [
        pytest.param(1, 1, 256, 256, marks=pytest.mark.slow),
        pytest.param(1, 1, 4096, 128, marks=pytest.mark.slow),
        (2, 2, 512, 384),
        (3, 1, 1, 96),
    ],
)
def test_packing_batches_and_mesh_change_nothing(
    folder, ours, likelihood, tokenizer, monkeypatch, data, model, batch_tokens, row_length
):
    texts = rolling(TEXTS * 5, tokenizer)
    expected = likelihood(ours, texts)
    monkeypatch.setattr("ilo_jax.activations.schedule.row_length", lambda longest: row_length)
    mesh = make_mesh(data=data, model=model)
    other = loading.load(open_folder(folder), mesh=mesh)
    settings = {"batch_tokens": batch_tokens, "dtype": jnp.float32}
    found = compiled_likelihood(other.config, mesh, **settings)(other, texts)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    order = np.random.default_rng(0).permutation(30)
    shuffled = rolling([(TEXTS * 5)[i] for i in order], tokenizer)
    np.testing.assert_allclose(likelihood(ours, shuffled), expected[order], rtol=1e-5)


def test_it_is_compiled_once_for_other_weights_and_texts(
    theirs, folder, ours, tokenizer, monkeypatch, tmp_path
):
    """Other weights give other values, those of torch: none are part of what is compiled."""
    traced, losses = [], module.next_token_losses
    monkeypatch.setattr(
        module, "next_token_losses", lambda *given: traced.append(given) or losses(*given)
    )
    settings = {"batch_tokens": 256, "dtype": jnp.float32}
    likelihood = compiled_likelihood(ours.config, make_mesh(), **settings)
    texts = rolling(TEXTS, tokenizer)
    first = likelihood(ours, texts)
    assert len(traced) == 1
    state = theirs.state_dict()
    changed = LlamaForCausalLM(theirs.config).eval()
    changed.load_state_dict({name: 0.9 * weight for name, weight in state.items()})
    changed.save_pretrained(tmp_path)
    second = likelihood(loading.load(open_folder(tmp_path), mesh=make_mesh()), texts)
    assert (np.abs(second - first) > 1e-3).all()
    np.testing.assert_allclose(second, definition(changed, texts), rtol=1e-5)
    likelihood(ours, rolling(TEXTS[:3], tokenizer))
    assert len(traced) == 1


def test_a_model_that_knows_nothing_needs_the_logarithm_of_its_vocabulary(folder, likelihood):
    model = loading.load(open_folder(folder), mesh=make_mesh())
    weights = parameters.weights(model)
    parameters.put(model, weights | {"head/out/kernel": 0 * weights["head/out/kernel"]})
    sentences = as_sentences([[1, 2, 3, 4], [5], [6, 7]], target=[[1, 0, 1, 1], [1], [1, 1]])
    expected = np.array([2, 0, 1]) * -math.log(len(VOCAB))
    np.testing.assert_allclose(likelihood(model, sentences), expected, rtol=1e-6)


def test_bfloat16_is_near_whatever_the_dtype_of_the_weights(ours, tokenizer, likelihood):
    texts = rolling(TEXTS, tokenizer)
    settings = {"batch_tokens": 256, "dtype": jnp.bfloat16}
    found = compiled_likelihood(ours.config, make_mesh(), **settings)(ours, texts)
    expected = likelihood(ours, texts)
    assert (found != expected).all()
    np.testing.assert_allclose(found, expected, rtol=0.05)
    assert parameters.weights(ours)["head/out/kernel"].dtype == jnp.float32


def test_bits_per_byte():
    """A quarter for every byte is two bits."""
    found = bits_per_byte(math.log(0.25) * np.array([[3.0, 1], [4, 4]]), np.array([[3, 1], [8, 8]]))
    np.testing.assert_allclose(found, [2, 1])


PROCESS = """
import json, sys
import jax, jax.numpy as jnp
from ilo_jax import joining, sharding
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.evaluation.likelihood import compiled_likelihood
number, port, folder, file, model = sys.argv[1:]
joining.join(f"localhost:{port}", processes=2, process=int(number))
mesh = sharding.make_mesh(model=int(model))
assert mesh.size == 2
sentences = as_sentences(json.load(open(file)))
model = loading.load(open_folder(folder), mesh=mesh)
likelihood = compiled_likelihood(model.config, mesh, batch_tokens=256, dtype=jnp.float32)
found = likelihood(model, sentences)
print(json.dumps(found.tolist()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("model", [1, 2])
def test_two_processes_each_get_all(folder, ours, likelihood, tokenizer, tmp_path, model):
    """Three rows over two processes, or one copy of the model over both."""
    script, file = tmp_path / "process.py", tmp_path / "sentences.json"
    script.write_text(PROCESS)
    texts = rolling(TEXTS * 5, tokenizer)
    file.write_text(json.dumps([tokens for tokens, _ in split(texts)]))
    arguments = [str(folder), str(file), str(model)]
    for done in run_two(script, arguments, arguments):
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        np.testing.assert_allclose(found, likelihood(ours, texts), rtol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("causal", "head", "got"),
    [
        (False, "own", "an encoder with a head"),
        (True, "none", "a decoder without a head"),
        (False, "none", "an encoder without a head"),
    ],
)
def test_models_without_likelihoods_are_refused(ours, causal, head, got):
    head = dataclasses.replace(ours.config.head, kind=head)
    config = dataclasses.replace(ours.config, causal=causal, head=head)
    with pytest.raises(ValueError, match=f"^likelihoods need a decoder with a head, got {got}$"):
        compiled_likelihood(config, make_mesh(), batch_tokens=1, dtype=jnp.float32)


def test_sentences_that_do_not_fit_are_named(ours, likelihood):
    sentences = as_sentences([[1] * 96, [1] * 97, [], [1] * 300])
    message = "a sentence must have 1 to 96 tokens, the positions of the model; "
    message += "shorten them or leave them out; got:\n"
    numbered = message + "  sentence 2: 97 tokens\n  sentence 3: 0 tokens\n  sentence 4: 300 tokens"
    with pytest.raises(ValueError, match=f"^{re.escape(numbered)}$"):
        likelihood(ours, sentences)
    with pytest.raises(ValueError, match=r"got:\n  deu 9: 97 tokens$"):
        refuse_unfit(as_sentences([[1] * 97]), Limits(96, 259), name=lambda i: f"deu {i + 9}")


def test_a_tokenizer_of_another_model_is_refused(ours, likelihood):
    message = "gives token id 259, but the model has embeddings for ids below 259"
    with pytest.raises(ValueError, match=message):
        likelihood(ours, as_sentences([[1, 259, 3]]))


def test_no_sentences_are_refused(ours, likelihood):
    with pytest.raises(ValueError, match="sentences must be at least one, got none"):
        likelihood(ours, as_sentences([]))
