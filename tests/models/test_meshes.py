"""Models over many devices, and over two processes: the same numbers, each with its share."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from transformers import LlamaConfig, LlamaForCausalLM

from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import along_data, make_mesh
from tests.models import reading
from tests.models.variants import ONE_OF_EACH, SIZES, perturb, slow_but
from tests.pairs import run_two

SHARE = Path(__file__).with_name("share_of_two.py")

TOLERANCE = 1e-5
"""Of the largest value on one device."""
MESHES = {"8x1": (8, 1), "2x4": (2, 4), "1x8": (1, 8)}

EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 4}


def saved_llama(folder: Path, sizes: dict[str, Any], *, seed: int = 0) -> Path:
    model = LlamaForCausalLM(LlamaConfig(**sizes)).eval()
    perturb(model, seed=seed)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def eight_heads(tmp_path_factory) -> Path:
    """Return a folder of a model whose every axis divides by eight."""
    return saved_llama(tmp_path_factory.mktemp("eight_heads"), SIZES | EIGHT)


@pytest.fixture(scope="module")
def smol(tmp_path_factory) -> Path:
    """Return a folder of a model with SmolLM2's heads and an odd vocabulary."""
    heads = {"num_attention_heads": 9, "num_key_value_heads": 3, "hidden_size": 72}
    return saved_llama(tmp_path_factory.mktemp("smol"), SIZES | heads | {"vocab_size": 67})


@nnx.jit
def _states(model, tokens, positions, segments):
    return reading.states(model, tokens, positions, segments)


def eight_rows(batch) -> dict[str, np.ndarray]:
    """Return tokens, positions and segments in as many rows as there are devices."""
    named = {name: getattr(batch, name) for name in ("tokens", "positions", "segments")}
    return {name: np.resize(array, (8, array.shape[1])) for name, array in named.items()}


def states(model, batch) -> np.ndarray:
    """Return "layer batch seq dim", the rows split over the mesh's "data"."""
    rows = jax.device_put(list(eight_rows(batch).values()), along_data(model.mesh))
    return np.stack(jax.device_get(_states(model, *rows)))


def assert_same_states(folder: Path, mesh, batch, *, fsdp: bool) -> None:
    one = states(loading.load(open_folder(folder), mesh=make_mesh(data=1)), batch)
    many = states(loading.load(open_folder(folder), mesh=mesh, fsdp=fsdp), batch)
    assert np.abs(many - one).max() <= TOLERANCE * np.abs(one).max()


def held(model) -> Counter:
    """Return the bytes of weights on each device."""
    shards = (s for w in parameters.weights(model).values() for s in w.addressable_shards)
    bytes_on = Counter()
    for shard in shards:
        bytes_on[shard.device] += shard.data.nbytes
    return bytes_on


def nbytes(model, *, without: tuple[str, ...] = ()) -> int:
    arrays = parameters.weights(model).items()
    return sum(a.nbytes for path, a in arrays if not any(part in path for part in without))


@pytest.mark.parametrize(
    ("shape", "fsdp"),
    [
        pytest.param("8x1", True, marks=pytest.mark.slow),
        ("2x4", False),
        ("1x8", True),
        pytest.param("8x1", False, marks=pytest.mark.slow),
        pytest.param("2x4", True, marks=pytest.mark.slow),
        pytest.param("1x8", False, marks=pytest.mark.slow),
    ],
)
def test_mesh_gives_the_states_of_one_device(eight_heads, padded, shape, fsdp):
    data, model = MESHES[shape]
    assert_same_states(eight_heads, make_mesh(data=data, model=model), padded, fsdp=fsdp)


@pytest.mark.parametrize(
    "variant",
    slow_but(["gemma2-both", "bloom-four", "bert-model"], ONE_OF_EACH),
)
def test_every_family_over_two_by_four(tiny, padded, variant):
    mesh = make_mesh(data=2, model=4)
    assert_same_states(tiny(variant).folder, mesh, padded, fsdp=True)


@pytest.mark.parametrize("shape", slow_but(["2x4"], MESHES))
def test_heads_that_do_not_divide_stay_whole(smol, padded, shape):
    data, model = MESHES[shape]
    assert_same_states(smol, make_mesh(data=data, model=model), padded, fsdp=False)


@pytest.mark.parametrize(("shape", "fsdp"), [("8x1", True), ("2x4", True), ("1x8", False)])
def test_no_device_holds_more_than_its_share(eight_heads, shape, fsdp):
    """All but the norms is split in eight, whichever way the mesh is cut."""
    data, model = MESHES[shape]
    loaded = loading.load(
        open_folder(eight_heads), mesh=make_mesh(data=data, model=model), fsdp=fsdp
    )
    norms = nbytes(loaded) - nbytes(loaded, without=("norm",))
    share = norms + nbytes(loaded, without=("norm",)) // 8
    assert held(loaded) == dict.fromkeys(jax.devices(), share)


