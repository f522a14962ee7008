"""Lines as they are read by all; through each reader they are tested with it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ilo_jax.corpora.lines import filled, made, parse_object, refuse_repeated, split_lines


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    return str(caught.value)


def test_a_file_has_lines_or_is_refused(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffone\r\ntwo\n".encode())
    assert filled(file) == ["one", "two"]
    file.write_bytes(b"")
    assert refusal(lambda: filled(file)) == f"{file} is empty"
    file.write_bytes(b"one\ntw\xffo")
    assert refusal(lambda: filled(file)) == (
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        f"  {file} line 2, byte 3: 0xff"
    )


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\rb\r", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\nb\n", ["a", "b"]),
        ("a\rb\r\nc\nd", ["a", "b", "c", "d"]),
        ("a\r\rb\n\n", ["a", "", "b", ""]),
        ("a\n\rb", ["a", "", "b"]),
        *((f"a{mark}b\n", [f"a{mark}b"]) for mark in "\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e"),
    ],
)
def test_lines_end_in_any_newline_and_in_nothing_else(text, lines):
    assert split_lines(text) == lines


WORDS = {"ascii": "one\ntwo\n", "cyrillic": "один\nдва\n", "one line": "one", "chinese": "一二\n"}


@pytest.mark.parametrize("text", WORDS)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_wider_text_is_named_and_never_read_as_other_text(tmp_path: Path, text, encoding):
    file = tmp_path / "a.txt"
    file.write_bytes(WORDS[text].encode(encoding))
    said = rf"got\n  {file}(: UTF-16|: NULs as in UTF-16| line 1, byte \d: 0x..)$"
    assert re.search(said, refusal(lambda: filled(file)))


def test_what_is_marked_as_utf_16_is_called_so(tmp_path: Path):
    file = tmp_path / "a.txt"
    for encoding in ("utf-16-le", "utf-16-be"):
        file.write_bytes("\ufeffодин\nдва\n".encode(encoding))
        assert refusal(lambda: filled(file)).endswith(f"{file}: UTF-16")


def test_a_hole_in_a_file_is_named_and_a_nul_in_a_sentence_is_text(tmp_path: Path):
    file = tmp_path / "a.txt"
    for damaged in (bytes(7), b"one\n" + bytes(7) + b"\n"):
        file.write_bytes(damaged)
        assert refusal(lambda: filled(file)).endswith(f"\n  {file}: NULs as in UTF-16")
    file.write_bytes(b"one\0\ntwo\n")
    assert filled(file) == ["one\0", "two"]


def test_a_byte_is_counted_in_its_line_whatever_ends_lines(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\rb\r\n\xc3\xa9\xff")
    assert refusal(lambda: filled(file)).endswith(f"{file} line 3, byte 3: 0xff")


def test_a_pointer_of_git_lfs_is_no_text_of_three_lines(tmp_path: Path):
    file = tmp_path / "a.txt"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    said = f"{file}: a pointer of git-lfs (run git lfs pull)"
    assert refusal(lambda: filled(file)).endswith(said)


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
