"""What the config.json of any family comes down to, and the mechanisms that follow from it."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

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
from ilo_jax.models.hub.families.rotary import FULL, SLIDING, Rotary, ropes
from ilo_jax.models.initial import Init
from ilo_jax.models.rotary import Rope

WITH_HEAD = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForPreTraining")
"""Endings of the architectures whose head we have; any other is read as a bare backbone."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The vocabulary in which a family's row is written.

    A default is the absence of a mechanism; what a family has, its row says.
    """

    vocab: int
    dim: int
    layers: int
    heads: int
    mlp_dim: int | None = None
    """None: four times `dim`."""
    activation: str
    norm_eps: float
    max_positions: int | None = None
    architectures: list[str] | None = None
    causal: bool = True

    inner_dim: int | None = None
    embed_scaled: bool = False
    """Whether embeddings are multiplied by the square root of `dim`."""
    embed_norm: bool = False
    token_types: int = 0

    positions: str = "rope"
    """"rope", "alibi", "learned" or "sinusoidal"."""
    offset: int = 0
    """Row of the first position, beside the `max_positions` others."""
    padding_row: int | None = None
    """Row before that of the first position, and counted in `max_positions` (RoBERTa)."""
    rotary: Rotary

    kv_heads: int | None = None
    head_dim: int | None = None
    scale_dim: float | None = None
    """Its inverse square root multiplies the scores; None: the head's dims."""
    scaled: bool = True
    scaled_by_layer: bool = False
    """Whether the scores of block i, from 0, are also divided by i + 1."""
    qkv_bias: bool = False
    out_bias: bool = False
    softcap: float | None = None
    qk_norm: bool = False
    qk_norm_over: str = "head"

    window: int | None = None
    windowed: bool = True
    """Whether the window is in use."""
    layer_types: list[str] | None = None
    full_every: int | None = None
    """Which blocks see everything where `layer_types` does not say: each n-th."""
    windowed_from: int | None = None
    """Or: those before this one."""

    norm_kind: str
    norm_bias: bool = False
    norm_scale: bool = True
    norm_from_one: bool = False
    norm_place: str = "pre"
    parallel: bool = False
    shared_norm: bool = False
    no_final_norm: bool = False

    gated: bool = False
    mlp_bias: bool = False

    tied: bool
    head_dense: bool = False
    """Whether a masked language model's dense layer, norm and bias stand in the head."""
    logit_scale: float = 1.0
    logit_softcap: float | None = None

    init_std: float = 0.02
    init_by_depth: bool = False
    drop_embedding: float = 0.0
    drop_attention: float = 0.0
    drop_residual: float = 0.0
    drop_mlp_out: float = 0.0
    drop_neurons: float = 0.0
    drop_blocks: float = 0.0

    def __post_init__(self):
        sizes = {name: getattr(self, name) for name in SIZES}
        if small := [f"{n} {v}" for n, v in sizes.items() if v is not None and v < 1]:
            raise ValueError(f"sizes in config.json must be at least 1, got {', '.join(small)}")

    @property
    def norm(self) -> Norm:
        """The norm of the residual stream."""
        return Norm(
            kind=self.norm_kind,
            eps=self.norm_eps,
            bias=self.norm_bias,
            scale=self.norm_scale,
            from_one=self.norm_from_one,
        )


SIZES = """vocab dim layers heads kv_heads head_dim mlp_dim max_positions window inner_dim
    full_every scale_dim""".split()
ROTARY = {field.name for field in dataclasses.fields(Rotary)}


def gather(values: dict[str, Any]) -> Facts:
    """The facts, those of rotary positions in their own place."""
    rotary = Rotary(**{name: value for name, value in values.items() if name in ROTARY})
    others = {name: value for name, value in values.items() if name not in ROTARY}
    return Facts(**others, rotary=rotary)


def model_config(facts: Facts) -> ModelConfig:
    """The mechanisms that follow from the facts.

    Raises:
        ValueError: For facts that contradict each other.
    """
    norm = facts.norm
    return ModelConfig(
        causal=facts.causal,
        embedding=_embedding(facts),
        blocks=tuple(_block(facts, attention) for attention in _attentions(facts)),
        final_norm=norm if facts.norm_place != "post" and not facts.no_final_norm else None,
        head=_head(facts),
        max_positions=_max_positions(facts),
        init=Init(std=facts.init_std, by_depth=facts.init_by_depth),
        dropout=_dropout(facts),
    )


def _dropout(facts: Facts) -> Dropout:
    return Dropout(
        embedding=facts.drop_embedding,
        attention=facts.drop_attention,
        residual=facts.drop_residual,
        mlp_out=facts.drop_mlp_out,
        neurons=facts.drop_neurons,
        blocks=facts.drop_blocks,
    )


