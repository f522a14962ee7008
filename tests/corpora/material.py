"""Small corpora for the tests of what is written and read of them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ilo_jax.corpora.parallel import Parallel

TEXT = {
    "eng_Latn": [f"sentence {number}" for number in range(20)],
    "deu_Latn": [f"Satz {number}" for number in range(20)],
    "zho_Hans": [f"句子 {number}" for number in range(20)],
}


def write_corpus(folder: Path, suffix: str, text: dict[str, list[str]] = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, lines in text.items():
        (folder / f"{code}.{suffix}").write_bytes("".join(f"{s}\n" for s in lines).encode())
    return folder


def write_flores(folder: Path) -> Path:
    """A folder as FLORES-200 has it: two splits of different size, and files beside them."""
    write_corpus(folder / "devtest", "devtest")
    write_corpus(folder / "dev", "dev", {code: lines[::-2] for code, lines in TEXT.items()})
    (folder / "README").write_text("words")
    return folder


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def plain(corpus: Parallel) -> dict[str, list[str]]:
    return {code: list(text) for code, text in zip(corpus.languages, corpus.sentences, strict=True)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
