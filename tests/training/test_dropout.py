import re

import pytest

from ilo_jax.models.hub.families import read_config
from ilo_jax.training.dropout import refuse_dropout
from tests.models.hub.families.rows import RAW


def test_dropout_that_is_not_waived_is_refused_with_its_rates():
    config = read_config(RAW["gpt2"] | {"resid_pdrop": 0, "attn_pdrop": 0.25})
    message = (
        "the model's config.json asks for dropout in training (embedding 0.1, attention 0.25), "
        "which is not computed here: set dropout=False to train without it"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse_dropout(config, waived=False)
    refuse_dropout(config, waived=True)


def test_a_model_without_dropout_needs_no_waiver():
    refuse_dropout(read_config(RAW["llama"] | {"attention_dropout": 0.0}), waived=False)
