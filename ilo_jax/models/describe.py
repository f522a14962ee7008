"""The mechanisms of a model in words, for people."""

from collections.abc import Iterable

from ilo_jax.models.config import AttentionConfig, EmbeddingConfig, HeadConfig, ModelConfig
from ilo_jax.models.rotary import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    Rope,
    YarnScaling,
)

SCALINGS = {
    DynamicScaling: "dynamic",
    LinearScaling: "linear",
    Llama3Scaling: "llama3",
    LongScaling: "longrope",
    YarnScaling: "yarn",
}
"""Names of the scalings of rotary positions."""

COVERED = {
    "all": "over all heads",
    "each": "of each head, by its own weights",
    "head": "of each head",
}
"""What a qk-norm covers."""


def describe(config: ModelConfig) -> dict[str, str]:
    """What a model is made of, by mechanism: attention, positions, norms, and so on."""
    block = config.blocks[0]
    gated = "gated " if block.mlp.gated else ""
    sees = "causal" if config.causal else "bidirectional"
    return {
        "blocks": f"{config.layers}, {config.dim} wide, {sees}",
        "attention": attention(config),
        "positions": positions(config),
        "norms": norms(config),
        "mlp": f"{gated}{block.mlp.activation}, {block.mlp.dim} wide"
        + (", biases" if block.mlp.bias else ""),
        "embedding": embedding(config.embedding),
        "head": head(config.head),
    }


def _distinct(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def attention(config: ModelConfig) -> str:
    """Heads, windows, and what is done to queries, keys and scores."""
    kinds = [block.attention for block in config.blocks]
    first = kinds[0]
    shared = {first.heads: "multi-head", 1: "multi-query"}.get(first.kv_heads, "grouped-query")
    words = [f"{shared} ({first.heads}/{first.kv_heads} of {first.head_dim})"]
    windows = _distinct("all" if k.window is None else str(k.window) for k in kinds)
    words += [f"windows {' and '.join(windows)}"] if windows != ["all"] else []
    words += [f"qk-norm {COVERED[first.qk_norm_over]}"] if first.qk_norm else []
    words += [f"soft-cap {first.softcap:g}"] if first.softcap else []
    words += [f"scale {first.scale:.4g}"] if not _usual_scale(kinds) else []
    biases = [name for name, has in (("qkv", first.qkv_bias), ("out", first.out_bias)) if has]
    words += [f"biases on {' and '.join(biases)}"] if biases else []
    return ", ".join(words)


def _usual_scale(kinds: list[AttentionConfig]) -> bool:
    return all(kind.scale == kind.head_dim**-0.5 for kind in kinds)


def positions(config: ModelConfig) -> str:
    """How the model knows where a token stands."""
    if config.embedding.positions != "none":
        offset = config.embedding.offset
        return config.embedding.positions + (f", from row {offset}" if offset else "")
    kinds = [block.attention for block in config.blocks]
    words = _distinct("ALiBi" if k.alibi else "none" if k.rope is None else _rope(k) for k in kinds)
    return " and ".join(words)


def _rope(kind: AttentionConfig) -> str:
    rope = kind.rope
    assert isinstance(rope, Rope)
    words = [f"RoPE {rope.theta:g}"]
    words += [f"{rope.dims} of {kind.head_dim} dims"] if rope.dims < kind.head_dim else []
    words += ["interleaved"] if rope.interleaved else []
    words += [SCALINGS[type(rope.scaling)]] if rope.scaling else []
    return ", ".join(words)


def norms(config: ModelConfig) -> str:
    """The kind of norm and its place in a block."""
    block = config.blocks[0]
    words = ["RMSNorm" if block.norm.kind == "rms" else "LayerNorm", block.norm_place]
    words += ["weights from one"] if block.norm.from_one else []
    words += ["bias"] if block.norm.bias else []
    words += ["no weights"] if not block.norm.scale else []
    words += ["parallel, one norm" if block.shared_norm else "parallel"] if block.parallel else []
    return ", ".join([*words, f"eps {block.norm.eps:g}"])


def embedding(config: EmbeddingConfig) -> str:
    """What is done to the rows of the token table."""
    words = [f"{config.vocab} tokens"]
    words += [f"{config.inner_dim} wide, projected"] if config.inner_dim else []
    words += [f"scaled by {config.scale:.4g}"] if config.scale != 1 else []
    words += ["normed"] if config.norm else []
    return ", ".join(words)


def head(config: HeadConfig) -> str:
    """How scores of the vocabulary come about."""
    if config.kind == "none":
        return "none"
    words = ["tied to the embedding" if config.kind == "tied" else "its own matrix"]
    words += ["after a dense layer"] if config.activation else []
    words += [f"scale {config.scale:g}"] if config.scale != 1 else []
    words += [f"soft-cap {config.softcap:g}"] if config.softcap else []
    return ", ".join(words)