def test_share_where_heads_and_vocabulary_do_not_divide(smol):
    """The MLP is split by its width, the vocabulary's matrices by theirs, attention not."""
    loaded = loading.load(open_folder(smol), mesh=make_mesh(data=1, model=8))
    whole = nbytes(loaded) - nbytes(loaded, without=("norm", "attn"))
    assert held(loaded) == dict.fromkeys(jax.devices(), whole + (nbytes(loaded) - whole) // 8)


def test_what_is_not_split_is_named_in_the_log(smol, caplog):
    with caplog.at_level("INFO", logger="ilo_jax.models.hub.loading"):
        loading.load(open_folder(smol), mesh=make_mesh(data=1, model=8))
    assert caplog.messages == [
        "not split over 8 devices, as they do not divide: {'head': 9, 'kv': 3, 'vocab': 67}"
    ]


def temporary_bytes(folder: Path, data: int, *, fsdp: bool) -> int:
    """Return what the forward takes on each device, beside weights and states."""
    mesh = make_mesh(data=data)
    model = loading.load(open_folder(folder), mesh=mesh, fsdp=fsdp)
    tokens = jax.device_put(np.ones((16, 64), np.int32), along_data(mesh))
    graph, state = nnx.split(model)

    @jax.jit
    def forward(state, tokens):
        merged = nnx.merge(graph, state)
        return reading.states(merged, tokens, tokens, tokens, show=lambda hidden: hidden.sum())

    analysis = forward.lower(state, tokens).compile().memory_analysis()
    assert analysis is not None
    return analysis.temp_size_in_bytes


def test_weights_split_over_data_leave_the_batch_split(eight_heads, tmp_path):
    """Else every device would compute every row: tensor parallelism under another name."""
    one = temporary_bytes(eight_heads, 1, fsdp=False)
    assert temporary_bytes(eight_heads, 8, fsdp=False) < one / 4
    assert temporary_bytes(eight_heads, 8, fsdp=True) < one / 4
    # So narrow a model is split even if left to XLA. Here, gathered weights are a third.
    wide = saved_llama(tmp_path, SIZES | EIGHT | {"hidden_size": 128, "intermediate_size": 512})
    assert temporary_bytes(wide, 8, fsdp=True) < temporary_bytes(wide, 1, fsdp=False) / 2


def test_two_processes_read_a_share_each(eight_heads, padded, tmp_path):
    one = loading.load(open_folder(eight_heads), mesh=make_mesh(data=1))
    arrays: dict[str, Any] = eight_rows(padded) | {"states": states(one, padded)}
    np.savez(tmp_path / "batch.npz", **arrays)
    places = [str(eight_heads), str(tmp_path / "batch.npz"), str(tmp_path / "saved")]
    ended = run_two(SHARE, places, places)
    assert [process.returncode for process in ended] == [0, 0], ended[0].stderr + ended[1].stderr
    everything = nbytes(one)
    norms = everything - nbytes(one, without=("norm",))
    half = norms + (everything - norms) // 2
    for process in ended:
        runs = json.loads(process.stdout.splitlines()[-1])
        assert {name: run["read"] for name, run in runs.items()} == {
            "1x8": half,
            "2x4": everything,
            "2x4 fsdp": half,
        }
        assert all(run["difference"] <= TOLERANCE for run in runs.values())
    saved = parameters.weights(
        loading.load(open_folder(tmp_path / "saved"), mesh=make_mesh(data=1))
    )
    for path, weight in parameters.weights(one).items():
        assert np.array_equal(saved[path], weight), path


def test_two_processes_with_different_weights_stop_together(eight_heads, tmp_path):
    """As with a cache on each host, one of them older."""
    older = saved_llama(tmp_path, SIZES | EIGHT, seed=1)
    ended = run_two(SHARE, [str(eight_heads), "", ""], [str(older), "", ""])
    for process in ended:
        assert process.returncode != 0
        assert "is not the same on process [1] as on the first" in process.stderr


def test_an_error_on_one_process_ends_both(eight_heads, tmp_path):
    absent = tmp_path / "absent"
    absent.mkdir()
    first, second = run_two(SHARE, [str(eight_heads), "", ""], [str(absent), "", ""])
    assert f"RuntimeError: opening {eight_heads} failed on process [1]" in first.stderr
    assert f"FileNotFoundError: no config.json in {absent}" in second.stderr
    assert first.returncode != 0
    assert second.returncode != 0
