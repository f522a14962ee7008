"""How fast a model speaks: this library and `transformers`, in one process and in turn.

    pip install -e '.[bench]'
    python -m experiments.bench.generate --model=FOLDER
    python -m experiments.bench.generate --model=FOLDER --batches=1,8 --said=64 --workdir=DIR

Both read the same random prompts and say as many tokens to each, greedily, in float32 on one device
(torch on the CPU); the table says how many rows differ, as they may where rounding breaks a tie.
Appends to times.csv in --workdir and prints the median of several rounds in tokens a second, the
peak of memory beyond the model in a process of its own, and the floor of the time, the larger of
two: the bytes of the weights, read once for each token, over the bandwidth measured by a sum of as
many; and the operations of all tokens over the rate measured by a large matrix product. No decoder
that multiplies with every weight once a token is faster.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import launch, tables
from experiments.bench import timing
from ilo_jax.generation.decoding import Decoder, generate
from ilo_jax.generation.requests import Request, prompts
from ilo_jax.generation.sampling import sampling
from ilo_jax.models import parameters
from ilo_jax.models.flops import forward_flops
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.models.hub.oracle import torch_model
from ilo_jax.sharding import make_mesh

FLAGS = flags.FLAGS

SPEAKERS = ("ours", "torch")
COLUMNS = (
    "batch speaker seconds cpu_seconds tokens_per_s times_torch floor_seconds of_floor memory_mib "
    "differing prompt said model device jax torch"
).split()
LARGE = 2048
"""Rows and columns of the matrices whose product says how fast the device multiplies."""

Speak = Callable[[], np.ndarray]
"""Gives the tokens that were said, "row token"."""


class Work(NamedTuple):
    """What is to be said."""

    folder: Folder
    tokens: np.ndarray
    """Of the prompts, "row token"."""
    said: int
    """How many tokens each row says."""


def work(folder: Folder, *, batch: int, prompt: int, said: int) -> Work:
    """Random prompts of one length."""
    tokens = np.random.default_rng(0).integers(3, folder.config.vocab, (batch, prompt))
    return Work(folder, tokens, said)


def ours(given: Work) -> Speak:
    """This library's decoder; compiled when it is called first."""
    model = loading.load(given.folder, mesh=make_mesh(data=1))
    assert model.mesh is not None
    decoder = Decoder(model.config, model.mesh, dtype=model.dtype)
    rows = len(given.tokens)
    keys = jax.random.split(jax.random.key(0), rows)
    asked = sampling(rows, maximum=given.said)
    request = Request(asked, keys, np.zeros(model.config.vocab, bool), {})
    read = prompts(given.tokens.tolist(), model.config.limits)
    weights = parameters.weights(model)

    def speak() -> np.ndarray:
        return generate(decoder, weights, read, request).tokens[:, : given.said]

    return speak


