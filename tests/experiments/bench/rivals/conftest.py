import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from experiments.bench.rivals.work import Work, prepare
from experiments.settings import Source

SENTENCES = 5


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


@pytest.fixture(scope="module", params=["tiny", pytest.param("tiny_llama", marks=pytest.mark.slow)])
def work(request, text, tmp_path_factory) -> Work:
    folder = request.getfixturevalue(request.param)
    return prepare(
        Source(model=str(folder), corpus=str(text), sentences=SENTENCES, batch_tokens=512),
        random=None,
        dtype="float32",
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
