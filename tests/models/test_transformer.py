import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax.extend.core import jaxprs_in_params

from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.parameters import weights
from ilo_jax.models.sites import reading
from ilo_jax.sharding import along_data, make_mesh
from tests.models.reading import rows_of, shown, states
from tests.models.variants import VOCAB, slow_but

# Windows, ALiBi, positions added to embeddings, and scalings by the sentence's own length.
APART = """llama-gqa llama-dynamic phi3-longrope gemma2-both bloom-six xglm-plain opt-projected
    cohere2-mixed roberta-mlm""".split()


@pytest.mark.parametrize(
    "variant", slow_but("llama-dynamic phi3-longrope gemma2-both bloom-six".split(), APART)
)
def test_segments_of_a_row_do_not_touch(assert_segments_apart, variant):
    assert_segments_apart(variant)


def changed(batch, *, start: int):
    tokens = batch.tokens.copy()
    tokens[:, start:] = (tokens[:, start:] + 1) % VOCAB
    return batch._replace(tokens=tokens)


@pytest.mark.parametrize("variant", ["llama-gqa", "gemma2-both", "bloom-six", "gpt_neox-quarter"])
def test_later_tokens_change_nothing(ours, forward, padded, variant):
    before, logits = forward(ours(variant), padded)
    after, other_logits = forward(ours(variant), changed(padded, start=20))
    assert np.array_equal(after[:, :, :20], before[:, :, :20])
    assert np.array_equal(other_logits[:, :20], logits[:, :20])
    assert (after[:, 0, 20:] != before[:, 0, 20:]).any(axis=-1).all()


@pytest.mark.parametrize("variant", ["bert-mlm", "xlm-roberta-model", "distilbert-model"])
def test_later_tokens_are_seen_by_an_encoder(ours, forward, padded, variant):
    before, _ = forward(ours(variant), padded)
    after, _ = forward(ours(variant), changed(padded, start=47))
    assert (after[1:, 0] != before[1:, 0]).any(axis=-1).all()


@pytest.mark.parametrize("variant", ["mistral-window", "gemma3_text-mixed"])
def test_tokens_before_the_window_are_seen_through_others_only(ours, forward, padded, variant):
    window = ours(variant).config.blocks[0].attention.window
    tokens = padded.tokens.copy()
    tokens[:, 0] = (tokens[:, 0] + 1) % VOCAB
    before, _ = forward(ours(variant), padded)
    after, _ = forward(ours(variant), padded._replace(tokens=tokens))
    seen = (after[1, 0] != before[1, 0]).any(axis=-1)
    assert seen.tolist() == [place < window for place in range(len(seen))]
    assert (after[2, 0] != before[2, 0]).any(axis=-1).sum() > window


def test_positions_turn_the_heads_not_places_in_the_row(tiny, ours, forward, assert_close, padded):
    """Neighbours in the row are seven positions apart."""
    positions = np.tile(7 * np.arange(48, dtype=np.int32), (6, 1))
    states, _ = forward(ours("llama-llama3"), padded._replace(positions=positions))
    with torch.no_grad():
        expected = tiny("llama-llama3").torch(
            torch.from_numpy(padded.tokens[:1]).long(),
            position_ids=torch.from_numpy(positions[:1]).long(),
            output_hidden_states=True,
        )
    for state, wanted in zip(states, expected.hidden_states, strict=True):
        assert_close(state[:1], wanted.numpy())
    near, _ = forward(ours("llama-llama3"), padded)
    assert np.abs(states[-1] - near[-1])[0].max() > 0.1


def test_first_state_is_the_embedding_and_the_tap_sees_each(ours, packed):
    model = ours("llama-gqa")
    arrays = [jnp.asarray(a) for a in packed[:3]]
    embedding = model.embed.tokens.embedding[...]
    found = states(model, *arrays)
    assert len(found) == model.config.layers + 1
    assert np.array_equal(found[0], embedding[packed.tokens])
    assert np.array_equal(found[-1], model.run(rows_of(*arrays)).value)
    seen = states(model, *arrays, show=lambda hidden: float(hidden.sum()))
    assert seen == [float(state.sum()) for state in found]


def test_both_sites_are_shown_in_one_run(ours, packed):
    model = ours("llama-gqa")
    arrays = [jnp.asarray(a) for a in packed[:3]]
    both = model.run(rows_of(*arrays), visit=reading(model.config, "residual", "neurons")).shown
    layers = range(model.config.layers)
    assert set(both) == {("neurons", i) for i in layers} | {
        ("residual", i) for i in (*layers, model.config.layers)
    }
    for site in ("residual", "neurons"):
        alone = shown(model, site, *arrays)
        for layer, value in enumerate(alone):
            assert np.array_equal(both[site, layer], value)


def test_later_blocks_need_the_state_before_them(ours, packed):
    rows = rows_of(*map(jnp.asarray, packed[:3]))
    with pytest.raises(ValueError, match=r"^blocks from 1 on need hidden state 1$"):
        ours("llama-gqa").run(rows, blocks=range(1, 2))


