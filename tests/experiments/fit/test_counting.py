import dataclasses

import pytest

from experiments.fit.counting import activations
from experiments.fit.suggestions import abstract_mesh
from ilo_jax.models.hub.folder import open_folder


@pytest.fixture(scope="module")
def llama(decoder):
    return open_folder(decoder).config


def test_what_lies_over_model_is_shared_and_the_models_width_is_not(llama):
    dim, inside = 32, (4 + 2 * 2) * 8 + 3 * 48
    assert activations(llama, abstract_mesh(8, model=1), fsdp=False).token == 4 * dim + inside
    assert activations(llama, abstract_mesh(8, model=4), fsdp=False).token == 4 * dim + inside // 4


def test_of_weights_one_block_is_cast_and_under_fsdp_a_table_is_gathered(llama):
    block = 32 * ((2 * 4 + 2 * 2) * 8 + 3 * 48)
    mesh = abstract_mesh(8, model=2)
    assert activations(llama, mesh, fsdp=False).weights == block // 2
    assert activations(llama, mesh, fsdp=True).weights == max(block, 257 * 32) // 2
    embedding = dataclasses.replace(llama.embedding, vocab=2000)
    wide = dataclasses.replace(llama, embedding=embedding)
    assert activations(wide, mesh, fsdp=True).weights == 2000 * 32 // 2
