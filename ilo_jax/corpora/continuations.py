"""Tokens of texts after what is given: those that are predicted, in evaluation or in training."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ilo_jax.corpora.examples import Example
from ilo_jax.corpora.packing import Sentences, as_sentences, windows
from ilo_jax.corpora.tokens import Encoded, encoded, has_text, once, say_once, special_ids
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def rolling(
    texts: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: Callable[[int], str] = lambda index: str(index + 1),
) -> Sentences:
    """Tokens of texts, each after something given, so that all of it is predicted.

    Given are the special tokens that the tokenizer puts first, or where it puts none its BOS
    token, or where it has none its EOS token; a text that begins with them has them once. That
    is how lm-evaluation-harness 0.4.13 prepares `loglikelihood_rolling`, but for three things:
    where the tokenizer puts a BOS token itself, the harness puts another one before it; special
    tokens that the tokenizer puts at the end are left out here; and what is longer than the
    model is not cut into windows (`packing.windows` does so).

    Args:
        texts: Any.
        tokenizer: Of the model.
        name: What messages call the text of an index.

    Raises:
        ValueError: Naming the texts with special tokens only, or if there is nothing to begin
            with.
    """
    return continuations([""] * len(texts), texts, tokenizer, name=name)


def continuations(
    contexts: Sequence[str],
    options: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    name: Callable[[int], str] = lambda index: str(index + 1),
) -> Sentences:
    """Tokens of each context and option together, those of the option being the `target`.

    As lm-evaluation-harness 0.4.13 prepares `loglikelihood`: white space at the end of a context
    goes to the option; of both tokenized as one, the option has what follows as many tokens as
    the context has alone; these the context keeps, even where the two together are cut up
    otherwise. Before an option without a context there is what `rolling` puts there, and as there
    it is there once. Where the harness drops the first tokens of what is too long for the model,
    `refuse_unfit` refuses it.

    Args:
        contexts: May be empty.
        options: One for each context, with the space between them, if any.
        tokenizer: Of the model.
        name: What messages call the option of an index.

    Raises:
        ValueError: Naming the options with special tokens only, or if there is nothing to begin
            with.
    """
    found = _continued(contexts, options, tokenizer, name)
    say_once(sum(one.repeated for one in found), what="texts")
    return _as_sentences(found)


def tokenized(
    examples: Sequence[Example],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    row_length: int,
    source: str = "example",
) -> Sentences:
    """Tokens of examples; those that are learnt, not given, are the `target`.

    Given are the prompt and what stands before a text in evaluation, too (`continuations`). What
    is learnt ends with the EOS token, if there is one, and once where the text has it already.
    An example without a prompt that is longer than a row is cut up; each piece begins with the
    last token of the one before, so that every token is learnt once.

    Args:
        examples: To learn from.
        tokenizer: Of the model.
        row_length: Tokens that a piece has at most.
        source: What messages call an example, before its number.

    Raises:
        ValueError: Naming the examples with a prompt that are longer than a row, and texts
            with special tokens only.
    """
    prompts, completions = zip(*examples, strict=True)
    names = [f"{source} {number}" for number in range(1, len(examples) + 1)]
    whole = _continued(prompts, completions, tokenizer, names.__getitem__)
    if isinstance(eos := tokenizer.eos_token_id, int):
        whole = [_ended(each, eos) for each in whole]
    say_once(sum(one.repeated for one in whole), what="examples")
    asked = zip(names, whole, prompts, strict=True)
    lengths = {name: len(tokens.ids) for name, tokens, prompt in asked if prompt}
    _refuse_long(lengths, row_length)
    return windows(_as_sentences(whole), length=row_length).pieces


class _Tokens(NamedTuple):
    """The tokens of one text, and what each is for."""

    ids: list[int]
    special: list[bool]
    target: list[bool]
    repeated: bool
    """Whether the text itself had a token that is put at its start or end."""


def _as_sentences(texts: Iterable[_Tokens]) -> Sentences:
    ids, special, target, _ = zip(*texts, strict=True)
    return as_sentences(ids, special, target=target)


def _continued(
    contexts: Sequence[str],
    options: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    name: Callable[[int], str],
) -> list[_Tokens]:
    kept = [context.rstrip() for context in contexts]
    whole = [context + option for context, option in zip(contexts, options, strict=True)]
    alone, both = (
        [once(text._replace(after=[])) for text in encoded(texts, tokenizer)]
        for texts in (kept, whole)
    )
    pairs = list(zip(alone, _opened(alone, both, tokenizer), strict=True))
    found = [_after(*pair) for pair in pairs]
    own = special_ids(tokenizer)
    bare = [f"{name(i)}: {whole[i]!r}" for i, one in enumerate(found) if not _learnt(one, own)]
    refuse("a text must have a token beside those given and the special ones; got:", bare)
    return found


def _opened(
    alone: Sequence[Encoded], both: Sequence[Encoded], tokenizer: "PreTrainedTokenizerBase"
) -> list[Encoded]:
    """Texts after their contexts, with something given before those that have nothing else."""
    bare = [not (a.text or b.before) for a, b in zip(alone, both, strict=True)]
    first = [opening(tokenizer)] if any(bare) else []
    pairs = zip(both, bare, strict=True)
    return [once(text._replace(before=first)) if is_bare else text for text, is_bare in pairs]


def _after(alone: Encoded, both: Encoded) -> _Tokens:
    """A context's tokens, or else what stands first, and after them the option's."""
    context = alone.ids if alone.text else []
    ids = context + both.ids[len(context) :]
    given = max(len(context), len(both.before))
    special = [True] * len(both.before) + [False] * (len(ids) - len(both.before))
    return _Tokens(ids, special, [False] * given + [True] * (len(ids) - given), both.repeated)


def opening(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token before a text that has nothing before it: BOS, or else EOS.

    Raises:
        ValueError: If the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    raise ValueError("the tokenizer must have a BOS or an EOS token to begin a text with, got none")


def _learnt(tokens: _Tokens, special: set[int]) -> bool:
    """Whether something that is not special is predicted."""
    pairs = zip(tokens.ids, tokens.target, strict=True)
    return has_text([token for token, target in pairs if target], special)


def _ended(tokens: _Tokens, eos: int) -> _Tokens:
    """Tokens with the EOS token at their end, once."""
    end = len(tokens.ids)
    while tokens.ids[end - 1] == eos:
        end -= 1
    return _Tokens(
        [*tokens.ids[:end], eos],
        [*tokens.special[:end], True],
        [*tokens.target[:end], True],
        tokens.repeated or end < len(tokens.ids),
    )


def _refuse_long(lengths: Mapping[str, int], row_length: int) -> None:
    """Refuse examples, by their names, that have more tokens than a row."""
    long = [f"{length} tokens in {name}" for name, length in lengths.items() if length > row_length]
    what = f"an example with a prompt must fit a row of {row_length} tokens; shorten it or raise "
    refuse(f"{what}row_length; got", long, inline=True)
