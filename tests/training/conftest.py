"""Tiny models that train, what they learn from, and trainings that several tests look at."""

import copy
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from jax.sharding import Mesh
from jax.typing import DTypeLike
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, LlamaForCausalLM

from ilo_jax.corpora.packing import Rows, as_sentences
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh
from ilo_jax.training import freezing, optimizers
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.order import Order, Text, packed, place_rows
from ilo_jax.training.step import Loss, Measures, State, Total, begin, make_step
from tests.models.variants import BERT, RMS, TIED, VOCAB, perturb

# On shared cores torch's threads wait for each other.
torch.set_num_threads(1)

ROW_LENGTH = 24
STEPS, WARMUP, PEAK = 50, 5, 3e-3
ADAMW: dict[str, float] = {
    "b1": 0.8,
    "b2": 0.95,
    # Where a gradient is no larger than the rounding of its own sums, the usual 1e-8 would make
    # a whole learning rate of that rounding: both sides would be right, and far apart.
    "eps": 1e-4,
    "weight_decay": 0.1,
    "clip": 2.0,
}
SCHEDULE = optimizers.warmup_cosine(PEAK, warmup=WARMUP, steps=STEPS)

LLAMA: dict[str, Any] = RMS | {"num_hidden_layers": 3}
HEAD_TIED: dict[str, Any] = LLAMA | TIED
BIASES: dict[str, Any] = {"attention_bias": True, "mlp_bias": True}
MODELS: dict[str, Callable[[], Any]] = {
    "tied": lambda: LlamaForCausalLM(LlamaConfig(**copy.deepcopy(HEAD_TIED))),
    "own": lambda: LlamaForCausalLM(LlamaConfig(**copy.deepcopy(LLAMA | BIASES))),
    "encoder": lambda: BertForMaskedLM(BertConfig(**BERT)),
}
MASK = 3
"""The token that an encoder sees in place of those it is to find."""
KEY = jax.random.key(0)
HEAD_ONLY = "embed/.*,layers/.*,norm/.*"
"""Freezes all but a head of its own."""


class Start(NamedTuple):
    """A model as it is before training."""

    folder: Path
    torch: Any
    config: ModelConfig
    weights: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def start(tmp_path_factory) -> Callable[[str], Start]:
    """Return a tiny model of MODELS, every weight perturbed, by torch and ours."""

    @functools.cache
    def make(name: str) -> Start:
        model = MODELS[name]().eval()
        perturb(model, seed=0)
        folder = tmp_path_factory.mktemp(name)
        model.save_pretrained(folder)
        ours = loading.load(open_folder(folder), mesh=make_mesh(data=1))
        return Start(folder, model, ours.config, copied(parameters.weights(ours)))

    return make


