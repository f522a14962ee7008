"""A corpus as a TFDS dataset: written once by `preparing`, then read back.

tensorflow-datasets writes and reads its array_record files without TensorFlow, and is imported
where it is used. One example is one sentence in every language: `{"id": 7, "text": {code:
text}}`. So the format itself is aligned; a row for each language of each sentence would take
five times as long to write, and twice the space. TFDS orders examples by a hash, so the id, a
sentence's place in the corpus, puts them back in order. Nothing is ever downloaded.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ilo_jax.corpora import parallel
from ilo_jax.corpora.layouts import choose_languages, choose_split
from ilo_jax.corpora.lines import undecodable
from ilo_jax.corpora.parallel import Columns, Parallel
from ilo_jax.refusals import listed, refuse

INFO = "dataset_info.json"
"""The file by which a folder is known as a prepared dataset."""

AT_ONCE = 1024
"""Examples that are read at a time."""


def is_prepared(path: str | Path) -> bool:
    """Tell the folder of a prepared dataset from any other path."""
    return (Path(path) / INFO).is_file()


def read_prepared(
    folder: str | Path,
    *,
    languages: Sequence[str] = (),
    sentences: int | None = None,
    split: str = "",
    drop_incomplete: bool = False,
) -> Parallel:
    """The aligned sentences of a prepared dataset.

    They are those that `parallel.read` returns for the corpus that the dataset was prepared
    from, with the same `hash`.

    Args:
        folder: Of the dataset, as `prepare` returned it.
        languages: Which, and in which order; if none, all, sorted.
        sentences: How many of each language, from the first on; all if None.
        split: One of the dataset's; may be empty where there is just one.
        drop_incomplete: Whether to leave out, in all these languages, the lines that are empty or
            a placeholder in one, if there still are any.

    Raises:
        FileNotFoundError: If there is nothing at `folder`.
        ValueError: If `folder` is no dataset of aligned text, lacks what was asked for, or is
            damaged; the message names what and where.
    """
    folder = Path(folder)
    builder = open_dataset(folder)
    _refuse_another_kind(builder.info, folder)
    chosen = choose_split(list(builder.info.splits), split, folder)
    source = f"{folder} ({chosen})"
    codes = choose_languages(languages, builder.info.features["text"].keys(), source)
    examples = _sorted(read_features(builder, chosen, source), source)
    text = {code: _texts(examples, code, source) for code in codes}
    places = {code: f"{source}, {code}, id" for code in codes}
    columns = Columns(text, places, first=0)
    corpus = parallel.aligned(columns, source, drop_incomplete=drop_incomplete)
    return corpus if sentences is None else parallel.first(corpus, sentences)


def open_dataset(folder: Path) -> Any:
    """Open the folder of a prepared dataset.

    Returns:
        The TFDS builder that reads it; what features it has is for the caller to look at.

    Raises:
        FileNotFoundError: If there is nothing at `folder`.
        ValueError: If it is no prepared dataset, or is damaged.
    """
    import tensorflow_datasets as tfds
    from google.protobuf import json_format

    _refuse_unprepared(folder)
    try:
        # Absolute, since TFDS reads a folder named ~ from the user's home.
        return tfds.builder_from_directory(folder.absolute())
    except (json_format.ParseError, ValueError) as error:
        raise ValueError(f"{folder} is damaged, or no dataset of TFDS: {error}") from error


def _refuse_unprepared(folder: Path) -> None:
    if not folder.exists():
        raise FileNotFoundError(f"no dataset at {folder}: there is no such folder")
    if not is_prepared(folder):
        names = sorted(file.name for file in folder.glob("*"))
        raise ValueError(
            f"{folder} is no prepared dataset: it must hold {INFO}; it holds "
            f"{listed(names) or 'nothing'}"
        )


def _refuse_another_kind(info: Any, folder: Path) -> None:
    allowed = {"format": "array_record", "id": "Tensor", "text": "Translation"}
    features = sorted(info.features.items())
    got = {"format": info.file_format.value}
    got |= {name: type(feature).__name__ for name, feature in features}
    if got != allowed:
        raise ValueError(
            f"{folder} is a dataset of another kind: it must have {allowed}, got {got}"
        )


def kind_of(feature: Any) -> str:
    """What one value of a feature is, "text" or "integer", or the feature's own name if neither."""
    kinds = {"O": "text", "i": "integer", "u": "integer"}
    # A feature of many values has no one type.
    letter = np.dtype(feature.np_dtype).kind if feature.shape == () else ""
    return kinds.get(letter, type(feature).__name__)


def read_features(builder: Any, split: str, source: str) -> list[Any]:
    """Each example's map of names to features, as TFDS keeps them.

    Args:
        builder: From `open_dataset`.
        split: One of the dataset's.
        source: What messages call it.

    Raises:
        ValueError: If the files are damaged.
    """
    return list(stream_features(builder, split, source))


def stream_features(
    builder: Any, split: str, source: str, *, numbers: Sequence[int] | None = None
) -> Iterator[Any]:
    """Yield each example's map of names to features, as TFDS keeps them, never holding all.

    Parsed here, since TFDS takes what a cut file holds for text that is empty, and looks at
    every feature of every example, asked for or not: five seconds for FLORES-200 devtest,
    against one.

    Args:
        builder: From `open_dataset`.
        split: One of the dataset's.
        source: What messages call it.
        numbers: Of the examples, from 0; None: all.

    Raises:
        ValueError: If the files are damaged.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    parse = tf_example_pb2.Example.FromString  # pyright: ignore (made at import)
    try:
        data = builder.as_data_source(split, deserialize_method=raw)
        every = range(len(data)) if numbers is None else numbers
        for start in range(0, len(every), AT_ONCE):
            records = map(parse, data.__getitems__(every[start : start + AT_ONCE]))
            yield from (record.features.feature for record in records)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ValueError(f"{source} is damaged: {error}") from error


def _sorted(examples: Sequence[Any], source: str) -> list[Any]:
    """The examples in the order of their ids, which must be 0, 1, 2, ..."""
    by_id = {tuple(example["id"].int64_list.value): example for example in examples}
    missing = [f"none {place}" for place in range(len(examples)) if (place,) not in by_id]
    refuse(f"{source} is damaged: every id must be there, got", missing)
    return [by_id[(place,)] for place in range(len(examples))]


def _texts(examples: Sequence[Any], code: str, source: str) -> list[str]:
    """The sentences of one language."""
    values = [example[f"text/{code}"].bytes_list.value for example in examples]
    missing = [f"none with id {place}" for place, value in enumerate(values) if not value]
    refuse(f"{source} is damaged: every example must have a text in {code}, got", missing)
    texts = [value[0] for value in values]
    problems = [f"id {i}, {text}" for i, text in enumerate(map(undecodable, texts)) if text]
    refuse(f"{source} is damaged: {code} must be UTF-8, got", problems)
    return [text.decode() for text in texts]
