"""From prompts to token ids, and from what was said back to text."""

import codecs
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ilo_jax.corpora.continuations import opening
from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.corpora.prompts import Message, Prompt
from ilo_jax.corpora.tokens import Encoded, encoded, once, say_once
from ilo_jax.refusals import refuse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def prompt_tokens(
    prompts: Sequence[Prompt],
    tokenizer: "PreTrainedTokenizerBase",
    *,
    limits: Limits,
    chat: bool = False,
    name: Callable[[int], str] = lambda index: f"prompt {index + 1}",
) -> list[list[int]]:
    """Token ids of prompts, with what stands before a text and nothing that ends one.

    Before a text are the special tokens that the tokenizer puts first, once where the text has
    them already; before an empty one there is at least what `corpora.continuations.rolling` puts.
    Conversations are written by the tokenizer's chat template up to where the answer begins, and
    have only the special tokens that it writes.

    Args:
        prompts: Texts and conversations.
        tokenizer: Of the model.
        limits: What the model takes.
        chat: Whether a text is what a user says, in a conversation of its own.
        name: What messages call the prompt of an index.

    Raises:
        ImportError: If a package that chat templates need is not installed.
        ValueError: Naming the prompts that the template or the model does not take; if there is a
            conversation and no template.
    """
    asked = [_talk(one) if chat and isinstance(one, str) else one for one in prompts]
    texts = encoded(_written(asked, tokenizer, name), tokenizer)
    pairs = list(zip(texts, asked, strict=True))
    found = [_begun(text, tokenizer, whole=not isinstance(prompt, str)) for text, prompt in pairs]
    say_once(sum(text.repeated for text in found), what="prompts")
    ids = [text.ids for text in found]
    refuse_unfit(as_sentences(ids), limits, name=name)
    return ids


def _talk(text: str) -> list[Message]:
    """The conversation in which a user says a text, and nobody anything else."""
    return [{"role": "user", "content": text}]


def _begun(text: Encoded, tokenizer: "PreTrainedTokenizerBase", *, whole: bool) -> Encoded:
    """A prompt without what ends a text, nor what stands before one that is whole."""
    if not text.text:
        return Encoded([opening(tokenizer)], [], [])
    return text._replace(before=[], after=[]) if whole else once(text._replace(after=[]))


def _written(
    prompts: Sequence[Prompt], tokenizer: "PreTrainedTokenizerBase", name: Callable[[int], str]
) -> list[str]:
    """The prompts as texts, conversations by the chat template."""
    if not (tokenizer.chat_template or all(isinstance(prompt, str) for prompt in prompts)):
        raise ValueError("a conversation needs a tokenizer with a chat template, got one without")
    texts, problems = [], []
    for index, prompt in enumerate(prompts):
        try:
            texts.append(prompt if isinstance(prompt, str) else _conversation(prompt, tokenizer))
        except ValueError as error:
            problems.append(f"{name(index)}: {error}")
    refuse("a conversation must be what the tokenizer's chat template takes, got", problems)
    return texts


def _conversation(messages: Sequence[Message], tokenizer: "PreTrainedTokenizerBase") -> str:
    """What stands before the answer to a conversation.

    Raises:
        ImportError: If the package that templates are written for is not installed.
        ValueError: If the template does not take such messages.
    """
    from jinja2 import TemplateError

    try:
        messages = [dict(message) for message in messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except (LookupError, TemplateError, TypeError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    assert isinstance(text, str)
    return text


class Stream:
    """The text of tokens as they come: shown is what no token to come can change.

    Its bytes are those of the tokens (`ilo_jax.generation.pieces`), up to the first stop string:
    the one that is complete first, and the longest of several that are at once. Held back are an
    end that may become a stop string, and one that is within a character. Bytes that are no UTF-8
    become U+FFFD.
    """

    def __init__(self, pieces: Sequence[bytes], stops: Iterable[str] = ()):
        """A text of nothing yet.

        Args:
            pieces: Bytes that each token adds to a text, by id.
            stops: Strings, none empty, at the first of which the text ends.
        """
        self.pieces, self.stops = pieces, tuple(stop.encode() for stop in stops)
        self.stopped = False
        """Whether a stop string has come."""
        self._held = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, tokens: Iterable[int]) -> str:
        """What the next tokens add to what is shown."""
        if self.stopped:
            return ""
        said = self._held + b"".join(self.pieces[token] for token in tokens)
        if ends := [(at + len(s), at) for s in self.stops if (at := said.find(s)) >= 0]:
            self.stopped, self._held = True, b""
            return self._decoder.decode(said[: min(ends)[1]], final=True)
        certain = len(said) - self._open(said)
        self._held = said[certain:]
        return self._decoder.decode(said[:certain])

    def end(self) -> str:
        """What was held back, once no token comes any more."""
        held, self._held = self._held, b""
        return self._decoder.decode(held, final=True)

    def _open(self, said: bytes) -> int:
        """How many bytes at the end are the beginning of a stop string, at most."""
        longest = max((len(stop) - 1 for stop in self.stops), default=0)
        counts = range(min(longest, len(said)), 0, -1)
        return next((n for n in counts if any(s.startswith(said[-n:]) for s in self.stops)), 0)


def text_of(tokens: Iterable[int], pieces: Sequence[bytes], stops: Iterable[str] = ()) -> str:
    """The text of all tokens, up to the first stop string, as `Stream` shows it."""
    stream = Stream(pieces, stops)
    return stream.add(tokens) + stream.end()
