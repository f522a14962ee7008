"""The loop in which a model speaks: prompts read by parts, then one compiled loop of tokens.

    decoder = Decoder(model.config, model.mesh, dtype=model.dtype, sites=["residual"])
    request = Request(sampling(2, temperature=0.7), keys=jax.random.split(jax.random.key(0), 2),
                      ends=np.arange(vocab) == 2, edits=held([[edit], []], model.config))
    said = generate(decoder, parameters.weights(model), prompts(ids, config.limits), request)

A row says what it says whatever the batch, its place in it, the padding and the mesh.
"""

from collections.abc import Iterator, Sequence
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from ilo_jax.compiling.program import ByParts, by_parts
from ilo_jax.corpora.packing import Rows
from ilo_jax.generation.edits import INSIDE, LAST, SAID, Edits, holding
from ilo_jax.generation.past import begun
from ilo_jax.generation.requests import (
    Prompts,
    Request,
    bucket,
    fitted,
    place,
    refuse_speechless,
    repeated,
)
from ilo_jax.generation.state import RUNNING, Progress, Said, State, advanced, fresh, lies, said
from ilo_jax.models import parameters
from ilo_jax.models.cache import SITES, Cache, caching, keeping, kept
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.layers.layout import Places
from ilo_jax.models.layers.rope import turned_anew
from ilo_jax.models.parameters import Weights
from ilo_jax.models.sites import At, Shown, in_turn, reading, widths
from ilo_jax.models.transformer import Transformer
from ilo_jax.refusals import refuse
from ilo_jax.sharding import along_data, place_whole


class Decoder:
    """Models of one configuration that speak: compiled for each bucket, whatever is asked."""

    def __init__(
        self, config: ModelConfig, mesh: Mesh, *, dtype: DTypeLike, sites: Sequence[str] = ()
    ):
        """A decoder.

        Args:
            config: Of the models.
            mesh: On which their weights lie: rows are split over its "data", heads over "model".
            dtype: To compute in, whatever that of the weights.
            sites: At which values are shown of each token that is said, in every layer.

        Raises:
            ValueError: If such models do not say anything, or naming sites that they do not have.
        """
        refuse_speechless(config)
        _refuse_unreadable(sites, config)
        self.config, self.mesh, self.dtype, self.sites = config, mesh, dtype, tuple(sites)
        self.reading = reading(config, *sites)
        self.assemble = parameters.assembler(config, mesh, dtype=dtype)
        self.starting = cache(self._starting)
        self.going = jax.jit(
            self._go_on, donate_argnames=("held", "shown"), out_shardings=lies(config, mesh)
        )

    def start(
        self, weights: Weights, prompts: Prompts, request: Request, *, room: int, samples: int = 1
    ) -> State:
        """The state in which all but the last token of each prompt have been read.

        Args:
            weights: Of the model, by path.
            prompts: To be read.
            request: Of each prompt.
            room: For so many tokens to be said.
            samples: How many rows are made of each prompt, one after the other.
        """
        start = self.starting(bucket(room), samples)
        return start(weights, prompts, request)

    def go_on(self, weights: Weights, state: State, request: Request, *, steps: int) -> State:
        """The state after the next tokens: of every row so many more, if it has not ended.

        Args:
            weights: Of the model, by path.
            state: Before, which is consumed.
            request: Of each row.
            steps: How many tokens, at most what there is room for.
        """
        progress, held, shown = state
        return self.going(weights, progress, held, shown, request, jnp.int32(steps))

    def _starting(self, room: int, samples: int) -> ByParts:
        def start(weights: Weights, prompts: Prompts, request: Request) -> State:
            slots = prompts.tokens.shape[1] + room
            held = self._read(self.assemble(weights), prompts, request.edits, slots=slots)
            past = begun(prompts.tokens, prompts.lengths, positions=slots)
            past, held = jax.tree.map(partial(_repeated, samples=samples), (past, held))
            maximum = jnp.repeat(request.sampling.maximum, samples)
            state = fresh(past, held, maximum, room=room)
            return state._replace(shown=self._nothing(room, len(past.lengths)))

        return by_parts(start, self.mesh, out_shardings=lies(self.config, self.mesh))

    def _nothing(self, room: int, rows: int) -> dict[At, Array]:
        """Room for what is shown."""
        return {
            at: jnp.zeros((room, rows, *shape), self.dtype)
            for at, shape in widths(self.config).items()
            if at[0] in self.sites
        }

    def _read(self, model: Transformer, prompts: Prompts, edits: Edits, *, slots: int) -> Cache:
        """What is kept of all but the last token of each prompt."""
        seq = jnp.arange(prompts.tokens.shape[1])[None]
        inside = seq < prompts.lengths[:, None] - 1
        places = Places(jnp.where(inside, seq, 0), inside.astype(jnp.int32))
        visit = in_turn(
            holding(edits, jnp.full(prompts.tokens.shape, INSIDE)), keeping(self.config)
        )
        ran = model.run(_rows(prompts.tokens, places), visit=visit)
        # Nobody fills the last slot of the bucket: the last token of a prompt is read by the loop.
        return kept(ran.shown, places, slots=slots)._replace(filled=jnp.int32(seq.size - 1))

    def _go_on(
        self,
        weights: Weights,
        progress: Progress,
        held: Cache,
        shown: dict[At, Array],
        request: Request,
        steps: Array,
    ) -> State:
        model, end = self.assemble(weights), progress.number + steps

        def wanted(state: State) -> Array:
            now = state.progress
            going = now.waiting if self.sites else now.ended == RUNNING
            return going.any() & (now.number < end)

        def step(state: State) -> State:
            return self._step(model, state, request)

        return lax.while_loop(wanted, step, State(progress, held, shown))

    def _step(self, model: Transformer, state: State, request: Request) -> State:
        """Read the last token of each row, and say the next one."""
        now = state.progress
        places = Places((now.past.lengths - 1)[:, None], now.waiting[:, None].astype(jnp.int32))
        stages = jnp.broadcast_to(jnp.where(now.number == 0, LAST, SAID), places.positions.shape)
        held = self._turned(model, state, request, places)
        visit = in_turn(holding(request.edits, stages), self.reading, caching(held))
        seen = held.seen(places)
        ran = model.run(_rows(now.past.last[:, None], places), visit=visit, seen=seen)
        scored = model.score(ran.value, visit=visit)
        return State(
            advanced(now, scored.value[:, 0].astype(jnp.float32), request),
            held.grown(ran.shown, places),
            _kept(state.shown, ran.shown | scored.shown, now.number),
        )

    def _turned(self, model: Transformer, state: State, request: Request, places: Places) -> Cache:
        """What was read: read again where a longer text is rotated otherwise from its start on."""
        ropes = dict.fromkeys(block.attention.rope for block in self.config.blocks)
        turned = [turned_anew(rope, state.progress.past.lengths) for rope in ropes if rope]
        anew = [rows & state.progress.waiting for rows in turned if rows is not None]
        if not anew:
            return state.cache
        again = partial(self._again, model, state, request, places)
        return lax.cond(jnp.any(jnp.stack(anew)), again, lambda: state.cache)

    def _again(self, model: Transformer, state: State, request: Request, places: Places) -> Cache:
        """What was read, as it is when the tokens at some places are read, too."""
        now, held = state.progress, state.cache
        seen, slots = held.seen(places), held.places.positions.shape[1]
        first, slot = held.filled - now.number, jnp.arange(slots)[None]
        stages = jnp.where(slot < first, INSIDE, jnp.where(slot == first, LAST, SAID))
        edits = holding(request.edits, jnp.broadcast_to(stages, seen.positions.shape))
        tokens = jnp.take_along_axis(now.past.tokens, seen.positions, axis=1)
        ran = model.run(_rows(tokens, seen), visit=in_turn(edits, keeping(self.config)), seen=seen)
        return kept(ran.shown, held.places, slots=slots)._replace(filled=held.filled)


