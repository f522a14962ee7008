import itertools

import numpy as np
from tokenizers import normalizers

from ilo_jax.models.sample.charsmap import charsmap, double_array


def test_charsmap_replaces_what_it_is_told():
    rng = np.random.default_rng(0)
    alphabet = np.array([*"abcé～ｶ한😀\u0301 \u200b"])
    for _ in range(50):
        old = {str(c) for c in rng.choice(alphabet, 5)}
        replacements = {c: "".join(rng.choice(alphabet, rng.integers(4))) for c in sorted(old)}
        normalizer = normalizers.Precompiled(charsmap(replacements))
        for character in map(str, alphabet):
            assert normalizer.normalize_str(character) == replacements.get(character, character)


def test_double_array_holds_its_keys_and_no_other():
    keys = [bytes(key) for n in (1, 2, 3) for key in itertools.product((1, 2, 128, 255), repeat=n)]
    values = {key: index for index, key in enumerate(keys) if index % 3}
    array = double_array(values).tolist()
    assert {key: found for key in keys if (found := look_up(array, key)) is not None} == values


def look_up(array: list[int], key: bytes) -> int | None:
    base = array[0] >> 10
    unit = array[0]
    for byte in key:
        index = base ^ byte
        unit = array[index]
        if unit & (1 << 31 | 255) != byte:
            return None
        base = index ^ unit >> 10
    return array[base] & ~(1 << 31) if unit >> 8 & 1 else None
