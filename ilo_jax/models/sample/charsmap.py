"""sentencepiece's precompiled charsmap: the normalizer of a tokenizer, as one table."""

import itertools
import struct

import numpy as np
from jaxtyping import UInt32


def charsmap(replacements: dict[str, str]) -> bytes:
    """`replacements` as sentencepiece's precompiled charsmap.

    That is the trie's size in bytes, the trie (see `double_array`), and the new strings, each ended
    by a zero byte; the trie's values are the offsets of these strings.
    """
    new = {string: string.encode() + b"\0" for string in sorted(set(replacements.values()))}
    ends = itertools.accumulate(map(len, new.values()), initial=0)
    offsets = dict(zip(new, ends, strict=False))
    trie = double_array({old.encode(): offsets[string] for old, string in replacements.items()})
    return struct.pack("<I", trie.nbytes) + trie.tobytes() + b"".join(new.values())


def double_array(values: dict[bytes, int]) -> UInt32[np.ndarray, " unit"]:
    """A double-array trie in the units of darts-clone, which sentencepiece uses.

    The unit of a node has its label (the byte that leads to it) in bits 0 to 7, in bit 8 whether a
    key ends there, and from bit 10 its own index XOR its base. A child with label c is at base
    XOR c; a value at base XOR 0, with bit 31 set. No two nodes may share a base.
    """
    units = {0: 0}
    base = 0
    nodes = [(0, _tree(values))]
    for index, children in nodes:
        base = _free_base(units, children, base + 1)
        units[index] |= (index ^ base) << 10 | (0 in children) << 8
        for label, child in children.items():
            units[base ^ label] = child | 1 << 31 if label == 0 else label
        nodes.extend((base ^ label, child) for label, child in children.items() if label)
    array = np.zeros((max(units) | 255) + 1, "<u4")  # a lookup may touch all of a base's 256
    array[list(units)] = list(units.values())
    return array


def _tree(values: dict[bytes, int]) -> dict:
    """Nested dicts by byte; a key's value stands under 0."""
    root = {}
    for key, value in values.items():
        node = root
        for byte in key:
            node = node.setdefault(byte, {})
        node[0] = value
    return root


def _free_base(units: dict[int, int], labels: dict, start: int) -> int:
    bases = itertools.count(start)
    return next(base for base in bases if not any(base ^ label in units for label in labels))
