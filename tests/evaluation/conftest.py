from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from tests.evaluation.material import VOCAB, tokenizer_of
from tests.models.variants import perturb


@pytest.fixture(scope="session")
def theirs() -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=len(VOCAB),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=96,
    )
    model = LlamaForCausalLM(config).eval()
    perturb(model, seed=0)
    return model


@pytest.fixture(scope="session")
def folder(theirs, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ours(folder) -> Transformer:
    return loading.load(open_folder(folder), mesh=make_mesh())


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of(bos_token="<s>", eos_token="</s>")
