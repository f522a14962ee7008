"""What was taken from a model, on disk: one zarr3 group, readable by zarr and xarray.

FOLDER/zarr.json          attributes: the key, i.e. all that determines a value, and the sessions
FOLDER/NAME/              an array of each tap; its attribute "layers" says which it holds
FOLDER/complete/          uint8 "lang", 1 where everything of a language is written
FOLDER/lock               while a run writes

Pooled states are "layer lang sent dim", a chunk per layer and language. States of tokens are
"lang token dim", one sentence after the other; "lengths", "lang sent", and "token_ids", "lang
token", say which token is which.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import tensorstore as ts
from jaxtyping import Float, Shaped
from tqdm import tqdm

from ilo_jax.files import Key, amended, claim, key_digest, kvstore

GROUP = "zarr.json"
"""What zarr3 keeps of a group."""

DTYPES = ("float32", "bfloat16")
"""In which states are stored; bfloat16 is read by tensorstore, and not by zarr."""


class Layout(NamedTuple):
    """How an array lies in a store."""

    dims: tuple[str, ...]
    """Names of its axes, "lang" among them."""
    shape: tuple[int, ...]
    dtype: str
    """Name of a numpy dtype, or bfloat16."""
    layers: tuple[int, ...] = ()
    """Which layers the array holds."""

    @property
    def chunk(self) -> list[int]:
        """What is written as one file: of one layer and language, some 4096 tokens at most."""
        most = {"layer": 1, "lang": 1, "token": 4096}
        pairs = zip(self.dims, self.shape, strict=True)
        return [max(1, min(size, most.get(dim, size))) for dim, size in pairs]


class Store(NamedTuple):
    """An open store; its arrays are read and written by slices."""

    url: str
    """Where it is, for messages: a folder, or gs://..."""
    base: ts.KvStore
    arrays: dict[str, ts.TensorStore]
    complete: ts.TensorStore

    def missing(self) -> list[int]:
        """The languages, by index, that are not written whole."""
        return np.flatnonzero(self.complete.read().result() == 0).tolist()

    def write(self, language: int, values: Mapping[str, Shaped[np.ndarray, "..."]]) -> None:
        """Write everything of one language, then mark it complete.

        Args:
            language: By index.
            values: Of every array, without its axis "lang"; may end early along "token".

        Raises:
            OSError: If it cannot be written; the language stays missing.
        """
        assert values.keys() == self.arrays.keys()
        try:
            self._clear_tokens(language)
            writes = [
                _of_language(self.arrays[name], language, value.shape).write(value)
                for name, value in values.items()
            ]
            for write in writes:
                write.result()
            self.complete[language].write(1).result()
        except ValueError as error:  # tensorstore's word for every failure of the file system
            raise OSError(f"cannot write states into {self.url}: {error}") from error

    def _clear_tokens(self, language: int) -> None:
        """Remove chunks of tokens: not written whole, they would be read, and may be torn."""
        for name, array in self.arrays.items():
            if "token" in array.domain.labels:
                within = ts.KvStore.KeyRange(f"{name}/c/{language}/", f"{name}/c/{language}0")
                self.base.delete_range(within).result()

    def layers(self, name: str) -> list[int]:
        """Which layers an array holds, as numbered in the model, in the order in which it does."""
        return self.arrays[name].spec().to_json()["metadata"]["attributes"]["layers"]

    def read(self, name: str, layer: int) -> Float[np.ndarray, "lang sent dim"]:
        """One layer of all languages, in float32.

        Args:
            name: Of an array of pooled states.
            layer: As numbered in the model; the array must hold it.

        Raises:
            ValueError: If it does not.
            OSError: If a chunk is absent or fails its checksum.
        """
        held = self.layers(name)
        if layer not in held:
            raise ValueError(f"layer must be one that {self.url}/{name} holds, {held}; got {layer}")
        try:
            states = self.arrays[name][held.index(layer)].read().result()
        except ValueError as error:
            raise OSError(
                f"cannot read {name} of layer {layer} in {self.url}: {error}; "
                "run again to compute what is damaged"
            ) from error
        return states.astype(np.float32, copy=False)

    def tokens(self, name: str, language: int) -> Shaped[np.ndarray, "token ..."]:
        """The tokens of a language, of states of tokens or of "token_ids".

        Raises:
            OSError: If a chunk is absent or fails its checksum.
        """
        try:
            count = int(self.arrays["lengths"][language].read().result().sum())
            return self.arrays[name][language, :count].read().result()
        except ValueError as error:
            raise OSError(f"cannot read {name} of {language} in {self.url}: {error}") from error

    def damaged(self, languages: Sequence[int]) -> dict[int, str]:
        """What is wrong with languages of which a chunk is absent or fails its checksum.

        Cost: reads all there is of them.

        Args:
            languages: By index; those that are missing anyway are not looked at.
        """
        found = {}
        whole = sorted({*languages} - {*self.missing()})
        for language in tqdm(whole, desc="checking stored states", unit="lang", disable=None):
            try:
                for name, array in self.arrays.items():
                    if "token" in array.domain.labels:
                        self.tokens(name, language)
                    else:
                        array[ts.d["lang"][language]].read().result()
            except (OSError, ValueError) as error:
                found[language] = str(error)
        return found

    def forget(self, languages: Iterable[int]) -> None:
        """Mark languages as missing.

        Raises:
            OSError: If that cannot be written.
        """
        try:
            for language in languages:
                self.complete[language].write(0).result()
        except ValueError as error:
            raise OSError(f"cannot write into {self.url}: {error}") from error

    def sessions(self) -> list[dict[str, Any]]:
        """What computed the states: one entry for each run that wrote some of them.

        Raises:
            OSError: If they cannot be read.
        """
        group = amended(self.base, GROUP, lambda group: group)
        return group["attributes"].get("sessions", [])

    def add_session(self, session: Mapping[str, Any]) -> None:
        """Remember a run that wrote some of the states; none is lost, whoever else does so.

        Raises:
            OSError: If that cannot be written.
            ValueError: If it holds what JSON has not, such as NaN.
        """
        amended(self.base, GROUP, lambda group: _with_session(group, session))


