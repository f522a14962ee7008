"""The whole job on every family as `transformers` saves it, tokenizer included, unedited."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float

from experiments.ilo import Config, measure
from experiments.launch import Run
from experiments.states import open_model, read_corpus, stored_states
from ilo_jax.models.hub.families import FAMILIES
from tests.models import saved

TOLERANCE = 2e-5
"""Of the largest value of a hidden state."""


def pooled(model: Any, tokenizer: Any, texts: list[str]) -> Float[np.ndarray, "layer point dim"]:
    """Return the mean over each sentence's tokens of every hidden state, by torch."""
    points = []
    for text in texts:
        tokens = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = model(tokens, output_hidden_states=True).hidden_states
        points.append([state[0].double().mean(0).numpy() for state in states])
    return np.array(points).swapaxes(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FAMILIES)
def test_the_job_runs_on_a_saved_folder(model_type: str, tmp_path: Path):
    model, tokenizer = saved.save(model_type, tmp_path)
    config = Config(
        model=str(tmp_path),
        languages=",".join(saved.LANGUAGES),
        sentences=6,
        batch_tokens=1024,
        permutations=2,
        draws=2,
    )
    run = Run(tmp_path / "run")
    scores = measure(config, run)
    left = json.loads((run.workdir / "config.json").read_text())
    assert left["config"]["model"] == str(tmp_path)
    assert {"scores.csv", "ilo.png"} <= {file.name for file in run.workdir.iterdir()}
    stored = stored_states(
        config, open_model(config), read_corpus(config), run, taps="residual:mean"
    )
    ours = [state.reshape(24, -1) for state in stored.hidden_states(doing="comparing")]
    theirs = pooled(model, tokenizer, saved.sentences(6))
    assert len(ours) == len(theirs) == len(scores.ilo)
    for state, expected in zip(ours, theirs, strict=True):
        assert np.abs(state - expected).max() <= TOLERANCE * np.abs(expected).max()
