"""What a pre-training starts from: text in tokens, a model without weights, held-out documents."""

import dataclasses
import hashlib
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.hardware import make_mesh
from experiments.launch import Run
from experiments.pretrain.config import NO_BEARING, VOCABULARIES, Config, check
from experiments.states import listed_names, read_monolingual
from ilo_jax.corpora.documents import Documents
from ilo_jax.corpora.shares import given, sampled
from ilo_jax.corpora.token_files import tokenized_documents
from ilo_jax.corpora.vocabulary import save_vocabulary, train_vocabulary
from ilo_jax.evaluation.documents import LanguageTexts, as_windows, held_out_texts
from ilo_jax.files import claim, kvstore
from ilo_jax.models import parameters
from ilo_jax.models.config import ModelConfig
from ilo_jax.models.hub.families import FAMILIES, family_of, read_config
from ilo_jax.models.hub.folder import Folder
from ilo_jax.models.hub.presets import Sizes, preset, read_settings, special_tokens
from ilo_jax.models.hub.tokenizer import load_tokenizer
from ilo_jax.processes import alone, share, together
from ilo_jax.recipes import FORWARD, TRAINING, key_of
from ilo_jax.training.checkpoints import Key
from ilo_jax.training.cost import step_cost
from ilo_jax.training.dropout import refuse_dropout
from ilo_jax.training.masked import Vocabulary, masking_vocabulary
from ilo_jax.training.mixture import Mixture, mixed, token_counts
from ilo_jax.training.order import own_slots


class Setting(NamedTuple):
    """What a run starts from."""

    folder: Folder
    """The model, of which no weight is there yet, with its tokenizer."""
    held_out: LanguageTexts
    """Documents that checkpoints are judged by."""
    vocabulary: Vocabulary | None
    """Of the text, where tokens are to be hidden."""
    mixture: Mixture
    mesh: Mesh

    @property
    def model(self) -> ModelConfig:
        """What is trained."""
        return self.folder.config


def raw_config(config: Config, *, vocab: int, tokens: dict[str, int]) -> dict[str, Any]:
    """The config.json of the model.

    Args:
        config: Of the pre-training.
        vocab: How many tokens its tokenizer has.
        tokens: Ids of the special ones by their keys.

    Raises:
        OSError: If a file of one's own cannot be read.
        ValueError: If it is none of a model that can be made, or is not of the objective.
    """
    if config.model in FAMILIES:
        raw = preset(config.model, sizes(config, vocab), tokens)
    elif Path(config.model).is_file():
        raw = read_settings(Path(config.model), vocab=vocab, tokens=tokens)
    else:
        families = ", ".join(sorted(FAMILIES))
        raise ValueError(f"model must be a config.json or one of {families}; got {config.model!r}")
    refuse_unfit(config, read_config(raw))
    return raw


def sizes(config: Config, vocab: int) -> Sizes:
    """The sizes that a configuration asks for."""
    return Sizes(
        dim=config.dim,
        layers=config.layers,
        heads=config.heads,
        vocab=vocab,
        positions=config.positions or config.row_length,
        kv_heads=config.kv_heads or None,
        mlp_dim=config.mlp_dim or None,
        tied=config.tied,
    )


def any_model(config: Config) -> ModelConfig:
    """The model of a configuration whose tokenizer is not there yet, with as many tokens as asked.

    Raises:
        OSError: If a config.json of one's own cannot be read.
        ValueError: As from `raw_config`.
    """
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return read_config(raw_config(config, vocab=config.vocab, tokens=tokens))


def any_vocabulary(config: Config, size: int) -> Vocabulary | None:
    """A vocabulary of so many tokens, of any text, where tokens are to be hidden."""
    if config.objective == "causal":
        return None
    numbers = np.arange(size, dtype=np.int32)
    opens = numbers > 0 if config.whole_words else None
    return Vocabulary(0, numbers < 1, numbers[1:], opens)


def refuse_unfit(config: Config, model: ModelConfig) -> None:
    """Refuse a model that is not of the objective, or not of rows so long.

    Raises:
        ValueError: Saying which would be.
    """
    masked = config.objective == "masked"
    kind = "a decoder" if model.causal else "an encoder"
    if model.causal == masked or model.head.kind == "none":
        wanted = "an encoder" if masked else "a decoder"
        raise ValueError(
            f"model must be {wanted} with a head where objective={config.objective}, got {kind} "
            f"({config.model})"
        )
    longest = model.max_positions
    if longest is not None and longest < config.row_length:
        raise ValueError(
            f"row_length must be at most the model's {longest} positions, got {config.row_length}"
        )
    refuse_dropout(model, waived=False)


