"""Which rows of which tensor of a checkpoint each of our weights is."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.checkpoint import Mapped
from ilo_jax.models.hub.families import Family
from ilo_jax.refusals import listed

LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight", "bias": "bias"}
"""From the last word of our paths to the last word of a tensor's name."""

ROWS = 4096
"""Compared at a time."""

Index = tuple[slice, ...]


class Source(NamedTuple):
    """Where one of our weights is in a checkpoint.

    The rows of a tensor (along its outputs) come in groups, of which each of the weights
    that are fused in it has the same part.
    """

    tensor: str
    axis: int
    """Axis of our weight along which it is a part of the tensor's."""
    transposed: bool
    """Whether the tensor is [out, in] where ours is [in, out]."""
    groups: int
    start: int
    """Where our rows begin in each group."""
    size: int
    """Our rows of each group."""
    total: int
    """All rows of each group."""

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the whole tensor, of which a weight of shape `ours` is a part."""
        sizes = list(ours)
        sizes[self.axis] = self.groups * self.total
        return tuple(sizes[::-1] if self.transposed else sizes)

    def pieces(self, ours: Index) -> Iterator[Index]:
        """Yield the index into the tensor of each of its pieces that `ours` is made of.

        Joined along the outputs, and transposed if `transposed`, they are our block.
        """
        rows = ours[self.axis]
        for group in range(rows.start // self.size, -(-rows.stop // self.size)):
            offset = group * self.total + self.start - group * self.size
            first = max(rows.start, group * self.size)
            last = min(rows.stop, (group + 1) * self.size)
            index = list(ours)
            index[self.axis] = slice(first + offset, last + offset)
            yield tuple(index[::-1] if self.transposed else index)

    def read(self, tensor: Shaped[np.ndarray, "..."], ours: Index) -> Shaped[np.ndarray, "..."]:
        """A block of our weight: a view of the tensor, if it is in one piece."""
        pieces = [tensor[index] for index in self.pieces(ours)]
        if len(pieces) == 1:
            return pieces[0].T if self.transposed else pieces[0]
        pieces = [piece.T if self.transposed else piece for piece in pieces]
        return np.concatenate(pieces, axis=self.axis)

    def write(self, tensor: Shaped[np.ndarray, "..."], ours: Shaped[np.ndarray, "..."]) -> None:
        """Put the whole of our weight into its place in the tensor."""
        whole = tuple(slice(0, size) for size in ours.shape)
        width = ours.shape[self.axis] // self.groups
        for group, index in enumerate(self.pieces(whole)):
            rows = [slice(None)] * ours.ndim
            rows[self.axis] = slice(group * width, (group + 1) * width)
            piece = ours[tuple(rows)]
            tensor[index] = piece.T if self.transposed else piece


def sources(
    family: Family, config: ModelConfig, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Source]:
    """Where each of our weights is, by its path, in a checkpoint with a task head.

    Args:
        family: Whose names are used.
        config: Of the model.
        shapes: Of our weights, by path.
    """
    owners: dict[str, dict[str, int]] = {}
    for path in _in_table_order(shapes, family):
        tensor = _tensor(path, family, own_head=config.head.kind == "own")
        owners.setdefault(tensor, {})[path] = shapes[path][_axis(path)]
    found = {}
    for tensor, rows in owners.items():
        by_head = family.names[_module(next(iter(rows)))].fused == "heads"
        groups = config.blocks[0].attention.heads if by_head else 1
        starts = itertools.accumulate(rows.values(), initial=0)
        for (path, size), start in zip(rows.items(), starts, strict=False):
            outputs_first = not family.names[_module(path)].inputs_first
            found[path] = Source(
                tensor=tensor,
                axis=_axis(path),
                transposed=path.endswith("/kernel") and outputs_first,
                groups=groups,
                start=start // groups,
                size=size // groups,
                total=sum(rows.values()) // groups,
            )
    return found


def _in_table_order(paths: Iterable[str], family: Family) -> list[str]:
    order = {module: i for i, module in enumerate(family.names)}
    return sorted(paths, key=lambda path: order[_module(path)])


def _axis(path: str) -> int:
    """Our axis of the outputs."""
    return 1 if path.endswith("/kernel") else 0


def _module(path: str) -> str:
    return re.sub(r"\d+", "*", path.rpartition("/")[0])


def _tensor(path: str, family: Family, *, own_head: bool) -> str:
    """The name of the tensor that a weight is a part of.

    The bias of a head with a matrix of its own is that matrix's: what a masked language model
    shares, it shares with the embedding, weight and bias together.
    """
    module = family.names["head/out" if path == "head/bias" and own_head else _module(path)].module
    for number in re.findall(r"\d+", path):
        module = module.replace("*", number, 1)
    return f"{module}.{LEAVES[path.rpartition('/')[2]]}"


def by_tensor(found: Mapping[str, Source]) -> dict[str, dict[str, Source]]:
    """The parts of every tensor: its weights' paths, and their places in it."""
    parts: dict[str, dict[str, Source]] = {}
    for path, source in found.items():
        parts.setdefault(source.tensor, {})[path] = source
    return parts


