"""The real run: a decoder of 8 million parameters, from the text of a folder of languages.

    python -m experiments.pretrain --config=configs/pretrain/multilingual.py --config.text=FOLDER \
        --config.corpus=FLORES200

FOLDER has a .txt file for each language, FLORES200 is the folder of that corpus; neither is part of
the project.
"""

from experiments.pretrain import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        text="text",
        corpus="flores200",
        split="devtest",
        languages="paper",
        sentences=20,
        vocab=12288,
        dim=256,
        layers=6,
        heads=4,
        steps=4096,
        rows=8,
        row_length=256,
        positions=2048,
        warmup=200,
        keep=512,
        judged=4096,
        save=128,
    )
