"""Two models that must have the same weights, bit for bit."""

import numpy as np

from ilo_jax.models import parameters
from ilo_jax.sharding import make_mesh

ONE = make_mesh(data=1)


def assert_same_weights(got, expected) -> None:
    got, expected = parameters.weights(got), parameters.weights(expected)
    assert got.keys() == expected.keys()
    for path, weight in got.items():
        assert weight.dtype == expected[path].dtype
        assert np.array_equal(weight, expected[path]), path
