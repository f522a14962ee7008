"""The line between a job and the command line."""

import os

import pytest

from tests.pairs import ended, free_port, start

JOB = """
import sys
from experiments.launch import launch, say

def job(config, run):
    say(f"{config.k} in {run.workdir}, profile {run.profile}")
    if config.k == 13:
        raise ValueError("planted")
    if config.k == 14:
        raise RuntimeError("planted")

launch(job, name="job", config="configs/ilo/sample.py", profile=PROFILE)
"""
SCRIPT = """
from absl import flags
from experiments import launch

def main():
    print(flags.FLAGS.number)
    return flags.FLAGS.number

flags.DEFINE_integer("number", None, "A number.", required=True, lower_bound=0)
launch.start(main)
"""
LIBTPU = """
import re
from pathlib import Path
import jax
from experiments import launch

def main():
    platform = jax.devices()[0].platform
    caught = re.search(r"SigCgt:.(\\w+)", Path("/proc/self/status").read_text())
    print(platform, int(caught[1], 16) >> 14 & 1)

launch.start(main)
"""
IMPORTS = """
import importlib, pkgutil
import experiments
from absl import flags

for module in pkgutil.walk_packages(experiments.__path__, "experiments."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print([name for name in flags.FLAGS.flags_by_module_dict() if name.startswith("experiments")])
"""


def run(
    *flags: str, code: str = JOB, profile: bool = True, **environment: str
) -> tuple[int, str, str]:
    (done,) = ended([start(["-c", code.replace("PROFILE", str(profile)), *flags], **environment)])
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


def test_help_lists_fields_with_the_values_of_the_configuration_and_flags():
    code, out, error = run("--config=configs/ilo/smollm2.py", "--help", "--config.k=7")
    assert (code, error) == (0, "")
    said = " ".join(out.split())
    assert "(default: 100; at least 0; below 2^31; 0 or 2 or more)" in said
    assert "--config.k: Neighbours of a point. (default: 7;" in said
    assert out.index("--config.seed") < out.index("  --workdir: ")


def test_half_given_flags_of_processes_are_refused():
    code, out, error = run("--distributed", "--process=0")
    assert (code, out) == (1, "")
    assert "or none; got no coordinator, processes" in error


def test_a_coordinator_that_is_not_there_is_one_line():
    address = f"127.0.0.1:{free_port()}"
    place = [f"--coordinator={address}", "--processes=2", "--process=1", "--patience=1"]
    code, out, error = run("--distributed", *place)
    assert (code, out) == (1, "")
    assert error.startswith(f"error: waited 1 s in vain for process 0 at {address} ([Errno 111]")
    assert error.count("\n") == 1


def test_a_job_that_leaves_no_trace_has_no_flag_for_it():
    code, _, error = run("--profile", profile=False)
    assert code == 1
    assert "Unknown command line flag 'profile'" in error
    assert run(profile=False)[:2] == (0, "5 in runs/job/sample, profile False\n")


def test_a_script_ends_with_its_status():
    assert run("--number=3", code=SCRIPT) == (3, "3\n", "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--number=1", "more", "yet"], "error: unknown arguments: more yet"),
        pytest.param([], "error: flag --number=None", marks=pytest.mark.slow),
        pytest.param(["--number=-1"], "error: flag --number=-1", marks=pytest.mark.slow),
    ],
)
def test_a_script_ends_with_one_line_where_its_flags_are_wrong(flags, message):
    code, out, error = run(*flags, code=SCRIPT)
    assert (code, out) == (1, "")
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_the_compiler_for_tpus_is_not_heard_and_does_not_catch_sigterm_where_there_is_no_tpu():
    pytest.importorskip("libtpu", reason="pip install -e '.[tpu]', on Linux x86-64")
    if os.environ.get("TPU_SKIP_MDS_QUERY") != "1":
        pytest.skip("there is a TPU")
    assert run(code=LIBTPU, JAX_PLATFORMS="") == (0, "cpu 0\n", "")


def test_all_modules_are_imported_together_and_define_no_flag():
    assert run(code=IMPORTS) == (0, "[]\n", "")
