"""How fast ILO is found: this library, others, and the bare matrix products.

    pip install -e '.[bench]'
    python -m experiments.bench.ilo
    python -m experiments.bench.ilo --dims=4096 --searchers=exact,fast,products,paper,FAISS
    python -m experiments.bench.ilo --states=runs/ilo/sample/states/KEY --layers=0,6,12
    python -m experiments.bench.ilo --plot=bench/times.csv,bench/more.csv

All of them search in turn in one process, several rounds of it; then each once in a
process of its own, whose memory is watched. Of ours, every neighbour that is proven must
be the same in all of them, or the run fails; of all, some points are compared with
float64. Appends to times.csv in --workdir, draws times.png there and prints a table.
"""

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from absl import flags

from experiments import launch, pictures, tables
from experiments.bench import timing
from experiments.bench.rivals.searchers import FLOORS, SEARCHERS, Found, absent
from experiments.command_line import whole_numbers
from ilo_jax.activations.store import reopen_store
from ilo_jax.metrics import IloSettings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FLAGS = flags.FLAGS

Input = tuple[str, list[str], np.ndarray]
"""What to search: its name, the flags that make it, and the states."""

CHECKED = 512
COLUMNS = (
    "states points dim k searcher seconds cpu_seconds gflops of_floor memory_mib "
    "uncertain redone recall device jax"
).split()