def _kept(shown: dict[At, Array], values: Shown, number: Array) -> dict[At, Array]:
    """All that was shown, with the values of the token that was just read.

    The first is the prompt's last; it is written over.
    """
    at_token = jnp.maximum(number - 1, 0)
    return {at: held.at[at_token].set(values[at][:, 0]) for at, held in shown.items()}


def _rows(tokens: Int[Array, "row seq"], places: Places) -> Rows:
    nothing = jnp.zeros(tokens.shape, bool)
    return Rows(tokens, *places, special=nothing, target=nothing)


def _repeated(array: Array, samples: int) -> Array:
    return array if array.ndim == 0 else jnp.repeat(array, samples, axis=0)


def _refuse_unreadable(sites: Sequence[str], config: ModelConfig) -> None:
    there = dict.fromkeys(site for site, _ in widths(config) if site not in SITES)
    problems = [site for site in sites if site not in there]
    allowed = ", ".join(there)
    refuse(f"what is shown of tokens must be at sites of {allowed}; got", problems, inline=True)


def speaking(
    decoder: Decoder,
    weights: Weights,
    prompts: Prompts,
    request: Request,
    *,
    samples: int = 1,
    steps: int | None = None,
) -> Iterator[Said]:
    """Yield all that a model has said after each prompt, every few tokens, until all have ended.

    All processes of the mesh call it with the same arguments, and each gets everything.

    Args:
        decoder: Of the model's configuration.
        weights: Of the model, by path.
        prompts: To be read.
        request: Of each prompt.
        samples: How many answers each prompt is given, one after the other.
        steps: Tokens between two yields; None: as many as there are.
    """
    count, mesh = len(prompts.lengths) * samples, decoder.mesh
    prompts, request = fitted(prompts, request, decoder.config, places=mesh.shape["data"])
    room = max(1, int(np.max(request.sampling.maximum)))
    placed, asked = place_whole(prompts, along_data(mesh)), place(request, mesh)
    state = decoder.start(weights, placed, asked, room=room, samples=samples)
    each = place(repeated(request, samples), mesh)
    # One more, in which the last tokens are read where something is to be shown of them.
    every = room + 1 if steps is None else steps
    for _ in range(0, room + 1, every):
        state = decoder.go_on(weights, state, each, steps=every)
        yield (now := said(state, mesh, rows=count))
        if now.ended.all():
            return


def generate(
    decoder: Decoder, weights: Weights, prompts: Prompts, request: Request, *, samples: int = 1
) -> Said:
    """What a model says after each prompt: the last that `speaking` yields.

    Args:
        decoder: Of the model's configuration.
        weights: Of the model, by path.
        prompts: To be read.
        request: Of each prompt.
        samples: How many answers each prompt is given, one after the other.
    """
    (said,) = speaking(decoder, weights, prompts, request, samples=samples)
    return said
