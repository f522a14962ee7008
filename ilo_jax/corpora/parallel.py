"""Aligned multi-parallel text: the same sentences in several languages, line by line.

Read from a FLORES-200 folder, a folder of text files, or one TSV or JSONL table. Whatever
is not aligned, empty or not text is refused, never skipped: one line lost in one language
would compare every later sentence with the wrong translations.
"""

import dataclasses
import difflib
import hashlib
import importlib.resources
import json
import reprlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ilo_jax.corpora.lines import (
    is_text,
    made,
    parse_object,
    parse_tsv,
    read_lines,
    refuse_repeated,
)
from ilo_jax.refusals import listed, refuse

SAMPLE = Path(str(importlib.resources.files("ilo_jax.corpora") / "sample"))
"""The folder of the corpus that comes with the package: 48 everyday sentences."""

SPLITS = ("dev", "devtest")
"""Splits of FLORES-200: names of folders, and suffixes of the files in them."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Sentences in several languages; the i-th sentences of all say the same.

    Raises:
        ValueError: If a language comes twice, languages differ in their number of sentences,
            there are none, or one is empty.
    """

    languages: tuple[str, ...]
    """Codes, in the order of `sentences`."""
    sentences: tuple[tuple[str, ...], ...]
    """Text as [lang][sent]."""
    source: str
    """Where the text comes from, for messages; not part of `hash`."""

    def __post_init__(self):
        if len(self.languages) != len(self.sentences):
            raise ValueError(
                f"{self.source}: every language must have its sentences, got "
                f"{len(self.languages)} languages and sentences of {len(self.sentences)}"
            )
        refuse_repeated(self.languages, f"{self.source}: a language must come once")
        _refuse_unequal(self)
        empty = [
            f"{language} {number}"
            for language, sentences in zip(self.languages, self.sentences, strict=True)
            for number, sentence in enumerate(sentences, 1)
            if not sentence.strip()
        ]
        if empty:
            raise ValueError(
                f"{self.source}: a sentence must not be empty, got {len(empty)} that are "
                f"(language and line, a table's header not counted): {listed(empty)}"
            )

    @property
    def hash(self) -> str:
        """SHA-256 of the languages and their text, both in order."""
        text = json.dumps([self.languages, self.sentences])
        return hashlib.sha256(text.encode()).hexdigest()


def sample() -> Parallel:
    """The corpus that comes with the package, in the paper's 31 languages.

    It is machine-written and unreviewed: good for trying things out and for tests, not for
    claims about languages. See sample/README.md.
    """
    return read(SAMPLE)


