import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ilo_jax.activations.taps import SITES, Tap, read, taken
from ilo_jax.corpora.packing import Rows, as_sentences, fill, plan
from ilo_jax.models import parameters
from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.layers.layout import Places, layout
from ilo_jax.models.rotary import Rope
from ilo_jax.models.sites import reading
from ilo_jax.models.transformer import Transformer

DIM, NEURONS, LAYERS = 16, 20, 2
RMS = Norm(kind="rms", eps=1e-6)
LAYER_NORM = Norm(kind="layer", eps=1e-6, bias=True)
DECODER = ModelConfig(
    causal=True,
    embedding=EmbeddingConfig(vocab=50, dim=DIM),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4, kv_heads=2, head_dim=6, scale=0.4, rope=Rope(theta=100.0, dims=6)
            ),
            mlp=MlpConfig(dim=NEURONS, activation="silu", gated=True, bias=True),
            norm=RMS,
            norm_place="pre",
        ),
    )
    * LAYERS,
    final_norm=RMS,
    head=HeadConfig(kind="none"),
    max_positions=None,
)
ENCODER = dataclasses.replace(
    DECODER,
    causal=False,
    embedding=EmbeddingConfig(vocab=50, dim=DIM, positions="learned", rows=64, norm=LAYER_NORM),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(heads=4, kv_heads=4, head_dim=4, scale=0.5, qkv_bias=True),
            mlp=MlpConfig(dim=NEURONS, activation="gelu", bias=True),
            norm=LAYER_NORM,
            norm_place="post",
        ),
    )
    * LAYERS,
    final_norm=None,
)
TOLERANCE = 1e-5
"""Of the largest expected value: of float32 sums in another order."""


def perturbed(config: ModelConfig) -> Transformer:
    """A model whose every weight is random, norms and biases included."""
    model = parameters.abstract(config, dtype=jnp.float32)
    rng = np.random.default_rng(1)
    drawn = {path: 0.3 * rng.normal(size=w.shape) for path, w in parameters.shapes(model).items()}
    ones = {path: path.endswith(("scale", "embedding")) + drawn[path] for path in drawn}
    parameters.put(model, {path: jnp.asarray(w, jnp.float32) for path, w in ones.items()})
    return model


@pytest.fixture(scope="module", params=[DECODER, ENCODER], ids=["decoder", "encoder"])
def model(request) -> Transformer:
    return perturbed(request.param)


def packed(*, first_is_special: bool = True) -> Rows:
    """Rows of a few sentences, of which the first and the last token may be special."""
    rng = np.random.default_rng(2)
    lengths = [9, 5, 3, 12, 4, 2, 6]
    ids = [rng.integers(0, 50, n).tolist() for n in lengths]
    special = [[first_is_special, *[0] * (n - 2), 1] for n in lengths]
    sentences = as_sentences(ids, special)
    rows = fill(sentences, plan(sentences.lengths, row_length=16), row_length=16)
    return Rows(*map(jnp.asarray, rows))


COUNT = 4
POOLED = ("mean", "content", "last", "max")
EVERYTHING = ",".join(f"{site}:{pooling}" for site in SITES for pooling in POOLED)
SOME = "neurons:max@1, residual:tokens@1, residual:mean@0+2, neurons:tokens@0"

run = nnx.jit(taken, static_argnames=("taps", "count"))


@pytest.fixture(scope="module")
def batch() -> Rows:
    return packed()


@pytest.fixture(scope="module")
def everything(model: Transformer, batch: Rows) -> dict[str, jax.Array]:
    return run(model, batch, read(EVERYTHING, model.config), count=COUNT)


@pytest.fixture(scope="module")
def states(model: Transformer, batch: Rows) -> dict[str, np.ndarray]:
    """Return all that a tap may take, "layer batch seq dim", in float64."""

    @nnx.jit
    def run_all(model, rows):
        return model.run(rows, visit=reading(model.config, *SITES)).shown

    found = run_all(model, batch)
    layers = {site: sorted(layer for name, layer in found if name == site) for site in SITES}
    stacked = {site: np.stack([found[site, layer] for layer in layers[site]]) for site in SITES}
    return {
        site: value.reshape(*value.shape[:3], -1).astype(np.float64)
        for site, value in stacked.items()
    }


