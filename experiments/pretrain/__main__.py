"""Run the job: `python -m experiments.pretrain`."""

from experiments.launch import launch
from experiments.pretrain import pretrain

launch(pretrain, name="pretrain", config="configs/pretrain/sample.py")
