"""Fields with bounds: what is out of them is named, all at once, and nothing is ignored."""

import dataclasses
import re
from typing import Any

import pytest

from experiments import evaluate, extract, finetune, freezing, ilo, settings
from experiments.settings import Bound, at_least, bounded, check, mistyped, one_of, problems


@dataclasses.dataclass(kw_only=True)
class Config:
    """One field of each kind."""

    count: int = at_least(1, default=3)
    """Of something."""
    share: float = at_least(0, Bound(lambda share: share < 1, "below 1"), default=0.5)
    """Of something."""
    kind: str = one_of(("red", "blue"), default="red")
    """Of something."""
    dtype: str = one_of(("", "float32"), default="", words="float32")
    """Of something."""
    even: int = bounded(2, Bound(lambda number: number % 2 == 0, "even"))
    """A number."""
    free: str = ""
    """Anything."""


def test_defaults_are_plain_values():
    assert Config.count == 3
    assert vars(Config()) == {
        "count": 3,
        "share": 0.5,
        "kind": "red",
        "dtype": "",
        "even": 2,
        "free": "",
    }


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("count", 0, "count must be at least 1, got 0"),
        ("share", -0.5, "share must be at least 0, got -0.5"),
        ("share", 1.0, "share must be below 1, got 1.0"),
        ("share", float("nan"), "share must be at least 0, got nan"),
        ("share", float("inf"), "share must be finite, got inf"),
        ("count", 2**31, "count must be below 2^31, got 2147483648"),
        ("kind", "green", "kind must be one of red, blue, got 'green'"),
        ("kind", "", "kind must be one of red, blue, got ''"),
        ("dtype", "int8", "dtype must be float32, got 'int8'"),
        ("even", 3, "even must be even, got 3"),
    ],
)
def test_a_value_out_of_bounds_is_named(field, value, problem):
    config = Config()
    assert problems(config) == []
    setattr(config, field, value)
    assert problems(config) == [problem]


def test_all_that_is_wrong_is_named_at_once():
    config = Config(count=0, even=3)
    message = "count must be at least 1, got 0; even must be even, got 3; both are wrong"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check(config, "both are wrong")
    check(Config())
    with pytest.raises(ValueError, match=r"^both are wrong$"):
        check(Config(), "both are wrong")


def test_a_value_of_another_type_is_named():
    assert mistyped(Config(share=1)) == []
    wrong: dict[str, Any] = {"count": True, "share": "1", "kind": None, "even": 2.0}
    assert mistyped(Config(**wrong)) == [
        "count must be a whole number, got True",
        "share must be a number, got '1'",
        "kind must be text, got None",
        "even must be a whole number, got 2.0",
    ]


CONFIGS = [ilo.Config, extract.Config, evaluate.Config, finetune.Config, freezing.Config]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__module__)
def test_the_defaults_of_every_job_are_within_their_bounds(kind):
    assert problems(kind()) == []


@pytest.mark.parametrize("kind", [finetune.Config, freezing.Config])
@pytest.mark.parametrize("name", ["states", "stored_dtype", "prefix", "pooling", "distance"])
def test_training_has_no_field_that_it_would_ignore(kind, name):
    with pytest.raises(TypeError, match=name):
        kind(**{name: ""})


def test_what_is_said_of_the_parts_is_said_of_every_field():
    """The bounds of a part hold in every job that inherits it."""
    for kind in (settings.Aligned, ilo.Config, finetune.Config):
        found = [problem for problem in problems(kind(sentences=-1)) if "sentences" in problem]
        assert found == ["sentences must be at least 0, got -1"]
