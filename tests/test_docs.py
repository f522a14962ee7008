"""README.md and docs/ are true: code runs, and every command, flag, module and file is there."""

import ast
import configparser
import dataclasses
import importlib
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

from experiments.command_line import HELP, read_config
from ilo_jax.activations.taps import POOLINGS, SITES
from tests.test_layers import FLOORS

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = {str(path.relative_to(ROOT)): path for path in [README, *sorted(ROOT.glob("docs/*.md"))]}
TEXTS = {name: path.read_text() for name, path in PAGES.items()}
CONFIGS = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.glob("configs/*/*.py"))}
SCRIPTS = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.glob("experiments/**/*.py"))}
SET_UP = [
    "pip install -e '.[sample]' && python -m experiments.ilo --config=configs/ilo/sample.py",
    "pip install -e '.[test]' && pytest -n 2",
]
FLAG = re.compile(r"DEFINE_\w+\(\s*\"(\w+)\"")
NUMBER = re.compile(r"\**[\d,]*\.?\d+(e-?\d+)?( \([\d.]+\)| %| s| [GM]iB| GFLOP)?\**")
"""A cell of a table that holds a number and nothing else but its unit or its reference."""
DATE = re.compile(r"\b20\d\d-\d\d-\d\d\b")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def spans(text: str) -> list[str]:
    """What a page has between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def block_commands(text: str) -> list[str]:
    lines = [line for block in blocks(text, "bash") for line in block.splitlines()]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def docstring_commands(path: Path) -> list[str]:
    text = re.sub(r"\\\n\s*", "", docstring(path))
    return [line.strip() for line in text.splitlines() if re.search(r"(^ *|&& )python -m ", line)]


def commands() -> dict[str, set[str]]:
    """Every command of a page, a configuration or a script, and who names it."""
    named: dict[str, set[str]] = {}
    for name, text in TEXTS.items():
        inline = [span for span in spans(text) if span.startswith(("python -m ", "pytest "))]
        for command in block_commands(text) + inline:
            named.setdefault(command, set()).add(name)
    for name, path in (CONFIGS | SCRIPTS).items():
        for command in docstring_commands(path):
            named.setdefault(command, set()).add(name)
    return named


COMMANDS = commands()


def sections(text: str) -> list[str]:
    """A page cut at its headings."""
    inside = False
    cut = [""]
    for line in text.splitlines():
        inside ^= line.startswith("```")
        if line.startswith("#") and not inside:
            cut.append("")
        cut[-1] += line + "\n"
    return cut


def anchors(text: str) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = [part.splitlines()[0] for part in sections(text) if part.startswith("#")]
    words = [re.sub(r"[^\w\- ]", "", heading.lstrip("#").strip().lower()) for heading in headings]
    return {heading.replace(" ", "-") for heading in words}


def cells(section: str) -> list[str]:
    """The cells of the tables of a section, but for their first rows and first columns."""
    rows = []
    for above, line in itertools.pairwise(section.splitlines()):
        if line.startswith("|") and above.startswith("|") and not re.fullmatch(r"[|\s:-]+", line):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return [cell for row in rows for cell in row[1:]]


@pytest.mark.parametrize("name", [name for name, text in TEXTS.items() if blocks(text, "python")])
def test_python_blocks_run(name: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks(TEXTS[name], "python"):
        exec(compile(block, name, "exec"), names)
        assert bool(capsys.readouterr().out) == ("print(" in block)


def test_two_commands_of_the_readme_do_the_set_up():
    assert blocks(TEXTS["README.md"], "python")
    assert block_commands(TEXTS["README.md"])[:2] == SET_UP


def ci_steps() -> list[str]:
    """What .ci/run does, as one would type it in a checkout."""
    text = (ROOT / ".ci/run").read_text()
    for name, value in re.findall(r'^(?:export )?(\w+)="(.*)"$', text, re.MULTILINE):
        text = re.sub(rf"\${name}\b", value, text)
    steps = re.findall("^step (.*?)(?: >.*)?$", text, re.MULTILINE)
    default = " --workdir=runs/ilo/sample"
    return [step.replace('"', "").replace("$home/", "").replace(default, "") for step in steps]


def test_ci_does_the_set_up_of_the_readme():
    halves = [half for command in SET_UP for half in command.split(" && ")]
    assert [step for step in ci_steps() if step in halves] == halves


def test_every_step_of_ci_is_documented():
    documented = {half for command in COMMANDS for half in command.split(" && ")}
    assert set(ci_steps()) <= documented


def test_ci_removes_nothing_but_its_temporary_folder():
    lines = (ROOT / ".ci/run").read_text().splitlines()
    assert [line for line in lines if re.search(r"\brm\b", line)] == [
        """trap 'rm -rf "$home"' EXIT"""
    ]


def defined_flags(script: Path) -> set[str]:
    """The flags of a script; a job has those of the launch, --profile only if it says so."""
    text = script.read_text()
    if script.name != "__main__.py" or of_any_job(script):
        return set(FLAG.findall(text))
    launched = set(FLAG.findall((ROOT / "experiments/launch.py").read_text()))
    return launched if "profile=True" in text else launched - {"profile"}


def of_any_job(script: Path) -> bool:
    """Whether the configuration of a job may be that of another: it has none of its own."""
    return "of_any_job=True" in script.read_text()


def config_of(script: Path, file: str = "") -> type:
    """The class of the configurations of a job, or of a file, where that decides."""
    if of_any_job(script):
        return type(read_config(str(ROOT / file)))
    return importlib.import_module(f"experiments.{script.parent.name}").Config


def test_only_jobs_that_leave_a_trace_take_profile():
    jobs = ROOT.glob("experiments/*/__main__.py")
    profiled = {job.parent.name for job in jobs if "profile" in defined_flags(job)}
    assert profiled == {"ilo", "extract", "evaluate"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if "-m experiments." in c])
def test_commands_name_what_exists(command: str):
    module, *words = shlex.split(command[command.index("experiments.") :].rstrip('"'))
    script = ROOT / module.replace(".", "/")
    script = script / "__main__.py" if script.is_dir() else script.with_suffix(".py")
    defined, job = defined_flags(script), script.name == "__main__.py"
    files = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    for word in words:
        assert word.startswith("--"), word
        flag, _, value = word.removeprefix("--").partition("=")
        if job and flag == "config":
            assert value in CONFIGS
        elif job and flag.startswith("config."):
            fields = dataclasses.fields(config_of(script, *files))
            assert flag.removeprefix("config.") in {field.name for field in fields}
        else:
            assert flag in defined


def test_taps_are_of_sites_and_poolings_that_exist():
    taps = [tap for c in COMMANDS for tap in re.findall(r"--config\.taps=(\S+)", c)]
    for tap in ",".join(taps).split(","):
        site, pooling = tap.partition("@")[0].split(":")
        assert site in SITES, tap
        assert pooling in POOLINGS, tap
    explained = re.findall(r"^\| `(\w+)` \|", TEXTS["docs/extraction.md"], re.MULTILINE)
    assert set(explained) == {*SITES, *POOLINGS}


def test_commands_of_pytest_and_pip_name_what_exists():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for command in COMMANDS:
        for extra in re.findall(r"\.\[(\w+)\]", command):
            assert extra in setup["options.extras_require"], command
        if command.startswith("pytest "):
            for path in re.findall(r"tests/\S+", command):
                assert (ROOT / path).exists(), command


def test_the_import_rule_is_the_one_that_is_held():
    (chain,) = [b for b in blocks(TEXTS["docs/developing.md"], "text") if " < " in b]
    told = [{name.strip() for name in floor.split(",")} for floor in chain.split("<")]
    there = {path.stem for path in (ROOT / "ilo_jax").iterdir()}
    assert told == [names & there for names in FLOORS if names & there]


@pytest.mark.parametrize("name", TEXTS)
def test_flags_named_in_prose_exist(name: str):
    flags = {
        flag for file in ROOT.glob("experiments/**/*.py") for flag in FLAG.findall(file.read_text())
    }
    jobs = [job for job in ROOT.glob("experiments/*/__main__.py") if not of_any_job(job)]
    configs = [importlib.import_module(f"experiments.{job.parent.name}").Config for job in jobs]
    fields = {field.name for config in configs for field in dataclasses.fields(config)}
    for flag in re.findall(r"`--([\w.]+)", prose(TEXTS[name])):
        assert flag in {*flags, *HELP} or flag.removeprefix("config.") in fields, flag


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name: str):
    links = re.findall(r"\]\(([^)]+)\)", prose(TEXTS[name]))
    for link in [link for link in links if "://" not in link]:
        file, _, anchor = link.partition("#")
        target = (PAGES[name].parent / file).resolve() if file else PAGES[name]
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


@pytest.mark.parametrize("name", TEXTS)
def test_modules_and_files_named_in_prose_exist(name: str):
    for span in spans(TEXTS[name]):
        if re.fullmatch(r"ilo_jax(\.[a-z_]\w*)+", span):
            assert importlib.util.find_spec(span), span
        elif re.fullmatch(r"(ilo_jax|experiments|configs|tests|docs|\.ci)/[a-z_./]*", span):
            assert (ROOT / span).exists(), span


def test_every_page_and_figure_is_shown():
    linked = {
        (PAGES[name].parent / link.partition("#")[0]).resolve()
        for name, text in TEXTS.items()
        for link in re.findall(r"\]\(([^)]+)\)", text)
        if "://" not in link
    }
    assert linked >= {path for path in PAGES.values() if path != README}
    assert linked >= set(ROOT.glob("docs/figures/*"))


def test_every_job_is_in_the_table_of_the_readme():
    rows = [line for line in TEXTS["README.md"].splitlines() if line.startswith("|")]
    for job in ROOT.glob("experiments/*/__main__.py"):
        command = f"`python -m experiments.{job.parent.name}`"
        assert [row for row in rows if command in row and "](docs/" in row], command


@pytest.mark.parametrize("name", TEXTS)
def test_a_table_of_numbers_stands_beside_its_command(name: str):
    """In the same section: a command, and the date, unless tests make the numbers anew."""
    for section in sections(TEXTS[name]):
        if any(NUMBER.fullmatch(cell) for cell in cells(section)):
            heading, given = section.splitlines()[0], block_commands(section)
            measured = [c for c in given if "-m experiments." in c]
            assert measured or any(c.startswith("pytest ") for c in given), heading
            assert DATE.search(section) or not measured, heading


@pytest.mark.parametrize(
    ("cell", "number"),
    [
        (".07", True),
        ("**2.39**", True),
        ("1,012", True),
        (".049 (.002)", True),
        ("370 s", True),
        ("1.4e-06", True),
        ("0 to 1", False),
        ("0 to L - 1", False),
        ("", False),
        ("the first 100", False),
    ],
)
def test_what_counts_as_a_number(cell: str, number: bool):
    assert bool(NUMBER.fullmatch(cell)) == number


def test_the_readme_is_short():
    assert len(TEXTS["README.md"].splitlines()) <= 150


@pytest.mark.parametrize("name", CONFIGS)
def test_a_configuration_says_its_command(name: str):
    text = CONFIGS[name].read_text()
    assert text.startswith('"""')
    assert f"--config={name}" in text


@pytest.mark.parametrize("name", TEXTS)
def test_no_placeholder_is_left(name: str):
    assert not re.findall(r"@@|\b(?:TODO|TBD|FIXME|XXX)\b", TEXTS[name])