def assert_close(got, expected) -> None:
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


DEFINITIONS = {
    "mean": lambda tokens, special: tokens.mean(0),
    "content": lambda tokens, special: (
        tokens[~special].mean(0) if len(tokens[~special]) else 0 * tokens[0]
    ),
    "last": lambda tokens, special: tokens[-1],
    "max": lambda tokens, special: tokens.max(0),
}


def by_definition(states: np.ndarray, batch: Rows, pooling: str) -> np.ndarray:
    """Return "layer batch segment dim", one sentence at a time."""
    ids, special = np.asarray(batch.segments), np.asarray(batch.special)
    found = np.zeros((len(states), len(ids), COUNT, states.shape[-1]))
    for layer, row in np.ndindex(found.shape[:2]):
        for segment in set(ids[row].tolist()) - {0}:
            own = ids[row] == segment
            tokens = DEFINITIONS[pooling](states[layer, row, own], special[row, own])
            found[layer, row, segment - 1] = tokens
    return found


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("pooling", DEFINITIONS)
def test_what_is_taken_is_each_sentence_pooled(everything, batch, states, site, pooling):
    got = everything[f"{site}_{pooling}"]
    assert got.dtype == jnp.float32
    assert len(got) == {"residual": LAYERS + 1, "embedding": 1}.get(site, LAYERS)
    expected = by_definition(states[site], batch, pooling)
    assert_close(got, expected)
    nothing = (expected == 0).all(-1)
    assert nothing.any()
    assert not np.asarray(got)[nothing].any()


def test_layers_and_tokens_are_those_asked_for(model, everything, batch, states):
    taps = read(SOME, model.config)
    found = run(model, batch, taps, count=COUNT)
    assert set(found) == {tap.name for tap in taps}
    assert_close(found["neurons_max"], everything["neurons_max"][1:])
    assert_close(found["residual_mean"], everything["residual_mean"][::2])
    assert_close(found["residual_tokens"], states["residual"][1])
    assert_close(found["neurons_tokens"], states["neurons"][0])


def test_the_ends_of_a_linear_map_can_be_tapped(model, everything, batch):
    taps = read("mlp/down/input:max, attn/o/output:mean@1", model.config)
    assert [tap.name for tap in taps] == ["mlp.down.input_max", "attn.o.output_mean"]
    found = run(model, batch, taps, count=COUNT)
    assert_close(found["mlp.down.input_max"], everything["neurons_max"])
    assert_close(found["attn.o.output_mean"], everything["attn_out_mean"][1:])


def test_only_content_looks_at_which_tokens_are_special(model, everything):
    taps = read(EVERYTHING, model.config)
    after = run(model, packed(first_is_special=False), taps, count=COUNT)
    differ = {name for name, array in after.items() if (array != everything[name]).any()}
    assert differ == {f"{site}_content" for site in SITES}


def test_neurons_are_what_the_stream_is_updated_by(model, batch, states):
    """Of every block, computed here from the hidden state before it."""

    @nnx.jit
    def streams(model, before, neurons):
        kinds = (block.attention for block in model.config.blocks)
        at = layout(kinds, Places(batch.positions, batch.segments), causal=model.config.causal)
        found = []
        for block, hidden, active in zip(model.layers, before, neurons, strict=True):
            if model.config.causal:
                middle = hidden + block.attn(block.attn_norm(hidden), at)
                found.append(middle + block.mlp.down(active))
            else:
                middle = block.attn_norm(hidden + block.attn(hidden, at))
                found.append(block.mlp_norm(middle + block.mlp.down(active)))
        return [*found[:-1], found[-1] if model.norm is None else model.norm(found[-1])]

    before, neurons = (
        [jnp.asarray(state, jnp.float32) for state in states[site][:LAYERS]]
        for site in ("residual", "neurons")
    )
    found = streams(model, before, neurons)
    for after, expected in zip(found, states["residual"][1:], strict=True):
        assert_close(after, expected)


@pytest.mark.parametrize("model", [DECODER], ids=["decoder"], indirect=True)
def test_layers_that_nobody_needs_are_not_computed(model, batch):
    def operations(description: str) -> float:
        taps = read(description, model.config)
        cost = run.lower(model, batch, taps, count=COUNT).compile().cost_analysis()
        assert cost is not None
        return cost["flops"]

    whole = operations("residual:max@2")
    assert operations("residual:max@0") < 0.1 * whole
    assert operations("neurons:max@0") < 0.6 * whole


