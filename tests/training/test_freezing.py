"""Every weight of every family is decided exactly once, and the paper's number is literal."""

import copy
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM

from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import read_config
from ilo_jax.refusals import SHOWN
from ilo_jax.training.freezing import (
    Rule,
    describe,
    everything_trains,
    frozen_mask,
    lowest_block,
    partitioned,
    read_rules,
    selective,
    split,
)
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.optimizers import adamw
from tests.models.variants import ONE_OF_EACH, RMS, TIED, VARIANTS, slow_but
from tests.training.conftest import ADAMW, KEY, SCHEDULE, Training, copied, farthest


def read(kind, given) -> ModelConfig:
    config = kind.config_class(**copy.deepcopy(given), architectures=[kind.__name__])
    return read_config(json.loads(config.to_json_string()))


def paths(config: ModelConfig) -> list[str]:
    return list(parameters.shapes(parameters.abstract(config, dtype=jnp.float32)))


def llama(**others) -> ModelConfig:
    assert LlamaForCausalLM.config_class is LlamaConfig
    return read(LlamaForCausalLM, RMS | {"num_hidden_layers": 10} | others)


@pytest.fixture(scope="module")
def ten() -> ModelConfig:
    """Ten blocks, and a head of its own."""
    return llama()


@pytest.fixture(scope="module")
def names(ten) -> list[str]:
    return paths(ten)


def refusal(call) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        call()
    return str(caught.value)


# The rules of the paper


@pytest.mark.parametrize("variant", slow_but(ONE_OF_EACH))
def test_every_weight_is_decided_exactly_once(variant):
    """Of none there is no rule, two rules, or a rule too many: `frozen_mask` would refuse."""
    config = read(*VARIANTS[variant])
    weights = paths(config)
    for blocks in range(config.layers):
        mask = frozen_mask(weights, selective(config, blocks=blocks))
        parts = {path: path.split("/") for path in weights}
        assert mask == {
            path: part[0] != "layers" or int(part[1]) < blocks for path, part in parts.items()
        }
    assert not any(frozen_mask(weights, everything_trains()).values())


def test_the_number_of_blocks_is_literal(ten, names):
    """The released code freezes nine blocks where the paper says eight."""
    mask = frozen_mask(names, selective(ten, blocks=8))
    blocks = {i: {mask[p] for p in names if p.startswith(f"layers/{i}/")} for i in range(10)}
    assert blocks == {i: {True} for i in range(8)} | {8: {False}, 9: {False}}
    others = {path: frozen for path, frozen in mask.items() if not path.startswith("layers/")}
    assert others == {"embed/tokens/embedding": True, "norm/scale": True, "head/out/kernel": True}


def test_a_tied_head_is_frozen_with_the_embedding():
    config = llama(**TIED)
    mask = frozen_mask(paths(config), selective(config, blocks=8))
    outside = {path for path, frozen in mask.items() if frozen and not path.startswith("layers/")}
    assert outside == {"embed/tokens/embedding", "norm/scale"}
    assert not any(path.startswith("head/") for path in mask)


def test_all_of_an_encoder_that_is_no_block_is_frozen():
    config = read(*VARIANTS["bert-mlm"])
    mask = frozen_mask(paths(config), selective(config, blocks=1))
    assert {path for path, frozen in mask.items() if frozen and path.split("/")[0] != "layers"} == {
        "embed/tokens/embedding",
        "embed/positions/embedding",
        "embed/types/embedding",
        "embed/norm/scale",
        "embed/norm/bias",
        "head/dense/kernel",
        "head/dense/bias",
        "head/norm/scale",
        "head/norm/bias",
        "head/bias",
    }


@pytest.mark.parametrize("blocks", [-1, 10, 99])
def test_all_blocks_and_less_than_none_are_refused(ten, blocks):
    message = refusal(lambda: selective(ten, blocks=blocks))
    assert message == f"blocks must be in [0, 9] to be frozen, got {blocks}"


# Rules in general


def test_undecided_weights_are_named():
    message = refusal(lambda: frozen_mask(["a/x", "b/x"], [Rule("a/.*", frozen=False)]))
    assert message == "no rule fits b/x"


