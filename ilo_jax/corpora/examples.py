"""What a model is fine-tuned on: completions, each with the prompt it is given, if any.

Read from plain text, a JSONL file, the contexts of SQuAD-shaped JSON, or a prepared TFDS
dataset. As with aligned text, what is damaged, empty or unknown is refused, never skipped.
tensorflow-datasets reads without TensorFlow, and is imported where it is used.
"""

import dataclasses
import hashlib
import json
import operator
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ilo_jax.corpora.layouts import choose_split, refuse_links_to_nothing
from ilo_jax.corpora.lines import (
    filled,
    is_text,
    made,
    paragraphs,
    parse_object,
    read_lines,
    undecodable,
)
from ilo_jax.corpora.prepared import is_prepared, kind_of, open_dataset, read_features
from ilo_jax.refusals import listed, refuse

KEYS = ({"text"}, {"prompt", "completion"})
"""What an example may be made of; text is a completion that has no prompt."""


LONGEST = 2**26
"""Characters that an example may have: it is cut into tokens as a whole."""


class Example(NamedTuple):
    """What a model learns to write, and after what."""

    prompt: str
    """Given, and not learnt; may be empty."""
    completion: str
    """What is learnt."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Examples, in order.

    Raises:
        ValueError: If there are none, or naming all whose completion is empty, or that are longer
            than `LONGEST`.
    """

    examples: tuple[Example, ...]
    source: str
    """Where the text comes from, for messages; not part of `hash`."""

    def __post_init__(self):
        if not self.examples:
            raise ValueError(f"{self.source} has no examples")
        completions = enumerate((example.completion for example in self.examples), 1)
        empty = [str(number) for number, text in completions if not text.strip()]
        if empty:
            raise ValueError(
                f"{self.source}: a completion must not be empty, got {len(empty)} that are "
                f"(examples from 1, of a .jsonl file its lines): {listed(empty)}"
            )
        long = [
            f"{sum(map(len, example))} in example {number}"
            for number, example in enumerate(self.examples, 1)
            if sum(map(len, example)) > LONGEST
        ]
        what = f"a text must have at most {LONGEST} characters (a blank line ends one in .txt), got"
        refuse(f"{self.source}: {what}", long)

    @property
    def hash(self) -> str:
        """SHA-256 of all prompts and completions, in order."""
        return hashlib.sha256(json.dumps(self.examples).encode()).hexdigest()


