"""Run the job: `python -m experiments.fit`."""

import re

from absl import flags

from experiments import fit, launch
from experiments.fit.workload import Asked

FLAGS = flags.FLAGS
CONFIG = "configs/extract/sample.py"


def points(text: str) -> tuple[int, int] | None:
    """Languages and sentences of each in LANGxSENT.

    Raises:
        ValueError: If it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if text and not match:
        raise ValueError(f"--points must be LANGUAGESxSENTENCES such as 31x997, got {text!r}")
    return match and (int(match[1]), int(match[2]))


def main() -> int:
    """Return 0 if the job fits."""
    asked = Asked(FLAGS.row_length, FLAGS.segments, points(FLAGS.points))
    fits = fit.fit(
        FLAGS.config,
        asked,
        on=FLAGS.on,
        file=launch.config_file(CONFIG),
        suggest=FLAGS.suggest,
        save=FLAGS.save,
    )
    return 0 if fits else 1


launch.define_config(CONFIG, of_any_job=True)
flags.DEFINE_string("on", "", "The devices: CHIP:SHAPE, such as v5e:4x4 or h100:8.")
flags.DEFINE_integer("row_length", 512, "Tokens of a row of sentences.", lower_bound=1)
flags.DEFINE_integer("segments", 32, "Sentences of such a row, at most.", lower_bound=1)
flags.DEFINE_string("points", "", "LANGUAGESxSENTENCES that are scored, if --config does not say.")
flags.DEFINE_bool("suggest", False, "Look for settings that fit.")
flags.DEFINE_string("save", "", "Folder for the text of what is compiled; empty: it is not kept.")
launch.start(main, about=fit.__doc__)
