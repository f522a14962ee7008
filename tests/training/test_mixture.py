"""Languages come in the shares asked for, in an order that the number of the step decides alone."""

import itertools
import re

import numpy as np
import pytest

from ilo_jax.corpora.shares import sampled
from ilo_jax.corpora.token_files import TokenFiles
from ilo_jax.processes import Share
from ilo_jax.sharding import make_mesh
from ilo_jax.training import mixture as module
from ilo_jax.training.mixture import Mixture, mixed, token_counts
from tests.training.languages import COUNTS, LENGTH, documents_of, files_of

SHARES = {"large": 0.5, "middle": 0.3, "small": 0.2}


@pytest.fixture(scope="module")
def files() -> dict[str, TokenFiles]:
    numbered = enumerate(COUNTS.items())
    return {name: files_of(name, documents_of(i, count)) for i, (name, count) in numbered}


def of(files, *, parts=2, part_rows=8, seed=0, shares=SHARES) -> Mixture:
    return mixed(files, shares, parts=parts, part_rows=part_rows, row_length=LENGTH, seed=seed)


@pytest.fixture(scope="module")
def mixture(files) -> Mixture:
    return of(files)


# Order


def steps_of(mixture: Mixture, steps: range) -> tuple[np.ndarray, np.ndarray]:
    """Language and row of every slot, "step part row"."""
    found = [mixture.at(step) for step in steps]
    return np.stack([s.language for s in found]), np.stack([s.row for s in found])


@pytest.mark.parametrize("first", [0, 3])
def test_every_block_has_exactly_the_rows_of_each_language_that_its_share_says(mixture, first):
    assert mixture.block == 32  # the fewest steps of 16 rows of which a fifth is 100 rows
    assert mixture.quotas.tolist() == [256, 154, 102]
    languages, _ = steps_of(mixture, range(first * 32, (first + 1) * 32))
    assert np.bincount(languages.ravel()).tolist() == [256, 154, 102]
    other, _ = steps_of(mixture, range((first + 1) * 32, (first + 2) * 32))
    assert (languages != other).any()


def test_shares_by_an_exponent_are_met_within_a_row_a_block(files):
    sizes = token_counts(files)
    assert sizes["small"] == sum(map(len, files["small"].shards))
    shares = sampled(sizes, alpha=0.3)
    found = of(files, shares=shares)
    languages, _ = steps_of(found, range(2 * found.block))
    counts = np.bincount(languages.ravel())
    expected = np.array(list(shares.values())) * 2 * found.block * found.batch
    assert np.abs(counts - expected).max() < 2


def test_every_row_of_a_language_comes_once_an_epoch_in_an_order_of_its_own(mixture):
    languages, rows = steps_of(mixture, range(16 * mixture.block))
    for language in range(3):
        own, count = rows[languages == language], mixture.texts[language].count
        epochs = [own[i : i + count].tolist() for i in range(0, len(own) - count, count)]
        assert len(epochs) >= 2
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        assert all(a != b for a, b in itertools.combinations(epochs, 2))
        times = len(own) / count
        assert mixture.epochs(16 * mixture.block)[language] == pytest.approx(times)


def test_what_comes_at_a_step_depends_on_its_number_and_the_seed_alone(files, mixture):
    steps = [70, 3, 0, 69, 31, 32]
    first = [mixture.at(step) for step in steps]
    module._block.cache_clear()
    module._shuffled.cache_clear()
    again = [of(files).at(step) for step in reversed(steps)][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(map(np.array_equal, one, other))
    different = of(files, seed=1)
    assert not np.array_equal(different.at(0).row, mixture.at(0).row)
    assert not np.array_equal(different.texts[0].ends, mixture.texts[0].ends)


def test_how_a_batch_is_cut_into_parts_changes_none_of_its_rows(files, mixture):
    whole = of(files, parts=1, part_rows=16)
    for step in (0, 40):
        for one, other in zip(whole.at(step), mixture.at(step), strict=True):
            assert np.array_equal(one.ravel(), other.ravel())


def test_the_digest_knows_all_that_is_learnt(files):
    first = of(files)
    assert first.digest() == of(files).digest()
    other = {**files, "small": files["small"]._replace(digest="other")}
    renamed = {name.upper(): each for name, each in files.items()}
    others = [
        of(files, seed=1),
        of(files, part_rows=4),
        of(other),
        of(files, shares={"large": 0.5, "middle": 0.2, "small": 0.3}),
        of(renamed, shares={name.upper(): share for name, share in SHARES.items()}),
        first._replace(row_length=LENGTH + 1),
    ]
    assert len({each.digest() for each in [first, *others]}) == 1 + len(others)
    assert of(files, parts=1, part_rows=16).digest() == first.digest()


# On devices, over processes


def test_every_slot_holds_its_row_of_its_language(mixture):
    slots = mixture.at(9)
    languages, numbers = slots.language.ravel(), slots.row.ravel()
    assert len(set(languages.tolist())) == 3
    filled = mixture.filled(languages, numbers)
    for at, language in enumerate(languages):
        alone = mixture.texts[language].rows(numbers[at : at + 1])
        assert all(np.array_equal(f[at], a[0]) for f, a in zip(filled, alone, strict=True))
        tokens = filled.tokens[at][~filled.special[at] & (filled.segments[at] > 0)]
        assert set((tokens // 1000).tolist()) == {language + 1}


@pytest.mark.parametrize(("data", "model"), [(1, 1), (4, 2)])
def test_the_rows_of_a_step_lie_on_the_devices(mixture, data, model):
    mesh = make_mesh(data=data, model=model)
    slots = mixture.at(5)
    expected = mixture.filled(slots.language.ravel(), slots.row.ravel())
    for found, array in zip(mixture.rows(5, mesh), expected, strict=True):
        np.testing.assert_array_equal(found, array.reshape(2, 8, LENGTH))
        assert {s.data.shape for s in found.addressable_shards} == {(2, 8 // data, LENGTH)}


@pytest.mark.parametrize("count", [2, 4])
def test_processes_together_make_the_rows_of_one(mixture, monkeypatch, count):
    """What each would put on its devices, side by side, is the batch."""
    monkeypatch.setattr(module, "place_parts", lambda array, parts, mesh: (array, parts))
    whole = mixture.rows(7, make_mesh(data=1))
    found = []
    for index in range(count):
        part = Share(index, count, True, 1)
        monkeypatch.setattr(module, "share", lambda mesh, part=part: part)
        found.append(mixture.rows(7, make_mesh(data=1)))
    for field in range(5):
        apart = [rows[field][0].reshape(2, -1, LENGTH) for rows in found]
        assert np.array_equal(np.concatenate(apart, axis=1), whole[field][0].reshape(2, 8, LENGTH))


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"parts": 0, "part_rows": -1, "row_length": 1},
            "a batch must have parts of rows of tokens, got parts 0, of at least 1, part_rows -1, "
            "of at least 1, row_length 1, of at least 2",
        ),
        (
            {"shares": {"large": 0.5, "other": 0.5}},
            "every language must have both tokens and a share, got one only for middle, other, "
            "small",
        ),
    ],
)
def test_batches_and_shares_that_cannot_be_are_refused(files, settings, message):
    sizes = {"parts": 2, "part_rows": 8, "row_length": 16, "shares": SHARES} | settings
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        mixed(files, sizes.pop("shares"), seed=0, **sizes)


def test_rows_that_do_not_divide_over_the_devices_are_refused(files):
    with pytest.raises(ValueError, match=r"computed at a time on 4 devices .* of 4; got 6$"):
        of(files, part_rows=6).rows(0, make_mesh(data=4))
