"""Run the job: `python -m experiments.series`."""

from experiments.launch import launch
from experiments.series import follow

launch(follow, name="series", config="configs/series/sample.py")
