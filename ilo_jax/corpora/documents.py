"""Text of single languages, document by document: what is learnt from, and what is held out."""

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from ilo_jax.corpora import parallel
from ilo_jax.corpora.examples import LONGEST
from ilo_jax.corpora.layouts import choose_languages
from ilo_jax.corpora.monolingual import Piece, Unit, find_texts
from ilo_jax.processes import quiet
from ilo_jax.refusals import refuse


class Census(NamedTuple):
    """How much text there is of a language."""

    learnt: int
    """Documents to learn from."""
    learnt_bytes: int
    """Their bytes in UTF-8."""
    held_out: int
    """Documents that are held out."""
    held_out_bytes: int
    lowest: float
    """The smallest `place` of a document: with a larger share to be held out, one is."""
    hash: str
    """SHA-256 of all documents, in order."""


@dataclasses.dataclass(frozen=True)
class Documents:
    """Documents by language, of which none is in memory: they are read anew each time."""

    pieces: Mapping[str, Sequence[Piece]]
    """Of each language, in order."""
    census: Mapping[str, Census]
    """Of each language."""
    held_out_share: float
    """Documents with a smaller `place` are held out."""
    source: str
    """Where the text comes from, for messages."""

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages, in order."""
        return tuple(self.pieces)

    def learnt(self, language: str) -> Iterator[str]:
        """Yield the documents of a language to learn from.

        Raises:
            OSError: If a file cannot be read any more.
            ValueError: If one is damaged by now.
        """
        return (text for text in self._all(language) if place(text) >= self.held_out_share)

    def held_out(self, language: str) -> Iterator[str]:
        """Yield the documents of a language that nothing may learn from.

        Raises:
            OSError: If a file cannot be read any more.
            ValueError: If one is damaged by now.
        """
        return (text for text in self._all(language) if place(text) < self.held_out_share)

    def _all(self, language: str) -> Iterator[str]:
        return (text for piece in self.pieces[language] for text in piece.stream())


def place(text: str, *, of: str = "held out") -> float:
    """The place in [0, 1) that a text has by its digest alone: the same for equal texts.

    Args:
        text: Any.
        of: What places are for: for different things, they are independent of each other.
    """
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=of.encode()).digest()
    return (int.from_bytes(digest) >> 11) / 2**53


def read_documents(
    path: str | Path,
    *,
    held_out: float,
    languages: Sequence[str] = (),
    unit: Unit = "paragraph",
    split: str = "",
) -> Documents:
    r"""The documents of a folder, a file or a prepared dataset, all of them looked at once.

    - A folder with a file or a folder for each language, whose name is the language's: .txt files,
      or .jsonl files of one object with a "text" a line. What else is in such objects, and what
      has another suffix, is for others.
    - A .jsonl file of objects with "language" and "text".
    - The folder of a prepared TFDS dataset, in array_record files, with these features.

    Lines of .txt files end in LF, CRLF or CR, and a byte order mark is dropped. Which documents
    are held out, their text alone decides: another order, other languages or more text change
    nothing about it, and equal documents are held out together.

    Args:
        path: Of any of these.
        held_out: The share of documents to be held out, from 0 to below 1.
        languages: Which, and in which order; if none, all, sorted.
        unit: What of a .txt file is a document: a paragraph, up to a line of nothing but white
            space, or every line.
        split: Of a dataset; may be empty where there is just one.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        OSError: If something there cannot be read.
        ValueError: If it is none of these, lacks the split or a language that was asked for, or if
            the share is outside its range; naming all languages without text, files that are
            damaged, documents longer than `LONGEST` characters, and languages of which nothing
            would be held out or nothing learnt.
    """
    if not 0 <= held_out < 1:
        raise ValueError(f"the share of documents held out must be in [0, 1), got {held_out}")
    every = find_texts(Path(path), unit=unit, split=split)
    chosen = choose_languages(languages, every, str(path))
    pieces = {language: every[language] for language in chosen}
    census = _counted(pieces, held_out, str(path))
    _refuse_one_sided(census, held_out, str(path))
    return Documents(pieces, census, held_out, str(path))


def sample_documents(*, held_out: float, languages: Sequence[str] = ()) -> Documents:
    """The corpus that comes with the package, each of its sentences a document.

    Args:
        held_out: The share of documents to be held out.
        languages: Which, and in which order; if none, all, sorted.

    Raises:
        ValueError: As from `read_documents`.
    """
    return read_documents(parallel.SAMPLE, held_out=held_out, languages=languages, unit="line")


def _counted(
    pieces: Mapping[str, Sequence[Piece]], held_out: float, source: str
) -> dict[str, Census]:
    """The census of each language."""
    problems: list[str] = []
    shown = tqdm(pieces.items(), "documents", leave=False, disable=quiet())
    census = {language: _census(each, held_out, problems) for language, each in shown}
    refuse(f"{source}: text must be whole, got", problems)
    empty = [language for language, each in census.items() if each.learnt + each.held_out == 0]
    refuse(f"{source}: a language must have text, got none in", empty, inline=True)
    return census


def _census(pieces: Sequence[Piece], held_out: float, problems: list[str]) -> Census:
    """The census of one language; what is wrong with it is added to `problems`."""
    counts, sizes, lowest, digest = [0, 0], [0, 0], 1.0, hashlib.sha256()
    for text in _checked(pieces, problems):
        data, own = text.encode(), place(text)
        counts[own < held_out] += 1
        sizes[own < held_out] += len(data)
        lowest = min(lowest, own)
        digest.update(len(data).to_bytes(8) + data)
    learnt, kept = zip(counts, sizes, strict=True)
    return Census(*learnt, *kept, lowest, digest.hexdigest())


def _checked(pieces: Sequence[Piece], problems: list[str]) -> Iterator[str]:
    """Yield all documents; those too long, and files that cannot be read, go to `problems`."""
    for piece in pieces:
        try:
            number = 0
            for number, text in enumerate(piece.stream(), 1):
                if len(text) > LONGEST:
                    problems.append(
                        f"{piece.name}, document {number}: {len(text)} characters, of at most "
                        f"{LONGEST} (a blank line ends one)"
                    )
                yield text
            if not number:
                problems.append(f"{piece.name}: no text")
        except ValueError as error:
            problems.append(str(error))


def _refuse_one_sided(census: Mapping[str, Census], held_out: float, source: str) -> None:
    """Refuse languages of which all is held out, or nothing though something should be."""
    whole = [language for language, each in census.items() if not each.learnt]
    what = f"a language must have a document to learn from; with held_out {held_out}, all are in"
    refuse(f"{source}: {what}", whole, inline=True)
    none = [language for language, each in census.items() if held_out and not each.held_out]
    least = math.ceil(max(each.lowest for each in census.values()) * 1e4) / 1e4
    refuse(
        f"{source}: a document of every language must be held out, as from a held_out of "
        f"{least:g} up; with {held_out}, none is in",
        none,
        inline=True,
    )
