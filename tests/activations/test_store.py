import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from ilo_jax.activations.store import Store, key_digest, open_store, write_beside

KEY = {"model": {"model.safetensors": "ab"}, "languages": ["x", "y"]}
SHAPE = (3, 2, 5, 4)
STATES = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path, KEY, shape=SHAPE)


def test_what_is_written_is_read_again(store: Store, tmp_path: Path):
    assert store.missing() == [0, 1]
    store.write(1, STATES[:, 1])
    assert store.missing() == [0]
    store.write(0, STATES[:, 0])
    again = open_store(tmp_path, KEY, shape=SHAPE)
    assert again.missing() == []
    for layer in range(3):
        np.testing.assert_array_equal(again.read(layer), STATES[layer])


def test_zarr_reads_it_with_names_and_key(store: Store):
    for language in range(2):
        store.write(language, STATES[:, language])
    group = zarr.open_group(store.folder, mode="r")
    states = group["states"]
    assert isinstance(states, zarr.Array)
    assert states.metadata.to_dict()["dimension_names"] == ("layer", "lang", "sent", "dim")
    assert states.chunks == (1, 1, 5, 4)
    np.testing.assert_array_equal(states[:], STATES)
    assert group.attrs["key"] == KEY
    assert {name for name, _ in group.members()} == {"states", "complete"}


def test_another_key_is_another_folder(tmp_path: Path):
    other = KEY | {"dtype": "bfloat16"}
    assert key_digest(KEY) != key_digest(other)
    assert key_digest(KEY) == key_digest(dict(reversed(KEY.items())))
    open_store(tmp_path, KEY, shape=SHAPE)
    open_store(tmp_path, other, shape=SHAPE)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_of_another_key_is_refused_by_field(store: Store, tmp_path: Path):
    file = store.folder / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["key"]["languages"] = ["z"]
    file.write_text(json.dumps(group))
    with pytest.raises(ValueError, match="written for another key: languages differ"):
        open_store(tmp_path, KEY, shape=SHAPE)


def test_a_torn_chunk_is_told_not_returned(store: Store):
    for language in range(2):
        store.write(language, STATES[:, language])
    chunk = next(p for p in store.folder.glob("states/c/1/0/**/*") if p.is_file())
    whole = bytearray(chunk.read_bytes())
    whole[7] ^= 1
    chunk.write_bytes(whole)
    np.testing.assert_array_equal(store.read(0), STATES[0])
    with pytest.raises(OSError, match=r"cannot read states of layer 1 in .*delete that folder"):
        store.read(1)


def test_an_absent_chunk_is_told_not_filled(store: Store):
    for language in range(2):
        store.write(language, STATES[:, language])
    next(p for p in store.folder.glob("states/c/2/1/**/*") if p.is_file()).unlink()
    np.testing.assert_array_equal(store.read(1), STATES[1])
    with pytest.raises(OSError, match=r"cannot read states of layer 2 in .*delete that folder"):
        store.read(2)


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_group_is_named(store: Store, tmp_path: Path, text: str):
    (store.folder / "zarr.json").write_text(text)
    with pytest.raises(ValueError, match=r"zarr.json is damaged .*delete"):
        open_store(tmp_path, KEY, shape=SHAPE)


def test_an_unwritable_place_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        open_store(tmp_path / "file", KEY, shape=SHAPE)


def test_a_store_that_loses_its_folder_says_so(store: Store):
    states = store.folder / "states"
    for child in states.iterdir():
        child.unlink()
    states.rmdir()
    states.write_text("")
    with pytest.raises(OSError, match="cannot write states into"):
        store.write(0, STATES[:, 0])
    assert store.missing() == [0, 1]


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path):
    file = tmp_path / "scores.csv"
    write_beside(file, lambda beside: beside.write_text("old"))

    def fail(beside: Path) -> None:
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match=r"cannot write .*scores.csv: disk full"):
        write_beside(file, fail)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]
