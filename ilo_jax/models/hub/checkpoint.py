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

from ilo_jax.corpora.pointers import refuse_pointer
from ilo_jax.processes import together
from ilo_jax.refusals import listed

DTYPES: dict[str, type] = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
}
"""Types of weights, by what safetensors calls them."""

SAMPLE = 64
"""Bytes of each end of a tensor that tell checkpoints apart."""

ADAPTER = "adapter_model.safetensors"
SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder that are read.

    As in transformers, `model.safetensors` outranks an index, and an index the files that it does
    not name. Where there is neither, all but adapters are read.

    Raises:
        FileNotFoundError: If there are none, or the index names one that is absent.
        ValueError: If the index is damaged, or names files of other folders, or a file is the
            pointer that git-lfs leaves.
    """
    index, single = index_file(folder), folder / SINGLE
    others = sorted(set(folder.glob("*.safetensors")) - {folder / ADAPTER})
    files = _indexed(index) if index else [single] if single in others else others
    for file in files:
        refuse_pointer(file)
    if files:
        return files
    pickled = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    hint = (
        f"; {', '.join(pickled)} may run code when opened and is not read: convert it with "
        "transformers' AutoModel.from_pretrained(...).save_pretrained(...)"
    )
    raise FileNotFoundError(f"no *.safetensors in {folder}{hint if pickled else ''}")


def choice(folder: Path) -> str | None:
    """Which weights of a folder are read, where somebody may take others for them; else None."""
    if (folder / SINGLE).is_file():
        beside = [name for name in (INDEX, ADAPTER) if (folder / name).is_file()]
        return f"reading {SINGLE}, not {' and '.join(beside)} beside it" if beside else None
    if index_file(folder):
        return None
    others = [file.name for file in sorted(folder.glob("*.safetensors")) if file.name != ADAPTER]
    return f"reading {listed(others)}, as there is no {SINGLE}" if others else None


def index_file(folder: Path) -> Path | None:
    """The index that says which file holds each tensor; None where none decides.

    As in transformers, a `model.safetensors` beside it outranks it.
    """
    index = folder / INDEX
    return index if index.is_file() and not (folder / SINGLE).is_file() else None


def _indexed(index: Path) -> list[Path]:
    """The files that an index names, all of them beside it."""
    refuse_pointer(index)
    try:
        names = set(json.loads(index.read_text())["weight_map"].values())
        files = sorted(index.parent / name for name in names)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"{index} is damaged, it must map tensors to files: {error!r}") from error
    if outside := [str(file) for file in files if file.parent != index.parent]:
        raise ValueError(f"{index} must name files beside it, got {', '.join(outside)}")
    if absent := [file.name for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{index} names files that are not there: {', '.join(absent)}")
    return files


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
            raise ValueError(f"{file} and {where[twice[0]]} both hold {listed(twice)}: keep one")
        where |= dict.fromkeys(names, file)
    if not where:
        raise ValueError(f"no tensors in {folder}: its safetensors files are empty")
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

    def misfit(self, name: str, shape: tuple[int, ...]) -> str | None:
        """What is wrong with a tensor where a weight of some shape should be, or None."""
        if problem := self._no_weight(name):
            return problem
        got = tuple(self.header[name]["shape"])
        return None if got == shape else f"{name} in {self.file} must have shape {shape}, got {got}"

    def _no_weight(self, name: str) -> str | None:
        got = self.header[name]["dtype"]
        words = f"{name} in {self.file} must be one of {', '.join(DTYPES)}, got {got}"
        return None if got in DTYPES else words

    def tensor(self, name: str) -> Shaped[np.ndarray, "..."]:
        """One tensor, not to be written to.

        Raises:
            ValueError: If it is not of a dtype that weights have.
        """
        if problem := self._no_weight(name):
            raise ValueError(problem)
        entry = self.header[name]
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
        return [SINGLE]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
