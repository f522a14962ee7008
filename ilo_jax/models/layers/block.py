"""One block of a transformer: attention and MLP, and where the norms stand."""

from collections.abc import Callable
from typing import TypeVar

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from ilo_jax.models.config import BlockConfig
from ilo_jax.models.layers.attention import Attention, Layout
from ilo_jax.models.layers.mlp import Mlp
from ilo_jax.models.layers.norm import Normalize

T = TypeVar("T")


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
        self, hidden: Float[Array, "batch seq dim"], at: Layout
    ) -> Float[Array, "batch seq dim"]:
        """Return the residual stream after the block."""
        return self.show(hidden, at, neurons=lambda neurons: None)[0]

    def show(
        self,
        hidden: Float[Array, "batch seq dim"],
        at: Layout,
        *,
        neurons: Callable[[Float[Array, "batch seq neuron"]], T],
    ) -> tuple[Float[Array, "batch seq dim"], T]:
        """Return the residual stream after the block, and what is made of the MLP's neurons."""

        def mlp(normed: Array) -> tuple[Array, T]:
            active = self.mlp.neurons(normed)
            return self.mlp.down(active), neurons(active)

        if self.config.parallel:
            return self._parallel(hidden, at, mlp)
        if self.config.norm_place == "post":
            hidden = _apply(self.attn_norm, hidden + self.attn(hidden, at))
            update, shown = mlp(hidden)
            return _apply(self.mlp_norm, hidden + update), shown
        update = self.attn(_apply(self.attn_norm, hidden), at)
        hidden = hidden + _apply(self.attn_out_norm, update)
        update, shown = mlp(_apply(self.mlp_norm, hidden))
        return hidden + _apply(self.mlp_out_norm, update), shown

    def _parallel(
        self,
        hidden: Float[Array, "batch seq dim"],
        at: Layout,
        mlp: Callable[[Array], tuple[Array, T]],
    ) -> tuple[Float[Array, "batch seq dim"], T]:
        """Both layers read the stream as it is (Wang and Komatsuzaki 2021)."""
        normed = _apply(self.attn_norm, hidden)
        for_mlp = normed if self.config.shared_norm else _apply(self.mlp_norm, hidden)
        update, shown = mlp(for_mlp)
        return hidden + self.attn(normed, at) + update, shown
