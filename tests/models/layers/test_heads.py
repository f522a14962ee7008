import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.config import EmbeddingConfig, HeadConfig, ModelConfig, Norm
from ilo_jax.models.layers.heads import Head
from ilo_jax.models.sites import Visiting
from tests.models.variants import TOLERANCE

CONFIG = ModelConfig(
    causal=True,
    embedding=EmbeddingConfig(vocab=7, dim=6),
    blocks=(),
    final_norm=None,
    head=HeadConfig(kind="own", bias=True, scale=0.5, softcap=2.0),
    max_positions=None,
)
MASKED = HeadConfig(
    kind="tied", bias=True, activation="relu", norm=Norm(kind="rms", eps=1e-3), scale=0.5
)
PROJECTED = dataclasses.replace(
    CONFIG,
    embedding=EmbeddingConfig(vocab=7, dim=6, inner_dim=4),
    head=HeadConfig(kind="tied"),
)


def drawn(config: ModelConfig) -> Head:
    head, rng = Head(config, dtype=jnp.float32, rngs=nnx.Rngs(0)), np.random.default_rng(0)
    for _, param in nnx.to_flat_state(nnx.state(head, nnx.Param)):
        param.set_value(jnp.asarray(rng.normal(size=param.shape), jnp.float32))
    return head


def exact(param) -> np.ndarray:
    return np.asarray(param[...], np.float64)


def own(head, x, table):
    scores = (x @ exact(head.out.kernel) + exact(head.bias)) * 0.5
    return 2 * np.tanh(scores / 2)


def masked(head, x, table):
    x = np.maximum(x @ exact(head.dense.kernel) + exact(head.dense.bias), 0)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-3) * exact(head.norm.scale)
    return (x @ table.T + exact(head.bias)) * 0.5


def projected(head, x, table):
    return x @ exact(head.project.kernel) @ table.T


CASES = {
    "own": (CONFIG, own, set()),
    "masked": (dataclasses.replace(CONFIG, head=MASKED), masked, {"head/dense"}),
    "projected": (PROJECTED, projected, {"head/project"}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scores_against_the_definition_in_float64_and_every_map_is_a_site(case):
    config, definition, maps = case
    head, rng = drawn(config), np.random.default_rng(1)
    hidden = rng.normal(size=(2, 3, 6)).astype(np.float32)
    inner = config.embedding.inner_dim or 6
    table = rng.normal(size=(7, inner)).astype(np.float32)
    sites = {f"{name}/{end}" for name in {"head/out", *maps} for end in ("input", "output")}
    here = Visiting(lambda site, given, value: (value, value), dict.fromkeys(sites, ()))
    got = head(jnp.asarray(hidden), jnp.asarray(table), here)
    expected = definition(head, hidden.astype(np.float64), table.astype(np.float64))
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert set(here.shown) == sites
    assert here.shown["head/out/output"].shape == (2, 3, 7)
    assert here.shown["head/out/input"].shape == (2, 3, inner)
