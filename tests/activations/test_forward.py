import jax
import numpy as np
import pytest

from ilo_jax.activations.forward import naming_what_to_change
from ilo_jax.corpora.packing import as_sentences, fill, plan

SENTENCES = as_sentences([[1, 2, 3]])
ROWS = fill(SENTENCES, plan(SENTENCES.lengths, row_length=256), row_length=256)


def test_too_little_memory_names_what_to_change():
    message = (
        r"too little device memory for 1 rows of 256 tokens; try a smaller batch_tokens, "
        r"dtype=bfloat16 .*model_parallel, fsdp\): RESOURCE_EXHAUSTED"
    )
    with pytest.raises(MemoryError, match=message), naming_what_to_change(ROWS):
        jax.block_until_ready(jax.jit(lambda x: jax.numpy.ones((10**5, 10**7)) + x)(1.0))


def test_other_failures_are_left_alone():
    def fail(x: np.ndarray) -> np.ndarray:
        raise ValueError("planted")

    like = jax.ShapeDtypeStruct((), np.float32)
    with pytest.raises(jax.errors.JaxRuntimeError, match="planted"), naming_what_to_change(ROWS):
        jax.block_until_ready(jax.jit(lambda x: jax.pure_callback(fail, like, x))(1.0))
