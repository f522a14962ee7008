"""What a step leaves alone, what it adds up, and what must change nothing of it."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ilo_jax.corpora.packing import Rows
from ilo_jax.models.losses import predicted
from ilo_jax.sharding import make_mesh, replicated
from ilo_jax.training.language import Batch
from ilo_jax.training.order import place_parts
from ilo_jax.training.step import State, Total, abstract, begin, make_step
from tests.pairs import run_two
from tests.training.conftest import (
    ADAMW,
    KEY,
    PEAK,
    ROW_LENGTH,
    SCHEDULE,
    STEPS,
    WARMUP,
    Run,
    Training,
    copied,
    distance,
    farthest,
)

SCRIPT = Path(__file__).with_name("train_of_two.py")

TOLERANCE = 1e-5
"""Of the norm of each weight, and of each loss."""
SAME = 1e-6
"""The same, where only the order of sums differs."""

# What is frozen

FROZEN = pytest.mark.parametrize(
    "model", ["tied", pytest.param("own", marks=pytest.mark.slow), "encoder"]
)


@FROZEN
def test_what_is_frozen_stays_and_all_else_moves(start, training, trained, model):
    """After 50 steps with weight decay, clipping and accumulation."""
    begun, selective = start(model), training(model, "paper:1")
    run = trained(model, "paper:1")
    assert {len(run.measures), int(run.state.step)} == {STEPS}
    assert run.weights[-1].keys() | selective.frozen.keys() == begun.weights.keys()
    for path, weight in selective.frozen.items():
        assert np.array_equal(weight, begun.weights[path]), path
    decayed = math.prod(
        1 - ADAMW["weight_decay"] * np.asarray(SCHEDULE(i)).item() for i in range(STEPS)
    )
    for path, weight in run.weights[-1].items():
        # The softmax of an encoder does not see what is added to all scores of a query.
        if model == "encoder" and path.endswith("attn/k/bias"):
            continue
        by_decay = decayed if path.endswith(("kernel", "embedding")) else 1
        assert distance(weight, by_decay * begun.weights[path]) > 1e-3, path
    assert run.losses[-1] < run.losses[0]


@FROZEN
def test_the_frozen_are_those_of_the_paper(training, model):
    paths = training(model, "paper:1").frozen
    parts = {re.sub(r"layers/(\d+)/.*|([a-z]+)/.*", r"\1\2", path) for path in paths}
    head = {"tied": set(), "own": {"head"}, "encoder": {"head"}}[model]
    norm = set() if model == "encoder" else {"norm"}
    assert parts == {"embed", "0"} | head | norm


@FROZEN
def test_moments_are_of_what_trains_only(training, model):
    selective = training(model, "paper:1")
    state = selective.begin()
    trains = sum(weight.size for weight in state.weights.values())
    held = sum(leaf.nbytes for leaf in jax.tree.leaves(state.moments))
    # Two float32 of each, and the two counters of Adam and of the schedule.
    assert held == 2 * 4 * trains + 2 * 4
    assert trains < sum(weight.size for weight in selective.start.weights.values())


# Parts of a batch, and rows of padding


def rows_of(training: Training, numbers: Sequence[int], *, parts: int) -> Batch:
    """Return some rows of the first batch, in parts; -1 is padding, which has tokens, too."""
    wanted, rows = np.array(numbers), training.batch(0).rows
    arrays = Rows(*(np.asarray(array).reshape(-1, ROW_LENGTH)[wanted] for array in rows))
    arrays = arrays._replace(segments=np.where(wanted[:, None] < 0, 0, arrays.segments))
    return Batch(Rows(*(place_parts(array, parts, training.mesh) for array in arrays)))


def mean_gradient(state: State) -> dict[str, np.ndarray]:
    """Return Adam's mean of gradients: after one step, in proportion to the gradient."""
    return copied(optax.tree.get(state.moments, "mu"))


