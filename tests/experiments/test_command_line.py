"""What a command line may say is listed; what it may not is named, with what is nearest."""

import dataclasses
import re
from pathlib import Path

import pytest
from absl import flags

from experiments import evaluate, extract, finetune, freezing, ilo
from experiments.command_line import (
    asks_for_help,
    config_file,
    field_of,
    field_texts,
    flags_of,
    help_text,
    read_config,
    refused,
    unknown,
    whole_numbers,
)
from experiments.settings import at_least, one_of

CONFIGS = [ilo.Config, extract.Config, evaluate.Config, finetune.Config, freezing.Config]


# Files


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("def get_config() return", "SyntaxError: expected ':' (my.py, line 1)"),
        ("import nowhere", ", line 1: ModuleNotFoundError: No module named 'nowhere'"),
        ("\nget_config = lambda: 1 / 0", ", line 2: ZeroDivisionError: division by zero"),
        ("get_config = lambda: {}['a']", ", line 1: KeyError: 'a'"),
        ("x = 1", " must define get_config(), which gives the configuration of the job"),
        ("get_config = lambda: None", "a configuration of experiments.ilo, got builtins.NoneType"),
        (
            "from experiments.ilo import Config\ndef get_config():\n    return Config(modle='x')",
            ", line 3: TypeError: Config.__init__() got an unexpected keyword argument 'modle'",
        ),
        (
            "from experiments.freezing import Config as get_config",
            "must give a configuration of experiments.ilo, got experiments.freezing.Config",
        ),
        (
            "from experiments.ilo import Config\nget_config = lambda: Config(k='5', fsdp=1)",
            ": fsdp must be True or False, got 1; k must be a whole number, got '5'",
        ),
    ],
)
def test_a_file_that_gives_no_configuration_of_the_job_is_named(tmp_path: Path, text, problem):
    (tmp_path / "my.py").write_text(text)
    with pytest.raises(ValueError, match=re.escape(problem)) as raised:
        read_config(str(tmp_path / "my.py"), kind=ilo.Config)
    assert str(tmp_path / "my.py") in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    for path in (tmp_path, tmp_path / "no.py"):
        with pytest.raises(FileNotFoundError, match=rf"^--config must be a Python .* {path}$"):
            read_config(str(path))


def test_a_file_gives_the_configuration():
    assert read_config("configs/ilo/sample.py", kind=ilo.Config) == ilo.Config()


# Words


@pytest.mark.parametrize(
    ("word", "field"),
    [
        ("--config.k=7", "k"),
        ("-config.k", "k"),
        ("--noconfig.fsdp", "fsdp"),
        ("--config=x.py", None),
        ("--workdir=config.k", None),
        ("--node=1", None),
    ],
)
def test_the_field_that_a_word_sets(word, field):
    assert field_of(word) == field


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["--config=a.py", "--on=v5e:2x2"], "a.py"),
        (["--config", "a.py"], "a.py"),
        (["-config=a.py", "--config=b.py"], "b.py"),
        (["--config.model=a", "--suggest", "--on", "x"], None),
        ([], None),
    ],
)
def test_the_file_of_the_configuration(words, file):
    assert config_file(words) == file


def test_flags_that_nobody_knows_are_named_all_at_once_with_the_nearest():
    known = ["workdir", "config", "config.model", "config.corpus", "config.k"]
    words = ["--config.modle=x", "there", "--model", "--config.workdri=y", "--zzz=--a"]
    assert unknown(flags_of(words), known) == (
        "Unknown command line flags 'config.modle' (nearest: --config.model), 'model' (nearest: "
        "--config.model), 'config.workdri' (nearest: --workdir), 'zzz'; --help lists all"
    )
    assert unknown(["a"], known) == "Unknown command line flag 'a'; --help lists all"


def test_a_value_that_a_flag_cannot_have_is_told_with_what_it_may_be():
    defined = flags.FlagValues()
    flags.DEFINE_integer("k", 5, "A number.", lower_bound=1, flag_values=defined)
    flags.DEFINE_bool("fast", False, "Whether.", flag_values=defined)
    flags.DEFINE_enum("kind", "a", ["a", "b"], "Which.", flag_values=defined)
    flags.DEFINE_string("model", None, "Which.", required=True, flag_values=defined)
    for words, message in (
        (["--k=x"], "flag --k=x: must be a positive integer"),
        (["--k=0"], "flag --k=0: must be a positive integer"),
        (["--fast=so: so"], "flag --fast=so: must be true or false"),
        (["--kind=c"], "flag --kind=c: value should be one of <a|b>"),
        ([], "flag --model=None: Flag --model must have a value other than None."),
    ):
        with pytest.raises(flags.IllegalFlagValueError) as raised:
            defined(["program", *words])
        assert refused(raised.value, defined).startswith(message)


def test_numbers_that_a_flag_lists():
    assert whole_numbers("dims", ["64", "384"], least=64) == [64, 384]
    for words, got in ((["64", "x", "1.5", "-1", "63"], "'x', '1.5', '-1', '63'"), ([], "none")):
        said = f"--dims must list whole numbers of at least 64, got {got}"
        with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
            whole_numbers("dims", words, least=64)


# Help


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__module__)
def test_every_field_of_every_job_is_described(kind):
    texts = field_texts(kind)
    assert list(texts) == [field.name for field in dataclasses.fields(kind)]
    assert [name for name, text in texts.items() if not text] == []


def test_a_field_is_described_by_the_class_that_has_it_last():
    assert field_texts(freezing.Config)["freeze"].startswith("What does not train where freezing")
    assert field_texts(finetune.Config)["freeze"].startswith("What does not train: none; paper:8")


@dataclasses.dataclass(kw_only=True)
class Config:
    """Two fields."""

    k: int = at_least(1, default=5)
    """Neighbours
    of a point."""
    kind: str = one_of(("red", "blue"), default="red")
    """Of something."""


def test_help_lists_all_fields_and_then_the_flags():
    defined = flags.FlagValues()
    flags.DEFINE_bool("fast", False, "Whether to hurry.", flag_values=defined)
    flags.DEFINE_string("a", None, "Where.", flag_values=defined)
    plain = [defined["fast"], defined["a"]]
    assert help_text("\nWhat it does.\n", Config(k=7), plain).splitlines() == [
        "What it does.",
        "",
        "Fields of the configuration:",
        "  --config.k: Neighbours of a point. (default: 7; at least 1; below 2^31)",
        "  --config.kind: Of something. (default: 'red'; one of red, blue)",
        "",
        "Flags:",
        "  --a: Where.",
        "  --[no]fast: Whether to hurry. (default: 'false')",
    ]
    assert "Fields" not in help_text("What it does.", None, plain)


def test_help_may_be_asked_for_in_several_words():
    asking = ["-h", "--help", "-help", "--helpfull", "--helpshort", "-?"]
    assert all(map(asks_for_help, asking))
    assert not any(map(asks_for_help, ["help", "--helps", "--config.help", "h"]))
