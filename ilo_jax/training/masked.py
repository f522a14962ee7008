"""The loss of a masked language model: some tokens are hidden, and are to be found."""

import unicodedata
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float64, Int, Int32, Int64, Key

from ilo_jax import sharding
from ilo_jax.compiling.parts import part
from ilo_jax.compiling.program import by_parts
from ilo_jax.corpora.packing import Rows, Sentences, even_batches
from ilo_jax.corpora.tokens import special_ids
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.losses import token_losses
from ilo_jax.models.parameters import Weights
from ilo_jax.models.transformer import Transformer
from ilo_jax.training.language import Batch
from ilo_jax.training.step import Loss, Total

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HIDDEN, REPLACED = 0.8, 0.1
"""Of the tokens that are to be found, what share becomes the mask token, and what share another
token; the rest stays as it is (Devlin et al. 2019, section 3.1)."""


SPACES = ("Ġ", "▁")
"""How tokenizers write the space before a word."""


class Vocabulary(NamedTuple):
    """What masking must know of a vocabulary."""

    mask: int
    """Id of the token that hides others."""
    special: Bool[np.ndarray, " vocab"]
    """Whether a token is the tokenizer's own, by its id: such a one is never hidden."""
    ordinary: Int32[np.ndarray, " token"]
    """Ids of all others, one of which may take the place of another."""
    opens: Bool[np.ndarray, " vocab"] | None = None
    """Whether a token begins a word, by its id, where words are hidden whole; None: each token is
    hidden by itself."""


class Masked(NamedTuple):
    """Rows some of whose tokens are to be found."""

    seen: Int[Array, "row seq"]
    """The tokens that the model is given."""
    chosen: Bool[Array, "row seq"]
    """Where a token is to be found."""


def masking_vocabulary(
    tokenizer: "PreTrainedTokenizerBase", *, whole_words: bool = False
) -> Vocabulary:
    """What masking must know of a tokenizer's vocabulary.

    Args:
        tokenizer: With a mask token.
        whole_words: Whether words are hidden whole; see `word_openings`.

    Raises:
        ValueError: If it has no mask token.
    """
    mask = tokenizer.mask_token_id
    if not isinstance(mask, int):
        raise ValueError(
            "a masked language model needs a tokenizer with a mask token, got one without"
        )
    special = np.isin(np.arange(len(tokenizer)), sorted(special_ids(tokenizer)))
    ordinary = np.flatnonzero(~special).astype(np.int32)
    opens = word_openings(tokenizer) if whole_words else None
    return Vocabulary(mask, special, ordinary, opens)


def word_openings(tokenizer: "PreTrainedTokenizerBase") -> Bool[np.ndarray, " vocab"]:
    """Whether a token begins a word, by its id.

    Where a tokenizer marks what goes on with a word, by ##, all else begins one; elsewhere what has
    a space before it does, and what begins with neither letter, mark nor digit. (Where a word has
    no space before it, as in Thai or Chinese, a word is all up to the next sign.)

    Raises:
        ValueError: If it has neither.
    """
    tokens = tokenizer.convert_ids_to_tokens([*range(len(tokenizer))])
    if any(token.startswith("##") for token in tokens):
        return np.array([not token.startswith("##") for token in tokens])
    spaced = [token.startswith(SPACES) for token in tokens]
    if not any(spaced):
        raise ValueError(
            "whole words need a tokenizer that marks where words begin, by one of "
            f"{', '.join(SPACES)}, or go on, by ##; got one that does neither"
        )
    texts = (tokenizer.convert_tokens_to_string([token]) for token in tokens)
    return np.array([own or not _goes_on(text) for own, text in zip(spaced, texts, strict=True)])


def _goes_on(text: str) -> bool:
    """Whether a token's text may stand within a word: also bytes that are no whole letter."""
    return bool(text) and (text[0] == "\ufffd" or unicodedata.category(text[0])[0] in "LMN")


@part("share")
def masked(rows: Rows, vocabulary: Vocabulary, key: Key[Array, ""], *, share: float) -> Masked:
    """Rows some of whose tokens are hidden, drawn from a key.

    Each ordinary token that is a `target` is chosen with a probability of `share`, independently
    of the others; where words are hidden whole, all tokens of a word together. Of those chosen the
    model sees the mask token in place of 80 %, a random ordinary token in place of 10 %, and the
    rest as they are (Devlin et al. 2019, section 3.1).

    Args:
        rows: Packed text.
        vocabulary: Its tokens.
        key: Of this part of this step.
        share: Of the tokens, in (0, 1).
    """
    shape = rows.tokens.shape
    first, second, other = jax.random.split(key, 3)
    chance, fate = jax.random.uniform(first, shape), jax.random.uniform(second, shape)
    if vocabulary.opens is not None:
        chance = jnp.take_along_axis(chance, _first_of_word(rows, vocabulary.opens), axis=1)
    own = rows.special | jnp.asarray(vocabulary.special)[rows.tokens]
    chosen = ~own & rows.target & (rows.segments > 0) & (chance < share)
    number = jax.random.randint(other, shape, 0, len(vocabulary.ordinary))
    replaced = jnp.asarray(vocabulary.ordinary)[number]
    hidden = jnp.where(fate < HIDDEN, vocabulary.mask, replaced)
    seen = jnp.where(chosen & (fate < HIDDEN + REPLACED), hidden, rows.tokens)
    return Masked(seen.astype(rows.tokens.dtype), chosen)


