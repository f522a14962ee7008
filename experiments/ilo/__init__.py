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
from pathlib import Path

import jax

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
from ilo_jax.activations.taps import SENTENCE_POOLINGS
from ilo_jax.evaluation.interlingua import scored
from ilo_jax.files import key_digest, write_text
from ilo_jax.metrics import IloSettings, ReferencedScores, check_settings


@dataclasses.dataclass(kw_only=True)
class Config(Source):
    """What a run measures, on what, and how."""

    pooling: str = "mean"
    """Of a sentence: mean (the paper's), content (without special tokens), last or max."""
    k: int = IloSettings.k
    """Neighbours of a point."""
    min_languages: int = IloSettings.min_languages
    """Other languages that a point must touch to bridge."""
    distance: str = IloSettings.distance
    """cosine or euclidean."""
    precision: str = IloSettings.precision
    """exact or fast: how neighbours are proposed; the same are found."""
    permutations: int = IloSettings.permutations
    """Shuffles of the language labels behind the ceiling."""
    draws: int = IloSettings.draws
    """Random corpora behind the Gaussian null."""
    seed: int = IloSettings.seed
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
    if config.pooling not in SENTENCE_POOLINGS:
        found.append(
            f"pooling must be one of {', '.join(SENTENCE_POOLINGS)}, got {config.pooling!r}"
        )
    if found:
        raise ValueError("; ".join(found))


def settings_of(config: Config) -> IloSettings:
    """Return how the configuration asks for a state to be scored."""
    names = [field.name for field in dataclasses.fields(IloSettings)]
    return IloSettings(**{name: getattr(config, name) for name in names})


def record(config: Config, stored: Stored, seconds: float) -> str:
    """Return all that determines the run, and what it took, as JSON."""
    computed = stored.store.sessions()
    whole = {
        "config": dataclasses.asdict(config),
        "states": {"digest": key_digest(stored.key), "key": stored.key, "computed": computed},
        "scores": surroundings() | {"seconds": round(seconds, 3)},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def measure(config: Config, run: Run) -> ReferencedScores:
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
    check_settings(settings_of(config), num_points=lang * sent, num_languages=lang)
    run.workdir.mkdir(parents=True, exist_ok=True)
    stored = stored_states(config, corpus, run, taps=f"residual:{config.pooling}")
    begun = time.perf_counter()
    scores = scored(stored.hidden_states(doing="scores"), settings_of(config))
    seconds = time.perf_counter() - begun
    if jax.process_index() == 0:
        write(run.workdir, scores, stored, config, seconds)
    say(report.table(scores, languages=corpus.languages))
    say(f"scored in {seconds:.1f} s; wrote scores.csv, config.json and ilo.png in {run.workdir}")
    return scores


def write(
    workdir: Path, scores: ReferencedScores, stored: Stored, config: Config, seconds: float
) -> None:
    """Leave the files of a run in its folder."""
    languages = stored.corpus.languages
    title = f"{stored.model}, {len(languages)} languages x {len(stored.corpus.sentences[0])}"
    title += f" sentences of {Path(stored.corpus.source).name}, k={config.k}"
    title += f", t={config.min_languages}"
    report.write_csv(workdir / "scores.csv", scores, model=stored.model, languages=languages)
    report.picture(workdir / "ilo.png", scores, title=title, languages=languages)
    write_text(workdir / "config.json", record(config, stored, seconds))
