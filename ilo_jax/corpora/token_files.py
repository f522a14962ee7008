"""Tokens of documents on disk: written once, killable at any moment, read a piece at a time.

The documents of a language are in a folder of their own, named by all that determines its tokens:
in shards, each of the tokens of its documents, one after the other, and of their lengths. A file is
whole or not there. The lengths come last, so that a shard is there if they are; `whole.json` says
that all of them are.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32, Integer
from tqdm import tqdm

from ilo_jax.corpora.documents import Documents
from ilo_jax.corpora.tokens import encoded
from ilo_jax.files import Key, key_digest, write_beside, write_text
from ilo_jax.processes import alone, quiet, together
from ilo_jax.recipes import digest_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WHOLE = "whole.json"

FORMAT = 1
"""Number of the recipe of these files: another number, other files."""

SHARD = 2**22
"""Tokens that a shard has at least, but for the last: what a killed run loses at most."""

AT_ONCE = 2**20
"""Characters of the documents that are cut into tokens at a time, at least."""


class Ends(NamedTuple):
    """The special tokens around every document."""

    before: list[int]
    """Those that the tokenizer puts first; or its BOS token, or else its EOS token."""
    after: list[int]
    """Those that it puts last; or its EOS token."""


class TokenFiles(NamedTuple):
    """The tokens of one language's documents, on disk."""

    shards: tuple[Integer[np.ndarray, " token"], ...]
    """Of each shard, mapped from its file."""
    lengths: tuple[Int32[np.ndarray, " document"], ...]
    """Tokens of each document of each shard, those around it included."""
    ends: Ends
    digest: str
    """Of all tokens and lengths."""


def document_ends(tokenizer: "PreTrainedTokenizerBase") -> Ends:
    """The special tokens that stand around every document.

    Args:
        tokenizer: Of the model.

    Raises:
        ValueError: If there is none to end one with.
    """
    one = next(encoded(["a"], tokenizer))
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    after = one.after or ([eos] if isinstance(eos, int) else [])
    if not after:
        raise ValueError("the tokenizer must have an EOS token to end documents with, got none")
    return Ends(one.before or ([bos] if isinstance(bos, int) else after), after)


def tokenized_documents(
    documents: Documents, tokenizer: "PreTrainedTokenizerBase", folder: Path
) -> dict[str, TokenFiles]:
    """The tokens of the documents to learn from, by language; written where they are not yet.

    All processes must call it, and see the folder; the first one writes.

    Args:
        documents: Of which those not held out.
        tokenizer: Of the model, a fast one.
        folder: Of the tokens of any texts and tokenizers; made if it is not there.

    Raises:
        OSError: If another run is writing there, or it cannot be written.
        RuntimeError: If another process failed.
        ValueError: If the tokenizer has nothing to end documents with, or is not a fast one, or
            text was changed since it was looked at.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"documents are cut up by a fast tokenizer, one with a tokenizer.json, got a "
            f"{type(tokenizer).__name__}; convert it with transformers"
        )
    keys = {name: _key(documents, name, tokenizer) for name in documents.languages}
    folders = {name: folder / key_digest(key) for name, key in keys.items()}
    together(lambda: folder.mkdir(parents=True, exist_ok=True), what=f"making {folder}")
    absent = [name for name, own in folders.items() if not (own / WHOLE).is_file()]
    with alone(str(folder)):
        what = f"writing tokens into {folder}"
        together(lambda: _write_all(documents, tokenizer, folders, keys, absent), what=what)
    ends = document_ends(tokenizer)
    return {name: _opened(own, ends) for name, own in folders.items()}


def _write_all(
    documents: Documents,
    tokenizer: "PreTrainedTokenizerBase",
    folders: dict[str, Path],
    keys: dict[str, Key],
    absent: Sequence[str],
) -> None:
    """Write the tokens of languages that have none yet, by the first process."""
    if jax.process_index():
        return
    sizes = [documents.census[name].learnt for name in absent]
    with tqdm(total=sum(sizes), desc="tokens", unit=" documents", disable=quiet()) as shown:
        for name in absent:
            shown.set_postfix_str(name)
            _write(documents, name, tokenizer, folders[name], keys[name], shown)


def _key(documents: Documents, language: str, tokenizer: "PreTrainedTokenizerBase") -> Key:
    """All that determines the tokens of a language's documents."""
    words = tokenizer.backend_tokenizer.to_str()  # pyright: ignore (a fast one)
    return {
        "format": FORMAT,
        "text": documents.census[language].hash,
        "held_out": documents.held_out_share,
        "tokenizer": digest_of([np.frombuffer(words.encode(), np.uint8)]),
        "tokenizers": version("tokenizers"),
        "ends": document_ends(tokenizer)._asdict(),
    }


