import math
from types import NoneType

import pytest

from ilo_jax.models.hub.families.reading import Key, UnknownKeysError, only, read_keys, unsupported

KEYS = {
    "size": Key("size", int),
    "eps": Key("eps", (int, float), 1e-6),
    "kind": Key("kind", str, "plain", ("plain", "fancy")),
    "tied": Key("tied", bool, False),
    "heads": Key("heads", int, 2, also=("n_head", "num_heads")),
    "window": Key("window", (int, NoneType), 4096),
    "first": Key("place", bool, True, {True: "pre", False: "post"}),
    "bias": Key("q_bias k_bias", bool, False),
    "odd": only(7),
    "absent": unsupported(),
}
DEFAULTS = {
    "eps": 1e-6,
    "kind": "plain",
    "tied": False,
    "heads": 2,
    "window": 4096,
    "place": "pre",
    "q_bias": False,
    "k_bias": False,
}


def read(raw: dict) -> dict:
    return read_keys(raw, KEYS, inert=["comment"], where="a test")


def test_values_are_read_and_inert_keys_left():
    raw = {"size": 3, "eps": 0.5, "kind": "fancy", "tied": True, "comment": [1]}
    assert read(raw) == DEFAULTS | {"size": 3, "eps": 0.5, "kind": "fancy", "tied": True}


def test_defaults_stand_for_absent_keys():
    assert read({"size": 3}) == DEFAULTS | {"size": 3}


@pytest.mark.parametrize(
    "name", ["eps", "kind", "tied", "heads", "n_head", "first", "odd", "absent"]
)
def test_null_is_as_if_absent(name):
    assert read({"size": 3, name: None}) == DEFAULTS | {"size": 3}


def test_null_is_a_value_where_it_may_be_one():
    assert read({"size": 3, "window": None})["window"] is None


def test_an_integer_is_a_number_where_numbers_are_read():
    eps = read({"size": 3, "eps": 1})["eps"]
    assert (eps, type(eps)) == (1.0, float)


@pytest.mark.parametrize("names", [["heads"], ["n_head"], ["num_heads"], ["heads", "num_heads"]])
def test_key_has_several_names(names):
    assert read({"size": 3} | dict.fromkeys(names, 8))["heads"] == 8


def test_null_under_one_name_leaves_the_other():
    assert read({"size": 3, "heads": None, "num_heads": 8})["heads"] == 8


def test_one_key_may_be_several_facts():
    facts = read({"size": 3, "bias": True})
    assert (facts["q_bias"], facts["k_bias"]) == (True, True)


@pytest.mark.parametrize(("value", "fact"), [(True, "pre"), (False, "post")])
def test_value_becomes_the_fact_it_means(value, fact):
    assert read({"size": 3, "first": value})["place"] == fact


@pytest.mark.parametrize(
    ("key", "value"), [(only(value=False), False), (only("absolute"), "absolute"), (only(1.0), 1.0)]
)
def test_the_only_value_decides_nothing(key, value):
    assert read_keys({"key": value}, {"key": key}, inert=(), where="a test") == {}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"extra": 1}, "extra: unknown key"),
        ({"extra": None}, "extra: unknown key"),
        ({"size": None}, "size: missing"),
        ({"size": "3"}, "size: must be int, got '3'"),
        ({"size": 3.0}, "size: must be int, got 3.0"),
        ({"size": True}, "size: must be int, got True"),
        ({"eps": True}, "eps: must be int or float, got True"),
        ({"eps": "small"}, "eps: must be int or float, got 'small'"),
        ({"tied": 1}, "tied: must be bool, got 1"),
        ({"kind": 7}, "kind: must be str, got 7"),
        ({"kind": "odd"}, "kind: must be one of ['plain', 'fancy'], got 'odd'"),
        ({"kind": ["plain"]}, "kind: must be str, got ['plain']"),
        ({"window": 1.5}, "window: must be int or null, got 1.5"),
        ({"first": "pre"}, "first: must be bool, got 'pre'"),
        ({"n_head": "2"}, "heads: must be int, got '2'"),
        (
            {"heads": 2, "num_heads": 4},
            "heads: its names disagree: heads is 2 and num_heads is 4",
        ),
        (
            {"heads": 2, "n_head": 2, "num_heads": 4},
            "heads: its names disagree: heads is 2 and n_head is 2 and num_heads is 4",
        ),
        ({"odd": 8}, "odd: must be one of [7], got 8"),
        ({"odd": "7"}, "odd: must be int, got '7'"),
        ({"absent": 0.5}, "absent: must be null, got 0.5"),
        ({"eps": math.nan}, "eps: must be finite, got nan"),
        ({"eps": -math.inf}, "eps: must be finite, got -inf"),
        ({"num_head": 2}, "num_head: unknown key; there is num_heads"),
        ({"widow": 2}, "widow: unknown key; there is window"),
        (
            {"quantization_config": {}},
            "quantization_config: unknown key: quantised weights are not read; take those from "
            "before",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_problem_is_the_whole_message(change, problem):
    with pytest.raises(ValueError, match=r"^cannot read a test:\n") as error:
        read({"size": 3} | change)
    assert str(error.value) == f"cannot read a test:\n  {problem}"


def test_all_problems_come_at_once():
    with pytest.raises(ValueError, match=r"^cannot read a test:\n") as error:
        read({"zeta": 1, "alpha": 2, "eps": "small", "kind": "odd", "heads": 1, "n_head": 2})
    assert str(error.value).splitlines() == [
        "cannot read a test:",
        "  alpha: unknown key",
        "  zeta: unknown key",
        "  size: missing",
        "  eps: must be int or float, got 'small'",
        "  kind: must be one of ['plain', 'fancy'], got 'odd'",
        "  heads: its names disagree: heads is 1 and n_head is 2",
    ]


def test_unknown_keys_are_told_to_whoever_catches_it():
    """But for those that nobody may ignore."""
    with pytest.raises(UnknownKeysError) as error:
        read({"zeta": 1, "alpha": 2, "quantization_config": {}})
    assert error.value.names == ("alpha", "zeta")


def test_a_name_that_stands_in_for_another_is_outranked_by_it():
    keys = {"longest": Key("longest", int, instead=("most", "limit"))}
    for raw, expected in (
        ({"limit": 3}, 3),
        ({"limit": 3, "most": 2}, 2),
        ({"limit": 3, "longest": 1}, 1),
        ({"limit": 3, "longest": None}, 3),
    ):
        assert read_keys(raw, keys, inert=(), where="a test") == {"longest": expected}
