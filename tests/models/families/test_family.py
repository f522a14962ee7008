import dataclasses
import json
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

from ilo_jax.models import parameters
from ilo_jax.models.families import FAMILIES, family_of, read_config
from ilo_jax.models.families.facts import Facts
from ilo_jax.models.families.family import Family, Place, places
from ilo_jax.models.families.reading import REQUIRED
from ilo_jax.models.families.rotary import Rotary
from ilo_jax.models.placement import LEAVES

RELEASED = json.loads((Path(__file__).parents[1] / "released.json").read_text())
ROWS = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
FIELDS = {field.name: field for kind in (Facts, Rotary) for field in dataclasses.fields(kind)}
NEEDED = {
    name
    for name, field in FIELDS.items()
    if field.default is field.default_factory is dataclasses.MISSING
} - {"rotary"}


def facts_of(family: Family) -> list[str]:
    """Return the facts that the keys of a family become."""
    return [fact for key in family.keys.values() for fact in key.facts.split()]


def test_places_share_nothing():
    assert places({"norm": "model.norm"}) == {"norm": Place("model.norm", "", inputs_first=False)}


@ROWS
def test_every_fact_is_one_of_the_vocabulary(family):
    assert set(facts_of(family)) | set(family.facts) <= set(FIELDS)


@ROWS
def test_every_needed_fact_is_given(family):
    assert set(facts_of(family)) | set(family.facts) >= NEEDED


@ROWS
def test_every_fact_is_given_once(family):
    facts = facts_of(family)
    assert len(facts) == len(set(facts))
    assert not set(facts) & set(family.facts)


@ROWS
def test_every_name_is_that_of_one_key(family):
    names = [name for own, key in family.keys.items() for name in (own, *key.also)]
    assert len(names) == len(set(names))


@ROWS
def test_defaults_are_accepted_values(family):
    for name, key in family.keys.items():
        if key.default is not REQUIRED and key.default is not None and key.default != {}:
            assert key.problem(key.default) is None, name


@ROWS
def test_only_heads_stand_outside_the_prefix(family):
    outside = {
        ours for ours, place in family.names.items() if not place.module.startswith(family.prefix)
    }
    assert all(ours.startswith("head") for ours in outside)
    assert all(place.module.count("*") == ours.count("*") for ours, place in family.names.items())


EXAMPLES = pytest.mark.parametrize(
    "name", {raw["model_type"]: name for name, raw in RELEASED.items()}.values()
)


def tensors_of(name: str) -> dict[str, list[Place]]:
    """Return the places that share each tensor of a released model's embedding, block and head."""
    family, config = family_of(RELEASED[name]), read_config(RELEASED[name])
    config = dataclasses.replace(config, blocks=config.blocks[:1])
    tensors: dict[str, list[Place]] = {}
    for path in parameters.shapes(parameters.abstract(config, dtype=jnp.float32)):
        module, _, leaf = path.rpartition("/")
        place = family.names[module.replace("layers/0", "layers/*")]
        tensor = f"{place.module.replace('*', '0')}.{LEAVES[leaf]}"
        tensors.setdefault(tensor, []).append(place)
    return tensors


@EXAMPLES
def test_no_tensor_of_ours_is_ignored(name):
    family = family_of(RELEASED[name])
    for tensor in tensors_of(name):
        for spelling in (tensor, tensor.removeprefix(family.prefix)):
            assert not [p for p in family.ignored if re.fullmatch(p, spelling)], tensor


@EXAMPLES
def test_only_fused_modules_share_a_tensor(name):
    for tensor, shared in tensors_of(name).items():
        (fused,) = {place.fused for place in shared}
        assert (len(shared) > 1) == (fused != ""), tensor


# Which family


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_family_by_the_model_type(model_type):
    assert family_of({"model_type": model_type}) is FAMILIES[model_type]


@pytest.mark.parametrize(
    ("raw", "got"),
    [
        ({"model_type": "mamba"}, "'mamba'"),
        ({"model_type": "LLAMA"}, "'LLAMA'"),
        ({}, "None"),
        ({"model_type": 3}, "3"),
        ({"model_type": ["llama"]}, r"['llama']"),
    ],
)
def test_unknown_model_type_is_refused(raw, got):
    message = f"model_type must be one of {sorted(FAMILIES)}, got {got}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        family_of(raw)


@pytest.mark.parametrize("model_type", ["mamba", None, *sorted(set(FAMILIES) - {"phi3"})])
def test_remote_code_is_refused(model_type):
    raw = {"model_type": model_type, "auto_map": {"AutoModel": "modeling.Mine"}}
    message = "config.json has auto_map: its model needs remote code, which is never run"
    with pytest.raises(ValueError, match=f"^{message}$"):
        read_config(raw)


def test_remote_code_of_phi3_is_left_aside():
    raw = RELEASED["microsoft/Phi-3-mini-4k-instruct"]
    assert raw["auto_map"]
    assert read_config(raw) == read_config({k: v for k, v in raw.items() if k != "auto_map"})
