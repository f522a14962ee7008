"""Configs as released: our reading against the model that `transformers` builds from each."""

import copy
import dataclasses
import functools
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch import nn

from ilo_jax.models.config import ModelConfig, Norm
from ilo_jax.models.hub.families import family_of, read_config
from ilo_jax.models.hub.placement import Source, account, sources
from ilo_jax.models.layers.mlp import ACTIVATIONS
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.layers.rope import rotation
from ilo_jax.models.parameters import abstract, shapes
from ilo_jax.models.rotary import Rope
from tests.models.variants import slow_but

RELEASED = json.loads((Path(__file__).parents[1] / "released.json").read_text())

KEPT = 4
"""How many blocks are built, the last ones: they see all kinds, as every sixth block is full."""
POINTS = np.linspace(-4, 4, 33, dtype=np.float32)

ACTIVATIONS_OF_TORCH = """act act_fn activation activation_fn gelu_impl
    intermediate_act_fn""".split()
"""What the models of `transformers` call the activation of their MLP."""
SAVED_AS = {"gpt_neox": ("lm_head.", "embed_out.")}
"""Modules that have another name in checkpoints."""

# A tanh gelu is 5e-4 off the exact one.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)


class Pair(NamedTuple):
    """What we read and what torch builds, of the last blocks, and where weights are in it."""

    config: ModelConfig
    model: Any
    windows: list[int | None]
    """Of all blocks, by torch's config."""
    shapes: dict[str, tuple[int, ...]]
    places: dict[str, Source]
    tensors: dict[str, tuple[int, ...]]
    """Shapes of all of torch's tensors but those that we ignore."""

    def module(self, path: str) -> Any:
        """Return torch's module with the weight of ours."""
        return self.model.get_submodule(self.places[path].tensor.rpartition(".")[0])

    def attention(self, block: int) -> Any:
        name = self.places[f"layers/{block}/attn/q/kernel"].tensor
        return self.model.get_submodule(name.rsplit(".", 2)[0])

    def block(self, block: int) -> Any:
        stacks = (m for m in self.model.modules() if isinstance(m, nn.ModuleList))
        return next(stacks)[block]


def windows(config: Any) -> list[int | None]:
    """Return the window of each block by torch's config."""
    window, layers = getattr(config, "sliding_window", None), config.num_hidden_layers
    types = getattr(config, "layer_types", None) or ["sliding_attention"] * layers
    return [window if kind == "sliding_attention" else None for kind in types]


def last_blocks(config: Any) -> Any:
    """Return torch's config of a model's last blocks alone."""
    config = copy.deepcopy(config)
    config.num_hidden_layers = KEPT
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[-KEPT:]
    return config


@functools.cache
def pair(name: str) -> Pair:
    raw = RELEASED[name]
    config = read_config(raw)
    config = dataclasses.replace(config, blocks=config.blocks[-KEPT:])
    # It writes its own defaults into the dict of rotary parameters it is given.
    theirs = transformers.AutoConfig.for_model(**copy.deepcopy(raw))
    kind = getattr(transformers, raw["architectures"][0])
    with torch.device("meta"):
        model = kind._from_config(last_blocks(theirs), attn_implementation="eager").eval()
    ours = {path: like.shape for path, like in shapes(abstract(config, dtype="float32")).items()}
    family = family_of(raw)
    tensors = {
        key.replace(*SAVED_AS.get(raw["model_type"], ("", ""))): tuple(value.shape)
        for key, value in model.state_dict().items()
    }
    places, ignored = account(
        sources(family, config, ours),
        family,
        dict.fromkeys(tensors, Path()),
        head=config.head.kind,
    )
    used = {key: shape for key, shape in tensors.items() if key not in ignored}
    return Pair(config, model, windows(theirs), ours, places, used)


def first(module: Any, *names: str, default: Any = None) -> Any:
    """Return the first attribute that a module has."""
    return next((getattr(module, name) for name in names if hasattr(module, name)), default)


