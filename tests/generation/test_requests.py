import jax
import numpy as np
import pytest

from ilo_jax.corpora.limits import Limits
from ilo_jax.generation.edits import Edit, held
from ilo_jax.generation.requests import Prompts, Request, bucket, fitted, prompts, repeated
from ilo_jax.generation.sampling import sampling
from tests.generation.test_edits import CONFIG

EDIT = Edit(site="neurons", layer=1, kind="zero", units=[2])


@pytest.fixture
def request_of_two() -> Request:
    keys = jax.random.split(jax.random.key(0), 2)
    asked = sampling(2, temperature=[0.5, 1.0], maximum=[5, 99])
    return Request(asked, keys, np.zeros(CONFIG.vocab, bool), held([[], [EDIT]], CONFIG))


def test_buckets_are_powers_of_two():
    assert [bucket(count) for count in (1, 16, 17, 32, 33, 128)] == [16, 16, 32, 32, 64, 128]


def test_prompts_are_padded_on_the_right():
    read = prompts([[5], [1, 2, 3]], Limits(64, 64))
    assert read.tokens.shape == (2, 16)
    assert read.tokens[1, :3].tolist() == [1, 2, 3]
    assert read.lengths.tolist() == [1, 3]
    assert read.tokens.sum() == 11


def test_prompts_that_the_model_does_not_take_are_refused():
    with pytest.raises(
        ValueError, match=r"1 to 4 tokens.*got:\n  prompt 1: 0 tokens\n  prompt 3: 5 tokens$"
    ):
        prompts([[], [1], [1, 2, 3, 4, 5]], Limits(4, 64))


def test_rows_that_say_nothing_make_up_the_number(request_of_two):
    """And no row says more than there are positions for."""
    read = Prompts(np.ones((2, 16), np.int32), np.array([3, CONFIG.max_positions], np.int32))
    read, request = fitted(read, request_of_two, CONFIG, places=4)
    assert read.lengths.tolist() == [3, 64, 64, 64]
    assert request.sampling.maximum.tolist() == [5, 0, 0, 0]
    assert request.sampling.temperature.tolist() == [0.5, 1.0, 1.0, 1.0]
    assert request.edits["neurons", 1].scale.shape == (3, 4, 48)
    assert request.keys.shape == (4,)
    read, request = fitted(
        Prompts(read.tokens[:2], np.array([3, 60])), request_of_two, CONFIG, places=1
    )
    assert request.sampling.maximum.tolist() == [5, 4]


def test_samples_of_a_prompt_stand_side_by_side_with_keys_of_their_own(request_of_two):
    each = repeated(request_of_two, 3)
    assert each.sampling.maximum.tolist() == [5, 5, 5, 99, 99, 99]
    assert (each.edits["neurons", 1].scale[0, :, 2] == 1).tolist() == [True] * 3 + [False] * 3
    keys = jax.random.key_data(each.keys)
    assert len(np.unique(keys, axis=0)) == 6
    other = request_of_two._replace(sampling=sampling(1), keys=request_of_two.keys[1:], edits={})
    np.testing.assert_array_equal(jax.random.key_data(repeated(other, 2).keys), keys[3:5])
