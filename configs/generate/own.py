"""A decoder and prompts of one's own: nothing but the defaults, to be given as flags.

    python -m experiments.generate --config=configs/generate/own.py --config.model=FOLDER_OR_ID \
        --config.prompt="Once upon a time" --config.max_tokens=64

What is said is the likeliest, token by token.
"""

from experiments.generate import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config()
