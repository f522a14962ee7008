"""A corpus as a TFDS dataset: prepared once from a local archive or folder, then read back.

tensorflow-datasets writes and reads its array_record files without TensorFlow, and is imported
where it is used. One example is one sentence in every language: `{"id": 7, "text": {code:
text}}`. So the format itself is aligned; a row for each language of each sentence would take
five times as long to write, and twice the space. TFDS orders examples by a hash, so the id, a
sentence's place in the corpus, puts them back in order. Nothing is ever downloaded.
"""

import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ilo_jax.corpora import parallel
from ilo_jax.corpora.archives import ARCHIVES, unpack
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.refusals import listed, refuse

VERSION = "1.0.0"
"""Version of the format: a dataset lies in the folder NAME/VERSION, as TFDS has it."""

WHOLE = "train"
"""What TFDS calls the only split of a corpus that has none."""

INFO = "dataset_info.json"
"""The file by which a folder is known as a prepared dataset."""

TABLES = (".tsv", ".jsonl")

MOST_BYTES = 4 * 2**30
"""What an archive may unpack to; FLORES-200 takes a tenth of a gigabyte."""


def prepare(
    source: str | Path, data_dir: str | Path, *, name: str, most_bytes: int = MOST_BYTES
) -> Path:
    """Write a corpus as a TFDS dataset and return its folder, `data_dir`/`name`/1.0.0.

    The dataset is written beside that folder and renamed when it is whole. It holds all
    languages, and all splits; the split of a corpus without splits is called "train".

    Args:
        source: What `parallel.read` reads, or a .tar.gz, .tgz or .zip archive of such a folder,
            on its own or as the only folder in the archive, as in that of FLORES-200.
        data_dir: Where datasets are kept.
        name: Of the dataset: a letter, then letters, digits and underscores, all lower case.
        most_bytes: That an archive may unpack to.

    Raises:
        FileExistsError: If that folder is there already, whatever it holds.
        FileNotFoundError: If there is nothing at `source`.
        ValueError: If `name` is not as above; if `source` is no corpus, is damaged, is an
            archive of anything but plain files inside it or unpacks to more, or its splits differ
            in their languages; the message names what and where.
    """
    source, folder = Path(source), Path(data_dir) / name / VERSION
    _refuse_name(name)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: remove it, or choose another name")
    corpora = _read_source(source, most_bytes)
    _refuse_other_languages(corpora, source)
    builder = _builder(corpora, name=name, data_dir=Path(data_dir))
    with tempfile.TemporaryDirectory() as nothing:
        builder.download_and_prepare(download_dir=nothing)
    return folder


def is_prepared(path: str | Path) -> bool:
    """Tell the folder of a prepared dataset from any other path."""
    return (Path(path) / INFO).is_file()


def read_prepared(
    folder: str | Path,
    *,
    languages: Sequence[str] = (),
    sentences: int | None = None,
    split: str = "",
) -> Parallel:
    """The aligned sentences of a prepared dataset.

    They are those that `parallel.read` returns for the corpus that the dataset was prepared
    from, with the same `hash`.

    Args:
        folder: Of the dataset, as `prepare` returned it.
        languages: Which, and in which order; if none, all, sorted.
        sentences: How many of each language, from the first on; all if None.
        split: One of the dataset's; may be empty where there is just one.

    Raises:
        FileNotFoundError: If there is nothing at `folder`.
        ValueError: If `folder` is no dataset of aligned text, lacks what was asked for, or is
            damaged; the message names what and where.
    """
    folder = Path(folder)
    builder = open_dataset(folder)
    _refuse_another_kind(builder.info, folder)
    chosen = parallel.choose_split(list(builder.info.splits), split, folder)
    source = f"{folder} ({chosen})"
    codes = parallel.choose_languages(languages, builder.info.features["text"].keys(), source)
    examples = _sorted(read_features(builder, chosen, source), source)
    text = {code: _texts(examples, code, source) for code in codes}
    corpus = parallel.aligned(codes, text, source)
    return corpus if sentences is None else parallel.first(corpus, sentences)


