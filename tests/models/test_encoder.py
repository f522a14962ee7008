import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

VARIANTS = ["bert", "masked_lm"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batch_by_torch(assert_padded_parity, variant):
    assert_padded_parity(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_rows_by_torch(assert_packed_parity, variant):
    assert_packed_parity(variant)


def test_bfloat16_as_exact_as_torch(assert_bfloat16_as_torch):
    assert_bfloat16_as_torch("bert")


def test_segments_of_a_row_do_not_touch(assert_segments_apart):
    assert_segments_apart("bert")


def test_later_tokens_are_seen(ours, forward, padded):
    before, _ = forward(ours("bert"), padded)
    tokens = padded.tokens.copy()
    tokens[0, -1] = (tokens[0, -1] + 1) % 64
    after, _ = forward(ours("bert"), padded._replace(tokens=tokens))
    assert (after[1:, 0] != before[1:, 0]).any(axis=-1).all()


def test_norms_of_a_shifted_input_are_those_of_the_input(ours):
    """A variance by E[x^2] - E[x]^2 would lose two digits here."""
    model = ours("bert")
    norms = [model.embed_norm, *(n for b in model.layers for n in (b.attn_norm, b.mlp_norm))]
    small = np.random.default_rng(0).integers(-128, 128, (8, 32)) / 64
    for norm in norms:
        scale, bias = np.asarray(norm.scale[...]), np.asarray(norm.bias[...])
        deviation = np.sqrt(small.var(axis=-1, keepdims=True) + 1e-3)
        expected = (small - small.mean(axis=-1, keepdims=True)) / deviation * scale + bias
        got = norm(jnp.asarray(small + 256, jnp.float32))
        assert np.abs(got - expected).max() <= 1e-4


def test_the_tap_sees_each_state(ours, forward, packed):
    states, _ = forward(ours("bert"), packed)
    arrays = [jnp.asarray(a) for a in packed[:3]]
    seen = ours("bert")(*arrays, tap=lambda hidden: hidden.shape)
    assert seen == [state.shape for state in states]


def test_paths_name_the_weights(ours):
    paths = {"/".join(map(str, keys)) for keys, _ in nnx.to_flat_state(nnx.state(ours("bert")))}
    layer = {f"attn/{p}/{w}" for p in "qkvo" for w in ("kernel", "bias")}
    layer |= {f"mlp/{p}/{w}" for p in ("up", "down") for w in ("kernel", "bias")}
    layer |= {f"{n}/{w}" for n in ("attn_norm", "mlp_norm") for w in ("scale", "bias")}
    embeds = {f"{name}/embedding" for name in ("embed", "position_embed", "type_embed")}
    assert paths == embeds | {"embed_norm/scale", "embed_norm/bias"} | {
        f"layers/{i}/{name}" for i in range(2) for name in layer
    }
