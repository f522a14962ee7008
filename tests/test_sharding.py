import dataclasses
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ilo_jax.models import parameters
from ilo_jax.models.hub.families import FAMILIES, read_config
from ilo_jax.processes import own_part
from ilo_jax.sharding import (
    along_data,
    device_bytes,
    make_mesh,
    place_own,
    place_whole,
    replicated,
    unsplit,
    weight_sharding,
)

RELEASED = json.loads((Path(__file__).parent / "models/released.json").read_text())
# One released model of each type.
EXAMPLES = {raw["model_type"]: name for name, raw in RELEASED.items()}
N = jax.device_count()
COUNTS = {"head": 8, "kv": 2, "mlp": 12, "vocab": 10}
SIZES = {"dim": 6, "head": 32, "kv": 8, "mlp": 12, "vocab": 10, "rows": 5}


@pytest.mark.parametrize(
    ("data", "model", "shape"),
    [
        (None, 1, (N, 1)),
        (None, 2, (N // 2, 2)),
        (2, 3, (2, 3)),
        (None, N, (1, N)),
        (1, 1, (1, 1)),
        (3, 1, (3, 1)),
        (1, 2, (1, 2)),
        (2, 2, (2, 2)),
    ],
)
def test_mesh_has_the_first_devices(data, model, shape):
    mesh = make_mesh(data=data, model=model)
    assert mesh.axis_names == ("data", "model")
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert mesh.devices.shape == shape
    assert mesh.devices.ravel().tolist() == jax.devices()[: shape[0] * shape[1]]


@pytest.mark.parametrize(
    ("data", "model", "message"),
    [
        (None, 0, f"model must be in [1, {N}] here, got 0"),
        (None, -1, f"model must be in [1, {N}] here, got -1"),
        (1, N + 1, f"model must be in [1, {N}] here, got {N + 1}"),
        (
            None,
            3,
            "model must divide the 8 devices, or 2 of them would be idle: one of 1, 2, 4, 8; got 3",
        ),
        (
            None,
            5,
            "model must divide the 8 devices, or 3 of them would be idle: one of 1, 2, 4, 8; got 5",
        ),
        (0, 1, f"data must be in [1, {N}] here with model=1, got 0"),
        (N + 1, 1, f"data must be in [1, {N}] here with model=1, got {N + 1}"),
        (N, 2, f"data must be in [1, {N // 2}] here with model=2, got {N}"),
        (N, 3, f"data must be in [1, {N // 3}] here with model=3, got {N}"),
        (2, N, f"data must be in [1, 1] here with model={N}, got 2"),
    ],
)
def test_impossible_mesh_is_refused(data, model, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_mesh(data=data, model=model)


@pytest.mark.parametrize(
    ("name", "data", "model", "shape"),
    [
        ("v5e:2x4", None, 2, (4, 2)),
        ("v5e:2x4", 2, 1, (2, 1)),
        ("v5p:2x2x2", None, 8, (1, 8)),
        ("v4:2x2x1", None, 1, (4, 1)),
    ],
)
def test_devices_that_are_not_there_make_the_same_mesh(tpu, name, data, model, shape):
    devices = tpu(name).devices
    mesh = make_mesh(data=data, model=model, devices=devices)
    assert mesh.axis_names == ("data", "model")
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert mesh.devices.shape == shape
    assert set(mesh.devices.ravel()) == set(devices[: shape[0] * shape[1]])


@pytest.mark.parametrize(
    ("name", "data", "model", "message"),
    [
        ("v5e:2x4", None, 16, "model must be in [1, 8] here, got 16"),
        (
            "v5e:2x2",
            None,
            3,
            "model must divide the 4 devices, or 1 of them would be idle: one of 1, 2, 4; got 3",
        ),
        ("v5e:2x2", 5, 1, "data must be in [1, 4] here with model=1, got 5"),
        (
            "v5e:2x2",
            3,
            1,
            "the way in which the devices are joined must make the mesh of data x model: all 4 "
            "make 4 x 1, 2 x 2, 1 x 4; got 3 x 1",
        ),
        (
            "v5p:4x4x12",
            None,
            2,
            "the way in which the devices are joined must make the mesh of data x model: all 192 "
            "make 192 x 1, 48 x 4, 16 x 12, 12 x 16, 4 x 48, 1 x 192; got 96 x 2",
        ),
    ],
)
def test_a_mesh_that_devices_do_not_make_is_refused_with_those_that_they_make(
    tpu, name, data, model, message
):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make_mesh(data=data, model=model, devices=tpu(name).devices)


def test_replicated_is_a_copy_on_every_device():
    array = np.arange(12.0).reshape(4, 3)
    placed = jax.device_put(array, replicated(make_mesh()))
    assert len({shard.device for shard in placed.addressable_shards}) == N
    for shard in placed.addressable_shards:
        assert np.array_equal(shard.data, array)


def test_an_array_of_the_host_is_put_whole_on_every_device():
    mesh = make_mesh(data=4, model=2)
    array = np.arange(6).reshape(2, 3)
    placed = place_whole(array, replicated(mesh))
    assert placed.sharding.device_set == set(mesh.devices.ravel())
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, array)


@pytest.mark.parametrize("place", [place_own, place_whole])
@pytest.mark.parametrize(
    ("data", "model"), [(1, 1), (8, 1), (4, 2), (2, 4), (1, 8), (2, 1), (3, 2)]
)
def test_arrays_of_one_process_are_all_there_is_split_over_data(place, data, model):
    array = np.arange(24 * 24 * 2.0, dtype=np.float32).reshape(24, 24, 2)
    sharding = along_data(make_mesh(data=data, model=model))
    placed = place({"rows": array, "numbers": (array[:, 0, 0],)}, sharding)
    assert placed["rows"].sharding == placed["numbers"][0].sharding == sharding
    np.testing.assert_array_equal(placed["rows"], array)
    np.testing.assert_array_equal(placed["numbers"][0], array[:, 0, 0])
    np.testing.assert_array_equal(own_part(placed["rows"], axis=0), array)


@pytest.mark.parametrize("axis", [0, 1])
def test_along_data_splits_one_axis(axis):
    array = np.arange(64.0).reshape(8, 8)
    mesh = make_mesh(data=4)
    placed = jax.device_put(array, along_data(mesh, axis=axis))
    shards = {shard.device: np.asarray(shard.data) for shard in placed.addressable_shards}
    for device, part in zip(mesh.devices.ravel(), np.split(array, 4, axis), strict=True):
        assert np.array_equal(shards[device], part)


def spec(path: str, axes: str, *, fsdp: bool = False, counts=COUNTS, sizes=SIZES) -> tuple:
    shape = tuple(sizes[axis] for axis in axes.split())
    mesh = make_mesh(data=2, model=2)
    got = weight_sharding(path, shape, mesh, counts=counts, fsdp=fsdp)
    assert got.mesh == mesh
    got.shard_shape(shape)
    return tuple(got.spec) + (None,) * (len(shape) - len(got.spec))


@pytest.mark.parametrize(
    ("path", "axes", "split", "fsdp"),
    [
        ("embed/tokens/embedding", "vocab dim", ("model", None), ("model", "data")),
        ("embed/positions/embedding", "rows dim", (None, None), (None, "data")),
        ("embed/types/embedding", "rows dim", (None, None), (None, "data")),
        ("embed/project/kernel", "rows dim", (None, None), (None, "data")),
        ("embed/norm/scale", "dim", (None,), (None,)),
        ("layers/0/attn/q/kernel", "dim head", (None, "model"), ("data", "model")),
        ("layers/31/attn/q/bias", "head", ("model",), ("model",)),
        ("layers/0/attn/k/kernel", "dim kv", (None, "model"), ("data", "model")),
        ("layers/0/attn/v/kernel", "dim kv", (None, "model"), ("data", "model")),
        ("layers/0/attn/k/bias", "kv", ("model",), ("model",)),
        ("layers/0/attn/v/bias", "kv", ("model",), ("model",)),
        ("layers/0/attn/o/kernel", "head dim", ("model", None), ("model", "data")),
        ("layers/0/attn/o/bias", "dim", (None,), (None,)),
        ("layers/0/attn/q_norm/scale", "head", (None,), (None,)),
        ("layers/0/attn_norm/scale", "dim", (None,), (None,)),
        ("layers/0/mlp_out_norm/bias", "dim", (None,), (None,)),
        ("layers/0/mlp/gate/kernel", "dim mlp", (None, "model"), ("data", "model")),
        ("layers/0/mlp/up/kernel", "dim mlp", (None, "model"), ("data", "model")),
        ("layers/0/mlp/gate/bias", "mlp", ("model",), ("model",)),
        ("layers/0/mlp/up/bias", "mlp", ("model",), ("model",)),
        ("layers/0/mlp/down/kernel", "mlp dim", ("model", None), ("model", "data")),
        ("layers/0/mlp/down/bias", "dim", (None,), (None,)),
        ("norm/scale", "dim", (None,), (None,)),
        ("head/out/kernel", "dim vocab", (None, "model"), ("data", "model")),
        ("head/project/kernel", "dim rows", (None, None), ("data", None)),
        ("head/dense/kernel", "dim dim", (None, None), ("data", None)),
        ("head/dense/bias", "dim", (None,), (None,)),
        ("head/norm/scale", "dim", (None,), (None,)),
        ("head/bias", "vocab", ("model",), ("model",)),
    ],
)
def test_rule_of_every_weight(path, axes, split, fsdp):
    assert spec(path, axes) == split
    assert spec(path, axes, fsdp=True) == fsdp


def test_axes_that_do_not_divide_stay_whole():
    """Nine heads of 64 and three of keys are 576 and 192 wide: even, yet no head is cut."""
    counts, sizes = {"head": 9, "kv": 3, "mlp": 7, "vocab": 11}, SIZES | {"head": 576, "kv": 192}
    assert unsplit(make_mesh(model=2), counts) == counts
    assert unsplit(make_mesh(model=2), COUNTS) == {}
    assert unsplit(make_mesh(data=1, model=3), counts) == {"mlp": 7, "vocab": 11}
    for path, axes in [
        ("layers/0/attn/q/kernel", "dim head"),
        ("layers/0/attn/k/kernel", "dim kv"),
        ("layers/0/attn/o/kernel", "head dim"),
        ("layers/0/mlp/up/kernel", "dim mlp"),
    ]:
        assert spec(path, axes, counts=counts, sizes=sizes) == (None, None)


@pytest.mark.parametrize(
    ("path", "axes"), [("embed/tokens/embedding", "vocab dim"), ("head/out/kernel", "dim vocab")]
)
def test_vocabulary_that_does_not_divide_is_split_along_dim(path, axes):
    """The largest table of a multilingual model is never whole on every device."""
    counts, sizes = COUNTS | {"vocab": 11}, SIZES | {"vocab": 11}
    at = axes.split().index("dim")
    got = [spec(path, axes, counts=counts, sizes=sizes | {"dim": dim}) for dim in (6, 7)]
    assert [axis[at] for axis in got] == ["model", None]
    got = spec(path, axes, fsdp=True, counts=counts, sizes=sizes | {"dim": 8})
    assert got[at] == ("data", "model")
    assert got[1 - at] is None
    got = spec(path, axes, fsdp=True, counts=counts, sizes=sizes | {"dim": 6})
    assert got[at] == "model"  # six divide by two along either axis, not by four


def test_queries_are_split_where_keys_cannot_be():
    counts, sizes = COUNTS | {"kv": 1}, SIZES | {"kv": 4}
    assert spec("layers/0/attn/q/kernel", "dim head", counts=counts) == (None, "model")
    assert spec("layers/0/attn/k/kernel", "dim kv", counts=counts, sizes=sizes) == (None, None)


def test_dim_that_does_not_divide_stays_whole_under_fsdp():
    got = spec("layers/0/mlp/up/kernel", "dim mlp", fsdp=True, sizes=SIZES | {"dim": 7})
    assert got == (None, "model")


@pytest.mark.parametrize("path", ["layers/0/attn/z/kernel", "layers/x/attn/q/kernel", "scale", ""])
def test_weight_without_a_rule_is_refused(path):
    message = f"no rule of sharding.RULES fits the weight {path}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        weight_sharding(path, (4, 4), make_mesh(), counts=COUNTS, fsdp=False)


def test_every_family_has_an_example():
    assert set(EXAMPLES) == set(FAMILIES)


@pytest.mark.parametrize(
    "name",
    [*EXAMPLES.values(), "HuggingFaceTB/SmolLM2-135M", "facebook/opt-350m"],
)
def test_every_weight_of_every_family_has_a_rule_that_divides_it(name):
    config = read_config(RELEASED[name])
    config = dataclasses.replace(config, blocks=config.blocks[:1])
    model = parameters.abstract(config, dtype=jnp.bfloat16)
    mesh = make_mesh(data=2, model=2)
    lies = parameters.shardings(model, mesh, fsdp=True)
    for path, weight in parameters.shapes(model).items():
        lies[path].shard_shape(weight.shape)
        ndim = len(weight.shape)
        assert ndim == 1 or "norm" in path or lies[path].spec != PartitionSpec(*[None] * ndim), path


def test_bytes_of_a_device_are_those_of_its_part_of_everything():
    mesh = make_mesh(model=2)
    rows = place_whole(np.zeros((N, 6), np.int32), along_data(mesh))
    like = jax.ShapeDtypeStruct((3, 5), jnp.bfloat16, sharding=replicated(mesh))
    key = jax.device_put(jax.random.key(0), replicated(mesh))
    assert (
        device_bytes({"rows": rows, "none": None, "more": [like, key]}) == 2 * 6 * 4 + 3 * 5 * 2 + 8
    )
