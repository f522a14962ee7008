"""Everyone who is timed extracts the same vectors, and the floor is all of the products."""

import re
import shutil
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from experiments.bench.extract import SEARCHERS
from experiments.bench.rivals import extractors, torch_extractors
from experiments.bench.rivals.work import Work, prepare
from experiments.settings import Source
from ilo_jax.models.config import AttentionConfig

SENTENCES, LANGUAGES, LAYERS = 5, 6, 3


@pytest.fixture(scope="session")
def tiny_llama(tiny, tmp_path_factory) -> Path:
    """A folder with a random two-block Llama that reads bytes."""
    folder = tmp_path_factory.mktemp("tiny_llama") / "llama"
    shutil.copytree(tiny, folder)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=96,
    )
    torch.manual_seed(0)
    model = LlamaModel(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["tiny", "tiny_llama"])
def work(request, text, tmp_path_factory) -> Work:
    folder = request.getfixturevalue(request.param)
    return prepare(
        Source(model=str(folder), corpus=str(text), sentences=SENTENCES),
        random=None,
        dtype="float32",
        batch_tokens=512,
        torch_batch=4,
        scratch=tmp_path_factory.mktemp("scratch"),
    )


@pytest.fixture(scope="module")
def true(work) -> np.ndarray:
    """In float64, one sentence at a time."""
    model = work.theirs.double()
    found = []
    with torch.no_grad():
        for one in work.ids():
            states = model(torch.from_numpy(one)[None], output_hidden_states=True).hidden_states
            found.append([state[0].numpy().mean(0) for state in states])
    work.theirs.float()
    return np.array(found).swapaxes(0, 1)


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "products"])
def test_vectors_are_the_true_ones(name, work, true):
    found = SEARCHERS[name](work)()
    assert found.vectors is not None
    vectors = found.vectors()
    assert vectors.shape == (LAYERS, LANGUAGES * SENTENCES, 24)
    assert vectors.dtype == np.float32
    away = np.linalg.norm(vectors - true, axis=-1) / np.linalg.norm(true, axis=-1)
    assert away.max() < 1e-5
    assert 0 <= found.padding < 1


def test_ours_computes_and_stores_each_time(work):
    search = SEARCHERS["ours"](work)
    one = search()
    assert one.vectors is not None
    before = one.vectors()
    (store,) = (work.scratch / "states").iterdir()
    (store / "complete/zarr.json").unlink()
    other = search()
    assert other.vectors is not None
    np.testing.assert_array_equal(other.vectors(), before)
    for found in (one, other):
        assert found.seconds is not None
        assert found.compile_seconds is not None
        assert found.seconds.wall > 0
        assert found.seconds.cpu > 0
        assert found.compile_seconds > 0
        assert found.padding < 0.9


def test_compiling_takes_none_of_the_time(work, monkeypatch):
    spent = 0.5

    def slow(*args, **kwargs):
        jax.jit(lambda x: x + kwargs["segments"])(1)  # ends a compilation, too
        end = extractors.time.process_time() + spent
        while extractors.time.process_time() < end:
            pass
        return extractors.compiled_forward(*args, **kwargs)

    monkeypatch.setattr("ilo_jax.activations.extraction.compiled_forward", slow)
    found = SEARCHERS["ours"](work)()
    assert found.seconds is not None
    assert found.compile_seconds is not None
    assert found.compile_seconds > spent
    assert found.seconds.wall < spent
    assert found.seconds.cpu < spent


def test_forward_and_floor_are_of_the_batches_of_ours(work):
    found = {name: SEARCHERS[name](work)() for name in ("ours", "ours-forward", "products")}
    assert len({round(each.padding, 6) for each in found.values()}) == 1
    assert len({each.batch for each in found.values()}) == 1
    _, batches = extractors.planned(work)
    assert len(batches) > 1
    assert sum(int((batch.rows.segments > 0).sum()) for _, batch in batches) == work.lengths.sum()


