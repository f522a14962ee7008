"""What devices can do at best, by their makers' data sheets."""

import jax

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
"""Dense, by the beginning of JAX's name of a device; SXM models of GPUs."""


def peak_flops() -> float | None:
    """The bfloat16 operations per second of all devices, None where it is not known."""
    kind = jax.devices()[0].device_kind
    fitting = [name for name in BFLOAT16_TFLOPS if kind.startswith(name)]
    if not fitting:
        return None
    return BFLOAT16_TFLOPS[max(fitting, key=len)] * 1e12 * jax.device_count()
