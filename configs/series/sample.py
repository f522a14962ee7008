"""The series that configs/pretrain/sample.py leaves, judged by the sentences that it was made of.

    python -m experiments.pretrain --config=configs/pretrain/sample.py
    python -m experiments.series --config=configs/series/sample.py

It has learnt from them: this shows how the job works, and nothing else.
"""

from experiments.series import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        series="runs/pretrain/sample/series",
        text="sample",
        held_out=0.1,
        sentences=12,
    )
