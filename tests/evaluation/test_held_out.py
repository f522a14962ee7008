"""What held-out sentences say of a model, against torch sentence by sentence."""

import dataclasses
import json
import math
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ilo_jax.corpora.packing import as_sentences
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.evaluation import held_out as module
from ilo_jax.evaluation.held_out import (
    compiled_slice,
    corpus_tokens,
    judge,
    judgement_key,
    text_scores,
)
from ilo_jax.metrics import IloSettings, referenced, retrieval
from ilo_jax.models import parameters
from ilo_jax.recipes import Recipe
from ilo_jax.sharding import make_mesh
from tests.evaluation.material import BOS

LANG, SENT = 4, 7
SETTINGS = IloSettings(k=3, min_languages=2, permutations=2, draws=1, seed=3)


def sentence(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list("abcdeü "), rng.integers(4, 20))) + "x"


@pytest.fixture(scope="module")
def corpus() -> Parallel:
    rng = np.random.default_rng(0)
    texts = tuple(tuple(sentence(rng) for _ in range(SENT)) for _ in range(LANG))
    return Parallel(("aaa", "bbb", "ccc", "ddd"), texts, "a test")


@pytest.fixture(scope="module")
def held_out(corpus, tokenizer, ours):
    size = {"batch_tokens": 256, "dtype": jnp.float32}
    return compiled_slice(corpus, tokenizer, ours.config, make_mesh(), settings=SETTINGS, **size)


@pytest.fixture(scope="module")
def judgement(ours, held_out):
    return judge(ours, held_out, name="tiny")


