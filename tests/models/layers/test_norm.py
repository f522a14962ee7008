import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models.config import Norm
from ilo_jax.models.layers.norm import Normalize

TOLERANCE = 1e-6


def normalize(config: Norm, shape, *, seed: int = 0, dtype=jnp.float32) -> Normalize:
    """Return a norm with random weights."""
    rng = np.random.default_rng(seed)
    module = Normalize(config, shape, dtype=dtype)
    drawn = {
        name: nnx.Param(jnp.asarray(rng.normal(size=shape), dtype)) for name in ("scale", "bias")
    }
    nnx.update(
        module, nnx.State({n: v for n, v in drawn.items() if getattr(module, n) is not None})
    )
    return module


def defined(module: Normalize, hidden: np.ndarray) -> np.ndarray:
    """Return the definition, one vector at a time."""
    config, dim = module.config, hidden.shape[-1]

    def weights(name: str, otherwise: float) -> np.ndarray:
        param = getattr(module, name)
        values = np.full(dim, otherwise) if param is None else np.asarray(param[...], np.float64)
        return np.broadcast_to(values, hidden.shape).reshape(-1, dim)

    scale, bias = weights("scale", 0.0 if config.from_one else 1.0), weights("bias", 0.0)
    rows = []
    for x, s, b in zip(hidden.astype(np.float64).reshape(-1, dim), scale, bias, strict=True):
        centred = x - sum(x) / dim if config.kind == "layer" else x
        size = (sum(c * c for c in centred) / dim + config.eps) ** 0.5
        rows.append(centred / size * (s + 1 if config.from_one else s) + b)
    return np.array(rows).reshape(hidden.shape)


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("scale", "from_one"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_against_the_definition(kind, bias, scale, from_one, eps):
    config = Norm(kind=kind, eps=eps, bias=bias, scale=scale, from_one=from_one)
    module, hidden = normalize(config, 8), drawn(2, 3, 8)
    expected = defined(module, hidden)
    got = module(jnp.asarray(hidden))
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()
    assert (module.scale is None, module.bias is None) == (not scale, not bias)


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("ndim", [3, 4])
def test_every_head_has_its_own_weights(kind, ndim):
    module = normalize(Norm(kind=kind, eps=1e-5, bias=True), (4, 6))
    hidden = drawn(*(2, 3)[4 - ndim :], 4, 6)
    expected = defined(module, hidden)
    got = module(jnp.asarray(hidden))
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("from_one", [False, True])
def test_new_weights_change_nothing(from_one):
    config = Norm(kind="rms", eps=0.0, bias=True, from_one=from_one)
    module = Normalize(config, 2, dtype=jnp.float32)
    got = module(jnp.asarray([3.0, 4.0]))
    assert np.abs(got - np.array([3, 4]) / 12.5**0.5).max() <= TOLERANCE


def test_a_large_common_offset_cancels_nothing():
    """Sums of these integers are exact in float32, those of their squares are not."""
    integers = np.random.default_rng(0).integers(-4, 5, size=(3, 64)).astype(np.float32)
    module = Normalize(Norm(kind="layer", eps=1e-5), 64, dtype=jnp.float32)
    expected = defined(module, integers)
    got = module(jnp.asarray(integers + 2**14))
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_bfloat16_is_rounded_once(kind):
    config = Norm(kind=kind, eps=1e-5, bias=True, from_one=True)
    module = normalize(config, 64, dtype=jnp.bfloat16)
    hidden = jnp.asarray(drawn(4, 64), jnp.bfloat16)
    got = module(hidden)
    expected = jnp.asarray(defined(module, np.asarray(hidden, np.float32)), jnp.bfloat16)
    assert got.dtype == jnp.bfloat16
    # Rounding to float32 first may turn a tie, and does so in one of many thousands.
    assert np.mean(np.asarray(got == expected)) > 0.99


def test_float32_weights_keep_the_dtype_of_the_input():
    module = Normalize(Norm(kind="rms", eps=1e-5), 4, dtype=jnp.float32)
    assert module(jnp.ones((2, 4), jnp.bfloat16)).dtype == jnp.bfloat16
