import json
import re

import pytest

from ilo_jax.models.hub.families import FAMILIES
from ilo_jax.models.hub.wrapped import refuse_adapter, refuse_wrapped

LLAMA = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight", "lm_head.weight")
BARE = ("embed_tokens.weight", "layers.0.mlp.up_proj.weight")
BERT = ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
RENAMED = "with save_pretrained, or rename the tensors to be without"
PARALLEL = "DataParallel, DistributedDataParallel or DeepSpeed: save model.module"
UNMERGED = "PEFT, not merged yet: save model.merge_and_unload() with save_pretrained"


def before(start: str, names: tuple[str, ...]) -> list[str]:
    return [f"{start}{name}" for name in names]


@pytest.mark.parametrize(
    ("family", "names", "shown", "advice"),
    [
        (
            "llama",
            before("_orig_mod.", LLAMA),
            "_orig_mod.",
            f"torch.compile: save model._orig_mod {RENAMED}",
        ),
        ("llama", before("module.", BARE), "module.", f"{PARALLEL} {RENAMED}"),
        (
            "bert",
            before("module._orig_mod.", BERT),
            "module. and _orig_mod.",
            f"torch.compile: save model._orig_mod; {PARALLEL} {RENAMED}",
        ),
        (
            "llama",
            ["model._orig_mod.embed_tokens.weight", "lm_head.weight"],
            "_orig_mod.",
            f"torch.compile: save model._orig_mod {RENAMED}",
        ),
        (
            "llama",
            ["model.embed_tokens.weight", "model.layers.0._fsdp_wrapped_module.mlp.up_proj.weight"],
            "_fsdp_wrapped_module.",
            f"FSDP: save its full state dict {RENAMED}",
        ),
        ("llama", before("base_model.model.", LLAMA), "base_model.model.", UNMERGED),
        ("bert", before("base_model.model.", BERT), "base_model.model.", UNMERGED),
        (
            "llama",
            [*LLAMA, "model.layers.0.self_attn.q_proj.base_layer.weight"],
            "base_layer.",
            UNMERGED,
        ),
        (
            "llama",
            before("model.", LLAMA),
            "model.",
            f"a module around the model: save its model {RENAMED}",
        ),
        (
            "bert",
            before("net.encoder.", BERT),
            "net.encoder.",
            f"a module around the model: save its net.encoder {RENAMED}",
        ),
        (
            "xlm-roberta",
            ["0.auto_model.embeddings.word_embeddings.weight"],
            "0.auto_model.",
            f"sentence-transformers: save model[0].auto_model {RENAMED}",
        ),
        (
            "gemma3_text",
            before("model.language_model.", BARE),
            "model.language_model.",
            f"a model of more than text: save its language model {RENAMED}",
        ),
    ],
)
def test_wrapper_is_named_with_what_to_do(family, names, shown, advice):
    message = f"their names have {shown} in them, from {advice}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse_wrapped(names, FAMILIES[family])


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("llama", LLAMA),
        ("llama", BARE),
        ("bert", BERT),
        ("bert", BARE),
        ("llama", ("draft.model.embed_tokens.weight", *LLAMA)),
    ],
)
def test_a_models_own_names_and_those_of_others_are_no_wrappers(family, names):
    refuse_wrapped(names, FAMILIES[family])


@pytest.mark.parametrize(
    ("config", "base"),
    [({"base_model_name_or_path": "owner/base"}, "owner/base"), ({}, "its base model")],
)
def test_adapter_alone_is_refused(tmp_path, config, base):
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").touch()
    message = f"{tmp_path} holds an adapter, not a model: merge it into {base} with peft."
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        refuse_adapter(tmp_path)
    (tmp_path / "model.safetensors").touch()
    refuse_adapter(tmp_path)