def test_texts_cost_what_torch_says(judgement, corpus, theirs, tokenizer):
    for lang, sentences in enumerate(corpus.sentences):
        nats, tokens = 0.0, 0
        for text in sentences:
            ids = [BOS, *tokenizer(text)["input_ids"]]
            with torch.no_grad():
                logs = theirs(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            nats -= sum(logs[i - 1, ids[i]].item() for i in range(1, len(ids)))
            tokens += len(ids) - 1
        size = sum(len(text.encode()) for text in sentences)
        assert judgement.texts.tokens[lang] == tokens
        np.testing.assert_allclose(judgement.texts.loss[lang], nats / tokens, rtol=1e-5)
        bits = nats / size / math.log(2)
        np.testing.assert_allclose(judgement.texts.bits_per_byte[lang], bits, rtol=1e-5)


def test_states_score_what_those_of_torch_score(judgement, corpus, theirs, tokenizer):
    """The mean over a sentence's tokens, nothing put before them, at every hidden state."""
    means = []
    for text in (text for sentences in corpus.sentences for text in sentences):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = theirs(ids, output_hidden_states=True).hidden_states
        means.append([state[0].mean(0).numpy() for state in states])
    whole = np.array(means).swapaxes(0, 1).reshape(3, LANG, SENT, -1)
    for state, points in enumerate(whole):
        wanted = referenced(jnp.asarray(points), settings=SETTINGS)
        certain = np.asarray(wanted.uncertain) == 0
        assert certain.any()
        for name in ("bridge", "reach", "ilo"):
            found = getattr(judgement.scores, name)[state]
            np.testing.assert_allclose(found[certain], getattr(wanted, name)[certain], rtol=1e-6)
        wanted = retrieval(jnp.asarray(points), distance=SETTINGS.distance)
        np.testing.assert_allclose(judgement.retrieved[state], wanted, atol=1e-6)
    assert judgement.scores.ceiling.shape == judgement.scores.gaussian.shape == (3, LANG)


def test_it_is_ready_for_other_weights(ours, held_out, judgement):
    weights = {name: 0.9 * weight for name, weight in parameters.weights(ours).items()}
    other = judge(parameters.assembled(ours, weights), held_out, name="tiny")
    assert (other.texts.loss != judgement.texts.loss).all()
    np.testing.assert_array_equal(other.texts.tokens, judgement.texts.tokens)


def test_states_that_are_not_finite_stop_the_run(ours, held_out):
    kernel = ours.layers[1].mlp.down.kernel[...].at[0, 0].set(np.nan)
    spoilt = parameters.assembled(
        ours, parameters.weights(ours) | {"layers/1/mlp/down/kernel": kernel}
    )
    message = r"^tiny: hidden state 2 of aaa sentence 1 is not finite"
    with pytest.raises(ValueError, match=message):
        judge(spoilt, held_out, name="tiny")


def test_the_key_holds_all_that_a_judgement_depends_on(held_out, corpus, monkeypatch):
    """Each part changed alone makes another key; what is compiled is no part of it."""
    model = {"model.safetensors": "12"}
    key = judgement_key(held_out, model)
    sentences = tuple(texts[::-1] for texts in corpus.sentences)
    renamed = dataclasses.replace(corpus, languages=("aaa", "bbb", "ccc", "eee"))
    others = [
        judgement_key(held_out, {"model.safetensors": "13"}),
        judgement_key(held_out._replace(dtype="bfloat16"), model),
        judgement_key(held_out._replace(corpus=renamed), model),
        judgement_key(
            held_out._replace(corpus=dataclasses.replace(corpus, sentences=sentences)), model
        ),
    ]
    for field, value in dataclasses.asdict(SETTINGS).items():
        changed = {field: value + ("x" if isinstance(value, str) else 1)}
        other = dataclasses.replace(SETTINGS, **changed)
        others.append(judgement_key(held_out._replace(settings=other), model))
    for kind in ("tokens", "whole"):
        for field, array in getattr(held_out, kind)._asdict().items():
            tokens = getattr(held_out, kind)._replace(**{field: ~array})
            others.append(judgement_key(held_out._replace(**{kind: tokens}), model))
    for name in ("FORWARD", "SCORES"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, Recipe(name.lower(), -1))
            others.append(judgement_key(held_out, model))
    assert len(others) == 4 + 7 + 8 + 2
    digests = {json.dumps(other, sort_keys=True) for other in others}
    assert len(digests) == len(others)
    assert json.dumps(key, sort_keys=True) not in digests
    assert judgement_key(held_out._replace(pooled=None, likelihood=None), model) == key


def test_bytes_are_those_of_the_text_and_tokens_of_the_tokenizer():
    """Two languages of two sentences; ü takes two bytes."""
    corpus = Parallel(("deu", "eng"), (("ü", "ab"), ("abc", "d")), "a test")
    tokens = as_sentences([[0, 1, 2], [0, 1], [0, 1], [0, 1, 1, 1]])
    likelihoods = -math.log(2) * np.array([4.0, 4, 3, 1])
    scores = text_scores(likelihoods, tokens, corpus)
    np.testing.assert_allclose(scores.bits_per_byte, [2, 1])
    np.testing.assert_allclose(scores.loss, np.array([8 / 3, 4 / 4]) * math.log(2))
    assert scores.tokens.tolist() == [3, 4]


def test_sentences_that_are_too_long_are_named(ours, tokenizer):
    corpus = Parallel(("deu", "eng"), (("c", "d" * 96), ("c", "d")), "a test")
    with pytest.raises(ValueError, match=r"got:\n  deu sentence 2: 97 tokens$"):
        corpus_tokens(corpus, tokenizer, ours.config)


def test_settings_that_cannot_be_are_refused_before_anything_is_tokenised(corpus, ours):
    settings = IloSettings(k=5, min_languages=4)
    size: dict[str, Any] = {"batch_tokens": 256, "dtype": jnp.float32}
    tokenizer: Any = None
    with pytest.raises(ValueError, match=r"^min_languages must be in \[1, 3\] for k=5 and 4"):
        compiled_slice(corpus, tokenizer, ours.config, make_mesh(), settings=settings, **size)
