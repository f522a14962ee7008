"""Series by an index of ours, by folders that others left, and by revisions of the hub."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from ilo_jax.models.hub import folder as folders
from ilo_jax.models.hub import series
from ilo_jax.models.hub.presets import Sizes, preset
from ilo_jax.models.hub.series import Checkpoint, folder_name, opened, read_series, weights_digest

RAW = preset("llama", Sizes(dim=8, layers=1, heads=1, vocab=10, positions=8), {})


def model(folder: Path, value: float) -> str:
    """Write a model folder whose weights are told apart by a number; no test loads them."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(RAW))
    save_file({"w": np.full(3, value, np.float32)}, folder / "model.safetensors")
    return str(folder)


@pytest.fixture
def published(tmp_path) -> Callable[..., Path]:
    """Return what writes folders of checkpoints, by names and values of weights."""

    def write(**values: float) -> Path:
        for name, value in values.items():
            model(tmp_path / name, value)
        return tmp_path

    return write


@pytest.fixture
def indexed(tmp_path) -> Callable[..., Path]:
    """Return what writes an index of checkpoints, by steps, with losses and digests."""

    def write(losses: Sequence[float], digests: Sequence[str] = "abcdefgh") -> Path:
        entries = [
            {"step": 2**n, "folder": folder_name(2**n), "loss": loss, "weights": digest}
            for n, (loss, digest) in enumerate(zip(losses, digests, strict=False))
        ]
        (tmp_path / "series.json").write_text(json.dumps({"checkpoints": entries[::-1]}))
        return tmp_path

    return write


def test_folders_of_others_are_read_in_the_order_of_their_steps(published):
    where = published(step1000=1, step20=2, global_step300=3, main=4)
    (where / "step7").write_text("a file")
    found = read_series(str(where))
    assert [one.step for one in found.checkpoints] == [20, 300, 1000]
    assert found.tokenizer == str(where / "step1000")
    seen = [(one.step, folder.path.name, one.weights) for one, folder in opened(found)]
    assert [each[:2] for each in seen] == [
        (20, "step20"),
        (300, "global_step300"),
        (1000, "step1000"),
    ]
    assert [each[2] for each in seen] == [
        weights_digest(where / name) for name in ("step20", "global_step300", "step1000")
    ]


def test_only_the_steps_that_are_asked_for_are_there(published):
    where = published(step1=1, step2=2, step4=3)
    assert [one.step for one in read_series(str(where), steps=[4, 1]).checkpoints] == [1, 4]
    with pytest.raises(ValueError, match=r"steps of .* must be among its 3; got 3, 5$"):
        read_series(str(where), steps=[1, 3, 5])


def test_an_index_of_ours_outranks_folders_and_tells_what_it_knows(indexed):
    where = indexed([3.0, 2.5, 2.6])
    (where / "step0000008").mkdir()
    found = read_series(str(where))
    assert found.checkpoints == (
        Checkpoint(1, str(where / "step0000001"), "a", 3.0),
        Checkpoint(2, str(where / "step0000002"), "b", 2.5),
        Checkpoint(4, str(where / "step0000004"), "c", 2.6),
    )


def test_two_steps_with_equal_weights_are_refused_by_name(indexed, published):
    with pytest.raises(ValueError, match=r"equal weights at steps 1 and 4$"):
        read_series(str(indexed([3.0, 2.5, 2.0], "aba")))
    where = published(**{"others/step1": 1, "others/step2": 2, "others/step3": 1}) / "others"
    walk = opened(read_series(str(where)))
    assert [next(walk)[0].step, next(walk)[0].step] == [1, 2]
    with pytest.raises(ValueError, match=r"equal weights at steps 1 and 3$"):
        next(walk)


def test_a_loss_that_jumps_is_refused_by_name(indexed):
    where = str(indexed([3.0, 2.0, 2.19, 2.21, float("nan")]))
    message = "must not jump to 1.1 times its lowest before; got 2.21 at step 8, after 2, nan at s"
    with pytest.raises(ValueError, match=message):
        read_series(where)
    assert len(read_series(where, steps=[1, 2, 4]).checkpoints) == 3


def test_what_is_no_series_is_refused(tmp_path, published):
    with pytest.raises(FileNotFoundError, match="must be a folder of checkpoints, or owner/name@"):
        read_series(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match="has no checkpoints: nothing there is named stepN"):
        read_series(str(tmp_path))
    where = published(step3=1, global_step3=2)
    with pytest.raises(ValueError, match=r"one checkpoint of a step; got \S+step3 and \S+step3$"):
        read_series(str(where))
    (where / "series.json").write_text("{}")
    with pytest.raises(ValueError, match=re.escape("series.json is damaged (KeyError")):
        read_series(str(where))


def test_revisions_of_the_hub_are_asked_for_by_a_pattern_only(monkeypatch, tmp_path):
    def refs(name: str) -> Any:
        asked.append(name)
        branches = ["main", "step512", "step1000", "global_step20", "stepping"]
        made = [SimpleNamespace(name=branch) for branch in branches]
        return SimpleNamespace(branches=made, tags=made[1:2])

    asked: list[str] = []
    monkeypatch.setattr(series.huggingface_hub, "list_repo_refs", refs)
    found = read_series("owner/name@step*")
    assert [one.model for one in found.checkpoints] == ["owner/name@step512", "owner/name@step1000"]
    assert found.tokenizer == "owner/name@step1000"
    assert read_series("owner/name@*").checkpoints[0].step == 20
    assert asked == ["owner/name"] * 2
    fetched = {"owner/name@step512": 1.0, "owner/name@step1000": 2.0}
    paths = {name: model(tmp_path / str(value), value) for name, value in fetched.items()}
    monkeypatch.setattr(folders, "resolve", lambda model, whole: Path(paths[model]))
    assert [folder.name for _, folder in opened(found)] == list(fetched)


def test_a_hub_that_does_not_answer_is_said(monkeypatch):
    def refs(name: str) -> Any:
        raise OSError("no network")

    monkeypatch.setattr(series.huggingface_hub, "list_repo_refs", refs)
    with pytest.raises(FileNotFoundError, match="no revisions of owner/name: the hub says: no net"):
        read_series("owner/name@step*")
