"""The tiny decoder of `configs/pretrain/sample.py` goes on from the sample corpus, in English.

    python -m experiments.pretrain --config=configs/pretrain/sample.py
    python -m experiments.generate --config=configs/generate/sample.py

After 64 steps the decoder knows no language: this shows that all of it works.
"""

from experiments.generate import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model="runs/pretrain/sample/series/step0000064",
        prompts="ilo_jax/corpora/sample/eng_Latn.txt",
        max_tokens=32,
        min_tokens=8,
        temperature=0.8,
        samples=2,
    )
