"""A tokenizer of bytes, with a merge and special tokens."""

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora.packing import Sentences

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
VOCAB = {byte: i for i, byte in enumerate(BYTES)} | {"<s>": 256, "</s>": 257, "ab": 258}
BOS, EOS = VOCAB["<s>"], VOCAB["</s>"]


def tokenizer_of(*, template: str = "$A", **special: str) -> PreTrainedTokenizerFast:
    """Bytes, but for a merge of a and b, with these special tokens put around a text."""
    words = Tokenizer(models.BPE(vocab=VOCAB, merges=[("a", "b")]))
    words.normalizer = normalizers.Replace("\u200b", "")
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens = [("<s>", BOS), ("</s>", EOS)]
    words.post_processor = TemplateProcessing(single=template, special_tokens=tokens)
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def split(sentences: Sentences) -> list[tuple[list[int], list[bool]]]:
    """Tokens of each sentence, and which of them are given."""
    ends = np.cumsum(sentences.lengths)[:-1]
    parts = zip(np.split(sentences.tokens, ends), np.split(~sentences.target, ends), strict=True)
    return [(tokens.tolist(), given.tolist()) for tokens, given in parts]
