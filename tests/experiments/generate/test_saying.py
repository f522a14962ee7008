from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.generate import saying
from experiments.generate.config import Config
from ilo_jax.generation.state import END, MAXIMUM, RUNNING, STOP, Said

PIECES = [bytes([byte]) for byte in range(256)]
TEXTS = ["ab你.cd", "b\nUser: a", "xyz!!!"]
ENDED = [END, STOP, MAXIMUM]
WRITTEN = ["ab你.c", "b", "xyz!!!"]
"""What a row has said until it ended: the first with a d as its end token."""


@pytest.fixture
def setting() -> Any:
    config = Config(prompt="a", samples=3, temperature=1.0, stops='["\\nUser:"]')
    return SimpleNamespace(config=config, pieces=PIECES, prompts=["a"], decoder=None)


def said_after(steps: int) -> Said:
    """What the rows have said after some tokens."""
    rows = [[*text.encode()] for text in TEXTS]
    rows[1] = rows[1][: len(b"b\nUser:")]
    tokens = np.zeros((3, 9), np.int32)
    for row, own in zip(tokens, rows, strict=True):
        row[: len(own)] = own
    lengths = np.minimum([len(own) for own in rows], steps)
    ended = [why if steps >= len(own) else RUNNING for why, own in zip(ENDED, rows, strict=True)]
    real = np.arange(9) < lengths[:, None]
    likelihoods = np.where(real, -0.5, 0).astype(np.float32)
    return Said(np.where(real, tokens, 0), lengths, likelihoods, np.array(ended), {})


def test_samples_are_streamed_one_after_the_other(setting, monkeypatch):
    monkeypatch.setattr(saying, "batch", lambda *_, **__: ())
    monkeypatch.setattr(saying, "speaking", lambda *_, **__: map(said_after, range(1, 10)))
    pieces = list(saying.streamed(setting, {}))
    assert "".join(pieces) == "".join(f"{text}\n" for text in WRITTEN)
    # A character comes as a whole, and what may be a stop string once it is none.
    assert pieces[:6] == ["a", "b", "", "", "你", "."]


def test_records_have_text_tokens_and_log_likelihood(setting, monkeypatch):
    monkeypatch.setattr(saying, "batch", lambda *_, **__: ())
    monkeypatch.setattr(saying, "generate", lambda *_, **__: said_after(9))
    records = saying.block(setting, {}, [0], count=1)
    assert [record["text"] for record in records] == WRITTEN
    assert [record["ended"] for record in records] == ["end", "stop", "maximum"]
    assert [bytes(record["tokens"]).decode() for record in records] == [
        TEXTS[0],
        "b\nUser:",
        TEXTS[2],
    ]
    assert [record["log_likelihood"] for record in records] == [-4.0, -3.5, -3.0]
    assert [record["sample"] for record in records] == [1, 2, 3]
