"""From aligned text to the token ids that a model takes."""

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import Sentences, as_sentences, joined
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ADVICE = "shorten or mend them, or leave their lines out in every language"
"""What is to be done about aligned sentences that a model cannot take."""


def token_ids(
    corpus: Parallel, tokenizer: "PreTrainedTokenizerBase", *, prefix: str, limits: Limits
) -> list[Sentences]:
    """Tokens of each language's sentences, special tokens as the tokenizer puts them.

    What a sentence already begins or ends with is not put there again.

    Args:
        corpus: Aligned sentences.
        tokenizer: Of the model.
        prefix: Put before every sentence.
        limits: What the model takes.

    Raises:
        ValueError: Naming the sentences that have special tokens only, or that the model does not
            take: too long, without tokens, with the padding token of a model that counts
            positions from it, or with a token id that it has no embedding for.
    """
    texts = ([prefix + sentence for sentence in each] for each in corpus.sentences)
    found = [[once(text) for text in encoded(each, tokenizer)] for each in texts]
    say_once(sum(text.repeated for each in found for text in each), what="sentences")
    ids = [as_sentences([t.ids for t in each], [t.special for t in each]) for each in found]
    names = sentence_names(corpus)
    refuse_unfit(joined(ids), limits, name=names.__getitem__, advice=ADVICE)
    every = (text for each in found for text in each)
    own = special_ids(tokenizer)
    bare = [n for n, text in zip(names, every, strict=True) if not has_text(text.text, own)]
    refuse(f"a sentence must have a token that is not special; {ADVICE}; got:", bare)
    return ids


def sentence_names(corpus: Parallel) -> list[str]:
    """What messages call the sentences of a corpus, one language after the other."""
    return [
        corpus.name(language, index)
        for language, sentences in zip(corpus.languages, corpus.sentences, strict=True)
        for index in range(len(sentences))
    ]


class Encoded(NamedTuple):
    """The tokens of a text, between those that the tokenizer puts at its ends."""

    before: list[int]
    """Special tokens that the tokenizer puts first."""
    text: list[int]
    after: list[int]
    """Special tokens that it puts last."""
    repeated: bool = False
    """Whether the text had them, too."""

    @property
    def ids(self) -> list[int]:
        """All of them."""
        return [*self.before, *self.text, *self.after]

    @property
    def special(self) -> list[bool]:
        """True where the tokenizer put a token of its own."""
        parts = (self.before, True), (self.text, False), (self.after, True)
        return [own for part, own in parts for _ in part]


def encoded(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> Iterator[Encoded]:
    """Yield the tokens of each text; where all are the tokenizer's own, they stand before it."""
    found = tokenizer(
        list(texts),
        return_attention_mask=False,
        return_token_type_ids=False,
        return_special_tokens_mask=True,
        verbose=False,
    )
    for ids, special in zip(found["input_ids"], found["special_tokens_mask"], strict=True):
        text = np.flatnonzero(np.logical_not(special)).tolist()
        first, end = (text[0], text[-1] + 1) if text else (len(ids), len(ids))
        yield Encoded(list(ids[:first]), list(ids[first:end]), list(ids[end:]))


def once(found: Encoded) -> Encoded:
    """The tokens of a text without those at its ends that are put there in any case.

    They are in the text where a chat template or a person wrote them: "<s>" in "<s>Hello".
    """
    text = found.text
    while n := _overlap(found.before, text):
        text = text[n:]
    while n := _overlap(text, found.after):
        text = text[:-n]
    return found._replace(text=text, repeated=len(text) < len(found.text))


def _overlap(left: list[int], right: list[int]) -> int:
    """How many tokens at the end of one are those at the start of the other, at most."""
    counts = range(min(len(left), len(right)), 0, -1)
    return next((n for n in counts if left[-n:] == right[:n]), 0)


def say_once(count: int, *, what: str) -> None:
    """Log how many texts had at an end what is put there in any case, if any had."""
    if count:
        message = (
            "%d of the %s begin or end with special tokens that are put there: each stands once"
        )
        log.warning(message, count, what)


def special_ids(tokenizer: "PreTrainedTokenizerBase") -> set[int]:
    """Ids of the tokens that say nothing: the tokenizer's special ones, but for the unknown."""
    unknown = tokenizer.unk_token_id
    return {token for token in tokenizer.all_special_ids if token != unknown}


def has_text(ids: Sequence[int], special: set[int]) -> bool:
    """Whether there is a token that is none of the special ones."""
    return not special.issuperset(ids)
