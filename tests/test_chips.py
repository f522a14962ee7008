import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax.chips import CHIPS, GIB, chip_of
from ilo_jax.topologies import compiled

SMALLEST = {"v4": "v4:2x2x1", "v5e": "v5e:1x1", "v5p": "v5p:2x2x1", "v6e": "v6e:1x1"}


@pytest.mark.parametrize("name", CHIPS)
def test_a_chip_is_known_by_every_name_that_jax_gives_it(name):
    for kind in CHIPS[name].kinds:
        assert chip_of(kind) is CHIPS[name]
        assert chip_of(f"{kind}-SXM4-80GB") is CHIPS[name]


@pytest.mark.parametrize("kind", ["cpu", "", "my TPU v4", "NVIDIA GeForce RTX 4090"])
def test_other_devices_are_no_chip_of_the_table(kind):
    assert chip_of(kind) is None


@pytest.mark.parametrize("name", CHIPS)
def test_figures_are_of_the_right_unit(name):
    chip = CHIPS[name]
    assert 15 * GIB < chip.usable < 1.01 * chip.memory < 200 * GIB
    assert 1e14 < chip.bfloat16 < 1e15
    assert 1 / 20 < chip.float32 / chip.bfloat16 < 0.17
    assert 8e11 <= chip.bandwidth < 5e12
    assert 2e11 <= chip.interconnect < chip.bandwidth


@pytest.mark.parametrize(
    ("name", "pod", "all_reduce"), [("v5e", 256, 51.2e12), ("v6e", 256, 102.4e12)]
)
def test_the_interconnect_is_one_direction_as_published_all_reduces_of_whole_pods_say(
    name, pod, all_reduce
):
    assert CHIPS[name].interconnect == all_reduce / pod


@pytest.mark.parametrize("name", SMALLEST)
def test_what_is_usable_of_a_tpu_is_what_its_compiler_says(tpu, name):
    slice_ = tpu(SMALLEST[name])
    assert chip_of(slice_.devices[0].device_kind) is CHIPS[name]
    mesh = jax.sharding.Mesh(slice_.devices[:1], "x")
    half = jax.ShapeDtypeStruct(
        (2**30, 64), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec())
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"{CHIPS[name].usable / GIB:g}G"):
        compiled(jax.jit(jnp.sin).lower(half))
