"""One of two processes that train together: the losses of each step, and the weights after them.

    python train_of_two.py PROCESS PORT FOLDER TEXT SETTINGS OUTPUT

Prints one JSON object of losses by what is frozen; the weights that train go to OUTPUT.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ilo_jax.corpora.packing import Sentences
from ilo_jax.models import parameters
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import open_folder
from ilo_jax.sharding import make_mesh, replicated
from ilo_jax.training import freezing
from ilo_jax.training.kept_states import compute_kept_states
from ilo_jax.training.language import Batch, next_token
from ilo_jax.training.optimizers import adamw, warmup_cosine
from ilo_jax.training.order import Order, Text, place_rows
from ilo_jax.training.step import begin, make_step


def learn(
    folder: Path, text: Text, order: Order, mesh: Mesh, settings: dict[str, Any], *, file: Path
) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses and the weights; states of frozen blocks, if there are, go to a file."""
    model = loading.load(open_folder(folder), mesh=mesh, fsdp=settings["fsdp"])
    weights = parameters.weights(model)
    rules = freezing.read_rules(settings["freeze"], model.config)
    mask = freezing.frozen_mask(weights, rules)
    lowest = freezing.lowest_block(model.config, mask)
    kept = lowest and compute_kept_states(
        model.config, weights, text, order, mesh, blocks=lowest, dtype="float32", file=file
    )
    trainable, frozen = freezing.split(weights, mask)
    optimizer = adamw(warmup_cosine(**settings["schedule"]), **settings["adamw"])
    state = begin(optimizer, trainable, mesh)
    loss = next_token(model.config, mesh, dtype=jnp.float32, lowest=lowest, fsdp=settings["fsdp"])
    step = make_step(loss, optimizer, like=state, mesh=mesh)
    key = jax.random.key(0)
    losses = []
    for number in range(settings["steps"]):
        states = kept.at(order, number, mesh) if kept else None
        batch = Batch(place_rows(text, order, number, mesh), states)
        state, measures = step(state, frozen, batch, key)
        losses.append(float(measures.loss))
    whole = jax.jit(lambda weights: weights, out_shardings=replicated(mesh))(state.weights)
    return losses, {path: np.asarray(weight) for path, weight in whole.items()}


def main() -> None:
    """Join the other process, and train with nothing and with a block frozen."""
    process, port = int(sys.argv[1]), sys.argv[2]
    folder, source, output = (Path(sys.argv[i]) for i in (3, 4, 6))
    settings = json.loads(sys.argv[5])
    jax.config.update("jax_num_cpu_devices", 2)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    with np.load(source) as arrays:
        sentences = Sentences(*(arrays[name] for name in Sentences._fields))
        text = Text(sentences, arrays["planned"], settings["row_length"])
    order = Order(*settings["order"])
    losses, weights = {}, {}
    # Weights whole on every device, and split over those of both processes.
    for freeze, data, split in (("paper:1", 4, 1), ("none", 2, 2)):
        own = settings | {"freeze": freeze, "fsdp": freeze == "none"}
        mesh, file = make_mesh(data=data, model=split), output.with_suffix(".bin")
        losses[freeze], found = learn(folder, text, order, mesh, own, file=file)
        weights |= {f"{freeze} {path}": weight for path, weight in found.items()}
    np.savez(output, **weights)
    sys.stdout.write("\n" + json.dumps(losses) + "\n")


if __name__ == "__main__":
    main()
