"""Tiny random models by torch, each weight perturbed, and what to compare with them."""

import copy
import functools
import itertools
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from ilo_jax.models.config import AttentionConfig, ModelConfig
from ilo_jax.models.describe import SCALINGS
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.layers import spans
from ilo_jax.models.rotary import Rope
from ilo_jax.sharding import make_mesh
from tests.models.reading import states
from tests.models.variants import TOLERANCE, VARIANTS, VOCAB, family, fresh, perturb

logging.disable_progress_bar()
# On shared cores torch's threads wait for each other: one is up to 15 times as fast.
torch.set_num_threads(1)

SEQ = 48
# Full rows, one token alone, and long enough for the slow rotary frequencies.
LENGTHS = (48, 5, 31, 1, 17, 11)
# Which sentences share a row; the rows left over are empty.
ROWS = ((2, 4), (0,), (1, 3, 5))

CHECKS = ("padded", "packed")
TABLE = ("<!-- family table -->", "<!-- end of family table -->")
PAGE = "docs/models.md"
"""The page that has the table of families, and the lines between which `--family-table` writes."""


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


class Expected(NamedTuple):
    """What torch makes of one sentence: hidden states, each "seq dim", and "seq vocab"."""

    states: list[np.ndarray]
    logits: np.ndarray | None


class Measured(NamedTuple):
    """The difference that a parity test found, and of which model."""

    config: ModelConfig
    difference: float


MEASURED = pytest.StashKey[dict[tuple[str, str], Measured]]()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], Tiny]:
    """Return the tiny model of a variant; tests copy its folder before they change it."""

    @functools.cache
    def make(variant: str) -> Tiny:
        model = fresh(variant)
        perturb(model, seed=list(VARIANTS).index(variant))
        folder = tmp_path_factory.mktemp(variant)
        model.save_pretrained(folder)
        return Tiny(folder, model)

    return make


@pytest.fixture(scope="session")
def ours(tiny) -> Callable[[str], Any]:
    """Return our model of a variant, in float32 on one device."""
    return functools.cache(
        lambda variant: loading.load(open_folder(tiny(variant).folder), mesh=make_mesh(data=1))
    )


@pytest.fixture(scope="session")
def sentences() -> list[np.ndarray]:
    """Return tokens from 2: RoBERTa gives no position to those that are its padding, 1."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, VOCAB, length) for length in LENGTHS]


def _batch(sentences: list[np.ndarray], rows: tuple[tuple[int, ...], ...]) -> Batch:
    """Lay sentences into rows of SEQ tokens; padding is random tokens of segment 0."""
    shape = len(sentences), SEQ
    tokens = np.random.default_rng(1).integers(0, VOCAB, shape).astype(np.int32)
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


@functools.partial(nnx.jit, static_argnames="smallest")
def _run(model, *rows, smallest: int):
    """Return all that torch's model is compared with; it is compiled by how rows are cut."""
    assert smallest == spans.SMALLEST
    found = states(model, *rows)
    return found, None if model.head is None else model.logits(found[-1])


@pytest.fixture(scope="session")
def forward() -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """Return what our model makes of a batch: "layer batch seq dim", "batch seq vocab"."""

    def run(model, batch: Batch, *, jit: bool = True):
        with jax.disable_jit(not jit):
            states, logits = _run(model, *map(jnp.asarray, batch[:3]), smallest=spans.SMALLEST)
        return np.stack(jax.device_get(states)), jax.device_get(logits)

    return run


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[list[np.ndarray], np.ndarray | None]]:
    """Return what torch makes of a right-padded batch, or of one sentence "1 seq"."""

    def run(model, tokens: np.ndarray, real: np.ndarray | None = None):
        mask = None if real is None else torch.from_numpy(real).long()
        with torch.no_grad():
            output = model(
                torch.from_numpy(tokens).long(), attention_mask=mask, output_hidden_states=True
            )
        states = [state.float().numpy() for state in output.hidden_states]
        return states, output.logits.float().numpy() if "logits" in output else None

    return run


def _by_length(model: Any) -> bool:
    """Return whether torch's rotary positions depend on what else it has been given."""
    rope = getattr(model.config, "rope_parameters", None) or {}
    return rope.get("rope_type") in {"dynamic", "longrope"}


