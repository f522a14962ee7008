import dataclasses

import jax.numpy as jnp
import pytest

from experiments import evaluate, extract, finetune, generate, ilo, pretrain
from experiments.fit.jobs import check_config, model_config, workloads
from experiments.fit.suggestions import abstract_mesh
from experiments.fit.workload import Asked
from ilo_jax.models import parameters
from ilo_jax.models.hub.folder import open_folder

ASKED = Asked(row_length=64, segments=4, points=(4, 6))


def test_a_job_that_is_not_known_is_refused_with_those_that_are():
    jobs = "ilo, extract, finetune, generate, pretrain"
    message = f"^--config must be of one of {jobs}; got one of experiments.evaluate$"
    with pytest.raises(ValueError, match=message):
        check_config(evaluate.Config())


def test_what_no_run_could_use_is_refused():
    with pytest.raises(ValueError, match=r"batch_tokens must be at least 0"):
        check_config(extract.Config(batch_tokens=-1))
    with pytest.raises(ValueError, match=r"^rows must be at least 1, got 0$"):
        check_config(finetune.Config(rows=0))
    with pytest.raises(ValueError, match=r"^rows must be at least 1, got 0$"):
        check_config(pretrain.Config(rows=0))


def test_the_text_that_is_learnt_or_gone_on_from_need_not_be_named():
    check_config(finetune.Config())
    check_config(generate.Config())
    check_config(pretrain.Config())


@pytest.mark.parametrize(
    ("config", "begin"),
    [
        (extract.Config(taps="neurons:max"), ["extraction of"]),
        (ilo.Config(pooling="max"), ["extraction of", "scores of"]),
        (finetune.Config(freeze="paper:1"), ["step of"]),
        (pretrain.Config(), ["step of"]),
        (generate.Config(), ["32 prompts of", "a token of each of 32"]),
    ],
    ids=["extract", "ilo", "finetune", "pretrain", "generate"],
)
def test_each_job_has_its_workloads(decoder, config, begin):
    model = parameters.abstract(open_folder(decoder).config, dtype=jnp.float32)
    found = workloads(config, model, abstract_mesh(8, model=1), ASKED)
    assert [work.title[: len(start)] for work, start in zip(found, begin, strict=True)] == begin


def test_a_model_that_is_to_be_made_is_that_of_its_sizes(decoder):
    made = model_config(pretrain.Config(dim=32, layers=2, vocab=300))
    assert (made.dim, made.layers, made.vocab) == (32, 2, 300)
    assert model_config(extract.Config(model=str(decoder))) == open_folder(decoder).config


def test_taps_that_the_model_has_not_are_refused(decoder):
    model = parameters.abstract(open_folder(decoder).config, dtype=jnp.float32)
    config = dataclasses.replace(extract.Config(), taps="residual:mean@9")
    with pytest.raises(ValueError, match=r"must have layers in \[0, 3\] of residual"):
        workloads(config, model, abstract_mesh(8, model=1), ASKED)
