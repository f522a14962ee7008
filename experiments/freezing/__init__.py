"""One text learnt twice, by the whole model and with its early layers frozen: what it does.

    python -m experiments.freezing --config.model=FOLDER_OR_ID --config.text=FILE --workdir=DIR
    python -m experiments.freezing --config=configs/freezing/smollm2.py

Compares the model as it is with full fine-tuning and selective freezing (Wilie et al. 2025,
section 5), which start from the same weights and see the same rows, once for every seed. Writes
bits.csv (bits per byte of each language), ilo.csv (ILO of each language at each hidden state,
with its references), bits.png, ilo.png and config.json into the run folder; the models are below
it, as Hugging Face folders. Started again, it continues where it was.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from experiments.finetune import config as training
from experiments.finetune import finetune
from experiments.finetune.setting import Setting, prepare, training_key
from experiments.freezing import report
from experiments.freezing.report import Judged
from experiments.hardware import make_mesh
from experiments.judgements import judged
from experiments.launch import Run, say
from experiments.provenance import leave_config
from experiments.settings import at_least
from experiments.watch import read_slice
from ilo_jax.evaluation.held_out import Slice, judgement_key
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.training.checkpoints import Key


@dataclasses.dataclass(kw_only=True)
class Config(training.Config):
    """What is learnt and frozen, and what all models are judged by."""

    freeze: str = "paper:8"
    """What does not train where freezing is selective; see `experiments.finetune.config`."""
    seeds: int = at_least(1, default=2)
    """Trainings of each kind: with seed, seed + 1, ..."""
    trained: str = ""
    """Language of the text, such as deu_Latn, to be marked in what is shown; may be empty."""
    evaluate: int = at_least(0, default=0)
    """Steps between evaluations while a model learns; 0: none, only the final models are judged."""


FIELDS = dataclasses.fields(training.Config)
"""Fields of one training: how many are compared, and as what, has no bearing on it."""


class Arm(NamedTuple):
    """One of the models that are compared."""

    name: str
    """base, full or frozen."""
    seed: int
    """0 for the base."""
    train: Callable[[], Folder | None]
    """Gives its folder, opened, after training where it has to be trained; None if told to stop."""


def check(config: Config) -> None:
    """Refuse values that no run could use.

    Raises:
        ValueError: Naming each of them.
    """
    training.check(config)
    if config.freeze == "none":
        raise ValueError("freeze must name what is frozen in the one arm, got none")


def arms(config: Config, run: Run, base: Folder) -> list[Arm]:
    """What is compared, each trained below the run folder."""

    def trained(name: str, fields: dict[str, Any], seed: int) -> Arm:
        given = {field.name: getattr(config, field.name) for field in FIELDS}
        given |= {"seed": seed, **fields}
        own = training.Config(**given)
        where = Run(run.workdir / f"{name}-{seed}")

        def train() -> Folder | None:
            path = finetune(own, where)
            return path and open_folder(path)

        return Arm(name, seed, train)

    folder = config.frozen_folder
    if config.frozen_states == "disk":
        folder = folder or str(run.workdir / "frozen-states")
    kinds = {
        "full": {"freeze": "none", "frozen_states": "", "frozen_folder": ""},
        "frozen": {"frozen_folder": folder},
    }
    seeds = range(config.seed, config.seed + config.seeds)
    found = [Arm("base", 0, lambda: base)]
    return found + [trained(kind, own, seed) for seed in seeds for kind, own in kinds.items()]


def compare(config: Config, run: Run) -> list[Judged]:
    """Run the whole job and leave its files in the run folder; if told to stop, only models.

    Raises:
        FloatingPointError: If a training diverges.
        ImportError: If a package that is asked for is not installed.
        MemoryError: If a device has too little.
        OSError: If a file or folder is absent or cannot be written, or another run writes there.
        RuntimeError: If another process failed.
        ValueError: If the settings, the text, the corpus or the model cannot be used.
    """
    check(config)
    setting = prepare(config)
    mesh = make_mesh(config)
    held_out = read_slice(
        config, setting.folder, mesh, k=config.k, min_languages=config.min_languages
    )
    languages = held_out.corpus.languages
    if config.trained and config.trained not in languages:
        raise ValueError(
            f"trained must be one of the languages judged, {', '.join(languages)}; got "
            f"{config.trained!r}"
        )
    run.make_folder()
    found = []
    for arm in arms(config, run, setting.folder):
        if (folder := arm.train()) is None:
            return found
        name = f"{arm.name}-{arm.seed}"
        kept = judged(folder, held_out, config, name=name, within=run.workdir / "judged")
        found.append(Judged(arm.name, arm.seed, kept))
    if jax.process_index() == 0:
        report.write(run.workdir, found, languages, trained=config.trained)
    key = comparison_key(config, setting, held_out)
    leave_config(run.workdir, config, key, corpus=held_out.corpus)
    sentences = len(held_out.corpus.sentences[0])
    say(report.table(found, languages, trained=config.trained, sentences=sentences))
    if jax.process_index() == 0:
        size = f"{config.rows} x {setting.text.row_length} tokens"
        title = f"{setting.folder.name}, {config.steps} steps of {size}"
        report.draw(run.workdir, found, languages, trained=config.trained, title=title)
    say(f"wrote bits.csv, ilo.csv, bits.png, ilo.png and config.json in {run.workdir}")
    return found


def comparison_key(config: Config, setting: Setting, held_out: Slice) -> dict[str, Key]:
    """What determines the trainings, and what their models are judged by."""
    judged = judgement_key(held_out, setting.folder.fingerprint)
    return {"training": training_key(config, setting), "judgement": judged}
