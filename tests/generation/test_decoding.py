"""What models say, against `transformers.generate`, and what it must not depend on."""

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ilo_jax.generation.decoding import Decoder, generate, speaking
from ilo_jax.generation.edits import Edit, Edits, held
from ilo_jax.generation.requests import Request, prompts
from ilo_jax.generation.sampling import sampling
from ilo_jax.generation.state import END, MAXIMUM, RUNNING, STOP, Said
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.sites import widths
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from tests.models.reading import rows_of
from tests.models.variants import POSITIONS, TOLERANCE, VARIANTS, VOCAB, slow_but
from tests.pairs import run_two

DECODERS = [
    variant
    for variant, (kind, _) in VARIANTS.items()
    if "CausalLM" in kind.__name__ or "LMHead" in kind.__name__
]
BY_LENGTH = ("llama-dynamic", "phi3-longrope")
"""Whose rotations torch leaves as they were when tokens were read, unless it reads them again."""
SAID = 24
PENALTY, NGRAM = 1.3, 2
"""So that a model does not say one token again and again."""
SHOWN = ("residual", "neurons", "head/out/input")
PAIR = Path(__file__).with_name("saying_of_two.py")


def longer(model: Transformer) -> Transformer:
    """A model that may go on beyond where its rotations are stretched."""
    model = copy.copy(model)
    model.config = dataclasses.replace(model.config, max_positions=POSITIONS)
    return model


def say(
    model: Transformer, texts: list[list[int]], request: Request, decoder: Decoder, **how: Any
) -> Said:
    read = prompts(texts, decoder.config.limits)
    return generate(decoder, parameters.weights(model), read, request, **how)


def decoder_of(model: Transformer, *sites: str) -> Decoder:
    assert model.mesh is not None
    return Decoder(model.config, model.mesh, dtype=model.dtype, sites=sites)


# Every family, against transformers


def by_torch(model: Any, prompt: list[int], *, cached: bool = True) -> list[int]:
    with torch.no_grad():
        said = copy.deepcopy(model).generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=SAID,
            do_sample=False,
            repetition_penalty=PENALTY,
            no_repeat_ngram_size=NGRAM,
            use_cache=cached,
        )
    return said[0, len(prompt) :].tolist()


@pytest.fixture(scope="module")
def greedy(ours, texts) -> Callable[[str], Said]:
    """Return what a variant says after each text, with the values at SHOWN."""

    @cache
    def make(variant: str) -> Said:
        model = longer(ours(variant))
        keys = jax.random.split(jax.random.key(0), len(texts))
        how = {"repetition_penalty": PENALTY, "no_repeat_ngram": NGRAM}
        asked = sampling(len(texts), maximum=SAID, **how)
        request = Request(asked, keys, np.zeros(VOCAB, bool), {})
        return say(model, texts, request, decoder_of(model, *SHOWN))

    return make


VARIANT = pytest.mark.parametrize(
    "variant", slow_but(["gemma2-both", "bloom-six", "phi3-longrope"], DECODERS)
)


@VARIANT
def test_greedy_decoding_is_that_of_transformers(tiny, greedy, texts, variant):
    """Prompts of different lengths in one batch, beyond the window and the stretch."""
    said = greedy(variant)
    cached = variant not in BY_LENGTH
    wanted = [by_torch(tiny(variant).torch, text, cached=cached) for text in texts]
    assert (said.lengths == SAID).all()
    assert (said.ended == MAXIMUM).all()
    assert said.tokens[:, :SAID].tolist() == wanted
    assert not said.tokens[:, SAID:].any()
    assert len({token for row in wanted for token in row}) > 8


