"""What a model is to go on from: prompts of a file, and conversations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ilo_jax.corpora.lines import filled, is_text, made, parse_object

Message = Mapping[str, str]
"""What one speaker says: "role", such as user or assistant, and "content"."""

Prompt = str | Sequence[Message]
"""A text to go on from, or the messages of a conversation to answer."""


def read_prompts(path: str | Path) -> list[Prompt]:
    r"""The prompts of a file, one a line.

    - A .txt file: every line is a text.
    - A .jsonl file: every line is an object, `{"prompt": ...}`, a text, or `{"messages": [{"role":
      ..., "content": ...}, ...]}`, a conversation, with no other keys.

    Lines end in LF, CRLF or CR, and a byte order mark is dropped.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
        ValueError: If it is none of these, is empty, or naming all lines that are no prompts.
    """
    path = Path(path)
    if path.suffix not in {".txt", ".jsonl"}:
        raise ValueError(f"prompts must be a .txt or a .jsonl file, got {path}")
    if not path.is_file():
        raise FileNotFoundError(f"no prompts at {path}: there is no such file")
    if path.suffix == ".txt":
        return made(filled(path), _text, what=f"{path}: a line must be a prompt")
    what = f"{path}: a line must be a JSON object with prompt, a text, or messages"
    return made(filled(path), lambda line: _prompt(parse_object(line)), what=what)


def _text(line: str) -> str:
    """The line.

    Raises:
        ValueError: If it is blank.
    """
    if not line.strip():
        raise ValueError("is blank")
    return line


def _prompt(record: Mapping[str, Any]) -> Prompt:
    """The prompt that a record is.

    Raises:
        ValueError: If it is none.
    """
    match record:
        case {"prompt": text, **rest} if not rest and is_text(text):
            return text
        case {"messages": [_, *_] as messages, **rest} if not rest:
            return [_message(message) for message in messages]
    raise ValueError(f"has {', '.join(record) or 'no keys'}, or values of another kind")


def _message(message: Any) -> Message:
    """The message that a value is.

    Raises:
        ValueError: If it is none.
    """
    match message:
        case {"role": role, "content": content, **rest} if not rest:
            if is_text(role) and is_text(content):
                return message
    raise ValueError("a message must have a role and a content, both text, and nothing else")
