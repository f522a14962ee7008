import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import read_config
from ilo_jax.sharding import make_mesh, weight_sharding
from tests.models.reading import states

LLAMA = {
    "model_type": "llama",
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
BLOCK = {
    "attn_norm/scale": (16,),
    "attn/q/kernel": (16, 16),
    "attn/k/kernel": (16, 8),
    "attn/v/kernel": (16, 8),
    "attn/o/kernel": (16, 16),
    "mlp_norm/scale": (16,),
    "mlp/gate/kernel": (16, 24),
    "mlp/up/kernel": (16, 24),
    "mlp/down/kernel": (24, 16),
}
SHAPES = {
    "embed/tokens/embedding": (20, 16),
    **{f"layers/{i}/{path}": shape for i in (0, 1) for path, shape in BLOCK.items()},
    "norm/scale": (16,),
    "head/out/kernel": (16, 20),
}


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return read_config(LLAMA)


def drawn(config: ModelConfig, *, seed: int, dtype=jnp.float32):
    return parameters.build(config, dtype=dtype, rngs=nnx.Rngs(seed))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_weights_by_path(config, dtype):
    weights = parameters.weights(drawn(config, seed=0, dtype=dtype))
    assert {path: weight.shape for path, weight in weights.items()} == SHAPES
    assert {weight.dtype for weight in weights.values()} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_abstract_model_has_shapes_only(config, dtype):
    model = parameters.abstract(config, dtype=dtype)
    expected = {path: jax.ShapeDtypeStruct(shape, dtype) for path, shape in SHAPES.items()}
    assert parameters.shapes(model) == expected
    assert not [leaf for leaf in jax.tree.leaves(nnx.state(model)) if isinstance(leaf, jax.Array)]


def test_shapes_are_those_of_a_model_with_weights_too(config):
    expected = parameters.shapes(parameters.abstract(config, dtype=jnp.float32))
    assert parameters.shapes(drawn(config, seed=0)) == expected


def test_the_seed_decides_the_weights(config):
    first, again, other = (parameters.weights(drawn(config, seed=seed)) for seed in (7, 7, 8))
    same = jax.tree.map(np.array_equal, first, again)
    assert same == dict.fromkeys(SHAPES, True)
    same = jax.tree.map(np.array_equal, first, other)
    # Those of norms are all one.
    assert same == {path: path.endswith("scale") for path in SHAPES}


@pytest.mark.parametrize("start", ["abstract", "built"])
def test_put_gives_a_model_its_weights(config, start):
    arrays = {
        path: jnp.asarray(np.random.default_rng(i).normal(size=shape), jnp.float32)
        for i, (path, shape) in enumerate(SHAPES.items())
    }
    abstract = start == "abstract"
    model = parameters.abstract(config, dtype=jnp.float32) if abstract else drawn(config, seed=0)
    parameters.put(model, arrays)
    weights = parameters.weights(model)
    assert all(weights[path] is array for path, array in arrays.items())
    tokens = jnp.asarray([[3, 4]])
    found = states(model, tokens, jnp.asarray([[0, 1]]), jnp.ones_like(tokens))
    assert np.array_equal(found[0][0], arrays["embed/tokens/embedding"][np.array([3, 4])])


def test_put_needs_every_weight(config):
    model = parameters.abstract(config, dtype=jnp.float32)
    with pytest.raises(KeyError, match="embed/tokens/embedding"):
        parameters.put(model, {})


def test_axis_counts_are_those_of_the_mechanisms(config):
    assert config.axis_counts == {"head": 4, "kv": 2, "mlp": 24, "vocab": 20}


@pytest.mark.parametrize("abstract", [False, True])
@pytest.mark.parametrize("fsdp", [False, True])
def test_shardings_are_those_of_the_rules(config, abstract, fsdp):
    model = parameters.abstract(config, dtype=jnp.float32) if abstract else drawn(config, seed=0)
    mesh, counts = make_mesh(data=2, model=2), {"head": 4, "kv": 2, "mlp": 24, "vocab": 20}
    assert parameters.shardings(model, mesh, fsdp=fsdp) == {
        path: weight_sharding(path, shape, mesh, counts=counts, fsdp=fsdp)
        for path, shape in SHAPES.items()
    }


@pytest.mark.parametrize("fsdp", [False, True])
def test_abstract_weights_have_the_shape_and_place_of_those_that_are_there(config, fsdp):
    model, mesh = drawn(config, seed=0), make_mesh(data=2, model=2)
    lies = parameters.shardings(model, mesh, fsdp=fsdp)
    found = parameters.abstract_weights(model, mesh, dtype=jnp.bfloat16, fsdp=fsdp)
    for path, weight in parameters.weights(model).items():
        placed = jax.device_put(weight.astype(jnp.bfloat16), lies[path])
        like = jax.ShapeDtypeStruct(placed.shape, placed.dtype, sharding=placed.sharding)
        assert found.pop(path) == like
    assert not found


def test_weights_lie_as_their_shardings_say(config):
    model = drawn(config, seed=0)
    lies = parameters.shardings(model, make_mesh(data=2, model=2), fsdp=True)
    kernel = parameters.weights(model)["layers/1/attn/k/kernel"]
    placed = jax.device_put(kernel, lies["layers/1/attn/k/kernel"])
    assert {shard.data.shape for shard in placed.addressable_shards} == {(8, 4)}


def test_an_assembled_model_computes_in_its_dtype_whatever_that_of_its_weights(config):
    """Bit by bit as if they had been rounded before."""
    assemble = parameters.assembler(config, make_mesh(data=1), dtype=jnp.bfloat16)
    held = parameters.weights(drawn(config, seed=0))
    rounded = {path: weight.astype(jnp.bfloat16) for path, weight in held.items()}
    place = jnp.arange(6, dtype=jnp.int32)[None]

    @jax.jit
    def computed(weights):
        model = assemble(weights)
        found = states(model, place, place, jnp.ones((1, 6), jnp.int32))
        return [*found, model.logits(found[-1])]

    assert {weight.dtype.name for weight in held.values()} == {"float32"}
    for found, expected in zip(computed(held), computed(rounded), strict=True):
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, expected)