def _max_positions(facts: Facts) -> int | None:
    if facts.padding_row is None or facts.max_positions is None:
        return facts.max_positions
    return facts.max_positions - facts.padding_row - 1


def _embedding(facts: Facts) -> EmbeddingConfig:
    learned = facts.positions == "learned"
    offset = facts.offset if facts.padding_row is None else facts.padding_row + 1
    return EmbeddingConfig(
        vocab=facts.vocab,
        dim=facts.dim,
        inner_dim=None if facts.inner_dim == facts.dim else facts.inner_dim,
        scale=math.sqrt(facts.dim) if facts.embed_scaled else 1.0,
        positions=facts.positions if facts.positions in {"learned", "sinusoidal"} else "none",
        rows=(facts.max_positions or 0) + facts.offset if learned else 0,
        offset=offset,
        padding=facts.padding_row,
        token_types=facts.token_types,
        norm=facts.norm if facts.embed_norm else None,
    )


def _block(facts: Facts, attention: AttentionConfig) -> BlockConfig:
    return BlockConfig(
        attention=attention,
        mlp=MlpConfig(
            dim=4 * facts.dim if facts.mlp_dim is None else facts.mlp_dim,
            activation=facts.activation,
            gated=facts.gated,
            bias=facts.mlp_bias,
        ),
        norm=facts.norm,
        norm_place=facts.norm_place,
        parallel=facts.parallel,
        shared_norm=facts.shared_norm,
    )


def _attentions(facts: Facts) -> list[AttentionConfig]:
    """One for each block."""
    if facts.head_dim is None and facts.dim % facts.heads:
        raise ValueError(f"dim ({facts.dim}) must be a multiple of heads, {facts.heads}")
    head_dim = facts.dim // facts.heads if facts.head_dim is None else facts.head_dim
    turned: dict[str, Rope | None] = {FULL: None, SLIDING: None}
    if facts.positions == "rope":
        turned = ropes(facts.rotary, head_dim=head_dim, max_positions=facts.max_positions)
    common = AttentionConfig(
        heads=facts.heads,
        kv_heads=facts.heads if facts.kv_heads is None else facts.kv_heads,
        head_dim=head_dim,
        scale=_scale(facts, head_dim),
        qkv_bias=facts.qkv_bias,
        out_bias=facts.out_bias,
        alibi=facts.positions == "alibi",
        softcap=facts.softcap,
        qk_norm=dataclasses.replace(facts.norm, bias=False) if facts.qk_norm else None,
        qk_norm_over=facts.qk_norm_over,
    )
    return [
        dataclasses.replace(
            common,
            scale=common.scale / (i + 1) if facts.scaled_by_layer else common.scale,
            rope=turned[kind],
            window=facts.window if kind == SLIDING else None,
        )
        for i, kind in enumerate(_layer_types(facts))
    ]


def _scale(facts: Facts, head_dim: int) -> float:
    if not facts.scaled:
        return 1.0
    return (head_dim if facts.scale_dim is None else facts.scale_dim) ** -0.5


def _layer_types(facts: Facts) -> list[str]:
    """For each block whether its attention slides or is full."""
    if facts.layer_types is not None:
        odd = sorted(set(map(str, facts.layer_types)) - {FULL, SLIDING})
        if odd or len(facts.layer_types) != facts.layers:
            raise ValueError(
                f"layer_types must be {facts.layers} of {FULL!r} and {SLIDING!r}, "
                f"got {facts.layer_types}"
            )
        if SLIDING in facts.layer_types and (facts.window is None or not facts.windowed):
            raise ValueError(
                f"layer_types has {SLIDING!r}, but the window is {facts.window} "
                f"and {'in' if facts.windowed else 'not in'} use"
            )
        return facts.layer_types
    if facts.window is None or not facts.windowed:
        return [FULL] * facts.layers
    if facts.full_every is not None:
        return [FULL if (i + 1) % facts.full_every == 0 else SLIDING for i in range(facts.layers)]
    first = facts.windowed_from or 0
    return [SLIDING if i >= first else FULL for i in range(facts.layers)]


def _head(facts: Facts) -> HeadConfig:
    # Without a word of its architecture, a decoder is a language model, an encoder is not.
    has_head = (
        facts.causal
        if not facts.architectures
        else any(str(name).endswith(WITH_HEAD) for name in facts.architectures)
    )
    if not has_head:
        return HeadConfig(kind="none")
    return HeadConfig(
        kind="tied" if facts.tied else "own",
        bias=facts.head_dense,
        scale=facts.logit_scale,
        softcap=facts.logit_softcap,
        activation=facts.activation if facts.head_dense else None,
        norm=facts.norm if facts.head_dense else None,
    )
