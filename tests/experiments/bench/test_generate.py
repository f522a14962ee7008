"""What is timed is the same work, and the floor counts what is needed."""

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.bench import generate
from ilo_jax.models.hub.folder import open_folder
from tests.models.variants import RMS, TIED, perturb

SIZES: dict[str, Any] = RMS | TIED


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    perturb(model, seed=0)
    folder = tmp_path_factory.mktemp("llama")
    model.save_pretrained(folder)
    return generate.work(open_folder(folder), batch=2, prompt=5, said=7)


def test_both_say_the_same_tokens(given):
    ours, theirs = (generate.MAKE[name](given)() for name in generate.SPEAKERS)
    assert ours.shape == (2, 7)
    np.testing.assert_array_equal(ours, theirs)


def test_the_floor_is_of_every_weight_and_product(given):
    config = given.folder.config
    block = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    weights = 64 * 32 + 2 * (block + 2 * 32) + 32
    reads = generate.floor(given, read=1.0, multiply=np.inf)
    assert reads == 7 * 4 * weights
    pairs = 2 * 2 * 4 * 8 * 11 * 11
    products = 2 * 2 * 11 * 2 * block + 2 * 2 * pairs + 2 * 2 * 7 * config.vocab * 32
    assert generate.floor(given, read=np.inf, multiply=1.0) == products
