"""ILO of every language at every hidden state of a model.

    python -m experiments.ilo --config=configs/ilo/sample.py
    python -m experiments.ilo --config.model=FOLDER_OR_ID --config.corpus=FOLDER --workdir=DIR

Writes scores.csv, config.json and ilo.png into the run folder, and keeps the hidden
states there: a run with the same model and corpus uses them again, and a run that was
killed continues where it was.
"""

import dataclasses
import json
import logging
import platform
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from jaxtyping import Array, Float32
from ml_collections import config_flags
from tqdm import tqdm

from experiments import report
from ilo_jax import sharding
from ilo_jax.activations.extraction import RECIPE, Report, extract, refuse_unusable
from ilo_jax.activations.store import Key, Store, key_digest, open_store
from ilo_jax.activations.tokens import token_ids
from ilo_jax.corpora import parallel
from ilo_jax.corpora.languages import PAPER
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.metrics import ceiling, check_settings, gaussian, nearest, tally
from ilo_jax.models import e5_small, hf, repository


@dataclasses.dataclass(kw_only=True)
class Config:
    """What a run measures, on what, and how."""

    model: str = "sample"
    """A Hugging Face folder, a hub id (owner/name), or "sample": multilingual-e5-small."""
    corpus: str = "sample"
    """A folder or table of aligned sentences, or "sample": the one that is shipped."""
    split: str = ""
    """FLORES-200 split, "dev" or "devtest"; may be empty where there is just one."""
    languages: str = ""
    """Codes, separated by commas, or "paper": its 31; empty: every language of the corpus."""
    sentences: int = 0
    """How many of each language, from the first on; 0: all."""
    prefix: str = ""
    """Put before every sentence, such as "query: " for the e5 models."""
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
    dtype: str = "float32"
    """Of weights and computation, float32 or bfloat16; states are stored in float32."""
    batch_tokens: int = 4096
    """Positions computed at a time on each device; states change within rounding only."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: naming each of them.
    """
    least = {"sentences": 0, "permutations": 1, "draws": 1, "batch_tokens": 1, "seed": 0}
    problems = [
        f"{name} must be at least {low}, got {getattr(config, name)}"
        for name, low in least.items()
        if getattr(config, name) < low
    ]
    if config.seed >= 2**63:
        problems.append(f"seed must be below 2^63, got {config.seed}")
    if config.dtype not in ("float32", "bfloat16"):
        problems.append(f"dtype must be float32 or bfloat16, got {config.dtype!r}")
    if problems:
        raise ValueError("; ".join(problems))


def read_corpus(config: Config) -> Parallel:
    """Return the aligned sentences that the configuration asks for."""
    codes = ",".join(language.code for language in PAPER)
    asked = codes if config.languages == "paper" else config.languages
    languages = [code.strip() for code in asked.split(",") if code.strip()]
    path = parallel.SAMPLE if config.corpus == "sample" else Path(config.corpus)
    return parallel.read(
        path, languages=languages, sentences=config.sentences or None, split=config.split
    )


def states_key(config: Config, corpus: Parallel, folder: Path) -> Key:
    """Return all that determines the hidden states."""
    return {
        "model": repository.fingerprint(folder),
        "corpus": corpus.hash,
        "languages": list(corpus.languages),
        "sentences": len(corpus.sentences[0]),
        "prefix": config.prefix,
        "pooling": "mean",
        "dtype": config.dtype,
        "recipe": RECIPE,
        "tokenizers": version("tokenizers"),
    }


def fill(store: Store, config: Config, corpus: Parallel, folder: Path) -> Report:
    """Compute the hidden states that the store misses."""
    shape = repository.folder_config(folder)
    ids = token_ids(
        corpus,
        repository.load_tokenizer(folder),
        prefix=config.prefix,
        limit=shape.max_positions,
        vocab=shape.vocab,
    )
    mesh = sharding.make_mesh()
    model = hf.load(folder, mesh=mesh, dtype=config.dtype)
    return extract(
        model, ids, store, mesh, languages=corpus.languages, batch_tokens=config.batch_tokens
    )


def usable_states(
    store: Store, layer: int, languages: Sequence[str]
) -> Float32[Array, "lang sent dim"]:
    """Return one stored hidden state, refused if damage has left unusable vectors in it."""
    states = store.read(layer)
    refuse_unusable(states[None], languages, first_layer=layer)
    return jnp.asarray(states)