def by_torch(given: Work) -> Speak:
    """`transformers.generate`, with its cache."""
    import torch

    model = torch_model(given.folder, dtype="float32", head=True)
    tokens = torch.from_numpy(given.tokens)
    how: dict[str, Any] = {"max_new_tokens": given.said, "min_new_tokens": given.said}
    how |= {"do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(tokens)}

    def speak() -> np.ndarray:
        with torch.no_grad():
            return model.generate(tokens, **how)[:, tokens.shape[1] :].numpy()

    return speak


MAKE: dict[str, Callable[[Work], Speak]] = {"ours": ours, "torch": by_torch}


def bandwidth(size: int, *, rounds: int) -> float:
    """Bytes a second at which the device reads as many as there are of weights."""
    array = jnp.ones((-(-size // 2**20), 2**18), jnp.float32)
    total = jax.jit(jnp.sum)
    seconds = timing.alternating({"sum": lambda: total(array)}, rounds=rounds)["sum"].seconds
    return array.nbytes / seconds.wall


def product_rate(*, rounds: int) -> float:
    """Operations a second of a large float32 matrix product."""
    square = jnp.ones((LARGE, LARGE), jnp.float32)
    product = jax.jit(lambda one: jnp.matmul(one, one, precision=jax.lax.Precision.HIGHEST))
    calls = {"product": lambda: product(square)}
    return 2 * LARGE**3 / timing.alternating(calls, rounds=rounds)["product"].seconds.wall


def floor(given: Work, *, read: float, multiply: float) -> float:
    """Seconds below which nothing that multiplies with every weight comes.

    Args:
        given: What is to be said.
        read: Bytes a second.
        multiply: Operations a second.
    """
    config, (rows, prompt) = given.folder.config, given.tokens.shape
    like = parameters.shapes(parameters.abstract(config, dtype=jnp.float32))
    table = 0 if config.head.kind == "tied" else config.vocab * config.dim
    size = 4 * (sum(int(np.prod(one.shape)) for one in like.values()) - table)
    flops = rows * forward_flops(config, np.array([prompt + given.said - 1]))
    flops += 2 * rows * given.said * config.vocab * config.dim
    return max(given.said * size / read, flops / multiply)


def memory(name: str, batch: int) -> float:
    """The peak in MiB beyond the model, of a process that speaks once."""
    command = [sys.executable, "-m", "experiments.bench.generate", *sys.argv[1:]]
    command += [f"--only={name}", f"--batches={batch}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = timing.last_line(done.stderr)
        raise ChildProcessError(f"speaking by {name} in a process of its own failed: {said}")
    return round(int(done.stdout.splitlines()[-1]) / 2**20, 1)


def compare(given: Work, *, rounds: int, read: float, multiply: float) -> Iterator[dict[str, Any]]:
    """Yield a row of the table for each speaker."""
    speakers = {name: MAKE[name](given) for name in SPEAKERS}
    times = timing.alternating(speakers, rounds=rounds)
    least, count = floor(given, read=read, multiply=multiply), given.tokens.shape[0] * given.said
    theirs = times["torch"]
    for name, (seconds, said) in times.items():
        yield {
            "batch": len(given.tokens),
            "speaker": name,
            "seconds": round(seconds.wall, 3),
            "cpu_seconds": round(seconds.cpu, 3),
            "tokens_per_s": round(count / seconds.wall, 1),
            "times_torch": round(theirs.seconds.wall / seconds.wall, 2),
            "floor_seconds": round(least, 3),
            "of_floor": round(least / seconds.wall, 2),
            "memory_mib": memory(name, len(given.tokens)),
            "differing": int((said != theirs.result).any(axis=1).sum()),
            "prompt": given.tokens.shape[1],
            "said": given.said,
        }


def main() -> None:
    """Compare, or speak once where --only says so."""
    import torch

    folder = open_folder(Path(FLAGS.model))
    how = {"prompt": FLAGS.prompt, "said": FLAGS.said}
    works = [work(folder, batch=int(batch), **how) for batch in FLAGS.batches]
    if FLAGS.only:
        speak = MAKE[FLAGS.only](works[0])
        speak()
        print(timing.peak_beyond(speak)[1])
        return
    like = parameters.shapes(parameters.abstract(folder.config, dtype=jnp.float32)).values()
    size = 4 * sum(int(np.prod(one.shape)) for one in like)
    rates = {
        "read": bandwidth(size, rounds=FLAGS.rounds),
        "multiply": product_rate(rounds=FLAGS.rounds),
    }
    print(f"{rates['read'] / 1e9:.1f} GB/s read, {rates['multiply'] / 1e9:.0f} GFLOP/s multiplied")
    device = jax.devices()[0].device_kind
    named = {"model": folder.path.name, "device": device, "jax": jax.__version__}
    named["torch"] = torch.__version__
    rows = [row | named for one in works for row in compare(one, rounds=FLAGS.rounds, **rates)]
    print(tables.columns([COLUMNS, *([str(row[name]) for name in COLUMNS] for row in rows)]))
    tables.extend(Path(FLAGS.workdir) / "times.csv", COLUMNS, rows)


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "Folder of the model.", required=True)
    flags.DEFINE_list("batches", ["1", "8", "32"], "Rows of each batch.")
    flags.DEFINE_integer("prompt", 32, "Tokens of a prompt.", lower_bound=1)
    flags.DEFINE_integer("said", 128, "Tokens that each row says.", lower_bound=1)
    flags.DEFINE_integer("rounds", 5, "Rounds of each.", lower_bound=5)
    flags.DEFINE_string("workdir", "runs/bench_generate", "Folder of times.csv.")
    flags.DEFINE_enum("only", None, SPEAKERS, "Speak the first batch once, and print its memory.")
    launch.start(main)
