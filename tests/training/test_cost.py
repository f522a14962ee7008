"""The operations of a step as its formula has them, and as they stand in the program itself."""

import copy
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from transformers import LlamaForCausalLM

from ilo_jax.compiling.program import ByParts
from ilo_jax.corpora.packing import Rows
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import read_config
from ilo_jax.sharding import make_mesh, replicated
from ilo_jax.training import optimizers
from ilo_jax.training.cost import Cost, step_cost
from ilo_jax.training.freezing import frozen_mask, lowest_block, read_rules, split
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.step import abstract, make_step
from tests.models.variants import COMMON, TIED, VARIANTS

# Large products, so that the optimizer and all that goes by elements is small beside them.
ROWS, ROW_LENGTH = 4, 256
LLAMA: dict[str, Any] = COMMON | {
    "vocab_size": 512,
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 320,
    "max_position_embeddings": ROW_LENGTH,
}
ONLY = {
    "head": "embed/.*,layers/.*,norm/.*",
    "final norm": "embed/.*,layers/.*,head/.*",
    "final norm and head": "embed/.*,layers/.*",
    "embedding": "layers/.*,norm/.*,head/.*",
}


@cache
def of_variant(variant: str) -> ModelConfig:
    return read(*VARIANTS[variant])


def read(kind: Any, given: dict[str, Any]) -> ModelConfig:
    config = kind.config_class(**copy.deepcopy(given), architectures=[kind.__name__])
    return read_config(json.loads(config.to_json_string()))


@cache
def llama(*, tied: bool = False, layers: int = 4) -> ModelConfig:
    return read(LlamaForCausalLM, LLAMA | (TIED if tied else {}) | {"num_hidden_layers": layers})


@cache
def shapes_of(config: ModelConfig) -> dict[str, jax.ShapeDtypeStruct]:
    return parameters.shapes(parameters.abstract(config, dtype=jnp.float32))


def frozen_of(config: ModelConfig, freeze: str) -> dict[str, bool]:
    return frozen_mask(shapes_of(config), read_rules(freeze, config))


def predicted(config: ModelConfig, freeze: str, **how: Any) -> Cost:
    shapes = {path: weight.shape for path, weight in shapes_of(config).items()}
    frozen = frozen_of(config, freeze)
    size: dict[str, Any] = {"rows": ROWS, "row_length": ROW_LENGTH}
    return step_cost(config, shapes, frozen, **size | how)


def step_of(
    config: ModelConfig,
    freeze: str,
    *,
    parts: int = 1,
    rows: int = ROWS,
    row_length: int = ROW_LENGTH,
    cached: bool = False,
    remat: bool = False,
) -> tuple[ByParts, tuple[Any, ...]]:
    """A step with AdamW, and shapes in place of its arguments."""
    mesh, frozen = make_mesh(data=1), frozen_of(config, freeze)
    lies = replicated(mesh)
    weights: dict[str, Any] = {
        path: jax.ShapeDtypeStruct(weight.shape, weight.dtype, sharding=lies)
        for path, weight in shapes_of(config).items()
    }
    trainable, kept = split(weights, frozen)
    optimizer = optimizers.adamw(lambda step: 1e-3, weight_decay=0.1, clip=1.0)
    state = abstract(optimizer, trainable, mesh)
    lowest = lowest_block(config, frozen)
    loss = next_token(config, mesh, dtype=jnp.float32, lowest=lowest, remat=remat)
    step = make_step(loss, optimizer, like=state, mesh=mesh)
    shape = parts, rows // parts, row_length
    like: Any = partial(jax.ShapeDtypeStruct, sharding=lies)
    ids, flags = (like(shape, dtype) for dtype in (jnp.int32, jnp.bool_))
    states = like((*shape, config.dim), jnp.float32) if cached else None
    key = like((), jax.random.key(0).dtype)
    placed: Any = Rows(ids, ids, ids, flags, flags)  # pyright: ignore[reportArgumentType]
    return step, (state, kept, Batch(placed, states), key)


def traced(config: ModelConfig, freeze: str, **how: Any) -> Any:
    """What a step computes."""
    step, shapes = step_of(config, freeze, **how)
    return step.trace(*shapes)


def inner(parameters: dict[str, Any]) -> Iterator[Any]:
    """The programs inside an operation: of jit, checkpoint, custom derivatives and scan."""
    for value in parameters.values():
        for one in value if isinstance(value, tuple | list) else [value]:
            program = getattr(one, "jaxpr", one)
            if hasattr(program, "eqns"):
                yield program


def products(program: Any) -> int:
    """Operations of all matrix products of a program, two for each product and sum."""
    found = 0
    for equation in program.eqns:
        name = equation.primitive.name
        assert name not in {"while", "cond"}  # nobody knows how often
        times = equation.params["length"] if name == "scan" else 1
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            found += 2 * shared * math.prod(equation.outvars[0].aval.shape)
        found += times * sum(map(products, inner(equation.params)))
    return found


