"""A decoder, a text and a corpus of one's own: nothing but the defaults, to be given as flags.

    python -m experiments.freezing --config=configs/freezing/own.py --config.model=FOLDER_OR_ID \
        --config.text=FILE --config.corpus=FOLDER

Without a corpus, languages are judged by the sample.
"""

from experiments.freezing import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config()
