import dataclasses
import itertools
import re
from operator import attrgetter

import numpy as np
import pytest
import torch
from transformers.models.roberta.modeling_roberta import RobertaEmbeddings

from ilo_jax.corpora.limits import Limits, refuse_unfit
from ilo_jax.corpora.packing import as_sentences
from ilo_jax.models.config import (
    AttentionConfig,
    BlockConfig,
    Dropout,
    EmbeddingConfig,
    HeadConfig,
    MlpConfig,
    ModelConfig,
    Norm,
)
from ilo_jax.models.hub.families import read_config
from tests.models.hub.families.rows import GELUS, RAW

NORM = Norm(kind="layer", eps=1e-12, bias=True)
MASKED = HeadConfig(kind="tied", bias=True, activation="gelu", norm=NORM)
BERTS = ["bert", "roberta", "xlm-roberta"]

EXPECTED_BERT = ModelConfig(
    causal=False,
    embedding=EmbeddingConfig(
        vocab=64, dim=32, positions="learned", rows=128, token_types=2, norm=NORM
    ),
    blocks=(
        BlockConfig(
            attention=AttentionConfig(
                heads=4, kv_heads=4, head_dim=8, scale=8**-0.5, qkv_bias=True, out_bias=True
            ),
            mlp=MlpConfig(dim=48, activation="gelu", bias=True),
            norm=NORM,
            norm_place="post",
        ),
    )
    * 2,
    final_norm=None,
    head=HeadConfig(kind="none"),
    max_positions=128,
    dropout=Dropout(embedding=0.1, attention=0.1, residual=0.1),
)
# Its first position is in the row after that of padding.
EXPECTED_ROBERTA = dataclasses.replace(
    EXPECTED_BERT,
    embedding=dataclasses.replace(EXPECTED_BERT.embedding, offset=2, padding=1),
    max_positions=126,
)
EXPECTED = {
    "bert": EXPECTED_BERT,
    "roberta": EXPECTED_ROBERTA,
    "xlm-roberta": EXPECTED_ROBERTA,
    "distilbert": dataclasses.replace(
        EXPECTED_BERT,
        embedding=dataclasses.replace(EXPECTED_BERT.embedding, token_types=0),
        dropout=Dropout(embedding=0.1, attention=0.1, mlp_out=0.1),
    ),
}


@pytest.mark.parametrize("model_type", EXPECTED)
def test_mechanisms(model_type):
    assert read_config(RAW[model_type]) == EXPECTED[model_type]


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("bert", "BertForMaskedLM"),
        ("bert", "BertForPreTraining"),
        ("roberta", "RobertaForMaskedLM"),
        ("xlm-roberta", "XLMRobertaForMaskedLM"),
        ("distilbert", "DistilBertForMaskedLM"),
    ],
)
def test_masked_language_model_has_a_dense_layer_in_its_head(model_type, architecture):
    config = RAW[model_type] | {"architectures": [architecture]}
    assert read_config(config) == dataclasses.replace(EXPECTED[model_type], head=MASKED)
    untied = read_config(config | {"tie_word_embeddings": False})
    assert untied.head == dataclasses.replace(MASKED, kind="own")


@pytest.mark.parametrize(
    ("model_type", "architecture"),
    [
        ("bert", "BertModel"),
        ("bert", "BertForSequenceClassification"),
        ("xlm-roberta", "XLMRobertaModel"),
        ("distilbert", "DistilBertModel"),
    ],
)
def test_heads_of_other_tasks_are_not_ours(model_type, architecture):
    config = RAW[model_type] | {"architectures": [architecture]}
    assert read_config(config) == EXPECTED[model_type]


@pytest.mark.parametrize(
    ("model_type", "change", "part", "expected"),
    [
        ("bert", {"type_vocab_size": 3}, "embedding.token_types", 3),
        ("bert", {"layer_norm_eps": 0.5}, "embedding.norm.eps", 0.5),
        ("bert", {"pad_token_id": 5}, "embedding.offset", 0),
        ("roberta", {"pad_token_id": 0}, "embedding.offset", 1),
        ("roberta", {"pad_token_id": 0}, "max_positions", 127),
        ("roberta", {"pad_token_id": 0}, "limits", Limits(127, 64, padding=0)),
        ("bert", {"pad_token_id": 5}, "limits", Limits(128, 64)),
        ("roberta", {"pad_token_id": None}, "max_positions", 126),
        ("distilbert", {"sinusoidal_pos_embds": True}, "embedding.positions", "learned"),
    ],
)
def test_choice_of_a_family(model_type, change, part, expected):
    assert attrgetter(part)(read_config(RAW[model_type] | change)) == expected


@pytest.mark.parametrize("sentence", [[3, 4, 5], [3, 1, 5], [3, 4, 1], [1], [0, 0]])
def test_what_torch_counts_otherwise_is_refused(sentence):
    """The position of every token, where the padding token is not among them."""
    config = read_config(RAW["roberta"])
    theirs = RobertaEmbeddings.create_position_ids_from_input_ids(torch.tensor([sentence]), 1)
    ours = np.arange(len(sentence)) + config.embedding.offset
    if (theirs.numpy()[0] == ours).all():
        refuse_unfit(as_sentences([sentence]), config.limits)
        return
    with pytest.raises(ValueError, match=r"not have the padding token, id 1, .*\n  sentence 1$"):
        refuse_unfit(as_sentences([sentence]), config.limits)


@pytest.mark.parametrize("model_type", BERTS)
def test_width_must_split_into_heads(model_type):
    with pytest.raises(ValueError, match=r"^dim \(32\) must be a multiple of heads, 5$"):
        read_config(RAW[model_type] | {"num_attention_heads": 5})


@pytest.mark.parametrize(
    ("model_type", "name", "value", "allowed"),
    [
        *(
            (model_type, *unsupported)
            for model_type, unsupported in itertools.product(
                BERTS,
                [
                    ("hidden_act", "swish", GELUS),
                    ("position_embedding_type", "relative_key", ["absolute"]),
                    ("is_decoder", True, [False]),
                    ("add_cross_attention", True, [False]),
                ],
            )
        ),
        ("distilbert", "activation", "swish", GELUS),
    ],
)
def test_unsupported_value_is_refused(model_type, name, value, allowed):
    problem = f"{name}: must be one of {allowed}, got {value!r}"
    with pytest.raises(ValueError, match=rf"{model_type}':\n  {re.escape(problem)}$"):
        read_config(RAW[model_type] | {name: value})
