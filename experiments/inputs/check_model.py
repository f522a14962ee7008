"""Is a checkpoint safe to use? What it is made of, and whether we compute what torch computes.

    python -m experiments.inputs.check_model --model=sample
    python -m experiments.inputs.check_model --model=FOLDER_OR_ID
    python -m experiments.inputs.check_model --model=FOLDER_OR_ID --mesh=2x4 --fsdp

Prints the family, the mechanisms, the parameters and the memory that the weights take
on each device of a mesh (which need not be there), and, where torch is installed,
compares every hidden state and the logits with `transformers`, on a sentence in several
languages. Exit status: 0 if they agree, 1 if not or if the model cannot be read, 3 if
torch is not there to compare with. Both models are held in float32, one after the other.
"""

import importlib.util
import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx
from jax.sharding import AbstractMesh, AxisType
from jaxtyping import Float

from experiments import launch
from ilo_jax.activations.store import DTYPES
from ilo_jax.corpora import parallel
from ilo_jax.corpora.limits import refuse_unfit
from ilo_jax.corpora.packing import Rows, as_sentences, fill, plan
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.describe import describe
from ilo_jax.models.hub import loading
from ilo_jax.models.hub.folder import Folder, open_folder
from ilo_jax.models.hub.oracle import torch_model
from ilo_jax.models.sites import reading
from ilo_jax.models.transformer import Transformer
from ilo_jax.sharding import make_mesh, unsplit

FLAGS = flags.FLAGS

LANGUAGES = ("eng_Latn", "zho_Hans", "urd_Arab", "hin_Deva", "rus_Cyrl", "swh_Latn")
DISAGREE, NOT_COMPARED = 1, 3


class States(NamedTuple):
    """What a model makes of one sentence."""

    hidden: list[Float[np.ndarray, "seq dim"]]
    logits: Float[np.ndarray, "seq vocab"] | None


def parse_mesh(text: str) -> AbstractMesh:
    """The mesh "DATAxMODEL", of devices that need not be there.

    Raises:
        ValueError: If it is not of that form.
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not match:
        raise ValueError(f"mesh must be DATAxMODEL such as 2x4, got {text!r}")
    sizes = int(match[1]), int(match[2])
    return AbstractMesh(sizes, ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def memory(config: ModelConfig, mesh: AbstractMesh, *, fsdp: bool, dtype: str) -> tuple[int, int]:
    """The parameters of a model, and the bytes of them on each device."""
    model = parameters.abstract(config, dtype=jnp.dtype(dtype))
    lies = parameters.shardings(model, mesh, fsdp=fsdp)
    shapes = {path: like.shape for path, like in parameters.shapes(model).items()}
    held = sum(math.prod(lies[path].shard_shape(shape)) for path, shape in shapes.items())
    return sum(map(math.prod, shapes.values())), held * jnp.dtype(dtype).itemsize


def summary(folder: Folder, *, mesh: str, fsdp: bool, dtype: str) -> str:
    """What a model is made of, one mechanism a line.

    Args:
        folder: Of the model.
        mesh: "DATAxMODEL", for the memory.
        fsdp: Whether weights are also split over data.
        dtype: Of the weights.

    Raises:
        ValueError: If the mesh is malformed.
    """
    raw, config = folder.raw, folder.config
    devices = parse_mesh(mesh)
    count, held = memory(config, devices, fsdp=fsdp, dtype=dtype)
    lines = {"family": f"{raw['model_type']}, {' '.join(raw.get('architectures') or ['?'])}"}
    lines |= describe(config)
    lines["parameters"] = f"{count:,}"
    lines["memory"] = f"{held / 2**20:,.1f} MiB of {dtype} weights on each device of a "
    lines["memory"] += f"{mesh} mesh (data x model){' with FSDP' if fsdp else ''}"
    if whole := unsplit(devices, config.axis_counts):
        named = ", ".join(f"{axis} ({n})" for axis, n in whole.items())
        lines["not split"] = f"{named}: no multiple of {devices.shape['model']}"
        lines["not split"] += "; vocab matrices are split along dim" if "vocab" in whole else ""
    return "\n".join(f"{name:<11} {line}" for name, line in lines.items())


def sentences(folder: Folder) -> list[list[int]]:
    """Token ids of a sentence in several languages; random ones without a tokenizer.

    Raises:
        ValueError: If the model has too few positions for a sentence, or no embedding for an id.
    """
    limits = folder.config.limits
    if not folder.has_tokenizer:
        print(f"no tokenizer in {folder.path}: comparing on random tokens")
        rng, most = np.random.default_rng(0), limits.positions or 48
        allowed = np.setdiff1d(np.arange(2, limits.vocab), [limits.padding or 0])
        return [rng.choice(allowed, min(n, most)).tolist() for n in (48, 31, 5)]
    corpus = parallel.sample()
    texts = [corpus.sentences[corpus.languages.index(code)][0] for code in LANGUAGES]
    ids = folder.tokenizer(texts)["input_ids"]
    refuse_unfit(as_sentences(ids), limits, name=LANGUAGES.__getitem__)
    return ids


def by_torch(folder: Folder, ids: Sequence[Sequence[int]]) -> list[States]:
    """What `transformers` makes of each sentence, alone."""
    import torch

    head = folder.config.head.kind != "none"
    model = torch_model(folder, dtype="float32", head=head, attention="eager")
    found = []
    with torch.no_grad():
        for sentence in ids:
            output = model(torch.tensor([sentence]), output_hidden_states=True)
            logits = output.logits[0].numpy() if head else None
            found.append(States([state[0].numpy() for state in output.hidden_states], logits))
    return found


@nnx.jit
def _forward(model: Transformer, rows: Rows) -> tuple[list[jax.Array], jax.Array | None]:
    final, shown = model.run(rows, visit=reading(model.config, "residual"))
    return list(shown.values()), None if model.head is None else model.logits(final)


def by_us(folder: Folder, ids: Sequence[Sequence[int]]) -> list[States]:
    """What our model makes of each sentence, all of them packed."""
    model = loading.load(folder, mesh=make_mesh(data=1))
    packed, length = as_sentences(ids), max(map(len, ids))
    planned = plan(packed.lengths, row_length=length)
    rows = fill(packed, planned, row_length=length)
    hidden, logits = jax.device_get(_forward(model, jax.tree.map(jnp.asarray, rows)))
    found = []
    for number in range(len(ids)):
        row, segment = map(int, np.argwhere(planned == number)[0])
        where = rows.segments[row] == segment + 1
        scores = None if logits is None else logits[row][where]
        found.append(States([state[row][where] for state in hidden], scores))
    return found


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The norm of the difference over that of the reference; infinite for NaN."""
    ratio = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return ratio if math.isfinite(ratio) else math.inf


