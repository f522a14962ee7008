"""What models say, against `transformers.generate`."""

import copy
from typing import Any

import jax
import numpy as np
import pytest
import torch

from ilo_jax.generation.decoding import Decoder, generate
from ilo_jax.generation.requests import Request, prompts
from ilo_jax.generation.sampling import sampling
from ilo_jax.generation.state import MAXIMUM
from ilo_jax.models import parameters
from ilo_jax.models.transformer import Transformer
from tests.models.variants import VARIANTS, VOCAB, slow_but

DECODERS = [
    variant
    for variant, (kind, _) in VARIANTS.items()
    if "CausalLM" in kind.__name__ or "LMHead" in kind.__name__
]
SAID = 24
PENALTY = 1.3
"""So that a model does not say one token again and again."""


def asked(rows: int, **settings: Any) -> Request:
    keys = jax.random.split(jax.random.key(0), rows)
    return Request(sampling(rows, **settings), keys, np.zeros(VOCAB, bool), {})


def by_torch(model: Any, prompt: list[int], *, cached: bool) -> list[int]:
    with torch.no_grad():
        said = copy.deepcopy(model).generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=SAID,
            do_sample=False,
            repetition_penalty=PENALTY,
            use_cache=cached,
        )
    return said[0, len(prompt) :].tolist()


def greedy(model: Transformer, texts: list[list[int]]) -> np.ndarray:
    request = asked(len(texts), maximum=SAID, repetition_penalty=PENALTY)
    assert model.mesh is not None
    decoder = Decoder(model.config, model.mesh, dtype=model.dtype)
    read = prompts(texts, model.config.limits)
    said = generate(decoder, parameters.weights(model), read, request)
    assert (said.lengths == SAID).all()
    assert (said.ended == MAXIMUM).all()
    return said.tokens[:, :SAID]


@pytest.mark.parametrize("variant", slow_but(["gemma2-both", "bloom-six"], DECODERS))
def test_greedy_decoding_is_that_of_transformers(tiny, ours, texts, variant):
    """Prompts of different lengths in one batch, beyond the window."""
    said = greedy(ours(variant), texts)
    wanted = [by_torch(tiny(variant).torch, text, cached=True) for text in texts]
    assert said.tolist() == wanted
    assert len({token for row in wanted for token in row}) > 8
