"""How well a model knows each language: bits per byte, multiple choice, retrieval.

    python -m experiments.evaluate --config.model=FOLDER_OR_ID --config.corpus=FOLDER --workdir=DIR
    python -m experiments.evaluate --config.questions=FILE --config.shape=xnli
    python -m experiments.evaluate --config.likelihood=false --config.retrieval

Writes evaluation.csv (bits per byte and loss of the corpus), choices.csv (questions) and
retrieval.csv (translations of the corpus, at every hidden state), each if asked for, and
evaluation.json, which says from what. A decoder does all three; an encoder retrieval only. Hidden
states are kept in the run folder and used again. On several hosts, start it on each with
--distributed.
"""

import csv
import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.columns import columns
from experiments.launch import Run, say
from experiments.states import (
    Source,
    find_model,
    problems,
    read_corpus,
    stored_states,
    surroundings,
)
from ilo_jax import sharding
from ilo_jax.activations.taps import SENTENCE_POOLINGS
from ilo_jax.corpora.choices import SHAPES, Question, read_questions
from ilo_jax.corpora.languages import by_family
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.evaluation.answers import AnswerScores, answer_scores, question_tokens
from ilo_jax.evaluation.held_out import TextScores, corpus_tokens, text_scores
from ilo_jax.evaluation.likelihood import compiled_likelihood
from ilo_jax.evaluation.retrieval import translations_found
from ilo_jax.files import write_text
from ilo_jax.metrics import ChoiceScores
from ilo_jax.models.hub import hf, repository


@dataclasses.dataclass(kw_only=True)
class Config(Source):
    """What is measured of a model, and on what."""

    likelihood: bool = True
    """Whether to measure bits per byte and loss on the corpus."""
    questions: str = ""
    """Files of multiple choice questions, separated by commas; empty: none."""
    shape: str = "plain"
    """Of the questions: plain, xnli, xcopa or belebele; see `ilo_jax.corpora.choices`."""
    question_language: str = ""
    """Of all questions, where their files do not say."""
    retrieval: bool = False
    """Whether to look for the translations of the corpus' sentences at every hidden state."""
    pooling: str = "mean"
    """Of a sentence, for retrieval: mean, content (without special tokens), last or max."""
    distance: str = "cosine"
    """For retrieval: cosine or euclidean."""


class Results(NamedTuple):
    """What a run has measured; None for what it was not asked for."""

    texts: TextScores | None
    answers: AnswerScores | None
    retrieved: Float[np.ndarray, "state lang lang"] | None
    """As `metrics.retrieval` says."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: naming each of them.
    """
    found = problems(config)
    allowed = {
        "pooling": SENTENCE_POOLINGS,
        "distance": ("cosine", "euclidean"),
        "shape": tuple(SHAPES),
    }
    found += [
        f"{name} must be one of {', '.join(names)}, got {getattr(config, name)!r}"
        for name, names in allowed.items()
        if getattr(config, name) not in names
    ]
    if not (config.likelihood or config.questions or config.retrieval):
        found.append("one of likelihood, questions and retrieval must be asked for, got none")
    if config.likelihood and config.prefix:
        found.append(f"prefix must be empty where likelihood is asked for, got {config.prefix!r}")
    if found:
        raise ValueError("; ".join(found))


def question_files(config: Config) -> list[str]:
    """Return the files that hold the questions."""
    return [name.strip() for name in config.questions.split(",") if name.strip()]


def by_likelihood(
    config: Config, corpus: Parallel, questions: Sequence[Question]
) -> tuple[TextScores | None, AnswerScores | None]:
    """Return the scores that the model's log-likelihoods give, as far as they are asked for."""
    if not (config.likelihood or questions):
        return None, None
    folder, _ = find_model(config)
    kind = repository.folder_config(folder)
    mesh = sharding.make_mesh(model=config.model_parallel)
    dtype, held = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype or config.dtype)
    likelihood = compiled_likelihood(kind, mesh, batch_tokens=config.batch_tokens, dtype=dtype)
    tokenizer = repository.load_tokenizer(folder)
    texts = corpus_tokens(corpus, tokenizer, kind) if config.likelihood else None
    asked = question_tokens(questions, tokenizer, kind) if questions else None
    model = hf.load(folder, mesh=mesh, fsdp=config.fsdp, dtype=held)
    return (
        None if texts is None else text_scores(likelihood(model, texts), texts, corpus),
        None if asked is None else answer_scores(likelihood(model, asked), questions),
    )