DOWN = r"\d+\.(mlp\.(down_proj|dense_4h_to_h|c_proj)|fc2|output\.dense|ffn\.lin2)$"
"""Where torch projects neurons down, by the name of the module."""

# Every place of the norms, gated and not, decoders and encoders, parallel or not.
NEURONS = """llama-biases gemma2-both olmo2-gqa cohere-mha gpt_neox-quarter gpt2-plain opt-post
    bert-model distilbert-model""".split()


@pytest.mark.parametrize(
    "variant", slow_but("gemma2-both gpt_neox-quarter opt-post bert-model".split(), NEURONS)
)
def test_neurons_are_what_torch_projects_down(tiny, ours, assert_close, padded, packed, variant):
    found: list[np.ndarray] = []
    theirs = tiny(variant).torch
    hooks = [
        module.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].numpy()))
        for name, module in theirs.named_modules()
        if re.search(DOWN, name)
    ]
    mask = torch.from_numpy(padded.segments > 0).long()
    with torch.no_grad():
        theirs(torch.from_numpy(padded.tokens).long(), attention_mask=mask)
    for hook in hooks:
        hook.remove()

    @nnx.jit
    def neurons(model, *rows):
        return shown(model, "neurons", *rows)

    model = ours(variant)
    layers = neurons(model, *map(jnp.asarray, packed[:3]))
    assert len(layers) == len(found) == model.config.layers
    for active, expected in zip(jax.device_get(layers), found, strict=True):
        expected = expected.reshape(*padded.tokens.shape, -1)
        for place, alone in zip(packed.places, padded.places, strict=True):
            assert_close(active[place], expected[alone])


def test_the_last_state_is_after_the_final_norm(ours, forward, packed):
    states, _ = forward(ours("opt-bare_norms"), packed)
    assert np.abs(states[-1].mean(-1)).max() <= 1e-6
    assert np.abs(states[-1].std(-1) - 1).max() <= 1e-3
    assert np.abs(states[-2].std(-1) - 1).min() > 1e-3


@pytest.mark.parametrize("variant", ["llama-bare", "gpt2-bare", "bert-model", "distilbert-model"])
def test_a_bare_backbone_has_no_logits(ours, variant):
    with pytest.raises(ValueError, match="bare backbone: it has no head for logits"):
        ours(variant).logits(jnp.zeros((1, 1, 32)))


def test_a_bfloat16_model_computes_in_bfloat16(tiny, packed):
    model = loading.load(
        open_folder(tiny("gemma2-both").folder), mesh=make_mesh(data=1), dtype=jnp.bfloat16
    )
    assert {weight.dtype for weight in weights(model).values()} == {jnp.dtype(jnp.bfloat16)}
    arrays = [jnp.asarray(a) for a in packed[:3]]
    found = jax.eval_shape(lambda: states(model, *arrays))
    assert {state.dtype for state in found} == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(model.logits, found[-1]).dtype == jnp.bfloat16


def leaves(*modules: str, bias: bool) -> set[str]:
    return {f"{module}/{w}" for module in modules for w in ("kernel", "bias")[: 1 + bias]}


def norms(*modules: str, bias: bool) -> set[str]:
    return {f"{module}/{w}" for module in modules for w in ("scale", "bias")[: 1 + bias]}


def layers(names: set[str]) -> set[str]:
    return {f"layers/{i}/{name}" for i in range(2) for name in names}


QKVO = ("attn/q", "attn/k", "attn/v", "attn/o")
PATHS = {
    "llama-biases": {"embed/tokens/embedding", "norm/scale", "head/out/kernel"}
    | layers(
        leaves(*QKVO, "mlp/gate", "mlp/up", "mlp/down", bias=True)
        | norms("attn_norm", "mlp_norm", bias=False)
    ),
    "bert-mlm": {f"embed/{table}/embedding" for table in ("tokens", "positions", "types")}
    | norms("embed/norm", "head/norm", bias=True)
    | {"head/dense/kernel", "head/dense/bias", "head/bias"}
    | layers(
        leaves(*QKVO, "mlp/up", "mlp/down", bias=True) | norms("attn_norm", "mlp_norm", bias=True)
    ),
    "opt-projected": {"embed/tokens/embedding", "embed/positions/embedding"}
    | {"embed/project/kernel", "head/project/kernel"}
    | layers(
        leaves(*QKVO, "mlp/up", "mlp/down", bias=True) | norms("attn_norm", "mlp_norm", bias=True)
    ),
    "olmo2-gqa": {"embed/tokens/embedding", "norm/scale", "head/out/kernel"}
    | layers(
        leaves(*QKVO, "mlp/gate", "mlp/up", "mlp/down", bias=False)
        | norms("attn_out_norm", "mlp_out_norm", "attn/q_norm", "attn/k_norm", bias=False)
    ),
}


@pytest.mark.parametrize("variant", PATHS)
def test_paths_name_the_weights(ours, variant):
    assert set(weights(ours(variant))) == PATHS[variant]