def synthetic(lang: int, sent: int, dim: int, *, seed: int = 0) -> np.ndarray:
    """States "lang sent dim" as models have them.

    What a sentence means, the language, and noise, around a common direction that is
    longer than all of them: two states have a cosine of about 0.99.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    states = normal(lang, sent, dim) * np.float32(0.8)
    states += normal(1, sent, dim)
    states += normal(lang, 1, dim) * np.float32(0.7)
    states += normal(dim) * 15
    return states


def inputs() -> Iterator[Input]:
    """Yield what to search: its name, the flags that make it, and the states."""
    if FLAGS.states:
        store = reopen_store(FLAGS.states, [FLAGS.array])
        for layer in whole_numbers("layers", FLAGS.layers, least=0):
            given = [f"--states={FLAGS.states}", f"--array={FLAGS.array}", f"--layers={layer}"]
            yield f"state {layer}", given, store.read(FLAGS.array, layer)
        return
    for sent in whole_numbers("sent", FLAGS.sent, least=1):
        for dim in whole_numbers("dims", FLAGS.dims, least=1):
            given = [f"--lang={FLAGS.lang}", f"--sent={sent}", f"--dims={dim}"]
            yield "synthetic", given, synthetic(FLAGS.lang, sent, dim)


def truth(states: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """The k nearest by cosine of some points, all computed in float64."""
    points = states.reshape(-1, states.shape[-1]).astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points -= points.mean(axis=0)
    away = np.square(points).sum(axis=1) - 2 * points[rows] @ points.T
    away[np.arange(len(rows)), rows] = np.inf
    return np.argpartition(away, k, axis=1)[:, :k]


def recall(index: np.ndarray, true: np.ndarray) -> float:
    """The share of the true neighbours that are found."""
    return float((index[:, :, None] == true[:, None]).any(axis=1).mean())


def refuse_differences(found: dict[str, Found]) -> None:
    """Stop if two of ours prove different neighbours of a point.

    Raises:
        ValueError: Naming them.
    """
    proven = {name: each for name, each in found.items() if each.certain is not None}
    for first, second in zip(list(proven)[:-1], list(proven)[1:], strict=True):
        one, other = proven[first], proven[second]
        both = np.asarray(one.certain) & np.asarray(other.certain)
        differ = (np.sort(one.index, axis=1) != np.sort(other.index, axis=1)).any(axis=1) & both
        if differ.any():
            raise ValueError(f"{differ.sum()} points are proven differently: {first}, {second}")


def memory(name: str, given: list[str]) -> float:
    """The memory in MiB that a search takes beyond its input, in a process of its own."""
    command = [sys.executable, "-m", "experiments.bench.ilo", "--only", f"--k={FLAGS.k}"]
    command += [*given, f"--searchers={name}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(
            f"searching by {name} in a process of its own failed: {timing.last_line(done.stderr)}"
        )
    return round(int(done.stdout.splitlines()[-1]) / 2**20, 1)


def compare(label: str, given: list[str], states: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yield one row of the table for each searcher."""
    searches = {name: SEARCHERS[name](states, FLAGS.k) for name in FLAGS.searchers}
    times = timing.alternating(searches, rounds=FLAGS.rounds)
    found = {name: each.result for name, each in times.items() if name not in FLOORS}
    refuse_differences(found)
    points, dim = len(states.reshape(-1, states.shape[-1])), states.shape[-1]
    rows = np.random.default_rng(0).choice(points, min(CHECKED, points), replace=False)
    true = truth(states, rows, FLAGS.k)
    seconds = {name: each.seconds for name, each in times.items()}
    del searches, times
    for name, taken in seconds.items():
        each = found.get(name, Found(None))
        floor = seconds.get("products-bfloat16" if "fast" in name else "products")
        yield {
            "states": label,
            "points": points,
            "dim": dim,
            "k": FLAGS.k,
            "searcher": name,
            "seconds": round(taken.wall, 6),
            "cpu_seconds": round(taken.cpu, 6),
            "gflops": round(2 * points**2 * dim / taken.wall / 1e9, 1),
            "of_floor": round(floor.wall / taken.wall, 3) if floor else "",
            "memory_mib": memory(name, given) if FLAGS.memory and name in found else "",
            "uncertain": "" if each.certain is None else int((~np.asarray(each.certain)).sum()),
            "redone": "" if each.redone is None else int(np.asarray(each.redone).sum()),
            "recall": "" if each.index is None else str(recall(np.asarray(each.index)[rows], true)),
            "device": jax.devices()[0].device_kind,
            "jax": jax.__version__,
        }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as text in columns."""
    shown = COLUMNS[:-2]
    return tables.columns([shown, *([str(row[name]) for name in shown] for row in rows)])


def picture(rows: Sequence[tables.Row]) -> "Figure":
    """Draw seconds against points, at one dimension, and against dimensions, at one size."""
    figure = pictures.figure(11, 4.5)
    axes = figure.subplots(1, 2)
    for ax, (along, fixed) in zip(axes, (("points", "dim"), ("dim", "points")), strict=True):
        draw(ax, rows, along=along, fixed=fixed)
    axes[0].legend(fontsize=pictures.SMALL, frameon=False)
    return figure


def draw(ax: "Axes", rows: Sequence[tables.Row], *, along: str, fixed: str) -> None:
    """Draw the times of those searches between which only one size differs."""
    sizes = [int(row[fixed]) for row in rows]
    # Where most sizes of the other kind were measured.
    at = max(sizes, key=lambda size: len({r[along] for r in rows if int(r[fixed]) == size}))
    for name in dict.fromkeys(row["searcher"] for row in rows):
        mine = [r for r in rows if r["searcher"] == name and int(r[fixed]) == at]
        places = sorted((int(r[along]), float(r["seconds"])) for r in mine)
        floor = {"color": "black"} | pictures.CHANCE
        style = floor if name in FLOORS else pictures.MEASURED
        if places:
            ax.loglog(*zip(*places, strict=True), **style, label=name)
    ax.set(xlabel=along, ylabel="seconds")
    pictures.logarithmic(ax)
    pictures.label(ax, title=f"{fixed} = {at}", legend=False)
    ax.grid(which="both", alpha=0.2)


def main() -> None:
    """Compare, or do only what --only or --plot ask for."""
    if unknown := sorted({*FLAGS.searchers} - {*SEARCHERS}):
        raise ValueError(f"--searchers must be of {', '.join(SEARCHERS)}; got {unknown}")
    if FLAGS.only:
        search_once(FLAGS.searchers, list(inputs()))
        return
    workdir = Path(FLAGS.workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if FLAGS.plot:
        rows = plotted(FLAGS.plot)
        pictures.write(workdir / "times.png", partial(picture, rows))
        return
    for name in absent(FLAGS.searchers):
        print(f"without {name}, which is not installed: pip install -e '.[bench]'")
        FLAGS.searchers.remove(name)
    if not FLAGS.searchers:
        raise ValueError(f"--searchers must name one that is installed, of {', '.join(SEARCHERS)}")
    run(workdir)


def search_once(searchers: Sequence[str], given: Sequence[Input]) -> None:
    """Search once, and print what that took."""
    if len(searchers) != 1 or len(given) != 1:
        raise ValueError(
            "--only needs one searcher and one size or layer, got "
            f"{len(searchers)} of --searchers and {len(given)} inputs"
        )
    ((_, _, states),) = given
    seconds, beyond = timing.peak_beyond(SEARCHERS[searchers[0]](states, FLAGS.k))
    print(f"{seconds.wall:.1f} s, compiled in between; bytes beyond the input:\n{beyond}")


def plotted(files: Sequence[str]) -> list[tables.Row]:
    """The rows of tables that earlier runs left."""
    rows = [(file, row) for file in files for row in tables.read(Path(file))]
    wrong = sorted({file for file, row in rows if not {*COLUMNS} <= {*row}})
    if wrong or not rows:
        named = ", ".join(wrong or files)
        raise ValueError(f"--plot must name tables that this benchmark has left, got {named}")
    return [row for _, row in rows]


def run(workdir: Path) -> None:
    """Compare on all that is to be searched; leave table and picture in the run folder."""
    file = workdir / "times.csv"
    for label, given, states in inputs():
        try:
            rows = list(compare(label, given, states))
        except ValueError as error:
            raise ValueError(f"{label}, {states.shape}: {error}") from error
        print(table(rows), flush=True)
        tables.extend(file, COLUMNS, rows)
    pictures.write(workdir / "times.png", partial(picture, tables.read(file)))
    print(f"wrote times.csv and times.png in {workdir}")


if __name__ == "__main__":
    flags.DEFINE_integer("lang", 31, "Languages.", lower_bound=2)
    flags.DEFINE_list("sent", ["997"], "Sentences of each, one or more numbers.")
    flags.DEFINE_list("dims", ["64", "384", "1024", "4096"], "Dimensions.")
    flags.DEFINE_string("states", None, "A store, WORKDIR/states/KEY, to search instead.")
    flags.DEFINE_string("array", "residual_mean", "With --states: which array of the store.")
    flags.DEFINE_list("layers", ["0"], "With --states: which of its layers.")
    flags.DEFINE_integer("k", IloSettings.k, "Neighbours.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Of which the medians are taken.", lower_bound=1)
    flags.DEFINE_list("searchers", list(SEARCHERS), "Who takes part.")
    flags.DEFINE_bool("memory", True, "Whether to watch memory, in more processes.")
    flags.DEFINE_bool("only", False, "Search once, and say what it takes.")
    flags.DEFINE_string("workdir", "runs/bench_ilo", "Folder of the results.")
    flags.DEFINE_list("plot", [], "Only draw these tables, into --workdir.")
    launch.start(main)
