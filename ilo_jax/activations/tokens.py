"""From the sentences of a corpus to the token ids that a model takes."""

import math
from typing import TYPE_CHECKING

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
) -> list[list[list[int]]]:
    """Return token ids as [lang][sent][token], special tokens as the tokenizer puts them.

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
    ids = [
        tokenizer([prefix + sentence for sentence in sentences], verbose=False)["input_ids"]
        for sentences in corpus.sentences
    ]
    most = limit or math.inf
    problems = [
        f"{language} sentence {number}: {len(sentence)} tokens"
        for language, sentences in zip(corpus.languages, ids, strict=True)
        for number, sentence in enumerate(sentences, 1)
        if not 1 <= len(sentence) <= most
    ]
    if problems:
        more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise ValueError(
            f"a sentence must have 1 to {most} tokens, the positions of the model; got:\n  "
            + "\n  ".join(problems[:SHOWN])
            + more
        )
    highest = max(max(sentence) for sentences in ids for sentence in sentences)
    if highest >= vocab:
        raise ValueError(
            f"the tokenizer gives token id {highest}, but the model has embeddings for "
            f"ids below {vocab}: the tokenizer is not this model's"
        )
    return ids
