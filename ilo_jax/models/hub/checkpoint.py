"""The safetensors files of a model folder."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tqdm import tqdm

from ilo_jax.processes import together

DTYPES: dict[str, type] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
"""Types of weights, by what safetensors calls them."""

SAMPLE = 64
"""Bytes of each end of a tensor that tell checkpoints apart."""

INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder.

    Raises:
        FileNotFoundError: If there are none, or the index names one that is absent.
        ValueError: If the index is damaged, or names files of other folders.
    """
    index = folder / INDEX
    if index.is_file():
        try:
            files = sorted({
                folder / n for n in json.loads(index.read_text())["weight_map"].values()
            })
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{index} is damaged, it must map tensors to files: {error!r}"
            ) from error
    else:
        # The one that transformers reads; beside it may lie adapters, and other formats' files.
        files = sorted(folder.glob("model.safetensors")) or sorted(folder.glob("*.safetensors"))
    if outside := [str(file) for file in files if file.parent != folder]:
        raise ValueError(f"{index} must name files beside it, got {', '.join(outside)}")
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(absent)}")
    if files:
        return files
    pickled = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    hint = (
        f"; {', '.join(pickled)} may run code when opened and is not read: convert it with "
        "transformers' AutoModel.from_pretrained(...).save_pretrained(...)"
    )
    raise FileNotFoundError(f"no *.safetensors in {folder}{hint if pickled else ''}")


def tensor_files(folder: Path) -> dict[str, Path]:
    """Which file holds each tensor.

    Raises:
        ValueError: For a file that is truncated or not safetensors, or a tensor that
            two files hold.
    """
    where: dict[str, Path] = {}
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="numpy") as tensors:
                names = list(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is truncated or not safetensors: {error}") from error
        if twice := sorted(set(names) & set(where)):
            raise ValueError(f"{file} and {where[twice[0]]} both hold {', '.join(twice)}")
        where |= dict.fromkeys(names, file)
    return where


class Mapped:
    """The tensors of a safetensors file as views of its pages: nothing is read until used.

    safetensors' own slices are copies; where weights are transposed on their way to the
    device, that is one copy too many. The file is one that `tensor_files` found in order.
    """

    def __init__(self, file: Path):
        self.file = file
        self.pages = np.asarray(np.memmap(file, np.uint8, mode="r"))
        self.start = 8 + int.from_bytes(self.pages[:8].tobytes(), "little")
        self.header = json.loads(self.pages[8 : self.start].tobytes())

    def sample(self) -> bytes:
        """The header and a few bytes of every tensor: other weights, other bytes."""
        parts = [json.dumps(self.header, sort_keys=True).encode()]
        for name in sorted(set(self.header) - {"__metadata__"}):
            first, last = (self.start + offset for offset in self.header[name]["data_offsets"])
            parts += [self.pages[first:last][:SAMPLE].tobytes()]
            parts += [self.pages[first:last][-SAMPLE:].tobytes()]
        return b"".join(parts)

    def tensor(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One tensor, not to be written to.

        Raises:
            ValueError: If it is not of a dtype that weights have.
        """
        entry = self.header[name]
        if entry["dtype"] not in DTYPES:
            raise ValueError(
                f"{name} in {self.file} must be one of {', '.join(DTYPES)}, got {entry['dtype']}"
            )
        first, last = (self.start + offset for offset in entry["data_offsets"])
        return self.pages[first:last].view(DTYPES[entry["dtype"]]).reshape(entry["shape"])


def split_by_size(sizes: Mapping[str, int], *, most: int) -> list[list[str]]:
    """The tensors of each file, in order: at most `most` bytes, or a single tensor."""
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def write_tensors(
    folder: Path | None,
    sizes: Mapping[str, int],
    tensor: Callable[[str], Shaped[np.ndarray, "..."]],
    *,
    most: int,
) -> None:
    """Write tensors as one safetensors file, or several with an index.

    Args:
        folder: To write into; None on a process that only takes part in gathering.
        sizes: Of all tensors, in bytes.
        tensor: Gives one; asked for each in turn, a file's worth is held at a time.
        most: Bytes in one file.

    Raises:
        OSError: If a file cannot be written.
        RuntimeError: If it cannot on another process.
    """
    groups = split_by_size(sizes, most=most)
    files = dict(zip(_file_names(len(groups)), groups, strict=True))
    for name, group in tqdm(files.items(), desc="saving", unit="file", disable=None):
        tensors = {key: tensor(key) for key in group}
        together(partial(_write_file, folder, name, tensors), what=f"writing {name}")
    if folder is not None and len(groups) > 1:
        index = {
            "metadata": {"total_size": sum(sizes.values())},
            "weight_map": {key: name for name, group in files.items() for key in group},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def _write_file(folder: Path | None, name: str, tensors: dict[str, np.ndarray]) -> None:
    if folder is None:
        return
    try:
        save_file(tensors, folder / name, metadata={"format": "pt"})
    except SafetensorError as error:  # A full disk, too: it is no OSError.
        raise OSError(f"cannot write {folder / name}: {error}") from error
    # safetensors lets only the owner read it.
    (folder / name).chmod(folder.stat().st_mode & 0o666)


def _file_names(count: int) -> Sequence[str]:
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
