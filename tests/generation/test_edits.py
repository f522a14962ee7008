import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax.activations.taps import SITES
from ilo_jax.generation.edits import INSIDE, KINDS, LAST, POSITIONS, SAID, Edit, held, holding
from ilo_jax.models import parameters
from ilo_jax.models.hub.families import read_config
from ilo_jax.models.sites import unvisited, widths
from tests.models.reading import rows_of
from tests.models.variants import RMS

CONFIG = read_config(RMS | {"model_type": "llama", "hidden_act": "silu"})
STAGES = np.array([[INSIDE, INSIDE, LAST], [INSIDE, LAST, SAID]])


def edited(rows: list[list[Edit]], site: str, layer: int, value: np.ndarray) -> np.ndarray:
    """What a value becomes at a site, at the stages of `STAGES`."""
    visit = holding(held(rows, CONFIG), jnp.asarray(STAGES))
    found, shown = visit.do(site, visit.given[site, layer], jnp.asarray(value))
    assert shown is None
    return np.asarray(found)


def by_hand(edit: Edit, value: np.ndarray) -> np.ndarray:
    """One position's value, in plain words."""
    units = slice(None) if edit.units is None else list(edit.units)
    whole, now = value.copy(), value[units]
    values = np.asarray(edit.values, np.float32)
    shaped = values if values.ndim == 0 else values.reshape(now.shape)
    made = {"set": shaped + 0 * now, "add": now + shaped, "scale": now * shaped, "zero": 0 * now}
    whole[units] = now + edit.strength * (made[edit.kind] - now)
    return whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_an_edit_is_made_at_its_units_and_positions_in_its_row(kind, positions):
    value = np.random.default_rng(0).normal(size=(2, 3, 48)).astype(np.float32)
    edit = Edit(site="neurons", layer=1, kind=kind, units=[3, 7], values=2.5, positions=positions)
    found = edited([[], [edit]], "neurons", 1, value)
    np.testing.assert_array_equal(found[0], value[0])
    for seq in range(3):
        here = STAGES[1, seq] in POSITIONS[positions]
        wanted = by_hand(edit, value[1, seq]) if here else value[1, seq]
        np.testing.assert_allclose(found[1, seq], wanted, rtol=1e-6)
        assert not here or (found[1, seq] != value[1, seq]).sum() == 2


@pytest.mark.parametrize(
    ("site", "units", "values", "strength"),
    [
        ("residual", None, np.arange(32.0), 1.0),
        ("heads", [2], 0.5, 1.0),
        ("heads", [0, 3], np.arange(16.0), -2.0),
        ("values", [1], np.ones((1, 8)), 0.25),
        ("mlp/up/output", [47], 3.0, 0.0),
    ],
)
def test_vectors_heads_and_strengths(site, units, values, strength):
    shape = widths(CONFIG)[site, 0]
    value = np.random.default_rng(0).normal(size=(2, 3, *shape)).astype(np.float32)
    for kind in KINDS:
        edit = Edit(site=site, layer=0, kind=kind, units=units, values=values, strength=strength)
        found = edited([[edit], []], site, 0, value)
        wanted = np.stack([by_hand(edit, one) for one in value[0]])
        np.testing.assert_allclose(found[0], wanted, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[1], value[1])


def test_edits_of_a_row_are_made_in_turn():
    value = np.ones((2, 3, 48), np.float32)
    place: dict[str, Any] = {"site": "neurons", "layer": 0, "units": [5]}
    add = Edit(**place, kind="add", values=2.0)
    double = Edit(**place, kind="scale", values=2.0, positions="last")
    found = edited([[add, double], [double, add]], "neurons", 0, value)[:, :, 5]
    # STAGES say where the last positions are.
    np.testing.assert_array_equal(found, [[3, 3, 6], [3, 4, 4]])


def test_arrays_are_there_for_every_site_asked_for():
    """So that batches with other edits have the same structure."""
    at = [("neurons", layer) for layer in range(2)]
    one = Edit(site="neurons", layer=1, kind="zero")
    nothing, something = held([[], []], CONFIG, at=at), held([[one], []], CONFIG, at=at)
    assert jax.tree.structure(nothing) == jax.tree.structure(something)
    assert list(nothing) == at
    assert (nothing["neurons", 0].scale == 1).all()
    assert (something["neurons", 1].scale[:, 0] == 0).all()


def test_where_nobody_edits_the_program_is_the_same():
    assert held([[], []], CONFIG) == {}


def test_the_empty_edit_changes_no_bit(ours):
    """At all sites with names of their own at once; what is not edited is only chosen from."""
    model = ours("llama-mha")
    assemble = parameters.assembler(model.config, model.mesh, dtype=model.dtype)
    tokens = np.random.default_rng(0).integers(2, 64, (2, 16))
    seq = np.broadcast_to(np.arange(16), (2, 16))
    rows = rows_of(*map(jnp.asarray, (tokens, seq, np.ones_like(tokens))))
    sites = (*SITES, "keys", "values")
    at = [(site, layer) for site, layer in widths(model.config) if site in sites]
    nothing = holding(held([[], []], model.config, at=at), jnp.full((2, 16), SAID))

    def final(weights, visit):
        return assemble(weights).run(rows, visit=visit).value

    weights = parameters.weights(model)
    visited = jax.jit(lambda w, given: final(w, nothing._replace(given=given)))
    plain = jax.jit(lambda w: final(w, unvisited))
    np.testing.assert_array_equal(visited(weights, nothing.given), plain(weights))


def test_edits_that_the_model_has_no_place_for_are_refused_at_once():
    edit = Edit(site="neurons", layer=0, kind="set", units=[0])
    wrong = [
        dataclasses.replace(edit, site="mlp"),
        dataclasses.replace(edit, layer=2),
        dataclasses.replace(edit, units=[3, 48, -1]),
        dataclasses.replace(edit, kind="clamp"),
        dataclasses.replace(edit, positions="first"),
        dataclasses.replace(edit, units=[1, 2, 3], values=[1.0, 2.0]),
    ]
    with pytest.raises(ValueError, match=r"^an edit must be at a site, layer and units") as error:
        held([[edit], wrong], CONFIG)
    said = str(error.value).split("\n  ")[1:]
    assert [line.split(":")[0] for line in said] == ["mlp@0", "neurons@2", *["neurons@0"] * 4]
    assert said[1].endswith("its blocks 0 to 1")
    assert said[2] == "neurons@0: units are 0 to 47, not 48, -1"
    assert said[3] == "neurons@0: a kind of set, add, scale, zero is needed, not 'clamp'"
    assert said[4].endswith("positions of all, prompt, last, generated are needed, not 'first'")
    assert said[5] == "neurons@0: 1 or 3 values are needed, not 2"
