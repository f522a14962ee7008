"""From examples to the token ids of a training."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ilo_jax.corpora.examples import Example
from ilo_jax.corpora.packing import Sentences, as_sentences
from ilo_jax.evaluation.likelihood import continuations
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class _Tokens(NamedTuple):
    """Of one example, or of a piece of it."""

    ids: list[int]
    special: list[bool]
    target: list[bool]


def tokenized(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", *, row_length: int
) -> Sentences:
    """Return the token ids of examples; those that are learnt, not given, are the `target`.

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
    more = [True] * len(end)
    whole = [
        _Tokens(ids + end, special + more, target + more) for ids, special, target in _apart(found)
    ]
    _refuse_long(whole, prompts, row_length)
    pieces = [piece for one in whole for piece in _cut(one, row_length)]
    ids, special, target = zip(*pieces, strict=True)
    return as_sentences(ids, special, target=target)


def _apart(sentences: Sentences) -> Iterator[_Tokens]:
    ends = np.cumsum(sentences.lengths)
    for start, end in zip(ends - sentences.lengths, ends, strict=True):
        fields = (sentences.tokens, sentences.special, sentences.target)
        yield _Tokens(*(field[start:end].tolist() for field in fields))


def _cut(tokens: _Tokens, length: int) -> Iterator[_Tokens]:
    for start in range(0, max(1, len(tokens.ids) - 1), length - 1):
        part = slice(start, start + length)
        yield _Tokens(tokens.ids[part], tokens.special[part], tokens.target[part])


def _refuse_long(whole: Sequence[_Tokens], prompts: Sequence[str], row_length: int) -> None:
    pairs = zip(whole, prompts, strict=True)
    lengths = {i: len(ids) for i, ((ids, _, _), prompt) in enumerate(pairs, 1) if prompt}
    long = [f"{n} tokens in example {i}" for i, n in lengths.items() if n > row_length]
    what = f"an example with a prompt must fit a row of {row_length} tokens, got"
    refuse(what, long, inline=True)
