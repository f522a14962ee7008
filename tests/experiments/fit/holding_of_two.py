"""One of two processes that begin a fine-tuning together: what its devices hold then.

    python holding_of_two.py PROCESS PORT CONFIG WORKDIR

Prints a JSON object for each of its four devices, with bytes of weights and of optimizer state.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax

from experiments.finetune.config import Config
from experiments.finetune.learner import language_learner
from experiments.finetune.setting import prepare
from ilo_jax.training.step import begin


def held(arrays: Any, device: Any) -> int:
    """Bytes of arrays that lie on a device."""
    shards = [shard for array in jax.tree.leaves(arrays) for shard in array.addressable_shards]
    return sum(shard.data.nbytes for shard in shards if shard.device == device)


def main() -> None:
    """Join the other process, read the model, and make the state before the first step."""
    process, port = int(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_num_cpu_devices", 4)
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=process)
    config = Config(**json.loads(Path(sys.argv[3]).read_text()))
    setting = prepare(config)
    learner = language_learner(config, setting, Path(sys.argv[4]))
    start = learner.start()
    state = begin(learner.optimizer, start.trainable, setting.mesh)
    found = [
        {
            "weights": held((state.weights, start.frozen), device),
            "optimizer state": held((state.step, state.moments), device),
        }
        for device in jax.local_devices()
    ]
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
