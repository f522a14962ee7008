"""Training against torch's, and what must change nothing of it."""

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence
from transformers import get_cosine_schedule_with_warmup

from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.hub import hf
from ilo_jax.models.losses import predicted
from ilo_jax.sharding import make_mesh
from ilo_jax.training import optimizers
from ilo_jax.training.order import Order, Text, place_parts
from ilo_jax.training.step import Batch, State
from tests.pairs import run_two
from tests.training.conftest import (
    ADAMW,
    HEAD_ONLY,
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

COMPARED = 20
"""Steps of torch's training."""
TOLERANCE = 1e-5
"""Of the norm of each weight, and of each loss."""
SAME = 1e-6
"""The same, where only the order of sums differs."""

# Against torch


def sentences_of(text: Text, numbers: np.ndarray) -> dict[str, torch.Tensor]:
    """Return the sentences of some rows as torch takes them: one a row, padded on the right."""
    planned = text.planned[numbers[numbers >= 0]]
    ends = np.cumsum(text.sentences.lengths)
    found = []
    for i in planned[planned >= 0]:
        where = slice(ends[i] - text.sentences.lengths[i], ends[i])
        ids = torch.from_numpy(text.sentences.tokens[where]).long()
        given = torch.from_numpy(~text.sentences.target[where])
        found.append((ids, ids.masked_fill(given, -100), torch.ones_like(ids)))
    names = {"input_ids": 0, "labels": -100, "attention_mask": 0}
    return {
        name: pad_sequence(list(tensors), batch_first=True, padding_value=value)
        for (name, value), tensors in zip(names.items(), zip(*found, strict=True), strict=True)
    }


def freeze_torch(model: Any) -> None:
    """Freeze the embedding, the first block, the final norm and the head."""
    backbone = model.model
    for module in (backbone.embed_tokens, backbone.layers[0], backbone.norm, model.lm_head):
        module.requires_grad_(False)


def train_torch(model: Any, text: Text, order: Order) -> Iterator[tuple[float, float, int]]:
    """Yield loss, gradient norm and number of labels of each of the first steps."""
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [w for w in learnt if w.ndim == 2], "weight_decay": ADAMW["weight_decay"]},
        {"params": [w for w in learnt if w.ndim < 2], "weight_decay": 0.0},
    ]
    betas = ADAMW["b1"], ADAMW["b2"]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=betas, eps=ADAMW["eps"])
    schedule = get_cosine_schedule_with_warmup(optimizer, WARMUP, STEPS)
    for step in range(COMPARED):
        batch = sentences_of(text, order.at(step))
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        norm = clip_grad_norm_(learnt, ADAMW["clip"])
        optimizer.step()
        schedule.step()
        yield loss.item(), norm.item(), int((batch["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize("freeze", ["none", "paper:1"])
@pytest.mark.parametrize("model", ["tied", "own"])
def test_training_is_torchs(start, trained, text, order, tmp_path, model, freeze):
    """Several parts of several sentences a row, against all sentences in one padded batch."""
    theirs = copy.deepcopy(start(model).torch)
    if freeze != "none":
        freeze_torch(theirs)
    expected = list(train_torch(theirs, text, order))
    run = trained(model, freeze)
    measured = [tuple(map(float, measures)) for measures in run.measures[:COMPARED]]
    losses, counts, norms = np.transpose(measured)
    np.testing.assert_allclose(losses, [loss for loss, _, _ in expected], rtol=TOLERANCE)
    np.testing.assert_allclose(norms, [norm for _, norm, _ in expected], rtol=TOLERANCE)
    assert counts.tolist() == [count for _, _, count in expected]
    if (model, freeze) == ("own", "none"):
        # Some gradients are cut down, and some are not.
        assert min(norms) < ADAMW["clip"] < max(norms)
    assert losses[-1] < 0.9 * losses[0]
    theirs.save_pretrained(tmp_path)
    weights = copied(parameters.weights(hf.load(tmp_path, mesh=make_mesh(data=1))))
    assert farthest(run.weights[COMPARED], weights) <= TOLERANCE
    begun = start(model).weights
    for path, found in run.weights[COMPARED].items():
        moved = weights[path] - begun[path]
        assert distance(found, weights[path], of=moved) <= 10 * TOLERANCE


# What is frozen

FROZEN = pytest.mark.parametrize("model", ["tied", "own", "encoder"])


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


FORWARD = 9
"""Products of a block: its seven kernels, and two in attention."""


def equations(jaxpr: Any) -> Iterator[Any]:
    """Yield all steps of a program, those of inner programs once."""
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves([*equation.params.values()]):
            inner = getattr(value, "jaxpr", value)
            yield from equations(inner) if hasattr(inner, "eqns") else ()


def products(jaxpr: Any) -> int:
    """Return how many matrix products a program has."""
    return sum(equation.primitive.name == "dot_general" for equation in equations(jaxpr))


@pytest.mark.parametrize(
    ("model", "freeze", "backward"),
    [
        # Of each kernel and its input, and of both sides of each product in attention.
        ("own", "none", 3 * 2 * FORWARD + 2),
        # Of the head's input, not of the head; nothing of block 0.
        ("own", "paper:1", 2 * 2 * FORWARD + 1),
        ("tied", "paper:1", 2 * 2 * FORWARD + 1),
        ("own", "paper:2", 2 * FORWARD + 1),
        ("own", HEAD_ONLY, 1),
        # Through block 2 and its attention to one kernel of block 1.
        ("own", r"(?!layers/1/mlp/down/kernel).*", 1 + 7 + 4 + 1),
    ],
)
def test_nothing_is_differentiated_that_is_not_needed(training, model, freeze, backward):
    some = training(model, freeze)
    traced = jax.make_jaxpr(some.step)(some.begin(), some.frozen, some.batch(0))
    assert products(traced.jaxpr) == 3 * FORWARD + 1 + backward


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
        ("own", 2, 4, False),
        ("tied", 4, 2, True),
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


# How it is computed


def test_blocks_computed_again_give_the_same(training, trained):
    again = training("tied", "none", remat=True)
    run = again.learn(map(again.batch, range(SOME)))
    expected = trained("tied", "none")
    np.testing.assert_allclose(run.losses, expected.losses[:SOME], rtol=SAME)
    assert farthest(run.weights[-1], expected.weights[SOME]) <= SAME
    plain = training("tied", "none")
    traced = [
        jax.make_jaxpr(some.step)(some.begin(), some.frozen, some.batch(0)).jaxpr
        for some in (again, plain)
    ]
    assert products(traced[0]) > products(traced[1])


def kept() -> optax.GradientTransformation:
    """Return an optimizer that does nothing but keep the gradients it is given."""

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return updates, updates

    return optax.GradientTransformation(init, update)


@pytest.fixture(scope="module")
def half(training) -> Training:
    """Return a training in bfloat16 that keeps its gradients."""
    optimizer = optax.chain(kept(), optimizers.adamw(SCHEDULE, **ADAMW))
    return training("tied", "none", dtype=jnp.bfloat16, optimizer=optimizer)


def test_bfloat16_is_of_the_computation_only(half, trained):
    run = half.learn(map(half.batch, range(SOME)))
    leaves = jax.tree.leaves((run.state.weights, run.state.moments, run.measures))
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32"}
    expected = trained("tied", "none").losses[:SOME]
    assert run.losses != expected
    # Eight bits of each number, a few times over.
    np.testing.assert_allclose(run.losses, expected, rtol=2**-8)


def test_gradients_of_parts_are_added_up_in_float32(half):
    state, batch = half.begin(), half.batch(0)
    traced = jax.make_jaxpr(half.step)(state, half.frozen, batch)
    scan = next(e for e in equations(traced.jaxpr) if e.primitive.name == "scan")
    sums = scan.outvars[: scan.params["num_carry"]]
    assert len(sums) == len(state.weights) + 2
    assert {variable.aval.dtype.name for variable in sums} == {"float32", "int32"}


def test_bfloat16_costs_gradients_what_it_costs_torch(start, half, text, order, tmp_path):
    """Both have the same rounded weights; the judge is torch with those, in float32."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, dtype in {"judge": torch.float32, "theirs": torch.bfloat16}.items():
        model = copy.deepcopy(start("tied").torch).bfloat16().to(dtype)
        model(**sentences_of(text, order.at(0))).loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(weight.grad)
        model.float().save_pretrained(tmp_path / name)
        gradients = hf.load(tmp_path / name, mesh=make_mesh(data=1))
        found[name] = copied(parameters.weights(gradients))
    found["ours"] = copied(half.learn([half.batch(0)]).state.moments[0])
    squares = {
        name: sum(((found[name][p] - judged) ** 2).sum() for p, judged in found["judge"].items())
        for name in ("ours", "theirs")
    }
    assert 0 < math.sqrt(squares["ours"]) <= 2 * math.sqrt(squares["theirs"])


# States


def test_a_state_is_consumed_by_its_step(training):
    full = training("tied", "none")
    state = full.begin()
    assert (state.step.dtype, int(state.step)) == (jnp.int32, 0)
    moments = jax.tree.leaves(state.moments)
    assert all(not np.asarray(moment).any() for moment in moments)
    after, _ = full.step(state, full.frozen, full.batch(0))
    assert int(after.step) == 1
    for array in (state.step, *state.weights.values(), *moments):
        with pytest.raises(RuntimeError, match="deleted"):
            np.asarray(array)


def test_what_is_frozen_is_not_consumed(training):
    selective = training("tied", "paper:1")
    for _ in range(2):
        selective.learn([selective.batch(0)])
    assert not any(weight.is_deleted() for weight in selective.frozen.values())
