"""How fast the nearest are selected from a block of scores: staged, and otherwise.

    python -m experiments.bench.selection
    python -m experiments.bench.selection --queries=2048 --keys=206448

In turn in one process; the last column is the share of the best that was found, which
must be 1 for ours, or the run fails. The bare maximum of each query stands beside them:
no selection reads the scores in less.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax import lax

from experiments import launch
from experiments.bench.timing import alternating
from experiments.command_line import whole_numbers
from ilo_jax.metrics.neighbors.selection import best_keys

FLAGS = flags.FLAGS

Select = Callable[[jax.Array], jax.Array]


def staged(score: jax.Array, *, count: int, tile: int) -> jax.Array:
    """Ours."""
    keys = score.shape[1]
    score = score[:, : keys // tile * tile]
    nobody = jnp.full(len(score), -1)
    bias = jnp.zeros(score.shape[1])
    return best_keys(score, bias, nobody, count=count, tile=tile).score


def repeated_maxima(score: jax.Array, *, count: int) -> jax.Array:
    """The maximum taken away, `count` times."""

    def one(score: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        place = jnp.argmax(score, axis=1)[:, None]
        best = jnp.take_along_axis(score, place, axis=1)
        return jnp.put_along_axis(score, place, -jnp.inf, axis=1, inplace=False), best[:, 0]

    return lax.scan(one, score, length=count)[1].T


def packed(score: jax.Array, *, count: int) -> jax.Array:
    """Sorting integers whose high half is the score's and whose low half is the place."""
    bits = lax.bitcast_convert_type(score, jnp.int32)
    ordered = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    places = jnp.arange(score.shape[1]) & 0xFFFF
    best = jnp.sort((ordered & ~0xFFFF) | places[None], axis=1)[:, : -count - 1 : -1]
    return jnp.take_along_axis(score, best & 0xFFFF, axis=1)


def ways(keys: int, count: int, tiles: list[int]) -> dict[str, Select]:
    """Every way to select."""
    found: dict[str, Select] = {
        f"staged, tile {tile}": partial(staged, count=count, tile=tile) for tile in tiles
    }
    found["lax.top_k"] = lambda score: lax.top_k(score, count)[0]
    found["lax.approx_max_k"] = lambda score: lax.approx_max_k(score, count)[0]
    found["repeated maxima"] = partial(repeated_maxima, count=count)
    if keys <= 2**16:
        found["packed integers"] = partial(packed, count=count)
    found["one maximum"] = lambda score: jnp.max(score, axis=1, keepdims=True)
    return {name: jax.jit(way) for name, way in found.items()}


def found_of(best: np.ndarray, true: np.ndarray) -> float:
    """The share of the true best scores that were found."""
    return float(np.mean([np.isin(t, b).mean() for t, b in zip(true, best, strict=True)]))


def main() -> None:
    """Time all ways and print a table."""
    queries, keys, count = FLAGS.queries, FLAGS.keys, FLAGS.count
    tiles = whole_numbers("tiles", FLAGS.tiles, least=1)
    even = np.lcm.reduce(tiles)
    keys = int(np.ceil(keys / even) * even)
    score = jax.random.normal(jax.random.key(0), (queries, keys))
    true = -np.sort(-np.asarray(score), axis=1)[:, :count]
    selects = ways(keys, count, tiles)
    times = alternating({n: partial(s, score) for n, s in selects.items()}, rounds=FLAGS.rounds)
    seconds = {name: each.seconds.wall for name, each in times.items()}
    print(
        f"{queries} x {keys}, best {count}: {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    for name, select in selects.items():
        each = seconds[name] / (queries * keys) * 1e9
        faster = seconds["lax.top_k"] / seconds[name]
        share = found_of(np.asarray(select(score)), true)
        print(f"{name:20} {each:8.3f} ns a score, {faster:6.2f} x as fast as top_k, {share:.4f}")
        if name.startswith("staged") and share < 1:
            raise ArithmeticError(f"{name} missed some of the best")


if __name__ == "__main__":
    flags.DEFINE_integer("queries", 256, "Rows of scores.", lower_bound=1)
    flags.DEFINE_integer("keys", 30907, "Scores in a row; made a multiple of all tiles.")
    flags.DEFINE_integer("count", 12, "How many to find.", lower_bound=1)
    flags.DEFINE_list("tiles", ["8", "16", "32", "64"], "Scores that share a maximum.")
    flags.DEFINE_integer("rounds", 9, "Of which the medians are taken.", lower_bound=5)
    launch.start(main)
