"""Run the job: `python -m experiments.freezing`."""

from experiments.freezing import compare
from experiments.launch import launch

launch(compare, name="freezing", config="configs/freezing/own.py")
