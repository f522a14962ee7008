"""Whether the languages of a model in training come to share a space, and when.

    python -m experiments.series --config.series=runs/pretrain/sample/series
    python -m experiments.series --config.series=OWNER/NAME@step* --config.steps=1000,10000,143000

Judges every checkpoint of a series, one's own (`experiments.pretrain`) or a published one, by
aligned sentences that it has not learnt from: bits per byte of each language, ILO and its
references, and how often a sentence's translation is its nearest, at every hidden state. With
--config.text, the text that was learnt, xz and byte 5-grams are asked for bits per byte, too.
Writes bits.csv, ilo.csv, retrieval.csv, references.csv, series.png and config.json into the run
folder. Each checkpoint is judged once: a run that was killed, or of a series that has grown, goes
on where it was.
"""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
from tqdm import tqdm

from experiments.hardware import make_mesh
from experiments.judgements import judged
from experiments.launch import Run, say
from experiments.provenance import leave_config
from experiments.series import report
from experiments.series.references import Reference, references
from experiments.series.report import Point
from experiments.settings import Judged, Monolingual, Overlap, check, given
from experiments.states import listed_names
from experiments.watch import read_slice
from ilo_jax.evaluation.held_out import Slice, judgement_key
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.models.hub.series import Checkpoint, opened, read_series
from ilo_jax.processes import quiet


@dataclasses.dataclass(kw_only=True)
class Config(Overlap, Judged, Monolingual):
    """Which checkpoints are judged, and by what.

    `text` is what was learnt; without it, xz and n-grams are not asked.
    """

    series: str = given(default="", words="a folder of checkpoints, or owner/name@PATTERN")
    """A folder of checkpoints named stepN or global_stepN, with or without an index; or the
    revisions of a hub id that fit a pattern, such as owner/name@step*."""
    steps: str = ""
    """Which of them, separated by commas; empty: all."""
    text: str = ""
    """The text by language that was learnt, as `experiments.pretrain` takes it; may be empty."""


def follow(config: Config, run: Run) -> list[Point]:
    """Run the whole job and leave its files in the run folder.

    Raises:
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written.
        RuntimeError: If another process failed.
        ValueError: If the settings, the series, a checkpoint or a text cannot be used.
    """
    check(config)
    series = read_series(config.series, steps=steps_of(config.steps))
    last, mesh = open_folder(series.tokenizer), make_mesh(config)
    held_out = read_slice(config, last, mesh, k=config.k, min_languages=config.min_languages)
    known = references(config, held_out.corpus) if config.text else {}
    run.make_folder()
    points, keys = [], {}
    shown = tqdm(opened(series), "checkpoints", len(series.checkpoints), disable=quiet())
    for checkpoint, folder in shown:
        _refuse_another(checkpoint, folder, last)
        keys[str(checkpoint.step)] = judgement_key(held_out, folder.fingerprint)
        points.append(_point(config, checkpoint, folder, held_out, run))
    leave_config(run.workdir, config, keys, corpus=held_out.corpus)
    _leave(run, points, known, held_out, series.name)
    return points


def steps_of(text: str) -> list[int]:
    """The numbers of a list with commas.

    Raises:
        ValueError: Naming what is no number.
    """
    names = listed_names(text)
    if odd := [name for name in names if not name.isdecimal()]:
        raise ValueError(f"steps must be whole numbers, separated by commas; got {', '.join(odd)}")
    return [int(name) for name in names]


def _refuse_another(checkpoint: Checkpoint, folder: Folder, last: Folder) -> None:
    if folder.config != last.config:
        raise ValueError(
            f"checkpoints of a series must be of one model; that of step {checkpoint.step} "
            f"({checkpoint.model}) is made otherwise than the last one ({last.path}): compare "
            "their config.json, or leave one out by --config.steps"
        )


def _point(
    config: Config, checkpoint: Checkpoint, folder: Folder, held_out: Slice, run: Run
) -> Point:
    name = f"step{checkpoint.step}"
    found = judged(folder, held_out, config, name=name, within=run.workdir / "judged")
    bits = found.texts.bits_per_byte.mean()
    best = np.nanmean(found.scores.ilo, axis=1)
    say(
        f"step {checkpoint.step}: {bits:.3f} bits per byte; mean ILO highest at state "
        f"{best.argmax()}, {best.max():.3f}; translations found {report.retrieved(found).max():.3f}"
    )
    return Point(checkpoint.step, found)


def _leave(
    run: Run, points: list[Point], known: Mapping[str, Reference], held_out: Slice, name: str
) -> None:
    """Write the tables, then the picture, and say what came out."""
    languages = held_out.corpus.languages
    if jax.process_index() == 0:
        report.write(run.workdir, points, known, languages)
    say(report.table(points, known))
    if jax.process_index() == 0:
        sentences = len(held_out.corpus.sentences[0])
        report.draw(run.workdir, points, known, languages, title=name, sentences=sentences)
    say(f"wrote bits.csv, ilo.csv, retrieval.csv, references.csv and series.png in {run.workdir}")
