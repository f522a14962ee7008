"""What `experiments.bench.extract` gives everyone to do: sentences, and one model twice."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from experiments.hardware import settled
from experiments.settings import Source
from experiments.states import open_model, read_corpus
from ilo_jax.activations.taps import Tap, read
from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.tokens import token_ids
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.families import family_of, read_config
from ilo_jax.models.hub.folder import Folder
from ilo_jax.models.hub.oracle import torch_model
from ilo_jax.models.hub.placement import sources, without_prefix
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh

RANDOM: dict[str, dict[str, Any]] = {
    "llama8b": {
        "model_type": "llama",
        "architectures": ["LlamaModel"],
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        "tie_word_embeddings": False,
    }
}
"""Shapes of models to be filled with random weights, as config.json has them."""


class Work(NamedTuple):
    """Sentences, and a model twice: as ours and as torch's."""

    name: str
    """Name of the model."""
    model: Transformer
    theirs: Any
    """The same in `transformers`."""
    mesh: Mesh
    """Mesh of one device."""
    languages: Sequence[str]
    sentences: Sequence[Sentences]
    """Token ids of each language's sentences, of which all have as many."""
    dtype: str
    """Type of the weights and of the computation."""
    batch_tokens: int
    """Ours, as `experiments.extract` has it."""
    torch_batch: int
    """Torch's, in sentences; 0: the best of a few."""
    scratch: Path
    """Folder for what is stored."""

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The mean over tokens of every hidden state."""
        return read("residual:mean", self.model.config)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each sentence of all languages."""
        return np.concatenate([each.lengths for each in self.sentences])

    def ids(self) -> list[np.ndarray]:
        """The token ids of each sentence of all languages."""
        tokens = np.concatenate([each.tokens for each in self.sentences])
        return np.split(tokens.astype(np.int64), np.cumsum(self.lengths)[:-1])


def prepare(
    source: Source,
    *,
    random: str | None,
    dtype: str,
    torch_batch: int,
    scratch: Path,
) -> Work:
    """A corpus and a model, or a shape with random weights, as something to do.

    Args:
        source: Which of both, and our `batch_tokens`; of the model only the tokenizer, if weights
            are random.
        random: None, or one of `RANDOM`.
        dtype: Of the weights and of the computation.
        torch_batch: Torch's, in sentences; 0: the best of a few.
        scratch: Folder for what is stored.

    Raises:
        ImportError: If torch, or the sample model's package, is not installed.
        OSError: If a file is absent.
        ValueError: If the corpus or the model cannot be used.
    """
    corpus, folder = read_corpus(source), open_model(source)
    name, config = folder.name, folder.config
    sentences = token_ids(corpus, folder.tokenizer, prefix="", limits=config.limits)
    if random:
        name, rng = f"random {random}", np.random.default_rng(0)
        models = random_model(RANDOM[random], dtype)
        sentences = [random_ids(each, models[0].config.vocab, rng) for each in sentences]
    else:
        models = stored_model(folder, dtype)
    given = (corpus.languages, sentences, dtype, settled(source).batch_tokens, torch_batch, scratch)
    return Work(name, *models, make_mesh(data=1), *given)


def random_ids(sentences: Sentences, vocab: int, rng: np.random.Generator) -> Sentences:
    """Sentences of the same lengths, made up of any tokens."""
    tokens = rng.integers(0, vocab, len(sentences.tokens), np.int32)
    return sentences._replace(tokens=tokens)


def stored_model(folder: Folder, dtype: str) -> tuple[Transformer, Any]:
    """The model of a folder, as ours and as torch's."""
    ours = loading.load(folder, mesh=make_mesh(data=1), dtype=jnp.dtype(dtype))
    theirs = torch_model(folder, dtype=dtype, head=False)
    return ours, bare(theirs.to(torch_device()))


def random_model(raw: Mapping[str, Any], dtype: str) -> tuple[Transformer, Any]:
    """A model with random weights that never leave the device, as ours and as torch's."""
    config, mesh = read_config(raw), make_mesh(data=1)
    ours = parameters.abstract(config, dtype=jnp.dtype(dtype), mesh=mesh)
    lies = parameters.shardings(ours, mesh, fsdp=False)
    build = partial(parameters.build, config, dtype=jnp.dtype(dtype))
    made = jax.jit(lambda: parameters.weights(build(rngs=nnx.Rngs(0))), out_shardings=lies)()
    parameters.put(ours, made)
    shapes = {path: array.shape for path, array in made.items()}
    found = without_prefix(sources(family_of(raw), config, shapes), family_of(raw))
    # One by one: transposing makes a copy.
    named = ((f.tensor, made[p].T if f.transposed else made[p]) for p, f in found.items())
    return ours, torch_like(raw, named, dtype)


def torch_like(raw: Mapping[str, Any], weights: Iterable[tuple[str, jax.Array]], dtype: str) -> Any:
    """The model of a configuration, made where torch computes.

    Args:
        raw: As config.json has it.
        weights: All that it has, by their names in `transformers`.
        dtype: Of the weights.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device(torch_device()):
        model = AutoModel.from_config(AutoConfig.for_model(**raw), dtype=getattr(torch, dtype))
    mine = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights:
            mine.pop(name).copy_(torch.from_dlpack(weight))
    assert not mine
    return bare(model)


def torch_device() -> str:
    """Where torch computes."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def bare(model: Any) -> Any:
    """A model that computes only what is asked of it."""
    model.config.use_cache = False
    if hasattr(model, "pooler"):
        model.pooler = None
    return model.eval()
