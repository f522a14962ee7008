"""What every public metric says of arguments that are none, as its callers call it."""

import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ilo_jax import metrics
from ilo_jax.metrics.arguments import is_integer

STATES = jnp.asarray(np.random.default_rng(0).standard_normal((4, 10, 8)), jnp.float32)
POINTS, LABELS = STATES.reshape(40, 8), jnp.repeat(jnp.arange(4), 10)
NEIGHBORS = metrics.nearest(POINTS, k=3)
TOUCHES = metrics.touched(NEIGHBORS.index, LABELS, num_languages=4)
COUNTS = {"num_languages": 4, "min_languages": 2}
WHOLE: dict[str, dict[str, Any]] = {
    "nearest": {"points": POINTS, "k": 3},
    "ilo": {"states": STATES},
    "ilo of points": {"states": POINTS, "languages": LABELS, "num_languages": 4},
    "tally": {"neighbors": NEIGHBORS, "languages": LABELS, **COUNTS},
    "touched": {"index": NEIGHBORS.index, "languages": LABELS, "num_languages": 4},
    "bridge": {"touches": TOUCHES, "languages": LABELS, "min_languages": 2},
    "reach": {"touches": TOUCHES, "languages": LABELS},
    "ceiling": {"neighbors": NEIGHBORS, "languages": LABELS, "seed": 0, **COUNTS},
    "gaussian": {"states": STATES, "k": 3, "min_languages": 2, "distance": "cosine", "seed": 0},
    "referenced": {"states": STATES},
    "check_settings": {"settings": metrics.IloSettings(), "num_points": 40, "num_languages": 4},
    "stacked": {"states": []},
    "retrieval": {"states": STATES},
    "choices": {
        "log_likelihoods": POINTS,
        "lengths": jnp.ones((40, 8), int),
        "answers": LABELS,
        "languages": LABELS,
        "num_languages": 4,
    },
}
"""Arguments with which each does its work, "stacked" excepted."""

