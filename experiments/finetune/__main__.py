"""Run the job: `python -m experiments.finetune`."""

from experiments.finetune import finetune
from experiments.launch import launch

launch(finetune, name="finetune", config="configs/finetune/own.py")
