"""Weights that are not a model's own: those of a wrapper around it, or of an adapter to it."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from ilo_jax.models.hub.checkpoint import ADAPTER
from ilo_jax.models.hub.families import Family

WRAPPERS = {
    "_orig_mod": "torch.compile: save model._orig_mod",
    "_fsdp_wrapped_module": "FSDP: save its full state dict",
    "_checkpoint_wrapped_module": "activation checkpointing: save the model in it",
    "_forward_module": "Lightning's strategies: save the model in it",
    "module": "DataParallel, DistributedDataParallel or DeepSpeed: save model.module",
    "auto_model": "sentence-transformers: save model[0].auto_model",
    "language_model": "a model of more than text: save its language model",
}
"""What puts a word into the names of tensors, and which model to save instead."""

ADAPTERS = ("base_model", "base_layer", "lora_A", "lora_B", "modules_to_save")
"""Words of PEFT, whose adapters change what the weights beside them give."""

INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", *ADAPTERS[1:])
"""Words that stand between others, too: their wrappers go around single layers."""


def refuse_wrapped(names: Iterable[str], family: Family) -> None:
    """Stop if the names of a checkpoint's tensors are a model's with words of a wrapper in them.

    Raises:
        ValueError: Naming the words, what put them there and how to be rid of it.
    """
    parts = [name.split(".") for name in names]
    inside = [word for word in INSIDE if any(word in part for part in parts)]
    outside = _before([".".join(w for w in part if w not in INSIDE) for part in parts], family)
    if inside or outside:
        shown = " and ".join(([outside] if outside else []) + [f"{word}." for word in inside])
        words = [*outside.split("."), *inside]
        raise ValueError(f"their names have {shown} in them, from {_advice(outside, words)}")


def _advice(outside: str, words: Sequence[str]) -> str:
    """What put words into the names, and what to do about it."""
    if set(words) & set(ADAPTERS):
        return "PEFT, not merged yet: save model.merge_and_unload() with save_pretrained"
    known = [cause for word, cause in WRAPPERS.items() if word in words]
    causes = "; ".join(known) or f"a module around the model: save its {outside[:-1]}"
    return f"{causes} with save_pretrained, or rename the tensors to be without"


def _before(names: Sequence[str], family: Family) -> str:
    """What stands before all that a family's names begin with; told by the token embedding."""
    table = f"{family.names['embed/tokens'].module}.weight"
    tables = table, table.removeprefix(family.prefix)
    starts = [
        name.removesuffix(known)
        for known in tables
        for name in names
        if f".{name}".endswith(f".{known}")
    ]
    return "" if "" in starts else next(iter(starts), "")


def refuse_adapter(folder: Path) -> None:
    """Stop if a folder holds an adapter and no model.

    Raises:
        OSError: If its adapter_config.json cannot be read.
        ValueError: Naming the adapter's base model and how to merge the two.
    """
    config = folder / "adapter_config.json"
    weights = {*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")}
    if not config.is_file() or weights - {folder / ADAPTER}:
        return
    try:
        base = json.loads(config.read_text())["base_model_name_or_path"]
    except (KeyError, TypeError, ValueError):
        base = "its base model"
    raise ValueError(
        f"{folder} holds an adapter, not a model: merge it into {base} with "
        "peft.PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(NEW)"
    )