@pytest.mark.parametrize(
    ("freeze", "how"),
    [
        ("none", {}),
        ("none", {"remat": True}),
        ("paper:1", {}),
        ("paper:1", {"cached": True, "remat": True}),
        ("paper:3", {"remat": True}),
        ("paper:3", {"cached": True}),
    ],
)
@pytest.mark.parametrize("tied", [False, True], ids=["own head", "tied head"])
def test_the_formula_is_the_program(tied, freeze, how):
    """To the last operation."""
    config = llama(tied=tied)
    found = products(traced(config, freeze, **how).jaxpr)
    assert found == predicted(config, freeze, **how).total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "freeze", "how"),
    [
        ("llama-gqa", ONLY["head"], {}),
        ("llama-gqa", ONLY["head"], {"cached": True}),
        ("llama-gqa", ONLY["final norm"], {"remat": True}),
        ("llama-gqa", ONLY["final norm and head"], {}),
        ("llama-gqa", ONLY["embedding"], {}),
        ("gemma3_text-mixed", "paper:2", {"remat": True}),  # norms on both sides, windows
        ("olmo2-gqa", "paper:1", {"remat": True}),  # nothing learnt comes before its queries
        ("opt-post", "paper:0", {"remat": True}),
        ("opt-bare_norms", "paper:0", {}),  # nothing is learnt in norms
        ("opt-projected", "none", {}),  # the table is narrower than the blocks
        ("opt-projected", "paper:1", {"cached": True}),
        ("opt-projected", "embed/.*,layers/.*", {}),
        ("gpt_neox-quarter", "paper:0", {"remat": True}),  # attention and MLP side by side
        ("cohere-mha", "paper:0", {"remat": True}),  # with one norm for both
    ],
)
def test_the_formula_is_the_program_of_every_kind_of_block(variant, freeze, how):
    config, size = of_variant(variant), {"rows": 2, "row_length": 32}
    found = products(traced(config, freeze, **size, **how).jaxpr)
    assert found == predicted(config, freeze, **size, **how).total


def test_the_first_products_of_a_block_without_weights_before_them_need_no_way_back():
    """In two gated blocks whose attention and MLP stand side by side, the first frozen."""
    config = of_variant("cohere-mha")
    bare = dataclasses.replace(config.blocks[0].norm, scale=False, bias=False)
    blocks = tuple(dataclasses.replace(block, norm=bare) for block in config.blocks)
    config = dataclasses.replace(config, blocks=blocks)
    assert blocks[0].parallel
    assert blocks[0].mlp.gated
    found = products(traced(config, "paper:1", rows=2, row_length=32).jaxpr)
    assert found == predicted(config, "paper:1", rows=2, row_length=32).total


def test_parts_of_a_batch_cost_what_it_costs_whole():
    config = llama(layers=2)
    assert products(traced(config, "paper:1", parts=4).jaxpr) == (
        predicted(config, "paper:1").total
    )


def test_forward_and_backward_of_a_model_counted_by_hand():
    """One token of one row: 2 for each weight forward, and 4 backward for each that trains."""
    config = llama(layers=1)
    block = 128 * (2 * 128 + 2 * 64 + 3 * 320)
    head = 128 * 512
    pairs = 4 * 128  # one position sees itself, twice with 128 numbers
    assert predicted(config, "none", rows=1, row_length=1) == Cost(
        2 * (block + head) + pairs, 4 * (block + head) + 2 * pairs
    )
    assert predicted(config, ONLY["head"], rows=1, row_length=1) == Cost(
        2 * (block + head) + pairs, 2 * head
    )
    assert predicted(config, ONLY["head"], rows=1, row_length=1, cached=True).forward == 2 * head


def test_cost_grows_with_rows_and_falls_with_frozen_blocks():
    config = llama()
    one, three = (predicted(config, "paper:1", rows=rows) for rows in (1, 3))
    assert three == Cost(3 * one.forward, 3 * one.backward)
    ladder = [predicted(config, freeze) for freeze in ("none", *(f"paper:{i}" for i in range(4)))]
    assert all(more.backward > less.backward for more, less in itertools.pairwise(ladder))
    assert len({cost.forward for cost in ladder}) == 1


# What XLA itself says


@cache
def lowered(freeze: str, *, cached: bool = False) -> Any:
    step, shapes = step_of(llama(), freeze, cached=cached)
    return jax.jit(step.function).lower(*shapes)


@pytest.mark.parametrize(
    ("freeze", "cached"),
    [("paper:1", False), ("paper:3", False), ("paper:3", True), (ONLY["head"], False)],
)
def test_what_xla_counts_falls_as_predicted(freeze, cached):
    """Of the whole step, loss and optimizer with it, beside full fine-tuning."""
    full, found = (
        each.cost_analysis()["flops"] for each in (lowered("none"), lowered(freeze, cached=cached))
    )
    expected = predicted(llama(), freeze, cached=cached).total / predicted(llama(), "none").total
    assert found / full == pytest.approx(expected, rel=0.05)


def compiled_flops(freeze: str) -> float:
    """Operations of all that is compiled of a step, as often as it is called."""
    step, shapes = step_of(llama(), freeze)
    counted = (call.compiled.cost_analysis() for call in step.compiled(*shapes).calls)
    return sum(each.get("flops", 0.0) for each in counted if each)


@pytest.mark.slow
def test_what_xla_compiles_falls_as_predicted():
    full, found = map(compiled_flops, ("none", "paper:3"))
    expected = predicted(llama(), "paper:3").total / predicted(llama(), "none").total
    assert found / full == pytest.approx(expected, rel=0.05)
