import json
import re
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from ilo_jax.models.hub import repository
from ilo_jax.models.hub.checkpoint import INDEX
from ilo_jax.models.hub.families import FAMILIES, read_config
from ilo_jax.models.hub.folder import open_folder


def test_fingerprint_passes_over_folders(tiny, tmp_path):
    folder = Path(shutil.copytree(tiny("llama-gqa").folder, tmp_path / "model"))
    expected = open_folder(folder).fingerprint
    (folder / "tokenizer-files").mkdir()
    assert open_folder(folder).fingerprint == expected


def test_config_must_be_there(copied):
    folder = copied("llama-gqa")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"^no config.json in {re.escape(str(folder))}$"):
        open_folder(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": ', "is not JSON: Expecting value"),
        ("", "is not JSON: Expecting value"),
        ("[]", "must hold a JSON object, got list$"),
        ("3", "must hold a JSON object, got int$"),
        ("[" * 100_000, "is not JSON: maximum recursion depth exceeded"),
    ],
)
def test_config_must_be_a_json_object(copied, text, message):
    file = copied("llama-gqa") / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} {message}"):
        open_folder(file.parent)


def test_config_with_an_unknown_key_is_refused(copied):
    file = copied("llama-gqa") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"qk_norm": True}))
    with pytest.raises(ValueError, match=r"gqa: cannot read config.json of model_type 'llama':\n"):
        open_folder(file.parent)