def _read_source(source: Path, most_bytes: int) -> dict[str, Parallel]:
    if not source.is_file() or source.suffix in TABLES:
        return _read_splits(source)
    if not source.name.endswith(ARCHIVES):
        kinds = ", ".join((*ARCHIVES, *TABLES))
        raise ValueError(f"a corpus must be a folder, or a file {kinds}, got {source}")
    return _read_archive(source, most_bytes)


def _read_splits(source: Path) -> dict[str, Parallel]:
    """{split: corpus} of what `parallel.read` reads, with a name for every split."""
    splits = parallel.find_splits(source) or [""]
    return {split or WHOLE: parallel.read(source, split=split) for split in splits}


def _read_archive(archive: Path, most_bytes: int) -> dict[str, Parallel]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _read_splits(unpack(archive, Path(folder), most_bytes=most_bytes))
        except ValueError as error:
            # The reader names the files that it read, which nobody can look at any more.
            raise ValueError(str(error).replace(folder, str(archive))) from error


def _refuse_name(name: str) -> None:
    # TFDS makes names of files and folders of it.
    if not re.fullmatch("[a-z][a-z0-9_]*", name):
        raise ValueError(
            "name must be a lower-case letter, then lower-case letters, digits and underscores, "
            f"got {name!r}"
        )


def _refuse_other_languages(corpora: Mapping[str, Parallel], source: Path) -> None:
    """Refuse splits with languages of their own, since a dataset has the same in all."""
    every = {code for corpus in corpora.values() for code in corpus.languages}
    problems = [
        f"{split}: no {listed(sorted(missing))}"
        for split, corpus in corpora.items()
        if (missing := every - set(corpus.languages))
    ]
    refuse(f"{source}: all splits must have the same languages, got", problems)


def _builder(corpora: Mapping[str, Parallel], *, name: str, data_dir: Path) -> Any:
    """The TFDS builder that writes {split: corpus}, all in the same languages."""
    import numpy as np
    import tensorflow_datasets as tfds

    class Info(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Ask no bucket on the net for a dataset of this name."""

    class Corpus(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)
        # There are no downloads to check; TFDS would look for their checksums in this package.
        url_infos = None

        def _info(self) -> tfds.core.DatasetInfo:
            text = tfds.features.Translation(next(iter(corpora.values())).languages)
            features = tfds.features.FeaturesDict({"id": np.int64, "text": text})
            return Info(builder=self, features=features)

        def _split_generators(self, dl_manager: object) -> dict[str, Any]:
            return {split: self._generate_examples(corpus) for split, corpus in corpora.items()}

        def _generate_examples(self, corpus: Parallel) -> Iterator[tuple[int, dict[str, Any]]]:
            for place, texts in enumerate(zip(*corpus.sentences, strict=True)):
                text = dict(zip(corpus.languages, texts, strict=True))
                yield place, {"id": place, "text": text}

        def _log_download_bytes(self) -> None:
            """Keep TFDS from printing that it downloads something."""

        def _log_download_done(self) -> None:
            """Keep TFDS from printing that it downloaded something."""

    Corpus.name = name
    return Corpus(data_dir=data_dir, file_format="array_record")


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


def read_features(builder: Any, split: str, source: str) -> list[Any]:
    """Each example's map of names to features, as TFDS keeps them.

    Parsed here, since TFDS takes what a cut file holds for text that is empty, and looks at
    every feature of every example, asked for or not: five seconds for FLORES-200 devtest,
    against one.

    Args:
        builder: From `open_dataset`.
        split: One of the dataset's.
        source: What messages call it.

    Raises:
        ValueError: If the files are damaged.
    """
    import tensorflow_datasets as tfds
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    try:
        data = builder.as_data_source(split, deserialize_method=raw)
        parse = tf_example_pb2.Example.FromString  # pyright: ignore (made at import)
        records = map(parse, data.__getitems__(range(len(data))))
        return [record.features.feature for record in records]
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
    return [value[0].decode() for value in values]
