"""From examples to the token ids of a training."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ilo_jax.corpora.examples import Example
from ilo_jax.corpora.packing import Sentences, as_sentences
from ilo_jax.evaluation.likelihood import continuations

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 10
"""How many offenders an error names."""

Tokens = tuple[list[int], list[bool]]
"""Of one example: ids, and which of them are given."""


def tokenized(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", *, row_length: int
) -> Sentences:
    """Return the token ids of examples; those that are given, not learnt, are `special`.

    Given are the prompt and what stands before a text in evaluation, too
    (`likelihood.continuations`). What is learnt ends with the EOS token, if there is one. An
    example without a prompt that is longer than a row is cut up; each piece begins with the
    last token of the one before, so that every token is learnt once.

    Args:
        examples: to learn from.
        tokenizer: of the model.
        row_length: tokens that a piece has at most.

    Raises:
        ValueError: naming the examples with a prompt that are longer than a row, and texts
            without tokens.
    """
    prompts, completions = zip(*examples, strict=True)
    found = continuations(prompts, completions, tokenizer)
    end: list[Any] = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    whole = [(ids + end, given + [False] * len(end)) for ids, given in _apart(found)]
    _refuse_long(whole, prompts, row_length)
    pieces = [piece for one in whole for piece in _cut(one, row_length)]
    return as_sentences([ids for ids, _ in pieces], [given for _, given in pieces])


def _apart(sentences: Sentences) -> Iterator[Tokens]:
    ends = np.cumsum(sentences.lengths)
    for start, end in zip(ends - sentences.lengths, ends, strict=True):
        yield sentences.tokens[start:end].tolist(), sentences.special[start:end].tolist()


def _cut(tokens: Tokens, length: int) -> Iterator[Tokens]:
    ids, given = tokens
    for start in range(0, max(1, len(ids) - 1), length - 1):
        yield ids[start : start + length], given[start : start + length]


def _refuse_long(whole: Sequence[Tokens], prompts: Sequence[str], row_length: int) -> None:
    pairs = zip(whole, prompts, strict=True)
    lengths = {i: len(ids) for i, ((ids, _), prompt) in enumerate(pairs, 1) if prompt}
    long = [f"{n} tokens in example {i}" for i, n in lengths.items() if n > row_length]
    if long:
        more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        raise ValueError(
            f"an example with a prompt must fit a row of {row_length} tokens, got "
            f"{', '.join(long[:SHOWN])}{more}"
        )
