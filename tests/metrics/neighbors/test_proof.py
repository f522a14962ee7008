"""The bounds hold in float64, and what they leave open is said so."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array

from ilo_jax.metrics.neighbors.cloud import Cloud, centred, usable_points
from ilo_jax.metrics.neighbors.proof import Verdict, _rounding, judged, product_slack
from ilo_jax.metrics.neighbors.selection import Candidates, measured, scores

DIMS = [1, 2, 3, 31, 64, 1000]
over_dims = pytest.mark.parametrize("dim", DIMS)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def kinds(dim: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(dim)
    return {
        "gaussian": normal(60, dim),
        "one sign": np.abs(normal(60, dim)) + 1,
        "powers apart": normal(60, dim) * np.exp2(rng.integers(-20, 20, (60, dim))),
        "signs that cancel": normal(60, dim) + 100 * (-1.0) ** np.arange(dim),
        "nearly the same": normal(60, dim) * 1e-5 + normal(dim, seed=1) + 2,
        "few distances": np.round(normal(60, dim) * 2) + np.arange(1, dim + 1) / 3,
        "signs of one vector": normal(dim) * rng.choice([-1, 1], (60, dim)),
    }


KINDS = list(kinds(1))
over_kinds = pytest.mark.parametrize("kind", KINDS)


def chopped(value: np.ndarray) -> Any:
    """Of float64, cut off after 24 bits, as matrix units may."""
    fraction, exponent = np.frexp(value)
    return np.ldexp(np.trunc(fraction * 2.0**24), exponent - 24)


def added_in_turn(products: np.ndarray, *, low: bool) -> np.ndarray:
    """The sum of the last axis in the worst order for rounding, the largest first."""
    order = np.argsort(-np.abs(products), axis=-1)
    total = np.zeros(products.shape[:-1])
    for term in np.moveaxis(np.take_along_axis(products, order, axis=-1), -1, 0):
        total = chopped(total + term) if low else np.float32(total + np.float32(term))
    return np.asarray(total, np.float64)


@over_dims
@over_kinds
@pytest.mark.parametrize("low", [False, True])
def test_scores_are_as_exact_as_the_slack_says(dim, kind, low):
    points = kinds(dim)[kind].astype(np.float32)
    points = points.astype(jnp.bfloat16) if low else points
    wide = points.astype(np.float64)
    norms = np.sum(wide**2, axis=1)
    bias = np.float32(-norms / 2)
    allowed = product_slack(dim, low=low) * (norms[:, None] + norms[None]) / 2
    true = wide @ wide.T - norms / 2
    by_xla = np.asarray(jax.jit(scores)(points, points))
    by_hand = added_in_turn(wide[:, None] * wide[None], low=low)
    for product in (by_xla, np.float32(by_hand)):
        assert (np.abs((product + bias).astype(np.float64) - true) <= allowed).all()


@over_dims
def test_slack_is_small(dim):
    """A hundred times the slack still tells points apart; chopped sums take more of it."""
    assert 100 * product_slack(dim, low=False) <= 0.01 + dim * 1e-5
    assert product_slack(dim, low=True) > product_slack(dim, low=False) >= dim * 2.0**-24


@partial(jax.jit, static_argnames="distance")
def distances_and_bounds(points: Array, *, distance: str) -> tuple[Array, Array]:
    """Squared, of each query to all points, and how wrong each may be.

    All in one program, as in a search: XLA may compute the centred points more than once.
    """
    cloud = centred(points, usable_points(points, distance=distance), distance=distance)
    everyone, none = jnp.tile(jnp.arange(60), (60, 1)), jnp.zeros((60, 60))
    found = measured(Candidates(none, none, everyone), cloud.points, cloud.points).squared
    norm = jnp.repeat(jnp.sqrt(cloud.squared_norm), 60)
    bound = _rounding(found.ravel(), norm=norm, dim=cloud.points.shape[1], distance=distance)
    return found, bound.reshape(60, 60)


@over_dims
@over_kinds
@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_distances_farther_apart_than_their_bounds_are_in_order(dim, kind, distance):
    points = kinds(dim)[kind].astype(np.float32)
    found, bound = (
        np.asarray(x, np.float64)
        for x in distances_and_bounds(jnp.asarray(points), distance=distance)
    )
    wide = points.astype(np.float64)
    if distance == "cosine":
        wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    true = np.sum((wide[:, None] - wide[None]) ** 2, axis=2)
    nearer = true[:, :, None] < true[:, None, :] * (1 - 1e-13) - 1e-28
    wrong = found[:, :, None] - found[:, None, :] > bound[:, :, None] + bound[:, None, :]
    assert not (nearer & wrong).any()
    if kind == "gaussian":
        told_apart = (found[:, :, None] - found[:, None, :]) > bound[:, :, None] + bound[:, None, :]
        assert dim == 1 or told_apart.mean() >= 0.45


ROUNDOFF = 2.0**-24
over_distances = pytest.mark.parametrize("distance", ["cosine", "euclidean"])


def norm_error(dim: int) -> float:
    """The most by which the length of a unit vector may be wrong."""
    return (np.ceil(np.log2(dim)) / 2 + 7) * ROUNDOFF


@over_dims
@over_distances
def test_the_bound_is_what_its_derivation_says(dim, distance):
    """Whatever a computed distance may be for a true one, the bound at the computed covers."""
    unit = distance == "cosine"
    norm, true = np.meshgrid(np.logspace(-20, 1, 12), np.append(0, np.logspace(-40, 2, 400)))
    length, shift = unit * norm_error(dim), 2 * ROUNDOFF * (unit + norm)
    slope = (np.ceil(np.log2(dim)) + 5) * ROUNDOFF + length
    flushed = np.sqrt(dim) * 2.0**-61
    wrong = slope * true + 2 * shift * np.sqrt(true) + (shift + 2 * length + flushed) ** 2
    for computed in (np.maximum(true - wrong, 0), true + wrong):
        given = (jnp.asarray(x.ravel(), jnp.float32) for x in (computed, norm))
        squared, norms = given
        bound = _rounding(squared, norm=norms, dim=dim, distance=distance)
        # The computed one is rounded to float32 here, which the derivation has in the slope.
        assert (np.abs(computed - true).ravel() <= np.asarray(bound, np.float64)).all()


@pytest.mark.parametrize("dim", [2, 31, 100, 1000])
def test_lengths_are_wrong_by_no_more_than_the_bound_allows(dim):
    """Of rows of one number: all roundings of such a row are one way. With the centre at 0."""
    row = np.random.default_rng(dim).uniform(1, 2, (2**21 // dim, 1)).astype(np.float32)
    points = np.tile(np.concatenate([row, -row]), (1, dim))
    cloud = jax.jit(partial(centred, distance="cosine"))(points, np.ones(len(points), bool))
    lengths = np.sqrt(np.sum(np.asarray(cloud.points, np.float64) ** 2, axis=1))
    wrong = np.abs(lengths - 1).max() / ROUNDOFF
    # At no distance from the query, and with that at the centre, the bound is of the norms alone:
    # the root of what is left is 3 shifts of 2 roundoffs, and 2 errors of a length.
    none = jnp.zeros(1)
    rest = _rounding(none, norm=none, dim=dim, distance="cosine")[0] / 1.01
    allowed = (np.sqrt(float(rest)) / ROUNDOFF - 3 * 2) / 2
    # One more roundoff for the product, which the shifts hold; and the rows do come near.
    assert 2 < wrong <= allowed + 1


JUDGE = jax.jit(partial(judged, k=2, distance="euclidean"))


def verdict(
    *, squared: list[float], score: float, norm: float = 100.0, slack: float = 0.0, usable=True
) -> Verdict:
    """Of one query with candidates 10, 11, ..., the last of which has this score; k is 2."""
    count = len(squared)
    found = Candidates(
        jnp.full((1, count), 1e6).at[0, -1].set(score),
        jnp.asarray([squared], jnp.float32),
        jnp.arange(10, 10 + count)[None],
    )
    cloud = Cloud(jnp.asarray([[10.0]]), jnp.asarray([norm]), jnp.asarray([usable]))
    return JUDGE(found, cloud, slack=jnp.asarray(slack))


INF = float("inf")
# With |query|^2 = 100, no other point is nearer than 100 - 2 score.
JUDGED = {
    "all others are far": ({"squared": [1, 4, 9], "score": 40}, False, False),
    "all points are candidates": ({"squared": [1, 4, 9], "score": -INF}, False, False),
    "others are as near": ({"squared": [1, 4, 9], "score": 48}, True, True),
    "others are nearer": ({"squared": [1, 4, 9], "score": 49}, True, True),
    "others are a little farther": ({"squared": [1, 4, 9], "score": 47.99}, False, False),
    "others are farther within rounding": (
        {"squared": [1, 4, 9], "score": 47.9999995},
        True,
        True,
    ),
    "others are at the query": ({"squared": [0, 0, 9], "score": 70}, True, True),
    "slack brings others near": (
        {"squared": [1, 4, 9], "score": 47.5, "slack": 0.01},
        True,
        True,
    ),
    "slack does not bring others near": (
        {"squared": [1, 4, 9], "score": 47.5, "slack": 0.009},
        False,
        False,
    ),
    "the next is as near": ({"squared": [1, 4, 4], "score": 40}, True, False),
    "the next is farther within rounding": (
        {"squared": [1, 4, 4.000002], "score": 40},
        True,
        False,
    ),
    "the next is a little farther": ({"squared": [1, 4, 4.001], "score": 40}, False, False),
    "both neighbours are as near": ({"squared": [4, 4, 9], "score": 40}, False, False),
    "there is no next": ({"squared": [1, 4, INF], "score": -INF}, False, False),
}


@pytest.mark.parametrize(("given", "uncertain", "unproven"), JUDGED.values(), ids=JUDGED)
def test_judged(given, uncertain, unproven):
    found = verdict(**given)
    assert found.uncertain.tolist() == [uncertain]
    assert found.unproven.tolist() == [unproven]
    assert sorted(found.index[0].tolist()) == [10, 11]


@pytest.mark.parametrize(("times", "uncertain"), [(0.9, True), (1.1, False)])
def test_both_distances_may_be_wrong(times, uncertain):
    """The next may be nearer by its own bound, and the last neighbour farther by its own."""
    norm, bound = jnp.full(1, 1.0), partial(_rounding, dim=1, distance="euclidean")
    last, following = (float(bound(jnp.full(1, x), norm=norm)[0]) for x in (4.0, 4.00001))
    assert last > 0.49 * (last + following)
    found = verdict(squared=[1, 4, 4 + times * (last + following)], score=-INF, norm=1.0)
    assert found.uncertain.tolist() == [uncertain]


def test_the_nearest_come_first_whatever_their_scores():
    assert verdict(squared=[9, 4, 25, 1], score=0).index.tolist() == [[13, 11]]


@pytest.mark.parametrize(
    "given",
    [
        {"squared": [1, INF, INF], "score": -INF},
        {"squared": [INF, INF, INF], "score": -INF},
        {"squared": [1, 4, 4], "score": 60, "usable": False},
    ],
    ids=["one candidate", "no candidate", "an unusable query"],
)
def test_no_neighbours_are_certain(given):
    found = verdict(**given)
    assert found.index.tolist() == [[-1, -1]]
    assert found.uncertain.tolist() == [False]
    assert found.unproven.tolist() == [False]