def _write(
    documents: Documents,
    language: str,
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    key: Key,
    shown: tqdm,
) -> None:
    """Write what a folder lacks of the shards of a language, and at last that it is whole."""
    folder.mkdir(exist_ok=True)
    done = _lengths(folder)
    behind = sum(map(len, done))
    shown.update(behind)
    number = len(done)
    texts = itertools.islice(documents.learnt(language), behind, None)
    for number, shard in enumerate(_shards(texts, tokenizer), len(done) + 1):
        _write_shard(folder, number - 1, shard, small=len(tokenizer) <= 2**16)
        shown.update(len(shard))
    files = _opened_shards(folder, number)
    _refuse_changed(documents, language, sum(len(lengths) for _, lengths in files))
    digest = digest_of([array for pair in files for array in pair])
    write_text(folder / WHOLE, json.dumps({"key": key, "shards": number, "digest": digest}))


def _refuse_changed(documents: Documents, language: str, count: int) -> None:
    """Refuse tokens of a text that is not the one that was looked at any more."""
    if count != (known := documents.census[language].learnt):
        raise ValueError(
            f"{documents.source}: the text of {language} must stay as it is while it is read, got "
            f"{count} documents to learn from that were {known}; start again"
        )


def _shards(
    texts: Iterator[str], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[list[list[int]]]:
    """Yield the tokens of as many documents as make a shard."""
    ends, shard, size = document_ends(tokenizer), [], 0
    for batch in _batches(texts):
        found = tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]
        shard += [[*ends.before, *ids, *ends.after] for ids in found]
        size += sum(map(len, found))
        if size >= SHARD:
            yield shard
            shard, size = [], 0
    if shard:
        yield shard


def _batches(texts: Iterator[str]) -> Iterator[list[str]]:
    """Yield documents of `AT_ONCE` characters or more together."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_shard(folder: Path, number: int, shard: list[list[int]], *, small: bool) -> None:
    tokens = np.fromiter(itertools.chain.from_iterable(shard), np.uint16 if small else np.uint32)
    lengths = np.array([len(ids) for ids in shard], np.int32)
    for file, array in zip(_files(folder, number), (tokens, lengths), strict=True):
        write_beside(file, lambda beside, array=array: np.save(beside, array))


def _files(folder: Path, number: int) -> tuple[Path, Path]:
    """Where the tokens and the lengths of a shard are."""
    return folder / f"{number:05}.tokens.npy", folder / f"{number:05}.lengths.npy"


def _lengths(folder: Path) -> list[Int32[np.ndarray, "_"]]:
    """The lengths of the shards that are there."""
    files = (_files(folder, number)[1] for number in itertools.count())
    return [np.load(file) for file in itertools.takewhile(Path.is_file, files)]


def _opened_shards(
    folder: Path, count: int
) -> list[tuple[Integer[np.ndarray, "_"], Int32[np.ndarray, "_"]]]:
    files = (_files(folder, number) for number in range(count))
    return [(np.load(tokens, mmap_mode="r"), np.load(lengths)) for tokens, lengths in files]


def _opened(folder: Path, ends: Ends) -> TokenFiles:
    """The tokens in a folder that is whole."""
    record = json.loads((folder / WHOLE).read_bytes())
    shards, lengths = zip(*_opened_shards(folder, record["shards"]), strict=True)
    return TokenFiles(shards, lengths, ends, record["digest"])
