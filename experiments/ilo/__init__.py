"""ILO of every language at every hidden state of a model.

    python -m experiments.ilo --config=configs/ilo/sample.py
    python -m experiments.ilo --config.model=FOLDER_OR_ID --config.corpus=FOLDER --workdir=DIR

Writes scores.csv, config.json and ilo.png into the run folder, and keeps the hidden
states there: a run with the same model and corpus uses them again, and a run that was
killed continues where it was. On several hosts, start it on each with --distributed.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float32
from tqdm import tqdm

from experiments import report
from experiments.launch import Run, say
from experiments.states import (
    Source,
    Stored,
    problems,
    read_corpus,
    stored_states,
    surroundings,
)
from ilo_jax import sharding
from ilo_jax.activations.store import key_digest
from ilo_jax.activations.usable import refuse_unusable
from ilo_jax.metrics import ceiling, check_settings, gaussian, nearest, tally
from ilo_jax.processes import quiet

POOLINGS = ("mean", "content", "last", "max")


@dataclasses.dataclass(kw_only=True)
class Config(Source):
    """What a run measures, on what, and how."""

    pooling: str = "mean"
    """Of a sentence: mean (the paper's), content (without special tokens), last or max."""
    k: int = 5
    """Neighbours of a point."""
    min_languages: int = 3
    """Other languages that a point must touch to bridge."""
    distance: str = "cosine"
    """cosine or euclidean."""
    precision: str = "exact"
    """exact or fast: how neighbours are proposed; the same are found."""
    permutations: int = 20
    """Shuffles of the language labels behind the ceiling."""
    draws: int = 5
    """Random corpora behind the Gaussian null."""
    seed: int = 0
    """Of the shuffles and the draws."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: naming each of them.
    """
    found = problems(config)
    least = {"permutations": 1, "draws": 1, "seed": 0}
    found += [
        f"{name} must be at least {low}, got {getattr(config, name)}"
        for name, low in least.items()
        if getattr(config, name) < low
    ]
    if config.seed >= 2**63:
        found.append(f"seed must be below 2^63, got {config.seed}")
    if config.pooling not in POOLINGS:
        found.append(f"pooling must be one of {', '.join(POOLINGS)}, got {config.pooling!r}")
    if found:
        raise ValueError("; ".join(found))


def usable_states(
    stored: Stored, array: str, layer: int, mesh: Mesh | None
) -> Float32[Array, "lang sent dim"]:
    """Return one stored hidden state, whole on every device, refused if it is damaged."""
    states = stored.store.read(array, layer)
    refuse_unusable(
        states[None],
        model=stored.model,
        site="residual",
        layers=[layer],
        languages=stored.corpus.languages,
    )
    return everywhere(states, mesh)


def everywhere(states: np.ndarray, mesh: Mesh | None) -> Array:
    """Return states that every process has, whole on every device of a mesh."""
    if mesh is None:
        return jnp.asarray(states)
    whole = sharding.replicated(mesh)
    return jax.make_array_from_callback(states.shape, whole, lambda index: states[index])


def scorer(
    config: Config, mesh: Mesh | None
) -> Callable[[Float32[Array, "lang sent dim"]], report.Scores]:
    """Return the function that scores one hidden state, with its ceiling and Gaussian null."""
    search: dict[str, Any] = {"k": config.k, "distance": config.distance, "mesh": mesh}
    search["precision"] = config.precision

    def score(states: Float32[Array, "lang sent dim"]) -> tuple[Array, ...]:
        lang, sent, dim = states.shape
        languages = jnp.repeat(jnp.arange(lang), sent)
        counts = {"num_languages": lang, "min_languages": config.min_languages}
        neighbors = nearest(states.reshape(lang * sent, dim), **search)
        scores = tally(neighbors, languages, **counts)
        shuffled = ceiling(
            neighbors, languages, seed=config.seed, permutations=config.permutations, **counts
        )
        null = gaussian(
            states,
            min_languages=config.min_languages,
            seed=config.seed,
            draws=config.draws,
            **search,
        )
        return scores.bridge, scores.reach, scores.ilo, shuffled, null, scores.uncertain

    compiled = jax.jit(score, out_shardings=mesh and sharding.replicated(mesh))
    return lambda states: report.Scores(*map(np.asarray, compiled(states)))


def record(config: Config, stored: Stored, seconds: float) -> str:
    """Return all that determines the run, and what it took, as JSON."""
    computed = stored.store.sessions()
    whole = {
        "config": dataclasses.asdict(config),
        "states": {"digest": key_digest(stored.key), "key": stored.key, "computed": computed},
        "scores": surroundings() | {"seconds": round(seconds, 3)},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def measure(config: Config, run: Run) -> report.Scores:
    """Run the whole job and leave its files in the run folder.

    Raises:
        ImportError: if the sample model's package is asked for and not installed.
        MemoryError: if a device has too little.
        OSError: if a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: if another process failed.
        ValueError: if the settings, the corpus or the model cannot be used.
    """
    check(config)
    corpus = read_corpus(config)
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    check_settings(
        k=config.k,
        min_languages=config.min_languages,
        distance=config.distance,
        num_points=lang * sent,
        num_languages=lang,
        precision=config.precision,
    )
    run.workdir.mkdir(parents=True, exist_ok=True)
    stored = stored_states(config, corpus, run, taps=f"residual:{config.pooling}")
    begun = time.perf_counter()
    scores = scored(stored, config)
    seconds = time.perf_counter() - begun
    if jax.process_index() == 0:
        write(run.workdir, scores, stored, config, seconds)
    say(report.table(scores, languages=corpus.languages))
    say(f"scored in {seconds:.1f} s; wrote scores.csv, config.json and ilo.png in {run.workdir}")
    return scores


def scored(stored: Stored, config: Config) -> report.Scores:
    """Return the scores of every stored hidden state, over all devices."""
    mesh = sharding.make_mesh() if jax.device_count() > 1 else None
    score, array = scorer(config, mesh), f"residual_{config.pooling}"
    layers = tqdm(range(stored.store.arrays[array].shape[0]), desc="scores", disable=quiet())
    return report.stack([score(usable_states(stored, array, layer, mesh)) for layer in layers])


def write(
    workdir: Path, scores: report.Scores, stored: Stored, config: Config, seconds: float
) -> None:
    """Leave the files of a run in its folder."""
    languages = stored.corpus.languages
    title = f"{stored.model}, {len(languages)} languages x {len(stored.corpus.sentences[0])}"
    title += f" sentences of {Path(stored.corpus.source).name}, k={config.k}"
    title += f", t={config.min_languages}"
    report.write_csv(workdir / "scores.csv", scores, model=stored.model, languages=languages)
    report.picture(workdir / "ilo.png", scores, title=title, languages=languages)
    report.write_text(workdir / "config.json", record(config, stored, seconds))
