"""Where the files of a corpus lie: the layouts of folders, their splits and their languages."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ilo_jax.corpora.languages import other_code
from ilo_jax.corpora.lines import refuse_repeated
from ilo_jax.refusals import listed, refuse

SPLITS = ("dev", "devtest")
"""Splits of FLORES-200 and FLORES+: names of folders, and parts of the names of their files."""

FLORES_CODE = "[a-z][a-z][a-z]_[A-Z][a-z][a-z][a-z]*"
"""Codes of both, such as eng_Latn, as a pattern of file names."""


class Layout(NamedTuple):
    """Where files may be, with the name of their split in place of {split}."""

    folder: str
    """Below that of the corpus."""
    before: str
    """What comes before the code in the name of a file."""
    after: str
    code: str = "*"
    """A pattern of the code."""


SPLIT = (
    Layout("{split}", "", ".{split}"),  # FLORES-200
    Layout("", "", ".{split}"),
    Layout("{split}", "{split}.", "", FLORES_CODE),  # FLORES+ as it is released
    Layout("", "{split}.", "", FLORES_CODE),
    Layout("{split}", "", ".jsonl"),  # FLORES+ as the hub has it
    Layout("{split}", "", ".txt"),
)
"""Layouts of a split, of which the first one with files counts."""

PLAIN = (Layout("", "", ".txt"), Layout("", "", ".jsonl"))
"""Layouts of a corpus without splits."""

HOLDS = (
    "<code>.txt or <code>.jsonl files, or <code>.dev, dev.<code> (or devtest) files, all of them "
    "also in folders dev and devtest"
)
"""The layouts, for messages."""


def find_splits(folder: Path) -> dict[str, dict[str, Path]]:
    """{split: {language: file}}; the split "" is of files without one, where there is no other.

    A FLORES-200 folder may well have a licence in a text file beside its splits.

    Raises:
        ValueError: Naming the links to nothing among the files.
    """
    refuse_links_to_nothing([folder / split for split in SPLITS])
    found = {split: _first(folder, SPLIT, split) for split in SPLITS}
    found = {split: files for split, files in found.items() if files}
    plain = {} if found else _first(folder, PLAIN, "")
    return found or ({"": plain} if plain else {})


def _first(folder: Path, layouts: Sequence[Layout], split: str) -> dict[str, Path]:
    """The files of the first layout that has some, by language."""
    found = (_files(folder, layout, split) for layout in layouts)
    return next(filter(None, found), {})


def _files(folder: Path, layout: Layout, split: str) -> dict[str, Path]:
    """The files of a layout by language, hidden ones left out."""
    below, before, after = (part.format(split=split) for part in layout[:3])
    named = {
        file.name.removeprefix(before).removesuffix(after): file
        for file in sorted((folder / below).glob(f"{before}{layout.code}{after}"))
    }
    named = {code: file for code, file in named.items() if code and not code.startswith(".")}
    refuse_links_to_nothing(named.values())
    return {code: file for code, file in named.items() if file.is_file()}


def refuse_links_to_nothing(paths: Iterable[Path]) -> None:
    """Stop if links among files or folders lead nowhere, or in a circle: text would be missed.

    Raises:
        ValueError: Naming all of them.
    """
    broken = [str(path) for path in paths if path.is_symlink() and not path.exists()]
    refuse("a file must not be a link to nothing (mend or remove it), got", broken)


def choose_split(splits: Collection[str], split: str, path: Path) -> str:
    """The split that was asked for, or else the only one.

    Raises:
        ValueError: If it is not there, if there are several and none was asked for, or none.
    """
    if not splits:
        names = sorted(file.name for file in path.iterdir())
        parquet = "; parquet must be converted" if next(path.rglob("*.parquet"), None) else ""
        raise ValueError(
            f"{path} holds no corpus: it must hold {HOLDS}; it holds {listed(names) or 'nothing'}"
            f"{parquet}"
        )
    if split in splits:
        return split
    if split:
        there = ", ".join(filter(None, splits)) or "no splits: leave split empty"
        raise ValueError(f"{path} has no split {split!r}: it has {there}")
    if len(splits) > 1:
        raise ValueError(f"{path} has the splits {', '.join(splits)}: choose one with split=")
    return next(iter(splits))


def choose_languages(asked: Sequence[str], there: Collection[str], source: str) -> list[str]:
    """The languages that were asked for, or else all that are there, sorted.

    One that FLORES-200 and FLORES+ call differently may be asked for by either code; what is
    there keeps its own.

    Raises:
        ValueError: Naming all that are not there, and what is near, or that come twice.
    """
    codes = [code if code in there else other_code(code) for code in asked]
    missing = [own for own, code in zip(asked, codes, strict=True) if code not in there]
    if missing:
        named = [code + _near(code, sorted(there)) for code in missing]
        raise ValueError(
            f"{source} has no {', '.join(named)}; it has {len(there)} languages: "
            f"{listed(sorted(there))}; choose with languages=, or leave it empty for all"
        )
    refuse_repeated(codes, f"{source}: a language must come once")
    return codes or sorted(there)


def _near(code: str, there: Sequence[str]) -> str:
    """A remark on languages with a similar code, whatever their script; may be empty."""
    stems = list(dict.fromkeys(name.split("_")[0] for name in there))
    close = difflib.get_close_matches(code.split("_")[0], stems, n=3)
    near = [name for stem in close for name in there if name.split("_")[0] == stem]
    return f" (near: {', '.join(near[:3])})" if near else ""
