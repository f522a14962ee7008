"""The files that a tokenizer reads, and what is said where it cannot."""

import ast
import importlib.util
import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer, models
from transformers import PhobertTokenizer, PreTrainedTokenizerFast
from transformers.models.auto import tokenization_auto

from ilo_jax.models.hub.repository import TOKENIZER
from ilo_jax.models.hub.tokenizer import load_tokenizer, tokenizer_files

WHOLE = "take its files whole from where the model came from"
CONVERT = (
    ", or convert it where that is installed, with transformers' "
    "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
)
SENTENCEPIECE = "sentencepiece: pip install -e '.[sentencepiece]'" + CONVERT
TIKTOKEN = "tiktoken: pip install -e '.[tiktoken]'" + CONVERT
CODES = "#version: 0.2\nt h 1\ne n</w> 1\n"


def named(kind: object) -> str:
    """A tokenizer_config.json that names its class."""
    return json.dumps({"tokenizer_class": kind})


def folder_of(place: Path, files: Mapping[str, str]) -> Path:
    """A folder that has these files, by name."""
    for name, text in files.items():
        (place / name).write_text(text)
    return place


# What is read, hashed, carried and fetched


def declared(module: Path) -> Iterator[str]:
    """Yield the names of the files that a module of transformers says its tokenizers read."""
    words = {}
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            words[node.targets[0].id] = node.value
    for name, value in words.items():
        if name.lower() == "vocab_files_names" and isinstance(value, ast.Dict):
            found = (words[v.id] if isinstance(v, ast.Name) else v for v in value.values)
            yield from (ast.literal_eval(constant) for constant in found)


def test_the_patterns_are_of_every_file_that_any_class_of_transformers_declares():
    """Of its source, so that classes are covered whose packages are not installed."""
    root = Path(transformers.__file__).parent
    names = {name for module in root.rglob("tokenization_*.py") for name in declared(module)}
    assert {"bpe.codes", "source.spm", "spiece.model", "vocab-src.json", "word_shape.json"} < names
    assert len(names) > 20
    # What its reading of a folder looks for beside what classes declare.
    names |= {"tekken.json", "tiktoken.model", "tokenizer.model.v3", "tokenizer.4.0.0.json"}
    names |= {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
    assert not [name for name in names if not any(fnmatch(name, p) for p in TOKENIZER)]


def test_the_patterns_are_of_no_other_file_of_a_repository():
    others = "config.json generation_config.json README.md model.safetensors modeling.py".split()
    others += ["tokenization_mine.py", "model.safetensors.index.json", "preprocessor_config.json"]
    assert not [name for name in others if any(fnmatch(name, p) for p in TOKENIZER)]


def test_files_that_a_class_of_tomorrow_declares_are_among_them(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, dict.fromkeys(["vocab.txt", "codes.7", "README.md"], ""))
    usual = ["tokenizer_config.json", "vocab.txt"]
    folder_of(folder, {"tokenizer_config.json": named("PhobertTokenizer")})
    assert [file.name for file in tokenizer_files(folder)] == usual
    names = {"vocab_file": "vocab.txt", "merges_file": "codes.7"}
    monkeypatch.setattr(PhobertTokenizer, "vocab_files_names", names)
    assert [file.name for file in tokenizer_files(folder)] == ["codes.7", *usual]
    monkeypatch.undo()
    settings = {"lexicon_file": "codes.7", "other_files": ["../README.md", 3], "more_file": None}
    folder_of(folder, {"tokenizer_config.json": json.dumps(settings)})
    assert [file.name for file in tokenizer_files(folder)] == ["codes.7", *usual]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("tokenizer_config.json", named("PhobertTokenizer")),
        ("config.json", named("PhobertTokenizer")),
        ("config.json", '{"model_type": "mine"}'),
    ],
)
def test_classes_are_named_by_settings_config_or_model_type(tmp_path, monkeypatch, file, text):
    monkeypatch.setattr(PhobertTokenizer, "vocab_files_names", {"merges_file": "codes.7"})
    monkeypatch.setitem(tokenization_auto.TOKENIZER_MAPPING_NAMES, "mine", "PhobertTokenizer")
    folder = folder_of(tmp_path, {"codes.7": "", file: text})
    assert "codes.7" in [found.name for found in tokenizer_files(folder)]


@pytest.mark.parametrize("kind", ["MarianTokenizer", "Nobody", 3])
def test_classes_that_cannot_be_imported_are_passed_over(tmp_path, kind):
    settings = named(kind)
    folder = folder_of(tmp_path, {"source.spm": "", "tokenizer_config.json": settings})
    names = [file.name for file in tokenizer_files(folder)]
    assert names == ["source.spm", "tokenizer_config.json"]


# What is said where it cannot be read