@pytest.fixture(scope="session")
def by_torch(reference, padded, sentences) -> Callable[..., list[Expected]]:
    """Return what a torch model makes of each sentence: alone, or padded where it can be."""

    def run(model: Any, *, alone: bool) -> list[Expected]:
        if alone or _by_length(model):
            # Dynamic positions remember the longest sentence.
            rows = [reference(copy.deepcopy(model), tokens[None]) for tokens in sentences]
            places = [(0, slice(None))] * len(sentences)
        else:
            rows = [reference(model, padded.tokens, padded.segments > 0)] * len(sentences)
            places = padded.places
        return [
            Expected([state[place] for state in states], None if logits is None else logits[place])
            for (states, logits), place in zip(rows, places, strict=True)
        ]

    return run


@pytest.fixture(scope="session")
def expected(tiny, by_torch) -> Callable[[str, str], list[Expected]]:
    """Return what a variant's torch model makes of each sentence, for a check of CHECKS."""
    return functools.cache(
        lambda variant, check: by_torch(tiny(variant).torch, alone=check == "packed")
    )


def _difference(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, over the largest expected value or 1."""
    if got.shape != expected.shape or not np.isfinite(got).all():
        return np.inf
    return float(np.abs(got - expected).max() / max(1.0, np.abs(expected).max()))


@pytest.fixture(scope="session")
def assert_close() -> Callable[[np.ndarray, np.ndarray], None]:
    """Return the check that two arrays agree within TOLERANCE of the largest value."""

    def check(got: np.ndarray, expected: np.ndarray) -> None:
        assert _difference(got, expected) <= TOLERANCE

    return check


def as_torch(model: Any, states: np.ndarray) -> list[np.ndarray]:
    """Return our hidden states, the last one projected where torch's is (OPT-350m)."""
    if model.head is None or model.head.project is None:
        return list(states)
    return [*states[:-1], np.asarray(model.head.project(jnp.asarray(states[-1])))]


@pytest.fixture(scope="session")
def difference(expected, forward, padded, packed) -> Callable[..., float]:
    """Return the difference of all hidden states and the logits from a variant's torch model."""

    def measure(variant: str, model: Any, check: str = "padded", *, jit: bool = True) -> float:
        batch = {"padded": padded, "packed": packed}[check]
        states, logits = forward(model, batch, jit=jit)
        states, found = as_torch(model, states), []
        for wanted, place in zip(expected(variant, check), batch.places, strict=True):
            pairs = list(zip((state[place] for state in states), wanted.states, strict=True))
            if wanted.logits is not None:
                pairs.append((logits[place], wanted.logits))
            found += [_difference(*pair) for pair in pairs]
        return max(found)

    return measure


@pytest.fixture(scope="session")
def assert_parity(ours, difference, pytestconfig) -> Callable[[str, str], None]:
    """Return the check of a variant; what torch gets is each sentence padded, or alone."""
    measured = pytestconfig.stash.setdefault(MEASURED, {})

    def check(variant: str, check: str) -> None:
        found = difference(variant, ours(variant), check)
        assert found <= TOLERANCE
        measured[variant, check] = Measured(ours(variant).config, found)

    return check


@pytest.fixture(scope="session")
def assert_segments_apart(ours, forward, packed) -> Callable[[str], None]:
    """Return the check that no other segment of a row, padding included, changes a bit of one."""

    def check(variant: str) -> None:
        before, _ = forward(ours(variant), packed)
        rows = np.arange(len(packed.tokens))[:, None]
        for row, where in packed.places:
            own = (rows == row) & (packed.segments == packed.segments[row, where.start])
            others = np.where(own, packed.tokens, (packed.tokens + 1) % VOCAB)
            after, _ = forward(ours(variant), packed._replace(tokens=others))
            assert np.array_equal(after[:, row, where], before[:, row, where])
            assert (after[:, ~own] != before[:, ~own]).any(axis=-1).all()

    return check


@pytest.fixture(scope="session")
def assert_bfloat16_as_torch(tiny, forward, by_torch, padded) -> Callable[[str], None]:
    """Return the check that bfloat16 costs us at most twice what it costs torch.

    Both have the same rounded weights; the judge is torch with those, in float32.
    """

    def check(variant: str) -> None:
        folder, theirs = tiny(variant)
        judge = copy.deepcopy(theirs)
        # Parameters only: the tables that a model derives from its config stay exact.
        for parameter in judge.parameters():
            parameter.data = parameter.data.bfloat16().float()
        half = type(theirs).from_pretrained(
            folder, dtype=torch.bfloat16, attn_implementation="eager"
        )
        model = loading.load(open_folder(folder), mesh=make_mesh(data=1), dtype=jnp.bfloat16)
        states, _ = forward(model, padded)
        assert states.dtype == jnp.bfloat16
        got = [state.astype(np.float32) for state in as_torch(model, states)]
        torchs, wanted = by_torch(half, alone=False), by_torch(judge, alone=False)
        for layer, state in enumerate(got):
            exact = np.concatenate([sentence.states[layer] for sentence in wanted])
            error = np.concatenate([state[place] for place in padded.places]) - exact
            torchs_error = np.concatenate([sentence.states[layer] for sentence in torchs]) - exact
            assert np.linalg.norm(error) <= 2 * np.linalg.norm(torchs_error)

    return check


# The table of families:
# pytest tests/models/hub/test_families.py -m 'slow or not slow' --family-table


def _page(config: pytest.Config) -> tuple[str, str]:
    """Return the page up to the table, and from its end."""
    text = (config.rootpath / PAGE).read_text()
    before, start, rest = text.partition(TABLE[0] + "\n")
    _, end, after = rest.partition(TABLE[1] + "\n")
    if not start or not end:
        raise pytest.UsageError(f"{PAGE} must have the lines {TABLE[0]} and {TABLE[1]}")
    return before + start, end + after


def _absent(found: Iterable[Any]) -> str:
    """Return which parity tests are not among those found, the first few by name."""
    there = set(found)
    absent = ["-".join(p) for p in itertools.product(VARIANTS, CHECKS) if p not in there]
    names = ", ".join(absent[:5]) + (", ..." if len(absent) > 5 else "")
    return f"{len(absent)} parity tests, {names}" if absent else ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse to write the table of some families only."""
    if not session.config.getoption("family_table"):
        return
    _page(session.config)
    specs = [getattr(item, "callspec", None) for item in session.items]
    calls = [spec.params for spec in specs if spec is not None]
    if absent := _absent((call.get("variant"), call.get("check")) for call in calls):
        raise pytest.UsageError(f"--family-table needs every family; not selected: {absent}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the table if every parity test has passed."""
    measured = session.config.stash.get(MEASURED, {})
    if not session.config.getoption("family_table"):
        return
    if _absent(measured):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR
    else:
        before, after = _page(session.config)
        (session.config.rootpath / PAGE).write_text(before + _table(measured) + after)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say why the table was not written."""
    absent = _absent(config.stash.get(MEASURED, {}))
    if config.getoption("family_table") and MEASURED in config.stash and absent:
        terminalreporter.write_line(f"{PAGE} is as it was; not passed: {absent}", red=True)


def _table(measured: dict[tuple[str, str], Measured]) -> str:
    rows = ["| family | attention | positions | verified shapes | max difference |"]
    rows.append("| --- | --- | --- | --- | --- |")
    for model_type in sorted({family(variant) for variant, _ in measured}):
        own = {pair: m for pair, m in measured.items() if family(pair[0]) == model_type}
        configs = [m.config for m in own.values()]
        blocks = [block.attention for config in configs for block in config.blocks]
        shapes = dict.fromkeys(variant.removeprefix(f"{model_type}-") for variant, _ in own)
        cells = (
            f"`{model_type}`",
            _joined([*map(_heads, blocks), *(word for block in blocks for word in _scores(block))]),
            _joined(word for config in configs for word in _positions(config)),
            ", ".join(shapes),
            f"{max(m.difference for m in own.values()):.1e}",
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _joined(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _heads(config: AttentionConfig) -> str:
    return {config.heads: "multi-head", 1: "multi-query"}.get(config.kv_heads, "grouped-query")


def _scores(config: AttentionConfig) -> list[str]:
    words = {
        "window": config.window is not None,
        "qk-norm": config.qk_norm is not None,
        "soft-cap": config.softcap is not None,
    }
    return [word for word, has in words.items() if has]


def _positions(config: ModelConfig) -> list[str]:
    if config.embedding.positions != "none":
        return [config.embedding.positions]
    return [
        word
        for block in config.blocks
        for word in (
            ["ALiBi"] if block.attention.alibi else _rope(block.attention, block.attention.rope)
        )
    ]


def _rope(config: AttentionConfig, rope: Rope | None) -> list[str]:
    if rope is None:
        return ["none in full blocks"]
    others = {
        "interleaved": rope.interleaved,
        "partial": rope.dims < config.head_dim,
    }
    words = ["RoPE", *(word for word, has in others.items() if has)]
    return words + ([SCALINGS[type(rope.scaling)]] if rope.scaling else [])


@pytest.fixture
def copied(tiny, tmp_path) -> Callable[[str], Path]:
    """Return a copy of a variant's folder, to be changed."""
    return lambda variant: Path(shutil.copytree(tiny(variant).folder, tmp_path / variant))


@pytest.fixture
def tokenized(copied) -> Path:
    """Return a model folder with a tokenizer of three words."""
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "space": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = copied("llama-gqa")
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    return folder
