"""Callers' meshes may have Explicit axes, which `jax.make_mesh` gives them by default."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ilo_jax.metrics import ilo, nearest, tally
from ilo_jax.metrics.neighbors.meshes import automatic, automatic_mesh, varying_like
from ilo_jax.sharding import make_mesh

STATES = np.random.default_rng(0).standard_normal((8, 16, 8)).astype(np.float32)
SPLITS = [(), ("data",), (None, "data"), (None, None, "data")]


def slow_but(quick):
    return [s if s == quick else pytest.param(s, marks=pytest.mark.slow) for s in SPLITS]


@pytest.fixture
def explicit():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    assert mesh.axis_types == (AxisType.Explicit,) * 2
    return mesh


def same(scores, expected):
    assert not expected.uncertain.any()
    jax.tree.map(np.testing.assert_array_equal, scores, expected)


def test_axes_become_automatic_and_nothing_else(explicit):
    mesh = automatic_mesh(explicit)
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert mesh.shape == explicit.shape
    assert (mesh.devices == explicit.devices).all()


@pytest.mark.parametrize("split", SPLITS)
def test_arrays_stay_where_they_are(explicit, split):
    given = jax.device_put(STATES, NamedSharding(explicit, PartitionSpec(*split)))
    found = automatic(given)
    assert isinstance(found.sharding, NamedSharding)
    assert found.sharding.mesh.axis_types == (AxisType.Auto,) * 2
    assert [s.data.unsafe_buffer_pointer() for s in found.addressable_shards] == [
        s.data.unsafe_buffer_pointer() for s in given.addressable_shards
    ]


def test_arrays_on_no_mesh_are_left_alone():
    points = jnp.asarray(STATES)
    assert automatic(points) is points

    @jax.jit
    def inside(points):
        assert automatic(points) is points
        return points

    inside(points)


@pytest.mark.parametrize("split", slow_but((None, "data")))
def test_explicit_states_and_mesh_score_the_same(explicit, split):
    given = jax.device_put(STATES, NamedSharding(explicit, PartitionSpec(*split)))
    expected = ilo(jnp.asarray(STATES))
    same(ilo(given, mesh=explicit), expected)
    same(ilo(given), expected)


def test_explicit_labels_and_left_out_points(explicit):
    split = NamedSharding(explicit, PartitionSpec("data"))
    labels = jax.device_put(np.repeat(np.arange(8), 16), split)
    usable = jax.device_put(np.ones(128, bool), split)
    points = jax.device_put(STATES.reshape(128, 8), split)
    expected = ilo(jnp.asarray(STATES))
    same(ilo(points, languages=labels, num_languages=8, mesh=explicit), expected)
    neighbors = nearest(points, k=5, usable=usable, mesh=explicit)
    same(tally(neighbors, labels, num_languages=8, min_languages=3), expected)


def test_traced_on_explicit_axes_is_refused(explicit):
    given = jax.device_put(STATES, NamedSharding(explicit, PartitionSpec("data")))
    with pytest.raises(ValueError, match=r"must be of type Auto .*, got .*Explicit"):
        jax.jit(lambda states: ilo(states, mesh=explicit))(given)


@pytest.mark.parametrize("split", slow_but(("data",)))
def test_traced_on_automatic_axes(explicit, split):
    mesh = automatic_mesh(explicit)
    given = jax.device_put(STATES, NamedSharding(mesh, PartitionSpec(*split)))
    found = jax.jit(lambda states: ilo(states, mesh=mesh))(given)
    same(found, ilo(jnp.asarray(STATES)))


@pytest.mark.parametrize("dtype", [np.float32, np.int32, bool])
def test_constants_vary_as_what_they_stand_beside(dtype):
    mesh = make_mesh(data=8)
    constant = np.array([0, 1], dtype)

    def add_up(like):
        none = varying_like(jnp.asarray(constant), like)
        return jax.lax.fori_loop(0, 2, lambda _, x: jnp.maximum(x, like[0].astype(dtype)), none)

    split = PartitionSpec("data")
    found = jax.shard_map(add_up, mesh=mesh, in_specs=split, out_specs=split)(jnp.zeros(8))
    np.testing.assert_array_equal(found, np.tile(constant, 8))
