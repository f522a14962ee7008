"""The sample corpus, and a decoder of 60,000 parameters: what shows that all of it works.

    python -m experiments.pretrain --config=configs/pretrain/sample.py

Under two minutes on two cores. Nothing of note is learnt from 48 sentences of a language.
"""

from experiments.pretrain import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        held_out=0.1,
        vocab=1024,
        dim=48,
        layers=3,
        heads=3,
        steps=64,
        rows=8,
        row_length=96,
        warmup=8,
        learning_rate=4e-3,
        sentences=12,
        evaluate=64,
        save=32,
    )
