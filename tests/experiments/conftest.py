from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a random two-block BERT, every weight perturbed, that reads bytes."""
    folder = tmp_path_factory.mktemp("tiny")
    alphabet = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    config = BertConfig(
        vocab_size=len(alphabet),
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=96,
    )
    torch.manual_seed(0)
    model = BertModel(config, add_pooling_layer=False)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn_like(weight)
    model.save_pretrained(folder)
    words = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> Path:
    """A folder of six made-up languages with twelve sentences each."""
    folder = tmp_path_factory.mktemp("text")
    rng = np.random.default_rng(0)
    for code in ("aaa_Latn", "bbb_Latn", "ccc_Latn", "ddd_Latn", "eng_Latn", "deu_Latn"):
        lines = ["".join(rng.choice(list("abcdefg hij"), 30)).strip() + "x" for _ in range(12)]
        (folder / f"{code}.txt").write_text("\n".join(lines) + "\n")
    return folder
