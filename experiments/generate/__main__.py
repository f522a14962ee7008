"""Run the job: `python -m experiments.generate`."""

from experiments.generate import speak
from experiments.launch import launch

launch(speak, name="generate", config="configs/generate/own.py")
