"""ILO of every language at every hidden state of a model.

    python -m experiments.ilo --config=configs/ilo/sample.py
    python -m experiments.ilo --config.model=FOLDER_OR_ID --config.corpus=FOLDER --workdir=DIR

Writes scores.csv, config.json and ilo.png into the run folder, and keeps the hidden
states there: a run with the same model and corpus uses them again, and a run that was
killed continues where it was. On several hosts, start it on each with --distributed.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path

import jax

from experiments import pictures, tables
from experiments.ilo import report
from experiments.launch import Run, say
from experiments.provenance import leave_config
from experiments.settings import Bound, Compared, Extraction, Overlap, at_least, check, one_of
from experiments.states import Stored, open_model, read_corpus, stored_states
from ilo_jax.evaluation.interlingua import scored
from ilo_jax.metrics import PRECISIONS, IloSettings, ReferencedScores, check_settings

SEED_LIMIT = Bound(lambda seed: seed < 2**63, "below 2^63")


@dataclasses.dataclass(kw_only=True)
class Config(Overlap, Compared, Extraction):
    """What a run measures, on what, and how."""

    precision: str = one_of(PRECISIONS, default=IloSettings.precision)
    """exact or fast: how neighbours are proposed; the certain ones are the same."""
    permutations: int = at_least(1, default=IloSettings.permutations)
    """Shuffles of the language labels behind the ceiling."""
    draws: int = at_least(1, default=IloSettings.draws)
    """Random corpora behind the Gaussian null."""
    seed: int = at_least(0, default=IloSettings.seed, below=SEED_LIMIT)
    """Seed of the shuffles and the draws."""


def settings_of(config: Config) -> IloSettings:
    """How the configuration asks for a state to be scored."""
    names = [field.name for field in dataclasses.fields(IloSettings)]
    return IloSettings(**{name: getattr(config, name) for name in names})


def measure(config: Config, run: Run) -> ReferencedScores:
    """Run the whole job and leave its files in the run folder.

    Raises:
        ImportError: If the sample model's package is asked for and not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the corpus or the model cannot be used.
    """
    check(config)
    corpus = read_corpus(config)
    lang, sent = len(corpus.languages), len(corpus.sentences[0])
    check_settings(settings_of(config), num_points=lang * sent, num_languages=lang)
    run.make_folder()
    stored = stored_states(
        config, open_model(config), corpus, run, taps=f"residual:{config.pooling}"
    )
    begun = time.perf_counter()
    scores = scored(stored.hidden_states(doing="scores"), settings_of(config))
    seconds = time.perf_counter() - begun
    if jax.process_index() == 0:
        write(run.workdir, scores, stored)
    took = stored.took | {"seconds": round(seconds, 3)}
    leave_config(run.workdir, config, stored.key, corpus=corpus, took=took)
    say(report.table(scores, languages=corpus.languages, sentences=sent))
    if caution := tables.caution(tables.open_shares(scores.uncertain, sentences=sent)):
        say(caution)
    if jax.process_index() == 0:
        draw(run.workdir, scores, stored, config)
    say(f"scored in {seconds:.1f} s; wrote scores.csv, config.json and ilo.png in {run.workdir}")
    return scores


def write(workdir: Path, scores: ReferencedScores, stored: Stored) -> None:
    """Leave the scores of a run in its folder."""
    languages = stored.corpus.languages
    rows = ({"model": stored.model} | row for row in tables.tidy(scores._asdict(), languages))
    tables.write(workdir / "scores.csv", ("model", *tables.INTERLINGUA), rows)


def draw(workdir: Path, scores: ReferencedScores, stored: Stored, config: Config) -> None:
    """Leave the picture of a run in its folder."""
    languages = stored.corpus.languages
    title = f"{stored.model}, {len(languages)} languages x {len(stored.corpus.sentences[0])}"
    title += f" sentences of {Path(stored.corpus.source).name}, k={config.k}"
    title += f", t={config.min_languages}"
    picture = partial(report.picture, scores, title=title, languages=languages)
    pictures.write(workdir / "ilo.png", picture)
