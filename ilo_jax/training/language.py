"""The loss of a causal language model, over rows of a packed text."""

from typing import NamedTuple

from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.losses import next_token_losses, predicted
from ilo_jax.models.parameters import Weights
from ilo_jax.models.transformer import Transformer
from ilo_jax.training.step import Loss, Total


class Batch(NamedTuple):
    """What one step learns from."""

    rows: Rows
    """Each array "part row seq"."""
    kept: Float[Array, "*part row seq dim"] | None = None
    """The hidden state before the lowest block that trains, where it is known already."""


def next_token(
    config: ModelConfig,
    mesh: Mesh,
    *,
    dtype: DTypeLike,
    lowest: int = 0,
    remat: bool = False,
    fsdp: bool | None = None,
) -> Loss:
    """Make the next-token loss, in nats; it counts the tokens that are predicted.

    The model is put together in `dtype` from both kinds of weights, so that those that train
    stay float32. Nothing below the lowest block that trains is gone through backwards, or at
    all where a `Batch` brings its kept states.

    Args:
        config: Of the model, causal with a head.
        mesh: On which the weights lie.
        dtype: Of the computation.
        lowest: Block that the kept states of a batch lead up to, if it has them.
        remat: Whether differentiation computes each block again rather than keep its products.
        fsdp: Whether weights, and so their gradients, are split over "data", too; None: gradients
            lie as the compiler likes.
    """
    assemble = parameters.assembler(config, mesh, dtype=dtype, fsdp=fsdp)

    def loss(trainable: Weights, frozen: Weights, batch: Batch, key: Key[Array, ""]) -> Total:
        model = assemble(trainable | frozen)
        final = _final(model, batch, lowest=lowest, remat=remat)
        losses = next_token_losses(model, final, batch.rows)
        return Total(losses.sum(), predicted(batch.rows).sum())

    return loss


def _final(
    model: Transformer, batch: Batch, *, lowest: int, remat: bool
) -> Float[Array, "row seq dim"]:
    """The last hidden state, from the kept one where there is one."""
    blocks = range(0 if batch.kept is None else lowest, model.config.layers)
    return model.run(batch.rows, hidden=batch.kept, blocks=blocks, remat=remat).value
