"""Bidirectional encoders: BERT and those that followed it."""

from ilo_jax.models.hub.families.family import (
    CHECKED,
    INERT,
    NO_CROSS_ATTENTION,
    PLAIN,
    Family,
    dropped,
    places,
)
from ilo_jax.models.hub.families.reading import NUMBER, Key, only

FACTS = {
    "causal": False,
    "norm_kind": "layer",
    "norm_bias": True,
    "norm_place": "post",
    "positions": "learned",
    "embed_norm": True,
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
    "head_dense": True,
}

LEFT_OUT = (
    r"(.*\.)?embeddings\.position_ids",
    r"(.*\.)?pooler\.dense\.(weight|bias)",
    r"(classifier|qa_outputs|pre_classifier)\..*",
)
"""Poolers, and heads of tasks that are not ours."""


def _bert_names(backbone: str) -> dict[str, str]:
    embeddings, block = f"{backbone}.embeddings", f"{backbone}.encoder.layer.*"
    return {
        "embed/tokens": f"{embeddings}.word_embeddings",
        "embed/positions": f"{embeddings}.position_embeddings",
        "embed/types": f"{embeddings}.token_type_embeddings",
        "embed/norm": f"{embeddings}.LayerNorm",
        "layers/*/attn/q": f"{block}.attention.self.query",
        "layers/*/attn/k": f"{block}.attention.self.key",
        "layers/*/attn/v": f"{block}.attention.self.value",
        "layers/*/attn/o": f"{block}.attention.output.dense",
        "layers/*/attn_norm": f"{block}.attention.output.LayerNorm",
        "layers/*/mlp/up": f"{block}.intermediate.dense",
        "layers/*/mlp/down": f"{block}.output.dense",
        "layers/*/mlp_norm": f"{block}.output.LayerNorm",
    }


BERT = Family(
    keys=CHECKED
    | NO_CROSS_ATTENTION
    | dropped("hidden_dropout_prob", "embedding residual", rate=0.1)
    | dropped("attention_probs_dropout_prob", "attention", rate=0.1)
    | {
        "architectures": Key("architectures", list, None),
        "vocab_size": Key("vocab", int),
        "hidden_size": Key("dim", int),
        "num_hidden_layers": Key("layers", int),
        "num_attention_heads": Key("heads", int),
        "intermediate_size": Key("mlp_dim", int),
        "hidden_act": Key("activation", str, "gelu", PLAIN),
        "layer_norm_eps": Key("norm_eps", NUMBER, 1e-12),
        "max_position_embeddings": Key("max_positions", int),
        "type_vocab_size": Key("token_types", int, 2),
        "tie_word_embeddings": Key("tied", bool, True),
        "position_embedding_type": only("absolute"),
        "is_decoder": only(value=False),
    },
    inert=INERT
    | set(
        """cross_attention_hidden_size directionality is_causal pooler_fc_size
        pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type""".split()
    ),
    facts=FACTS,
    names=places(
        _bert_names("bert")
        | {
            "head/dense": "cls.predictions.transform.dense",
            "head/norm": "cls.predictions.transform.LayerNorm",
            "head/out": "cls.predictions.decoder",
            "head": "cls.predictions",
        }
    ),
    prefix="bert.",
    ignored=(*LEFT_OUT, r"cls\.predictions\.decoder\.bias", r"cls\.seq_relationship\..*"),
    older={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    backbone="BertModel",
    language_model="BertForMaskedLM",
)

ROBERTA = BERT._replace(
    keys=BERT.keys | {"pad_token_id": Key("padding_row", int, 1)},
    names=places(
        _bert_names("roberta")
        | {
            "head/dense": "lm_head.dense",
            "head/norm": "lm_head.layer_norm",
            "head/out": "lm_head.decoder",
            "head": "lm_head",
        }
    ),
    prefix="roberta.",
    ignored=(*LEFT_OUT, r"lm_head\.decoder\.bias"),
    backbone="RobertaModel",
    language_model="RobertaForMaskedLM",
)

XLM_ROBERTA = ROBERTA._replace(
    backbone="XLMRobertaModel",
    language_model="XLMRobertaForMaskedLM",
)

DISTILBERT = Family(
    keys=CHECKED
    | dropped("dropout", "embedding mlp_out", rate=0.1)
    | dropped("attention_dropout", "attention", rate=0.1)
    | {
        "architectures": Key("architectures", list, None),
        "vocab_size": Key("vocab", int),
        "dim": Key("dim", int, also=("hidden_size",)),
        "n_layers": Key("layers", int, also=("num_hidden_layers",)),
        "n_heads": Key("heads", int, also=("num_attention_heads",)),
        "hidden_dim": Key("mlp_dim", int),
        "activation": Key("activation", str, "gelu", PLAIN),
        "max_position_embeddings": Key("max_positions", int),
        "tie_word_embeddings": Key("tied", bool, True),
    },
    # Sinusoidal tables are stored like learned ones; no code reads tie_weights_ any more.
    inert=INERT
    | {"is_causal", "qa_dropout", "seq_classif_dropout", "sinusoidal_pos_embds", "tie_weights_"},
    facts=FACTS | {"norm_eps": 1e-12},
    names=places({
        "embed/tokens": "distilbert.embeddings.word_embeddings",
        "embed/positions": "distilbert.embeddings.position_embeddings",
        "embed/norm": "distilbert.embeddings.LayerNorm",
        "layers/*/attn/q": "distilbert.transformer.layer.*.attention.q_lin",
        "layers/*/attn/k": "distilbert.transformer.layer.*.attention.k_lin",
        "layers/*/attn/v": "distilbert.transformer.layer.*.attention.v_lin",
        "layers/*/attn/o": "distilbert.transformer.layer.*.attention.out_lin",
        "layers/*/attn_norm": "distilbert.transformer.layer.*.sa_layer_norm",
        "layers/*/mlp/up": "distilbert.transformer.layer.*.ffn.lin1",
        "layers/*/mlp/down": "distilbert.transformer.layer.*.ffn.lin2",
        "layers/*/mlp_norm": "distilbert.transformer.layer.*.output_layer_norm",
        "head/dense": "vocab_transform",
        "head/norm": "vocab_layer_norm",
        "head/out": "vocab_projector",
        "head": "vocab_projector",
    }),
    prefix="distilbert.",
    ignored=LEFT_OUT,
    backbone="DistilBertModel",
    language_model="DistilBertForMaskedLM",
)