def prepare(config: Config, job: Run) -> Setting:
    """What a run starts from; what is made of the text on the way is kept in the run folder.

    Raises:
        OSError: If the text or the tokenizer is absent, or the run folder cannot be written.
        RuntimeError: If another process failed.
        ValueError: If the settings, the text, the tokenizer or the model cannot be used.
    """
    check(config)
    documents, workdir = read_monolingual(config), job.workdir
    job.make_folder()
    path = Path(config.tokenizer)
    if config.tokenizer in VOCABULARIES:
        path = workdir / "tokenizer"
        with alone(str(workdir)):
            together(partial(_train, config, documents, path), what="learning a vocabulary")
    tokenizer = load_tokenizer(path)
    raw = raw_config(config, vocab=len(tokenizer), tokens=special_tokens(tokenizer))
    folder = Folder(path, workdir.name, raw, read_config(raw), family_of(raw))
    held_out = as_windows(
        held_out_texts(documents, most=config.judged),
        folder.tokenizer,
        length=config.row_length,
        limits=folder.config.limits,
    )
    masked = config.objective == "masked"
    vocabulary = masking_vocabulary(tokenizer, whole_words=config.whole_words) if masked else None
    mesh = make_mesh(config)
    mixture = _mixture(config, documents, folder, workdir)
    own_slots(mixture, share(mesh))
    return Setting(folder, held_out, vocabulary, mixture, mesh)


def _mixture(config: Config, documents: Documents, folder: Folder, workdir: Path) -> Mixture:
    """The tokens of the text, and what of them comes when."""
    files = tokenized_documents(documents, folder.tokenizer, workdir / "tokens")
    if config.shares:
        shares = given(named_shares(config.shares), documents.languages)
    else:
        shares = sampled(token_counts(files), alpha=config.alpha)
    part_rows = config.rows_at_once or config.rows
    return mixed(
        files,
        shares,
        parts=config.rows // part_rows,
        part_rows=part_rows,
        row_length=config.row_length,
        seed=config.seed,
    )


def named_shares(text: str) -> dict[str, float]:
    """The shares that are written as eng=2,deu=1.

    Raises:
        ValueError: If they are written otherwise.
    """
    pairs = [name.partition("=") for name in listed_names(text)]
    try:
        found = {name.strip(): float(number) for name, _, number in pairs}
    except ValueError as error:
        raise ValueError(f"shares must be NAME=NUMBER,NAME=NUMBER; got {text!r}") from error
    if len(found) < len(pairs):
        raise ValueError(f"shares must name each language once, got {text!r}")
    return found


def _train(config: Config, documents: Documents, folder: Path) -> None:
    """Learn a vocabulary, by the first process, unless it is there already."""
    if jax.process_index():
        return
    settings = {"kind": config.tokenizer, "size": config.vocab, "alpha": config.alpha}
    settings |= {"masked": config.objective == "masked"}
    hashes = {language: each.hash for language, each in documents.census.items()}
    key = settings | {"held_out": config.held_out, "documents": hashes}
    what = f"the tokenizer in {folder} was learnt otherwise"
    claim(kvstore(folder), "key.json", key, what=what, advice="choose another --workdir")
    if not (folder / "tokenizer.json").is_file():
        save_vocabulary(train_vocabulary(documents, **settings), folder)


def training_key(config: Config, setting: Setting) -> Key:
    """All that determines what a run ends with."""
    told = {field.name for part in NO_BEARING for field in dataclasses.fields(part)}
    settings = {n: value for n, value in dataclasses.asdict(config).items() if n not in told}
    made = json.dumps(setting.folder.raw, sort_keys=True).encode()
    return key_of(
        FORWARD,
        TRAINING,
        model={"config.json": hashlib.sha256(made).hexdigest()},
        tokens=setting.mixture.digest(),
        settings=settings | {"mesh": dict(setting.mesh.shape)},
    )


def describe(config: Config, setting: Setting) -> str:
    """What is made, what a step costs, and of which languages how much comes, in three lines."""
    model, held_out = setting.model, setting.held_out
    shapes = parameters.shapes(parameters.abstract(model, dtype=jnp.float32))
    sizes = {path: like.shape for path, like in shapes.items()}
    count = sum(math.prod(shape) for shape in sizes.values())
    cost = step_cost(
        model,
        sizes,
        dict.fromkeys(sizes, False),
        rows=config.rows,
        row_length=config.row_length,
        remat=config.remat,
    )
    mixture, epochs = setting.mixture, setting.mixture.epochs(config.steps)
    shares = zip(mixture.languages, mixture.shares.tolist(), epochs.tolist(), strict=True)
    return (
        f"a {setting.folder.raw['model_type']} of {count:,} parameters, {model.vocab} tokens; "
        f"{cost.total / 1e9:.4g} GFLOP a step of {config.rows} rows of {config.row_length}\n"
        + ", ".join(f"{name} {share:.1%} ({times:.2g} times)" for name, share, times in shares)
        + f"\nheld out to judge by: {held_out.byte_counts.sum() / 1e3:.0f} kB"
    )
