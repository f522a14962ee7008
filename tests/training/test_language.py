"""The language model's loss: training with it is torch's, however it is computed."""

import copy
import math
from collections.abc import Iterator
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

from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from ilo_jax.training import optimizers
from ilo_jax.training.order import Order, Text
from tests.training.conftest import (
    ADAMW,
    HEAD_ONLY,
    KEY,
    PEAK,
    SCHEDULE,
    STEPS,
    WARMUP,
    Training,
    copied,
    distance,
    farthest,
)

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


@pytest.mark.parametrize(
    ("model", "freeze"),
    [
        ("own", "none"),
        ("tied", "paper:1"),
        pytest.param("own", "paper:1", marks=pytest.mark.slow),
        pytest.param("tied", "none", marks=pytest.mark.slow),
    ],
)
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
    weights = copied(
        parameters.weights(loading.load(open_folder(tmp_path), mesh=make_mesh(data=1)))
    )
    assert farthest(run.weights[COMPARED], weights) <= TOLERANCE
    begun = start(model).weights
    for path, found in run.weights[COMPARED].items():
        moved = weights[path] - begun[path]
        assert distance(found, weights[path], of=moved) <= 10 * TOLERANCE


# What is differentiated

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
    traced = some.step.trace(some.begin(), some.frozen, some.batch(0), KEY)
    parts = len(some.batch(0).rows.tokens)
    assert products(traced.jaxpr) == parts * (3 * FORWARD + 1 + backward)


# How it is computed

SOME = 5
"""Steps of another way to compute it."""


def test_blocks_computed_again_give_the_same(training, trained):
    again = training("tied", "none", remat=True)
    run = again.learn(map(again.batch, range(SOME)))
    expected = trained("tied", "none")
    np.testing.assert_allclose(run.losses, expected.losses[:SOME], rtol=SAME)
    assert farthest(run.weights[-1], expected.weights[SOME]) <= SAME
    plain = training("tied", "none")
    traced = [
        some.step.trace(some.begin(), some.frozen, some.batch(0), KEY).jaxpr
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
    traced = half.step.trace(state, half.frozen, batch, KEY)
    sums = [e.outvars for e in traced.jaxpr.eqns if e.params.get("name") == "part__sum"]
    assert len(sums) == len(batch.rows.tokens) - 1
    for found in sums:
        assert len(found) == len(state.weights) + 2
        assert {variable.aval.dtype.name for variable in found} == {"float32", "int32"}


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
        gradients = loading.load(open_folder(tmp_path / name), mesh=make_mesh(data=1))
        found[name] = copied(parameters.weights(gradients))
    found["ours"] = copied(half.learn([half.batch(0)]).state.moments[0])
    squares = {
        name: sum(((found[name][p] - judged) ** 2).sum() for p, judged in found["judge"].items())
        for name in ("ours", "theirs")
    }
    assert 0 < math.sqrt(squares["ours"]) <= 2 * math.sqrt(squares["theirs"])