def read(
    path: str | Path,
    *,
    languages: Sequence[str] = (),
    sentences: int | None = None,
    split: str = "",
) -> Parallel:
    r"""The aligned sentences of a folder or a table.

    A folder holds dev/<code>.dev or devtest/<code>.devtest as FLORES-200 does, or such
    files themselves, or <code>.txt; one sentence a line. A table is a .tsv file whose first
    line names the languages (quotes mean nothing, as in FLORES text), or a .jsonl file with
    one object a line and the languages as keys.

    Lines end at \n only, since other line separators do occur inside sentences. A byte
    order mark at the start and white space at the end of a sentence are dropped, and
    nothing else. Any code goes; those of the paper are in `languages.PAPER`.

    Args:
        path: Folder, .tsv or .jsonl file.
        languages: Which, and in which order; if none, all, sorted.
        sentences: How many of each language, from the first on; all if None.
        split: "dev" or "devtest"; empty where there is just one, or none.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If `path` is no corpus, lacks what was asked for, or is damaged; the
            message names what and where.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no corpus at {path}: there is no such file or folder")
    corpus = (_read_folder if path.is_dir() else _read_table)(path, languages, split)
    return corpus if sentences is None else first(corpus, sentences)


def _read_folder(path: Path, languages: Sequence[str], split: str) -> Parallel:
    splits = find_splits(path)
    chosen = choose_split(splits, split, path)
    source = f"{path} ({chosen})" if chosen else str(path)
    files = splits[chosen]
    codes = choose_languages(languages, files, source)
    text = read_lines({code: files[code] for code in codes})
    return aligned(codes, text, source)


def _read_table(path: Path, languages: Sequence[str], split: str) -> Parallel:
    parsers = {".tsv": parse_tsv, ".jsonl": _jsonl}
    if path.suffix not in parsers:
        raise ValueError(f"a corpus must be a folder, a .tsv or a .jsonl file, got {path}")
    choose_split([""], split, path)
    source = str(path)
    lines = read_lines({source: path})[source]
    if not lines:
        raise ValueError(f"{source} is empty")
    columns = parsers[path.suffix](lines, source)
    codes = choose_languages(languages, columns, source)
    chosen = {code: columns[code] for code in codes}
    _refuse_other_than_text(chosen, source)
    return aligned(codes, chosen, source)


def aligned(codes: Sequence[str], text: Mapping[str, Sequence[str]], source: str) -> Parallel:
    """Lines as aligned sentences, white space at their ends dropped."""
    sentences = tuple(tuple(line.rstrip() for line in text[code]) for code in codes)
    return Parallel(tuple(codes), sentences, source)


def first(corpus: Parallel, count: int) -> Parallel:
    """The first `count` sentences of every language."""
    available = len(corpus.sentences[0])
    if not 1 <= count <= available:
        raise ValueError(f"sentences must be in [1, {available}] for {corpus.source}, got {count}")
    sentences = tuple(lines[:count] for lines in corpus.sentences)
    return dataclasses.replace(corpus, sentences=sentences)


def _files(folder: Path, suffix: str) -> dict[str, Path]:
    """The files with this suffix, hidden ones left out, by the rest of their name."""
    found = sorted(file for file in folder.glob(f"[!.]*.{suffix}") if file.is_file())
    return {file.name.removesuffix(f".{suffix}"): file for file in found}


def find_splits(folder: Path) -> dict[str, dict[str, Path]]:
    """{split: {language: file}}; plain text, the split "", counts where there is no other.

    A FLORES-200 folder may well have a licence in a text file beside its splits.
    """
    found = {split: _files(folder / split, split) or _files(folder, split) for split in SPLITS}
    found = {split: files for split, files in found.items() if files}
    plain = _files(folder, "txt")
    return found or ({"": plain} if plain else {})


def choose_split(splits: Collection[str], split: str, path: Path) -> str:
    """The split that was asked for, or else the only one."""
    if not splits:
        names = sorted(file.name for file in path.iterdir())
        raise ValueError(
            f"{path} holds no corpus: it must hold <code>.txt files, or <code>.dev or "
            "<code>.devtest files, those also in folders dev and devtest; it holds "
            f"{listed(names) or 'nothing'}"
        )
    if split in splits:
        return split
    if split:
        there = ", ".join(filter(None, splits)) or "no splits"
        raise ValueError(f"{path} has no split {split!r}: it has {there}")
    if len(splits) > 1:
        raise ValueError(f"{path} has the splits {', '.join(splits)}: choose one with split=")
    return next(iter(splits))


def choose_languages(asked: Sequence[str], there: Collection[str], source: str) -> list[str]:
    """The languages that were asked for, or else all that are there, sorted."""
    missing = [code for code in asked if code not in there]
    if missing:
        named = [code + _near(code, sorted(there)) for code in missing]
        raise ValueError(
            f"{source} has no {', '.join(named)}; it has {len(there)} languages: "
            f"{listed(sorted(there))}"
        )
    return list(asked) or sorted(there)


def _near(code: str, there: Sequence[str]) -> str:
    """A remark on languages with a similar code, whatever their script; may be empty."""
    stems = list(dict.fromkeys(name.split("_")[0] for name in there))
    close = difflib.get_close_matches(code.split("_")[0], stems, n=3)
    near = [name for stem in close for name in there if name.split("_")[0] == stem]
    return f" (near: {', '.join(near[:3])})" if near else ""


def _jsonl(lines: Sequence[str], source: str) -> dict[str, list[Any]]:
    """The values of every key of a table of JSON objects, text or not."""
    records = made(lines, parse_object, what=f"{source}: a line must be a JSON object")
    keys = records[0].keys()
    differing = [
        f"line {number}: " + ", ".join(_differences(record.keys(), keys))
        for number, record in enumerate(records, 1)
        if record.keys() != keys
    ]
    refuse(f"{source}: a line must have the keys of line 1, got", differing)
    return {key: [record[key] for record in records] for key in keys}


def _differences(keys: Collection[str], expected: Collection[str]) -> list[str]:
    return [f"no {key}" for key in expected if key not in keys] + [
        f"also {key}" for key in keys if key not in expected
    ]


def _refuse_other_than_text(columns: Mapping[str, Sequence[object]], source: str) -> None:
    problems = [
        f"{code} {number}: {reprlib.repr(value)}"
        for code, values in columns.items()
        for number, value in enumerate(values, 1)
        if not is_text(value)
    ]
    refuse(f"{source}: a sentence must be text, got", problems)


def _refuse_unequal(corpus: Parallel) -> None:
    by_count: dict[int, list[str]] = {}
    for language, sentences in zip(corpus.languages, corpus.sentences, strict=True):
        by_count.setdefault(len(sentences), []).append(language)
    if len(by_count) > 1:
        rarest_first = sorted(by_count.items(), key=lambda item: (len(item[1]), item[0]))
        raise ValueError(
            f"{corpus.source}: languages must have as many sentences as each other, got "
            + "; ".join(f"{count} in {listed(names)}" for count, names in rarest_first)
        )
    if not any(by_count):
        raise ValueError(f"{corpus.source} has no sentences")