@VARIANT
def test_states_while_decoding_are_those_of_a_whole_forward(ours, greedy, texts, variant):
    """Of each token when it was read: at the end of a forward over all up to it."""
    said, model = greedy(variant), longer(ours(variant))
    whole = [[*text, *row[:SAID]] for text, row in zip(texts, said.tokens.tolist(), strict=True)]
    ends = [len(text) + number for text in texts for number in range(SAID)]
    tokens = np.zeros((len(ends), POSITIONS), np.int32)
    for number, (row, end) in enumerate(zip(tokens, ends, strict=True)):
        row[: end + 1] = whole[number // SAID][: end + 1]
    seq = np.arange(POSITIONS)[None]
    segments = (seq <= np.array(ends)[:, None]).astype(np.int32)

    @jax.jit
    def forward(tokens, positions, segments):
        visit = decoder_of(model, *SHOWN).reading
        ran = model.run(rows_of(tokens, positions, segments), visit=visit)
        scored = model.score(ran.value, visit=visit)
        last = jnp.asarray(ends)
        each = jnp.arange(len(ends))
        found = {at: value[each, last] for at, value in (ran.shown | scored.shown).items()}
        before = jax.nn.log_softmax(scored.value[each, last - 1])
        return found, before[each, tokens[each, last]]

    found, likelihoods = forward(tokens, seq * segments, segments)
    assert set(said.shown) == set(found) == {at for at in widths(model.config) if at[0] in SHOWN}
    for at, values in said.shown.items():
        wanted = np.asarray(found[at]).reshape(len(texts), SAID, -1)
        assert np.abs(values[:, :SAID] - wanted).max() <= TOLERANCE * max(1, np.abs(wanted).max())
    if variant not in BY_LENGTH:  # whose longer texts had another past
        wanted = np.asarray(likelihoods).reshape(len(texts), SAID)
        np.testing.assert_allclose(said.log_likelihoods[:, :SAID], wanted, rtol=0, atol=1e-4)
    assert not said.log_likelihoods[:, SAID:].any()


# What a row says, whatever is around it

STOPS = np.zeros((3, VOCAB), np.int32)
"""An automaton that never stops."""
AT = [("neurons", layer) for layer in range(2)]


def asked(model: Transformer, rows: list[int], edits: Edits | None = None, **how: Any) -> Request:
    """Of the rows of these numbers: each its own key and settings, no matter where it stands."""
    numbers = np.array(rows)
    settings: dict[str, Any] = {
        "temperature": 0.5 + numbers / 4,
        "top_k": 20 + numbers,
        "top_p": 0.95,
        "no_repeat_ngram": numbers % 3,
        "maximum": 14 + numbers,
    }
    keys = jax.random.split(jax.random.key(1), 9)[numbers]
    nothing = held([[]] * len(rows), model.config, at=AT)
    ends, stops = how.pop("ends", np.zeros(VOCAB, bool)), how.pop("stops", STOPS)
    sampled = sampling(len(rows), **settings | how)
    return Request(sampled, keys, ends, nothing if edits is None else edits, stops)


def check(said: Said, wanted: Said, rows: list[int]) -> None:
    """Row by row: the same tokens, and likelihoods but for rounding."""
    for row, number in enumerate(rows):
        count = wanted.lengths[number]
        assert said.lengths[row] == count
        assert said.tokens[row, :count].tolist() == wanted.tokens[number, :count].tolist()
        likelihoods = said.log_likelihoods[row, :count], wanted.log_likelihoods[number, :count]
        np.testing.assert_allclose(*likelihoods, rtol=0, atol=1e-4)


ALL = [0, 1, 2, 3]


@pytest.fixture(scope="module")
def llama(ours) -> Transformer:
    return ours("llama-mha")


@pytest.fixture(scope="module")
def decoder(llama) -> Decoder:
    return decoder_of(llama)


@pytest.fixture(scope="module")
def sampled(llama, decoder, texts) -> Said:
    return say(llama, texts, asked(llama, ALL), decoder)


def test_rows_have_their_own_settings(sampled):
    assert sampled.lengths.tolist() == [14, 15, 16, 17]
    assert (sampled.log_likelihoods[:, :14] < 0).all()


@pytest.mark.parametrize(
    ("data", "model", "rows", "more"),
    [
        # Alone of its batch, in another place, bucket and mesh.
        (2, 4, [2], 30),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (1, 1, [2], 0),
                (1, 1, [3, 1], 30),
                (1, 1, [3, 1, 0, 2], 0),
                (2, 2, ALL, 0),
                (2, 4, ALL, 0),
                (8, 1, ALL, 0),
            )
        ),
    ],
)
def test_what_is_around_a_row_changes_nothing(tiny, texts, sampled, data, model, rows, more):
    """Batch, place, bucket, mesh."""
    mesh = make_mesh(data=data, model=model)
    loaded = loading.load(open_folder(tiny("llama-mha").folder), mesh=mesh)
    around = [np.random.default_rng(5).integers(2, VOCAB, more).tolist()] if more else []
    request = asked(loaded, [8] * len(around) + rows)
    said = say(loaded, around + [texts[i] for i in rows], request, decoder_of(loaded))
    check(Said(*(field[len(around) :] for field in said[:4]), shown={}), sampled, rows)