# Descriptions


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("residual:mean", Tap("residual", "mean", (0, 1, 2), DIM)),
        ("neurons:mean", Tap("neurons", "mean", (0, 1), NEURONS)),
        ("residual:last@2", Tap("residual", "last", (2,), DIM)),
        ("neurons:max@0+1", Tap("neurons", "max", (0, 1), NEURONS)),
        ("residual:max@0+2", Tap("residual", "max", (0, 2), DIM)),
        ("residual:tokens@0", Tap("residual", "tokens", (0,), DIM)),
        ("heads:mean@1", Tap("heads", "mean", (1,), 24)),
        ("attn/k/output:last", Tap("attn/k/output", "last", (0, 1), 12)),
        ("  neurons:content@1 ", Tap("neurons", "content", (1,), NEURONS)),
    ],
)
def test_a_description_is_read(text, expected):
    assert read(text, DECODER) == (expected,)


def test_taps_are_separated_by_commas():
    taps = read("residual:mean, neurons:max@0+1,residual:tokens@1", DECODER)
    assert [tap.name for tap in taps] == ["residual_mean", "neurons_max", "residual_tokens"]


SITE = f"a tap must have a site of {', '.join(SITES)}, or an end of a linear map"
SHAPE = "a tap must be SITE:POOLING or SITE:POOLING@LAYER+LAYER, got "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", SHAPE + "''"),
        ("residual", SHAPE + "'residual'"),
        ("residual:mean,", SHAPE + "''"),
        ("residual:mean@", SHAPE + "'residual:mean@'"),
        ("residual:mean@1+", SHAPE + "'residual:mean@1+'"),
        ("residual:mean@-1", SHAPE + "'residual:mean@-1'"),
        ("residual:mean@1-2", SHAPE + "'residual:mean@1-2'"),
        ("residual:mean:2", SHAPE + "'residual:mean:2'"),
        ("residual mean", SHAPE + "'residual mean'"),
        ("attention:mean", f"{SITE}, got 'attention:mean'"),
        ("head/out/output:mean", f"{SITE}, got 'head/out/output:mean'"),
        (
            "neurons:median",
            "a tap must have a pooling of mean, content, last, max, tokens, got 'neurons:median'",
        ),
        (
            "neurons:mean@1+0",
            "a tap must name its layers once and in order, got 'neurons:mean@1+0'",
        ),
        (
            "neurons:mean@1+1",
            "a tap must name its layers once and in order, got 'neurons:mean@1+1'",
        ),
        (
            "residual:mean@0+3",
            "a tap must have layers in [0, 2] of residual, got 'residual:mean@0+3'",
        ),
        ("neurons:mean@2", "a tap must have layers in [0, 1] of neurons, got 'neurons:mean@2'"),
        ("neurons:tokens", "a tap of tokens must have one layer, got 'neurons:tokens'"),
        (
            "residual:tokens@0+1",
            "a tap of tokens must have one layer, got 'residual:tokens@0+1'",
        ),
        (
            "neurons:mean@0,residual:mean,neurons:mean@1,neurons:mean",
            "a tap must differ, got neurons_mean twice",
        ),
        (
            "x:mean, neurons:sum@9, oh",
            f"{SITE}, got 'x:mean'; "
            "a tap must have a pooling of mean, content, last, max, tokens, got 'neurons:sum@9'; "
            "a tap must have layers in [0, 1] of neurons, got 'neurons:sum@9'; " + SHAPE + "'oh'",
        ),
    ],
)
def test_what_is_not_possible_is_named(text, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        read(text, DECODER)


def test_neurons_are_as_many_in_every_block():
    block = DECODER.blocks[0]
    wider = dataclasses.replace(block, mlp=dataclasses.replace(block.mlp, dim=24))
    uneven = dataclasses.replace(DECODER, blocks=(block, wider))
    assert read("residual:mean", uneven)[0].width == DIM
    message = r"^a tap of neurons needs as many of them in every block, got 'neurons:mean'$"
    with pytest.raises(ValueError, match=message):
        read("neurons:mean", uneven)
