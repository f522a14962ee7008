"""Tiny random models by torch, each weight perturbed, and what to compare with them."""

import copy
import functools
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import BertForMaskedLM, BertModel, LlamaForCausalLM, LlamaModel
from transformers.utils import logging

from ilo_jax.models import hf
from ilo_jax.sharding import data_mesh, replicated

logging.disable_progress_bar()
# On shared cores torch's threads wait for each other: one is up to 15 times as fast.
torch.set_num_threads(1)

TOLERANCE = 2e-5
"""Of the largest reference value, or of 1 if that is larger: the bound of every parity test."""

SEQ = 48
# Full rows, one token alone, and long enough for the slow rotary frequencies.
LENGTHS = (48, 5, 31, 1, 17, 11)
# Which sentences share a row; the rows left over are empty.
ROWS = ((2, 4), (0,), (1, 3, 5))

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "attn_implementation": "eager",
}
LLAMA: dict[str, Any] = {
    **SIZES,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
BERT: dict[str, Any] = {**SIZES, "layer_norm_eps": 1e-3}

VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "mha": (LlamaForCausalLM, LLAMA | {"num_key_value_heads": 4}),
    "gqa": (LlamaForCausalLM, LLAMA),
    "wide": (LlamaForCausalLM, LLAMA | {"head_dim": 12}),
    "tied": (LlamaForCausalLM, LLAMA | {"tie_word_embeddings": True}),
    "biases": (LlamaForCausalLM, LLAMA | {"attention_bias": True, "mlp_bias": True}),
    "llama3": (LlamaForCausalLM, LLAMA | {"rope_parameters": LLAMA3, "head_dim": 16}),
    "bare": (LlamaModel, LLAMA),
    "bert": (BertModel, BERT),
    "masked_lm": (BertForMaskedLM, BERT),
}


class Tiny(NamedTuple):
    """A model by torch and the folder it was saved to."""

    folder: Path
    torch: Any


class Batch(NamedTuple):
    """Rows of tokens, as our models take them, and where each sentence lies in them."""

    tokens: np.ndarray
    positions: np.ndarray
    segments: np.ndarray
    places: list[tuple[int, slice]]


