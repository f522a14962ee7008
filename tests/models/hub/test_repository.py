import json
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from ilo_jax.models.hub import repository


def test_fingerprint_passes_over_folders(tiny, tmp_path):
    folder = Path(shutil.copytree(tiny("llama-gqa").folder, tmp_path / "model"))
    expected = repository.fingerprint(folder)
    (folder / "tokenizer-files").mkdir()
    assert repository.fingerprint(folder) == expected


def test_config_must_be_there(copied):
    folder = copied("llama-gqa")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=f"^no config.json in {re.escape(str(folder))}$"):
        repository.folder_config(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": ', "is not JSON: Expecting value"),
        ("", "is not JSON: Expecting value"),
        ("[]", "must hold a JSON object, got list$"),
        ("3", "must hold a JSON object, got int$"),
    ],
)
def test_config_must_be_a_json_object(copied, text, message):
    file = copied("llama-gqa") / "config.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"^{re.escape(str(file))} {message}"):
        repository.folder_config(file.parent)


def test_config_with_an_unknown_key_is_refused(copied):
    file = copied("llama-gqa") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"qk_norm": True}))
    with pytest.raises(ValueError, match=r"gqa: cannot read config.json of model_type 'llama':\n"):
        repository.folder_config(file.parent)


def test_folder_resolves_to_itself(tiny, monkeypatch):
    folder = tiny("llama-gqa").folder
    assert repository.resolve(str(folder)) == folder
    monkeypatch.setenv("HOME", str(folder.parent))
    assert repository.resolve(f"~/{folder.name}") == folder


@pytest.mark.parametrize("model", ["", "gpt2", "a/b/c", "owner/", "owner/na me", "./no/where"])
def test_malformed_id_is_refused(model):
    message = f"model must be a folder or a hub id owner/name, got {model!r}"
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(message)}$"):
        repository.resolve(model)


@pytest.mark.parametrize("model", ["nobody-here/no-model", "nobody-here/no-model@v1", "-a/b-"])
def test_unknown_id_is_refused(model):
    with pytest.raises(FileNotFoundError, match=f"^no folder '{model}' here, and the hub says: "):
        repository.resolve(model)


@pytest.mark.parametrize(
    ("model", "name", "revision"),
    [("owner/name", "owner/name", None), ("owner/n-1.0@refs/pr/3", "owner/n-1.0", "refs/pr/3")],
)
def test_only_what_is_read_is_fetched(monkeypatch, tmp_path, model, name, revision):
    def fetch(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    asked = []
    monkeypatch.setattr(repository.huggingface_hub, "snapshot_download", fetch)
    assert repository.resolve(model) == tmp_path
    assert asked == [(name, revision, repository.FETCHED)]
    unread = ["modeling.py", "pytorch_model.bin", "model.pt", "consolidated.00.pth", "tf_model.h5"]
    assert not [name for name in unread if any(fnmatch(name, p) for p in repository.FETCHED)]


def test_fingerprint_changes_with_one_byte(copied):
    folder = copied("llama-gqa")
    before = repository.fingerprint(folder)
    assert before.keys() == {"config.json", "model.safetensors"}
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    after = repository.fingerprint(folder)
    assert after["config.json"] == before["config.json"]
    assert after["model.safetensors"] != before["model.safetensors"]


def test_fingerprint_covers_the_tokenizer_and_no_prose(copied):
    folder = copied("llama-gqa")
    before = repository.fingerprint(folder)
    (folder / "README.md").write_text("prose")
    assert repository.fingerprint(folder) == before
    (folder / "tokenizer.json").write_text("{}")
    empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert repository.fingerprint(folder) == before | {"tokenizer.json": empty}


def test_tokenizer_is_that_of_the_folder(tokenized):
    assert repository.load_tokenizer(tokenized)("one shared space")["input_ids"] == [1, 0, 2]


def test_tokenizer_with_code_of_its_own_is_refused(tokenized, monkeypatch):
    """Asked at a terminal, transformers would offer to run it."""
    monkeypatch.setattr("builtins.input", lambda _: "y")
    (tokenized / "mine.py").write_text("raise SystemExit('the code of the folder was run')")
    file = tokenized / "tokenizer_config.json"
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    with pytest.raises(ValueError, match="contains custom code which must be executed"):
        repository.load_tokenizer(tokenized)
