import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments import extract, finetune, ilo
from experiments.fit.suggestions import (
    candidates,
    changes,
    command,
    counted,
    divisors,
    enough,
    fitting,
    splits,
)
from experiments.fit.workload import Asked
from experiments.hardware import settled
from ilo_jax.chips import CHIPS, GIB
from ilo_jax.models import parameters
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.topologies import Topology

ASKED = Asked(row_length=64, segments=4, points=(4, 6))
EXTRACT = extract.Config(batch_tokens=256)
TRAIN = finetune.Config(rows=8)


@pytest.fixture(scope="module")
def model(decoder):
    return parameters.abstract(open_folder(decoder).config, dtype=jnp.float32)


def four(usable: float) -> Topology:
    """Four devices that have so many bytes."""
    return Topology(CHIPS["v5e"]._replace(usable=usable), jax.devices()[:4])


def rows_at_once(config: extract.Config, devices: int) -> int:
    return config.batch_tokens // 64 * devices // config.model_parallel


def test_all_ways_to_split_are_tried_in_one_order():
    found = candidates(EXTRACT, 4, ASKED, ways=divisors(4))
    keys = {(c.dtype, c.model_parallel, c.fsdp, c.batch_tokens) for c in found}
    splits = [(1, False), (1, True), (2, False), (2, True), (4, False)]
    each = itertools.product(("float32", "bfloat16"), splits, (64, 128, 256))
    assert keys == {(dtype, *split, tokens) for dtype, split, tokens in each}
    assert len(found) == len(keys)
    assert found == candidates(EXTRACT, 4, ASKED, ways=divisors(4))


def test_the_dtype_that_is_asked_for_comes_first_then_the_largest_batch_then_the_least_split():
    found = candidates(EXTRACT, 4, ASKED, ways=divisors(4))
    assert found[0] == EXTRACT
    keys = [(c.dtype != "float32", -rows_at_once(c, 4), c.model_parallel, c.fsdp) for c in found]
    assert keys == sorted(keys)
    assert (
        candidates(dataclasses.replace(EXTRACT, dtype="bfloat16"), 4, ASKED, ways=divisors(4))[
            -1
        ].dtype
        == "bfloat16"
    )


def test_a_batch_that_is_no_power_of_two_is_cut_to_smaller_ones():
    config = dataclasses.replace(EXTRACT, batch_tokens=400)
    found = {c.batch_tokens for c in candidates(config, 1, ASKED, ways=divisors(1))}
    assert found == {400, 256, 128, 64}


def test_the_rows_of_a_step_of_training_stay_and_divide_over_the_mesh():
    found = candidates(TRAIN, 16, ASKED, ways=divisors(16))
    assert {c.rows for c in found} == {8}
    assert all((c.rows_at_once or 8) % (16 // c.model_parallel) == 0 for c in found)
    assert {c.rows_at_once for c in found} == {0, 1, 2, 4}
    assert min(c.model_parallel for c in found) == 2
    keys = [
        (c.dtype != "float32", -(c.rows_at_once or 8), c.model_parallel, c.remat, c.fsdp)
        for c in found
    ]
    assert keys == sorted(keys)


def test_what_is_computed_again_stays_so():
    assert all(
        c.remat
        for c in candidates(dataclasses.replace(TRAIN, remat=True), 8, ASKED, ways=divisors(8))
    )


@pytest.mark.parametrize("config", [EXTRACT, TRAIN, ilo.Config(batch_tokens=256)], ids=type)
def test_what_fits_by_counting_is_given_with_its_bytes(model, config):
    tried = [*candidates(config, 4, ASKED, ways=divisors(4))]
    sizes = [counted(one, model, 4, ASKED) for one in tried]
    usable = sorted(sizes)[len(sizes) // 2]
    found = list(fitting(config, model, four(usable), ASKED))
    assert found == [pair for pair in zip(tried, sizes, strict=True) if pair[1] <= usable]


def test_nothing_fits_nothing(model):
    assert not list(fitting(EXTRACT, model, four(0), ASKED))


def test_the_largest_of_a_jobs_workloads_counts(model):
    many = ASKED._replace(points=(31, 100_000))
    assert counted(ilo.Config(), model, 4, many) >= 31 * 100_000 * 32 * 4
    assert counted(extract.Config(), model, 4, many) < GIB


def test_a_command_has_what_differs_from_its_file(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text("from experiments.extract import Config\ndef get_config(): return Config()\n")
    config = extract.Config(model="a folder", fsdp=True, batch_tokens=256)
    assert command(config, str(file), four(GIB)) == (
        f"python -m experiments.extract --config={file} --config.model='a folder' "
        "--config.fsdp=True --config.batch_tokens=256"
    )
    # What its devices would choose anyway is not said.
    tpus = [SimpleNamespace(process_index=host, platform="tpu") for host in range(4)]
    chosen, line = settled(extract.Config(), tpus), f"python -m experiments.extract --config={file}"
    assert command(chosen, str(file), Topology(CHIPS["v5e"], tpus)) == f"{line} --distributed"
    assert command(chosen, str(file), four(GIB)) == f"{line} --config.batch_tokens=4096"


def test_changes_are_flags():
    assert changes(TRAIN, TRAIN) == []
    assert changes(dataclasses.replace(TRAIN, remat=True), TRAIN) == ["--config.remat=True"]


def test_all_divisors_make_a_mesh_of_devices_that_are_joined_in_no_way():
    assert splits(jax.devices()) == divisors(8) == [1, 2, 4, 8]


def test_the_way_in_which_devices_are_joined_decides_what_makes_a_mesh(tpu):
    assert splits(tpu("v6e:4x4").devices) == [1, 4, 16]


def test_more_devices_are_named_if_they_would_do(model):
    counts = [4, 8, 16]
    least = [candidates(TRAIN, n, ASKED, ways=divisors(n))[-1] for n in counts]
    sizes = [counted(one, model, n, ASKED) for one, n in zip(least, counts, strict=True)]
    assert sizes == sorted(sizes, reverse=True)
    for usable, name in ((sizes[1], "v5e:2x4"), (sizes[2], "v5e:4x4"), (0, "")):
        assert enough(TRAIN, model, four(usable), ASKED, kind="v5e") == name