FIRST = {raw["model_type"]: name for name, raw in reversed(RELEASED.items())}
each = pytest.mark.parametrize("name", slow_but(FIRST.values(), RELEASED))


@each
def test_weights(name):
    """None is missing or left over, with its shape: widths, biases, rows of every table."""
    _, _, _, ours, places, tensors = pair(name)
    assert {place.tensor: place.shape(ours[path]) for path, place in places.items()} == tensors


@each
def test_weights_of_a_block(name):
    ours = pair(name).shapes
    for i in range(KEPT):
        count = sum(math.prod(ours[path]) for path in ours if path.startswith(f"layers/{i}/"))
        assert count == sum(weight.numel() for weight in pair(name).block(i).parameters())


@each
def test_activation(name):
    config, *_ = pair(name)
    for i, block in enumerate(config.blocks):
        modules = pair(name).block(i).named_modules()
        (theirs,) = (m for path, m in modules if path.rpartition(".")[2] in ACTIVATIONS_OF_TORCH)
        ours = ACTIVATIONS[block.mlp.activation](jnp.asarray(POINTS))
        assert_close(ours, theirs(torch.from_numpy(POINTS)).numpy())


@functools.cache
def normed(config: Norm) -> np.ndarray:
    """Return POINTS, normalised with weights and biases of a half."""
    norm = Normalize(config, len(POINTS), dtype=jnp.float32)
    for weight in (norm.scale, norm.bias):
        if weight is not None:
            weight.set_value(jnp.full(len(POINTS), 0.5))
    return np.asarray(norm(jnp.asarray(POINTS + 1)))


@functools.cache
def normed_by_torch(kind: type[nn.Module], eps: float, *, bias: bool) -> np.ndarray:
    options = {} if bias or kind is not nn.LayerNorm else {"bias": bias}
    norm: Any = kind(len(POINTS), eps=eps, **options)
    for weight in norm.parameters():
        nn.init.constant_(weight, 0.5)
    with torch.no_grad():
        return norm(torch.from_numpy(POINTS + 1)).numpy()


def norms(config: ModelConfig) -> dict[str, Norm]:
    """Return the norms of a model, by the start of their paths."""
    found = {"norm": config.final_norm, "embed/norm": config.embedding.norm}
    for i, block in enumerate(config.blocks):
        places = ("attn_norm", "attn_out_norm", "mlp_norm", "mlp_out_norm")
        found |= {f"layers/{i}/{place}": block.norm for place in places}
        found |= {f"layers/{i}/attn/{p}_norm": block.attention.qk_norm for p in "qk"}
    return {path: norm for path, norm in found.items() if norm is not None}


@each
def test_norms(name):
    config, _, _, ours, *_ = pair(name)
    found = {path: norm for path, norm in norms(config).items() if f"{path}/scale" in ours}
    assert found
    for path, norm in found.items():
        theirs = pair(name).module(f"{path}/scale")
        assert norm.eps == first(theirs, "eps", "variance_epsilon"), path
        assert norm.bias == (getattr(theirs, "bias", None) is not None), path
        by_torch = normed_by_torch(type(theirs), norm.eps, bias=norm.bias)
        assert_close(normed(norm), by_torch)


@each
def test_attention(name):
    config, model, *_ = pair(name)
    for i, block in enumerate(config.blocks):
        ours, theirs = block.attention, pair(name).attention(i)
        assert ours.head_dim == first(theirs, "head_dim", "attention_head_size", "head_size")
        assert ours.heads == model.config.num_attention_heads
        assert ours.heads // ours.kv_heads == first(theirs, "num_key_value_groups", default=1)
        assert ours.scale == pytest.approx(first(theirs, "scaling", "inv_norm_factor"), rel=1e-9)
        assert ours.window == first(theirs, "sliding_window", default=windows(model.config)[i])
        assert ours.softcap == first(theirs, "attn_logit_softcapping")
        assert ours.alibi == hasattr(model.base_model, "build_alibi_tensor")
        assert config.causal == first(theirs, "is_causal", default=True)


