import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

from ilo_jax.activations import store as store_module
from ilo_jax.activations.store import (
    Layout,
    Store,
    numpy_dtype,
    open_store,
    reopen_store,
)
from ilo_jax.files import key_digest

KEY = {"model": {"model.safetensors": "ab"}, "languages": ["x", "y"]}
LONGEST = 5000
ARRAYS = {
    "residual_mean": Layout(("layer", "lang", "sent", "dim"), (3, 2, 5, 4), "float32", (0, 1, 6)),
    "neurons_tokens": Layout(("lang", "token", "dim"), (2, LONGEST, 3), "float32", (1,)),
    "lengths": Layout(("lang", "sent"), (2, 5), "int32"),
    "token_ids": Layout(("lang", "token"), (2, LONGEST), "int32"),
}
LENGTHS = np.array([[2, 1, 3, 1, 4], [4990, 1, 3, 2, 4]], np.int32)
"""The second language is as long as an array of tokens has room for, and takes two chunks."""
RNG = np.random.default_rng(0)
STATES = RNG.normal(size=(3, 2, 5, 4)).astype(np.float32)
TOKENS = [RNG.normal(size=(n, 3)).astype(np.float32) for n in LENGTHS.sum(1)]
IDS = [RNG.integers(0, 9, n).astype(np.int32) for n in LENGTHS.sum(1)]


def of_language(lang: int) -> dict[str, np.ndarray]:
    return {
        "residual_mean": STATES[:, lang],
        "neurons_tokens": TOKENS[lang],
        "lengths": LENGTHS[lang],
        "token_ids": IDS[lang],
    }


def opened(root: Path | str) -> Store:
    return open_store(root, KEY, ARRAYS, lang=2)


def chunk(store: Store, place: str) -> Path:
    """Return the file of a chunk, such as "residual_mean/c/1/0"."""
    file = Path(store.url) / place
    (found,) = [file] if file.is_file() else [path for path in file.rglob("*") if path.is_file()]
    return found


def tear(store: Store, place: str) -> None:
    """Change one bit of a chunk."""
    file = chunk(store, place)
    content = bytearray(file.read_bytes())
    content[7] ^= 1
    file.write_bytes(content)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return opened(tmp_path)


@pytest.fixture
def full(store: Store) -> Store:
    for lang in range(2):
        store.write(lang, of_language(lang))
    return store


def test_what_is_written_is_read_again(store: Store, tmp_path: Path):
    assert store.missing() == [0, 1]
    store.write(1, of_language(1))
    assert store.missing() == [0]
    store.write(0, of_language(0))
    again = opened(tmp_path)
    assert again.missing() == []
    for place, layer in enumerate([0, 1, 6]):
        np.testing.assert_array_equal(again.read("residual_mean", layer), STATES[place])
    for lang in range(2):
        np.testing.assert_array_equal(again.tokens("neurons_tokens", lang), TOKENS[lang])
        np.testing.assert_array_equal(again.tokens("token_ids", lang), IDS[lang])


def test_of_many_languages_only_the_one_that_is_written_is_cleared(tmp_path: Path):
    """Language 1 is not those whose number begins with 1, nor the next."""
    arrays = {
        "neurons_tokens": Layout(("lang", "token", "dim"), (13, 9, 3), "float32", (1,)),
        "lengths": Layout(("lang", "sent"), (13, 5), "int32"),
    }
    store, lengths = open_store(tmp_path, KEY, arrays, lang=13), np.array([1, 2, 1, 2, 3], np.int32)
    for lang in (0, 2, 10, 12, 1):
        store.write(lang, {"neurons_tokens": TOKENS[1][lang : lang + 9], "lengths": lengths})
    for lang in (0, 1, 2, 10, 12):
        found = store.tokens("neurons_tokens", lang)
        np.testing.assert_array_equal(found, TOKENS[1][lang : lang + 9])


def test_a_layer_that_was_not_taken_is_not_read(full: Store):
    assert full.layers("residual_mean") == [0, 1, 6]
    assert full.layers("neurons_tokens") == [1]
    message = r"^layer must be one that .*/residual_mean holds, \[0, 1, 6\]; got 2$"
    with pytest.raises(ValueError, match=message):
        full.read("residual_mean", 2)


def test_a_session_with_a_number_that_json_cannot_say_is_refused(full: Store):
    full.add_session({"padding": 0.5})
    with pytest.raises(ValueError, match=r"^Out of range float values are not JSON compliant"):
        full.add_session({"padding": float("nan")})
    assert full.sessions() == [{"padding": 0.5}]


def test_a_store_is_opened_again_by_its_folder(full: Store, tmp_path):
    again = reopen_store(full.url, ["residual_mean"])
    for place, layer in enumerate([0, 1, 6]):
        np.testing.assert_array_equal(again.read("residual_mean", layer), STATES[place])
    with pytest.raises(FileNotFoundError, match=r"^no states at .*none: name a folder such as"):
        reopen_store(tmp_path / "none", ["residual_mean"])
    with pytest.raises(OSError, match=r"^cannot open mlp_max in "):
        reopen_store(full.url, ["mlp_max"])
    assert not (tmp_path / "none").exists()


