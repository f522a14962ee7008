"""One of two processes that search together: what it finds, and the bytes that cross.

    python half_of_two.py PROCESS PORT OUTPUT

Prints one JSON object of the bytes that all devices together receive in one search; what was found
goes to OUTPUT.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ilo_jax.metrics import ilo, nearest
from ilo_jax.sharding import along_data, make_mesh, replicated

LANG, SENT, DIM, K = 8, 504, 256, 5
SPREAD = np.exp(-np.arange(DIM) / 4)
SEARCHES = 3


def sentence(language: int, number: int) -> np.ndarray:
    """Those of the last language are so close that bfloat16 cannot tell all of them apart."""
    state = np.random.default_rng([language, number]).standard_normal(DIM) * SPREAD
    return 1 + state * (0.02 if language == LANG - 1 else 1)


def states(index: Any) -> np.ndarray:
    """Some sentences of some languages; nothing is made of the others."""
    languages, numbers = index[0].indices(LANG), index[1].indices(SENT)
    rows = [[sentence(i, j) for j in range(*numbers)] for i in range(*languages)]
    return np.array(rows, np.float32)


def points(index: Any) -> np.ndarray:
    """The same in one row, language after language."""
    places = range(*index[0].indices(LANG * SENT))
    return np.array([sentence(*divmod(place, SENT)) for place in places], np.float32)


def received() -> int:
    """Bytes over the loopback, since it is up."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    fields = next(line.split(":")[1] for line in lines if line.strip().startswith("lo:"))
    return int(fields.split()[0])


def bytes_of(search: Callable[[], Any]) -> int:
    """Bytes that cross in one search, begun and ended by both processes together."""
    multihost_utils.sync_global_devices("begun")
    before = received()
    jax.block_until_ready(search())
    multihost_utils.sync_global_devices("ended")
    return received() - before


def main() -> None:
    """Join the other process, and search on a mesh over both."""
    process, port, output = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    mesh = make_mesh(data=8)
    whole = jax.jit(lambda x: x, out_shardings=replicated(mesh))
    along_point = along_data(mesh), (LANG * SENT, DIM), points
    along_sent = along_data(mesh, axis=1), (LANG, SENT, DIM), states
    by_point, by_sent = (
        jax.make_array_from_callback(shape, sharding, make)
        for sharding, shape, make in (along_point, along_sent)
    )
    found, crossed = {}, {}
    for precision in ("exact", "fast"):
        search = partial(nearest, by_point, k=K, mesh=mesh, precision=precision)
        neighbors = jax.block_until_ready(search())
        # The least of several: others may use the loopback now and then.
        crossed[precision] = min(bytes_of(search) for _ in range(SEARCHES))
        for name, value in neighbors._asdict().items():
            found[f"{precision} {name}"] = np.asarray(whole(value))
    for name, value in ilo(by_sent, k=K, mesh=mesh, precision="fast")._asdict().items():
        found[f"score {name}"] = np.asarray(whole(value))
    np.savez(output, **found)
    sys.stdout.write("\n" + json.dumps(crossed) + "\n")


if __name__ == "__main__":
    main()
