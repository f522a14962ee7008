"""A fresh model is drawn as `transformers` draws one, kind by kind of weight, in every family."""

import copy
import dataclasses
import re
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM

from ilo_jax.models import parameters
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.hub.loading import load
from ilo_jax.models.initial import Init, spread
from ilo_jax.sharding import make_mesh
from tests.models.hub.families.rows import RAW
from tests.models.variants import UNLIKE, family, slow_but

STD = 0.05
"""No family's default, so that one that is not read is seen."""
WIDER = {
    "vocab_size": 512,
    "initializer_range": STD,
    "init_std": STD,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
TOLERANCE = 0.13
"""Of the ratio of two standard deviations of 1,000 normal numbers: 4 times its own."""


def raw_of(model_type: str) -> dict:
    """Return a config.json with a spread of its own, of a language model."""
    raw = RAW[model_type] | WIDER
    name = "init_std" if model_type in {"opt", "xglm"} else "initializer_range"
    others = {"init_std", "initializer_range"} - {name}
    encoder = not read_config({k: v for k, v in raw.items() if k not in others}).causal
    raw |= {"architectures": ["MineForMaskedLM"]} if encoder else {}
    padding = {"pad_token_id": 1} if model_type in {"roberta", "xlm-roberta", "xglm"} else {}
    others.add("rope_scaling")  # of which theirs wants more than the smallest config.json has
    return {k: v for k, v in raw.items() if k not in others} | padding


def kinds(arrays: parameters.Weights) -> dict[str, np.ndarray]:
    """Return all values of each kind of weight, those of all blocks together."""
    found = defaultdict(list)
    for path, array in arrays.items():
        found[re.sub(r"\d+", "*", path)].append(np.asarray(array, np.float64).ravel())
    return {kind: np.concatenate(values) for kind, values in found.items()}


def by_transformers(raw: dict, folder: Path) -> parameters.Weights:
    """Return the weights of a fresh model of theirs, by our paths."""
    torch.manual_seed(0)
    auto = AutoModelForCausalLM if read_config(raw).causal else AutoModelForMaskedLM
    known = {name: value for name, value in copy.deepcopy(raw).items() if name != "model_type"}
    auto.from_config(AutoConfig.for_model(raw["model_type"], **known)).save_pretrained(folder)
    return parameters.weights(load(open_folder(folder), mesh=make_mesh(data=1)))


@pytest.mark.parametrize("model_type", slow_but({family(variant) for variant in UNLIKE}, RAW))
def test_every_kind_of_weight_is_drawn_as_theirs(model_type, tmp_path):
    raw = raw_of(model_type)
    model = parameters.build(read_config(raw), dtype=jnp.float32, rngs=nnx.Rngs(0))
    ours = kinds(parameters.weights(model))
    theirs = kinds(by_transformers(raw, tmp_path))
    assert ours.keys() == theirs.keys()
    for kind, values in ours.items():
        expected = theirs[kind]
        if not expected.std():
            np.testing.assert_array_equal(values, expected, err_msg=kind)
        elif len(values) >= 1000:
            assert abs(values.std() / expected.std() - 1) <= TOLERANCE, kind
            assert abs(values.mean()) <= TOLERANCE * values.std(), kind
        else:  # token types
            assert abs(values.std() / STD - 1) <= 0.5, kind


def test_residual_projections_are_narrower_by_depth():
    init = read_config(RAW["gpt2"] | {"initializer_range": 0.04}).init
    assert spread(init, "layers/3/attn/o/kernel", layers=8) == pytest.approx(0.01)
    assert spread(init, "layers/0/mlp/down/kernel", layers=8) == pytest.approx(0.01)
    assert spread(init, "layers/3/attn/q/kernel", layers=8) == 0.04
    assert spread(init, "embed/tokens/embedding", layers=8) == 0.04


def test_spread_cannot_be_negative():
    with pytest.raises(ValueError, match=r"^the spread of initial weights must be at least 0, got"):
        Init(std=-0.02)


def test_a_weight_depends_on_its_path_and_not_on_the_other_weights():
    config = read_config(RAW["llama"])
    deeper = dataclasses.replace(config, blocks=config.blocks * 2)
    few, many = (
        parameters.weights(parameters.build(c, dtype=jnp.float32, rngs=nnx.Rngs(7)))
        for c in (config, deeper)
    )
    assert few.keys() < many.keys()
    assert all(np.array_equal(array, many[path]) for path, array in few.items())
    matrices = [array for path, array in many.items() if path.endswith("gate/kernel")]
    assert not np.array_equal(matrices[0], matrices[1])


def test_bfloat16_is_rounded_from_the_same_numbers():
    config = read_config(RAW["llama"])
    wide, narrow = (
        parameters.weights(parameters.build(config, dtype=dtype, rngs=nnx.Rngs(0)))
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    rounded = jax.tree.map(lambda array: array.astype(jnp.bfloat16), wide)
    assert all(np.array_equal(narrow[path], array) for path, array in rounded.items())
