"""What each token adds to a text, in bytes: tokens end within characters, bytes do not."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BEFORE = "a"
"""A token after which others are decoded: what is put at the start of a text is not theirs."""
SHOWN = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""Bytes that a byte-level token writes as the character of their own number."""
HIDDEN = [byte for byte in range(256) if byte not in SHOWN]
"""Those that it writes as the characters from 256 on, such as a space as U+0120."""
ALPHABET = {chr(byte): byte for byte in SHOWN} | {chr(256 + n): b for n, b in enumerate(HIDDEN)}
"""The byte that each character of a byte-level token stands for (GPT-2)."""


def pieces(tokenizer: "PreTrainedTokenizerBase", *, vocab: int) -> list[bytes]:
    """Bytes that each token adds to a text, by id: those of all tokens, joined, are the text.

    They are what the tokenizer decodes after another token, so with the space before a word; of
    the bytes that byte-level tokens and byte tokens (<0xE2>) stand for none is lost. Special
    tokens, and ids that the tokenizer has no token for, add nothing.

    Args:
        tokenizer: Of the model.
        vocab: How many token ids the model has.
    """
    special = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    silent = special.union(tokenizer.all_special_ids)
    piece, found = _reading(tokenizer), [b""] * vocab
    for token, id in tokenizer.get_vocab().items():
        if id < vocab and id not in silent:
            found[id] = piece(token)
    return found


def _reading(tokenizer: "PreTrainedTokenizerBase") -> Callable[[str], bytes]:
    """What gives the bytes of a token, by how the tokenizer decodes."""
    start = tokenizer.convert_tokens_to_string([BEFORE])

    def after_another(token: str) -> bytes:
        return tokenizer.convert_tokens_to_string([BEFORE, token]).removeprefix(start).encode()

    def of_byte_token(token: str) -> bytes:
        match = re.fullmatch("<0x([0-9A-Fa-f]{2})>", token)
        return bytes.fromhex(match[1]) if match else after_another(token)

    if after_another("\u0120") == b" ":
        return _of_byte_level
    return of_byte_token if after_another("<0x41>") == b"A" else after_another


def _of_byte_level(token: str) -> bytes:
    known = ALPHABET.keys() >= set(token)
    return bytes(ALPHABET[character] for character in token) if known else token.encode()
