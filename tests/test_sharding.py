import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from ilo_jax.sharding import along_data, data_mesh, replicated


@pytest.mark.parametrize("devices", [None, 1, 3, 4])
def test_mesh_has_the_devices_along_data(devices):
    mesh = data_mesh(devices)
    expected = jax.local_devices()[: devices or 4]
    assert mesh.axis_names == ("data", "model")
    assert mesh.axis_types == (AxisType.Auto, AxisType.Auto)
    assert mesh.devices.shape == (len(expected), 1)
    assert mesh.devices.ravel().tolist() == expected


@pytest.mark.parametrize("devices", [0, -1, 5])
def test_impossible_number_of_devices_is_refused(devices):
    with pytest.raises(ValueError, match=rf"^devices must be in \[1, 4\] here, got {devices}$"):
        data_mesh(devices)


def test_replicated_is_a_copy_on_every_device():
    array = np.arange(12.0).reshape(4, 3)
    placed = jax.device_put(array, replicated(data_mesh()))
    assert replicated(data_mesh()).spec == PartitionSpec()
    assert len({shard.device for shard in placed.addressable_shards}) == 4
    for shard in placed.addressable_shards:
        assert np.array_equal(shard.data, array)


def test_along_data_splits_the_leading_axis():
    array = np.arange(24.0).reshape(8, 3)
    mesh = data_mesh()
    placed = jax.device_put(array, along_data(mesh))
    shards = {shard.device: np.asarray(shard.data) for shard in placed.addressable_shards}
    for device, rows in zip(mesh.devices.ravel(), np.split(array, 4), strict=True):
        assert np.array_equal(shards[device], rows)
