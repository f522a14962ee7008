"""One of two processes that say something together.

    python saying_of_two.py PROCESS PORT FOLDER TEXTS

Prints the tokens of each row, as JSON.
"""

import json
import sys
from pathlib import Path

import jax

from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh
from tests.generation.test_decoding import asked, decoder_of, say


def main() -> None:
    """Join the other process, and say it on a mesh over both."""
    process, port, folder, texts = sys.argv[1:]
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(process))
    model = loading.load(open_folder(Path(folder)), mesh=make_mesh(data=2, model=4))
    read = json.loads(texts)
    said = say(model, read, asked(model, [*range(len(read))]), decoder_of(model))
    rows = zip(said.tokens, said.lengths, strict=True)
    sys.stdout.write("\n" + json.dumps([row[:count].tolist() for row, count in rows]) + "\n")


if __name__ == "__main__":
    main()
