from types import SimpleNamespace

import jax
import pytest

from experiments.hardware import make_mesh, peak_flops, settled
from experiments.settings import Batched, Compute
from ilo_jax import chips
from ilo_jax.chips import CHIPS


@pytest.fixture
def devices(monkeypatch):
    """Return what makes JAX see some devices of a kind."""

    def see(kind: str, count: int = 1) -> None:
        monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind=kind)] * count)
        monkeypatch.setattr(jax, "device_count", lambda: count)

    return see


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("TPU v6e", 918),
    ],
)
def test_a_device_is_known_by_the_longest_beginning_of_its_name(devices, monkeypatch, kind, tflops):
    devices(kind)
    assert peak_flops() == tflops * 1e12
    monkeypatch.setattr(chips, "CHIPS", dict(reversed(CHIPS.items())))
    assert peak_flops() == tflops * 1e12


def test_all_devices_count(devices):
    devices("TPU v4", 8)
    assert peak_flops() == 8 * 275e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA GeForce RTX 4090", "my TPU v4", ""])
def test_other_devices_are_not_guessed(devices, kind):
    devices(kind)
    assert peak_flops() is None


def test_every_name_is_known_by_itself(devices):
    for chip in CHIPS.values():
        for name in chip.kinds:
            devices(name)
            assert peak_flops() == chip.bfloat16


@pytest.mark.parametrize(
    ("asked", "count", "fitting"), [(2, 1, "1"), (3, 8, "1, 2, 4, 8"), (0, 4, "1, 2, 4")]
)
def test_devices_that_do_not_divide_are_named_by_the_field(devices, asked, count, fitting):
    devices("TPU v4", count)
    message = (
        f"model_parallel must divide the number of devices, {count}, or some would be idle: one of "
        f"{fitting}; got {asked}"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        make_mesh(Compute(model_parallel=asked))


def test_a_mesh_of_devices_that_need_not_be_there(tpu):
    mesh = make_mesh(Compute(model_parallel=2), tpu("v5e:2x2").devices)
    assert {*mesh.devices.flat} == {*tpu("v5e:2x2").devices}
    with pytest.raises(ValueError, match=r"devices, 4, .*: one of 1, 2, 4; got 3$"):
        make_mesh(Compute(model_parallel=3), tpu("v5e:2x2").devices)


def test_the_mesh_has_all_devices():
    assert dict(make_mesh(Compute(model_parallel=2)).shape) == {"data": 4, "model": 2}


@pytest.mark.parametrize(
    ("platform", "tokens"), [("cpu", 512), ("gpu", 4096), ("cuda", 4096), ("tpu", 4096)]
)
def test_how_much_is_computed_at_a_time_is_left_to_the_kind_of_device(platform, tokens):
    devices = [SimpleNamespace(platform=platform)]
    asked = Batched()
    assert settled(asked, devices) == Batched(batch_tokens=tokens)
    assert asked == Batched(batch_tokens=0)
    assert settled(Batched(batch_tokens=7), devices) == Batched(batch_tokens=7)


def test_the_devices_of_this_process_choose_where_no_others_are_given(tpu):
    assert settled(Batched()) == settled(Batched(), jax.devices()) == Batched(batch_tokens=512)
    assert settled(Batched(), tpu("v5e:2x2").devices) == Batched(batch_tokens=4096)


def test_what_is_computed_in_no_batches_stays_as_it_is():
    compute = Compute()
    assert settled(compute) is compute
