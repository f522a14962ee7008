"""The model of a folder as `transformers` has it, by torch: what ours is held against."""

import sys
from typing import Any

from ilo_jax.models.hub.folder import Folder


def torch_model(folder: Folder, *, dtype: str, head: bool, attention: str | None = None) -> Any:
    """The torch model of a folder, ready to be called; nothing is fetched and no code of it run.

    Args:
        folder: Of the model; only its safetensors are read.
        dtype: Of the weights and of the computation, by torch's name.
        head: Whether it scores the vocabulary: the next token's, or an encoder's masked one.
        attention: Implementation, such as "eager", by the name of `transformers`; None: its choice.

    Raises:
        ImportError: If torch is not installed.
        OSError: If the folder has no weights that `transformers` reads.
        ValueError: If `transformers` cannot load it, for any other reason.
    """
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    # What its own reading runs into, where a folder is not as it expects.
    damage = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError)

    transformers.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        transformers.utils.logging.disable_progress_bar()
    kind = transformers.AutoModel
    if head:
        causal = folder.config.causal
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    try:
        model: Any = kind.from_pretrained(
            folder.path,
            dtype=getattr(torch, dtype),
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    except (*damage, StrictDataclassError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"transformers cannot load {folder.path}: {said}") from error
    return model.eval()