def test_zarr_reads_it_with_names_and_key(full: Store):
    group = zarr.open_group(full.url, mode="r")
    assert group.attrs["key"] == KEY
    assert {name for name, _ in group.members()} == {*ARRAYS, "complete"}
    arrays = {name: array for name, array in group.members() if isinstance(array, zarr.Array)}
    for name, layout in ARRAYS.items():
        assert arrays[name].metadata.to_dict()["dimension_names"] == layout.dims
        assert arrays[name].attrs["layers"] == list(layout.layers)
        assert arrays[name].dtype == layout.dtype
        assert arrays[name].chunks == tuple(layout.chunk)
    np.testing.assert_array_equal(arrays["residual_mean"][:], STATES)
    np.testing.assert_array_equal(arrays["lengths"][:], LENGTHS)
    for lang, count in enumerate(LENGTHS.sum(1)):
        np.testing.assert_array_equal(arrays["neurons_tokens"][lang, :count], TOKENS[lang])
        np.testing.assert_array_equal(arrays["token_ids"][lang, :count], IDS[lang])
        assert np.isnan(arrays["neurons_tokens"][lang, count:]).all()


def test_a_chunk_is_of_one_layer_and_language_and_of_tokens_that_fit_memory():
    assert {name: layout.chunk for name, layout in ARRAYS.items()} == {
        "residual_mean": [1, 1, 5, 4],
        "neurons_tokens": [1, 4096, 3],
        "lengths": [1, 5],
        "token_ids": [1, 4096],
    }
    assert Layout(("lang", "token"), (2, 0), "int32").chunk == [1, 1]


def test_bfloat16_is_kept_and_read_as_float32(tmp_path: Path):
    names = ("residual_mean", "neurons_tokens")
    half = {name: ARRAYS[name]._replace(dtype="bfloat16") for name in names}
    store = open_store(tmp_path, KEY, ARRAYS | half, lang=2)
    assert numpy_dtype("bfloat16") == ml_dtypes.bfloat16
    for lang in range(2):
        rounded = {name: of_language(lang)[name].astype(ml_dtypes.bfloat16) for name in names}
        store.write(lang, of_language(lang) | rounded)
    assert store.damaged([0, 1]) == {}
    found = store.read("residual_mean", 6)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, STATES[2].astype(ml_dtypes.bfloat16).astype(np.float32))
    tokens = store.tokens("neurons_tokens", 1)
    assert tokens.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(tokens, TOKENS[1].astype(ml_dtypes.bfloat16))
    assert chunk(store, "residual_mean/c/1/0").stat().st_size == 5 * 4 * 2 + 4


def test_another_key_is_another_folder(tmp_path: Path):
    other = KEY | {"dtype": "bfloat16"}
    assert key_digest(KEY) != key_digest(other)
    assert key_digest(KEY) == key_digest(dict(reversed(KEY.items())))
    opened(tmp_path)
    open_store(tmp_path, other, ARRAYS, lang=2)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_of_another_key_is_refused_by_field(store: Store, tmp_path: Path):
    file = Path(store.url) / "zarr.json"
    group = json.loads(file.read_text())
    group["attributes"]["key"]["languages"] = ["z"]
    file.write_text(json.dumps(group))
    with pytest.raises(ValueError, match="written for another key: languages differ"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("lengths", {"shape": (2, 6)}, r'"shape" of \[2,6\] but received: \[2,5\]'),
        (
            "neurons_tokens",
            {"dtype": "bfloat16"},
            r'"data_type" of .*bfloat16.* received: .*float32',
        ),
        ("residual_mean", {"layers": (0, 1, 2)}, r'"layers" of \[0,1,2\] but received: \[0,1,6\]'),
    ],
)
def test_arrays_of_another_layout_are_refused(full: Store, tmp_path: Path, name, changed, message):
    arrays = ARRAYS | {name: ARRAYS[name]._replace(**changed)}
    with pytest.raises(ValueError, match=message):
        open_store(tmp_path, KEY, arrays, lang=2)


# Damage


def test_a_torn_chunk_is_told_not_returned(full: Store):
    tear(full, "residual_mean/c/2/0")
    np.testing.assert_array_equal(full.read("residual_mean", 1), STATES[1])
    message = r"^cannot read residual_mean of layer 6 in .*; run again to compute what is damaged$"
    with pytest.raises(OSError, match=message):
        full.read("residual_mean", 6)


def test_an_absent_chunk_is_told_not_filled(full: Store):
    chunk(full, "residual_mean/c/2/1").unlink()
    np.testing.assert_array_equal(full.read("residual_mean", 1), STATES[1])
    with pytest.raises(OSError, match=r"^cannot read residual_mean of layer 6 in "):
        full.read("residual_mean", 6)