def join(
    weights: Mapping[str, Shaped[np.ndarray, "..."]], parts: Mapping[str, Source]
) -> Shaped[np.ndarray, "..."]:
    """A tensor of a checkpoint, put together from the weights that are its parts."""
    path, source = next(iter(parts.items()))
    tensor = np.empty(source.shape(weights[path].shape), weights[path].dtype)
    for path, source in parts.items():
        source.write(tensor, weights[path])
    return tensor


def is_bare(names: Iterable[str], family: Family) -> bool:
    """Whether a checkpoint leaves out the family's prefix."""
    return not any(name.startswith(family.prefix) for name in names)


def without_prefix(found: Mapping[str, Source], family: Family) -> dict[str, Source]:
    """The sources in a checkpoint of the bare backbone."""
    return {
        path: source._replace(tensor=source.tensor.removeprefix(family.prefix))
        for path, source in found.items()
    }


def account(
    found: Mapping[str, Source], family: Family, tensors: Mapping[str, Path], *, head: str
) -> tuple[dict[str, Source], list[str]]:
    """The sources under the names that a checkpoint has, and the tensors left over.

    Args:
        found: Where each weight should be, in a checkpoint with a task head.
        family: Its prefix, its older names, and what it ignores.
        tensors: The file of every tensor there is.
        head: The kind of the model's head.

    Raises:
        ValueError: Naming the tensors that are missing, and those that are unexpected.
    """
    if is_bare(tensors, family):
        found = without_prefix(found, family)
    named = {
        path: source._replace(tensor=_spelled(source.tensor, family, tensors))
        for path, source in found.items()
    }
    wanted = {source.tensor for source in named.values()}
    missing = sorted(wanted - set(tensors))
    spare = sorted(set(tensors) - wanted)
    patterns = (*family.ignored, *_unused_head(family, head))
    ignored = [name for name in spare if any(re.fullmatch(p, name) for p in patterns)]
    unexpected = sorted(set(spare) - set(ignored))
    if missing or unexpected:
        raise ValueError(f"missing {_quoted(missing)}, unexpected {_quoted(unexpected)}")
    return named, ignored


def _quoted(names: Sequence[str]) -> str:
    return f"[{listed([*map(repr, names)])}]" if names else "none"


def refuse_other_head(
    found: Mapping[str, Source], family: Family, files: Mapping[str, Mapped], *, head: str
) -> None:
    """Stop if a head that config.json calls tied is in the file, and is not the embedding.

    Raises:
        ValueError: Naming both tensors.
    """
    table = found["embed/tokens/embedding"].tensor
    own = f"{family.names['head/out'].module}.weight"
    if head != "tied" or own not in files:
        return
    one, other = files[table].tensor(table), files[own].tensor(own)
    rows = range(0, len(one), ROWS)
    if one.shape != other.shape or any(
        not np.array_equal(one[i : i + ROWS], other[i : i + ROWS]) for i in rows
    ):
        raise ValueError(
            f"tie_word_embeddings is true, but {own} differs from {table}: say false to use it"
        )


def _spelled(tensor: str, family: Family, tensors: Mapping[str, Path]) -> str:
    """The name that the checkpoint has for a tensor: an older one, if need be."""
    if tensor in tensors:
        return tensor
    older = (
        tensor.removesuffix(new) + old for new, old in family.older.items() if tensor.endswith(new)
    )
    return next((name for name in older if name in tensors), tensor)


def _unused_head(family: Family, head: str) -> list[str]:
    """Patterns of the tensors of a head that is tied, or not there."""
    modules = [place.module for ours, place in family.names.items() if ours.startswith("head")]
    tied = [family.names["head/out"].module + ".weight"]
    if head == "none":
        return [rf"{re.escape(module)}\.(weight|bias)" for module in modules]
    if head == "tied":
        return [re.escape(name) for name in tied]
    shared = [family.names["head"].module] if "head" in family.names else []
    return [rf"{re.escape(module)}\.bias" for module in shared]
