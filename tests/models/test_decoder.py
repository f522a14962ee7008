import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.extend.core import jaxprs_in_params

from ilo_jax.models import hf
from ilo_jax.models.attention import rope_frequencies
from ilo_jax.sharding import along_data, data_mesh, replicated

VARIANTS = ["mha", "gqa", "wide", "tied", "biases", "llama3", "bare"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_padded_batch_by_torch(assert_padded_parity, variant):
    assert_padded_parity(variant)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packed_rows_by_torch(assert_packed_parity, variant):
    assert_packed_parity(variant)


@pytest.mark.parametrize("variant", ["biases", "llama3"])
def test_bfloat16_as_exact_as_torch(assert_bfloat16_as_torch, variant):
    assert_bfloat16_as_torch(variant)


def test_segments_of_a_row_do_not_touch(assert_segments_apart):
    assert_segments_apart("gqa")


def test_variants_are_what_they_are_called(tiny, ours, padded):
    configs = {variant: ours(variant).config for variant in VARIANTS}
    assert configs["mha"].kv_heads == configs["mha"].heads
    assert configs["gqa"].kv_heads < configs["gqa"].heads
    assert configs["wide"].heads * configs["wide"].head_dim != configs["wide"].dim
    heads = {variant: config.head for variant, config in configs.items()}
    assert heads == dict.fromkeys(VARIANTS, "own") | {"tied": "tied", "bare": "none"}
    assert configs["biases"].attention_bias
    assert configs["biases"].mlp_bias
    rope, head_dim = configs["llama3"].rope, configs["llama3"].head_dim
    plain = type(rope)(theta=rope.theta, scaling=None)
    ratio = rope_frequencies(rope, head_dim=head_dim) / rope_frequencies(plain, head_dim=head_dim)
    assert sorted({1.0, 1 / 8} & set(ratio.tolist())) == [1 / 8, 1.0]
    assert ((ratio > 1 / 8) & (ratio < 1)).any()
    turned = padded.positions.max() * rope_frequencies(plain, head_dim=head_dim)
    assert (turned[ratio == 1 / 8] > 1).any()


def test_positions_turn_the_heads_not_places_in_the_row(tiny, ours, forward, assert_close, padded):
    """Neighbours in the row are seven positions apart."""
    positions = np.tile(7 * np.arange(48, dtype=np.int32), (6, 1))
    states, _ = forward(ours("llama3"), padded._replace(positions=positions))
    with torch.no_grad():
        expected = tiny("llama3").torch(
            torch.from_numpy(padded.tokens[:1]).long(),
            position_ids=torch.from_numpy(positions[:1]).long(),
            output_hidden_states=True,
        )
    for state, wanted in zip(states, expected.hidden_states, strict=True):
        assert_close(state[:1], wanted.numpy())
    near, _ = forward(ours("llama3"), padded)
    assert np.abs(states[-1] - near[-1])[0].max() > 0.1


def test_later_tokens_change_nothing(ours, forward, padded):
    before, logits = forward(ours("gqa"), padded)
    tokens = padded.tokens.copy()
    tokens[:, 20:] = (tokens[:, 20:] + 1) % 64
    after, other_logits = forward(ours("gqa"), padded._replace(tokens=tokens))
    assert np.array_equal(after[:, :, :20], before[:, :, :20])
    assert np.array_equal(other_logits[:, :20], logits[:, :20])
    assert not np.array_equal(after[:, 0, 20:], before[:, 0, 20:])


def test_first_state_is_the_embedding_and_the_tap_sees_each(ours, packed):
    model = ours("gqa")
    arrays = [jnp.asarray(a) for a in packed[:3]]
    embedding = model.embed.embedding[...]
    states = model(*arrays, tap=lambda hidden: hidden)
    assert np.array_equal(states[0], embedding[packed.tokens])
    seen = model(*arrays, tap=lambda hidden: float(hidden.sum()))
    assert seen == [float(state.sum()) for state in states]


def test_a_bare_backbone_has_no_logits(ours):
    with pytest.raises(ValueError, match="bare backbone: it has no head for logits"):
        ours("bare").logits(jnp.zeros((1, 1, 32)))


def test_paths_name_the_weights(ours):
    paths = {"/".join(map(str, keys)) for keys, _ in nnx.to_flat_state(nnx.state(ours("biases")))}
    layer = {f"attn/{p}/{w}" for p in "qkvo" for w in ("kernel", "bias")}
    layer |= {f"mlp/{p}/{w}" for p in ("gate", "up", "down") for w in ("kernel", "bias")}
    layer |= {"attn_norm/scale", "mlp_norm/scale"}
    assert paths == {"embed/embedding", "norm/scale", "head/kernel"} | {
        f"layers/{i}/{name}" for i in range(2) for name in layer
    }


def products(jaxpr):
    """Yield every matrix product of a jaxpr, those of its inner functions included."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from products(inner)


@pytest.mark.parametrize("variant", ["biases", "tied"])
def test_every_float32_product_asks_for_full_precision(ours, packed, variant):
    """The default is TF32 on a GPU and bfloat16 on a TPU; no CPU would tell."""
    model = ours(variant)

    def run(*arrays):
        return model.logits(model(*arrays, tap=lambda hidden: hidden)[-1])

    jaxpr = jax.make_jaxpr(run)(*map(jnp.asarray, packed[:3])).jaxpr
    found = list(products(jaxpr))
    assert len(found) == 2 * (7 + 2) + 1
    highest = jax.lax.Precision.HIGHEST
    assert {eqn.params["precision"] for eqn in found} == {(highest, highest)}


def test_a_batch_over_four_devices_gives_the_same(tiny, ours, forward, assert_close, padded):
    mesh = data_mesh(4)
    model = hf.load(tiny("gqa").folder, sharding=replicated(mesh))
    spread = [jax.device_put(array[:4], along_data(mesh)) for array in padded[:3]]
    got, logits = forward(model, (*spread, None))
    expected, expected_logits = forward(ours("gqa"), padded)
    assert_close(got, expected[:, :4])
    assert_close(logits, expected_logits[:4])
