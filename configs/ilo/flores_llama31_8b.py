"""The paper's setting: Llama-3.1-8B on FLORES-200 dev, 31 languages x 997 sentences.

    python -m experiments.ilo --config=configs/ilo/flores_llama31_8b.py --config.corpus=FLORES200

Needs an accelerator: the weights alone are 16 GB in bfloat16, 32 GB in the float32 of the paper's
code (`--config.dtype=float32`). The model is gated (log in with `hf auth login`), and so is the dev
split. Not run yet: no result stands here.
"""

from experiments.ilo import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model="meta-llama/Llama-3.1-8B",
        corpus="flores200",
        split="dev",
        languages="paper",
        precision="fast",
        dtype="bfloat16",
        batch_tokens=16384,
    )
