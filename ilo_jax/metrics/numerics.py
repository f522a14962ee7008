"""The same results, whatever settings of JAX the importing program has."""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def own_numerics() -> Iterator[None]:
    """Compute as metrics are defined, whatever is set; decorates what others may call.

    Here NaN is the score of what is not there, and infinity the distance to it, so neither is an
    error (`jax_debug_nans`, `jax_debug_infs`); and a seed gives the same draws everywhere
    (`jax_threefry_partitionable`). All other settings change nothing by themselves, for types,
    shapes and precisions are written out: `jax_enable_x64`, `jax_numpy_dtype_promotion`,
    `jax_numpy_rank_promotion`, `jax_default_matmul_precision`, `jax_default_prng_impl`. Under the
    caller's own `jax.jit`, whose results JAX itself looks through, NaN may be an error still.
    """
    with jax.debug_nans(False), jax.debug_infs(False), jax.threefry_partitionable(True):
        yield
