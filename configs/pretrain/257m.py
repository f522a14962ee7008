"""The run of Riemenschneider and Frank 2025 (arXiv 2506.01629), as far as it is published.

    python -m experiments.fit --config=configs/pretrain/257m.py --on=v5e:4x4
    python -m experiments.pretrain --config=configs/pretrain/257m.py --config.text=FOLDER

Published: XGLM-564M with 512 dimensions in place of 1,024, 257 million parameters, 16 languages,
2^17 steps, checkpoints at powers of two and every 5,000 steps. The other sizes are XGLM-564M's own,
and give 257 million. A choice, as it is not known here: the batch, the optimizer, the learning rate
and the shares. The text is for you to give: FOLDER has a file or a folder for each language.
"""

from experiments.pretrain import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        text="text",
        model="xglm",
        dim=512,
        layers=24,
        heads=16,
        mlp_dim=4096,
        vocab=256_008,
        positions=2048,
        tied=True,
        alpha=0.3,
        steps=2**17,
        rows=64,
        row_length=1024,
        learning_rate=1e-3,
        warmup=2000,
        keep=5000,
        save=1000,
        dtype="bfloat16",
    )
