import struct

import numpy as np

from ilo_jax.models.sample.e5_container import dequantise, parse


def test_dequantise_is_the_blocks_by_hand():
    rng = np.random.default_rng(0)
    blocks = [(float(s), rng.integers(0, 256, 16).tolist()) for s in rng.normal(size=7)]
    packed = b"".join(struct.pack("<e16B", scale, *data) for scale, data in blocks)
    expected = []
    for scale, data in blocks:
        half = float(np.float16(scale))
        expected += [(byte % 16 - 8) * half for byte in data]
        expected += [(byte // 16 - 8) * half for byte in data]
    got = dequantise(np.frombuffer(packed, np.uint8))
    assert got.dtype == np.float32
    assert got.tolist() == expected


def test_parse_takes_the_file_apart():
    weights = np.arange(6, dtype="<f4")
    text = "<s>▁añb".encode()
    ends = [0, 3, 3 + len("▁añ".encode()), len(text)]
    head = b"E5S1" + struct.pack("<I7ifi", 1, 4, 1, 2, 8, 3, 16, 2, 1e-12, 32)
    tokenizer = struct.pack("<5iQ", 3, 0, 2, 1, 3, len(text)) + struct.pack("<4I", *ends)
    tokenizer += struct.pack("<3f", 0.0, -1.5, -2.25) + text
    entries = struct.pack("<IB1I", ord("ﬁ"), 1, ord("f")) + struct.pack("<IB", 7, 0)
    normalizer = struct.pack("<iI", 2, len(entries)) + entries
    name = b"emb.pos"
    directory_size = 4 + 2 + len(name) + 1 + 4 + 8 + 8
    offset = len(head) + len(tokenizer) + len(normalizer) + directory_size
    directory = struct.pack("<iH", 1, len(name)) + name + struct.pack("<BIQQ", 0, 6, offset, 24)
    container = parse(head + tokenizer + normalizer + directory + weights.tobytes())
    assert container.sizes[:7] == (4, 1, 2, 8, 3, 16, 2)
    assert container.pieces == [("<s>", 0.0), ("▁añ", -1.5), ("b", -2.25)]
    assert container.replacements == {"ﬁ": "f", "\x07": ""}
    np.testing.assert_array_equal(container.tensors["emb.pos"], weights)
