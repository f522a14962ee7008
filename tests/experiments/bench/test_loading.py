"""What is timed is the same work: both ways end with the checkpoint's values."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.bench import loading as bench_loading


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(
        bench_loading,
        "RAW",
        bench_loading.RAW
        | {
            "vocab_size": 50,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
        },
    )
    return tmp_path, bench_loading.write_checkpoint(tmp_path, gib=2e-4)


def test_checkpoint_is_of_the_size_asked_for(checkpoint):
    folder, size = checkpoint
    assert size == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    assert 0.8 < size / 2**30 / 2e-4 < 1.2


def test_both_loaders_give_all_the_values(checkpoint):
    folder, size = checkpoint
    for load in bench_loading.LOADERS.values():
        arrays = load(folder)
        assert sum(array.nbytes for array in arrays) == size
        total = sum(np.asarray(array, np.float64).sum() for array in arrays)
        files = load_file(folder / "model.safetensors").values()
        assert total == pytest.approx(sum(t.astype(np.float64).sum() for t in files))


def test_peak_is_at_least_the_checkpoint(checkpoint):
    folder, size = checkpoint
    assert bench_loading.peak("ours", folder) > size
