"""A corpus written as a TFDS dataset, from a local archive, folder or table; nothing is fetched.

What is written, and why so, is in `prepared`. TFDS writes without TensorFlow as long as it can
hold a split in memory, and is imported where it is used.
"""

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ilo_jax.corpora import parallel
from ilo_jax.corpora.archives import ARCHIVES, MOST, Most, unpack
from ilo_jax.corpora.layouts import find_splits
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.refusals import listed, refuse

log = logging.getLogger(__name__)

VERSION = "1.0.0"
"""Version of the format: a dataset lies in the folder NAME/VERSION, as TFDS has it."""

WHOLE = "train"
"""What TFDS calls the only split of a corpus that has none."""

TABLES = (".tsv", ".jsonl")

MOST_OF_A_SPLIT = 1000 * 2**20
"""Bytes of text that a split may have: what is larger TFDS puts in order by TensorFlow."""


def prepare(
    source: str | Path,
    data_dir: str | Path,
    *,
    name: str,
    drop_incomplete: bool = False,
    most: Most = MOST,
) -> Path:
    """Write a corpus as a TFDS dataset and return its folder, `data_dir`/`name`/1.0.0.

    The dataset is written beside that folder and renamed when it is whole. It holds all
    languages, and all splits; the split of a corpus without splits is called "train".

    Args:
        source: What `parallel.read` reads, or a .tar.gz, .tgz or .zip archive of such a folder,
            on its own or as the only folder in the archive, as in that of FLORES-200.
        data_dir: Where datasets are kept.
        name: Of the dataset: a letter, then letters, digits and underscores, all lower case.
        drop_incomplete: Whether to leave out, in all languages, the lines that are empty or a
            placeholder in one; the log says how many.
        most: What an archive may unpack to.

    Raises:
        FileExistsError: If that folder is there already, whatever it holds.
        FileNotFoundError: If there is nothing at `source`.
        OSError: If something there cannot be read, or that folder cannot be written.
        ValueError: If `name` is not as above; if `source` is no corpus, is damaged, is an
            archive of anything but plain files inside it or unpacks to more, if its splits differ
            in their languages, or one is larger than `MOST_OF_A_SPLIT`; the message names what
            and where.
    """
    source, folder = Path(source), Path(data_dir) / name / VERSION
    _refuse_name(name)
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: remove it, or choose another name")
    corpora = _read_source(source, most, drop_incomplete)
    _refuse_other_languages(corpora, source)
    _refuse_large(corpora, source)
    for split, corpus in corpora.items():
        if corpus.dropped:
            log.warning("left out %d lines of %s, %s", corpus.dropped, source, split)
    _write(corpora, folder)
    return folder


def _write(corpora: Mapping[str, Parallel], folder: Path) -> None:
    try:
        builder = _builder(corpora, name=folder.parent.name, data_dir=folder.parents[1])
        with tempfile.TemporaryDirectory() as nothing:
            builder.download_and_prepare(download_dir=nothing)
    except OSError as error:
        raise OSError(f"cannot write {folder}: {error}") from error


def _read_source(source: Path, most: Most, drop_incomplete: bool) -> dict[str, Parallel]:
    if not source.is_file() or source.suffix in TABLES:
        return _read_splits(source, drop_incomplete)
    if not source.name.endswith(ARCHIVES):
        kinds = ", ".join((*ARCHIVES, *TABLES))
        raise ValueError(f"a corpus must be a folder, or a file {kinds}, got {source}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            return _read_splits(unpack(source, Path(folder), most=most), drop_incomplete)
        except ValueError as error:
            # The reader names the files that it read, which nobody can look at any more.
            raise ValueError(str(error).replace(folder, str(source))) from error


def _read_splits(source: Path, drop_incomplete: bool) -> dict[str, Parallel]:
    """{split: corpus} of what `parallel.read` reads, with a name for every split."""
    splits = find_splits(source) or [""]
    return {
        split or WHOLE: parallel.read(source, split=split, drop_incomplete=drop_incomplete)
        for split in splits
    }


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
    what = "all splits must have the same languages (the folder of one can be prepared alone), got"
    refuse(f"{source}: {what}", problems)


def _refuse_large(corpora: Mapping[str, Parallel], source: Path) -> None:
    sizes = {
        split: sum(len(text.encode()) for texts in corpus.sentences for text in texts)
        for split, corpus in corpora.items()
    }
    problems = [f"{split}: {size}" for split, size in sizes.items() if size > MOST_OF_A_SPLIT]
    what = f"a split must have at most {MOST_OF_A_SPLIT} bytes of text to be prepared"
    refuse(f"{source}: {what} (its folder can be read as it is), got", problems)


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