@pytest.mark.parametrize(
    ("files", "error", "said"),
    [
        ({}, FileNotFoundError, f"no tokenizer in {{}}: {WHOLE}"),
        (
            {"tokenizer_config.json": "{}"},
            FileNotFoundError,
            "no vocabulary of the tokenizer in {}: it must hold tokenizer.json or vocab.txt; "
            + WHOLE,
        ),
        (
            {
                "tokenizer_config.json": named("RobertaTokenizer"),
                "vocab.json": "{}",
            },
            FileNotFoundError,
            "no vocabulary of the tokenizer in {}: it must hold tokenizer.json or vocab.json and "
            f"merges.txt; {WHOLE}",
        ),
        (
            {
                "tokenizer_config.json": named("PhobertTokenizer"),
                "vocab.txt": "",
                "tokenizer.json": "{}",
            },
            FileNotFoundError,
            "no vocabulary of the tokenizer in {}: it must hold vocab.txt and bpe.codes; " + WHOLE,
        ),
        (
            # Which class reads tokenizer.json only, and else knows no word.
            {"tokenizer_config.json": named("XGLMTokenizer"), "spiece.model": ""},
            FileNotFoundError,
            f"no vocabulary of the tokenizer in {{}}: it must hold tokenizer.json; {WHOLE}",
        ),
        (
            {"tokenizer.json": '{"version": "1.0", ', "tokenizer_config.json": '{"a": 1,}'},
            ValueError,
            "cannot read the tokenizer in {}: tokenizer.json is not JSON: Expecting property name "
            "enclosed in double quotes: line 1 column 20 (char 19), tokenizer_config.json is not "
            "JSON: Expecting property name enclosed in double quotes: line 1 column 9 (char 8); "
            + WHOLE,
        ),
        (
            {"tokenizer.json": ""},
            ValueError,
            "cannot read the tokenizer in {}: tokenizer.json is not JSON: Expecting value: line 1 "
            f"column 1 (char 0); {WHOLE}",
        ),
        (
            {"tokenizer.json": "[]", "vocab.txt": ""},
            ValueError,
            f"cannot read the tokenizer in {{}}: TypeError: 'str' object cannot be "
            f"interpreted as an integer; {WHOLE} (tokenizer.json, vocab.txt), or upgrade "
            "transformers and tokenizers",
        ),
        (
            {"vocab.txt": "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"},
            ValueError,
            "{}/vocab.txt is a git-lfs pointer, not the file itself: run git lfs pull in {}",
        ),
    ],
    ids="none empty no-merges no-codes unread cut-json empty-json list-json pointer".split(),
)
def test_unreadable_tokenizer_is_told_by_folder_file_and_what_to_do(tmp_path, files, error, said):
    folder = folder_of(tmp_path, files | {"config.json": '{"model_type": "bert"}'})
    with pytest.raises(error, match=f"^{re.escape(said.replace('{}', str(folder)))}$"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    ("name", "kind", "package"),
    [
        ("spiece.model", "T5Tokenizer", SENTENCEPIECE),
        ("sentencepiece.bpe.model", "XLMRobertaTokenizer", SENTENCEPIECE),
        ("source.spm", "MarianTokenizer", SENTENCEPIECE),
        ("tiktoken.model", "TokenizersBackend", TIKTOKEN),
    ],
)
def test_an_absent_package_is_named_with_its_extra(
    tmp_path, monkeypatch, caplog, name, kind, package
):
    find = importlib.util.find_spec
    absent = {"sentencepiece", "tiktoken"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n in absent else find(n))
    settings = named(kind)
    files = {name: "broken", "tokenizer_config.json": settings}
    folder = folder_of(tmp_path, files | {"config.json": '{"model_type": "bert"}'})
    message = f"cannot read the tokenizer in {folder}: {name} needs {package}"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        load_tokenizer(folder)
    assert not caplog.records


def test_merges_decide_the_tokens(tmp_path):
    """As PhoBERT has it: a vocabulary and bpe.codes."""
    vocab = "".join(f"{word} 1\n" for word in "th@@ en t@@ h@@ e@@ n".split())
    files = {"vocab.txt": vocab, "bpe.codes": CODES, "config.json": "{}"}
    files["tokenizer_config.json"] = named("PhobertTokenizer")
    folder = folder_of(tmp_path, files)
    assert load_tokenizer(folder).tokenize("then") == ["th@@", "en"]
    folder_of(folder, {"bpe.codes": "#version: 0.2\n"})
    assert load_tokenizer(folder).tokenize("then") == ["t@@", "h@@", "e@@", "n"]


@pytest.mark.parametrize("dropout", [None, 0.0, 0.5])
def test_a_tokenizer_that_draws_is_refused(tmp_path, dropout):
    words = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    words.model.dropout = dropout
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder_of(tmp_path, {}))
    folder_of(tmp_path, {"config.json": "{}"})
    if not dropout:
        assert load_tokenizer(tmp_path)("abab")["input_ids"] == [2, 2]
        return
    message = (
        f"the tokenizer in {tmp_path} must give a text the same tokens each time, got a dropout of "
        "0.5 of its merges: set model.dropout of its tokenizer.json to null"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_tokenizer(tmp_path)