@each
def test_window_of_every_block(name):
    blocks = read_config(RELEASED[name]).blocks
    assert [block.attention.window for block in blocks] == pair(name).windows


@each
def test_order_of_layers(name):
    """Where torch says it in a word, not in its weights alone."""
    for i, block in enumerate(pair(name).config.blocks):
        theirs = pair(name).block(i)
        assert block.parallel == first(theirs, "use_parallel_residual", default=block.shared_norm)
        pre = first(theirs, "do_layer_norm_before", default=block.norm_place != "post")
        assert (block.norm_place == "post") == (not pre)


def angles(rope: Rope, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the angle that the second token of a sentence is turned by, and its factor."""
    at, lengths = jnp.asarray([[1, length - 1]]), jnp.full((1, 2), length)
    cos, sin = (np.asarray(table)[0, 0] for table in rotation(rope, at, lengths))
    found = np.arctan2(sin, cos), np.hypot(cos, sin)
    pairs = np.repeat if rope.interleaved else np.tile
    return pairs(found[0], 2), pairs(found[1], 2)


def angles_by_torch(model: Any, block: int, length: int) -> tuple[np.ndarray, np.ndarray] | None:
    rotary = next((m for m in model.modules() if hasattr(m, "rope_type")), None)
    if rotary is None:
        return None
    rotary = type(rotary)(model.config)
    # Gemma 3 has one set of frequencies for each kind of block.
    kinds = not hasattr(rotary, "attention_scaling")
    kind = {"layer_type": model.config.layer_types[block]} if kinds else {}
    with torch.no_grad():
        cos, sin = rotary(torch.zeros(1), torch.tensor([[1, length - 1]]), **kind)
    cos, sin = cos[0, 0].numpy(), sin[0, 0].numpy()
    return np.arctan2(sin, cos), np.hypot(cos, sin)


@each
@pytest.mark.parametrize("end", ["short", "long"])
def test_rotary_positions(name, end):
    config, model, *_ = pair(name)
    length = 64 if end == "short" else config.max_positions or 4096
    kinds = {(b.attention.rope, b.attention.window): i for i, b in enumerate(config.blocks)}
    for (rope, window), i in kinds.items():
        theirs = angles_by_torch(model, i, length)
        # Cohere 2 has the module too, but full blocks do not call it.
        unused = theirs is None or (window is None and model.config.model_type == "cohere2")
        assert (rope is None) == unused
        if rope is not None and theirs is not None:
            ours = angles(rope, length)
            assert_close(ours[0], theirs[0], atol=0)
            assert_close(ours[1], theirs[1])


@each
def test_embedding(name):
    config, model, *_ = pair(name)
    ours, table = config.embedding, model.get_input_embeddings()
    assert (ours.vocab, ours.inner_dim or ours.dim) == table.weight.shape
    assert ours.scale == pytest.approx(first(table, "scalar_embed_scale", "embed_scale", default=1))
    sinusoidal = [m for m in model.modules() if "Sinusoidal" in type(m).__name__]
    assert (ours.positions == "sinusoidal") == bool(sinusoidal)
    if ours.positions == "learned":
        theirs = pair(name).module("embed/positions/embedding")
        assert ours.rows == theirs.num_embeddings
        padding = -1 if theirs.padding_idx is None else theirs.padding_idx
        assert ours.offset == first(theirs, "offset", default=padding + 1)
    elif sinusoidal:
        assert ours.offset == sinusoidal[0].offset


@each
def test_head(name):
    config, model, *_ = pair(name)
    out, table = model.get_output_embeddings(), model.get_input_embeddings()
    kind = "none" if out is None else "tied" if out.weight is table.weight else "own"
    assert config.head.kind == kind
    if kind != "none":
        assert config.head.scale == first(model, "logit_scale", default=1)
        assert config.head.softcap == first(model.config, "final_logit_softcapping")


def test_the_last_blocks_are_of_every_kind():
    for name in RELEASED:
        assert {b.attention.window for b in pair(name).config.blocks} == set(pair(name).windows)
