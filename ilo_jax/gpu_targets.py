"""What XLA has to be told of a GPU that is not there, to compile for it."""

from typing import NamedTuple

from ilo_jax.chips import CHIPS


class Multiprocessors(NamedTuple):
    """What a GPU has of each, as its driver and the CUDA programming guide say."""

    name: str
    capability: int
    """Major number of its compute capability; the minor number is 0."""
    cores: int
    """Streaming multiprocessors."""
    units: int
    """Of float32, in a multiprocessor."""
    shared: int
    """Bytes of memory that the threads of a multiprocessor share; a block has 1024 fewer."""
    cache: int
    """Bytes of its second level."""
    clock: float
    """GHz, at most."""


GPUS = {
    "a100": Multiprocessors("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167_936, 41_943_040, 1.41),
    "h100": Multiprocessors("NVIDIA H100 80GB HBM3", 9, 132, 128, 233_472, 52_428_800, 1.98),
    "h200": Multiprocessors("NVIDIA H200", 9, 132, 128, 233_472, 52_428_800, 1.98),
}
"""By the names of `ilo_jax.chips.CHIPS`. Figures: data sheets, and what drivers report by
github.com/openxla/xla, xla/backends/gpu/target_config/specs."""


def target_config(name: str) -> str:
    """The text of XLA's GpuTargetConfigProto for a GPU.

    Args:
        name: One of `GPUS`.
    """
    gpu, chip = GPUS[name], CHIPS[name]
    return f"""
        gpu_device_info {{
          name: "{gpu.name}"
          cuda_compute_capability {{ major: {gpu.capability} }}
          core_count: {gpu.cores}
          fpus_per_core: {gpu.units}
          clock_rate_ghz: {gpu.clock}
          device_memory_size: {chip.memory}
          memory_bandwidth: {chip.bandwidth:.0f}
          l2_cache_size: {gpu.cache}
          shared_memory_per_core: {gpu.shared}
          shared_memory_per_block_optin: {gpu.shared - 1024}
          shared_memory_per_block: 49152
          registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          threads_per_core_limit: 2048
          threads_per_block_limit: 1024
          threads_per_warp: 32
          block_dim_limit_x: 2147483647
          block_dim_limit_y: 65535
          block_dim_limit_z: 65535
        }}
        platform_name: "CUDA"
        dnn_version_info {{ major: 9 minor: 10 }}
        device_description_str: "{gpu.name}"
    """
