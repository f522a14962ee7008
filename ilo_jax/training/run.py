"""A training that may be killed at any moment, and then goes on as if it had not been.

A learner is a loss, an optimizer, and what they start from; a run of it needs a folder of its own
and a key, all that determines what it ends with::

    def loss(trainable, frozen, batch, key):
        residual = batch["x"] @ trainable["kernel"] - batch["y"]
        return Total((residual**2).sum(), jnp.int32(residual.size))

    def start():
        x, y = read_points()
        part = {"x": x[None], "y": y[None]}  # a batch of one part
        return Start({"kernel": jnp.zeros((x.shape[1], 1))}, None, lambda step: part)

    learner = Learner(loss, optax.adam(1e-2), start, steps=1000)
    with opened(Path("runs/line"), {"learning_rate": 1e-2}) as checkpoints:
        trained = run(learner, checkpoints, every=Every(save=100), log=print)
    print(trained.weights["kernel"])

Started again after SIGKILL, it continues after the last checkpoint; SIGTERM makes it save one first
and return early (`trained.step < learner.steps`). What is taken at a step, its batch and its
random keys, depends on the step's number only, so that both end bit-equal to a run that
nobody stopped.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh
from jaxtyping import PyTree

from ilo_jax.processes import alone, together
from ilo_jax.sharding import make_mesh, place_loose
from ilo_jax.training.checkpoints import Checkpoints, Key
from ilo_jax.training.loop import Every, Logged, told_to_stop, train
from ilo_jax.training.step import Loss, State, abstract, begin, make_step


class Start(NamedTuple):
    """What a training starts from."""

    trainable: PyTree
    """The weights that train, float32; the run owns and consumes them."""
    frozen: PyTree
    """The weights that do not; None if there are none."""
    batch: Callable[[int], PyTree]
    """Gives the batch of a step, numbered from 0: every leaf "part ...", on the mesh (see
    `sharding.along_data`) or, to be whole on every device, in the host's memory."""


class Learner(NamedTuple):
    """What is learnt, how, and for how long."""

    loss: Loss
    optimizer: optax.GradientTransformation
    start: Callable[[], Start]
    """Makes what the training starts from, anew at each call, also where a run goes on: then only
    the shapes of `trainable` are looked at, and it is let go of before the checkpoint is read, so
    that memory never holds two states. Weights that do not lie on the mesh are copied there."""
    steps: int
    """How many there are in all."""
    seed: int = 0
    """Seed of the random keys that the loss is given."""
    mesh: Mesh | None = None
    """Where everything lies; None: all devices, along "data"."""


class Trained(NamedTuple):
    """What a run ends with."""

    step: int
    """How many steps were taken in all; fewer than asked for if the run was told to stop."""
    weights: PyTree
    """Those that train."""
    frozen: PyTree


@contextmanager
def opened(folder: Path, key: Key) -> Iterator[Checkpoints]:
    """Hold a folder for one training: locked, claimed for its key, with its checkpoints.

    Args:
        folder: Of this training only; made if it is not there. Checkpoints are in a folder of
            that name inside.
        key: All that determines what the training ends with.

    Raises:
        OSError: If another run is there, or the folder cannot be written.
        RuntimeError: If another process failed.
        ValueError: If the folder is of a training of another key, naming what differs.
    """
    together(lambda: folder.mkdir(parents=True, exist_ok=True), what=f"making {folder}")
    with alone(str(folder)), closing(Checkpoints(folder / "checkpoints", key)) as checkpoints:
        yield checkpoints


def run(
    learner: Learner,
    checkpoints: Checkpoints,
    *,
    every: Every,
    log: Callable[[Logged], None],
    evaluate: Callable[[int, PyTree, PyTree], None] | None = None,
    begun: Callable[[int], None] | None = None,
) -> Trained:
    """Train to the end, from the last checkpoint if there is one, or until told to stop.

    Args:
        learner: What is learnt, and how.
        checkpoints: Of this training, from `opened`; all are written when this returns.
        every: How often to evaluate and save.
        log: Called once for each step, in order.
        evaluate: Called with a number of steps, and the weights that train and the frozen ones
            after them. The former are gone when it returns: the next step consumes them.
        begun: Called once before the first step with the number of steps already behind: what
            is written of later ones comes again.

    Raises:
        FloatingPointError: If the training diverges, naming the step, and the checkpoint left.
        OSError: If a checkpoint cannot be written.
        ValueError: If the last checkpoint is damaged, or a weight that trains is not float32.
    """
    mesh = learner.mesh or make_mesh()
    resumed = checkpoints.latest() is not None
    state, frozen, batch = _start(learner, mesh, resumed=resumed)
    if resumed:
        state = checkpoints.restore(state)
    if begun:
        begun(int(state.step))
    step = make_step(learner.loss, learner.optimizer, like=state, mesh=mesh)
    key = jax.random.key(learner.seed)
    with told_to_stop() as stop, closing(checkpoints), _naming_what_is_left(checkpoints):
        state = train(
            lambda number, state: step(state, frozen, batch(number), key),
            state,
            steps=learner.steps,
            every=every if evaluate else Every(save=every.save),
            save=checkpoints.save,
            log=log,
            evaluate=lambda number, state: evaluate and evaluate(number, state.weights, frozen),
            stop=stop,
        )
    return Trained(int(state.step), state.weights, frozen)


def _start(
    learner: Learner, mesh: Mesh, *, resumed: bool
) -> tuple[State, PyTree, Callable[[int], PyTree]]:
    """The state before the first step, or only its shapes, and what else a run starts from."""
    trainable, frozen, batch = learner.start()
    trainable, frozen = place_loose((trainable, frozen), mesh)
    make = abstract if resumed else begin
    return make(learner.optimizer, trainable, mesh), frozen, batch


@contextmanager
def _naming_what_is_left(checkpoints: Checkpoints) -> Iterator[None]:
    """Say of a training that diverged from where it can be gone on with."""
    try:
        yield
    except FloatingPointError as error:
        checkpoints.close()
        last = checkpoints.latest()
        left = "no checkpoint was written" if last is None else f"that of step {last} stays"
        raise FloatingPointError(f"{error}; {left}") from error
