"""From the sentences of a corpus to the token ids that a model takes."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ilo_jax.corpora.packing import Sentences, as_sentences, joined
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
    names = [
        f"{language} sentence {number}"
        for language, of_language in zip(corpus.languages, ids, strict=True)
        for number in range(1, len(of_language.lengths) + 1)
    ]
    refuse_unfit(joined(ids), limit=limit, vocab=vocab, name=names.__getitem__)
    return ids


def refuse_unfit(
    sentences: Sentences, *, limit: int | None, vocab: int, name: Callable[[int], str]
) -> None:
    """Refuse sentences that are not for a model.

    Args:
        sentences: of any number.
        limit: how many positions the model has; None: any number.
        vocab: how many embeddings the model has.
        name: what messages call the sentence of an index.

    Raises:
        ValueError: naming the sentences with more than `limit` tokens or none, and
            any token id that the model has no embedding for.
    """
    most = limit or math.inf
    lengths = enumerate(sentences.lengths.tolist())
    problems = [f"{name(i)}: {length} tokens" for i, length in lengths if not 1 <= length <= most]
    refuse(f"a sentence must have 1 to {most} tokens, the positions of the model; got:", problems)
    highest = sentences.tokens.max(initial=0)
    if highest >= vocab:
        raise ValueError(
            f"the tokenizer gives token id {highest}, but the model has embeddings for ids below "
            f"{vocab}: the tokenizer is not this model's"
        )


def _tokenized(text: Sequence[str], tokenizer: "PreTrainedTokenizerBase", prefix: str) -> Sentences:
    found = tokenizer(
        [prefix + sentence for sentence in text],
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return as_sentences(found["input_ids"], found["special_tokens_mask"])
