"""What a model says after prompts, as a configuration asks for it."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from experiments.generate.setting import Setting
from ilo_jax.generation.decoding import generate, speaking
from ilo_jax.generation.edits import held
from ilo_jax.generation.requests import Prompts, Request, prompts
from ilo_jax.generation.sampling import sampling
from ilo_jax.generation.state import END, MAXIMUM, RUNNING, STOP, Said
from ilo_jax.generation.texts import Stream, text_of
from ilo_jax.models.parameters import Weights

REASONS = {END: "end", STOP: "stop", MAXIMUM: "maximum"}
"""Why a text ended: at an end token, at a stop string, or with as many tokens as it may have."""


def batch(setting: Setting, which: Sequence[int], *, count: int) -> tuple[Prompts, Request]:
    """Prompts by their indices, and what is asked of them.

    Args:
        setting: What the generation starts from.
        which: Indices of prompts.
        count: How many prompts there are to be; those that are missing say nothing.
    """
    config = setting.config
    indices = np.resize(which, count)
    maximum = np.where(np.arange(count) < len(which), config.max_tokens, 0)
    asked = sampling(
        count,
        temperature=config.temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        repetition_penalty=config.repetition_penalty,
        no_repeat_ngram=config.no_repeat_ngram,
        minimum=config.min_tokens,
        maximum=maximum,
    )
    key = partial(jax.random.fold_in, jax.random.key(config.seed))
    edits = held([setting.edits] * count, setting.folder.config)
    request = Request(asked, jax.vmap(key)(indices), setting.ends, edits, setting.stops)
    return prompts([setting.ids[index] for index in indices], setting.folder.config.limits), request


def block(
    setting: Setting, weights: Weights, which: Sequence[int], *, count: int
) -> list[dict[str, Any]]:
    """What is said after each of some prompts, a record for each sample of each.

    Args:
        setting: What the generation starts from.
        weights: Of the model, by path.
        which: Indices of prompts.
        count: How many prompts are computed, whether there are as many or not.
    """
    samples = setting.config.samples
    said = generate(setting.decoder, weights, *batch(setting, which, count=count), samples=samples)
    places = [(index, sample) for index in which for sample in range(samples)]
    return [
        {"line": index + 1, "sample": sample + 1, "prompt": setting.prompts[index]}
        | _record(setting, said, row)
        for row, (index, sample) in enumerate(places)
    ]


def _record(setting: Setting, said: Said, row: int) -> dict[str, Any]:
    tokens = said.tokens[row, : said.lengths[row]].tolist()
    likelihoods = said.log_likelihoods[row, : len(tokens)].astype(np.float64)
    return {
        "text": text_of(_written(said, row), setting.pieces, setting.config.stop_strings),
        "ended": REASONS[int(said.ended[row])],
        "tokens": tokens,
        "log_likelihood": float(likelihoods.sum()),
    }


def _written(said: Said, row: int) -> list[int]:
    """The tokens of a row but for the end token."""
    return said.tokens[row, : said.lengths[row] - (said.ended[row] == END)].tolist()


def streamed(setting: Setting, weights: Weights) -> Iterator[str]:
    """Yield what is said after the first prompt, as far as it is certain, a sample after the other.

    All samples are computed together: those to come are there when it is their turn.

    Args:
        setting: What the generation starts from.
        weights: Of the model, by path.
    """
    config = setting.config
    given = batch(setting, [0], count=1)
    steps = speaking(setting.decoder, weights, *given, samples=config.samples, steps=1)
    sample, told, stream = 0, 0, Stream(setting.pieces, config.stop_strings)
    for said in steps:
        while sample < config.samples:
            tokens = _written(said, sample)
            yield stream.add(tokens[told:])
            told = len(tokens)
            if said.ended[sample] == RUNNING:
                break
            yield stream.end() + "\n"
            sample, told, stream = sample + 1, 0, Stream(setting.pieces, config.stop_strings)