def score(states: Float32[Array, "lang sent dim"], config: Config) -> report.Scores:
    """Return one hidden state's scores with their ceiling and Gaussian null."""
    lang, sent, dim = states.shape
    languages = jnp.repeat(jnp.arange(lang), sent)
    search = {"k": config.k, "distance": config.distance, "precision": config.precision}
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
    columns = (scores.bridge, scores.reach, scores.ilo, shuffled, null, scores.uncertain)
    return report.Scores(*map(np.asarray, columns))


def stored_states(
    config: Config, corpus: Parallel, folder: Path, states: Path
) -> tuple[Store, Key]:
    """Return the stored hidden states, computed now where they are missing."""
    shape = repository.folder_config(folder)
    key = states_key(config, corpus, folder)
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    store = open_store(states, key, shape=(shape.layers + 1, lang, sent, shape.dim))
    if not store.missing():
        print(f"using the hidden states stored in {store.folder}")
        return store, key
    run = fill(store, config, corpus, folder)
    sessions = [*extractions(store), run._asdict() | surroundings() | dataclasses.asdict(config)]
    report.write_text(store.folder.with_suffix(".json"), json.dumps(sessions, indent=2))
    print(
        f"{run.tokens} tokens in {run.seconds:.1f} s ({run.tokens / run.seconds:.0f}/s), "
        f"{run.padding:.1%} padding, compiled in {run.compile_seconds:.1f} s; "
        f"hidden states are in {store.folder}"
    )
    return store, key


def extractions(store: Store) -> list[dict[str, Any]]:
    """Return what computed the states: one entry for each session that wrote some of them."""
    file = store.folder.with_suffix(".json")
    return json.loads(file.read_text()) if file.is_file() else []


def surroundings() -> dict[str, Any]:
    """Return the versions and devices that computed something."""
    packages = ("ilo_jax", "jax", "flax", "numpy", "transformers", "tokenizers", "safetensors")
    versions = {"python": platform.python_version()} | {p: version(p) for p in packages}
    return {"versions": versions, "devices": [d.device_kind for d in jax.local_devices()]}


def record(config: Config, store: Store, key: Key, seconds: float) -> str:
    """Return all that determines the run, and what it took, as JSON."""
    whole = {
        "config": dataclasses.asdict(config),
        "states": {"digest": key_digest(key), "key": key, "computed": extractions(store)},
        "scores": surroundings() | {"seconds": round(seconds, 3)},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def measure(config: Config, workdir: Path) -> report.Scores:
    """Run the whole job and leave its files in the run folder.

    Raises:
        ImportError: if the sample model's package is asked for and not installed.
        OSError: if a file or folder is absent or cannot be written.
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
    workdir.mkdir(parents=True, exist_ok=True)
    folder = e5_small.folder() if config.model == "sample" else repository.resolve(config.model)
    store, key = stored_states(config, corpus, folder, workdir / "states")
    begun = time.perf_counter()
    layers = tqdm(range(store.states.shape[0]), desc="scores", unit="state", disable=None)
    scores = report.stack([
        score(usable_states(store, layer, corpus.languages), config) for layer in layers
    ])
    seconds = time.perf_counter() - begun

    model = folder.name if config.model == "sample" or Path(config.model).is_dir() else config.model
    title = f"{model}, {lang} languages x {sent} sentences of {Path(corpus.source).name}"
    title += f", k={config.k}, t={config.min_languages}"
    report.write_csv(workdir / "scores.csv", scores, model=model, languages=corpus.languages)
    report.picture(workdir / "ilo.png", scores, title=title, languages=corpus.languages)
    report.write_text(workdir / "config.json", record(config, store, key, seconds))
    print(report.table(scores, languages=corpus.languages))
    print(f"scored in {seconds:.1f} s; wrote scores.csv, config.json and ilo.png in {workdir}")
    return scores


def main(argv: list[str]) -> None:
    """Run the job of the flags; bad input ends it with one clear line."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments: {' '.join(argv[1:])}")
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    for chatty in ("jax", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    jax.config.update("jax_compilation_cache_dir", str(e5_small.user_cache() / "ilo_jax/xla"))
    try:
        measure(flags.FLAGS.config, Path(flags.FLAGS.workdir or f"runs/ilo/{name}"))
    except (ImportError, OSError, ValueError) as error:
        logging.debug("where it happened", exc_info=True)
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    config_flags.DEFINE_config_file("config", "configs/ilo/sample.py", "What to measure.")
    flags.DEFINE_string("workdir", None, "Run folder; default runs/ilo/NAME-OF-CONFIG.")
    app.run(main)
