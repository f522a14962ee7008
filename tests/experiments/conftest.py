import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from absl import flags
from absl.testing import flagsaver
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from experiments import launch
from experiments.finetune.config import Config


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a job run as a program would, and leave this process as it was."""
    monkeypatch.setattr("absl.app._run_init.done", True, raising=False)  # sets up logs, faults
    monkeypatch.setattr(launch, "CHATTY", ())
    monkeypatch.setattr(launch, "_keep_compiled", lambda: None)
    monkeypatch.setattr(os, "_exit", sys.exit)  # how one of several processes ends
    with flagsaver.flagsaver():
        yield
    flags.FLAGS.set_gnu_getopt(False)
    flags.FLAGS.unparse_flags()


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


@pytest.fixture(scope="session")
def decoder(tmp_path_factory) -> Path:
    """A folder with a random three-block Llama, tied, every weight perturbed, that reads bytes."""
    folder = tmp_path_factory.mktemp("decoder")
    alphabet = {byte: i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()), 1)}
    words = Tokenizer(models.BPE(vocab=alphabet | {"<eos>": 0}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(alphabet) + 1,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=48,
        max_position_embeddings=256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def paragraphs(tmp_path_factory) -> Path:
    """A text of 120 paragraphs of made-up words."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 4)) for _ in range(20)]
    found = [" ".join(rng.choice(words, 25)) for _ in range(120)]
    file = tmp_path_factory.mktemp("paragraphs") / "text.txt"
    file.write_text("\n\n".join(found) + "\n")
    return file


@pytest.fixture(scope="session")
def learning(decoder, paragraphs) -> Config:
    """A training of the decoder on the paragraphs, two parts of eight rows a step."""
    return Config(model=str(decoder), text=str(paragraphs), rows=16, rows_at_once=8, row_length=128)
