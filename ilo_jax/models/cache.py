"""What a decoder has read, kept as the keys and values of every token: a visit at their sites."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.layout import Places
from ilo_jax.models.sites import Shown, Visit, reading

SITES = ("keys", "values")


class Slots(NamedTuple):
    """The keys, or values, of one block, and how many slots of them are filled."""

    held: Float[Array, "batch kv slot dim"]
    """In the order in which attention reads them."""
    filled: Int[Array, ""]


class Cache(NamedTuple):
    """Keys and values of all tokens read so far, by block, and where the tokens stand.

    All rows fill the same slots; which of them are a row's own, and at which positions, is said by
    `places`.
    """

    keys: tuple[Float[Array, "batch kv slot dim"], ...]
    values: tuple[Float[Array, "batch kv slot dim"], ...]
    places: Places
    """Of each slot; segment 0: nothing is there."""
    filled: Int[Array, ""]
    """How many slots are, from the first."""

    def seen(self, places: Places) -> Places:
        """Where all tokens stand once others are read, too: `seen` of the run that reads them.

        Args:
            places: Of the others.
        """
        return Places(
            *(
                lax.dynamic_update_slice_in_dim(held, new, self.filled, axis=1)
                for held, new in zip(self.places, places, strict=True)
            )
        )

    def grown(self, shown: Shown, places: Places) -> "Cache":
        """The cache after a run that was visited by `caching`.

        Args:
            shown: By that run.
            places: Of the tokens that it read.
        """
        keys, values = (
            tuple(shown[site, layer] for layer in range(len(self.keys))) for site in SITES
        )
        filled = self.filled + places.positions.shape[1]
        return Cache(keys, values, self.seen(places), filled)


def caching(cache: Cache) -> Visit:
    """The visit by which tokens see all that were read before, and are kept themselves.

    It shows the slots of every block with theirs filled.
    """
    held = {"keys": cache.keys, "values": cache.values}
    return Visit(
        _append,
        {
            (site, layer): Slots(slots, cache.filled)
            for site, layers in held.items()
            for layer, slots in enumerate(layers)
        },
    )


def _append(site: str, slots: Slots, value: Array) -> tuple[Array, Array]:
    new = jnp.moveaxis(value, 1, 2).astype(slots.held.dtype)
    held = lax.dynamic_update_slice_in_dim(slots.held, new, slots.filled, axis=2)
    return jnp.moveaxis(held, 2, 1), held


def keeping(config: ModelConfig) -> Visit:
    """The visit that shows the keys and values of whole rows, for `kept`."""
    return reading(config, *SITES)


def kept(shown: Shown, places: Places, *, slots: int) -> Cache:
    """The cache of whole rows that were visited by `keeping`.

    Args:
        shown: By the run.
        places: Of the rows.
        slots: How many there are room for, at least those of the rows.
    """
    seq = places.positions.shape[1]
    layers = sum(site == "keys" for site, _ in shown)
    keys, values = (
        tuple(_with_room(shown[site, layer], slots) for layer in range(layers)) for site in SITES
    )
    room = ((0, 0), (0, slots - seq))
    return Cache(keys, values, Places(*(jnp.pad(one, room) for one in places)), jnp.int32(seq))


def _with_room(
    value: Float[Array, "batch seq kv dim"], slots: int
) -> Float[Array, "batch kv slot dim"]:
    held = jnp.moveaxis(value, 1, 2)
    return jnp.pad(held, ((0, 0), (0, 0), (0, slots - held.shape[2]), (0, 0)))
