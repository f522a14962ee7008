"""Sites against torch's hooks at the same places: read, edited, and differentiated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from ilo_jax.models.sites import (
    Edit,
    Visit,
    editing,
    in_turn,
    reading,
    unvisited,
    visiting,
    widths,
)
from ilo_jax.models.transformer import Transformer
from tests.models.reading import rows_of

LLAMA = {
    "embedding": "model.embed_tokens/output",
    "attn_out": "model.layers.{}.self_attn/output",
    "heads": "model.layers.{}.self_attn.o_proj/input",
    "neurons": "model.layers.{}.mlp.down_proj/input",
    "mlp_out": "model.layers.{}.mlp/output",
    "residual": "model.layers.{}/input",
    "attn/q": "model.layers.{}.self_attn.q_proj",
    "attn/k": "model.layers.{}.self_attn.k_proj",
    "attn/v": "model.layers.{}.self_attn.v_proj",
    "attn/o": "model.layers.{}.self_attn.o_proj",
    "mlp/gate": "model.layers.{}.mlp.gate_proj",
    "mlp/up": "model.layers.{}.mlp.up_proj",
    "mlp/down": "model.layers.{}.mlp.down_proj",
    "head/out": "lm_head",
}
# Attention and MLP side by side; queries, keys and values are one matrix there.
NEOX = {
    "embedding": "gpt_neox.embed_in/output",
    "attn_out": "gpt_neox.layers.{}.attention/output",
    "heads": "gpt_neox.layers.{}.attention.dense/input",
    "neurons": "gpt_neox.layers.{}.mlp.dense_4h_to_h/input",
    "mlp_out": "gpt_neox.layers.{}.mlp/output",
    "residual": "gpt_neox.layers.{}/input",
    "attn/o": "gpt_neox.layers.{}.attention.dense",
    "mlp/up": "gpt_neox.layers.{}.mlp.dense_h_to_4h",
    "mlp/down": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "head/out": "lm_head",
}
# An encoder, with norms behind the sums.
BERT = {
    "embedding": "bert.embeddings.word_embeddings/output",
    "attn_out": "bert.encoder.layer.{}.attention.output.dense/output",
    "heads": "bert.encoder.layer.{}.attention.output.dense/input",
    "neurons": "bert.encoder.layer.{}.output.dense/input",
    "mlp_out": "bert.encoder.layer.{}.output.dense/output",
    "residual": "bert.encoder.layer.{}/input",
    "attn/q": "bert.encoder.layer.{}.attention.self.query",
    "attn/k": "bert.encoder.layer.{}.attention.self.key",
    "attn/v": "bert.encoder.layer.{}.attention.self.value",
    "attn/o": "bert.encoder.layer.{}.attention.output.dense",
    "mlp/up": "bert.encoder.layer.{}.intermediate.dense",
    "mlp/down": "bert.encoder.layer.{}.output.dense",
    "head/dense": "cls.predictions.transform.dense",
    "head/out": "cls.predictions.decoder",
}
PLACES = {"llama-gqa": LLAMA, "gpt_neox-quarter": NEOX, "bert-mlm": BERT}
"""Where torch has a site of ours, or both ends of a linear map, by variant."""
THREE = pytest.mark.parametrize("variant", PLACES)
FOUR = pytest.mark.parametrize("variant", [*PLACES, "gemma2-both"])

At = tuple[str, int]


def torch_places(variant: str, layers: int) -> dict[At, tuple[str, str]]:
    """Module and end of it, by our site and layer."""
    found = {}
    for site, place in PLACES[variant].items():
        for layer in range(layers if "{}" in place else 1):
            module, _, end = place.format(layer).partition("/")
            ends = {site: end} if end else {f"{site}/{end}": end for end in ("input", "output")}
            found |= {(name, layer): (module, end) for name, end in ends.items()}
    return found


@contextmanager
def hooked(model: Any, hooks: dict[tuple[str, str], Callable]) -> Iterator[None]:
    """Put what a function makes of a value in its place, by module and end of it."""

    def before(change: Callable) -> Callable:
        return lambda _, inputs: (change(inputs[0]), *inputs[1:])

    def after(change: Callable) -> Callable:
        def hook(_, inputs, output):
            if isinstance(output, tuple):
                return (change(output[0]), *output[1:])
            return change(output)

        return hook

    handles = []
    for (name, end), change in hooks.items():
        module = model.get_submodule(name)
        if end == "input":
            handles.append(module.register_forward_pre_hook(before(change)))
        else:
            handles.append(module.register_forward_hook(after(change)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def torch_logits(model: Any, batch: Any, hooks: dict[tuple[str, str], Callable]) -> torch.Tensor:
    mask = torch.from_numpy(batch.segments > 0).long()
    with hooked(model, hooks):
        return model(torch.from_numpy(batch.tokens).long(), attention_mask=mask).logits


def both(model: Transformer, rows, visit: Visit) -> tuple[jax.Array, dict[At, Any]]:
    """Scores and all that a visit shows, of the blocks and of the head."""
    ran = model.run(rows, visit=visit)
    scored = model.score(ran.value, visit=visit)
    return scored.value, ran.shown | scored.shown


def rows(batch) -> Any:
    return rows_of(*map(jnp.asarray, batch[:3]))


# Nobody there, and somebody who does nothing


@FOUR
def test_the_identity_at_every_site_is_no_visit(ours, packed, variant):
    """Bit by bit, and in the text of the program."""
    shapes = widths(ours(variant).config)
    seen = set()

    def leave(site: str, given: tuple, value: jax.Array) -> tuple[jax.Array, None]:
        seen.add((site, value.shape[2:]))
        return value, None

    identity = Visit(leave, dict.fromkeys(shapes, ()))
    graph, state = nnx.split(ours(variant))

    def scores(state, rows, visited):
        model = nnx.merge(graph, state)
        if visited:
            return both(model, rows, identity)[0]
        return model.logits(model.run(rows).value)

    compiled = [
        jax.jit(scores, static_argnums=2).lower(state, rows(packed), visited)
        for visited in (False, True)
    ]
    assert compiled[0].as_text() == compiled[1].as_text()
    assert np.array_equal(*(one.compile()(state, rows(packed)) for one in compiled))
    assert seen == {(site, shape) for (site, _), shape in shapes.items()}


def test_a_visit_comes_by_every_site_and_layer_once(ours, packed):
    model, seen = ours("gemma2-both"), []

    def look(site: str, layer: int, value: jax.Array) -> tuple[jax.Array, None]:
        seen.append(((site, layer), value.shape[2:]))
        return value, None

    jax.eval_shape(lambda: both(model, rows(packed), visiting(look, model.config)))
    assert dict(seen) == widths(model.config)
    assert len(seen) == len(dict(seen))


def cost(model: Transformer, batch, visit) -> tuple[float, int]:
    """Operations and bytes of temporary memory of a forward."""
    graph, state = nnx.split(model)

    def final(state, rows):
        return nnx.merge(graph, state).run(rows, visit=visit).value

    compiled = jax.jit(final).lower(state, rows(batch)).compile()
    counted, memory = compiled.cost_analysis(), compiled.memory_analysis()
    assert counted is not None
    assert memory is not None
    return counted["flops"], memory.temp_size_in_bytes


def test_a_visit_costs_what_is_done_there_and_nothing_elsewhere(ours, packed):
    model = ours("llama-gqa")
    width = model.config.blocks[1].mlp.dim
    edit = Edit(jnp.full(width, 2.0)[None, None], jnp.ones(width)[None, None])
    flops, memory = cost(model, packed, reading(model.config, "neurons"))
    assert (flops, memory) == cost(model, packed, unvisited)
    edited = cost(model, packed, editing({("neurons", 1): edit}, model.config))
    assert edited[0] - flops == 2 * packed.tokens.size * width
    assert edited[1] <= memory + 4 * packed.tokens.size * width


# Against torch's hooks


@THREE
def test_what_is_read_is_what_torchs_hooks_see(tiny, ours, assert_close, padded, variant):
    found: dict[tuple[str, str], np.ndarray] = {}
    places = torch_places(variant, ours(variant).config.layers)

    def keep(place: tuple[str, str]) -> Callable:
        return lambda value: found.setdefault(place, value.numpy()) is None or value

    with torch.no_grad():
        torch_logits(tiny(variant).torch, padded, {place: keep(place) for place in places.values()})
    sites = {site for site, _ in places}
    read = reading(ours(variant).config, *sites)
    _, shown = nnx.jit(partial(both, visit=read))(ours(variant), rows(padded))
    assert set(places) | {("residual", ours(variant).config.layers)} == set(shown)
    for at, place in places.items():
        got = np.asarray(shown[at]).reshape(*padded.tokens.shape, -1)
        expected = found[place].reshape(got.shape)
        for where in padded.places:
            assert_close(got[where], expected[where])


UNIT, VALUE, HEAD = 5, 3.0, 1


def vector(width: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=width).astype(np.float32)


def set_unit(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value[..., UNIT] = VALUE
    return value


def set_unit_here(shape: tuple[int, ...]) -> Edit:
    scale, shift = np.ones(shape, np.float32), np.zeros(shape, np.float32)
    scale[UNIT], shift[UNIT] = 0, VALUE
    return Edit(jnp.asarray(scale)[None, None], jnp.asarray(shift)[None, None])


def add_vector(value: torch.Tensor) -> torch.Tensor:
    return value + torch.from_numpy(vector(value.shape[-1]))


def add_vector_here(shape: tuple[int, ...]) -> Edit:
    return Edit(jnp.ones((1, 1, 1)), jnp.asarray(vector(shape[-1]))[None, None])


def zero_head(value: torch.Tensor) -> torch.Tensor:
    heads = value.clone().reshape(*value.shape[:2], 4, -1)
    heads[:, :, HEAD] = 0
    return heads.reshape(value.shape)


def zero_head_here(shape: tuple[int, ...]) -> Edit:
    scale = np.ones((1, 1, shape[0], 1), np.float32)
    scale[:, :, HEAD] = 0
    return Edit(jnp.asarray(scale), jnp.zeros((1, 1, 1, 1)))


EDITS = {
    "set a unit": ("neurons", set_unit, set_unit_here),
    "add a vector": ("residual", add_vector, add_vector_here),
    "zero a head": ("heads", zero_head, zero_head_here),
}


@THREE
@pytest.mark.parametrize("edit", EDITS)
def test_what_is_edited_is_what_torchs_hooks_edit(tiny, ours, assert_close, padded, variant, edit):
    site, theirs, here = EDITS[edit]
    model, layer = ours(variant), 1
    place = torch_places(variant, 2)[site, layer]
    with torch.no_grad():
        plain = torch_logits(tiny(variant).torch, padded, {}).numpy()
        expected = torch_logits(tiny(variant).torch, padded, {place: theirs}).numpy()
    visit = editing({(site, layer): here(widths(model.config)[site, layer])}, model.config)
    got, _ = nnx.jit(partial(both, visit=visit))(model, rows(padded))
    for where in padded.places:
        assert_close(np.asarray(got)[where], expected[where])
    assert np.abs(expected - plain)[padded.segments > 0].max() > 0.05


def test_an_edit_is_data_one_compile_serves_them_all(ours, padded):
    """Each row its own strength; a site that was edited is read as the model goes on with it."""
    model = ours("llama-gqa")
    added = jnp.asarray(vector(model.config.dim))
    traces = []

    @nnx.jit
    def run(model, rows, strength):
        traces.append(strength)
        shift = strength[:, None, None] * added[None, None]
        edit = editing({("residual", 1): Edit(jnp.ones((1, 1, 1)), shift)}, model.config)
        return model.run(rows, visit=in_turn(edit, reading(model.config, "residual"))).shown

    plain = run(model, rows(padded), jnp.zeros(6))
    strong = run(model, rows(padded), jnp.arange(6.0))
    assert len(traces) == 1
    np.testing.assert_array_equal(strong["residual", 0], plain["residual", 0])
    expected = plain["residual", 1] + jnp.arange(6.0)[:, None, None] * added[None, None]
    np.testing.assert_allclose(strong["residual", 1], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(strong["residual", 2][0], plain["residual", 2][0])
    assert (strong["residual", 2][1:] != plain["residual", 2][1:]).any(axis=-1).all()


def test_of_visits_in_turn_the_last_that_shows_something_is_shown():
    value = jnp.ones((1, 1, 2))
    read = Visit(lambda site, given, value: (value, value), {("residual", 0): ()})
    summed = Visit(lambda site, given, value: (value, value.sum()), {("residual", 0): ()})
    silent = Visit(lambda site, given, value: (value, None), {("residual", 0): ()})

    def shown(*visits: Visit) -> Any:
        visit = in_turn(*visits)
        return visit.do("residual", visit.given["residual", 0], value)[1]

    for turns in ([read, unvisited], [unvisited, read], [read, silent], [silent, read]):
        assert shown(*turns) is value
    assert shown(read, summed) == 2
    assert shown(silent, silent) is None
    assert in_turn(unvisited, unvisited).given == {}


def test_an_edit_keeps_the_dtype_of_the_stream(ours):
    edits = {("residual", 1): Edit(jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1)))}
    edit = editing(edits, ours("llama-gqa").config)
    value, _ = edit.do("residual", edit.given["residual", 1], jnp.ones((1, 1, 32), jnp.bfloat16))
    assert value.dtype == jnp.bfloat16


# Gradients


@pytest.mark.parametrize("variant", ["llama-gqa", "bert-mlm"])
def test_the_gradient_of_a_zero_at_an_output_is_torchs_of_the_output(
    tiny, ours, assert_close, padded, variant
):
    """Of every linear map; the loss is a random sum of the scores."""
    model, torchs = ours(variant), tiny(variant).torch
    shape = *padded.tokens.shape, model.config.vocab
    weights = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    weights[padded.segments == 0] = 0
    places = torch_places(variant, model.config.layers)
    outputs = {at: place for at, place in places.items() if at[0].endswith("/output")}
    kept: dict[At, torch.Tensor] = {}

    def keep(at: At) -> Callable:
        def change(value: torch.Tensor) -> torch.Tensor:
            value.retain_grad()
            kept[at] = value
            return value

        return change

    logits = torch_logits(torchs, padded, {place: keep(at) for at, place in outputs.items()})
    (logits * torch.from_numpy(weights)).sum().backward()
    torchs.zero_grad()

    def loss(added: dict[At, jax.Array]) -> jax.Array:
        add = Visit(lambda site, zero, value: (value + zero, None), added)
        return (both(model, rows(padded), add)[0] * weights).sum()

    ends = {at: width for at, width in widths(model.config).items() if at[0].endswith("/output")}
    assert set(ends) == set(outputs)
    nothing = {at: jnp.zeros((*padded.tokens.shape, *width)) for at, width in ends.items()}
    for at, gradient in jax.jit(jax.grad(loss))(nothing).items():
        expected = kept[at].grad
        assert expected is not None
        assert expected.abs().max() > 1e-3
        for where in padded.places:
            assert_close(np.asarray(gradient)[where], expected.numpy()[where])


# Errors


def test_an_edit_somewhere_else_is_refused_with_the_sites_that_there_are(ours):
    config = ours("llama-gqa").config
    edit = Edit(jnp.ones((1, 1, 1)), jnp.zeros((1, 1, 1)))
    with pytest.raises(
        ValueError,
        match=r"^an edit must be at a site and layer of the model, got mlp@0, neurons@2; its sites "
        r"are embedding, residual, attn_out, keys, values, heads, neurons, mlp_out, "
        r"attn/q/input, .*, "
        r"head/out/output, its blocks 0 to 1$",
    ):
        editing({("mlp", 0): edit, ("neurons", 2): edit, ("residual", 2): edit}, config)
