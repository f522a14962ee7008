"""A key forgets nothing: each of its parts, changed alone, makes another key."""

import json
from typing import Any

import numpy as np
import pytest

from ilo_jax.recipes import FORWARD, SCORES, TRAINING, Recipe, digest_of, key_of

IDS, FLAGS = np.arange(6, dtype=np.int32), np.array([True, False] * 3)
PARTS: dict[str, Any] = {
    "model": {"model.safetensors": "12", "tokenizer.json": "34"},
    "tokens": "56",
    "settings": {"dtype": "float32", "layers": (0, 1)},
}


def text(*recipes: Recipe, **change: Any) -> str:
    return json.dumps(key_of(*recipes, **PARTS | change), sort_keys=True)


OTHER = [
    {"model": {"model.safetensors": "12", "tokenizer.json": "35"}},
    {"model": {"model.safetensors": "12"}},
    {"tokens": "57"},
    {"settings": {"dtype": "bfloat16", "layers": (0, 1)}},
    {"settings": {"dtype": "float32", "layers": (1, 0)}},
    {"settings": {"dtype": "float32"}},
]


def test_each_part_changed_alone_makes_another_key():
    forward, raised = Recipe("forward", 5), Recipe("forward", 6)
    keys = [text(forward), text(raised), text(forward, SCORES), text(SCORES), text()]
    keys += [text(forward, **change) for change in OTHER]
    assert len({*keys}) == len(keys)
    assert text(forward) == text(Recipe("forward", 5))


def test_recipes_have_names_of_their_own():
    names = [recipe.name for recipe in (FORWARD, TRAINING, SCORES)]
    assert len({*names}) == 3


def test_parts_can_be_told_apart():
    key = key_of(FORWARD, TRAINING, **PARTS)
    assert key["recipes"] == {"forward": FORWARD.number, "training": TRAINING.number}
    assert key["model"] == PARTS["model"]
    assert (key["tokens"], key["dtype"]) == ("56", "float32")


def test_a_setting_must_not_hide_a_part():
    message = r"^a setting must not be named as a part of every key, got \['model', 'tokens'\]$"
    with pytest.raises(ValueError, match=message):
        key_of(model={}, tokens="", settings={"tokens": 1, "model": 2, "dtype": 3})


def test_a_digest_is_of_types_shapes_values_and_order():
    changed = IDS.copy()
    changed[3] += 1
    others = [
        [IDS, FLAGS],
        [FLAGS, IDS],
        [changed, FLAGS],
        [IDS, ~FLAGS],
        [IDS],
        [IDS.astype(np.int64), FLAGS],
        [IDS.reshape(2, 3), FLAGS],
        [IDS.reshape(3, 2), FLAGS],
        [IDS[:3], IDS[3:], FLAGS],
        [],
    ]
    digests = [digest_of(arrays) for arrays in others]
    assert len({*digests}) == len(digests)
    assert digests[0] == digest_of([np.repeat(IDS, 2)[::2], FLAGS])
    assert len(digests[0]) == 64
