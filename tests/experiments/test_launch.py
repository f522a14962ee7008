"""The line between a job and the command line."""

import pytest

from tests.pairs import ended, start

JOB = """
import sys
from experiments.launch import launch, say

def job(config, run):
    say(f"{config.k} in {run.workdir}, profile {run.profile}")
    if config.k == 13:
        raise ValueError("planted")
    if config.k == 14:
        raise RuntimeError("planted")

launch(job, name="job", config="configs/ilo/sample.py")
"""


def run(*flags: str) -> tuple[int, str, str]:
    (done,) = ended([start(["-c", JOB, *flags])])
    return done.returncode, done.stdout, done.stderr


def test_a_job_gets_its_configuration_and_folder():
    assert run("--config.k=7")[:2] == (0, "7 in runs/job/sample, profile False\n")
    code, out, _ = run("--config=configs/ilo/smollm2.py", "--workdir=there", "--profile")
    assert (code, out) == (0, "5 in there, profile True\n")


def test_bad_input_is_one_line_and_a_bug_is_not_hidden():
    code, _, error = run("--config.k=13")
    assert code == 1
    assert error.strip().splitlines()[-1] == "error: planted"
    assert "Traceback" not in error
    code, _, error = run("--config.k=14")
    assert code == 1
    assert "Traceback" in error


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.k=x"], "config.k"),
        (["--config.no=1"], "no"),
        (["extra"], "unknown arguments: extra"),
        (["--distributed", "--process=0"], "or none; got no coordinator, processes"),
    ],
)
def test_unknown_and_half_given_flags_are_refused(flags, message):
    code, out, error = run(*flags)
    assert code != 0
    assert message in out + error
