"""From the sentences of a corpus to the token ids that a model takes."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ilo_jax.corpora.packing import Sentences, as_sentences
from ilo_jax.corpora.parallel import Parallel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 10
"""How many offenders an error names."""


def token_ids(
    corpus: Parallel,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    prefix: str,
    limit: int | None,
    vocab: int,
) -> list[Sentences]:
    """Return each language's token ids, special tokens as the tokenizer puts them.

    Args:
        corpus: aligned sentences.
        tokenizer: of the model.
        prefix: put before every sentence.
        limit: how many positions the model has; None: any number.
        vocab: how many embeddings the model has.

    Raises:
        ValueError: naming the sentences with more than `limit` tokens or none, and
            any token id that the model has no embedding for.
    """
    ids = [_tokenized(text, tokenizer, prefix) for text in corpus.sentences]
    _refuse_lengths(corpus, ids, limit=limit)
    highest = max(int(of_language.tokens.max()) for of_language in ids)
    if highest >= vocab:
        raise ValueError(
            f"the tokenizer gives token id {highest}, but the model has embeddings for "
            f"ids below {vocab}: the tokenizer is not this model's"
        )
    return ids


def _tokenized(text: Sequence[str], tokenizer: "PreTrainedTokenizerBase", prefix: str) -> Sentences:
    found = tokenizer(
        [prefix + sentence for sentence in text],
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return as_sentences(found["input_ids"], found["special_tokens_mask"])


def _refuse_lengths(corpus: Parallel, ids: Sequence[Sentences], *, limit: int | None) -> None:
    most = limit or math.inf
    problems = [
        f"{language} sentence {number}: {length} tokens"
        for language, of_language in zip(corpus.languages, ids, strict=True)
        for number, length in enumerate(of_language.lengths.tolist(), 1)
        if not 1 <= length <= most
    ]
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"a sentence must have 1 to {most} tokens, the positions of the model; got:\n  "
            + "\n  ".join(problems[:SHOWN])
            + more
        )
