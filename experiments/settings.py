"""What jobs are asked: fields that several of them read, each with its bounds beside it.

A job's Config inherits the parts that it reads, and no others: what a job would ignore, its
command line does not know. Fields, and messages about them, come in the order of the bases from
the last to the first, as `dataclasses` has it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from ilo_jax.activations.store import DTYPES
from ilo_jax.activations.taps import SENTENCE_POOLINGS
from ilo_jax.metrics import DISTANCES, IloSettings

T = TypeVar("T")

FLOATS = " or ".join(DTYPES)

KINDS: dict[Any, str] = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
}
"""What the value of a field must be, by its type."""


class Bound(NamedTuple):
    """What a field must be."""

    holds: Callable[[Any], bool]
    """Whether a value is within the bound."""
    words: str
    """What comes after "must be" where it is not."""


INT32 = Bound(lambda value: value < 2**31, "below 2^31")
"""What counts something on a device."""
FINITE = Bound(math.isfinite, "finite")


def bounded(default: T, *bounds: Bound) -> T:
    """A field of a Config: its default and its bounds, of which the first broken is told."""
    field: Any = dataclasses.field(default=default, metadata={"bounds": bounds})
    return field


def at_least(low: float, *others: Bound, default: T, below: Bound | None = None) -> T:
    """A field that holds a number: a finite one, or a whole one that 32 bits hold.

    Args:
        low: The least that it may be.
        others: More bounds.
        default: What it is where nobody says.
        below: The bound of above: of a whole number that is no count on a device, its own.
    """
    above = below or (INT32 if isinstance(default, int) else FINITE)
    return bounded(default, Bound(lambda value: value >= low, f"at least {low}"), above, *others)


def one_of(allowed: Sequence[str], *, default: str, words: str = "") -> str:
    """A field that holds one of several words.

    Args:
        allowed: which.
        default: What it is where nobody says.
        words: How they are enumerated; by default "one of A, B, C".
    """
    words = words or f"one of {', '.join(allowed)}"
    return bounded(default, Bound(lambda value: value in allowed, words))


def given(*, default: str, words: str) -> str:
    """A field that holds text, and not the empty one.

    Args:
        default: What it is where nobody says.
        words: What the text is of, after "must be".
    """
    return bounded(default, Bound(lambda value: bool(value.strip()), words))


def problems(config: Any) -> list[str]:
    """What is wrong with the fields of a Config, each taken for itself."""
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        broken = [bound for bound in field.metadata.get("bounds", ()) if not bound.holds(value)]
        if broken:
            found.append(f"{field.name} must be {broken[0].words}, got {value!r}")
    return found


def mistyped(config: Any) -> list[str]:
    """What is wrong with the types of the fields of a Config; a float may be a whole number."""
    found = []
    for field in dataclasses.fields(config):
        kind, value = field.type, getattr(config, field.name)
        if type(value) is not kind and not (kind is float and type(value) is int):
            found.append(f"{field.name} must be {KINDS[kind]}, got {value!r}")
    return found


def check(config: Any, *conflicts: str) -> None:
    """Refuse values that no run could use.

    Args:
        config: A Config.
        conflicts: What is wrong with its fields taken together.

    Raises:
        ValueError: Naming each of them.
    """
    if found := [*problems(config), *conflicts]:
        raise ValueError("; ".join(found))


@dataclasses.dataclass(kw_only=True)
class Model:
    """Which model."""

    model: str = given(default="sample", words="a Hugging Face folder, a hub id or sample")
    """A Hugging Face folder, a hub id (owner/name), or "sample": multilingual-e5-small."""
    ignore_keys: str = ""
    """Keys of its config.json, separated by commas, that are unknown and that you know to change
    nothing; empty: an unknown key is an error."""


@dataclasses.dataclass(kw_only=True)
class Aligned:
    """Which sentences, that mean the same in every language."""

    corpus: str = given(default="sample", words="a folder, a table, a prepared dataset or sample")
    """A folder, table or prepared dataset of aligned sentences, or "sample": the shipped one."""
    split: str = ""
    """Split of FLORES-200 or FLORES+, "dev" or "devtest"; may be empty where there is just one."""
    languages: str = ""
    """Codes, separated by commas, or "paper": its 31; empty: every language of the corpus."""
    drop_incomplete: bool = False
    """Whether to leave out, in all languages, the lines that are empty or a placeholder in one."""
    sentences: int = at_least(0, Bound(lambda count: count != 1, "0 or 2 or more"), default=0)
    """How many of each language, from the first on; 0: all."""


@dataclasses.dataclass(kw_only=True)
class Monolingual:
    """Which text is learnt, by language."""

    text: str = given(default="sample", words="a folder, a file, a prepared dataset or sample")
    """What is learnt: a folder with a .txt or .jsonl file, or a folder of them, for each language;
    a .jsonl file of objects with "language" and "text"; a prepared TFDS dataset; or "sample", the
    sentences that come with the package."""
    text_split: str = ""
    """Split of a dataset; may be empty where there is just one."""
    text_languages: str = ""
    """Languages of the text that are learnt, separated by commas; empty: all."""
    unit: str = one_of(("paragraph", "line"), default="paragraph", words="paragraph or line")
    """What of a .txt file is a document."""
    held_out: float = bounded(0.02, Bound(lambda share: 0 < share < 1, "above 0 and below 1"))
    """Share of the documents that nothing learns from: they judge the checkpoints."""


@dataclasses.dataclass(kw_only=True)
class Compute:
    """How a model is computed."""

    dtype: str = one_of(DTYPES, default="float32", words=FLOATS)
    """Type of the computation: float32 or bfloat16."""
    model_parallel: int = at_least(1, default=1)
    """How many devices share each copy of the model."""
    fsdp: bool = False
    """Whether the copies are split over all devices, too, and put together when needed."""


@dataclasses.dataclass(kw_only=True)
class Batched:
    """How much of the sentences is computed at a time."""

    batch_tokens: int = at_least(0, default=0)
    """Positions on each device, or on each group of `model_parallel`; results change within
    rounding only. 0: as many as suit the devices, 512 on CPUs and 4096 on others."""


@dataclasses.dataclass(kw_only=True)
class Held:
    """How the weights of a model lie on the devices."""

    param_dtype: str = one_of(("", *DTYPES), default="", words=FLOATS)
    """Type of the weights on the devices; empty: as `dtype`."""


@dataclasses.dataclass(kw_only=True)
class Storage:
    """What hidden states are made of, and how they are stored."""

    prefix: str = ""
    """Put before every sentence, such as "query: " for the e5 models."""
    stored_dtype: str = one_of(DTYPES, default="float32", words=FLOATS)
    """Type of the states on disk: float32 or bfloat16."""
    states: str = ""
    """Where states are stored: a folder or a URL such as gs://bucket/folder; empty: WORKDIR/states.
    """


@dataclasses.dataclass(kw_only=True)
class Judged(Batched, Compute, Aligned):
    """Which sentences a model is judged by, and how they are computed."""


@dataclasses.dataclass(kw_only=True)
class Source(Judged, Model):
    """Which model, which sentences, and how they are computed."""


@dataclasses.dataclass(kw_only=True)
class Extraction(Storage, Held, Source):
    """All that hidden states and where they are stored depend on."""


@dataclasses.dataclass(kw_only=True)
class Compared:
    """What stands for a sentence, and how two of them are compared."""

    pooling: str = one_of(SENTENCE_POOLINGS, default="mean")
    """What stands for a sentence: mean (the paper's), content (no special tokens), last or max."""
    distance: str = one_of(DISTANCES, default=IloSettings.distance)
    """cosine or euclidean."""


@dataclasses.dataclass(kw_only=True)
class Overlap:
    """How ILO counts neighbours."""

    k: int = at_least(1, default=IloSettings.k)
    """Neighbours of a point."""
    min_languages: int = at_least(1, default=IloSettings.min_languages)
    """Other languages that a point must touch to bridge."""
