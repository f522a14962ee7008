import re

import pytest

from ilo_jax.corpora.pointers import refuse_pointer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    "text",
    [
        POINTER,
        POINTER.replace("\n", "\r\n"),
        POINTER.replace("git-lfs.github.com", "hawser.github.com"),
        POINTER.replace("oid", "ext-0-name sha256:ff\noid"),
    ],
    ids=["today's", "checked out on Windows", "of older days", "with an extension"],
)
def test_pointer_is_refused_by_name(tmp_path, text):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(text.encode())
    message = f"{file} is a git-lfs pointer, not the file itself: run git lfs pull in {tmp_path}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        refuse_pointer(file)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00\xff", f"#{POINTER}".encode(), b"version 2"])
def test_any_other_file_is_none(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(content)
    refuse_pointer(file)


def test_absent_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        refuse_pointer(tmp_path / "absent")
