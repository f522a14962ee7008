"""Aligned multi-parallel text: the same sentences in several languages, line by line.

Read from a FLORES-200 or FLORES+ folder, a folder of text files, or one TSV or JSONL table.
Whatever is not aligned, empty or not text is refused, never skipped unless that is asked for, and
then in all languages: one line lost in one language would compare every later sentence with the
wrong translations.
"""

import dataclasses
import hashlib
import importlib.resources
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ilo_jax.corpora.archives import ARCHIVES
from ilo_jax.corpora.layouts import choose_languages, choose_split, find_splits
from ilo_jax.corpora.lines import filled, is_text, parse_tsv, read_lines, refuse_repeated
from ilo_jax.corpora.records import parse_records, read_texts, refuse_other_than_text
from ilo_jax.refusals import listed, refuse

SAMPLE = Path(str(importlib.resources.files("ilo_jax.corpora") / "sample"))
"""The folder of the corpus that comes with the package: 48 everyday sentences."""

MISSING = re.compile(
    r"[\s\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]*"
    r"|(?P<placeholder><[^<>]+>|[-\u2013\u2014]+)"
)
"""What stands where a sentence is missing: nothing that can be seen; a tag alone, such as the
<range> of a Bible's verse that the line before holds, too; or dashes alone."""

LONGEST = 2**20
"""Characters that a sentence may have: in a longer one, line ends are missing."""


class Columns(NamedTuple):
    """Lines of several languages that are not known to be aligned yet."""

    text: Mapping[str, Sequence[str]]
    """By language."""
    places: Mapping[str, str]
    """What messages call a language's lines, before their number."""
    first: int = 1
    """Number of the first line."""


