"""Which jobs are known here, and what each of them computes again and again."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from experiments import extract, finetune, generate, ilo, pretrain
from experiments.finetune.config import check as check_finetuning
from experiments.fit.extraction import forward
from experiments.fit.generation import speech
from experiments.fit.scoring import scores
from experiments.fit.training import step, step_from_scratch
from experiments.fit.workload import Asked, Workload
from experiments.generate.config import check as check_generation
from experiments.pretrain.config import check as check_pretraining
from experiments.pretrain.setting import any_model
from experiments.settings import check
from experiments.states import open_model
from ilo_jax.activations.taps import read
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import AnyMesh

JOBS = {
    ilo.Config: "ilo",
    extract.Config: "extract",
    finetune.Config: "finetune",
    generate.Config: "generate",
    pretrain.Config: "pretrain",
}
"""Name of each job, by the class of its configurations."""


def check_config(config: Any) -> None:
    """Refuse values that no run could use, and jobs that are not known here.

    Raises:
        ValueError: Naming each of them.
    """
    if type(config) not in JOBS:
        name = type(config).__module__.removesuffix(".config")
        raise ValueError(
            f"--config must be of one of {', '.join(JOBS.values())}; got one of {name}"
        )
    if isinstance(config, finetune.Config):
        # The text need not be there, and so need not be named.
        check_finetuning(dataclasses.replace(config, text=config.text or "text"))
    elif isinstance(config, generate.Config):
        # Nor need prompts.
        check_generation(dataclasses.replace(config, prompt="", prompts="prompts"))
    elif isinstance(config, pretrain.Config):
        check_pretraining(config)
    else:
        check(config)


def model_config(config: Any) -> ModelConfig:
    """The model of a job; of one that is read, config.json and nothing else.

    Raises:
        OSError: If it is absent.
        ValueError: If it cannot be read, or made.
    """
    if isinstance(config, pretrain.Config):
        return any_model(config)
    return open_model(config, whole=False).config


def workloads(config: Any, model: Transformer, mesh: AnyMesh, asked: Asked) -> Sequence[Workload]:
    """What a job computes again and again, in the order of the job.

    Args:
        config: Of a job that `check_config` knows.
        model: Its model, abstract.
        mesh: With axes "data" and "model"; of devices if anything is to be compiled.
        asked: What the configuration leaves to the text.

    Raises:
        ValueError: If the settings cannot be used with this model, or on such a mesh.
    """
    if isinstance(config, finetune.Config):
        return [step(config, model, mesh)]
    if isinstance(config, pretrain.Config):
        return [step_from_scratch(config, model, mesh)]
    if isinstance(config, generate.Config):
        return speech(config, model, mesh, asked)
    taps = config.taps if isinstance(config, extract.Config) else f"residual:{config.pooling}"
    extraction = forward(config, model, mesh, asked, read(taps, model.config))
    scoring = [scores(config, model, mesh, asked)] if isinstance(config, ilo.Config) else []
    return [extraction, *scoring]
