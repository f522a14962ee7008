"""How fast pooled hidden states are extracted: this library, torch, and the bare products.

    pip install -e '.[bench]'
    python -m experiments.bench.extract
    python -m experiments.bench.extract --model=FOLDER --corpus=FOLDER --split=devtest
    python -m experiments.bench.extract --random=llama8b --corpus=FOLDER

All of them extract in turn in one process, several rounds of it, on one device and the
same token ids: ours into a new store each time (compiled before the time is taken; how
long that took is told apart), its forward alone, the bare matrix products of that,
`transformers` one sentence at a time as in the paper's code, and `transformers` in
sorted and padded batches of the best size. Every vector must be the same as in the
paper's way, or the run fails. Appends to times.csv in --workdir and prints a table, where
times_paper is how many times as fast as the paper's way, and of_products the share of the
time that the bare products take. With several devices, only the first is used.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from experiments import launch, tables
from experiments.bench import timing
from experiments.bench.rivals import extractors, torch_extractors
from experiments.bench.rivals.extractors import Found, Search
from experiments.bench.rivals.work import RANDOM, Work, prepare
from experiments.bench.timing import Timed
from experiments.settings import Source
from ilo_jax.models.flops import forward_flops

FLAGS = flags.FLAGS

TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}
"""Largest difference from the reference, as a share of a vector's norm."""
REFERENCE = "paper"
SEARCHERS: dict[str, Callable[[Work], Search]] = {
    "ours": extractors.ours,
    "ours-forward": extractors.forward,
    "products": extractors.products,
    "paper": torch_extractors.paper,
    "torch": torch_extractors.best,
}
SHOWN = (
    "searcher batch seconds cpu_seconds compile_seconds tokens_per_s gflops padding times_paper "
    "times_torch of_products memory_mib difference"
).split()
COLUMNS = ["model", *SHOWN, *"sentences tokens dtype device torch_device jax torch".split()]


def measured(searches: Mapping[str, Search], *, rounds: int) -> dict[str, Timed]:
    """The median times of searches that take turns, compiling left out."""
    spent = {name: [] for name in searches}

    def search(name: str) -> Found:
        found = searches[name]()
        spent[name].append(found.seconds)
        return found

    times = timing.alternating({n: partial(search, n) for n in searches}, rounds=rounds)
    return {
        name: each._replace(seconds=timing.medians(spent[name][1:]))
        if each.result.seconds
        else each
        for name, each in times.items()
    }


def difference(vectors: np.ndarray, reference: np.ndarray) -> float:
    """The largest norm of a difference over that of the reference; infinite for NaN."""
    away = np.linalg.norm(vectors - reference, axis=-1) / np.linalg.norm(reference, axis=-1)
    return float(away.max()) if np.isfinite(away).all() else np.inf


def differences(found: Mapping[str, Found], dtype: str) -> dict[str, float]:
    """How far everyone's vectors are from those of the paper's way, or of the first.

    Raises:
        ValueError: Naming those who are too far from it.
    """
    vectors = {name: each.vectors() for name, each in found.items() if each.vectors}
    first = REFERENCE if REFERENCE in vectors else next(iter(vectors), "")
    away = {name: difference(each, vectors[first]) for name, each in vectors.items()}
    if far := {name: f"{each:.1e}" for name, each in away.items() if each > TOLERANCE[dtype]}:
        raise ValueError(
            f"vectors of {dtype} may differ by {TOLERANCE[dtype]:g} from those of {first}; "
            f"largest relative differences: {far}"
        )
    return away


def memory(name: str, batch: str) -> float:
    """The memory in MiB that a search takes beyond its input, in a process of its own."""
    given = [*sys.argv[1:], f"--only={name}"]
    given += [f"--torch_batch={batch.split()[0]}"] if name == "torch" else []
    command = [sys.executable, "-m", "experiments.bench.extract", *given]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(
            f"extracting by {name} in a process of its own failed: {timing.last_line(done.stderr)}"
        )
    return round(int(done.stdout.splitlines()[-1]) / 2**20, 1)


