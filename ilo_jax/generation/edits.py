"""Edits of a model while it speaks: units held and directions added, by row and position."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.sites import At, Visit, widths
from ilo_jax.refusals import refuse

INSIDE, LAST, SAID = range(3)
"""Stages of a row's positions: of the prompt but its last, the prompt's last, of what was said."""

POSITIONS: dict[str, tuple[int, ...]] = {
    "all": (INSIDE, LAST, SAID),
    "prompt": (INSIDE, LAST),
    "last": (LAST, SAID),
    "generated": (SAID,),
}
"""Where an edit may be made; "last" is wherever the next token is said from."""

KINDS = ("set", "add", "scale", "zero")


@dataclass(frozen=True, kw_only=True)
class Edit:
    """A change of the values at one site and layer of one row."""

    site: str
    """Of `models.sites`."""
    layer: int
    kind: str
    """One of `KINDS`: to set values, add to them, multiply them, or make them 0."""
    units: Sequence[int] | None = None
    """Numbers along the first axis of the site: neurons, dimensions, or whole heads; None: all."""
    values: ArrayLike | Sequence[Any] = 0.0
    """What is set or added, or by what is multiplied: a number, or as many as there are units (by
    the width of a head)."""
    positions: str = "all"
    """One of `POSITIONS`."""
    strength: float = 1.0
    """How much of the change is made: 0 none, 1 all, 2 twice as much."""


class Held(NamedTuple):
    """What is made of a value x at a site: `scale * x + shift`, by stage of the position."""

    scale: Float[Any, "stage row *width"]
    shift: Float[Any, "stage row *width"]


Edits = dict[At, Held]
"""By site and layer: the keys are part of what is compiled, the arrays are not."""


def held(rows: Sequence[Sequence[Edit]], config: ModelConfig, *, at: Iterable[At] = ()) -> Edits:
    """The edits of every row of a batch, each row's in turn, as arrays.

    Args:
        rows: The edits of each; none: the row is as the model has it, bit by bit.
        config: Of the model.
        at: Sites and layers to have arrays for, edited or not: batches with equal ones share a
            compile.

    Raises:
        ValueError: Naming all edits that the model has no place for.
    """
    shapes = widths(config)
    distinct = dict.fromkeys(id(edit) for edits in rows for edit in edits)
    by_id = {id(edit): edit for edits in rows for edit in edits}
    problems = [problem for key in distinct for problem in _problems(by_id[key], shapes, config)]
    problems += [
        f"{site}@{layer}: no such site" for site, layer in at if (site, layer) not in shapes
    ]
    refuse("an edit must be at a site, layer and units of the model; got:", problems)
    places = dict.fromkeys([*at, *((e.site, e.layer) for edits in rows for e in edits)])
    found = {place: _identity(len(rows), shapes[place]) for place in places}
    for row, edits in enumerate(rows):
        for edit in edits:
            _apply(edit, found[edit.site, edit.layer], row)
    return found


def _identity(rows: int, shape: tuple[int, ...]) -> Held:
    whole = len(POSITIONS["all"]), rows, *shape
    return Held(np.ones(whole, np.float32), np.zeros(whole, np.float32))


def _apply(edit: Edit, held: Held, row: int) -> None:
    """Make an edit of what those before it have made."""
    shape = held.scale.shape[2:]
    units = np.arange(shape[0]) if edit.units is None else np.asarray(edit.units)
    values = np.asarray(edit.values, np.float32)
    values = (
        np.broadcast_to(values, (len(units), *shape[1:]))
        if values.ndim == 0
        else (values.reshape(len(units), *shape[1:]))
    )
    scale, shift = {
        "set": (np.zeros_like(values), values),
        "add": (np.ones_like(values), values),
        "scale": (values, np.zeros_like(values)),
        "zero": (np.zeros_like(values), np.zeros_like(values)),
    }[edit.kind]
    scale, shift = 1 + edit.strength * (scale - 1), edit.strength * shift
    for stage in POSITIONS[edit.positions]:
        held.scale[stage, row, units] *= scale
        held.shift[stage, row, units] = held.shift[stage, row, units] * scale + shift


def _problems(edit: Edit, shapes: Mapping[At, tuple[int, ...]], config: ModelConfig) -> list[str]:
    """What makes an edit impossible."""
    name = f"{edit.site}@{edit.layer}"
    if (edit.site, edit.layer) not in shapes:
        sites = ", ".join(dict.fromkeys(site for site, _ in shapes))
        return [f"{name}: its sites are {sites}, its blocks 0 to {config.layers - 1}"]
    units, *rest = shapes[edit.site, edit.layer]
    problems = []
    if edit.kind not in KINDS:
        problems.append(f"{name}: a kind of {', '.join(KINDS)} is needed, not {edit.kind!r}")
    if edit.positions not in POSITIONS:
        allowed = ", ".join(POSITIONS)
        problems.append(f"{name}: positions of {allowed} are needed, not {edit.positions!r}")
    outside = [str(u) for u in edit.units or () if not 0 <= u < units]
    if outside:
        problems.append(f"{name}: units are 0 to {units - 1}, not {', '.join(outside)}")
    chosen = units if edit.units is None else len(edit.units)
    size, needed = np.size(edit.values), chosen * math.prod(rest)
    if size not in {1, needed}:
        problems.append(f"{name}: 1 or {needed} values are needed, not {size}")
    return problems


class Staged(NamedTuple):
    """Edits, and the stages of the positions that are visited."""

    held: Held
    stages: Int[Array, "row seq"]


def holding(edits: Edits, stages: Int[Array, "row seq"]) -> Visit:
    """The visit that makes edits.

    Args:
        edits: Of each row.
        stages: Of each position that is visited.
    """
    return Visit(_hold, {at: Staged(one, stages) for at, one in edits.items()})


def _hold(site: str, staged: Staged, value: Array) -> tuple[Array, None]:
    """What nothing is made of keeps its bits."""
    scale, shift = (_by_stage(one, staged.stages) for one in staged.held)
    edited = (scale * value + shift).astype(value.dtype)
    return jnp.where((scale == 1) & (shift == 0), value, edited), None


def _by_stage(
    values: Float[Any, "stage row *width"], stages: Int[Array, "row seq"]
) -> Float[Array, "row seq *width"]:
    which = stages.reshape(*stages.shape, *[1] * (values.ndim - 2))
    inside, last, said = (one[:, None] for one in values)
    return jnp.where(which == INSIDE, inside, jnp.where(which == LAST, last, said))