def test_a_rule_must_fit_the_whole_path():
    assert refusal(lambda: frozen_mask(["a/x"], [Rule("a", frozen=False)])) == (
        "no rule fits a/x; no weight is of a (near: a/x)"
    )


def test_weights_that_two_rules_fit_are_named_even_if_they_agree():
    rules = [Rule("a/.*", frozen=False), Rule(".*/x", frozen=False), Rule("c", frozen=True)]
    message = refusal(lambda: frozen_mask(["a/x", "a/y", "b/x", "c"], rules))
    assert message == "several rules fit a/x (a/.*, .*/x)"


def test_idle_rules_are_named():
    rules = [Rule("a", frozen=False), Rule("layers/7/.*", frozen=True)]
    assert refusal(lambda: frozen_mask(["a"], rules)) == "no weight is of layers/7/.*"


def test_all_that_is_wrong_is_said_at_once():
    rules = [Rule(".", frozen=False), Rule("a", frozen=True), Rule("idle", frozen=True)]
    message = refusal(lambda: frozen_mask(["a", "long"], rules))
    assert message == "no rule fits long; several rules fit a (., a); no weight is of idle"


def test_no_more_than_some_are_named():
    weights = [f"w{i:02}" for i in range(SHOWN + 3)]
    message = refusal(lambda: frozen_mask([*weights, "a"], [Rule("a", frozen=False)]))
    assert message == f"no rule fits {', '.join(weights[:SHOWN])}, and 3 more"
    message = refusal(lambda: frozen_mask([*weights[:SHOWN], "a"], [Rule("a", frozen=False)]))
    assert message == f"no rule fits {', '.join(weights[:SHOWN])}"


def test_rules_that_freeze_everything_are_refused():
    message = refusal(lambda: frozen_mask(["a", "b"], [Rule(".", frozen=True)]))
    assert message == "the rules freeze every weight: nothing is left to train"


# As text


def test_none_freezes_nothing(ten, names):
    assert read_rules("none", ten) == everything_trains()
    assert not any(frozen_mask(names, read_rules("none", ten)).values())


def test_paper_is_selective_freezing(ten):
    assert read_rules("paper:2", ten) == selective(ten, blocks=2)


@pytest.mark.parametrize(
    "text",
    ["embed/.*,layers/[0-3]/.*", " embed/.* ,\tlayers/[0-3]/.* ", "embed/.*|layers/[0-3]/.*"],
)
def test_patterns_are_of_what_is_frozen(ten, names, text):
    mask = frozen_mask(names, read_rules(text, ten))
    assert {path for path, frozen in mask.items() if frozen} == {
        path for path in names if re.match(r"embed/|layers/[0123]/", path)
    }


def test_patterns_fit_whole_paths(ten, names):
    message = refusal(lambda: frozen_mask(names, read_rules("layers/3", ten)))
    assert message == (
        "no weight is of layers/3 "
        "(near: layers/3/attn/k/kernel, layers/3/attn/o/kernel, layers/3/attn/q/kernel)"
    )


def test_each_of_several_alternatives_fits_whole_paths(ten, names):
    """layers/3 is the beginning of paths that train, embed/tokens/embedding is a path."""
    mask = frozen_mask(names, read_rules("layers/3|norm/.*,layers/4|embed/tokens/embedding", ten))
    frozen = {path for path, is_frozen in mask.items() if is_frozen}
    assert frozen == {"embed/tokens/embedding", "norm/scale"}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("model.layers.0.self_attn.q_proj.weight", "layers/0/attn/q/kernel"),
        (r"model\.layers\.7\.mlp\.down_proj\..*", "layers/7/mlp/down/kernel"),
        ("model.layers.2.input_layernorm.weight", "layers/2/attn_norm/scale"),
        ("model.embed_tokens.weight", "embed/tokens/embedding"),
        ("model.norm.weight", "norm/scale"),
        ("lm_head.weight", "head/out/kernel"),
    ],
)
def test_what_hugging_face_calls_a_weight_is_told_its_path(ten, names, name, path):
    rules = read_rules(f"embed/tokens/.*x,{name}", ten)
    message = refusal(lambda: frozen_mask(names, rules))
    assert f"{name} (near: {path}" in message


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("layers/[0-9]{1,2}/.*,norm/.*", range(10)),
        ("layers/[0,3]/.*,norm/.*", (0, 3)),
        ("norm/.*,layers/[0-1]{1,}/.*", (0, 1)),
    ],
)
def test_a_comma_in_braces_or_brackets_is_the_pattern_s_own(ten, names, text, blocks):
    mask = frozen_mask(names, read_rules(text, ten))
    starts = ("norm/", *(f"layers/{block}/" for block in blocks))
    assert mask == {path: path.startswith(starts) for path in names}


