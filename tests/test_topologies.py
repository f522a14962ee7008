import importlib.util
import math
import os
import re
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies as described
from jax.sharding import NamedSharding, PartitionSpec

from ilo_jax import topologies
from ilo_jax.chips import CHIPS
from ilo_jax.sharding import make_mesh
from ilo_jax.topologies import compiled, topology

CUBES = "2x2x1, 2x2x2, 2x2x4, 2x4x4, or AxBxC, A <= B <= C, of multiples of 4, up to {} chips"
RECTANGLES = "1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16"


@pytest.mark.parametrize(
    ("name", "count", "hosts", "kind"),
    [
        ("v4:2x2x1", 4, 1, "TPU v4"),
        ("v4:2x4x4", 32, 8, "TPU v4"),
        ("v5e:1x1", 1, 1, "TPU v5 lite"),
        ("v5e:2x4", 8, 2, "TPU v5 lite"),
        ("v5e:16x16", 256, 64, "TPU v5 lite"),
        ("v5p:2x2x2", 8, 2, "TPU v5"),
        ("v5p:4x4x12", 192, 48, "TPU v5"),
        ("v6e:4x4", 16, 4, "TPU v6 lite"),
    ],
)
def test_a_slice_has_a_device_for_every_chip(tpu, name, count, hosts, kind):
    chip, devices = tpu(name)
    assert chip is CHIPS[name.split(":")[0]]
    assert len(devices) == count
    assert {device.device_kind for device in devices} == {kind}
    assert {device.process_index for device in devices} == set(range(hosts))


@pytest.mark.parametrize("name", ["", "v5e4x4", "v7:2x2", "h1000:8", "V5E:2x2", "cpu:8", ":2x2"])
def test_an_unknown_chip_is_refused_with_those_that_are_known(name):
    message = (
        "a topology is CHIP:SHAPE, such as v5e:4x4 or h100:8, with one of the chips v4, v5e, v5p, "
        f"v6e, a100, h100, h200; got {name!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        topology(name)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("v5e", RECTANGLES),
        ("v5e:", RECTANGLES),
        ("v5e:3x3", RECTANGLES),
        ("v5e:4x2", RECTANGLES),
        ("v6e:2x2x1", RECTANGLES),
        ("v6e:32x32", RECTANGLES),
        ("v4:2x2", CUBES.format(4096)),
        ("v4:16x16x20", CUBES.format(4096)),
        ("v5p:8x4x4", CUBES.format(6144)),
        ("v5p:4x4x6", CUBES.format(6144)),
        ("v5p:0x4x4", CUBES.format(6144)),
        ("v5p:16x16x28", CUBES.format(6144)),
        ("h100:3", "1, 2, 4, 8"),
        ("h200:16", "1, 2, 4, 8"),
        ("a100:2x2", "1, 2, 4, 8"),
    ],
)
def test_a_shape_that_is_not_to_be_had_is_refused_with_those_that_are(name, shapes):
    kind, shape = f"{name}:".split(":")[:2]
    message = f"{kind} comes as {shapes}; got {kind}:{shape}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        topology(name)


@pytest.mark.parametrize("kind", CHIPS)
def test_shapes_come_smallest_first_and_can_be_had(kind):
    sizes = [math.prod(map(int, shape.split("x"))) for shape in topologies.shapes(kind)]
    assert sizes == sorted(sizes)
    for shape in topologies.shapes(kind):
        topologies._check_shape(kind, shape)


def test_where_libtpu_is_not_installed_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    message = "compiling for v5e:2x2 needs libtpu, on Linux x86-64: pip install -e '.[tpu]'"
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        topology("v5e:2x2")


def test_where_the_cuda_plugin_is_not_installed_the_extra_is_named():
    if importlib.util.find_spec("jax_cuda13_plugin"):
        pytest.skip("JAX's CUDA plugin is installed")
    message = (
        "compiling for h100:8 needs JAX's CUDA plugin: pip install -e '.[cuda]', and "
        "JAX_PLATFORMS=cpu in the environment where there is no GPU"
    )
    with pytest.raises(ImportError, match=f"^{re.escape(message)}$"):
        topology("h100:8")


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("kind", ["a100", "h100", "h200"])
def test_gpus_of_one_host(kind, count):
    pytest.importorskip("jax_cuda13_plugin", reason="pip install -e '.[cuda]'")
    chip, devices = topology(f"{kind}:{count}")
    assert chip is CHIPS[kind]
    assert len(devices) == count
    assert {device.process_index for device in devices} == {0}
    assert all(device.device_kind.startswith(chip.kinds) for device in devices)


def test_libtpu_is_told_to_leave_the_process_alone_and_nobody_else_is_told(monkeypatch):
    told = []

    def describe(name, platform, **bounds):
        told.append((name, platform, bounds, dict(os.environ)))
        return described.TopologyDescription([])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(described, "get_topology_desc", describe)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("TPU_LOG_DIR", "/of/the/user")
    before = dict(os.environ)
    topology("v4:2x2x1")
    assert dict(os.environ) == before
    [(name, platform, bounds, within)] = told
    assert (name, platform) == ("v4:2x2x1", "tpu")
    assert bounds == {"chip_config_name": "megacore", "chips_per_host_bounds": [2, 2, 1]}
    assert within == {**topologies.ALONE, **before}


def test_on_a_machine_with_a_tpu_libtpu_is_told_nothing(monkeypatch):
    within = []

    def describe(*_, **__):
        within.append(dict(os.environ))
        return described.TopologyDescription([])

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(described, "get_topology_desc", describe)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    topology("v5e:1x1")
    assert within == [dict(os.environ)]


def test_sigterm_is_still_the_processs_own(tpu):
    tpu("v5e:2x2")
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        pytest.skip("something else handles SIGTERM here")
    caught = re.search(r"SigCgt:\s+(\w+)", Path("/proc/self/status").read_text())
    assert caught
    assert not int(caught[1], 16) & 1 << (signal.SIGTERM - 1)


def test_what_is_compiled_for_absent_devices_stays_out_of_the_cache(tpu):
    def kept_nowhere(x):
        return jnp.sin(x)

    mesh = make_mesh(devices=tpu("v5e:2x2").devices)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.ShapeDtypeStruct((8, 128), jnp.float32, sharding=sharding)
    seconds, folder = "jax_persistent_cache_min_compile_time_secs", "jax_compilation_cache_dir"
    before = getattr(jax.config, seconds)
    jax.config.update(seconds, 0.0)
    try:
        assert "f32[2,128]" in str(compiled(jax.jit(kept_nowhere).lower(x)).as_text())
        assert getattr(jax.config, seconds) == 0.0
    finally:
        jax.config.update(seconds, before)
    kept = list(Path(getattr(jax.config, folder)).glob("jit_kept_nowhere*"))
    for path in kept:  # or the next run would fail too
        path.unlink()
    assert not kept
