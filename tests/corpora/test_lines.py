"""Lines as they are read by all; through each reader they are tested with it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ilo_jax.corpora.lines import filled, made, parse_object, refuse_repeated


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    return str(caught.value)


def test_a_file_has_lines_or_is_refused(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\n".encode())
    assert filled(file) == ["one\r", "two"]
    file.write_bytes(b"")
    assert refusal(lambda: filled(file)) == f"{file} is empty"
    file.write_bytes(b"one\ntw\xffo")
    assert refusal(lambda: filled(file)) == (
        f"text must be UTF-8, got\n  {file} line 2, byte 3: 0xff"
    )


def test_what_is_made_of_lines_and_where_they_begin():
    assert made(["1", "2"], int, what="x") == [1, 2]
    said = "a number, got\n  line 2: invalid literal for int() with base 10: 'b'"
    assert refusal(lambda: made(["b", "3"], int, what="a number", number=2)) == said


def test_an_object_nested_too_deeply_is_refused():
    with pytest.raises(ValueError, match=r"^is nested too deeply$"):
        parse_object('{"a":' * 100_000)


def test_an_object_has_each_key_once():
    assert parse_object('{"a": 1, "b": [null]}') == {"a": 1, "b": [None]}
    assert refusal(lambda: parse_object('{"a": 1, "a": 2}')) == (
        "a key must come once, got more than once: a"
    )
    assert refusal(lambda: parse_object("[1]")) == "is [1]"
    assert refusal(lambda: parse_object('{"a"')).endswith("at character 5")
    refuse_repeated(["a", "b"], "a name must come once")
