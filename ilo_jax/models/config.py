"""What a transformer is made of. A model is configured by mechanism, never by its name."""

from dataclasses import dataclass, field

from ilo_jax.corpora.limits import Limits
from ilo_jax.models.initial import Init
from ilo_jax.models.rotary import Rope


@dataclass(frozen=True, kw_only=True)
class Norm:
    """Normalisation over the last axis: "layer" takes the mean away first, "rms" does not."""

    kind: str
    eps: float
    bias: bool = False
    scale: bool = True
    """Whether it has learned weights."""
    from_one: bool = False
    """Whether its weights are stored as differences from one (Gemma)."""

    def __post_init__(self):
        if self.kind not in {"rms", "layer"}:
            raise ValueError(f'kind of a norm must be "rms" or "layer", got {self.kind!r}')


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """How one block attends: grouped heads, and what is done to their scores."""

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    """Multiplies the product of query and key."""
    qkv_bias: bool = False
    out_bias: bool = False
    rope: Rope | None = None
    alibi: bool = False
    """Whether scores fall linearly with distance (Press et al. 2022)."""
    window: int | None = None
    """How many last tokens, its own included, a token sees; None: all."""
    softcap: float | None = None
    """Scores become `softcap * tanh(scores / softcap)`."""
    qk_norm: Norm | None = None
    """Norm of queries and keys, before they are rotated."""
    qk_norm_over: str = "head"
    """What it covers: "head" (weights shared by all heads), "each" (every head has its
    own weights) or "all" (the heads together)."""

    def __post_init__(self):
        covers = ("head", "each", "all")
        if self.qk_norm_over not in covers:
            raise ValueError(f"qk_norm_over must be one of {covers}, got {self.qk_norm_over!r}")
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads ({self.heads}) must be a multiple of kv_heads, {self.kv_heads}"
            )
        if self.rope is not None and self.rope.dims > self.head_dim:
            raise ValueError(
                f"rotary dims ({self.rope.dims}) must be at most head_dim, {self.head_dim}"
            )


@dataclass(frozen=True, kw_only=True)
class MlpConfig:
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` where gated."""

    dim: int
    activation: str
    gated: bool = False
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class BlockConfig:
    """How one block adds attention and MLP to the residual stream."""

    attention: AttentionConfig
    mlp: MlpConfig
    norm: Norm
    norm_place: str
    """"pre" (of each layer's input), "post" (of the stream after each sum), "out" (of each
    layer's output) or "sandwich" (of input and output)."""
    parallel: bool = False
    """Whether attention and MLP both read the stream as it enters the block."""
    shared_norm: bool = False
    """Whether a parallel block has one norm for both."""

    def __post_init__(self):
        places = ("pre", "post", "out", "sandwich")
        if self.norm_place not in places:
            raise ValueError(f"norm_place must be one of {places}, got {self.norm_place!r}")
        if (self.parallel and self.norm_place != "pre") or (self.shared_norm and not self.parallel):
            raise ValueError(
                "parallel blocks need norm_place 'pre', and a shared norm needs a parallel block"
            )


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """How token ids become the first hidden state."""

    vocab: int
    dim: int
    inner_dim: int | None = None
    """Width of the table where a matrix projects it to `dim` (OPT-350m)."""
    scale: float = 1.0
    """Multiplies the rows of the table."""
    positions: str = "none"
    """What is added for the position: "none", "learned" or "sinusoidal"."""
    rows: int = 0
    """Rows of the learned position table, `offset` included."""
    offset: int = 0
    """Row of the first position."""
    padding: int | None = None
    """Id of the token from which `transformers` counts positions and to which it gives none
    (RoBERTa): no sentence may have it. None: positions are the same whatever the tokens."""
    token_types: int = 0
    """Rows of the token type table; the first is added."""
    norm: Norm | None = None

    def __post_init__(self):
        kinds = ("none", "learned", "sinusoidal")
        if self.positions not in kinds:
            raise ValueError(f"positions must be one of {kinds}, got {self.positions!r}")
        if self.positions == "sinusoidal" and self.dim < 4:
            raise ValueError(f"sinusoidal positions need at least 4 dims, got {self.dim}")


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How the last hidden state becomes scores of the vocabulary."""

    kind: str
    """A matrix "tied" to the embedding, its "own" matrix, or "none": a bare backbone."""
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    activation: str | None = None
    """Activation of the dense layer that a masked language model has first; None: no such layer."""
    norm: Norm | None = None
    """After that dense layer."""

    def __post_init__(self):
        if self.kind not in {"tied", "own", "none"}:
            raise ValueError(f'kind of a head must be "tied", "own" or "none", got {self.kind!r}')


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """What share of values the model's authors dropped in training; nothing is, at inference."""

    embedding: float = 0.0
    """Share of the first hidden state."""
    attention: float = 0.0
    """Share of the weights of attention."""
    residual: float = 0.0
    """Share of what attention and MLP add to the residual stream."""
    mlp_out: float = 0.0
    """Share of what the MLP alone adds to the residual stream (DistilBERT)."""
    neurons: float = 0.0
    """Share of what the MLP projects down."""
    blocks: float = 0.0
    """Share of whole blocks."""

    def __post_init__(self):
        if odd := [f"{name} {rate}" for name, rate in vars(self).items() if not 0 <= rate < 1]:
            raise ValueError(f"dropout must be in [0, 1), got {', '.join(odd)}")

    @property
    def rates(self) -> dict[str, float]:
        """Those that are not 0, by what they are of."""
        return {name: rate for name, rate in vars(self).items() if rate}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A transformer: embedding, blocks, final norm and head."""

    causal: bool
    """Whether a token sees only itself and those before it: a decoder, not an encoder."""
    embedding: EmbeddingConfig
    blocks: tuple[BlockConfig, ...]
    final_norm: Norm | None
    head: HeadConfig
    max_positions: int | None
    """The longest sentence, in tokens; None where nothing bounds it."""
    init: Init = field(default_factory=Init)
    dropout: Dropout = Dropout()

    @property
    def layers(self) -> int:
        """How many blocks; there is one hidden state more."""
        return len(self.blocks)

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return self.embedding.dim

    @property
    def vocab(self) -> int:
        """How many token ids there are."""
        return self.embedding.vocab

    @property
    def axis_counts(self) -> dict[str, int]:
        """How many parts each axis that a mesh may split has."""
        block = self.blocks[0]
        return {
            "head": block.attention.heads,
            "kv": block.attention.kv_heads,
            "mlp": block.mlp.dim,
            "vocab": self.vocab,
        }

    @property
    def limits(self) -> Limits:
        """What token ids the model takes."""
        return Limits(self.max_positions, self.vocab, self.embedding.padding)