def _with_session(group: Mapping[str, Any], session: Mapping[str, Any]) -> dict[str, Any]:
    attributes = group["attributes"]
    sessions = [*attributes.get("sessions", []), session]
    return {**group, "attributes": {**attributes, "sessions": sessions}}


def _of_language(array: ts.TensorStore, language: int, shape: tuple[int, ...]) -> ts.TensorStore:
    return array[ts.d["lang"][language]][tuple(slice(0, size) for size in shape)]


def numpy_dtype(name: str) -> np.dtype:
    """The dtype that numpy holds a stored one in."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)


def open_store(root: str | Path, key: Key, arrays: Mapping[str, Layout], *, lang: int) -> Store:
    """Open the store of a key below `root`, creating it if it is not there.

    Several processes may open it at once.

    Args:
        root: Holds one folder per key, named by the key's digest; a path, or a URL that
            tensorstore knows, such as gs://bucket/folder.
        key: All that determines what is stored.
        arrays: What is stored, by name.
        lang: How many languages there are.

    Raises:
        OSError: If the folder cannot be made or written.
        ValueError: If what is there is damaged, or was written for another key or shape.
    """
    url = f"{root}/{key_digest(key)}"
    try:
        base = kvstore(url)
        claim(
            base,
            GROUP,
            _group(key),
            what=f"{url} was written for another key",
            advice="delete it, or keep states in another folder",
            key=_key,
        )
        opened = {name: _array(base / f"{name}/", layout) for name, layout in arrays.items()}
        complete = _array(base / "complete/", Layout(("lang",), (lang,), "uint8"))
    except OSError as error:
        raise OSError(f"cannot open {url}: {error}") from error
    return Store(url, base, opened, complete)


def _group(key: Key) -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group", "attributes": {"key": key}}


def _key(group: Mapping[str, Any]) -> Key:
    return dict(group["attributes"]["key"])


def reopen_store(url: str | Path, names: Sequence[str]) -> Store:
    """Open arrays of a store that is there, to read them.

    Args:
        url: The folder of one key, as `Store.url` says it.
        names: Of the arrays.

    Raises:
        OSError: If there is no such store, or it has no such array.
    """
    if "://" not in str(url) and not (Path(url) / GROUP).is_file():
        raise FileNotFoundError(f"no states at {url}: name a folder such as WORKDIR/states/KEY")
    base = kvstore(url)
    try:
        opened = {name: ts.open(_spec(base / f"{name}/")).result() for name in names}
        complete = ts.open(_spec(base / "complete/", fill=True)).result()
    except ValueError as error:  # tensorstore's word for every failure of the file system
        raise OSError(f"cannot open {', '.join(names)} in {url}: {error}") from error
    return Store(str(url), base, opened, complete)


def _array(place: ts.KvStore, layout: Layout) -> ts.TensorStore:
    """Open an array of the group, creating it if it is not there."""
    states = layout.dtype in DTYPES
    metadata = {
        "shape": list(layout.shape),
        "data_type": layout.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": layout.chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "dimension_names": list(layout.dims),
        "fill_value": "NaN" if states else 0,
        "attributes": {"layers": list(layout.layers)},
    }
    # Of `complete`, an absent chunk is of languages still to come.
    spec = _spec(place, fill=layout.dims == ("lang",))
    return ts.open(spec | {"metadata": metadata}, create=True, open=True).result()


def _spec(place: ts.KvStore, *, fill: bool = False) -> dict[str, Any]:
    """How an array is opened: an absent chunk is damage, unless it is to be filled in."""
    return {
        "driver": "zarr3",
        "kvstore": place.spec().to_json(),
        "store_data_equal_to_fill_value": True,
        "fill_missing_data_reads": fill,
    }
