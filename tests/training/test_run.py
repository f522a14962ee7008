"""Three learners that share nothing but the run: each is killed, and ends as if it had not been."""

import os
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ilo_jax.models import parameters
from ilo_jax.sharding import make_mesh
from ilo_jax.training.checkpoints import Checkpoints
from ilo_jax.training.freezing import split
from ilo_jax.training.language import Batch
from ilo_jax.training.loop import Every, Logged
from ilo_jax.training.order import place_rows
from ilo_jax.training.run import Learner, Start, Trained, opened, run
from ilo_jax.training.step import Total
from tests.training.conftest import masked_of

STEPS = 40
LEARNERS = ["classifier", "autoencoder", "masked"]
POINTS = np.random.default_rng(1).normal(size=(5, 2, 16, 6)) * [4, 3, 1, 1, 1, 1]
POINTS = POINTS.astype(np.float32)
"""Five batches of two parts."""
EVERY = Every(evaluate=10, save=7)


def classifier() -> Learner:
    """A perceptron that learns whether a point lies inside a circle."""
    points = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    inside = ((points**2).sum(1) < 1.2).astype(np.int32)

    def loss(trainable: Any, frozen: None, batch: Any, key: jax.Array) -> Total:
        hidden = jax.nn.relu(batch["x"] @ trainable["up"] + trainable["bias"][None])
        scores = hidden @ trainable["down"]
        losses = optax.softmax_cross_entropy_with_integer_labels(scores, batch["y"])
        return Total(losses.sum(), jnp.int32(len(losses)))

    def start() -> Start:
        up, down = (jax.random.normal(jax.random.key(i), (2, 13)) for i in range(2))
        weights = {"up": up, "bias": jnp.zeros(13), "down": down.T / 4}
        return Start(weights, None, lambda step: {"x": points[None], "y": inside[None]})

    return Learner(loss, optax.adam(0.05), start, STEPS, mesh=make_mesh(data=1))


def autoencoder() -> Learner:
    """A linear autoencoder of two dimensions, given points with noise; their mean is frozen."""

    def loss(trainable: Any, frozen: jax.Array, batch: jax.Array, key: jax.Array) -> Total:
        centred = batch - frozen[None]
        noise = 0.1 * jax.random.normal(key, batch.shape)
        found = (centred + noise) @ trainable[0] @ trainable[1]
        return Total(((found - centred) ** 2).sum(), jnp.int32(len(batch)))

    def start() -> Start:
        encoder = 0.3 * jax.random.normal(jax.random.key(0), (6, 2))
        mean = POINTS.reshape(-1, 6).mean(0)
        return Start([encoder, encoder.T], mean, lambda step: POINTS[step % 5])

    rate = optax.cosine_decay_schedule(0.1, STEPS)
    return Learner(loss, optax.adam(rate), start, STEPS, seed=3)


@pytest.fixture(scope="module")
def learner(start, text, order) -> Callable[[str], Learner]:
    """Return a learner of LEARNERS."""

    def masked() -> Learner:
        """An encoder that finds tokens again: others are masked at each step."""
        encoder, mesh = start("encoder"), make_mesh(data=2)
        assemble = parameters.assembler(encoder.config, mesh, dtype=jnp.float32)

        def loss(trainable: Any, frozen: Any, batch: Batch, key: jax.Array) -> Total:
            drawn = jax.random.bernoulli(key, 0.3, batch.rows.tokens.shape)
            rows = batch.rows._replace(target=drawn & (batch.rows.segments > 0))
            return masked_of(assemble({**trainable, **frozen}), rows)

        def begin() -> Start:
            body, head = split(encoder.weights, {p: "head" in p for p in encoder.weights})
            return Start(head, body, lambda n: Batch(place_rows(text, order, n, mesh)))

        return Learner(loss, optax.adam(1e-2), begin, 20, mesh=mesh)

    made = {"classifier": classifier, "autoencoder": autoencoder, "masked": masked}
    return cache(lambda name: made[name]())


class Record:
    """Keeps what a run tells."""

    def __init__(self):
        self.logged: list[Logged] = []
        self.evaluated: dict[int, list[np.ndarray]] = {}
        self.begun: list[int] = []

    def evaluate(self, step: int, weights: Any, frozen: Any) -> None:
        self.evaluated[step] = [np.array(leaf) for leaf in jax.tree.leaves((weights, frozen))]

    @property
    def losses(self) -> dict[int, float]:
        return {logged.step: logged.loss for logged in self.logged}


def train(learner: Learner, folder: Path, record: Record, *, every: Every = EVERY) -> Trained:
    with opened(folder, {"steps": learner.steps}) as checkpoints:
        return run(
            learner,
            checkpoints,
            every=every,
            log=record.logged.append,
            evaluate=record.evaluate,
            begun=record.begun.append,
        )


def test_the_seed_is_that_of_the_keys(tmp_path):
    """The loss is what the key of the first part of the first step draws."""

    def loss(trainable: Any, frozen: None, batch: Any, key: jax.Array) -> Total:
        return Total(trainable * jax.random.normal(key), jnp.int32(1))

    start = Start(jnp.ones(()), None, lambda step: np.zeros(1, np.float32))
    learner = Learner(loss, optax.sgd(0.1), lambda: start, 1, seed=5, mesh=make_mesh(data=1))
    record = Record()
    train(learner, tmp_path, record)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(5), 0), 0)
    assert record.losses == {1: float(jax.random.normal(key))}


