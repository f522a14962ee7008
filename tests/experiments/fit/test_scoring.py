import dataclasses
import re

import jax.numpy as jnp
import pytest

from experiments.fit.scoring import points, scores
from experiments.fit.suggestions import abstract_mesh
from experiments.fit.workload import Asked
from experiments.ilo import Config
from ilo_jax.models import parameters
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import device_bytes, make_mesh

ASKED = Asked(row_length=64, segments=4)
FLORES = Config(corpus="flores200", split="devtest", languages="paper")


@pytest.fixture(scope="module")
def model(tiny):
    return parameters.abstract(open_folder(tiny).config, dtype=jnp.float32)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, (31, 1012)),
        ({"split": "dev"}, (31, 997)),
        ({"sentences": 100}, (31, 100)),
        ({"languages": "eng_Latn, deu_Latn"}, (2, 1012)),
        ({"corpus": "sample", "languages": "", "split": ""}, (31, 48)),
        (
            {"corpus": "sample", "languages": "eng_Latn,deu_Latn", "split": "", "sentences": 5},
            (2, 5),
        ),
    ],
)
def test_points_are_as_many_as_the_configuration_says(changed, expected):
    assert points(dataclasses.replace(FLORES, **changed), ASKED) == expected


def test_whoever_says_how_many_points_there_are_is_believed():
    assert points(FLORES, ASKED._replace(points=(3, 7))) == (3, 7)


@pytest.mark.parametrize("changed", [{"languages": ""}, {"split": ""}])
def test_where_nobody_says_how_many_points_that_is_asked_for(changed):
    config = dataclasses.replace(FLORES, **changed)
    message = (
        "--points must say how many languages and sentences there are, such as 31x997, where the "
        f"configuration does not: languages={config.languages!r}, sentences=0, "
        f"split={config.split!r}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        points(config, ASKED)


def test_the_search_is_shared_and_every_device_has_the_whole_state(model):
    config = dataclasses.replace(FLORES, draws=3)
    work = scores(config, model, abstract_mesh(8, model=2), ASKED)
    assert device_bytes(work.held) == 31 * 1012 * 24 * 4
    assert work.operations == 2 * (31 * 1012) ** 2 * 24 * 4 / 8
    assert work.dtype == "float32"
    assert work.title == "scores of a hidden state of 31 x 1012 sentences, 24 wide"


def test_fast_scores_multiply_bfloat16(model):
    config = dataclasses.replace(FLORES, precision="fast")
    assert scores(config, model, abstract_mesh(8, model=1), ASKED).dtype == "bfloat16"


def test_too_many_neighbours_for_so_few_points_are_refused(model):
    asked = ASKED._replace(points=(2, 2))
    with pytest.raises(ValueError, match=r"k must be in \[1, 3\]"):
        scores(FLORES, model, abstract_mesh(8, model=1), asked)


def test_it_compiles_for_the_devices(model):
    asked = ASKED._replace(points=(4, 6))
    work = scores(FLORES, model, make_mesh(model=2), asked)
    made = work.compile()
    assert made.memory.arguments == device_bytes(work.held) == 4 * 6 * 24 * 4
    assert [(name, often) for name, _, often in made.parts] == [("scores", 1)]