def perturb(model: Any, *, seed: int) -> None:
    """Draw every parameter anew: far from its start, and large enough to matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 2:
                spread = 1.0 if "embed" in name else 1.5 * weight.shape[1] ** -0.5
                weight.copy_(spread * noise)
            else:
                weight.add_(0.3 * noise)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], Tiny]:
    """Return the tiny model of a variant; tests copy its folder before they change it."""

    @functools.cache
    def make(variant: str) -> Tiny:
        kind, config = VARIANTS[variant]
        model = kind(kind.config_class(**config)).eval()
        perturb(model, seed=list(VARIANTS).index(variant))
        folder = tmp_path_factory.mktemp(variant)
        model.save_pretrained(folder)
        return Tiny(folder, model)

    return make


@pytest.fixture(scope="session")
def ours(tiny) -> Callable[[str], Any]:
    """Return our model of a variant, in float32 on one device."""
    return functools.cache(
        lambda variant: hf.load(tiny(variant).folder, sharding=replicated(data_mesh(1)))
    )


@pytest.fixture(scope="session")
def sentences() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, SIZES["vocab_size"], length) for length in LENGTHS]


def _batch(sentences: list[np.ndarray], rows: tuple[tuple[int, ...], ...]) -> Batch:
    """Lay sentences into rows of SEQ tokens; padding is random tokens of segment 0."""
    shape = len(sentences), SEQ
    tokens = np.random.default_rng(1).integers(0, SIZES["vocab_size"], shape).astype(np.int32)
    positions, segments = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    places = {}
    for row, members in enumerate(rows):
        ends = itertools.accumulate(len(sentences[i]) for i in members)
        for segment, (i, end) in enumerate(zip(members, ends, strict=True), 1):
            where = slice(end - len(sentences[i]), end)
            tokens[row, where] = sentences[i]
            positions[row, where] = np.arange(len(sentences[i]))
            segments[row, where] = segment
            places[i] = row, where
    return Batch(tokens, positions, segments, [places[i] for i in range(len(sentences))])


@pytest.fixture(scope="session")
def padded(sentences) -> Batch:
    """One sentence per row."""
    return _batch(sentences, tuple((i,) for i in range(len(sentences))))


@pytest.fixture(scope="session")
def packed(sentences) -> Batch:
    """Several sentences per row, and rows that hold none."""
    return _batch(sentences, ROWS)


@nnx.jit
def _forward(model, tokens, positions, segments):
    states = model(tokens, positions, segments, tap=lambda hidden: hidden)
    head = getattr(model.config, "head", "none")
    return states, None if head == "none" else model.logits(states[-1])


@pytest.fixture(scope="session")
def forward() -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Return what our model makes of a batch: "layer batch seq dim", "batch seq vocab"."""

    def run(model, batch: Batch):
        states, logits = _forward(model, *map(jnp.asarray, batch[:3]))
        return np.stack(jax.device_get(states)), jax.device_get(logits)

    return run


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Return what torch makes of a right-padded batch, or of one sentence "1 seq"."""

    def run(model, tokens: np.ndarray, real: np.ndarray | None = None):
        mask = None if real is None else torch.from_numpy(real).long()
        with torch.no_grad():
            output = model(
                torch.from_numpy(tokens).long(), attention_mask=mask, output_hidden_states=True
            )
        states = torch.stack(output.hidden_states).float().numpy()
        return states, output.logits.float().numpy() if "logits" in output else None

    return run


@pytest.fixture(scope="session")
def assert_close() -> Callable[[np.ndarray, np.ndarray], None]:
    """Return the check that two arrays agree within TOLERANCE of the largest value."""

    def check(got: np.ndarray, expected: np.ndarray) -> None:
        assert got.shape == expected.shape
        assert np.isfinite(got).all()
        assert np.abs(got - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())

    return check


@pytest.fixture(scope="session")
def assert_padded_parity(
    tiny, ours, forward, reference, assert_close, padded
) -> Callable[[str], None]:
    """Return the check of every hidden state and the logits: torch gets the same padding."""

    def check(variant: str) -> None:
        real = padded.segments > 0
        expected, expected_logits = reference(tiny(variant).torch, padded.tokens, real)
        states, logits = forward(ours(variant), padded)
        assert len(states) == SIZES["num_hidden_layers"] + 1
        for state, wanted in zip(states, expected, strict=True):
            assert_close(state[real], wanted[real])
        if logits is not None:
            assert_close(logits[real], expected_logits[real])

    return check


@pytest.fixture(scope="session")
def assert_packed_parity(
    tiny, ours, forward, reference, assert_close, packed, sentences
) -> Callable[[str], None]:
    """Return the check of every hidden state and the logits: torch gets each sentence alone."""

    def check(variant: str) -> None:
        states, logits = forward(ours(variant), packed)
        assert np.isfinite(states).all()
        for sentence, (row, where) in zip(sentences, packed.places, strict=True):
            expected, expected_logits = reference(tiny(variant).torch, sentence[None])
            for state, wanted in zip(states, expected, strict=True):
                assert_close(state[row, where], wanted[0])
            if logits is not None:
                assert_close(logits[row, where], expected_logits[0])

    return check


@pytest.fixture(scope="session")
def assert_segments_apart(ours, forward, packed) -> Callable[[str], None]:
    """Return the check that no other segment of a row, padding included, changes a bit of one."""

    def check(variant: str) -> None:
        before, _ = forward(ours(variant), packed)
        rows = np.arange(len(packed.tokens))[:, None]
        for row, where in packed.places:
            own = (rows == row) & (packed.segments == packed.segments[row, where.start])
            others = np.where(own, packed.tokens, (packed.tokens + 1) % SIZES["vocab_size"])
            after, _ = forward(ours(variant), packed._replace(tokens=others))
            assert np.array_equal(after[:, row, where], before[:, row, where])
            assert (after[:, ~own] != before[:, ~own]).any(axis=-1).all()

    return check


@pytest.fixture(scope="session")
def assert_bfloat16_as_torch(tiny, forward, reference, padded) -> Callable[[str], None]:
    """Return the check that bfloat16 costs us at most twice what it costs torch.

    Both have the same rounded weights; the judge is torch with those, in float32.
    """

    def check(variant: str) -> None:
        folder, theirs = tiny(variant)
        real = padded.segments > 0
        rounded = copy.deepcopy(theirs).bfloat16()
        half, _ = reference(rounded, padded.tokens, real)
        judge, _ = reference(rounded.float(), padded.tokens, real)
        model = hf.load(folder, sharding=replicated(data_mesh(1)), dtype=jnp.bfloat16)
        states, _ = forward(model, padded)
        assert states.dtype == jnp.bfloat16
        for state, torchs, wanted in zip(states.astype(np.float32), half, judge, strict=True):
            error = np.linalg.norm(state[real] - wanted[real])
            assert error <= 2 * np.linalg.norm(torchs[real] - wanted[real])

    return check
