"""Who is compared by `experiments.bench.ilo`: ours, and others that find the same neighbours.

The others have their neighbours counted by nobody, but for the paper's algorithm: its loop over
languages is part of what it takes.
"""

import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ilo_jax.metrics import IloSettings, nearest, tally
from ilo_jax.sharding import make_mesh

MIN_LANGUAGES = IloSettings.min_languages


class Found(NamedTuple):
    """What a search gives."""

    index: Any
    """Neighbours of each point, "point k"."""
    certain: Any = None
    """True for each point where they are proven."""
    redone: Any = None
    """True for each point that was searched for again."""
    ilo: Any = None
    """ILO of each language."""


Search = Callable[[], Found]


def ours(states: np.ndarray, k: int, **how: Any) -> Search:
    """ILO by this library."""
    lang, sent, dim = states.shape
    points = jax.device_put(states.reshape(-1, dim))
    languages = jnp.repeat(jnp.arange(lang), sent)
    counts = {"num_languages": lang, "min_languages": MIN_LANGUAGES}

    @jax.jit
    def search(points: jax.Array, languages: jax.Array) -> Found:
        found = nearest(points, k=k, **how)
        scores = tally(found, languages, **counts)
        return Found(found.index, ~found.uncertain, found.redone, scores.ilo)

    return lambda: search(points, languages)


def sharded(states: np.ndarray, k: int, *, precision: str) -> Search:
    """ILO by this library, over all devices."""
    return ours(states, k, precision=precision, mesh=make_mesh())


def products(states: np.ndarray, k: int, *, dtype: Any) -> Search:
    """The bare matrix products, block by block, as fast as XLA makes them: the floor."""
    points = jnp.asarray(states.reshape(-1, states.shape[-1]), dtype)
    on_cpu = jax.default_backend() == "cpu"
    block = min(256 if on_cpu else 2048, len(points))

    @jax.jit
    def multiply(points: jax.Array) -> jax.Array:
        def one(number: jax.Array, _: jax.Array) -> jax.Array:
            queries = lax.dynamic_slice_in_dim(points, number * block, block)
            return jnp.einsum(
                "qd,kd->qk",
                queries,
                points,
                precision=lax.Precision.HIGHEST if dtype == jnp.float32 else None,
                preferred_element_type=jnp.float32,
            )

        blocks = math.ceil(len(points) / block)
        return lax.fori_loop(0, blocks, one, jnp.zeros((block, len(points))))

    return lambda: Found(multiply(points))


def paper(states: np.ndarray, k: int) -> Search:
    """The algorithm of Wilie et al. in torch, written for this comparison.

    The whole matrix of similarities, the k + 1 highest of each row on the host, the first
    dropped; then a loop over languages and sentences.
    """
    import torch

    lang, sent, dim = states.shape
    device = "cuda" if torch.cuda.is_available() else "cpu"
    points = torch.from_numpy(states.reshape(-1, dim)).to(device)

    def search() -> Found:
        unit = torch.nn.functional.normalize(points, dim=1)
        distance = 1 - unit @ unit.T
        index = torch.topk(distance, k + 1, dim=1, largest=False).indices[:, 1:].cpu().numpy()
        for language in range(lang):
            rows = index[language * sent : (language + 1) * sent] // sent
            touches = [set(row.tolist()) - {language} for row in rows]
            sum(len(touched) >= MIN_LANGUAGES for touched in touches)
            set.union(*touches)
        return Found(index)

    return search


def torch_topk(states: np.ndarray, k: int) -> Search:
    """Products and `topk` in torch, block by block, on unit vectors: what one writes at first."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    points = torch.from_numpy(states.reshape(-1, states.shape[-1])).to(device)

    def search() -> Found:
        unit = torch.nn.functional.normalize(points, dim=1)
        blocks = ((some @ unit.T).topk(k + 1, dim=1).indices for some in unit.split(2048))
        return Found(without_own(torch.cat([*blocks]).cpu().numpy()))

    return search


def faiss_flat(states: np.ndarray, k: int) -> Search:
    """FAISS, `IndexFlatIP` on unit vectors."""
    import faiss  # pyright: ignore[reportMissingImports] (extra "bench")

    points = states.reshape(-1, states.shape[-1])

    def search() -> Found:
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        index = faiss.IndexFlatIP(unit.shape[1])
        index.add(unit)
        return Found(without_own(index.search(unit, k + 1)[1]))

    return search


def scikit_learn(states: np.ndarray, k: int) -> Search:
    """scikit-learn, brute force on unit vectors."""
    from sklearn.neighbors import NearestNeighbors  # pyright: ignore[reportMissingImports]

    points = states.reshape(-1, states.shape[-1])

    def search() -> Found:
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        # With no argument, a point is not its own neighbour.
        return Found(NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit).kneighbors()[1])

    return search


def without_own(index: np.ndarray) -> np.ndarray:
    """Take each point out of its own neighbours, or the last of them if it is not there."""
    own = index == np.arange(len(index))[:, None]
    own[~own.any(axis=1), -1] = True
    return index[~own].reshape(len(index), -1)


SEARCHERS: dict[str, Callable[[np.ndarray, int], Search]] = {
    "exact": ours,
    "fast": partial(ours, precision="fast"),
    "exact-turn": partial(ours, symmetric=False),
    "exact-symmetric": partial(ours, symmetric=True),
    "fast-turn": partial(ours, precision="fast", symmetric=False),
    "fast-symmetric": partial(ours, precision="fast", symmetric=True),
    "exact-sharded": partial(sharded, precision="exact"),
    "fast-sharded": partial(sharded, precision="fast"),
    "products": partial(products, dtype=jnp.float32),
    "products-bfloat16": partial(products, dtype=jnp.bfloat16),
    "paper": paper,
    "torch": torch_topk,
    "FAISS": faiss_flat,
    "scikit-learn": scikit_learn,
}
NEEDS = {"paper": "torch", "torch": "torch", "FAISS": "faiss", "scikit-learn": "sklearn"}
FLOORS = ("products", "products-bfloat16")


def absent(names: list[str]) -> list[str]:
    """Those whose package is not installed."""
    return [n for n in names if n in NEEDS and importlib.util.find_spec(NEEDS[n]) is None]
