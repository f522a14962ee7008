"""Run the job: `python -m experiments.ilo`."""

from experiments.ilo import measure
from experiments.launch import launch

launch(measure, name="ilo", config="configs/ilo/sample.py", profile=True)