def test_unknown_key_says_what_to_do_and_may_be_ignored(copied, caplog):
    file = copied("llama-gqa") / "config.json"
    raw = json.loads(file.read_text())
    file.write_text(json.dumps(raw | {"moon": 1, "rope_thetta": 3.0, "quantization_config": {}}))
    message = (
        f"{file.parent}: cannot read config.json of model_type 'llama':\n"
        "  moon: unknown key\n"
        "  quantization_config: unknown key: quantised weights are not read; take those from "
        "before\n"
        "  rope_thetta: unknown key; there is rope_theta\n"
        "  if what is unknown changes nothing, go on with ignore_keys=moon,rope_thetta"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_folder(file.parent)
    file.write_text(json.dumps(raw | {"moon": 1, "temperature": 0.5}))
    with caplog.at_level("WARNING", logger="ilo_jax.models.hub.folder"):
        folder = open_folder(file.parent, ignore_keys=["moon"])
    assert folder.config == read_config(raw)
    assert folder.raw == raw | {"temperature": 0.5}
    assert folder.fingerprint["ignore_keys"] == "moon"
    assert caplog.messages == [f"{file.parent}: without effect in config.json: temperature"]


def test_key_that_is_read_cannot_be_ignored(tiny):
    path = tiny("llama-gqa").folder
    message = (
        f"{path}: ignore_keys must name keys of config.json that are not read, got hidden_size "
        "(is read)"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        open_folder(path, ignore_keys=["hidden_size"])


def test_fingerprint_changes_with_one_byte(copied):
    folder = copied("llama-gqa")
    before = open_folder(folder).fingerprint
    assert before.keys() == {"config.json", "model.safetensors"}
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    after = open_folder(folder).fingerprint
    assert after["config.json"] == before["config.json"]
    assert after["model.safetensors"] != before["model.safetensors"]


def test_an_index_beside_the_single_file_is_said_and_changes_nothing(copied, caplog):
    """It is not read: transformers takes the single file."""
    folder = copied("llama-gqa")
    before = open_folder(folder).fingerprint
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    with caplog.at_level("WARNING", logger="ilo_jax.models.hub.folder"):
        assert open_folder(folder).fingerprint == before
    assert caplog.messages == [f"{folder}: reading model.safetensors, not {INDEX} beside it"]


def test_git_lfs_pointer_in_place_of_the_config_is_refused(copied):
    folder = copied("llama-gqa")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "config.json").write_text(pointer)
    with pytest.raises(
        ValueError, match=r"config\.json is a git-lfs pointer, .*: run git lfs pull"
    ):
        open_folder(folder)


def test_adapter_alone_is_refused(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/base"}')
    with pytest.raises(ValueError, match="holds an adapter, not a model: merge it into owner/base"):
        open_folder(tmp_path)


def test_fingerprint_covers_the_tokenizer_and_no_prose(copied):
    folder = copied("llama-gqa")
    before = open_folder(folder).fingerprint
    (folder / "README.md").write_text("prose")
    assert open_folder(folder).fingerprint == before
    (folder / "tokenizer.json").write_text("{}")
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert open_folder(folder).fingerprint == before | {"tokenizer.json": empty}


def test_tokenizer_is_that_of_the_folder(tokenized):
    assert open_folder(tokenized).tokenizer("one shared space")["input_ids"] == [1, 0, 2]


def test_tokenizer_with_code_of_its_own_is_refused(tokenized, monkeypatch):
    """Asked at a terminal, transformers would offer to run it."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    (tokenized / "mine.py").write_text("raise SystemExit('the code of the folder was run')")
    file = tokenized / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        _ = open_folder(tokenized).tokenizer


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda tokenizer: {"model": tokenizer["model"]}, "KeyError: 'added_tokens'"),
        (
            lambda tokenizer: tokenizer | {"model": {"type": "Mine"}},
            "Exception: data did not match any variant",
        ),
    ],
    ids=["no added tokens", "unknown model"],
)
def test_damaged_tokenizer_is_refused(tokenized, change, cause):
    file = tokenized / "tokenizer.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    message = f"cannot read the tokenizer in {tokenized}: {cause}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}.*; take its files whole"):
        _ = open_folder(tokenized).tokenizer


def test_fingerprint_covers_what_the_class_of_the_tokenizer_reads(copied):
    folder = copied("llama-gqa")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PhobertTokenizer"}')
    before = open_folder(folder).fingerprint
    for name in ("vocab.txt", "bpe.codes", "tekken.json", "spiece.model", "source.spm"):
        (folder / name).write_text(name)
        after = open_folder(folder).fingerprint
        assert after.keys() - before.keys() == {name}
        before = after
    (folder / "bpe.codes").write_text("others")
    after = open_folder(folder).fingerprint
    assert [name for name in after if after[name] != before[name]] == ["bpe.codes"]


@pytest.mark.parametrize("pad", [1, 0, None])
@pytest.mark.parametrize("variant", ["roberta-model", "bert-model"])
def test_tokenizer_must_pad_with_the_token_that_positions_are_counted_from(copied, variant, pad):
    folder = copied(variant)
    words = Tokenizer(models.WordLevel({"<s>": 0, "<pad>": 1, "one": 2}, unk_token="<s>"))
    token = None if pad is None else ["<s>", "<pad>"][pad]
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token=token).save_pretrained(folder)
    opened = open_folder(folder)
    assert opened.config.limits.padding == (1 if variant == "roberta-model" else None)
    if variant == "bert-model" or pad != 0:
        assert opened.tokenizer.pad_token_id == pad
        return
    message = (
        f"{folder}: pad_token_id of config.json must be 0, that of the tokenizer's '<s>', got 1: "
        "the model counts positions from it; give both the one that it was trained with"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        _ = opened.tokenizer


def test_absent_tokenizer_is_an_absent_file(tiny):
    folder = open_folder(tiny("llama-gqa").folder)
    message = f"no tokenizer in {folder.path}: take its files whole from where the model came from"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        _ = folder.tokenizer


def test_what_is_costly_is_done_once(tokenized, monkeypatch):
    folder = open_folder(tokenized)
    assert folder.tokenizer is folder.tokenizer
    before = folder.fingerprint
    (tokenized / "model.safetensors").write_bytes(b"")
    assert folder.fingerprint is before


def test_folder_is_what_its_config_says(tiny):
    path = tiny("llama-gqa").folder
    folder = open_folder(str(path))
    assert (folder.path, folder.name) == (path, path.name)
    assert folder.raw == json.loads((path / "config.json").read_text())
    assert folder.config == read_config(folder.raw)
    assert folder.family is FAMILIES["llama"]
    assert not folder.has_tokenizer


@pytest.mark.parametrize("asked", ["owner/name", "owner/name@v1"])
def test_folder_of_an_id_has_the_id_as_its_name(tiny, monkeypatch, asked):
    path = tiny("llama-gqa").folder
    fetch = lambda *_, **__: str(path)  # noqa: E731
    monkeypatch.setattr(repository.huggingface_hub, "snapshot_download", fetch)
    folder = open_folder(asked)
    assert (folder.path, folder.name) == (path, asked)


def test_sample_is_the_model_that_ships(tiny, monkeypatch):
    path = tiny("bert-model").folder
    monkeypatch.setattr(repository.e5_small, "folder", lambda: path)
    folder = open_folder("sample")
    assert (folder.path, folder.name) == (path, path.name)
