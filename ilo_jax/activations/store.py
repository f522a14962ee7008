"""Pooled hidden states on disk: one zarr3 group, readable by zarr and xarray.

FOLDER/zarr.json          attributes: the key, i.e. all that determines a value
FOLDER/states/            float32 "layer lang sent dim", a chunk per layer and language
FOLDER/complete/          uint8 "lang", 1 where every chunk of a language is written
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from jaxtyping import Float32

Key = Mapping[str, Any]
"""Everything that determines a stored value, as plain JSON."""


class Store(NamedTuple):
    """An open store; its arrays are read and written by slices."""

    folder: Path
    states: ts.TensorStore
    complete: ts.TensorStore

    def missing(self) -> list[int]:
        """Return the languages, by index, that are not written whole."""
        return np.flatnonzero(self.complete.read().result() == 0).tolist()

    def write(self, language: int, states: Float32[np.ndarray, "layer sent dim"]) -> None:
        """Write every layer of one language, then mark it complete.

        Raises:
            OSError: if the states cannot be written; the language stays missing.
        """
        try:
            self.states[:, language].write(states).result()
            self.complete[language].write(1).result()
        except ValueError as error:  # tensorstore's word for every failure of the file system
            raise OSError(f"cannot write states into {self.folder}: {error}") from error

    def read(self, layer: int) -> Float32[np.ndarray, "lang sent dim"]:
        """Return one layer of all languages.

        Raises:
            OSError: if a chunk is absent or fails its checksum.
        """
        try:
            return self.states[layer].read().result()
        except ValueError as error:
            raise OSError(
                f"cannot read states of layer {layer} in {self.folder}: {error}; "
                "delete that folder to compute them again"
            ) from error


def key_digest(key: Key) -> str:
    """Return a short name for a key: equal keys, equal names."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]


def _array(
    folder: Path, *, dtype: str, shape: list[int], chunk: list[int], names: list[str]
) -> ts.TensorStore:
    """Open an array of the group, creating it if it is not there."""
    metadata = {
        "shape": shape,
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "dimension_names": names,
        "fill_value": "NaN" if dtype == "float32" else 0,
    }
    kvstore = {"driver": "file", "path": str(folder)}
    spec = {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}
    # An absent chunk of states is damage; of `complete`, a language still to come.
    spec["fill_missing_data_reads"] = dtype == "uint8"
    return ts.open(spec, create=True, open=True).result()


def write_beside(file: Path, write: Callable[[Path], Any]) -> None:
    """Write a file so that it is seen whole or not at all.

    Args:
        file: where it is to be.
        write: called with a path beside it, to write there.

    Raises:
        OSError: if it cannot be written; what stood there before still stands.
    """
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        write(beside)
        beside.replace(file)
    except OSError as error:
        raise OSError(f"cannot write {file}: {error}") from error
    finally:
        beside.unlink(missing_ok=True)


def open_store(root: Path, key: Key, *, shape: tuple[int, int, int, int]) -> Store:
    """Open the store of a key below `root`, creating it if it is not there.

    Args:
        root: holds one folder per key, named by the key's digest.
        key: all that determines the states.
        shape: layer, lang, sent, dim.

    Raises:
        OSError: if the folder cannot be made or written.
        ValueError: if what is there is damaged, or was written for another key or shape.
    """
    folder = root / key_digest(key)
    group = folder / "zarr.json"
    layer, lang, sent, dim = shape
    folder.mkdir(parents=True, exist_ok=True)
    if not group.is_file():
        attributes = {"key": key}
        text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        write_beside(group, lambda beside: beside.write_text(text))
    try:
        found = json.loads(group.read_text())["attributes"]["key"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{group} is damaged ({error!r}); delete {folder}") from error
    if found != json.loads(json.dumps(key)):
        fields = sorted(k for k in {*found, *key} if found.get(k) != key.get(k))
        raise ValueError(f"{folder} was written for another key: {', '.join(fields)} differ")
    return Store(
        folder,
        _array(
            folder / "states",
            dtype="float32",
            shape=[layer, lang, sent, dim],
            chunk=[1, 1, sent, dim],
            names=["layer", "lang", "sent", "dim"],
        ),
        _array(folder / "complete", dtype="uint8", shape=[lang], chunk=[1], names=["lang"]),
    )
