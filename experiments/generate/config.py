"""What a generation is asked."""

import dataclasses
import json
from collections.abc import Iterator

from experiments import settings
from experiments.settings import FINITE, Bound, Compute, Held, Model, at_least, bounded

POSITIVE = Bound(lambda value: value > 0, "above 0")


@dataclasses.dataclass(kw_only=True)
class Asked:
    """What is to be gone on from."""

    prompt: str = ""
    """A text, whose continuation is streamed to the terminal."""
    prompts: str = ""
    """A file of many: .txt, a prompt a line, or .jsonl, {"prompt": TEXT} or {"messages": [{"role":
    ..., "content": ...}]} a line; their continuations go to WORKDIR/generated.jsonl."""
    chat: bool = False
    """Whether a prompt is what a user says, which the tokenizer's chat template makes a
    conversation of; messages are one in any case."""


@dataclasses.dataclass(kw_only=True)
class Sampled:
    """How tokens are chosen."""

    temperature: float = at_least(0, default=0.0)
    """Divides the scores before a token is drawn; 0: the likeliest is taken."""
    top_k: int = at_least(0, default=0)
    """Only so many likeliest tokens are drawn; 0: all."""
    top_p: float = bounded(1.0, POSITIVE, Bound(lambda share: share <= 1, "at most 1"))
    """Only the likeliest tokens that have this probability together are drawn."""
    repetition_penalty: float = bounded(1.0, POSITIVE, FINITE)
    """Divides the positive scores of tokens that were read or said, multiplies the negative ones;
    1: none."""
    no_repeat_ngram: int = at_least(0, default=0)
    """No so many tokens come twice in a row; 0: they may."""
    samples: int = at_least(1, default=1)
    """Continuations of each prompt."""
    seed: int = at_least(0, default=0)
    """Of all draws."""


@dataclasses.dataclass(kw_only=True)
class Ended:
    """Where a continuation ends; at the model's own end tokens in any case."""

    max_tokens: int = at_least(1, default=128)
    """Tokens that are said at most; fewer where the model has no more positions."""
    min_tokens: int = at_least(0, default=0)
    """Tokens that are said before an end token may be."""
    stops: str = ""
    """Strings at which the text ends, without them, as a JSON list such as ["\\n\\n"]."""
    ends: str = ""
    """Other end tokens, as the tokenizer writes them, separated by commas."""


@dataclasses.dataclass(kw_only=True)
class Config(Held, Compute, Ended, Sampled, Asked, Model):
    """What a decoder goes on from, how, and where that ends."""

    edits: str = ""
    """JSON file of changes of the model while it speaks: a list of objects with the fields of
    `ilo_jax.generation.edits.Edit`. Empty: none."""
    rows: int = at_least(1, default=32)
    """Continuations at a time, over all devices."""

    @property
    def stop_strings(self) -> list[str]:
        """What `stops` lists.

        Raises:
            ValueError: If it is no list of strings.
        """
        try:
            stops = json.loads(self.stops or "[]")
        except ValueError:
            stops = None
        if not isinstance(stops, list) or not all(isinstance(s, str) and s for s in stops):
            raise ValueError(
                f'stops must be a JSON list of strings such as ["\\n\\n"], got {self.stops!r}'
            )
        return stops


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: Naming each of them.
    """
    settings.check(config, *_conflicts(config))


def _conflicts(config: Config) -> Iterator[str]:
    """Yield what is wrong with settings taken together."""
    if bool(config.prompt) == bool(config.prompts):
        got = "both" if config.prompt else "neither"
        yield f"prompt, or else prompts, must be given, got {got}"
    if config.min_tokens > config.max_tokens:
        yield f"min_tokens must be at most max_tokens, {config.max_tokens}; got {config.min_tokens}"
    if config.samples > 1 and not config.temperature:
        yield f"samples must be 1 where temperature is 0: all would be equal; got {config.samples}"
    try:
        _ = config.stop_strings
    except ValueError as error:
        yield str(error)
