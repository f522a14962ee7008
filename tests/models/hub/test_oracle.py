"""The oracle is the class that transformers has for a folder, and runs nothing of the folder."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.hub.oracle import torch_model


@pytest.mark.parametrize(
    ("variant", "head", "kind"),
    [
        ("llama-gqa", True, "LlamaForCausalLM"),
        ("llama-gqa", False, "LlamaModel"),
        ("bert-mlm", True, "BertForMaskedLM"),
    ],
)
def test_the_model_is_that_of_the_folder(tiny, variant, head, kind):
    folder, theirs = tiny(variant)
    model = torch_model(open_folder(folder), dtype="float32", head=head, attention="eager")
    assert type(model).__name__ == kind
    assert not model.training
    saved = theirs.state_dict() if head else theirs.model.state_dict()
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in saved.items())


def test_the_dtype_is_that_asked_for(tiny):
    model = torch_model(open_folder(tiny("llama-gqa").folder), dtype="bfloat16", head=False)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


def test_pickled_weights_are_not_read(copied):
    folder = copied("llama-gqa")
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        torch_model(open_folder(folder), dtype="float32", head=True)


@pytest.mark.parametrize("damage", ["a value of another type", "a pooler of another shape"])
def test_what_transformers_cannot_load_is_one_line(copied, damage):
    """Though ours can: it computes no pooler, and a whole number is a number to it."""
    folder = copied("bert-model")
    if damage.startswith("a value"):
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(raw | {"layer_norm_eps": 1}))
    else:
        tensors = load_file(folder / "model.safetensors")
        tensors |= {"pooler.dense.bias": np.zeros(3, np.float32)}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    message = f"^transformers cannot load {re.escape(str(folder))}: [^\\n]+$"
    with pytest.raises(ValueError, match=message):
        torch_model(open_folder(folder), dtype="float32", head=False)
