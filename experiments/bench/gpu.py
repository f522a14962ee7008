"""All that waits for a GPU: one benchmark after the other, each in a process of its own.

    pip install -e '.[bench,cuda,sample]'
    python -m experiments.bench.gpu --model=.smollm2/SmolLM2-135M-Instruct
    python -m experiments.bench.gpu --model=FOLDER --tiny

Neighbours at the paper's size, by this library, torch and the paper's algorithm; extraction of a
random Llama-3.1-8B in bfloat16; a step of fine-tuning a decoder, full, frozen and with states kept;
and the memory that compilers count beside what the device says. What a benchmark printed is in
WORKDIR/NAME.txt. One that fails, or takes longer than --timeout, says why, and the next one begins;
started again, only those run that have not ended well. WORKDIR/results.json has every row that was
measured, with date, device and versions; what was asked for is printed beside what came out. Exit
status: 0 if all ended well. --tiny runs the same list on any machine, to see that it works.
"""

import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from experiments import launch, tables
from experiments.bench.timing import last_line
from experiments.provenance import versions
from ilo_jax.chips import chip_of
from ilo_jax.files import write_text

FLAGS = flags.FLAGS

STATES = 33
"""Hidden states of Llama-3.1-8B, of which the kernel is timed with one."""

Row = Mapping[str, str]
Answer = tuple[str, str, str]
"""What was measured, what came out, and what was asked for."""


class Benchmark(NamedTuple):
    """One benchmark, and how it is asked."""

    name: str
    module: str
    """Of `experiments.bench`."""
    full: str
    """Its flags."""
    tiny: str
    """Those that take seconds on any machine."""
    answers: Callable[[Row], Iterator[Answer]]
    """What a row of its times.csv says."""

    def command(self, model: str, workdir: Path, *, tiny: bool) -> list[str]:
        """The command line.

        Args:
            model: Folder of a decoder, for MODEL.
            workdir: Of all benchmarks.
            tiny: Whether to do as little as shows that it works.
        """
        asked = (self.tiny if tiny else self.full).replace("MODEL", model).split()
        folder = f"--workdir={workdir / self.name}"
        return [sys.executable, "-m", f"experiments.bench.{self.module}", *asked, folder]


def of_peak(row: Row, gflops: str) -> str:
    """The share of the device's bfloat16 peak; "" where nobody knows that."""
    chip = chip_of(row["device"])
    return f"{float(gflops) * 1e9 / chip.bfloat16:.0%}" if chip else ""


def of_kernel(row: Row) -> Iterator[Answer]:
    """Yield how long the neighbours of all hidden states take."""
    name, fast = row["searcher"], row["searcher"] == "fast"
    seconds = f"{STATES * float(row['seconds']):.3g} s"
    yield f"{name}: {STATES} hidden states", seconds, "1.5 s" if fast else ""
    yield f"{name}: of the bare products", row["of_floor"], "0.5" if fast else ""
    yield f"{name}: of the bfloat16 peak", of_peak(row, row["gflops"]), ""


def of_extraction(row: Row) -> Iterator[Answer]:
    """Yield how fast states are extracted."""
    name, ours = row["searcher"], row["searcher"] == "ours"
    yield f"{name}: tokens/s", row["tokens_per_s"], ""
    yield f"{name}: of the bfloat16 peak", of_peak(row, row["gflops"]), "50%" if ours else ""
    if ours:
        yield f"{name}: compiled before the first batch", f"{row['compile_seconds']} s", "60 s"


def of_step(row: Row) -> Iterator[Answer]:
    """Yield how long a step of fine-tuning takes."""
    yield f"{row['variant']}: a step", f"{row['seconds']} s", ""
    yield f"{row['variant']}: of the full step's time", row["ratio"], row["floor"]


def of_memory(row: Row) -> Iterator[Answer]:
    """Yield what a program takes of the device's memory, beside what its compiler says."""
    yield f"{row['what']}: memory", f"{row['device_mib']} MiB", f"{row['compiler_mib']} MiB"


