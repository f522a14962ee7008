"""The embedded default: multilingual-e5-small on the sample corpus, 31 languages.

pip install -e '.[sample]' && python -m experiments.ilo --config=configs/ilo/sample.py

2 CPU cores, float32, 2026-11-21: @@T@@
"""

from experiments.ilo import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config()
