"""From text to the token ids that a model takes: sentences, continuations, and what is learnt."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ilo_jax.corpora.examples import Example
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
    """Tokens of each language's sentences, special tokens as the tokenizer puts them.

    Args:
        corpus: Aligned sentences.
        tokenizer: Of the model.
        prefix: Put before every sentence.
        limit: How many positions the model has; None: any number.
        vocab: How many embeddings the model has.

    Raises:
        ValueError: Naming the sentences with more than `limit` tokens or none, and
            any token id that the model has no embedding for.
    """
    texts = ([prefix + sentence for sentence in each] for each in corpus.sentences)
    ids = [as_sentences(*_with_special(each, tokenizer)) for each in texts]
    names = sentence_names(corpus)
    refuse_unfit(joined(ids), limit=limit, vocab=vocab, name=names.__getitem__)
    return ids


def sentence_names(corpus: Parallel) -> list[str]:
    """What messages call the sentences of a corpus, one language after the other."""
    return [
        corpus.name(language, index)
        for language, sentences in zip(corpus.languages, corpus.sentences, strict=True)
        for index in range(len(sentences))
    ]


def rolling(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> Sentences:
    """Tokens of texts, each after something given, so that all of it is predicted.

    Given are the special tokens that the tokenizer puts first, or where it puts none its BOS
    token, or where it has none its EOS token. That is how lm-evaluation-harness 0.4.13
    prepares `loglikelihood_rolling`, but for three things: where the tokenizer puts a BOS
    token itself, the harness puts another one before it; special tokens at the end are
    left out here; and what is longer than the model is not cut into windows.

    Args:
        texts: Any.
        tokenizer: Of the model.

    Raises:
        ValueError: Naming the texts without tokens, or if there is nothing to begin with.
    """
    return continuations([""] * len(texts), texts, tokenizer)


def continuations(
    contexts: Sequence[str], options: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> Sentences:
    """Tokens of each context and option together, those of the option being the `target`.

    As lm-evaluation-harness 0.4.13 prepares `loglikelihood`: white space at the end of a context
    goes to the option; of both tokenized as one, the option has what follows as many tokens as
    the context has alone; these the context keeps, even where the two together are cut up
    otherwise. Before an option without a context there is what `rolling` puts there. Where the
    harness drops the first tokens of what is too long for the model, `refuse_unfit` refuses it.

    Args:
        contexts: May be empty.
        options: One for each context, with the space between them, if any.
        tokenizer: Of the model.

    Raises:
        ValueError: Naming the options without tokens, or if there is nothing to begin with.
    """
    return _as_sentences(_continued(contexts, options, tokenizer))


def tokenized(
    examples: Sequence[Example], tokenizer: "PreTrainedTokenizerBase", *, row_length: int
) -> Sentences:
    """Tokens of examples; those that are learnt, not given, are the `target`.

    Given are the prompt and what stands before a text in evaluation, too (`continuations`). What
    is learnt ends with the EOS token, if there is one. An example without a prompt that is
    longer than a row is cut up; each piece begins with the last token of the one before, so
    that every token is learnt once.

    Args:
        examples: To learn from.
        tokenizer: Of the model.
        row_length: Tokens that a piece has at most.

    Raises:
        ValueError: Naming the examples with a prompt that are longer than a row, and texts
            without tokens.
    """
    prompts, completions = zip(*examples, strict=True)
    whole = _continued(prompts, completions, tokenizer)
    if isinstance(eos := tokenizer.eos_token_id, int):
        end = _Tokens([eos], [True], [True])
        whole = [_joined(each, end) for each in whole]
    _refuse_long(whole, prompts, row_length)
    return _as_sentences(piece for one in whole for piece in _cut(one, row_length))


def refuse_unfit(
    sentences: Sentences,
    *,
    limit: int | None,
    vocab: int,
    name: Callable[[int], str] = lambda index: f"sentence {index + 1}",
) -> None:
    """Refuse sentences that are not for a model.

    Args:
        sentences: With what is given before them.
        limit: How many positions the model has; None: any number.
        vocab: How many embeddings the model has.
        name: What messages call the sentence of an index.

    Raises:
        ValueError: Naming the sentences with more than `limit` tokens or none, and
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


class _Tokens(NamedTuple):
    """The tokens of one text, or of a piece of it, and what each is for."""

    ids: list[int]
    special: list[bool]
    target: list[bool]


def _joined(one: _Tokens, other: _Tokens) -> _Tokens:
    return _Tokens(one.ids + other.ids, one.special + other.special, one.target + other.target)


def _as_sentences(texts: Iterable[_Tokens]) -> Sentences:
    ids, special, target = zip(*texts, strict=True)
    return as_sentences(ids, special, target=target)


def _with_special(
    texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of each text, and 1 where they are the tokenizer's own."""
    found = tokenizer(
        list(texts),
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    return found["input_ids"], found["special_tokens_mask"]


class _Encoded(NamedTuple):
    """The tokens of a text, without special tokens at its end."""

    ids: list[int]
    before: int
    """How many special tokens there are at its start."""


def _encoded(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[_Encoded]:
    for ids, special in zip(*_with_special(texts, tokenizer), strict=True):
        text = np.flatnonzero(np.logical_not(special))
        yield _Encoded(list(ids[: text[-1] + 1]), int(text[0])) if len(text) else _Encoded([], 0)


def _continued(
    contexts: Sequence[str], options: Sequence[str], tokenizer: "PreTrainedTokenizerBase"
) -> list[_Tokens]:
    kept = [context.rstrip() for context in contexts]
    whole = [context + option for context, option in zip(contexts, options, strict=True)]
    pairs = zip(_encoded(kept, tokenizer), _encoded(whole, tokenizer), strict=True)
    found = [_after(alone, both) for alone, both in pairs]
    texts = enumerate(zip(found, whole, strict=True), 1)
    empty = [f"{number}: {text!r}" for number, (one, text) in texts if not any(one.target)]
    refuse("a text must have a token beside those given; got:", empty)
    if not any(all(one.target) for one in found):
        return found
    opening = _Tokens([_opening(tokenizer)], [True], [False])
    return [_joined(opening, one) if all(one.target) else one for one in found]


def _after(alone: _Encoded, both: _Encoded) -> _Tokens:
    """A context's tokens, or else what the tokenizer puts first, and after them the option's."""
    ids = alone.ids + both.ids[len(alone.ids) :]
    given = max(len(alone.ids), both.before)
    special = [True] * both.before + [False] * (len(ids) - both.before)
    return _Tokens(ids, special, [False] * given + [True] * (len(ids) - given))


def _opening(tokenizer: "PreTrainedTokenizerBase") -> int:
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ValueError("the tokenizer must have a BOS or an EOS token to begin a text with, got none")


def _cut(tokens: _Tokens, length: int) -> Iterator[_Tokens]:
    for start in range(0, max(1, len(tokens.ids) - 1), length - 1):
        part = slice(start, start + length)
        yield _Tokens(tokens.ids[part], tokens.special[part], tokens.target[part])


def _refuse_long(whole: Sequence[_Tokens], prompts: Sequence[str], row_length: int) -> None:
    pairs = zip(whole, prompts, strict=True)
    lengths = {i: len(tokens.ids) for i, (tokens, prompt) in enumerate(pairs, 1) if prompt}
    long = [f"{n} tokens in example {i}" for i, n in lengths.items() if n > row_length]
    what = f"an example with a prompt must fit a row of {row_length} tokens, got"
    refuse(what, long, inline=True)
