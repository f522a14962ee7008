import re

import pytest

from ilo_jax.chips import CHIPS
from ilo_jax.gpu_targets import GPUS, target_config


def test_every_gpu_of_the_table_of_chips_has_a_target():
    assert set(GPUS) == {name for name, chip in CHIPS.items() if "NVIDIA" in chip.kinds[0]}


@pytest.mark.parametrize("name", GPUS)
def test_a_target_says_what_the_table_says(name):
    text = target_config(name)
    assert text.count("{") == text.count("}")
    said = dict(re.findall(r"(\w+): \"?([^\"\n]+?)\"?\n", text))
    assert said["name"].startswith(CHIPS[name].kinds[0])
    assert int(said["device_memory_size"]) == CHIPS[name].memory
    assert int(said["memory_bandwidth"]) == CHIPS[name].bandwidth


@pytest.mark.parametrize("name", GPUS)
def test_units_and_clock_give_the_published_float32_peak(name):
    gpu = GPUS[name]
    peak = 2 * gpu.cores * gpu.units * gpu.clock * 1e9
    assert peak == pytest.approx(CHIPS[name].float32, rel=0.01)
