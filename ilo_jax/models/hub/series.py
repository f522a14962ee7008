"""Series of checkpoints: which steps a folder or a repository of the hub has, in order.

Of ours, `training.series` writes an index; others publish folders or revisions named stepN or
global_stepN (Pythia's and BLOOM's). Such a series goes through one loop::

    series = read_series("runs/pretrain/sample/series")
    tokenizer = open_folder(series.tokenizer).tokenizer  # the last one's is that of all
    for checkpoint, folder in opened(series):
        model = load(folder, mesh=mesh)
"""

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub

from ilo_jax.models.hub.checkpoint import weight_files
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.refusals import refuse

INDEX = "series.json"
STEP = re.compile(r"(?:global_)?step(\d+)")
"""What a checkpoint is called, as a folder or a revision."""
REVISIONS = re.compile(r"([\w.-]+/[\w.-]+)@([\w./*-]*\*[\w./*-]*)")
"""A hub id, and a pattern of its revisions: owner/name@step*."""
JUMP = 1.1
"""How many times the lowest loss before a loss may be, or something went wrong."""


class Checkpoint(NamedTuple):
    """One model of a series."""

    step: int
    """How many steps of training are behind it."""
    model: str
    """What `open_folder` takes: a folder, or owner/name@revision."""
    weights: str = ""
    """Digest of its weights, where an index tells."""
    loss: float | None = None
    """Its loss on held-out text, where an index tells."""


class Series(NamedTuple):
    """Checkpoints of one training, by step."""

    name: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def tokenizer(self) -> str:
        """The model that has the tokenizer of all: the last one, as others may lack it."""
        return self.checkpoints[-1].model


def folder_name(step: int) -> str:
    """What the folder of a checkpoint of ours is called: names are in the order of steps."""
    return f"step{step:07d}"


def weights_digest(folder: Path) -> str:
    """The SHA-256 of the weights of a model folder, in hexadecimal.

    Raises:
        FileNotFoundError: If there are none.
        ValueError: If their index is damaged.
    """
    digest = hashlib.sha256()
    for file in weight_files(folder):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def read_index(folder: Path) -> list[dict[str, Any]]:
    """What the index of a series of ours says of each checkpoint, by step; nothing without one.

    Raises:
        ValueError: If it is damaged.
    """
    file = folder / INDEX
    if not file.is_file():
        return []
    try:
        entries = json.loads(file.read_text())["checkpoints"]
        return sorted(entries, key=lambda entry: (int(entry["step"]), entry["folder"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} is damaged ({error!r}); delete it to go by folders") from error


def read_series(where: str, *, steps: Sequence[int] = ()) -> Series:
    """The checkpoints of a series; no weight is read or fetched.

    Args:
        where: A folder of folders, with or without an index of ours, or owner/name@PATTERN: the
            revisions of a hub id that a pattern with "*" fits are asked for at the hub.
        steps: Which of them; none: all.

    Raises:
        FileNotFoundError: If it is neither, or the hub does not answer.
        ValueError: If it has no checkpoints, lacks steps that are asked for, has two of one step,
            or by its index two with equal weights or a loss that jumps, naming the steps.
    """
    found = sorted(
        _of_hub(*match.groups())
        if (match := REVISIONS.fullmatch(where))
        else _of_folder(Path(where).expanduser())
    )
    there = {checkpoint.step for checkpoint in found}
    lacking = [str(step) for step in steps if step not in there]
    refuse(f"steps of {where} must be among its {len(there)}; got", lacking, inline=True)
    wanted = tuple(one for one in found if one.step in (set(steps) or there))
    if not wanted:
        raise ValueError(
            f"{where} has no checkpoints: nothing there is named stepN or global_stepN"
        )
    series = Series(where, wanted)
    _refuse_twice(series)
    _refuse_equal(series.name, wanted)
    _refuse_jumps(series)
    return series


def _of_folder(folder: Path) -> Iterator[Checkpoint]:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"a series must be a folder of checkpoints, or owner/name@PATTERN; got {folder}"
        )
    for entry in read_index(folder):
        path = str(folder / entry["folder"])
        yield Checkpoint(entry["step"], path, entry.get("weights", ""), entry.get("loss"))
    if not (folder / INDEX).is_file():
        for path in folder.iterdir():
            if path.is_dir() and (match := STEP.fullmatch(path.name)):
                yield Checkpoint(int(match[1]), str(path))


def _of_hub(name: str, pattern: str) -> Iterator[Checkpoint]:
    """Yield the revisions of a repository, by what the hub answers."""
    try:
        refs = huggingface_hub.list_repo_refs(name)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(f"no revisions of {name}: the hub says: {error}") from error
    for ref in dict.fromkeys(ref.name for ref in [*refs.branches, *refs.tags]):
        if fnmatchcase(ref, pattern) and (match := STEP.fullmatch(ref)):
            yield Checkpoint(int(match[1]), f"{name}@{ref}")


def _refuse_twice(series: Series) -> None:
    pairs = itertools.pairwise(series.checkpoints)
    twice = [f"{one.model} and {other.model}" for one, other in pairs if one.step == other.step]
    refuse("a series must have one checkpoint of a step; got", twice, inline=True)


def _refuse_equal(name: str, checkpoints: Iterable[Checkpoint]) -> None:
    first: dict[str, int] = {}
    equal = [
        f"steps {first[one.weights]} and {one.step}"
        for one in checkpoints
        if one.weights and first.setdefault(one.weights, one.step) != one.step
    ]
    what = f"checkpoints of {name} must differ, or one is not what its name says; equal weights at"
    refuse(what, equal, inline=True)


def _refuse_jumps(series: Series) -> None:
    lowest, jumps = float("inf"), []
    for one in series.checkpoints:
        if one.loss is None:
            continue
        if not one.loss <= JUMP * lowest:
            jumps.append(f"{one.loss:.4g} at step {one.step}, after {lowest:.4g}")
        lowest = min(lowest, one.loss)
    what = f"the loss of {series.name} must not jump to {JUMP:g} times its lowest before; got"
    refuse(what, jumps, inline=True)


def opened(series: Series) -> Iterator[tuple[Checkpoint, Folder]]:
    """Yield the checkpoints of a series by step, each with its opened folder.

    Those of the hub are fetched one by one. Where no index told, their weights are hashed.

    Raises:
        FileNotFoundError: If one is not there.
        RuntimeError: If another process could not open one.
        ValueError: If one is no model that we read, or has the weights of one before.
    """
    seen: list[Checkpoint] = []
    for checkpoint in series.checkpoints:
        folder = open_folder(checkpoint.model)
        digest = checkpoint.weights or weights_digest(folder.path)
        seen.append(checkpoint._replace(weights=digest))
        _refuse_equal(series.name, seen)
        yield seen[-1], folder