MAKE = "; make one by jax.numpy.asarray"
CONVERT = "; convert it by .astype"
COUNT = "; count from 0, or give a larger number of "
NO_MESH = "mesh must be a jax.sharding.Mesh with at least one axis, or None, got "
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("nearest", {"points": [[0.0]]}, f"points must be an array of floats, got a list{MAKE}"),
    ("nearest", {"points": POINTS > 0}, f"points must be of floats, got bool{CONVERT}"),
    ("nearest", {"points": jnp.ones((9, 2), int)}, f"points must be of floats, got int32{CONVERT}"),
    (
        "nearest",
        {"points": POINTS[0] * 1j},
        f"points must be of floats, got complex64{CONVERT}; "
        "points must have the shape (point, dim), got (8,)",
    ),
    ("nearest", {"points": POINTS[:, :0]}, "points must not be empty, got the shape (40, 0)"),
    ("nearest", {"points": POINTS[:1]}, "there must be at least 2 points, got 1"),
    ("nearest", {"k": True}, "k must be an integer, got True"),
    ("nearest", {"k": 5.0}, "k must be an integer, got 5.0"),
    ("nearest", {"k": np.eye(2)}, "k must be an integer, got array([[1., 0.], [0., 1.]])"),
    ("nearest", {"k": 40}, "k must be in [1, 39] for 40 points, got 40"),
    ("nearest", {"usable": [True] * 40}, f"usable must be an array of bools, got a list{MAKE}"),
    ("nearest", {"usable": LABELS}, f"usable must be of bools, got int32{CONVERT}"),
    (
        "nearest",
        {"usable": jnp.ones(39, bool), "k": 0},
        "k must be in [1, 39] for 40 points, got 0; "
        "usable must have an entry for each of the 40 points, got 39",
    ),
    ("nearest", {"mesh": "data"}, f"{NO_MESH}'data'"),
    (
        "nearest",
        {"mesh": jax.sharding.Mesh(np.array(jax.devices()[0]), ())},
        f"{NO_MESH}Mesh(axis_sizes=(), axis_names=(), axis_types=())",
    ),
    ("nearest", {"block": 2.0, "tile": 0}, "block must be an integer, got 2.0; tile must be at "
     "least 1, got 0"),
    ("nearest", {"symmetric": "no"}, "symmetric must be True, False or None, got 'no'"),
    ("nearest", {"distance": ["cosine"]}, "distance must be one of cosine, euclidean, got "
     "['cosine']"),
    ("nearest", {"precision": None}, "precision must be one of exact, fast, got None"),
    ("ilo", {"states": [STATES]}, f"states must be an array of floats, got a list{MAKE}"),
    ("ilo", {"states": STATES * 1j}, f"states must be of floats, got complex64{CONVERT}"),
    ("ilo", {"states": STATES[:, :0]}, "states must not be empty, got the shape (4, 0, 8)"),
    ("ilo", {"min_languages": True}, "min_languages must be an integer, got True"),
    ("ilo", {"k": 5.0, "mesh": 8}, f"k must be an integer, got 5.0; {NO_MESH}8"),
    ("ilo of points", {"languages": [0] * 40}, "languages must be an array of integers, got a "
     f"list{MAKE}"),
    ("ilo of points", {"languages": LABELS * 1.0, "num_languages": 4.0}, "languages must be of "
     f"integers, got float32{CONVERT}; num_languages must be an integer, got 4.0"),
    ("ilo of points", {"languages": LABELS - 2}, "languages must be in [0, 4), or -1 for no "
     f"language, got labels from -2 to 1{COUNT}languages"),
    ("ilo of points", {"num_languages": 3}, "languages must be in [0, 3), or -1 for no language, "
     f"got labels from 0 to 3{COUNT}languages"),
    ("tally", {"neighbors": tuple(NEIGHBORS)}, "neighbors must be what nearest returns, got a "
     "tuple"),
    ("tally", {"languages": LABELS[:9]}, "languages must have an entry for each of the 40 points, "
     "got 9"),
    ("tally", {"num_languages": "4"}, "num_languages must be an integer, got '4'"),
    ("touched", {"index": POINTS}, f"index must be of integers, got float32{CONVERT}"),
    ("touched", {"num_languages": 0}, "num_languages must be at least 1, got 0"),
    ("bridge", {"touches": NEIGHBORS.index}, f"touches must be of bools, got int32{CONVERT}"),
    ("bridge", {"min_languages": 0}, "min_languages must be at least 1, got 0"),
    ("reach", {"touches": TOUCHES[0]}, "touches must have the shape (point, lang), got (4,)"),
    ("reach", {"touches": True}, f"touches must be an array of bools, got a bool{MAKE}"),
    ("reach", {"languages": LABELS[:3]}, "languages must have an entry for each of the 40 points, "
     "got 3"),
    ("ceiling", {"permutations": 2.0, "seed": -1}, "permutations must be an integer, got 2.0; "
     "seed must be in [0, 2^63 - 1], got -1"),
    ("ceiling", {"neighbors": None}, "neighbors must be what nearest returns, got a NoneType"),
    ("gaussian", {"draws": True, "seed": 2**63}, "draws must be an integer, got True; seed must "
     "be in [0, 2^63 - 1], got 9223372036854775808"),
    ("gaussian", {"states": None}, f"states must be an array of floats, got a NoneType{MAKE}"),
    ("referenced", {"states": LABELS}, f"states must be of floats, got int32{CONVERT}; states must "
     "have the shape (lang, sent, dim), got (40,)"),
    ("referenced", {"mesh": ()}, f"{NO_MESH}()"),
    ("check_settings", {"settings": {"k": 5}}, "settings must be IloSettings, got a dict"),
    ("check_settings", {"num_points": "40", "num_languages": None}, "num_points must be an "
     "integer, got '40'; num_languages must be an integer, got None"),
    ("stacked", {}, "states must be at least one ReferencedScores, got none"),
    ("stacked", {"states": [NEIGHBORS]}, "states must be at least one ReferencedScores, got "
     "Neighbors"),
    ("retrieval", {"states": POINTS}, "states must have the shape (lang, sent, dim), got (40, 8)"),
    ("retrieval", {"distance": None}, "distance must be one of cosine, euclidean, got None"),
    ("choices", {"log_likelihoods": LABELS}, "log_likelihoods must be of floats, got int32"
     f"{CONVERT}; log_likelihoods must have the shape (question, option), got (40,)"),
    ("choices", {"lengths": jnp.ones((40, 7), int), "answers": LABELS[1:]}, "answers must have an "
     "entry for each of the 40 questions, got 39; lengths of a question must have an entry for "
     "each of the 8 options, got 7"),
    ("choices", {"answers": LABELS + 5}, "answers must be in [0, 8), or -1 for no option, got "
     f"labels from 5 to 8{COUNT}options"),
    ("choices", {"num_languages": 0}, "num_languages must be at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "message"), CASES, ids=lambda v: str(v)[:60])
def test_wrong_arguments_are_refused_in_one_line(name, change, message):
    """Callers have no shape checks: the function is called as they call it."""
    function = inspect.unwrap(getattr(metrics, name.split()[0]))
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        function(**WHOLE[name] | change)


def test_every_public_function_has_cases():
    functions = {name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))}
    assert {name.split()[0] for name, _, _ in CASES} == functions


def test_traced_labels_have_no_gaussian_null():
    def null(labels):
        given = {name: WHOLE["gaussian"][name] for name in ("k", "min_languages", "distance")}
        return metrics.gaussian(POINTS, languages=labels, num_languages=4, seed=0, **given)

    with pytest.raises(ValueError, match=r"^languages must be known for the Gaussian null, got tr"):
        jax.jit(null)(LABELS)


def test_numbers_may_be_of_numpy():
    assert [is_integer(value) for value in (5, np.int64(5), np.uint8(5))] == [True] * 3
    assert [is_integer(value) for value in (True, np.bool_(1), 5.0, "5", None)] == [False] * 5
