"""What is wrong with what a caller gives, one sentence for each thing, and its refusal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh

_KINDS = {"floats": jnp.floating, "integers": jnp.integer, "bools": jnp.bool_}


def refuse(errors: Sequence[str]) -> None:
    """Raise all errors at once, if there are any.

    Raises:
        ValueError: If `errors` is not empty.
    """
    if errors:
        raise ValueError("; ".join(errors))


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def kind_errors(name: str, value: Any, *, of: str) -> list[str]:
    """What makes a value no array of floats, integers or bools, whatever its shape.

    Integers, bools and complex numbers are no floats: what a caller means by them as points, and
    what may be lost of them, is for the caller to say.
    """
    if not _is_array(value):
        kind = type(value).__name__
        return [f"{name} must be an array of {of}, got a {kind}; make one by jax.numpy.asarray"]
    if not jnp.issubdtype(value.dtype, _KINDS[of]):
        return [f"{name} must be of {of}, got {value.dtype}; convert it by .astype"]
    return []


def array_errors(name: str, value: Any, *, axes: str, of: str) -> list[str]:
    """What makes a value no array of these axes, as for `kind_errors`.

    Args:
        name: Of the argument.
        value: Given for it.
        axes: Names of the axes, separated by spaces.
        of: "floats", "integers" or "bools".
    """
    errors = kind_errors(name, value, of=of)
    if not _is_array(value):
        return errors
    names = axes.split()
    if value.ndim != len(names):
        shape = f"({', '.join(names)}{',' * (len(names) == 1)})"
        errors.append(f"{name} must have the shape {shape}, got {value.shape}")
    elif 0 in value.shape:
        errors.append(f"{name} must not be empty, got the shape {value.shape}")
    return errors


def length_errors(lengths: Mapping[str, int], *, expected: int, of: str) -> list[str]:
    """Which arguments, of these lengths by name, have not one entry for each point, say."""
    return [
        f"{name} must have an entry for each of the {expected} {of}, got {length}"
        for name, length in lengths.items()
        if length != expected
    ]


def _in_one_line(value: Any) -> str:
    return " ".join(repr(value).split())


def is_integer(value: Any) -> bool:
    """Whether it is a number of things; bools and arrays are not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def integer_errors(values: Mapping[str, Any], *, least: int | None = None) -> list[str]:
    """Which values, by the names of their arguments, are no integers, or too small ones."""

    def each() -> Iterator[str]:
        for name, value in values.items():
            if not is_integer(value):
                yield f"{name} must be an integer, got {_in_one_line(value)}"
            elif least is not None and value < least:
                yield f"{name} must be at least {least}, got {value}"

    return list(each())


def choice_errors(name: str, value: Any, allowed: Sequence[str]) -> list[str]:
    """Whether a value is none of the allowed ones."""
    if isinstance(value, str) and value in allowed:
        return []
    return [f"{name} must be one of {', '.join(allowed)}, got {_in_one_line(value)}"]


def mesh_errors(mesh: Any) -> list[str]:
    """What makes a value no devices to share work, which None and a mesh with axes are."""
    if mesh is None or (isinstance(mesh, Mesh) and mesh.axis_names):
        return []
    given = _in_one_line(mesh)
    return [f"mesh must be a jax.sharding.Mesh with at least one axis, or None, got {given}"]


def label_errors(name: str, labels: jax.Array | np.ndarray, *, below: int, what: str) -> list[str]:
    """What makes labels, of the right shape and type, no numbers from 0 on, or -1 for none.

    Nothing, where they are traced: a value is not known under the caller's `jax.jit`.

    Args:
        name: Of the argument.
        labels: Given for it.
        below: The number of things that they name.
        what: Such a thing.
    """
    if isinstance(labels, Tracer):
        return []
    low, high = _extremes(labels)
    if low >= -1 and high < below:
        return []
    return [
        f"{name} must be in [0, {below}), or -1 for no {what}, got labels from {low} to {high}; "
        f"count from 0, or give a larger number of {what}s"
    ]


def _extremes(labels: jax.Array | np.ndarray) -> tuple[int, int]:
    """The least and the highest; of an array over several processes, too."""
    if isinstance(labels, np.ndarray):
        return int(labels.min()), int(labels.max())
    # Not traced, also where this runs under a transform of other arrays.
    with jax.ensure_compile_time_eval():
        low, high = jax.device_get((jnp.min(labels), jnp.max(labels)))
    return int(low), int(high)