def equations(jaxpr):
    """Yield every equation of a jaxpr, those of its inner functions included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)


def traced(model, packed):
    def run(*arrays):
        return model.logits(model.run(rows_of(*arrays)).value)

    return list(equations(jax.make_jaxpr(run)(*map(jnp.asarray, packed[:3])).jaxpr))


@pytest.mark.parametrize(
    ("variant", "count"),
    [
        ("llama-biases", 2 * (7 + 2) + 1),
        ("llama-tied", 2 * (7 + 2) + 1),
        ("bert-mlm", 2 * (6 + 2) + 2),
        ("opt-projected", 1 + 2 * (6 + 2) + 2),
    ],
)
def test_every_float32_product_asks_for_full_precision(ours, packed, variant, count):
    """The default is TF32 on a GPU and bfloat16 on a TPU; no CPU would tell."""
    found = [e for e in traced(ours(variant), packed) if e.primitive.name == "dot_general"]
    assert len(found) == count
    highest = jax.lax.Precision.HIGHEST
    assert {eqn.params["precision"] for eqn in found} == {(highest, highest)}


@pytest.mark.parametrize(
    ("variant", "kinds"), [("gemma3_text-default_pattern", 2), ("cohere2-pattern", 1)]
)
def test_blocks_that_attend_alike_share_their_rotations(ours, packed, variant, kinds):
    model = ours(variant)
    names = [eqn.primitive.name for eqn in traced(model, packed)]
    assert names.count("cos") == names.count("sin") == kinds < model.config.layers


def test_a_batch_over_four_devices_gives_the_same(tiny, ours, forward, assert_close, padded):
    mesh = make_mesh(data=4)
    model = loading.load(open_folder(tiny("llama-gqa").folder), mesh=mesh)
    spread = [jax.device_put(array[:4], along_data(mesh)) for array in padded[:3]]
    got, logits = forward(model, padded._make([*spread, None]))
    expected, expected_logits = forward(ours("llama-gqa"), padded)
    assert_close(got, expected[:, :4])
    assert_close(logits, expected_logits[:4])


def test_a_model_is_a_pytree_of_its_weights(ours):
    model = ours("llama-gqa")
    assert len(jax.tree.leaves(nnx.state(model))) == len(weights(model))


@pytest.mark.parametrize(
    ("variant", "remat"),
    [
        ("llama-tied", True),
        ("gemma3_text-mixed", False),
        ("roberta-mlm", True),
        pytest.param("llama-tied", False, marks=pytest.mark.slow),
        pytest.param("gemma3_text-mixed", True, marks=pytest.mark.slow),
        pytest.param("roberta-mlm", False, marks=pytest.mark.slow),
    ],
)
def test_blocks_in_two_parts_are_the_whole(ours, packed, variant, remat):
    model, rows = ours(variant), rows_of(*map(jnp.asarray, packed[:3]))
    found = states(model, *rows[:3])
    whole = len(found) - 1
    for middle in (0, 1, whole):
        before = model.run(rows, blocks=range(middle), remat=remat).value
        second = range(middle, whole)
        visit = reading(model.config, "residual")
        ran = model.run(rows, hidden=before, blocks=second, remat=remat, visit=visit)
        assert np.array_equal(before, found[middle])
        assert np.array_equal(ran.value, found[-1])
        assert set(ran.shown) == {("residual", layer + 1) for layer in second}


def test_remat_computes_the_same_gradients_twice(ours, packed):
    graph, state = nnx.split(ours("gemma3_text-mixed"))
    rows = rows_of(*map(jnp.asarray, packed[:3]))

    def total(state, remat):
        last = nnx.merge(graph, state).run(rows, blocks=range(3), remat=remat).value
        return jnp.square(last).sum()

    kept, again = (
        jax.make_jaxpr(jax.grad(total), static_argnums=1)(state, r) for r in (False, True)
    )
    products = [str(jaxpr).count("dot_general") for jaxpr in (kept, again)]
    assert products[0] < products[1]
    gradients = [jax.jit(jax.grad(total), static_argnums=1)(state, r) for r in (False, True)]
    for one, other in zip(*map(jax.tree.leaves, gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


@pytest.mark.parametrize("variant", ["llama-gqa", "bert-model"])
def test_differentiation_keeps_the_weights_of_attention_and_not_their_scores(ours, packed, variant):
    """One array of their size a block, and no exponential is taken again on the way back."""
    graph, state = nnx.split(ours(variant))
    rows = rows_of(*map(jnp.asarray, packed[:3]))

    def run(state):
        return jax.vjp(lambda state: nnx.merge(graph, state).run(rows).value, state)

    def back(state):
        value, pulled = run(state)
        return pulled(value)

    config = ours(variant).config
    size = packed.tokens.size * packed.tokens.shape[1] * config.blocks[0].attention.heads
    kept = jax.tree.leaves(jax.eval_shape(run, state)[1])
    assert [leaf.size for leaf in kept].count(size) == config.layers
    taken = [e for e in equations(jax.make_jaxpr(back)(state).jaxpr) if e.primitive.name == "exp"]
    assert [eqn.outvars[0].aval.size for eqn in taken].count(size) == config.layers