def at_step(learner: Learner, number: int, act: Callable[[], Any]) -> Learner:
    """Return a learner to which something happens where the batch of a step is asked for."""

    def start() -> Start:
        begun = learner.start()
        return begun._replace(batch=lambda n: (n == number and act(), begun.batch(n))[1])

    return learner._replace(start=start)


def kill() -> None:
    raise KeyboardInterrupt


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def whole(learner, tmp_path_factory) -> Callable[[str], tuple[Trained, Record]]:
    """Return what a learner ends with that nobody stops."""

    @cache
    def make(name: str) -> tuple[Trained, Record]:
        record = Record()
        return train(learner(name), tmp_path_factory.mktemp(name), record), record

    return make


def assert_same(found: Trained, record: Record, whole: tuple[Trained, Record]) -> None:
    """Check weights, losses and evaluations bit for bit."""
    expected, of_whole = whole
    assert found.step == expected.step
    for one, other in zip(
        jax.tree.leaves(found.weights), jax.tree.leaves(expected.weights), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.sharding.is_equivalent_to(other.sharding, one.ndim)
    assert record.losses == of_whole.losses
    assert record.evaluated.keys() == of_whole.evaluated.keys()
    for step, arrays in record.evaluated.items():
        for one, other in zip(arrays, of_whole.evaluated[step], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", LEARNERS)
def test_killed_and_told_to_stop_it_ends_bit_equal(learner, whole, tmp_path, name):
    record, some = Record(), learner(name)
    with pytest.raises(KeyboardInterrupt):
        train(at_step(some, 9, kill), tmp_path, record)
    stopped = train(at_step(some, 12, terminate), tmp_path, record)
    assert stopped.step == 13 < some.steps
    assert_same(train(some, tmp_path, record), record, whole(name))
    assert record.begun == [0, 7, 13]
    # What has ended is not begun again, and gives the same.
    again = train(at_step(some, 0, kill), tmp_path, record)
    assert_same(again, record, whole(name))


def test_a_classifier_learns_to_tell_points_apart(whole):
    losses = whole("classifier")[1].losses
    assert losses[STEPS] < 0.3 * losses[1]


def test_an_autoencoder_finds_the_axes_of_most_variance(whole):
    """None of rank two loses less than the two principal components (Eckart and Young 1936)."""
    trained, _ = whole("autoencoder")
    encoder, decoder = map(np.asarray, trained.weights)
    centred = POINTS.reshape(-1, 6) - np.asarray(trained.frozen)
    least = (np.linalg.svd(centred, compute_uv=False)[2:] ** 2).sum()
    assert least < ((centred @ encoder @ decoder - centred) ** 2).sum() < 1.05 * least


def test_a_masked_language_model_learns_and_leaves_its_body_alone(whole, start):
    trained, record = whole("masked")
    assert np.mean([record.losses[step] for step in (18, 19, 20)]) < 0.95 * record.losses[1]
    for path, weight in trained.frozen.items():
        np.testing.assert_array_equal(weight, start("encoder").weights[path])


def test_resuming_never_holds_two_states(learner, tmp_path, monkeypatch):
    """Where a checkpoint is read, neither weights nor moments are in memory."""
    shape, held = (2, 13), []
    restore = Checkpoints.restore

    def count() -> int:
        return sum(array.shape == shape for array in jax.live_arrays())

    def counting(self, like):
        held.append(count() - before)
        return restore(self, like)

    some = learner("classifier")._replace(steps=3)
    before = count()
    train(some, tmp_path, Record(), every=Every())
    monkeypatch.setattr(Checkpoints, "restore", counting)
    trained = train(some, tmp_path, Record(), every=Every())
    assert held == [0]
    assert trained.weights["up"].shape == shape


def test_what_a_learner_holds_is_not_consumed(tmp_path):
    """Neither its own arrays, which lie elsewhere, nor what is frozen."""
    weights, frozen = {"a": jnp.ones(3), "b": np.ones(2, np.float32)}, jnp.ones(3)

    def loss(trainable: Any, frozen: Any, batch: Any, key: Any) -> Total:
        total = (frozen * trainable["a"]).sum() + trainable["b"].sum()
        return Total(total * batch.sum(), jnp.int32(1))

    begun = Start(weights, frozen, lambda step: np.ones((1, 1), np.float32))
    some = Learner(loss, optax.sgd(0.1), lambda: begun, steps=2)
    trained = train(some, tmp_path, Record())
    np.testing.assert_allclose(trained.weights["a"], 0.8)
    for array in (weights["a"], weights["b"], frozen):
        np.testing.assert_array_equal(array, 1)


def test_a_training_that_diverges_says_from_where_to_go_on(learner, tmp_path):
    wild = learner("classifier")._replace(optimizer=optax.sgd(1e30))
    message = r"^step 2 diverged: loss .*; that of step 1 stays$"
    with pytest.raises(FloatingPointError, match=message):
        train(wild, tmp_path, Record(), every=Every(save=1))
    with pytest.raises(FloatingPointError, match=r"; no checkpoint was written$"):
        train(wild, tmp_path / "other", Record(), every=Every())


def test_a_folder_of_another_key_is_refused(learner, tmp_path):
    some = learner("classifier")._replace(steps=1)
    train(some, tmp_path, Record())
    with pytest.raises(ValueError, match="steps was 1, is 2"):
        train(some._replace(steps=2), tmp_path, Record())