def test_patterns_that_overlap_are_refused(ten, names):
    rules = read_rules("embed/.*,.*/embedding", ten)
    assert refusal(lambda: frozen_mask(names, rules)) == (
        "several rules fit embed/tokens/embedding (embed/.*, .*/embedding)"
    )


@pytest.mark.parametrize("text", [".*", "embed/.*,layers/.*,norm/.*,head/.*"])
def test_patterns_of_everything_are_refused(ten, names, text):
    message = refusal(lambda: frozen_mask(names, read_rules(text, ten)))
    assert message == "the rules freeze every weight: nothing is left to train"


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "embed/.*,", "embed/.*, ,norm/.*", "paper", "paper:", "paper:x", "paper:-1"],
)
def test_what_is_neither_is_refused(ten, text):
    message = refusal(lambda: read_rules(text, ten))
    assert message == f"freeze must be none, paper:BLOCKS or PATTERN,PATTERN; got {text!r}"


def test_more_blocks_than_there_are_is_refused(ten):
    message = refusal(lambda: read_rules("paper:99", ten))
    assert message == "blocks must be in [0, 9] to be frozen, got 99"


def test_what_is_no_regular_expression_is_refused(ten):
    message = refusal(lambda: read_rules("embed/.*,layers/(3/.*", ten))
    assert message.startswith("'layers/(3/.*' is no regular expression: ")
    message = refusal(lambda: frozen_mask(["a"], [Rule("a)", frozen=True)]))
    assert message.startswith("'a)' is no regular expression: ")


# What follows from them


@pytest.mark.parametrize(
    ("text", "lowest"),
    [
        ("none", 0),
        ("layers/.*", 0),  # the embedding trains
        ("paper:0", 0),
        ("paper:1", 1),
        ("paper:8", 8),
        ("embed/.*,layers/[0-3]/.*,layers/5/.*", 4),
        ("embed/.*,layers/.*/kernel", 0),
        ("embed/.*,layers/[0-8]/.*,layers/9/attn/.*", 9),
        ("embed/.*,layers/[0-9]/.*,norm/.*", 10),  # only the head trains
        ("embed/.*,layers/[0-9]/.*,head/.*", 9),  # only the final norm: it comes with block 9
        ("embed/.*,layers/[0-9]/.*", 9),
    ],
)
def test_below_the_lowest_block_nothing_changes(ten, names, text, lowest):
    assert lowest_block(ten, frozen_mask(names, read_rules(text, ten))) == lowest


def test_anything_of_the_embedding_changes_the_first_state():
    config = read(*VARIANTS["bert-mlm"])
    rules = read_rules("embed/(tokens|types|norm)/.*,layers/.*,head/.*", config)
    assert lowest_block(config, frozen_mask(paths(config), rules)) == 0


def test_split_loses_nothing():
    trainable, kept = split({"a": 1, "b": 2, "c": 3}, {"c": False, "b": True, "a": False})
    assert (trainable, kept) == ({"a": 1, "c": 3}, {"b": 2})


def described(text: str, config: ModelConfig) -> str:
    """With a hundred parameters to every weight."""
    weights = paths(config)
    sizes = dict.fromkeys(weights, 100)
    return describe(config, frozen_mask(weights, read_rules(text, config)), sizes)


def test_the_line_says_what_is_frozen(ten):
    """Nine weights in each of ten blocks, and three others."""
    assert described("none", ten) == "frozen: nothing: 0 of 9,300 parameters (0%)"
    assert described("paper:8", ten) == (
        "frozen: embedding, blocks 0 to 7, head, final norm: 7,500 of 9,300 parameters (81%)"
    )
    assert described("layers/[024-6]/.*,head/.*", ten) == (
        "frozen: block 0, block 2, blocks 4 to 6, head: 4,600 of 9,300 parameters (49%)"
    )
    assert described("embed/.*,layers/0/.*,layers/[13]/attn/.*", ten) == (
        "frozen: embedding, block 0, part of block 1, part of block 3: "
        "1,800 of 9,300 parameters (19%)"
    )