@dataclasses.dataclass(frozen=True)
class Parallel:
    """Sentences in several languages; the i-th sentences of all say the same.

    Raises:
        ValueError: If a language comes twice or has no name in UTF-8, languages differ in
            their number of sentences, or there are none; naming all that are empty, no more than
            a placeholder, or longer than `LONGEST`.
    """

    languages: tuple[str, ...]
    """Codes, in the order of `sentences`."""
    sentences: tuple[tuple[str, ...], ...]
    """Text as [lang][sent]."""
    source: str
    """Where the text comes from, for messages; not part of `hash`."""
    places: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    """What messages call a language's sentences, before their number; by default by its code."""
    numbers: Sequence[int] = dataclasses.field(default=(), compare=False, repr=False)
    """The number of each sentence where it comes from; by default from 1 on."""
    dropped: int = dataclasses.field(default=0, compare=False)
    """How many lines were left out, in every language, since they lack a sentence in one."""

    def __post_init__(self):
        if len(self.languages) != len(self.sentences):
            raise ValueError(
                f"{self.source}: every language must have its sentences, got "
                f"{len(self.languages)} languages and sentences of {len(self.sentences)}"
            )
        refuse_repeated(self.languages, f"{self.source}: a language must come once")
        nameless = [ascii(code) for code in self.languages if not (code.strip() and is_text(code))]
        refuse(f"{self.source}: a language must have a name in UTF-8, got", nameless, inline=True)
        _refuse_unequal(dict(zip(self.languages, self.sentences, strict=True)), self.source)
        advice = "mend it, or drop_incomplete=True leaves its line out in all languages"
        self._refuse(_lack, f"must not be empty or a placeholder ({advice})")
        self._refuse(_excess, f"must have at most {LONGEST} characters (do lines have their ends?)")

    def _refuse(self, problem: Callable[[str], str], rule: str) -> None:
        """Refuse the sentences that have a problem."""
        problems = [
            f"{self.name(language, index)}: {found}"
            for language, sentences in zip(self.languages, self.sentences, strict=True)
            for index, sentence in enumerate(sentences)
            if (found := problem(sentence))
        ]
        refuse(f"{self.source}: a sentence {rule}, got {len(problems)}:", problems)

    def name(self, language: str, index: int) -> str:
        """What messages call a sentence."""
        number = self.numbers[index] if self.numbers else index + 1
        return f"{self.places.get(language, f'{language} sentence')} {number}"

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
    drop_incomplete: bool = False,
) -> Parallel:
    r"""The aligned sentences of a folder or a table.

    A folder holds dev/<code>.dev or devtest/<code>.devtest as FLORES-200 does, dev/dev.<code> or
    dev/<code>.jsonl as FLORES+ does, such files themselves, or <code>.txt; one sentence a line. A
    table is a .tsv file whose first line names the languages (quotes mean nothing, as in FLORES
    text), or a .jsonl file with one object a line and the languages as keys.

    Lines end in LF, CRLF or CR, and in nothing else, since other line separators do occur inside
    sentences. A byte order mark at the start and white space at the end of a sentence are
    dropped, and nothing else. Any code goes; those of the paper are in `languages.PAPER`.

    Args:
        path: Folder, .tsv or .jsonl file.
        languages: Which, and in which order; if none, all, sorted.
        sentences: How many of each language, from the first on; all if None.
        split: "dev" or "devtest"; empty where there is just one, or none.
        drop_incomplete: Whether to leave out, in all these languages, the lines that are empty or
            a placeholder in one; `Parallel.dropped` counts them.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        OSError: If something there cannot be read.
        ValueError: If `path` is no corpus, has a single sentence, lacks what was asked for, or is
            damaged; the message names what and where.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no corpus at {path}: there is no such file or folder")
    source, columns = (_read_folder if path.is_dir() else _read_table)(path, languages, split)
    corpus = aligned(columns, source, drop_incomplete=drop_incomplete)
    return corpus if sentences is None else first(corpus, sentences)


def _read_folder(path: Path, languages: Sequence[str], split: str) -> tuple[str, Columns]:
    splits = find_splits(path)
    chosen = choose_split(splits, split, path)
    source = f"{path} ({chosen})" if chosen else str(path)
    codes = choose_languages(languages, splits[chosen], source)
    files = {code: splits[chosen][code] for code in codes}
    records = files[codes[0]].suffix == ".jsonl"
    text = read_texts(files, source) if records else read_lines(files)
    return source, Columns(text, {code: f"{file} line" for code, file in files.items()})


def _read_table(path: Path, languages: Sequence[str], split: str) -> tuple[str, Columns]:
    parsers = {".tsv": parse_tsv, ".jsonl": parse_records}
    if path.suffix not in parsers:
        archive = path.name.endswith(ARCHIVES)
        raise ValueError(
            f"a corpus must be a folder, a .tsv or a .jsonl file, got {path}; "
            + ("experiments.inputs.prepare unpacks it" if archive else "text is read by its folder")
        )
    choose_split([""], split, path)
    source = str(path)
    columns = parsers[path.suffix](filled(path), source)
    codes = choose_languages(languages, columns, source)
    spaced = [repr(code) for code in codes if " " in code.strip()]
    refuse(f"{source}: keys, or line 1, must name languages, without spaces, got", spaced)
    chosen = {code: columns[code] for code in codes}
    refuse_other_than_text(chosen, source)
    places = {code: f"{source}, {code}, line" for code in codes}
    return source, Columns(chosen, places, first=2 if path.suffix == ".tsv" else 1)


def aligned(columns: Columns, source: str, *, drop_incomplete: bool) -> Parallel:
    """Lines as aligned sentences, white space at their ends dropped.

    Args:
        columns: The lines, as many in every language.
        source: What messages call them.
        drop_incomplete: Whether to leave out, in all languages, the lines that are empty or a
            placeholder in one.

    Raises:
        ValueError: As from `Parallel`; or if there are less than two sentences.
    """
    text = {code: [line.rstrip() for line in lines] for code, lines in columns.text.items()}
    _refuse_unequal(text, source)
    kept = range(len(next(iter(text.values()))))
    if drop_incomplete:
        kept = [i for i in kept if not any(_lack(lines[i]) for lines in text.values())]
    dropped = len(next(iter(text.values()))) - len(kept)
    if len(kept) < 2:
        why = f"{dropped} lines were left out" if dropped else "lines end in LF, CRLF or CR"
        raise ValueError(
            f"{source}: every language must have two sentences or more, got {len(kept)}; {why}"
        )
    return Parallel(
        tuple(text),
        tuple(tuple(lines[i] for i in kept) for lines in text.values()),
        source,
        places=columns.places,
        numbers=tuple(columns.first + i for i in kept),
        dropped=dropped,
    )


def first(corpus: Parallel, count: int) -> Parallel:
    """The first `count` sentences of every language.

    Raises:
        ValueError: If there are not as many, or `count` is not positive.
    """
    available = len(corpus.sentences[0])
    if not 1 <= count <= available:
        raise ValueError(f"sentences must be in [1, {available}] for {corpus.source}, got {count}")
    sentences = tuple(lines[:count] for lines in corpus.sentences)
    return dataclasses.replace(corpus, sentences=sentences, numbers=corpus.numbers[:count])


def _lack(sentence: str) -> str:
    """What stands where a sentence is missing; empty if none is."""
    missing = MISSING.fullmatch(sentence)
    return (missing["placeholder"] or "empty") if missing else ""


def _excess(sentence: str) -> str:
    return f"{len(sentence)} characters" if len(sentence) > LONGEST else ""


def _refuse_unequal(text: Mapping[str, Sequence[str]], source: str) -> None:
    by_count: dict[int, list[str]] = {}
    for language, lines in text.items():
        blank = " (the last one blank)" if lines and not lines[-1].strip() else ""
        by_count.setdefault(len(lines), []).append(language + blank)
    if len(by_count) > 1:
        rarest_first = sorted(by_count.items(), key=lambda item: (len(item[1]), item[0]))
        raise ValueError(
            f"{source}: languages must have as many sentences as each other (choose with "
            "languages= if some are none), got "
            + "; ".join(f"{count} in {listed(names)}" for count, names in rarest_first)
        )
    if not any(by_count):
        raise ValueError(f"{source} has no sentences")
