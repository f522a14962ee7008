"""The paper's setting: Llama-3.1-8B on FLORES-200 dev, 31 languages x 997 sentences.

    python -m experiments.ilo --config=configs/ilo/flores_llama31_8b.py --config.corpus=FLORES200

Needs an accelerator with at least 24 GB for the weights in bfloat16, a Hugging Face account
that may read the (gated) model, and the dev split of FLORES-200. Not yet run: no result here.
The paper's code computes the states in float32; `--config.dtype=float32` does so (40 GB).
"""

from experiments.ilo import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model="meta-llama/Llama-3.1-8B",
        corpus="flores200",
        split="dev",
        languages="paper",
        dtype="bfloat16",
        batch_tokens=16384,
    )