@pytest.mark.slow
def test_two_processes_say_the_same(tiny, texts, sampled):
    places = [str(tiny("llama-mha").folder), json.dumps(texts)]
    for process in run_two(PAIR, places, places):
        assert process.returncode == 0, process.stderr
        said = json.loads(process.stdout.splitlines()[-1])
        assert said == [
            row[:count].tolist() for row, count in zip(sampled.tokens, sampled.lengths, strict=True)
        ]


def test_what_is_said_comes_as_it_is_said(llama, decoder, texts, sampled):
    read = prompts(texts, llama.config.limits)
    weights = parameters.weights(llama)
    parts = list(speaking(decoder, weights, read, asked(llama, ALL), steps=5))
    assert [part.lengths.max() for part in parts] == [5, 10, 15, 17]
    assert (parts[1].ended == RUNNING).all()
    check(parts[-1], sampled, ALL)
    assert parts[0].tokens[:, :5].tolist() == sampled.tokens[:, :5].tolist()
    assert not parts[0].tokens[:, 5:].any()


@pytest.mark.slow
def test_samples_of_a_prompt_are_rows_of_their_own(llama, decoder, texts):
    request = asked(llama, ALL)
    said = say(llama, texts, request, decoder, samples=3)
    assert len(said.lengths) == 12
    assert len({tuple(row) for row in said.tokens[:3].tolist()}) == 3
    again = say(llama, texts[2:3], jax.tree.map(lambda a: a, asked(llama, [2])), decoder, samples=3)
    check(again, said, [6, 7, 8])


# Ends


def cut(tokens: list[int], end: int, pair: tuple[int, int]) -> tuple[int, int]:
    """Why a row ends, and after how many tokens: the first reason there is."""
    found = {MAXIMUM: len(tokens)}
    pairs = list(itertools.pairwise(tokens))
    found |= {END: tokens.index(end) + 1} if end in tokens else {}
    found |= {STOP: pairs.index(pair) + 2} if pair in pairs else {}
    why = min(found, key=lambda reason: (found[reason], reason))
    return why, found[why]


def test_rows_end_by_tokens_strings_and_number(llama, decoder, texts, sampled):
    """Each says what it did before, up to its end; the loop ends with the last of them."""
    rows = [
        row[:count].tolist() for row, count in zip(sampled.tokens, sampled.lengths, strict=True)
    ]
    ends = {token for row in rows for token in row}
    pairs = {pair for row in rows for pair in itertools.pairwise(row)}
    chosen = itertools.product(sorted(ends), sorted(pairs))
    end, pair = next(
        (end, pair)
        for end, pair in chosen
        if {END, STOP, MAXIMUM} == {cut(row, end, pair)[0] for row in rows}
    )
    stops = np.zeros((3, VOCAB), np.int32)
    stops[:, pair[0]] = 1
    stops[1, pair[1]] = -1
    request = asked(llama, ALL, ends=np.arange(VOCAB) == end, stops=stops)
    said = say(llama, texts, request, decoder)
    for row, tokens in enumerate(rows):
        why, count = cut(tokens, end, pair)
        assert (said.ended[row], said.lengths[row]) == (why, count)
        assert said.tokens[row, :count].tolist() == tokens[:count]
        assert not said.tokens[row, count:].any()
        assert not said.log_likelihoods[row, count:].any()


