"""What all processes agree upon; tests/experiments/test_extract.py has two real ones."""

import numpy as np
import pytest

from ilo_jax.activations import planning
from ilo_jax.activations.planning import planned, rows_at_once, steps_of
from ilo_jax.activations.schedule import schedule
from ilo_jax.activations.store import open_store
from ilo_jax.corpora.packing import Sentences, as_sentences
from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)


def config(dim: int) -> ModelConfig:
    return ModelConfig(
        causal=False,
        embedding=EmbeddingConfig(vocab=50, dim=dim),
        blocks=(
            BlockConfig(
                attention=AttentionConfig(heads=4, kv_heads=4, head_dim=dim // 4, scale=1.0),
                mlp=MlpConfig(dim=4 * dim, activation="gelu"),
                norm=Norm(kind="rms", eps=1e-6),
                norm_place="pre",
            ),
        ),
        final_norm=None,
        head=HeadConfig(kind="none"),
        max_positions=512,
    )


@pytest.fixture
def sentences() -> dict[int, Sentences]:
    """Mostly short, and a few that need rows of 256."""
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(5, 60, 300), 200, 220]
    return {0: as_sentences([[1] * int(n) for n in lengths])}


@pytest.mark.parametrize(
    ("dim", "worth", "batch_tokens", "expected"),
    [
        (32, 0.03, 512, (64, 256)),
        (32, 9.0, 512, (256,)),
        (8192, 0.03, 512, (256,)),
        (32, 0.03, 8192, (256,)),
    ],
)
def test_short_rows_are_compiled_where_they_are_worth_it(
    sentences, monkeypatch, dim, worth, batch_tokens, expected
):
    """Which they are not where the weights take nearly all of the time, or few batches do it."""
    monkeypatch.setattr(planning, "WORTH", worth)
    found = planning._row_lengths(config(dim), sentences, batch_tokens=batch_tokens)
    assert found == expected


def test_batches_are_as_few_as_may_be_and_none_much_emptier(sentences, tmp_path):
    """In 512 tokens fit 8 rows of the first kind, and 2 of the second."""
    store = open_store(tmp_path, {}, {}, lang=1)
    plan = planned(config(32), sentences, store, [], batch_tokens=512, width=1)
    needed = np.array(plan.longest)
    batches = -(-needed // np.array([8, 2]))
    assert needed[0] % batches[0]
    assert list(plan.rows) == (-(-needed // batches)).tolist()
    assert plan.counts().tolist() == [batches.tolist()]


def test_a_row_that_is_longer_than_a_batch_is_computed_by_itself():
    assert [rows_at_once(512, row_length=length) for length in (64, 200, 512, 513)] == [8, 2, 1, 1]


def test_a_process_with_less_to_do_waits_on_padding(sentences, monkeypatch):
    """Of one kind another has two batches more, and a whole block more at the end."""
    plan = schedule(
        sentences, [0], row_lengths=(64, 256), rows=(50, 4), token_bytes=0, sentence_bytes=0
    )
    own = plan.counts()
    assert own.shape == (1, 2)
    theirs = np.array([[own[0, 0] + 2, own[0, 1]], [1, 1]], np.int32)
    monkeypatch.setattr(planning, "largest", lambda values: [2])
    monkeypatch.setattr(planning, "gathered", lambda values: np.stack([values, theirs]))
    steps = steps_of(plan)
    assert [step.kind for step in steps] == [0] * theirs[0, 0] + [1] * theirs[0, 1] + [0, 1]
    batches = [step.make() for step in steps]
    waits = [batch.block < 0 for batch in batches]
    assert waits == [False] * own[0, 0] + [True] * 2 + [False] * own[0, 1] + [True] * 2
    shapes = [((50, 64), (4, 256))[step.kind] for step in steps]
    assert [batch.rows.tokens.shape for batch in batches] == shapes
