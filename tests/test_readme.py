"""The README is true: its code runs, its commands exist, its files are there."""

import dataclasses
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [
    line
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]


def test_python_blocks_run(capsys: pytest.CaptureFixture):
    assert blocks("python")
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_two_commands_do_the_set_up():
    assert COMMANDS[:2] == [
        "pip install -e '.[sample]' && python -m experiments.ilo --config=configs/ilo/sample.py",
        "pip install -e '.[test]' && pytest -n 2",
    ]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "-m experiments." in c])
def test_commands_name_what_exists(command: str):
    module, *words = shlex.split(command[command.index("experiments.") :].rstrip('"'))
    script = ROOT / module.replace(".", "/")
    script = script / "__main__.py" if script.is_dir() else script.with_suffix(".py")
    source = script.read_text() + (ROOT / "experiments/launch.py").read_text()
    for word in words:
        flag, _, value = word.removeprefix("--").partition("=")
        if flag == "config":
            assert (ROOT / value).is_file()
        elif flag.startswith("config."):
            fields = dataclasses.fields(importlib.import_module(module).Config)
            assert flag.removeprefix("config.") in {field.name for field in fields}
        else:
            assert f'"{flag}"' in source


def test_links_into_the_repository_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    inside = [link for link in links if "://" not in link]
    assert inside
    for link in inside:
        assert (ROOT / link.split("#")[0]).exists(), link


def test_every_configuration_is_in_the_readme_or_says_its_command():
    for file in (ROOT / "configs").rglob("*.py"):
        text = file.read_text()
        assert text.startswith('"""')
        assert f"--config={file.relative_to(ROOT)}" in text


def test_no_placeholder_is_left():
    assert "@@" not in README
