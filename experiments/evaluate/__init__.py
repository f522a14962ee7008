"""How well a model knows each language: bits per byte, multiple choice, retrieval.

    python -m experiments.evaluate --config=configs/evaluate/sample.py
    python -m experiments.evaluate --config=configs/evaluate/smollm2.py --config.model=FOLDER_OR_ID
    python -m experiments.evaluate --config.model=FOLDER_OR_ID --config.questions=FILE

Writes evaluation.csv (bits per byte and loss of the corpus), choices.csv (questions) and
retrieval.csv (translations of the corpus, at every hidden state), each if asked for, and
config.json, which says from what. A decoder does all three; an encoder retrieval only. Hidden
states are kept in the run folder and used again. On several hosts, start it on each with
--distributed.
"""

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments import tables
from experiments.evaluate import report
from experiments.hardware import make_mesh, settled
from experiments.launch import Run, say
from experiments.provenance import leave_config
from experiments.settings import Compared, Extraction, check, one_of
from experiments.states import listed_names, open_model, read_corpus, stored_states
from ilo_jax.corpora.choices import SHAPES, Question, read_questions
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.evaluation.answers import AnswerScores, answer_scores, question_tokens
from ilo_jax.evaluation.held_out import TextScores, corpus_tokens, text_scores
from ilo_jax.evaluation.likelihood import compiled_likelihood
from ilo_jax.evaluation.retrieval import translations_found
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder


@dataclasses.dataclass(kw_only=True)
class Config(Compared, Extraction):
    """What is measured of a model, and on what; sentences are compared for retrieval."""

    likelihood: bool = True
    """Whether to measure bits per byte and loss on the corpus."""
    questions: str = ""
    """Files of multiple choice questions, separated by commas; empty: none."""
    shape: str = one_of(tuple(SHAPES), default="plain")
    """Shape of the questions: plain, xnli, xcopa or belebele; see `ilo_jax.corpora.choices`."""
    question_language: str = ""
    """Language of all questions, where their files do not say."""
    retrieval: bool = False
    """Whether to look for the translations of the corpus' sentences at every hidden state."""


class Results(NamedTuple):
    """What a run has measured; None for what it was not asked for."""

    texts: TextScores | None = None
    answers: AnswerScores | None = None
    retrieved: Float[np.ndarray, "state lang lang"] | None = None
    """As `metrics.retrieval` says."""


def conflicts(config: Config) -> Iterator[str]:
    """Yield what is wrong with settings taken together."""
    if not (config.likelihood or config.questions or config.retrieval):
        yield "one of likelihood, questions and retrieval must be asked for, got none"
    scored = [name for name in ("likelihood", "questions") if getattr(config, name)]
    if scored and config.prefix:
        asked = " and ".join(scored)
        yield f"prefix must be empty where {asked} is asked for, got {config.prefix!r}"


def question_files(config: Config) -> list[str]:
    """The files that hold the questions."""
    return listed_names(config.questions)


def by_likelihood(
    config: Config, folder: Folder, corpus: Parallel, questions: Sequence[Question], run: Run
) -> Iterator[tuple[str, TextScores | AnswerScores]]:
    """Yield the scores that the model's log-likelihoods give, as far as they are asked for."""
    if not (config.likelihood or questions):
        return
    kind, tokenizer = folder.config, folder.tokenizer
    mesh = make_mesh(config)
    dtype, held = jnp.dtype(config.dtype), jnp.dtype(config.param_dtype or config.dtype)
    at_once = settled(config).batch_tokens
    likelihood = compiled_likelihood(kind, mesh, batch_tokens=at_once, dtype=dtype)
    texts = corpus_tokens(corpus, tokenizer, kind) if config.likelihood else None
    asked = question_tokens(questions, tokenizer, kind) if questions else None
    model = loading.load(folder, mesh=mesh, fsdp=config.fsdp, dtype=held)
    with run.traced():
        if texts is not None:
            yield "texts", text_scores(likelihood(model, texts), texts, corpus)
        if asked is not None:
            yield "answers", answer_scores(likelihood(model, asked), questions)


def by_states(
    config: Config, folder: Folder, corpus: Parallel, run: Run
) -> Iterator[tuple[str, Float[np.ndarray, "state lang lang"]]]:
    """Yield how often translations are found at every hidden state, if that is asked for."""
    if not config.retrieval:
        return
    stored = stored_states(config, folder, corpus, run, taps=f"residual:{config.pooling}")
    states = stored.hidden_states(doing="retrieval")
    yield "retrieved", translations_found(states, distance=config.distance)


def measure(config: Config, run: Run) -> Results:
    """Run the whole job and leave its files in the run folder, each as soon as it is measured.

    Raises:
        ImportError: If the sample model's package is asked for and not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the corpus, the questions or the model cannot be used.
    """
    check(config, *conflicts(config))
    corpus, folder = read_corpus(config), open_model(config)
    given = {"shape": config.shape, "language": config.question_language}
    questions = [q for file in question_files(config) for q in read_questions(file, **given)]
    run.make_folder()
    results, left = Results(), Left(run.workdir, config, corpus, folder)
    measured = itertools.chain(
        by_likelihood(config, folder, corpus, questions, run),
        by_states(config, folder, corpus, run),
    )
    for name, scores in measured:
        results = results._replace(**{name: scores})
        left.add(report.FILES[name], report.tabled(name, scores, corpus.languages))
    for table in left.tables.values():
        say(table.text + "\n")
    say(f"measured in {left.seconds:.1f} s; wrote {', '.join(left.tables)} in {run.workdir}")
    return results


class Left:
    """What a run leaves: a file of each table, and one that says what they come from."""

    def __init__(self, workdir: Path, config: Config, corpus: Parallel, folder: Folder):
        """Begin to count the time; nothing is written yet."""
        self.model, self.config, self.corpus = folder.name, config, corpus
        self.workdir, self.begun, self.seconds = workdir, time.perf_counter(), 0.0
        self.key = results_key(config, corpus, folder)
        self.tables: dict[str, report.Table] = {}

    def add(self, name: str, table: report.Table) -> None:
        """Write a table, by the name of its file."""
        self.tables[name], self.seconds = table, time.perf_counter() - self.begun
        if jax.process_index():
            return
        rows = ({"model": self.model} | dict(row) for row in table.rows)
        tables.write(self.workdir / name, ("model", *table.header), rows)
        took = {"seconds": round(self.seconds, 3)}
        leave_config(self.workdir, self.config, self.key, corpus=self.corpus, took=took)


def results_key(config: Config, corpus: Parallel, folder: Folder) -> dict[str, Any]:
    """What determines the results beside the settings: digests of model, corpus and questions."""
    digests = {
        file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in question_files(config)
    }
    return {"model": folder.fingerprint, "corpus": corpus.hash, "questions": digests}