def test_several_blocks_go_where_they_belong(work, true, monkeypatch):
    monkeypatch.setattr("ilo_jax.activations.schedule.BLOCK_BYTES", 1)
    plan, _ = extractors.planned(work)
    assert len(plan.blocks) == LANGUAGES
    found = SEARCHERS["ours-forward"](work)()
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors(), true, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["ours", "ours-forward"])
def test_rows_may_be_of_several_kinds(name, work, true, monkeypatch):
    monkeypatch.setattr("ilo_jax.activations.planning.kinds", lambda longest: [(30, 64)])
    _, batches = extractors.planned(work)
    assert {kind for kind, _ in batches} == {0, 1}
    found = SEARCHERS[name](work)()
    assert re.fullmatch(r"\d+ x 30 or \d+ x 64 tokens", found.batch)
    assert found.padding == pytest.approx(SEARCHERS["products"](work)().padding)
    assert found.vectors is not None
    np.testing.assert_allclose(found.vectors(), true, rtol=1e-3, atol=1e-4)


ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=3, scale=1.0)
SHAPES = {
    "attn/q/kernel": (8, 12),
    "attn/k/kernel": (8, 6),
    "attn/v/kernel": (8, 6),
    "attn/o/kernel": (12, 8),
    "mlp/gate/kernel": (8, 10),
    "mlp/up/kernel": (8, 10),
    "mlp/down/kernel": (10, 8),
}


def kernels(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def test_products_of_a_block_are_all_there():
    hidden = np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)
    given = kernels(1)
    q, k, v, o, gate, up, down = (given[name].astype(np.float64) for name in SHAPES)
    expected = []
    for row in hidden.astype(np.float64):
        heads = []
        for head in range(4):
            own, shared = slice(3 * head, 3 * head + 3), slice(3 * (head // 2), 3 * (head // 2) + 3)
            scores = (row @ q[:, own]) @ (row @ k[:, shared]).T
            heads.append(scores @ (row @ v[:, shared]))
        mixed = np.concatenate(heads, axis=-1) @ o
        expected.append((mixed @ gate + mixed @ up) @ down)
    found = extractors.block_products(
        jnp.asarray(hidden),
        given,  # pyright: ignore[reportArgumentType]
        ATTENTION,
        causal=False,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)


def test_no_product_of_the_floor_is_left_out():
    rows, seq, blocks = 2, 32, 3
    how = {"attentions": [ATTENTION] * blocks, "causal": False}
    multiply = jax.jit(partial(extractors.all_products, **how))
    weights = [kernels(seed) for seed in range(blocks)]
    compiled = multiply.lower(jnp.ones((rows, seq, 8)), weights).compile()
    matrices = sum(np.prod(shape) for shape in SHAPES.values())
    needed = blocks * 2 * rows * seq * (matrices + 2 * seq * 12)
    cost = compiled.cost_analysis()
    assert cost is not None
    assert needed <= cost["flops"] < 1.1 * needed
    assert np.isfinite(compiled(jnp.ones((rows, seq, 8)), weights))


def test_padding_is_ignored(work):
    ids = work.ids()[:7]
    batches = torch_extractors.padded(ids, 3)
    assert [tuple(tokens.shape) for tokens, _ in batches] == [
        (len(ids[i : i + 3]), max(map(len, ids[i : i + 3]))) for i in (0, 3, 6)
    ]
    for (tokens, real), start in zip(batches, (0, 3, 6), strict=True):
        for row, one in enumerate(ids[start : start + 3]):
            np.testing.assert_array_equal(tokens[row][real[row]], one)
    other = [(torch.where(real, tokens, 77), real) for tokens, real in batches]
    pairs = zip(*(torch_extractors.pooled(work.theirs, b) for b in (batches, other)), strict=True)
    for one, two in pairs:
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fastest", torch_extractors.BATCH_SIZES)
def test_torch_gets_the_fastest_size(fastest, monkeypatch, capsys):
    seen = {}

    def alternating(calls, *, rounds):
        for name, call in calls.items():
            model, batches = call.args
            assert model == "model"
            assert {tokens.shape[0] for tokens, _ in batches} == {int(name)}
            seen[name] = sum(int(real.sum()) for _, real in batches)
        seconds = {name: extractors.Seconds(abs(int(name) - fastest), 0) for name in calls}
        return {name: extractors_timed(each) for name, each in seconds.items()}

    def extractors_timed(seconds):
        return torch_extractors.timing.Timed(seconds, None)

    monkeypatch.setattr(torch_extractors.timing, "alternating", alternating)
    ids = [np.full(1000 - i, i) for i in range(640)]
    work = Work("", None, "model", *[None] * 7)  # pyright: ignore
    assert torch_extractors.fastest_size(work, ids) == fastest
    # The longest, those in the middle, and the shortest.
    tried = [*range(64), *range(256, 320), *range(576, 640)]
    assert set(seen.values()) == {sum(1000 - i for i in tried)}
    assert "seconds by sentences" in capsys.readouterr().out