@pytest.mark.parametrize("place", ["neurons_tokens/c/1/1", "lengths/c/1"])
@pytest.mark.parametrize("how", ["torn", "absent"])
def test_tokens_that_are_damaged_are_told(full: Store, place: str, how: str):
    tear(full, place) if how == "torn" else chunk(full, place).unlink()
    np.testing.assert_array_equal(full.tokens("neurons_tokens", 0), TOKENS[0])
    with pytest.raises(OSError, match=r"^cannot read neurons_tokens of 1 in "):
        full.tokens("neurons_tokens", 1)


def test_nothing_is_damaged_that_was_written_whole(full: Store):
    # The first language has too few tokens for a second chunk.
    assert not (Path(full.url) / "neurons_tokens/c/0/1").exists()
    assert full.damaged([0, 1]) == {}


@pytest.mark.parametrize("how", ["torn", "absent"])
@pytest.mark.parametrize(
    "place",
    [
        "residual_mean/c/0/1",
        "residual_mean/c/2/1",
        "neurons_tokens/c/1/0",
        "neurons_tokens/c/1/1",
        "token_ids/c/1/1",
        "lengths/c/1",
    ],
)
def test_a_damaged_chunk_is_found_and_its_language_computed_again(
    full: Store, tmp_path: Path, place: str, how: str
):
    tear(full, place) if how == "torn" else chunk(full, place).unlink()
    found = full.damaged([0, 1])
    assert list(found) == [1]
    assert place in found[1] or "cannot read" in found[1]
    assert full.damaged([0]) == {}
    full.forget(found)
    assert full.missing() == opened(tmp_path).missing() == [1]
    full.write(1, of_language(1))
    assert full.missing() == []
    assert full.damaged([0, 1]) == {}


def test_what_is_missing_anyway_is_not_looked_at(full: Store):
    tear(full, "residual_mean/c/2/0")
    full.forget([0])
    assert full.damaged([0, 1]) == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"attributes": {}}'])
def test_a_damaged_group_is_named(store: Store, tmp_path: Path, text: str):
    (Path(store.url) / "zarr.json").write_text(text)
    with pytest.raises(ValueError, match=r"zarr.json is damaged .*delete"):
        opened(tmp_path)


def test_an_unwritable_place_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"^cannot open .*file"):
        opened(tmp_path / "file")


def test_a_store_that_loses_its_folder_says_so(store: Store):
    states = Path(store.url) / "residual_mean"
    shutil.rmtree(states)
    states.write_text("")
    with pytest.raises(OSError, match=r"^cannot write states into "):
        store.write(0, of_language(0))
    assert store.missing() == [0, 1]


def test_what_cannot_be_forgotten_or_remembered_is_told(full: Store):
    folder = Path(full.url)
    shutil.rmtree(folder / "complete")
    (folder / "complete").write_text("")
    with pytest.raises(OSError, match=r"^cannot write into "):
        full.forget([0])
    attributes = (folder / "zarr.json").read_text()
    (folder / "zarr.json.__lock").mkdir()
    with pytest.raises(OSError, match=r"^cannot write into "):
        full.add_session({})
    assert (folder / "zarr.json").read_text() == attributes


# Sessions


def test_sessions_are_kept_and_leave_the_key_alone(full: Store, tmp_path: Path):
    assert full.sessions() == []
    first, second = {"seconds": 1.5, "devices": ["cpu"]}, {"seconds": 2}
    full.add_session(first)
    assert opened(tmp_path).sessions() == [first]
    opened(tmp_path).add_session(second)
    again = opened(tmp_path)
    assert again.sessions() == full.sessions() == [first, second]
    assert again.url == full.url
    assert again.missing() == []
    assert zarr.open_group(full.url, mode="r").attrs.asdict() == {
        "key": KEY,
        "sessions": [first, second],
    }


def test_sessions_of_two_stores_open_at_once_are_all_kept(full: Store, tmp_path: Path, monkeypatch):
    """The other writes after the first has read: the first reads again, and loses nothing."""
    other = opened(tmp_path)
    with_session = store_module._with_session

    def interrupted(group, session):
        if session == {"run": 1} and not other.sessions():
            other.add_session({"run": 2})
        return with_session(group, session)

    monkeypatch.setattr(store_module, "_with_session", interrupted)
    full.add_session({"run": 1})
    assert full.sessions() == [{"run": 2}, {"run": 1}]


# A URL


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    return opened(f"file://{tmp_path}/states")


def test_a_store_at_a_url_lies_in_its_own_folder(remote: Store, tmp_path: Path):
    for lang in range(2):
        remote.write(lang, of_language(lang))
    remote.add_session({"seconds": 1})
    (folder,) = (tmp_path / "states").iterdir()
    assert remote.url == f"file://{folder}"
    group = zarr.open_group(folder, mode="r")
    assert group.attrs["key"] == KEY
    again = opened(f"file://{tmp_path}/states")
    assert again.sessions() == [{"seconds": 1}]
    assert again.missing() == []
    assert again.damaged([0, 1]) == {}
    np.testing.assert_array_equal(again.read("residual_mean", 6), STATES[2])