def _first_of_word(rows: Rows, opens: Bool[Any, " vocab"]) -> Int[Array, "row seq"]:
    """The place in its row of the first token of each token's word."""
    begins = jnp.asarray(opens)[rows.tokens] | (rows.positions == 0) | rows.special
    places = jnp.broadcast_to(jnp.arange(rows.tokens.shape[1]), rows.tokens.shape)
    return jax.lax.cummax(jnp.where(begins, places, 0), axis=1)


def masked_tokens(
    config: ModelConfig,
    mesh: Mesh,
    vocabulary: Vocabulary,
    *,
    share: float,
    dtype: DTypeLike,
    remat: bool = False,
    fsdp: bool | None = None,
) -> Loss:
    """Make the loss of the tokens that are hidden, in nats; it counts them.

    Which they are depends on the key of the part and so on the number of the step: no two epochs
    hide the same.

    Args:
        config: Of the model, with a head; its attention is its own, causal or not.
        mesh: On which the weights lie.
        vocabulary: Of the text.
        share: Of the tokens, in (0, 1).
        dtype: Of the computation.
        remat: Whether differentiation computes each block again rather than keep its products.
        fsdp: Whether weights, and so their gradients, are split over "data", too; None: gradients
            lie as the compiler likes.
    """
    assemble = parameters.assembler(config, mesh, dtype=dtype, fsdp=fsdp)

    def loss(trainable: Weights, frozen: Weights, batch: Batch, key: Key[Array, ""]) -> Total:
        hidden = masked(batch.rows, vocabulary, key, share=share)
        losses = _losses(assemble(trainable | frozen), batch.rows, hidden, remat=remat)
        return Total(losses.sum(), hidden.chosen.sum())

    return loss


def _losses(
    model: Transformer, rows: Rows, hidden: Masked, *, remat: bool = False
) -> Float[Array, "row seq"]:
    """The loss of each token, in nats; 0 where it is not to be found."""
    final = model.run(rows._replace(tokens=hidden.seen), remat=remat).value
    return token_losses(model, final, rows.tokens, hidden.chosen)


class Found(NamedTuple):
    """How well hidden tokens of sentences were found."""

    losses: Float64[np.ndarray, " sent"]
    """Nats, over the tokens of each sentence that were hidden."""
    counts: Int64[np.ndarray, " sent"]
    """How many these are."""


def compiled_masked(
    config: ModelConfig,
    mesh: Mesh,
    vocabulary: Vocabulary,
    *,
    share: float,
    batch_tokens: int,
    dtype: DTypeLike,
) -> Callable[[Transformer, Sentences], Found]:
    """The function that hides tokens of sentences, always the same, and lets models find them.

    All processes of the mesh must call it with the same sentences, and each gets all values.

    Args:
        config: Of the models, whose weights lie on `mesh`.
        mesh: With an axis "data".
        vocabulary: Of the sentences.
        share: Of the tokens that are hidden, in (0, 1).
        batch_tokens: Positions computed at a time on each place along "data".
        dtype: To compute in, whatever that of the weights.
    """
    assemble = parameters.assembler(config, mesh, dtype=dtype)

    def of_segments(weights: Weights, rows: Rows, key: Key[Array, ""]) -> tuple[Array, Array]:
        hidden = masked(rows, vocabulary, key, share=share)
        losses = _losses(assemble(weights), rows, hidden)
        sums = jax.vmap(partial(jax.ops.segment_sum, num_segments=losses.shape[1] + 1))
        counts = sums(hidden.chosen.astype(jnp.int32), rows.segments)
        return sums(losses, rows.segments)[:, 1:], counts[:, 1:]

    step = by_parts(of_segments, mesh, out_shardings=sharding.replicated(mesh))

    def found(model: Transformer, sentences: Sentences) -> Found:
        weights, key = parameters.weights(model), jax.random.key(0)
        losses, counts = np.zeros(len(sentences.lengths)), np.zeros(len(sentences.lengths), int)
        batches = even_batches(sentences, batch_tokens=batch_tokens, places=mesh.shape["data"])
        for number, (planned, rows) in enumerate(batches):
            placed = sharding.place_whole(rows, sharding.along_data(mesh))
            sums = jax.device_get(step(weights, placed, jax.random.fold_in(key, number)))
            row, segment = np.nonzero(planned >= 0)
            losses[planned[row, segment]], counts[planned[row, segment]] = (
                array[row, segment] for array in sums
            )
        return Found(losses, counts)

    return found
