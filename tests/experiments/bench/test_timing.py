"""Calls take turns, and what they hold is seen."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from experiments.bench import timing
from experiments.bench.timing import Seconds

ROOT = Path(__file__).parents[3]


def test_calls_take_turns_after_a_warm_up():
    made = []

    def make(name: str) -> int:
        made.append(name)
        return len(made)

    times = timing.alternating({n: lambda n=n: make(n) for n in "ab"}, rounds=3)
    assert "".join(made) == "ab" + "ab" * 3
    assert {name: each.result for name, each in times.items()} == {"a": 7, "b": 8}


def test_both_clocks_are_read():
    timing.once(lambda: None)
    taken = timing.once(lambda: time.sleep(0.2)).seconds
    assert taken.wall >= 0.2
    assert taken.cpu < taken.wall


def test_medians_are_of_each_clock():
    times = [Seconds(1, 30), Seconds(2, 10), Seconds(9, 20)]
    assert timing.medians(times) == Seconds(2, 20)


def test_a_call_that_fails_leaves_nobody_watching():
    """Or the process would never end."""
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        timing.peak_beyond(lambda: 1 / 0)
    assert threading.active_count() == before


def test_what_a_process_said_last_is_one_line():
    assert timing.last_line("a\n  b\nerror: no\n\n") == "error: no"
    assert timing.last_line(" \n") == "it said nothing"


HOLD = """
import time
from pathlib import Path
import numpy as np
from experiments.bench import timing

def hold():
    held = np.ones(100 * 2**20, np.uint8)
    time.sleep(0.05)
    del held

seconds, beyond = timing.peak_beyond(hold)
print(seconds.wall, beyond)
"""


def test_peak_is_what_a_call_holds():
    """In a process of its own, as benchmarks ask: others' memory may be given back meanwhile."""
    command = [sys.executable, "-c", HOLD]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, check=True, text=True)
    wall, beyond = done.stdout.split()
    assert 100 * 2**20 <= int(beyond) < 200 * 2**20
    assert float(wall) >= 0.05


def test_no_process_holds_nothing():
    assert timing.anonymous(os.getpid()) > 0
    assert timing.anonymous(2**30) == 0