def compare(ours: list[States], theirs: list[States]) -> dict[str, float]:
    """The largest relative difference of each hidden state, and of the logits.

    Where transformers gives the last state after a projection (OPT-350m), ours is the
    one before; the logits are compared all the same.
    """
    worst: dict[str, float] = {}
    for us, them in zip(ours, theirs, strict=True):
        pairs = {
            f"state {i}": pair for i, pair in enumerate(zip(us.hidden, them.hidden, strict=True))
        }
        if us.logits is not None and them.logits is not None:
            pairs["logits"] = us.logits, them.logits
        for name, (a, b) in pairs.items():
            if a.shape == b.shape:
                worst[name] = max(worst.get(name, 0.0), difference(a, b))
    return worst


def check(folder: Folder, *, tolerance: float) -> int:
    """Compare with `transformers`, print what is found and return the exit status.

    Args:
        folder: Of the model.
        tolerance: Of the norm of a sentence's hidden state.

    Raises:
        OSError: If a file is absent.
        ValueError: If the model is not one that we read.
    """
    if importlib.util.find_spec("torch") is None:
        print("not compared: torch is not installed")
        return NOT_COMPARED
    ids = sentences(folder)
    # Ours first: it names what is wrong with a checkpoint, where transformers may break.
    ours = by_us(folder, ids)
    worst = compare(ours, by_torch(folder, ids))
    name = max(worst, key=lambda n: worst[n])
    agree = worst[name] <= tolerance
    print(
        f"{'agrees' if agree else 'DISAGREES'} with transformers on {sum(map(len, ids))} tokens of "
        f"{len(ids)} sentences: {len(worst)} outputs, largest relative difference "
        f"{worst[name]:.1e} ({name}), tolerance {tolerance:g}"
    )
    if not agree:
        beyond = (f"{n}: {value:.1e}" for n, value in worst.items() if value > tolerance)
        print("\n".join(beyond))
    return 0 if agree else DISAGREE


def main() -> int:
    """Check the model of the flags and return the exit status."""
    folder = open_folder(FLAGS.model, ignore_keys=FLAGS.ignore_keys)
    print(summary(folder, mesh=FLAGS.mesh, fsdp=FLAGS.fsdp, dtype=FLAGS.dtype))
    return check(folder, tolerance=FLAGS.tolerance)


if __name__ == "__main__":
    flags.DEFINE_string("model", None, "A folder, hub id or sample.", required=True)
    ignored = "Unknown keys of its config.json that change nothing, separated by commas."
    flags.DEFINE_list("ignore_keys", [], ignored)
    flags.DEFINE_string("mesh", "1x1", "Devices along data x model, for the memory.")
    flags.DEFINE_bool("fsdp", False, "Split weights over data too, for the memory.")
    flags.DEFINE_enum("dtype", "float32", DTYPES, "For the memory.")
    tolerance = "Of the norm of a sentence's hidden state; float32."
    flags.DEFINE_float("tolerance", 1e-4, tolerance, lower_bound=0)
    launch.start(main)