def copied(weights: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Return weights that no later step overwrites."""
    return {path: np.array(weight) for path, weight in weights.items()}


@pytest.fixture(scope="session")
def text() -> Text:
    """Return sentences of all lengths in rows of several segments; some tokens are given."""
    rng = np.random.default_rng(0)
    ids = [rng.integers(4, VOCAB, n).tolist() for n in rng.integers(2, ROW_LENGTH + 1, 90)]
    target = [(rng.random(len(sentence)) >= 0.2).tolist() for sentence in ids]
    return packed(as_sentences(ids, target=target), row_length=ROW_LENGTH)


@pytest.fixture(scope="session")
def order(text) -> Order:
    """Return an order of two parts of 8 rows; the last rows of an epoch are padding."""
    order = Order(len(text.planned), parts=2, part_rows=8, seed=0)
    assert 2 <= order.epoch < 10
    assert order.rows % order.batch
    return order


def masked_of(model: Transformer, rows: Rows) -> Total:
    """Return the loss of an encoder that finds the tokens marked `target`."""
    seen = jnp.where(rows.target, MASK, rows.tokens)
    final = model.run(rows._replace(tokens=seen)).value
    logs = jax.nn.log_softmax(model.logits(final), axis=-1)
    found = jnp.take_along_axis(logs, rows.tokens[..., None], axis=-1)[..., 0]
    return Total(-jnp.where(rows.target, found, 0).sum(), rows.target.sum())


def masked(config: ModelConfig, mesh: Mesh) -> Loss:
    """Return the loss of encoders of a configuration."""
    assemble = parameters.assembler(config, mesh, dtype=jnp.float32)
    return lambda weights, frozen, batch, key: masked_of(
        assemble({**weights, **frozen}), batch.rows
    )


class Run(NamedTuple):
    """What a training left."""

    measures: list[Measures]
    """Of each step, as numbers."""
    weights: list[dict[str, np.ndarray]]
    """Those that train, before the first step and after each."""
    state: State

    @property
    def losses(self) -> list[float]:
        return [float(measures.loss) for measures in self.measures]


class Training:
    """A step, compiled when it is first taken, and what it starts from."""

    def __init__(
        self,
        start: Start,
        text: Text,
        order: Order,
        mesh: Mesh,
        *,
        freeze: str,
        fsdp: bool = False,
        remat: bool = False,
        dtype: DTypeLike = jnp.float32,
        optimizer: optax.GradientTransformation | None = None,
    ):
        self.start, self.text, self.order, self.mesh = start, text, order, mesh
        rules = freezing.read_rules(freeze, start.config)
        self.mask = freezing.frozen_mask(start.weights, rules)
        self.lowest = freezing.lowest_block(start.config, self.mask)
        self.optimizer = optimizer or optimizers.adamw(SCHEDULE, **ADAMW)
        like = parameters.abstract(start.config, dtype=jnp.float32)
        self.lies = parameters.shardings(like, mesh, fsdp=fsdp)
        self.frozen = self.placed(frozen=True)
        computed = {"dtype": dtype, "lowest": self.lowest, "remat": remat, "fsdp": fsdp}
        decoder = next_token(start.config, mesh, **computed)
        loss = decoder if start.config.causal else masked(start.config, mesh)
        self.step = make_step(loss, self.optimizer, like=self.begin(), mesh=mesh)

    def placed(self, *, frozen: bool) -> dict[str, jax.Array]:
        """Return the weights at the start that are frozen, or those that train."""
        paths = [path for path, is_frozen in self.mask.items() if is_frozen == frozen]
        weights = self.start.weights
        return {path: jax.device_put(weights[path].copy(), self.lies[path]) for path in paths}

    def begin(self) -> State:
        """Return the state before the first step."""
        return begin(self.optimizer, self.placed(frozen=False), self.mesh)

    def batch(self, step: int) -> Batch:
        """Return the rows of a step."""
        return Batch(place_rows(self.text, self.order, step, self.mesh))

    def learn(self, batches: Iterable[Batch]) -> Run:
        """Take a step with each batch."""
        state, measures = self.begin(), []
        weights = [copied(state.weights)]
        for batch in batches:
            state, measured = self.step(state, self.frozen, batch, KEY)
            measures.append(jax.device_get(measured))
            weights.append(copied(state.weights))
        return Run(measures, weights, state)


@pytest.fixture(scope="session")
def training(start, text, order) -> Callable[..., Training]:
    """Return a training of a model of MODELS on one device, or as told; the same for the same."""

    @functools.cache
    def make(model: str, freeze: str, *, data: int = 1, split: int = 1, **settings: Any):
        mesh = make_mesh(data=data, model=split)
        return Training(start(model), text, order, mesh, freeze=freeze, **settings)

    return make


@pytest.fixture(scope="session")
def trained(training) -> Callable[[str, str], Run]:
    """Return the run of all STEPS of a model of MODELS with something frozen, on one device."""

    @functools.cache
    def run(model: str, freeze: str) -> Run:
        alone = training(model, freeze)
        return alone.learn(map(alone.batch, range(STEPS)))

    return run


def distance(ours: np.ndarray, theirs: np.ndarray, *, of: np.ndarray | None = None) -> float:
    """Return the norm of the difference over that of the second, or of another array."""
    difference = np.linalg.norm(ours.astype(np.float64) - theirs)
    return float(difference / np.linalg.norm(theirs if of is None else of))


def farthest(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> float:
    """Return the largest distance of any array of the first from that of the same path."""
    assert ours.keys() <= theirs.keys()
    return max(distance(ours[path], theirs[path]) for path in ours)