BENCHMARKS = (
    Benchmark(
        "kernel",
        "ilo",
        "--dims=4096 --nomemory --searchers=exact,fast,products,products-bfloat16,torch,paper",
        "--dims=32 --lang=4 --sent=16 --rounds=1 --nomemory --searchers=exact,fast,"
        "products,products-bfloat16,torch,paper",
        of_kernel,
    ),
    Benchmark(
        "extraction",
        "extract",
        "--random=llama8b --rounds=3",
        "--model=MODEL --sentences=1 --languages=eng_Latn,deu_Latn --rounds=1 --torch_batch=2",
        of_extraction,
    ),
    Benchmark(
        "step",
        "freezing",
        "--model=MODEL --dtype=bfloat16 --rows=8",
        "--model=MODEL --blocks=1 --row_length=32 --rounds=1",
        of_step,
    ),
    Benchmark(
        "memory-extraction",
        "memory",
        "--model=MODEL --what=extraction --dtype=bfloat16 --rows=32",
        "--model=MODEL --what=extraction --rows=1 --row_length=32",
        of_memory,
    ),
    Benchmark(
        "memory-training",
        "memory",
        "--model=MODEL --what=training --dtype=bfloat16",
        "--model=MODEL --what=training --rows=1 --row_length=32",
        of_memory,
    ),
)


def run(command: Sequence[str], workdir: Path, *, name: str, timeout: float) -> dict[str, Any]:
    """Run a benchmark to its end, however that is, and give what is to be kept of it."""
    shutil.rmtree(workdir / name, ignore_errors=True)
    begun, text = time.perf_counter(), workdir / f"{name}.txt"
    with text.open("w") as stream:
        try:
            done = subprocess.run(command, stdout=stream, stderr=stream, timeout=timeout)
            failure = f"status {done.returncode}" if done.returncode else ""
        except subprocess.TimeoutExpired:
            failure = f"longer than {timeout:g} s"
    said = last_line(text.read_text(errors="replace"))
    times = workdir / name / "times.csv"
    return {
        "command": shown(command),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 1),
        "failure": failure and f"{failure}: {said}",
        "versions": versions(),
        "host": platform.platform(),
        "rows": tables.read(times) if times.is_file() else [],
    }


def shown(command: Sequence[str]) -> str:
    """A command line as one types it."""
    return " ".join(["python", *command[1:]])


def done(result: Mapping[str, Any] | None, command: Sequence[str]) -> bool:
    """Whether this command has been run and ended well."""
    return bool(result) and result["command"] == shown(command) and not result["failure"]


def run_all(
    commands: Mapping[str, Sequence[str]], workdir: Path, *, timeout: float
) -> dict[str, dict[str, Any]]:
    """Run all benchmarks that have not ended well before, and keep what each gave at once."""
    file = workdir / "results.json"
    before = json.loads(file.read_text()) if file.is_file() else {}
    results = {name: before[name] for name in commands if name in before}
    for name, command in commands.items():
        if done(results.get(name), command):
            print(f"{name}: as it was on {results[name]['date']}")
            continue
        print(f"{name}: {shown(command)}", flush=True)
        results[name] = run(command, workdir, name=name, timeout=timeout)
        write_text(file, json.dumps(before | results, indent=2))
        print(results[name]["failure"] or f"{results[name]['seconds']} s", flush=True)
    return results


def answered(results: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    """Yield what every benchmark gave, as far as it is known, beside what was asked for."""
    for each in BENCHMARKS:
        for row in results[each.name]["rows"]:
            yield from ((each.name, *answer) for answer in each.answers(row) if answer[1])


def devices(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """Which devices have computed."""
    return sorted({row["device"] for result in results for row in result["rows"]})


def main() -> int:
    """Run all that is left, and return 0 if all has ended well."""
    workdir = Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    commands = {b.name: b.command(FLAGS.model, workdir, tiny=FLAGS.tiny) for b in BENCHMARKS}
    results = run_all(commands, workdir, timeout=FLAGS.timeout)
    print(tables.columns([("benchmark", "what", "measured", "asked for"), *answered(results)]))
    on = ", ".join(devices(results.values())) or "nothing"
    print(f"on {on}; all of it is in {workdir / 'results.json'}")
    return 1 if any(result["failure"] for result in results.values()) else 0


if __name__ == "__main__":
    flags.DEFINE_string("model", ".smollm2/SmolLM2-135M-Instruct", "Folder of a decoder.")
    flags.DEFINE_bool("tiny", False, "Do as little as shows that it works.")
    flags.DEFINE_float("timeout", 540, "Seconds that each may take.", lower_bound=1)
    flags.DEFINE_string("workdir", "runs/bench_gpu", "Folder of the results.")
    launch.start(main)
