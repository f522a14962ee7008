"""The devices that a job has: how it shares them out, and what they can do at best."""

import jax
from jax.sharding import Mesh

from experiments.settings import Compute
from ilo_jax import sharding

BFLOAT16_TFLOPS = {
    "NVIDIA A100": 312,
    "NVIDIA H100": 989,
    "NVIDIA H200": 989,
    "TPU v4": 275,
    "TPU v5 lite": 197,
    "TPU v5e": 197,
    "TPU v5": 459,
    "TPU v5p": 459,
    "TPU v6 lite": 918,
    "TPU v6e": 918,
}
"""Dense, by the beginning of JAX's name of a device and their makers' data sheets; SXM models of
GPUs."""


def make_mesh(compute: Compute) -> Mesh:
    """The mesh over all devices, with `model_parallel` of them to a copy of the model.

    Raises:
        ValueError: If that does not divide their number.
    """
    count, asked = jax.device_count(), compute.model_parallel
    fitting = [n for n in range(1, count + 1) if count % n == 0]
    if asked not in fitting:
        raise ValueError(
            f"model_parallel must divide the number of devices, {count}, or some would be idle: "
            f"one of {', '.join(map(str, fitting))}; got {asked}"
        )
    return sharding.make_mesh(model=asked)


def peak_flops() -> float | None:
    """The bfloat16 operations per second of all devices, None where it is not known."""
    kind = jax.devices()[0].device_kind
    fitting = [name for name in BFLOAT16_TFLOPS if kind.startswith(name)]
    if not fitting:
        return None
    return BFLOAT16_TFLOPS[max(fitting, key=len)] * 1e12 * jax.device_count()