def test_no_row_ends_before_its_minimum(llama, decoder, texts):
    request = asked(llama, ALL, ends=np.arange(VOCAB) > 1, minimum=[3, 0, 5, 2])
    said = say(llama, texts, request, decoder)
    assert (said.lengths >= [3, 1, 5, 2]).all()
    for row, minimum in zip(said.tokens, [3, 0, 5, 2], strict=True):
        assert (row[:minimum] <= 1).all()


def test_no_row_says_more_than_it_may(llama, decoder, texts):
    """Also where that is nothing."""
    said = say(llama, texts, asked(llama, ALL, maximum=[0, 1, 17, 3]), decoder)
    assert said.lengths.tolist() == [0, 1, 17, 3]
    assert (said.ended == MAXIMUM).all()


# Edits


def test_fifty_edits_are_compiled_once(llama, decoder, texts, sampled):
    """Any unit, row, strength and place: and each is seen."""
    compiled: list[str] = []
    rng = np.random.default_rng(0)

    def count(event: str, duration_secs: float, **_: Any) -> None:
        compiled.extend([event] * ("backend_compile" in event))

    jax.monitoring.register_event_duration_secs_listener(count)
    heard = len(compiled)
    for number in range(50):
        edit = Edit(
            site="neurons",
            layer=int(rng.integers(2)),
            kind=["set", "add", "scale", "zero"][number % 4],
            units=rng.choice(48, 20, replace=False).tolist(),
            values=10.0,
            positions=["all", "prompt", "last", "generated"][number // 4 % 4],
            strength=float(rng.uniform(0.5, 2)),
        )
        row = number % 4
        edits = held([[edit] * (row == i) for i in ALL], llama.config, at=AT)
        said = say(llama, texts, asked(llama, ALL, edits), decoder)
        others = [i for i in ALL if i != row]
        assert (said.tokens[others] == sampled.tokens[others]).all()
        inside = edit.positions == "prompt" and len(texts[row]) == 1
        assert inside or (said.log_likelihoods[row] != sampled.log_likelihoods[row]).any()
    assert len(compiled) == heard
    jax.jit(lambda x: x + 1)(np.arange(7))
    assert len(compiled) > heard


UNITS = {
    "llama-mha": ("model.layers.1.mlp.down_proj", "input"),
    "gpt_neox-quarter": ("gpt_neox.layers.1.mlp.dense_4h_to_h", "input"),
    "gpt2-plain": ("transformer.h.1.mlp.c_proj", "input"),
}


@pytest.mark.parametrize("variant", slow_but(["llama-mha"], UNITS))
def test_clamped_units_are_torchs_with_a_hook(tiny, ours, decoder, texts, variant):
    """At all positions, greedily."""
    model, theirs = ours(variant), tiny(variant).torch
    edit = Edit(site="neurons", layer=1, kind="set", units=[5, 11], values=[4.0, -3.0])
    edits = held([[edit]] * 4, model.config, at=AT)
    request = asked(
        model,
        ALL,
        edits,
        temperature=0,
        no_repeat_ngram=NGRAM,
        repetition_penalty=PENALTY,
        maximum=SAID,
    )
    own = decoder if variant == "llama-mha" else decoder_of(model)
    plain = [by_torch(theirs, text) for text in texts]

    def clamp(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        value = inputs[0].clone()
        value[..., 5], value[..., 11] = 4.0, -3.0
        return (value, *inputs[1:])

    hook = copy.deepcopy(theirs)
    hook.get_submodule(UNITS[variant][0]).register_forward_pre_hook(clamp)
    wanted = [by_torch(hook, text) for text in texts]
    assert say(model, texts, request, own).tokens[:, :SAID].tolist() == wanted
    assert wanted != plain


# Refusals


def test_models_that_say_nothing_are_refused(ours):
    for variant, what in (("bert-mlm", "an encoder with a head"), ("llama-bare", "a decoder")):
        with pytest.raises(
            ValueError, match=f"^generation needs a decoder with a head, got {what}"
        ):
            decoder_of(ours(variant))


def test_sites_that_cannot_be_shown_are_refused(llama):
    with pytest.raises(ValueError, match=r"must be at sites of embedding, .*; got mlp, keys$"):
        decoder_of(llama, "residual", "mlp", "keys")
