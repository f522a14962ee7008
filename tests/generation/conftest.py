"""Tiny models that speak, by torch and ours."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from tests.models.variants import VARIANTS, VOCAB, fresh, perturb

# On shared cores torch's threads wait for each other.
torch.set_num_threads(1)


class Tiny(NamedTuple):
    """A model by torch, and the folder it was saved to."""

    folder: Path
    torch: Any


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Callable[[str], Tiny]:
    """Return the tiny model of a variant, every weight perturbed."""

    @functools.cache
    def make(variant: str) -> Tiny:
        model = fresh(variant)
        perturb(model, seed=list(VARIANTS).index(variant))
        folder = tmp_path_factory.mktemp(variant)
        model.save_pretrained(folder)
        return Tiny(folder, model)

    return make


@pytest.fixture(scope="session")
def ours(tiny) -> Callable[[str], Transformer]:
    """Return our model of a variant, in float32 on one device."""
    return functools.cache(
        lambda variant: loading.load(open_folder(tiny(variant).folder), mesh=make_mesh(data=1))
    )


@pytest.fixture(scope="session")
def texts() -> list[list[int]]:
    """Return prompts of different lengths, one of them a token alone."""
    rng = np.random.default_rng(0)
    return [rng.integers(2, VOCAB, length).tolist() for length in (1, 5, 13, 3)]