def test_the_line_says_what_becomes_of_a_tied_head():
    tied = llama(**TIED)
    assert described("paper:1", tied) == (
        "frozen: embedding, block 0, final norm (the head is tied to the embedding and frozen with "
        "it): 1,100 of 9,200 parameters (12%)"
    )
    assert described("none", tied) == (
        "frozen: nothing (the head is tied to the embedding and trains with it): "
        "0 of 9,200 parameters (0%)"
    )


def test_sizes_are_of_weights(ten, names):
    sizes = {path: 1 if path == "norm/scale" else 3 for path in names}
    line = describe(ten, {path: path == "norm/scale" for path in names}, sizes)
    assert line == f"frozen: final norm: 1 of {3 * len(names) - 2:,} parameters (0%)"


# As an optax transformation, for loops that are not ours

TAKEN = 20
"""Steps of another loop."""


def taken_elsewhere(some: Training) -> tuple[dict[str, np.ndarray], Any]:
    """The weights, and the state of the optimizer, after steps of a loop that knows optax only."""
    rules = read_rules("paper:1", some.start.config)
    optimizer = partitioned(adamw(SCHEDULE, **ADAMW), rules)
    loss = next_token(some.start.config, some.mesh, dtype=jnp.float32)
    weights: Any = {path: jnp.array(weight) for path, weight in some.start.weights.items()}
    state = optimizer.init(weights)

    def mean(weights: Any, batch: Batch) -> jax.Array:
        parts = [jax.tree.map(lambda a, i=i: a[i], batch) for i in range(some.order.parts)]
        sums, counts = zip(*(loss(weights, {}, part, KEY) for part in parts), strict=True)
        return jnp.stack(sums).sum() / jnp.stack(counts).sum()

    @jax.jit
    def step(weights: Any, state: Any, batch: Batch) -> tuple[Any, Any]:
        updates, state = optimizer.update(jax.grad(mean)(weights, batch), state, weights)
        return optax.apply_updates(weights, updates), state

    for number in range(TAKEN):
        weights, state = step(weights, state, some.batch(number))
    return copied(weights), state


@pytest.mark.slow
def test_another_loop_with_optax_alone_ends_with_the_same_weights(training, trained):
    """What is frozen bit for bit, without moments; all else but for the order of sums."""
    some = training("own", "paper:1")
    weights, state = taken_elsewhere(some)
    for path in some.frozen:
        assert np.array_equal(weights[path], some.start.weights[path]), path
    expected = trained("own", "paper:1").weights[TAKEN]
    assert weights.keys() == expected.keys() | some.frozen.keys()
    assert farthest(expected, weights) <= 1e-6
    moments = [leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert sum(moments) == 2 * sum(weight.size for weight in expected.values())


def test_weights_of_any_tree_have_their_paths():
    """Nested as they may be, or an nnx model's own state."""
    rules = [Rule("layers/0/.*", frozen=True), Rule("layers/1/.*", frozen=False)]
    layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0)) for _ in range(2)])
    of_nnx = nnx.state({"layers": layers}, nnx.Param)
    for weights in (of_nnx, {"layers": [{"a": jnp.ones(2)}, {"a": jnp.ones(2)}]}):
        optimizer: Any = partitioned(optax.sgd(1.0), rules)
        updates, _ = optimizer.update(weights, optimizer.init(weights), weights)
        moved = jax.tree.map(lambda weight, update: weight + update, weights, updates)["layers"]
        assert jax.tree.all(jax.tree.map(jnp.array_equal, moved[0], weights["layers"][0]))
        assert not any(weight.any() for weight in jax.tree.leaves(moved[1]))


def test_rules_that_do_not_fit_are_refused_where_another_loop_begins():
    optimizer = partitioned(optax.sgd(1.0), [Rule("a/.*", frozen=False)])
    with pytest.raises(ValueError, match="no rule fits b/x"):
        optimizer.init({"b/x": jnp.ones(1)})
