"""Every row once an epoch, in an order that nothing but seed and step decides."""

import re

import numpy as np
import pytest

from ilo_jax.corpora.packing import as_sentences
from ilo_jax.processes import Share
from ilo_jax.sharding import make_mesh
from ilo_jax.training import order as batches
from ilo_jax.training.order import Order, own_rows, own_slots, packed, place_rows

ORDERS = [
    Order(rows=rows, parts=parts, part_rows=part_rows, seed=seed)
    for rows, parts, part_rows, seed in [
        (1, 1, 1, 0),
        (7, 1, 4, 0),
        (24, 2, 4, 1),
        (25, 3, 8, 2),
        (31, 2, 8, 3),
        (3, 2, 8, 4),
    ]
]


@pytest.fixture(params=ORDERS, ids=str)
def order(request) -> Order:
    return request.param


def epoch_of(order: Order, epoch: int) -> np.ndarray:
    """Step, part, row."""
    first = epoch * order.epoch
    return np.stack([order.at(step) for step in range(first, first + order.epoch)])


@pytest.fixture(scope="module")
def text():
    """Thirteen rows of several sentences each."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 9, 30)
    ids = [rng.integers(1, 50, n).tolist() for n in lengths]
    flags = [rng.integers(0, 2, n).tolist() for n in lengths]
    return packed(as_sentences(ids, flags), row_length=11)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_every_row_comes_once_an_epoch(order, epoch):
    found = epoch_of(order, epoch)
    assert found.shape == (order.epoch, order.parts, order.part_rows)
    assert sorted(found[found >= 0]) == list(range(order.rows))
    assert set(found[found < 0].tolist()) <= {-1}
    assert 0 <= found.size - order.rows < order.batch


def test_a_row_always_comes_in_the_same_slot(order):
    slots = [epoch_of(order, epoch).reshape(order.epoch, -1) for epoch in range(3)]
    for found in slots:
        for slot, numbers in enumerate(found.T):
            assert {number % order.batch for number in numbers.tolist() if number >= 0} <= {slot}


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else():
    order = Order(rows=200, parts=2, part_rows=4, seed=0)
    first = epoch_of(order, 0)
    assert not np.array_equal(first, epoch_of(order, 1))
    assert not np.array_equal(first, epoch_of(order._replace(seed=1), 0))
    batches._shuffled.cache_clear()
    assert np.array_equal(order.at(order.epoch + 3), epoch_of(order, 1)[3])
    assert np.array_equal(epoch_of(order, 0), first)
    # Every slot has an order of its own, so that other rows meet in each epoch.
    steps = first.reshape(order.epoch, -1) // order.batch
    assert len({tuple(of_slot) for of_slot in steps.T.tolist()}) == order.batch


def test_how_a_batch_is_cut_into_parts_changes_none_of_its_rows():
    whole = Order(rows=50, parts=1, part_rows=8, seed=3)
    for parts in (2, 4, 8):
        cut = whole._replace(parts=parts, part_rows=8 // parts)
        assert all(np.array_equal(cut.at(i).ravel(), whole.at(i).ravel()) for i in range(20))


# The text


def test_rows_of_a_text_hold_all_of_it_once(text):
    rows = text.rows(np.arange(len(text.planned)))
    there = rows.segments > 0
    assert sorted(rows.tokens[there]) == sorted(text.sentences.tokens)
    assert rows.target[there].sum() == text.sentences.target.sum()
    assert rows.tokens.shape[1] == 11


def test_rows_come_as_asked_for_and_minus_one_is_padding(text):
    every = text.rows(np.arange(len(text.planned)))
    some = text.rows(np.array([3, -1, 0, -1]))
    for found, array in zip(some, every, strict=True):
        np.testing.assert_array_equal(found[[0, 2]], array[[3, 0]])
        assert not found[[1, 3]].any()
    assert not any(array.any() for array in text.rows(np.array([-1, -1])))


def test_what_is_longer_than_a_row_is_refused():
    with pytest.raises(ValueError, match=r"a sentence must have 1 to 4 tokens .* got 5 at index 1"):
        packed(as_sentences([[1, 2], [1, 2, 3, 4, 5]]), row_length=4)


# Over processes


def shares(count: int, width: int) -> list[Share]:
    return [Share(index, count, True, width) for index in range(count)]


@pytest.mark.parametrize(("count", "width"), [(1, 1), (1, 8), (2, 2), (2, 4), (4, 2), (8, 1)])
def test_processes_share_slots_and_rows_without_overlap(monkeypatch, count, width):
    order, mesh = Order(rows=43, parts=3, part_rows=8, seed=0), make_mesh(data=1)
    slots, rows = [], []
    for part in shares(count, width):
        own = own_slots(order, part)
        slots += range(8)[own]
        monkeypatch.setattr(batches, "share", lambda mesh, part=part: part)
        of_part = own_rows(order, mesh)
        assert of_part.tolist() == sorted(of_part)
        rows.append(of_part)
        steps = [order.at(step)[:, own] for step in range(2 * order.epoch)]
        assert set(np.concatenate(steps, axis=None).tolist()) - {-1} == set(of_part.tolist())
    assert slots == list(range(8))
    assert sorted(np.concatenate(rows)) == list(range(43))


@pytest.mark.parametrize(
    ("part_rows", "part"), [(6, Share(0, 2, True, 2)), (4, Share(0, 1, True, 8))]
)
def test_rows_that_do_not_divide_over_the_places_are_refused(part_rows, part):
    places = part.count * part.width
    message = (
        f"rows (or rows_at_once), computed at a time on {places} devices or groups of them, must "
        f"be a multiple of {places}; got {part_rows}"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        own_slots(Order(rows=9, parts=1, part_rows=part_rows, seed=0), part)


@pytest.mark.parametrize(("data", "model"), [(4, 1), (8, 1), (4, 2)])
def test_the_rows_of_a_step_lie_on_the_devices(text, data, model):
    mesh = make_mesh(data=data, model=model)
    order = Order(rows=len(text.planned), parts=2, part_rows=8, seed=1)
    for step in range(order.epoch + 1):
        expected = text.rows(order.at(step).ravel())
        placed = place_rows(text, order, step, mesh)
        for found, array in zip(placed, expected, strict=True):
            np.testing.assert_array_equal(found, array.reshape(2, 8, 11))
            assert found.dtype == array.dtype
            assert {s.data.shape for s in found.addressable_shards} == {(2, 8 // data, 11)}


def test_a_mesh_that_the_rows_do_not_divide_over_is_refused(text):
    order, mesh = Order(rows=13, parts=1, part_rows=6, seed=0), make_mesh(data=4)
    with pytest.raises(ValueError, match=r"computed at a time on 4 devices .* of 4; got 6$"):
        place_rows(text, order, 0, mesh)
