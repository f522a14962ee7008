"""The schedule against its formula, AdamW against its definition in float64, and how it lies."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from ilo_jax.models import parameters
from ilo_jax.sharding import make_mesh, replicated
from ilo_jax.training.optimizers import adamw, muon, shardings, warmup_cosine

# The schedule


def formula(step: int, *, peak: float, warmup: int, steps: int) -> float:
    if step < warmup:
        return peak * step / warmup
    return peak * (1 + math.cos(math.pi * min(1, (step - warmup) / (steps - warmup)))) / 2


@pytest.mark.parametrize(("warmup", "steps"), [(0, 1), (0, 7), (1, 2), (3, 10), (9, 10)])
def test_the_learning_rate_goes_up_a_line_and_down_a_cosine(warmup, steps):
    schedule = warmup_cosine(2e-3, warmup=warmup, steps=steps)
    found = np.array([schedule(step) for step in range(steps + 3)])
    expected = [formula(s, peak=2e-3, warmup=warmup, steps=steps) for s in range(steps + 3)]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(("warmup", "first"), [(0, 2e-3), (4, 0)])
def test_it_begins_at_its_peak_only_without_a_warmup(warmup, first):
    schedule = warmup_cosine(2e-3, warmup=warmup, steps=10)
    found = np.array([schedule(step) for step in (0, warmup, 10)])
    np.testing.assert_allclose(found, [first, 2e-3, 0], rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize(
    ("peak", "warmup", "steps", "message"),
    [
        (0.0, 0, 5, "learning_rate must be positive, got 0.0"),
        (-1.0, 0, 5, "learning_rate must be positive, got -1.0"),
        (math.nan, 0, 5, "learning_rate must be positive, got nan"),
        (math.inf, 0, 5, "learning_rate must be positive, got inf"),
        (1.0, 5, 5, "warmup must be in [0, 4] for 5 steps, got 5"),
        (1.0, -1, 5, "warmup must be in [0, 4] for 5 steps, got -1"),
        (
            0.0,
            9,
            5,
            "learning_rate must be positive, got 0.0; warmup must be in [0, 4] for 5 steps, got 9",
        ),
    ],
)
def test_schedules_without_a_step_are_refused(peak, warmup, steps, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        warmup_cosine(peak, warmup=warmup, steps=steps)


# AdamW

DECAYING = {"kernel", "embedding"}
WEIGHTS = {
    "embed/tokens/embedding": (5, 4),
    "layers/0/attn/q/kernel": (4, 6),
    "layers/0/attn/q/bias": (6,),
    "layers/0/attn/q_norm/scale": (3, 2),
    "norm/scale": (4,),
}


def drawn(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape) for path, shape in WEIGHTS.items()}


def definition(
    weights: dict[str, np.ndarray], gradients: list[dict[str, np.ndarray]], clip: float
) -> dict[str, np.ndarray]:
    """Loshchilov and Hutter 2019, algorithm 2, with the rate in its decay; in float64."""
    b1, b2, eps, decay = 0.8, 0.95, 1e-4, 0.3
    weights = dict(weights)
    m, v = ({path: np.zeros_like(w) for path, w in weights.items()} for _ in range(2))
    for step, of_step in enumerate(gradients, 1):
        norm = math.sqrt(sum((g**2).sum() for g in of_step.values()))
        for path, g in of_step.items():
            g = g * min(1, clip / norm) if clip else g
            m[path] = b1 * m[path] + (1 - b1) * g
            v[path] = b2 * v[path] + (1 - b2) * g**2
            mean, square = m[path] / (1 - b1**step), v[path] / (1 - b2**step)
            update = mean / (np.sqrt(square) + eps)
            if path.rpartition("/")[2] in DECAYING:
                update = update + decay * weights[path]
            weights[path] = weights[path] - 0.01 * step * update
    return weights


@pytest.mark.parametrize("clip", [0.0, 1.0, 1e6])
def test_adamw_is_its_definition(clip):
    optimizer = adamw(
        lambda step: 0.01 * (step + 1), b1=0.8, b2=0.95, eps=1e-4, weight_decay=0.3, clip=clip
    )
    # Of very different sizes, so that clipping each by itself would be seen.
    gradients = [{path: 10.0**-i * g for path, g in drawn(i).items()} for i in range(1, 6)]
    gradients[0] = {path: 100 * g for path, g in gradients[0].items()}
    weights: Any = {path: jnp.asarray(w, jnp.float32) for path, w in drawn(0).items()}
    state = optimizer.init(weights)
    for of_step in gradients:
        of_step = {path: jnp.asarray(g, jnp.float32) for path, g in of_step.items()}
        updates, state = optimizer.update(of_step, state, weights)
        weights = optax.apply_updates(weights, updates)
    for path, expected in definition(drawn(0), gradients, clip).items():
        np.testing.assert_allclose(weights[path], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", ["tied", "own", "encoder"])
def test_only_kernels_and_embeddings_decay(start, model):
    """Without a gradient, decay is all that moves a weight."""
    weights = start(model).weights
    optimizer = adamw(lambda step: 0.5, weight_decay=0.1)
    nothing = {path: np.zeros_like(weight) for path, weight in weights.items()}
    updates: Any = optimizer.update(nothing, optimizer.init(weights), weights)[0]
    kinds = set()
    for path, weight in weights.items():
        kind = path.rpartition("/")[2]
        kinds.add(kind)
        share = 0.05 if kind in DECAYING else 0
        np.testing.assert_allclose(updates[path], -share * weight, rtol=1e-6)
        assert weight.any()
    biased = {"tied": set(), "own": {"bias"}, "encoder": {"bias"}}
    assert kinds == DECAYING | {"scale"} | biased[model]


def orthogonal(momentum: np.ndarray) -> np.ndarray:
    """Return five steps of Newton-Schulz from a matrix, in float64 (Jordan et al. 2024)."""
    x = momentum.T if momentum.shape[0] > momentum.shape[1] else momentum
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if momentum.shape[0] > momentum.shape[1] else x


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4)])
def test_muon_is_its_definition_on_the_matrices_of_blocks_and_adamw_elsewhere(shape):
    rng, beta, decay, rate = np.random.default_rng(0), 0.95, 0.1, 0.01
    paths = ["layers/0/attn/q/kernel", "embed/tokens/embedding", "head/out/kernel", "norm/scale"]
    first = {path: rng.normal(size=shape) for path in paths}
    gradients = [{path: rng.normal(size=shape) for path in paths} for _ in range(3)]
    found: dict[str, Any] = {}
    for name, make in {"muon": muon, "adamw": adamw}.items():
        optimizer = make(lambda step: rate, weight_decay=decay)
        weights: Any = {path: jnp.asarray(w, jnp.float32) for path, w in first.items()}
        state = optimizer.init(weights)
        for gradient in gradients:
            of_step = {path: jnp.asarray(g, jnp.float32) for path, g in gradient.items()}
            updates, state = optimizer.update(of_step, state, weights)
            weights = optax.apply_updates(weights, updates)
        found[name] = weights
    matrix, momentum = first[paths[0]], np.zeros(shape)
    for number, gradient in enumerate(gradients, 1):
        momentum = beta * momentum + (1 - beta) * gradient[paths[0]]
        # Nesterov's look ahead, both without the bias of a start from 0.
        ahead = beta * momentum / (1 - beta ** (number + 1))
        ahead += (1 - beta) * gradient[paths[0]] / (1 - beta**number)
        update = 0.2 * math.sqrt(max(shape)) * orthogonal(ahead)
        matrix = matrix - rate * (update + decay * matrix)
    np.testing.assert_allclose(found["muon"][paths[0]], matrix, rtol=1e-4, atol=1e-6)
    for path in paths[1:]:
        np.testing.assert_array_equal(found["muon"][path], found["adamw"][path])
    assert not np.allclose(found["muon"][paths[0]], found["adamw"][paths[0]], atol=1e-3)


# How its state lies


def test_the_state_of_muon_lies_as_the_weights_that_it_is_of(start):
    mesh = make_mesh(data=4, model=2)
    like = parameters.abstract(start("own").config, dtype=jnp.float32)
    lies = parameters.shardings(like, mesh, fsdp=True)
    weights = {path: jax.device_put(w, lies[path]) for path, w in start("own").weights.items()}
    optimizer = muon(lambda step: 0.5, weight_decay=0.1, clip=1.0)
    found, state = shardings(optimizer, weights, mesh), optimizer.init(weights)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    each = dict(jax.tree.leaves_with_path(found))
    counts = dict.fromkeys(weights, 0)
    for path, lie in each.items():
        name = next((key.key for key in path if getattr(key, "key", None) in weights), None)
        assert lie == (replicated(mesh) if name is None else lies[name])
        counts |= {name: counts[name] + 1} if name else {}
    # One moment of the matrices of blocks, and AdamW's two of all else.
    assert counts == {
        path: 1 if re.fullmatch(r"layers/\d/(attn|mlp)/\w+/kernel", path) else 2 for path in counts
    }


@pytest.mark.parametrize("clip", [0.0, 1.0])
def test_moments_lie_as_their_weights_and_counters_everywhere(start, clip):
    mesh = make_mesh(data=4, model=2)
    like = parameters.abstract(start("own").config, dtype=jnp.float32)
    lies = parameters.shardings(like, mesh, fsdp=True)
    weights = {path: jax.device_put(w, lies[path]) for path, w in start("own").weights.items()}
    optimizer = adamw(lambda step: 0.5, weight_decay=0.1, clip=clip)
    found = shardings(optimizer, weights, mesh)
    state = optimizer.init(weights)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for moment in ("mu", "nu"):
        assert optax.tree.get(found, moment) == lies
    others = [lie for lie in jax.tree.leaves(found) if lie not in lies.values()]
    counters = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
    assert len(jax.tree.leaves(found)) == 2 * len(weights) + len(counters)
    assert set(others) <= {replicated(mesh)}
    by_size = zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True)
    assert all(lie == replicated(mesh) for lie, leaf in by_size if leaf.ndim == 0)
    assert lies["layers/0/attn/q/kernel"].spec == PartitionSpec("data", "model")