def by_states(
    config: Config, corpus: Parallel, run: Run
) -> Float[np.ndarray, "state lang lang"] | None:
    """Return how often translations are found at every hidden state, if that is asked for."""
    if not config.retrieval:
        return None
    stored = stored_states(config, corpus, run, taps=f"residual:{config.pooling}")
    states = stored.hidden_states(doing="retrieval")
    return translations_found(states, distance=config.distance)


def measure(config: Config, run: Run) -> Results:
    """Run the whole job and leave its files in the run folder.

    Raises:
        ImportError: if the sample model's package is asked for and not installed.
        MemoryError: if a device has too little.
        OSError: if a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: if another process failed.
        ValueError: if the settings, the corpus, the questions or the model cannot be used.
    """
    check(config)
    corpus = read_corpus(config)
    given = {"shape": config.shape, "language": config.question_language}
    questions = [q for file in question_files(config) for q in read_questions(file, **given)]
    run.workdir.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    texts, answers = by_likelihood(config, corpus, questions)
    results = Results(texts, answers, by_states(config, corpus, run))
    seconds = time.perf_counter() - begun
    tables = tabled(results, corpus.languages)
    if jax.process_index() == 0:
        write(run.workdir, tables, config, corpus, seconds)
    for table in tables.values():
        say(table.text + "\n")
    say(f"measured in {seconds:.1f} s; wrote {', '.join(tables)} in {run.workdir}")
    return results


class Table(NamedTuple):
    """The same twice: for people, and for a file."""

    text: str
    header: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def tabled(results: Results, languages: Sequence[str]) -> dict[str, Table]:
    """Return a table of everything that was measured, by the name of its file."""
    tables = {}
    if results.texts is not None:
        tables["evaluation.csv"] = _of_texts(results.texts, languages)
    if results.answers is not None:
        tables["choices.csv"] = _of_answers(results.answers)
    if results.retrieved is not None:
        tables["retrieval.csv"] = _of_retrieval(results.retrieved, languages)
    return tables


def _of_texts(scores: TextScores, languages: Sequence[str]) -> Table:
    header = ("language", "bits_per_byte", "loss_per_token", "tokens")
    rows = list(zip(languages, *scores, strict=True))
    return Table(_by_language(header, rows), header, rows)


def _of_answers(answers: AnswerScores) -> Table:
    header = ("language", *ChoiceScores._fields)
    rows = list(zip(answers.languages, *answers.scores, strict=True))
    return Table(_by_language(header, rows), header, rows)


def _of_retrieval(
    retrieved: Float[np.ndarray, "state lang lang"], languages: Sequence[str]
) -> Table:
    """One row per state and language; for people, the mean over all pairs at each state."""
    header = ("state", "language", "finding", "found")
    finding, found = np.nanmean(retrieved, axis=2), np.nanmean(retrieved, axis=1)
    rows = [
        (state, languages[lang], finding[state, lang], found[state, lang])
        for state, lang in np.ndindex(finding.shape)
    ]
    means = [(str(state), f"{mean:.3f}") for state, mean in enumerate(finding.mean(axis=1))]
    return Table(columns([("state", "retrieval"), *means]), header, rows)


def _by_language(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return rows as text, families together, with the mean of all columns but the last."""
    found = {row[0]: row for row in rows}
    lines = [found[code] for code in by_family(found)]
    means = np.mean([line[1:-1] for line in lines], axis=0)
    lines.append(("mean", *means, ""))
    return columns([header, *(_cells(line) for line in lines)])


def _cells(line: Iterable[Any]) -> list[str]:
    return [f"{value:.3f}" if isinstance(value, np.floating) else str(value) for value in line]


def record(config: Config, corpus: Parallel, seconds: float) -> str:
    """Return all that determines the results, and what they took, as JSON."""
    folder, _ = find_model(config)
    digests = {
        file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in question_files(config)
    }
    whole = {
        "config": dataclasses.asdict(config),
        "model": repository.fingerprint(folder),
        "corpus": corpus.hash,
        "questions": digests,
        "evaluation": surroundings() | {"seconds": round(seconds, 3)},
    }
    return json.dumps(whole, indent=2, ensure_ascii=False)


def write(
    workdir: Path, tables: dict[str, Table], config: Config, corpus: Parallel, seconds: float
) -> None:
    """Leave the files of a run in its folder."""
    _, model = find_model(config)
    for name, table in tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["model", *table.header])
        writer.writerows([model, *map(_exact, row)] for row in table.rows)
        write_text(workdir / name, text.getvalue())
    write_text(workdir / "evaluation.json", record(config, corpus, seconds))


def _exact(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, np.floating) else str(value)
