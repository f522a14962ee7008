"""Tokens on disk: whole or not there, written once, whenever the writer was killed."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

from ilo_jax.corpora import token_files
from ilo_jax.corpora.documents import Documents, read_documents
from ilo_jax.corpora.token_files import TokenFiles, document_ends, tokenized_documents
from tests.corpora.material import files, refusal
from tests.evaluation.material import BOS, EOS, tokenizer_of

TEXT = {"a": [f"word {i}" for i in range(60)], "b": [f"Wort {'x' * i}" for i in range(50)]}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of some documents, of which a few are cut up at a time."""
    monkeypatch.setattr(token_files, "SHARD", 100)
    monkeypatch.setattr(token_files, "AT_ONCE", 30)


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Documents:
    folder = tmp_path_factory.mktemp("text")
    for language, texts in TEXT.items():
        (folder / f"{language}.txt").write_text("\n".join(texts))
    return read_documents(folder, held_out=0.1, unit="line")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of(bos_token="<s>", eos_token="</s>")


def read(found: TokenFiles) -> list[list[int]]:
    """The tokens of each document."""
    return [
        part.tolist()
        for tokens, lengths in zip(found.shards, found.lengths, strict=True)
        for part in np.split(tokens, np.cumsum(lengths)[:-1])
    ]


def test_documents_to_learn_from_are_there_between_their_ends(documents, tokenizer, tmp_path):
    found = tokenized_documents(documents, tokenizer, tmp_path)
    assert list(found) == ["a", "b"]
    for language, each in found.items():
        texts = list(documents.learnt(language))
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert read(each) == [[BOS, *own, EOS] for own in ids]
        assert len(each.shards) > 3
        assert {type(shard) for shard in each.shards} == {np.memmap}
        assert {shard.dtype for shard in each.shards} == {np.dtype("uint16")}
        held_out = tokenizer(list(documents.held_out(language)), add_special_tokens=False)
        assert not [ids for ids in held_out["input_ids"] if [BOS, *ids, EOS] in read(each)]


def test_they_are_written_once(documents, tokenizer, tmp_path, monkeypatch):
    first = tokenized_documents(documents, tokenizer, tmp_path)
    before = files(tmp_path)
    monkeypatch.setattr(token_files, "_write", None)
    again = tokenized_documents(documents, tokenizer, tmp_path)
    assert files(tmp_path) == before
    assert [each.digest for each in again.values()] == [each.digest for each in first.values()]


def test_other_tokens_lie_elsewhere(documents, tokenizer, tmp_path):
    ended = tokenizer_of(template="$A </s>", bos_token="<s>", eos_token="</s>")
    source = Path(documents.source)
    with_less = read_documents(source, held_out=0.2, unit="line", languages=("a",))
    folders = 0
    for texts, words in ((documents, tokenizer), (documents, ended), (with_less, tokenizer)):
        found = tokenized_documents(texts, words, tmp_path)
        folders += len(found)
        assert len([each for each in tmp_path.iterdir() if each.is_dir()]) == folders


def test_a_large_vocabulary_has_larger_tokens(documents, tokenizer, tmp_path):
    words = {chr(i): i for i in range(128)} | {f"word {i}": i for i in range(128, 2**16)}
    words |= {"<s>": 2**16, "</s>": 2**16 + 1}
    large = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab=words, merges=[])), bos_token="<s>"
    )
    large.eos_token = "</s>"
    found = tokenized_documents(documents, large, tmp_path)
    assert {shard.dtype for shard in found["a"].shards} == {np.dtype("uint32")}
    assert read(found["a"])[0][-1] == 2**16 + 1


class Killed(BaseException):
    """What stands for SIGKILL: nothing catches it."""


def test_a_writer_killed_at_any_write_leaves_no_half_file_and_is_gone_on_with(
    documents, tokenizer, tmp_path, monkeypatch
):
    expected = tokenized_documents(documents, tokenizer, tmp_path / "whole")
    final = {k: v for k, v in files(tmp_path / "whole").items() if k.endswith((".npy", ".json"))}
    save, replace = np.save, Path.replace
    calls = itertools.count()
    end = 0

    def killed(done: bool) -> None:
        if next(calls) == end:
            raise Killed(done)

    def save_half(file, array) -> None:
        file.write_bytes(b"half")
        killed(False)
        file.unlink()
        save(file, array)

    def replace_or_not(self, other):
        killed(False)
        result = replace(self, other)
        killed(True)
        return result

    monkeypatch.setattr(np, "save", save_half)
    monkeypatch.setattr(Path, "replace", replace_or_not)
    own = tmp_path / "killed"
    kills = 0
    while True:
        calls, end = itertools.count(), 2 if kills % 2 else 7
        try:
            found = tokenized_documents(documents, tokenizer, own)
            break
        except Killed:
            kills += 1
            left = {k: v for k, v in files(own).items() if k.endswith((".npy", ".json"))}
            assert left.items() <= final.items()
    assert kills > 10
    assert {name: each.digest for name, each in found.items()} == {
        name: each.digest for name, each in expected.items()
    }
    assert [read(each) for each in found.values()] == [read(each) for each in expected.values()]


def test_what_stands_around_documents():
    roles = {"bos_token": "<s>", "eos_token": "</s>"}
    assert document_ends(tokenizer_of(**roles)) == ([BOS], [EOS])
    assert document_ends(tokenizer_of(template="<s> $A", **roles)) == ([BOS], [EOS])
    assert document_ends(tokenizer_of(template="<s> $A </s>", **roles)) == ([BOS], [EOS])
    assert document_ends(tokenizer_of(eos_token="</s>")) == ([EOS], [EOS])
    assert document_ends(tokenizer_of(template="<s> $A </s>")) == ([BOS], [EOS])


def test_tokenizers_that_cannot_end_a_document_or_are_slow_are_refused(documents, tmp_path):
    assert refusal(lambda: document_ends(tokenizer_of(bos_token="<s>"))) == (
        "the tokenizer must have an EOS token to end documents with, got none"
    )

    message = refusal(lambda: tokenized_documents(documents, ByT5Tokenizer(), tmp_path))
    assert message == (
        "documents are cut up by a fast tokenizer, one with a tokenizer.json, got a "
        "ByT5Tokenizer; convert it with transformers"
    )


def test_text_that_changes_meanwhile_is_refused(tokenizer, tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("one\ntwo")
    documents = read_documents(tmp_path, held_out=0.0, unit="line")
    file.write_text("one\ntwo\nthree")
    assert refusal(lambda: tokenized_documents(documents, tokenizer, tmp_path / "tokens")) == (
        f"{tmp_path}: the text of a must stay as it is while it is read, got 3 documents to learn "
        "from that were 2; start again"
    )


def test_the_record_holds_what_determines_the_tokens(documents, tokenizer, tmp_path):
    tokenized_documents(documents, tokenizer, tmp_path)
    records = [json.loads(file.read_text()) for file in tmp_path.glob("*/whole.json")]
    assert {record["key"]["text"] for record in records} == {
        each.hash for each in documents.census.values()
    }
