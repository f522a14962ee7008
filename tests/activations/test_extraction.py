"""Whatever the packing, batch and mesh: the same sentence, the same vector, in the right place."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh

from ilo_jax import sharding
from ilo_jax.activations import planning, schedule, taps
from ilo_jax.activations.extraction import Report, extract
from ilo_jax.activations.gathering import layouts
from ilo_jax.activations.store import Store, open_store
from ilo_jax.activations.usable import naming
from ilo_jax.corpora.packing import Rows, Sentences, as_sentences, fill, plan
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
from ilo_jax.models.parameters import build
from ilo_jax.models.rotary import Rope
from ilo_jax.models.transformer import Transformer
from tests.models.reading import shown

GATED = ModelConfig(
    causal=True,
    embedding=EmbeddingConfig(vocab=50, dim=16),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4,
                kv_heads=2,
                head_dim=6,
                scale=6**-0.5,
                qkv_bias=True,
                out_bias=True,
                rope=Rope(theta=100.0, dims=6),
            ),
            mlp=MlpConfig(dim=20, activation="silu", gated=True, bias=True),
            norm=Norm(kind="rms", eps=1e-6),
            norm_place="pre",
        ),
    )
    * 2,
    final_norm=Norm(kind="rms", eps=1e-6),
    head=HeadConfig(kind="none"),
    max_positions=64,
)
LAYER_NORM = Norm(kind="layer", eps=1e-6, bias=True)
BERT = ModelConfig(
    causal=False,
    embedding=EmbeddingConfig(
        vocab=50, dim=16, positions="learned", rows=64, token_types=2, norm=LAYER_NORM
    ),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4, kv_heads=4, head_dim=4, scale=0.5, qkv_bias=True, out_bias=True
            ),
            mlp=MlpConfig(dim=20, activation="gelu", bias=True),
            norm=LAYER_NORM,
            norm_place="post",
        ),
    )
    * 2,
    final_norm=None,
    head=HeadConfig(kind="none"),
    max_positions=64,
)
LANGUAGES = ["a", "b", "c"]
SENT = 20
ALL_TAPS = (
    "residual:mean,residual:content,residual:last@1+2,neurons:max,residual:tokens@1,neurons:mean@0"
)


def perturbed(config: ModelConfig) -> Transformer:
    """A model whose every weight is random, norms and biases included."""
    model = build(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    state = nnx.state(model, nnx.Param)
    noise = jax.tree.map(lambda x: x + 0.2 * rng.normal(size=x.shape).astype(np.float32), state)
    nnx.update(model, noise)
    return model


def on(model: Transformer, mesh: Mesh, *, fsdp: bool = False) -> Transformer:
    """The model with its weights on a mesh, as `load` puts them."""
    lies = parameters.shardings(model, mesh, fsdp=fsdp)
    weights = parameters.weights(model)
    parameters.put(model, {path: jax.device_put(weights[path], lies[path]) for path in weights})
    model.mesh = mesh
    return model


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(GATED, id="decoder"),
        pytest.param(BERT, id="encoder", marks=pytest.mark.slow),
    ],
)
def model(request) -> Transformer:
    return perturbed(request.param)


@pytest.fixture(scope="module")
def sentences() -> dict[int, Sentences]:
    """Of three languages; the first and the last token of a sentence are special."""
    rng = np.random.default_rng(2)
    lengths = rng.choice([3, 4, 7, 20, 59], size=(3, SENT))
    ids = [[rng.integers(0, 50, n).tolist() for n in of_language] for of_language in lengths]
    special = [[[1, *[0] * (len(s) - 2), 1] for s in of_language] for of_language in ids]
    return {i: as_sentences(*pair) for i, pair in enumerate(zip(ids, special, strict=True))}


def one_by_one(of_language: Sentences) -> list[np.ndarray]:
    return np.split(of_language.tokens, np.cumsum(of_language.lengths)[:-1])


@pytest.fixture(scope="module")
def expected(model: Transformer, sentences) -> dict[str, list[list[np.ndarray]]]:
    """What is to be found of [lang][sent], from one sentence at a time without padding."""
    on(model, sharding.make_mesh(data=1))
    alone = nnx.jit(
        lambda model, *row: [shown(model, site, *row) for site in ("residual", "neurons")]
    )
    found = {}
    for lang, of_language in sentences.items():
        for sent, tokens in enumerate(one_by_one(of_language)):
            row = jnp.asarray(tokens)[None]
            found_at = alone(model, row, jnp.arange(len(tokens))[None], jnp.ones_like(row))
            residual, mlp = (np.asarray(site, np.float64)[:, 0] for site in found_at)
            each = {
                "residual_mean": residual.mean(1),
                "residual_content": residual[:, 1:-1].mean(1),
                "residual_last": residual[1:, -1],
                "neurons_max": mlp.max(1),
                "residual_tokens": residual[1],
                "neurons_mean": mlp[:1].mean(1),
            }
            for name, value in each.items():
                found.setdefault(name, [[None] * SENT for _ in sentences])[lang][sent] = value
    return found


def opened(folder: Path, config: ModelConfig, sentences, text: str) -> Store:
    longest = max(len(of_language.tokens) for of_language in sentences.values())
    arrays = layouts(
        taps.read(text, config), lang=len(sentences), sent=SENT, longest=longest, dtype="float32"
    )
    return open_store(folder, {"taps": text}, arrays, lang=len(sentences))


def extracted(
    model: Transformer,
    sentences,
    folder: Path,
    mesh: Mesh,
    *,
    text: str = "residual:mean",
    batch_tokens: int = 256,
    dtype=jnp.float32,
) -> tuple[Store, Report]:
    store = opened(folder, model.config, sentences, text)
    report = extract(
        on(model, mesh),
        sentences,
        store,
        mesh,
        taps=taps.read(text, model.config),
        batch_tokens=batch_tokens,
        dtype=dtype,
    )
    return store, report


def everything(store: Store, name: str = "residual_mean") -> np.ndarray:
    return store.arrays[name].read().result()


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return np.max(np.linalg.norm(got - expected, axis=-1) / np.linalg.norm(expected, axis=-1))


def pooled(expected, name: str) -> np.ndarray:
    """As stored: "layer lang sent dim"."""
    return np.moveaxis(np.array(expected[name]), 2, 0)


@pytest.mark.parametrize(
    ("data", "model_axis", "batch_tokens", "lengths"),
    [
        pytest.param(1, 1, 256, (256,), marks=pytest.mark.slow),
        pytest.param(1, 1, 2048, (64, 256), marks=pytest.mark.slow),
        pytest.param(1, 1, 384, (384,), marks=pytest.mark.slow),
        pytest.param(4, 1, 128, (20, 64), marks=pytest.mark.slow),
        (8, 1, 512, (7, 20, 256)),
        pytest.param(4, 2, 256, (64,), marks=pytest.mark.slow),
        (2, 4, 256, (32, 256)),
    ],
)
def test_every_packing_batch_and_mesh_gives_the_sentence_alone(
    model, sentences, expected, tmp_path, monkeypatch, data, model_axis, batch_tokens, lengths
):
    monkeypatch.setattr(planning, "kinds", lambda longest: [lengths])
    mesh = sharding.make_mesh(data=data, model=model_axis)
    store, report = extracted(
        model, sentences, tmp_path, mesh, text=ALL_TAPS, batch_tokens=batch_tokens
    )
    assert store.missing() == []
    assert report.tokens == sum(len(s.tokens) for s in sentences.values())
    assert 0 < report.padding < 1
    for name in (
        "residual_mean",
        "residual_content",
        "residual_last",
        "neurons_max",
        "neurons_mean",
    ):
        assert relative(everything(store, name), pooled(expected, name)) <= 1e-5
    for lang in sentences:
        states = store.tokens("residual_tokens", lang)
        assert relative(states, np.concatenate(expected["residual_tokens"][lang])) <= 1e-5
        assert store.tokens("token_ids", lang).tolist() == sentences[lang].tokens.tolist()


def test_weights_split_over_data_too_give_the_same(model, sentences, expected, tmp_path):
    mesh = sharding.make_mesh(data=2, model=2)
    on(model, mesh, fsdp=True)
    store, _ = extracted(model, sentences, tmp_path, mesh)
    assert relative(everything(store), pooled(expected, "residual_mean")) <= 1e-5


def test_a_pmap_of_the_same_forward_gives_the_same(model, sentences, tmp_path):
    """Data parallelism as it was written before meshes."""
    store, _ = extracted(model, sentences, tmp_path, sharding.make_mesh(data=8), batch_tokens=256)
    of_language = sentences[1]
    planned = plan(of_language.lengths, row_length=64)
    planned = np.pad(planned, ((0, -len(planned) % 8), (0, 0)), constant_values=-1)
    rows = fill(of_language, planned, row_length=64)
    model.mesh = None
    graph, state = nnx.split(model)
    tap = taps.read("residual:mean", model.config)

    @functools.partial(jax.pmap, in_axes=(None, 0))
    def forward(state, batch):
        return taps.taken(nnx.merge(graph, state), batch, tap, count=planned.shape[1])

    shards = (jnp.asarray(array.reshape(8, -1, *array.shape[1:])) for array in rows)
    found = np.asarray(forward(jax.device_get(state), Rows(*shards))["residual_mean"])
    found = np.moveaxis(found, 1, 0).reshape(found.shape[1], -1, *found.shape[3:])
    states = np.zeros((len(found), SENT, found.shape[-1]))
    row, segment = np.nonzero(planned >= 0)
    states[:, planned[row, segment]] = found[:, row, segment]
    assert relative(everything(store)[:, 1], states) <= 1e-5


def test_a_stopped_run_ends_bit_equal(model, sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "BLOCK_BATCHES", 1)
    mesh = sharding.make_mesh(data=1)
    whole, _ = extracted(model, sentences, tmp_path / "whole", mesh, text=ALL_TAPS)
    write, written = Store.write, []

    def stop_after_one(store: Store, language: int, values) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(language)
        write(store, language, values)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", stop_after_one)
        with pytest.raises(KeyboardInterrupt):
            extracted(model, sentences, tmp_path / "stopped", mesh, text=ALL_TAPS)
    store = opened(tmp_path / "stopped", model.config, sentences, ALL_TAPS)
    assert store.missing() == [1, 2]
    store, report = extracted(model, sentences, tmp_path / "stopped", mesh, text=ALL_TAPS)
    assert report.tokens == len(sentences[1].tokens) + len(sentences[2].tokens)
    for name in ("residual_mean", "residual_content", "residual_last", "neurons_max"):
        np.testing.assert_array_equal(everything(store, name), everything(whole, name))
    for lang in sentences:
        for name in ("residual_tokens", "token_ids"):
            np.testing.assert_array_equal(store.tokens(name, lang), whole.tokens(name, lang))


def test_another_sentence_in_the_row_changes_nothing(model, sentences, tmp_path):
    mesh = sharding.make_mesh(data=1)
    changed = dict(sentences)
    start = int(sentences[1].lengths[:3].sum())
    tokens = sentences[1].tokens.copy()
    tokens[start : start + sentences[1].lengths[3]] += 1
    changed[1] = sentences[1]._replace(tokens=tokens % 50)
    first, _ = extracted(model, sentences, tmp_path / "first", mesh)
    second, _ = extracted(model, changed, tmp_path / "second", mesh)
    differs = (everything(first) != everything(second)).any(axis=(0, 3))
    assert np.argwhere(differs).tolist() == [[1, 3]]


def test_compute_dtype_is_not_that_of_the_weights(model, sentences, expected, tmp_path):
    """Weights stay float32; what is computed in bfloat16 is off by its rounding, and no more."""
    mesh = sharding.make_mesh(data=1)
    store, _ = extracted(model, sentences, tmp_path, mesh, dtype=jnp.bfloat16)
    assert {array.dtype for array in parameters.weights(model).values()} == {jnp.dtype("float32")}
    off = relative(everything(store), pooled(expected, "residual_mean"))
    assert 1e-4 < off < 0.1


def test_a_small_corpus_is_not_made_up_to_a_large_batch(model, sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "kinds", lambda longest: [(256,)])
    mesh = sharding.make_mesh(data=1)
    _, report = extracted(model, sentences, tmp_path, mesh, batch_tokens=10**6)
    tokens = sum(len(s.tokens) for s in sentences.values())
    rows = len(plan(np.concatenate([s.lengths for s in sentences.values()]), row_length=256))
    assert report.padding == pytest.approx(1 - tokens / (rows * 256))


def test_where_nothing_is_missing_nothing_is_computed(model, sentences, tmp_path):
    """As where another run did it meanwhile; with batches for eight devices beyond 32 bits."""
    store = opened(tmp_path, model.config, sentences, "residual:mean")
    store.complete.write(1).result()
    mesh = sharding.make_mesh()
    _, report = extracted(model, sentences, tmp_path, mesh, batch_tokens=2**31 - 1)
    assert (report.tokens, report.padding, report.flops) == (0, 0.0, 0.0)


def test_report_is_of_what_was_computed(model, sentences, tmp_path):
    _, report = extracted(model, sentences, tmp_path, sharding.make_mesh(data=2))
    weights = sum(
        w.size for p, w in parameters.weights(model).items() if "layers" in p and w.ndim == 2
    )
    pairs = sum(int((s.lengths.astype(int) ** 2).sum()) for s in sentences.values())
    attention = model.config.blocks[0].attention
    per_pair = 4 * model.config.layers * attention.heads * attention.head_dim
    assert report.flops == pytest.approx(2 * weights * report.tokens + per_pair * pairs, rel=1e-6)
    assert report.compile_seconds > 0
    assert report.host_bytes > 2**26


@pytest.mark.parametrize("text", ["residual:mean", "residual:tokens@2"])
def test_nothing_is_stored_of_a_model_that_gives_nan(sentences, tmp_path, text):
    model = perturbed(BERT)
    token = int(sentences[1].tokens[4])
    model.embed.tokens.embedding[...] = model.embed.tokens.embedding[...].at[token].set(jnp.nan)
    message = r"tiny: .*hidden state . of . sentence .* is not finite"
    with pytest.raises(ValueError, match=message), naming("tiny", LANGUAGES):
        extracted(model, sentences, tmp_path, sharding.make_mesh(data=1), text=text)
    assert opened(tmp_path, BERT, sentences, text).missing() == [0, 1, 2]
