"""Sentences that a model does not take; what is too long is held by `test_tokens` too."""

import re

import pytest

from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import as_sentences

SENTENCES = as_sentences([[3, 4], [1], [5, 1, 1, 6], [2, 1]])


def test_every_sentence_with_the_padding_token_is_named():
    refuse_unfit(SENTENCES, Limits(8, 7, padding=0))
    refuse_unfit(SENTENCES, Limits(8, 7))
    message = (
        "a sentence must not have the padding token, id 1, from which this model counts positions; "
        "shorten them or leave them out; got:\n  sentence 2\n  sentence 3\n  sentence 4"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse_unfit(SENTENCES, Limits(8, 7, padding=1))


def test_what_is_to_be_done_is_said():
    message = "the positions of the model; cut them; got:\n  number 0: 2 tokens\n  number 2: 4 tok"
    with pytest.raises(ValueError, match=re.escape(message)):
        refuse_unfit(SENTENCES, Limits(1, 7), name=lambda i: f"number {i}", advice="cut them")
