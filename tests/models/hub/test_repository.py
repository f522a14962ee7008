import re
from fnmatch import fnmatch

import pytest

from ilo_jax.models.hub import repository


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
    assert repository.resolve(model, whole=False) == tmp_path
    assert asked[1:] == [(name, revision, ["config.json", "adapter_config.json"])]
    unread = ["modeling.py", "pytorch_model.bin", "model.pt", "consolidated.00.pth", "tf_model.h5"]
    assert not [name for name in unread if any(fnmatch(name, p) for p in repository.FETCHED)]
