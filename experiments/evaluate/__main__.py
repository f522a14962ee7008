"""Run the job: `python -m experiments.evaluate`."""

from experiments.evaluate import measure
from experiments.launch import launch

launch(measure, name="evaluate", config="configs/evaluate/sample.py", profile=True)
