"""Tokenizers of the two kinds that decoders have, with tokens that end within characters."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


def byte_level() -> PreTrainedTokenizerFast:
    """Bytes and longer tokens, as GPT-2 writes them: U+0120 is a space, U+010A ends a line."""
    longer = "st op stop opĠ Ċ Ġs pĊ topp sto ĊĊ ða ä½ ¸Ģ Ġä ½ł Ã©".split()
    vocab = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *longer, "ping pong", *SPECIAL.values()]
    return _tokenizer(vocab, decoders.ByteLevel())


def byte_fallback() -> PreTrainedTokenizerFast:
    """Words with U+2581 for the space before them, and a token for each byte, as Llama 2 has."""
    longer = "s t o p st op ▁stop ▁s top ▁ ▁▁ 你 é ▁é \n <0xZZ> <0x4 pp".split(" ")
    vocab = [*(f"<0x{byte:02X}>" for byte in range(256)), *longer, *SPECIAL.values()]
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    return _tokenizer(vocab, decoders.Sequence([*parts, decoders.Strip(" ", left=1)]))


def _tokenizer(vocab: list[str], decoder: decoders.Decoder) -> PreTrainedTokenizerFast:
    numbers = {token: id for id, token in enumerate(dict.fromkeys(vocab))}
    words = Tokenizer(models.BPE(numbers, [], byte_fallback=True))
    words.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL)