def read_examples(path: str | Path, *, split: str = "") -> Examples:
    r"""The examples of a file, a folder or a prepared dataset.

    - A .txt file: every paragraph, up to a line of nothing but white space, is a completion
      without a prompt. White space at the ends of its lines is dropped.
    - A folder: the paragraphs of all its .txt files, in the order of their names.
    - A .jsonl file: one object a line, `{"prompt": ..., "completion": ...}` or
      `{"text": ...}`, with no other keys.
    - A .json file in the shape of SQuAD: every `data[].paragraphs[].context` is a completion
      without a prompt, once, since several questions may share it.
    - The folder of a prepared TFDS dataset, in array_record files, with the features "text",
      or "prompt" and "completion". With an integer or text feature "id" as well, examples
      come in its order; otherwise as TFDS keeps them, which is by a hash.

    Lines end in LF, CRLF or CR, and a byte order mark is dropped.

    Args:
        path: Of any of these.
        split: Of a dataset; may be empty where there is just one, and must be for text.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is none of these, lacks the split, or is damaged; the message names
            what and where.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no examples at {path}: there is no such file or folder")
    if is_prepared(path):
        return _read_dataset(path, split)
    choose_split([""], split, path)
    found = _read_folder(path) if path.is_dir() else _read_file(path)
    return Examples(tuple(found), str(path))


def _read_file(path: Path) -> list[Example]:
    readers = {".txt": _read_text, ".jsonl": _read_jsonl, ".json": _read_squad}
    if path.suffix not in readers:
        raise ValueError(
            "examples must be a folder of .txt files, a prepared dataset, or a file "
            f"{', '.join(readers)}, got {path}"
        )
    return readers[path.suffix](path)


def _read_folder(folder: Path) -> list[Example]:
    paths = sorted(folder.glob("[!.]*.txt"))
    refuse_links_to_nothing(paths)
    files = [path for path in paths if path.is_file()]
    if not files:
        names = sorted(file.name for file in folder.iterdir())
        raise ValueError(
            f"{folder} holds no examples: it must hold .txt files, or be a prepared dataset; "
            f"it holds {listed(names) or 'nothing'}"
        )
    return _read_text(*files)


def _read_text(*files: Path) -> list[Example]:
    text = read_lines({str(file): file for file in files})
    by_file = {name: list(paragraphs(lines)) for name, lines in text.items()}
    without = [f"none in {name}" for name, found in by_file.items() if not found]
    refuse("a text file must hold a paragraph, got", without)
    return [Example("", one) for found in by_file.values() for one in found]


def _read_jsonl(path: Path) -> list[Example]:
    what = f"{path}: a line must be a JSON object of text, with text or prompt and completion"
    return made(filled(path), lambda line: _example(parse_object(line)), what=what)


def _example(record: Mapping[str, Any]) -> Example:
    """The example that a record is.

    Raises:
        ValueError: Naming its keys, or values, if they are others.
    """
    if set(record) not in KEYS:
        raise ValueError(f"has {', '.join(record) or 'no keys'}")
    other = [
        f"{key} is {reprlib.repr(value)}" for key, value in record.items() if not is_text(value)
    ]
    if other:
        raise ValueError(", ".join(other))
    return Example("", record["text"]) if "text" in record else Example(**record)


def _read_squad(path: Path) -> list[Example]:
    text = "\n".join(filled(path))
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, character {error.colno}"
        raise ValueError(f"{path} must be JSON, got at {where}: {error.msg}") from error
    except ValueError as error:  # a number of too many digits
        raise ValueError(f"{path} must be JSON, got: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{path} must be JSON of paragraphs, got one nested too deeply") from error
    return [Example("", context) for context in _contexts(document, path)]


def _contexts(document: object, path: Path) -> list[str]:
    """The distinct contexts of a document in the shape of SQuAD."""
    problems: list[str] = []
    articles = _entries([("", document)], "data", problems)
    paragraphs = _entries(articles, "paragraphs", problems)
    contexts = [(f"{where}.context", _value(node, "context")) for where, node in paragraphs]
    problems += [
        f"{where}: {reprlib.repr(context)}" for where, context in contexts if not is_text(context)
    ]
    refuse(f"{path}: data[].paragraphs[] must be lists, with a text as context, got", problems)
    return list(dict.fromkeys(str(context) for _, context in contexts))


def _entries(
    nodes: Sequence[tuple[str, object]], key: str, problems: list[str]
) -> list[tuple[str, object]]:
    """All entries of the nodes' lists under a key, each after its place.

    What is no list is added to `problems`.
    """
    found: list[tuple[str, object]] = []
    for where, node in nodes:
        place, value = f"{where}.{key}".removeprefix("."), _value(node, key)
        if isinstance(value, list):
            found += [(f"{place}[{index}]", entry) for index, entry in enumerate(value)]
        else:
            problems.append(f"{place}: {reprlib.repr(value)}")
    return found


def _value(node: object, key: str) -> object:
    """What an object has under a key; None if it has nothing, or is no object."""
    return node.get(key) if isinstance(node, dict) else None


def _read_dataset(folder: Path, split: str) -> Examples:
    builder = open_dataset(folder)
    _refuse_another_kind(builder.info, folder)
    chosen = choose_split(list(builder.info.splits), split, folder)
    source = f"{folder} ({chosen})"
    records = _sorted(_records(builder, chosen, source), source)
    return Examples(tuple(_example(record) for record in _decoded(records, source)), source)


def _refuse_another_kind(info: Any, folder: Path) -> None:
    kinds = {name: kind_of(feature) for name, feature in sorted(info.features.items())}
    text = {name: kind for name, kind in kinds.items() if name != "id"}
    known = set(text) in KEYS and set(text.values()) == {"text"}
    ordered = kinds.get("id", "text") in {"text", "integer"}
    if info.file_format.value != "array_record" or not known or not ordered:
        raise ValueError(
            f"{folder} is a dataset of another kind: it must be array_record, of text, or of "
            "prompt and completion, all text, and may have an id, text or integer; "
            f"got {info.file_format.value}: {kinds}"
        )


def _records(builder: Any, split: str, source: str) -> list[dict[str, Any]]:
    """All examples of a split as TFDS keeps them."""
    examples, names = read_features(builder, split, source), list(builder.info.features)
    columns = [_values(examples, name, source) for name in names]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(examples: Sequence[Any], name: str, source: str) -> list[Any]:
    """The one value of a feature in every example, bytes or an integer."""
    values = [[*one[name].bytes_list.value, *one[name].int64_list.value] for one in examples]
    missing = [f"none in number {number}" for number, found in enumerate(values, 1) if not found]
    refuse(f"{source} is damaged: every example must have its {name}, got", missing)
    return [found[0] for found in values]


def _sorted(records: Sequence[dict[str, Any]], source: str) -> list[dict[str, Any]]:
    """The records in the order of their ids and without them; as they are if none."""
    if "id" not in records[0]:
        return list(records)
    counts = Counter(record["id"] for record in records)
    repeated = [str(one) for one, count in counts.items() if count > 1]
    if repeated:
        raise ValueError(f"{source}: an id must come once, got more than once: {listed(repeated)}")
    ordered = sorted(records, key=operator.itemgetter("id"))
    return [{key: record[key] for key in record if key != "id"} for record in ordered]


def _decoded(records: Sequence[Mapping[str, bytes]], source: str) -> list[dict[str, str]]:
    """The records as text.

    Raises:
        ValueError: Naming the first byte of each value that is not UTF-8.
    """
    problems = [
        f"example {number}, {problem}"
        for number, record in enumerate(records, 1)
        for value in record.values()
        if (problem := undecodable(value))
    ]
    refuse(f"{source}: text must be UTF-8, got", problems)
    return [{key: value.decode() for key, value in record.items()} for record in records]
