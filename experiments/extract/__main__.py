"""Run the job: `python -m experiments.extract`."""

from experiments.extract import extract
from experiments.launch import launch

launch(extract, name="extract", config="configs/extract/sample.py", profile=True)