def compare(work: Work, searchers: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield one row of the table for each searcher."""
    searches = {name: SEARCHERS[name](work) for name in searchers}
    times = measured(searches, rounds=FLAGS.rounds)
    away = differences({name: each.result for name, each in times.items()}, work.dtype)
    tokens, flops = int(work.lengths.sum()), forward_flops(work.model.config, work.lengths)
    for name, (seconds, found) in times.items():
        times_as_fast = {
            other: float(f"{timed.seconds.wall / seconds.wall:.4g}")
            for other, timed in times.items()
        }
        yield {
            "model": work.name,
            "searcher": name,
            "batch": found.batch,
            "seconds": round(seconds.wall, 6),
            "cpu_seconds": round(seconds.cpu, 6),
            "compile_seconds": found.compile_seconds and round(found.compile_seconds, 2),
            "tokens_per_s": round(tokens / seconds.wall),
            "gflops": round(flops / seconds.wall / 1e9, 1),
            "padding": round(found.padding, 4),
            "times_paper": times_as_fast.get("paper"),
            "times_torch": times_as_fast.get("torch"),
            "of_products": times_as_fast.get("products"),
            "memory_mib": memory(name, found.batch) if FLAGS.memory else None,
            "difference": f"{away[name]:.1e}" if name in away else None,
            "sentences": len(work.lengths),
            "tokens": tokens,
            "dtype": work.dtype,
            **surroundings(),
        }


def surroundings() -> dict[str, str]:
    """The devices and versions that computed."""
    import torch

    on_gpu = torch.cuda.is_available()
    return {
        "device": jax.devices()[0].device_kind,
        "torch_device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "jax": jax.__version__,
        "torch": torch.__version__,
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as text in columns, those of which there is anything."""
    rows = list(rows)
    shown = [name for name in SHOWN if any(row[name] is not None for row in rows)]
    cells = ([row[name] for name in shown] for row in rows)
    return tables.columns([
        shown,
        *(["" if cell is None else str(cell) for cell in row] for row in cells),
    ])


def problems() -> list[str]:
    """What is wrong with the flags taken together."""
    found = []
    for name, given in {"searchers": FLAGS.searchers, "only": [FLAGS.only or "ours"]}.items():
        if unknown := sorted({*given} - {*SEARCHERS}):
            found.append(f"--{name} must be of {', '.join(SEARCHERS)}; got {unknown}")
    if not FLAGS.searchers:
        found.append("--searchers must name one at least, got none")
    if FLAGS.random and FLAGS["model"].present:
        found.append("either --model or --random must be given, got both")
    if FLAGS.memory and jax.default_backend() != "cpu":
        found.append("--memory needs the CPU: torch and JAX share the memory of a GPU")
    return found


def run(scratch: Path) -> None:
    """Compare, or do only what --only asks for."""
    asked = {"languages": FLAGS.languages, "sentences": FLAGS.sentences, "split": FLAGS.split}
    of = {"model": FLAGS.model, "corpus": FLAGS.corpus, "batch_tokens": FLAGS.batch_tokens}
    work = prepare(
        Source(**of, **asked),
        random=FLAGS.random,
        dtype=FLAGS.dtype or ("bfloat16" if FLAGS.random else "float32"),
        torch_batch=FLAGS.torch_batch,
        scratch=scratch,
    )
    threads = torch_extractors.use_all_cores()
    if FLAGS.only:
        seconds, beyond = timing.peak_beyond(SEARCHERS[FLAGS.only](work))
        print(f"{seconds.wall:.1f} s, compiled in between; bytes beyond the input:\n{beyond}")
        return
    size = f"{len(work.lengths)} sentences, {work.lengths.sum()} tokens"
    print(f"{work.name} in {work.dtype}: {size}; {threads} torch threads")
    rows = list(compare(work, FLAGS.searchers))
    print(table(rows))
    file = Path(FLAGS.workdir) / "times.csv"
    tables.extend(file, COLUMNS, rows)
    print(f"added to {file}")


def main() -> None:
    """Compare as the flags say."""
    # Of a GPU that both use, JAX would keep three quarters.
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    if found := problems():
        raise ValueError("; ".join(found))
    Path(FLAGS.workdir).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FLAGS.workdir) as scratch:
        run(Path(scratch))


if __name__ == "__main__":
    flags.DEFINE_string("model", "sample", "A folder, a hub id, or sample: e5-small.")
    flags.DEFINE_enum("random", None, list(RANDOM), "A shape with random weights instead.")
    flags.DEFINE_string("corpus", "sample", "A folder or table of aligned sentences, or sample.")
    flags.DEFINE_string("split", "", "Of FLORES-200, dev or devtest.")
    flags.DEFINE_string("languages", "paper", "Codes, or paper: its 31; empty: all.")
    flags.DEFINE_integer("sentences", 20, "Of each language; 0: all.", lower_bound=0)
    flags.DEFINE_enum("dtype", None, list(TOLERANCE), "Default float32; with --random bfloat16.")
    flags.DEFINE_integer("batch_tokens", 0, "Of ours; 0: as suits.", 0, 2**31 - 1)
    flags.DEFINE_integer("torch_batch", 0, "Sentences; 0: the best size.", lower_bound=0)
    flags.DEFINE_integer("rounds", 5, "Of which the medians are taken.", lower_bound=1)
    flags.DEFINE_list("searchers", list(SEARCHERS), "Who takes part.")
    flags.DEFINE_bool("memory", False, "Whether to watch memory, in more processes.")
    flags.DEFINE_string("only", None, "Extract once this way, and say what it takes.")
    flags.DEFINE_string("workdir", "runs/bench_extract", "Folder of the results.")
    launch.start(main)
