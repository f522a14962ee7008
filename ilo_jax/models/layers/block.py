"""One block of a transformer: attention and MLP, and where the norms stand."""

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.config import BlockConfig
from ilo_jax.models.layers.attention import Attention
from ilo_jax.models.layers.layout import Layout
from ilo_jax.models.layers.mlp import Mlp
from ilo_jax.models.layers.norm import Normalize
from ilo_jax.models.sites import LayerVisit, passing


def _apply(norm: Normalize | None, hidden: Array) -> Array:
    return hidden if norm is None else norm(hidden)


class Block(nnx.Module):
    """Attention and MLP, each added to the residual stream.

    `attn_norm` and `mlp_norm` are of a layer's input, or of the stream after its sum
    (Vaswani et al. 2017) where `norm_place` is "post"; `attn_out_norm` and `mlp_out_norm`
    are of a layer's output.
    """

    def __init__(self, config: BlockConfig, *, dim: int, dtype: DTypeLike, rngs: nnx.Rngs):
        def norm(*places: str) -> Normalize | None:
            wanted = config.norm_place in places
            return Normalize(config.norm, dim, dtype=dtype) if wanted else None

        self.config = config
        self.attn_norm = norm("pre", "post", "sandwich")
        self.attn = Attention(config.attention, dim=dim, dtype=dtype, rngs=rngs)
        self.attn_out_norm = norm("out", "sandwich")
        self.mlp_norm = None if config.shared_norm else norm("pre", "post", "sandwich")
        self.mlp = Mlp(config.mlp, dim=dim, dtype=dtype, rngs=rngs)
        self.mlp_out_norm = norm("out", "sandwich")

    def __call__(
        self, hidden: Float[Array, "batch seq dim"], at: Layout, visit: LayerVisit = passing
    ) -> Float[Array, "batch seq dim"]:
        """The residual stream after the block."""
        if self.config.parallel:
            return self._parallel(hidden, at, visit)
        if self.config.norm_place == "post":
            hidden = _apply(self.attn_norm, hidden + self._attention(hidden, at, visit))
            return _apply(self.mlp_norm, hidden + self._mlp(hidden, visit))
        hidden = hidden + self._attention(_apply(self.attn_norm, hidden), at, visit)
        return hidden + self._mlp(_apply(self.mlp_norm, hidden), visit)

    def _parallel(self, hidden: Array, at: Layout, visit: LayerVisit) -> Array:
        """The stream, to which both layers add what they make of it as it was.

        Source: Wang and Komatsuzaki 2021.
        """
        normed = _apply(self.attn_norm, hidden)
        for_mlp = normed if self.config.shared_norm else _apply(self.mlp_norm, hidden)
        return hidden + self._attention(normed, at, visit) + self._mlp(for_mlp, visit)

    def _attention(self, normed: Array, at: Layout, visit: LayerVisit) -> Array:
        """What attention adds to the stream."""
        return visit("attn_out", _apply(self.attn_out_norm, self.attn(normed, at, visit)))

    def _mlp(self, normed: Array, visit: LayerVisit) -> Array:
        """What the MLP adds to the stream."""
        return visit("mlp_out", _apply(self.mlp_out_norm, self.mlp(normed, visit)))