def assert_same_step(found: Run, expected: Run) -> None:
    """Check two steps, the first of which has a learning rate of 0."""
    assert found.losses == pytest.approx(expected.losses, rel=SAME)
    norms = [[float(m.gradient_norm) for m in run.measures] for run in (found, expected)]
    assert norms[0] == pytest.approx(norms[1], rel=SAME)
    # In float32 each is some 4e-6 from the gradient in float64, however the rows are computed.
    assert farthest(mean_gradient(found.state), mean_gradient(expected.state)) <= TOLERANCE
    assert farthest(found.weights[0], expected.weights[2]) > 100 * SAME
    assert farthest(found.weights[2], expected.weights[2]) <= SAME


@pytest.mark.parametrize("parts", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_parts_of_a_batch_change_nothing(training, parts):
    """Though rows predict different numbers of tokens: the mean is of tokens, not of means."""
    full, rows = training("own", "none"), range(16)
    counts = predicted(Rows(*(array[0] for array in rows_of(full, rows, parts=1).rows))).sum(1)
    assert len(set(counts.tolist())) > 5
    two = full.learn([rows_of(full, rows, parts=2)] * 2)
    some = full.learn([rows_of(full, rows, parts=parts)] * 2)
    assert some.measures[0].count == two.measures[0].count == counts.sum()
    assert_same_step(some, two)


@pytest.mark.parametrize(
    "padded",
    [
        [*range(8), *[-1] * 8],
        [0, 1, 2, -1, 3, 4, -1, -1, -1, 5, -1, 6, 7, -1, -1, -1],
    ],
)
def test_rows_of_padding_change_nothing(training, padded):
    """The mean of eight rows is that of the same rows twice."""
    full = training("own", "none")
    twice = full.learn([rows_of(full, [*range(8)] * 2, parts=2)] * 2)
    once = full.learn([rows_of(full, padded, parts=2)] * 2)
    assert 2 * once.measures[0].count == twice.measures[0].count
    assert_same_step(once, twice)


def test_a_batch_of_padding_alone_has_no_loss_and_no_gradient(training):
    full = training("tied", "none")
    run = full.learn([rows_of(full, [-1] * 16, parts=2)])
    assert [float(measure) for measure in run.measures[0]] == [0, 0, 0]
    assert all(np.isfinite(weight).all() for weight in run.weights[1].values())


# Meshes

SOME = 5
"""Steps on a mesh."""


def assert_same_run(losses: Sequence[float], weights: dict[str, np.ndarray], run: Run) -> None:
    """Check the first steps of a run, and the weights after them."""
    steps = len(losses)
    np.testing.assert_allclose(losses, run.losses[:steps], rtol=TOLERANCE)
    assert weights.keys() == run.weights[steps].keys()
    assert farthest(weights, run.weights[steps]) <= TOLERANCE


def assert_moments_lie_as_their_weights(state: State) -> None:
    for name in ("mu", "nu"):
        moments = optax.tree.get(state.moments, name)
        assert moments.keys() == state.weights.keys()
        for path, moment in moments.items():
            assert moment.sharding.is_equivalent_to(state.weights[path].sharding, moment.ndim)


@pytest.mark.parametrize(
    ("model", "data", "split", "fsdp"),
    [
        pytest.param("own", 8, 1, False, marks=pytest.mark.slow),
        pytest.param("tied", 4, 2, False, marks=pytest.mark.slow),
        pytest.param("tied", 4, 2, True, marks=pytest.mark.slow),
        pytest.param("own", 2, 4, False, marks=pytest.mark.slow),
        ("own", 2, 4, True),
    ],
)
def test_the_mesh_changes_nothing(training, trained, model, data, split, fsdp):
    many = training(model, "none", data=data, split=split, fsdp=fsdp)
    assert_moments_lie_as_their_weights(many.begin())
    run = many.learn(map(many.batch, range(SOME)))
    assert_same_run(run.losses, run.weights[-1], trained(model, "none"))
    assert_moments_lie_as_their_weights(run.state)
    for path, weight in run.state.weights.items():
        assert weight.sharding.is_equivalent_to(many.lies[path], weight.ndim)
    kernel = run.state.weights["layers/1/mlp/up/kernel"]
    parts = split * (data if fsdp else 1)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size


@pytest.mark.slow
def test_two_processes_learn_what_one_does(start, trained, text, order, tmp_path):
    """With each its own rows, and its own part of the states of the frozen block."""
    np.savez(tmp_path / "text.npz", planned=text.planned, **text.sentences._asdict())
    outputs = [tmp_path / f"weights{process}.npz" for process in range(2)]
    given = [str(start("tied").folder), str(tmp_path / "text.npz")]
    settings = {
        "row_length": text.row_length,
        "order": order,
        "steps": SOME,
        "schedule": {"peak": PEAK, "warmup": WARMUP, "steps": STEPS},
        "adamw": ADAMW,
    }
    ended = run_two(SCRIPT, *([*given, json.dumps(settings), str(output)] for output in outputs))
    for done, output in zip(ended, outputs, strict=True):
        assert done.returncode == 0, done.stderr
        losses = json.loads(done.stdout.splitlines()[-1])
        with np.load(output) as weights:
            found = {path: weights[path] for path in weights}
        for freeze in ("none", "paper:1"):
            of_run = {p.removeprefix(f"{freeze} "): w for p, w in found.items() if freeze in p}
            assert_same_run(losses[freeze], of_run, trained("tied", freeze))


# States


def test_a_state_is_consumed_by_its_step(training):
    full = training("tied", "none")
    state = full.begin()
    assert (state.step.dtype, int(state.step)) == (jnp.int32, 0)
    moments = jax.tree.leaves(state.moments)
    assert all(not np.asarray(moment).any() for moment in moments)
    after, _ = full.step(state, full.frozen, full.batch(0), KEY)
    assert int(after.step) == 1
    for array in (state.step, *state.weights.values(), *moments):
        with pytest.raises(RuntimeError, match="deleted"):
            np.asarray(array)


def test_what_is_frozen_is_not_consumed(training):
    selective = training("tied", "paper:1")
    for _ in range(2):
        selective.learn([selective.batch(0)])
    assert not any(weight.is_deleted() for weight in selective.frozen.values())


# Any pytrees, and their random keys

TREE: Any = {"layers": [np.ones((2, 3), np.float32)], "bias": (np.zeros(3, np.float32),)}


def noisy(trainable: Any, frozen: None, batch: Any, key: jax.Array) -> Total:
    """A loss that is drawn, and has a gradient of 1 for the bias."""
    drawn = jax.random.uniform(key, batch["x"].shape)
    loss = drawn.sum() + trainable["bias"][0].sum() + 0 * trainable["layers"][0].sum()
    return Total(loss, jnp.int32(batch["x"].size))


@pytest.fixture(scope="module")
def noises() -> list[list[float]]:
    """The losses of three steps, twice."""
    mesh, optimizer = make_mesh(data=1), optax.sgd(0.0)
    tree = jax.device_put(TREE, replicated(mesh))
    step = make_step(noisy, optimizer, like=abstract(optimizer, tree, mesh), mesh=mesh)
    runs = []
    for _ in range(2):
        state, losses = begin(optimizer, jax.device_put(TREE, replicated(mesh)), mesh), []
        for _ in range(3):
            state, measures = step(state, None, {"x": jnp.zeros((4, 5))}, KEY)
            losses.append(float(measures.loss))
        assert jax.tree.structure(state.weights) == jax.tree.structure(TREE)
        runs.append(losses)
    return runs


def test_each_part_of_each_step_draws_by_its_numbers(noises):
    expected = [
        np.mean([
            jax.random.uniform(jax.random.fold_in(jax.random.fold_in(KEY, step), part), (5,))
            for part in range(4)
        ])
        for step in range(3)
    ]
    assert noises[0] == pytest.approx(expected, rel=SAME)


def test_steps_draw_differently_and_a_run_again_the_same(noises):
    assert noises[0] == noises[1]
    assert len(set(noises[0])) == 3


def test_weights_that_train_and_are_not_float32_are_named():
    tree = {"a": jnp.ones(2), "b": [jnp.ones(2, jnp.bfloat16), jnp.ones(1, jnp.int32)]}
    message = "must be float32, until the loss casts them; got bfloat16 of b/0, int32 of b/1"
    with pytest.raises(ValueError, match=f"^weights that train {message}$"):
        begin(optax.sgd(0.1), tree, make_mesh(data=1))
