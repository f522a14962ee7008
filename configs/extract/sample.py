"""Pooled states and neurons of multilingual-e5-small on the sample corpus, 31 languages.

pip install -e '.[sample]' && python -m experiments.extract --config=configs/extract/sample.py
"""

from experiments.extract import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(taps="residual:mean,neurons:max")
