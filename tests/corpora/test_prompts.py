import json

import pytest

from ilo_jax.corpora.prompts import read_prompts

TALK = [{"role": "system", "content": ""}, {"role": "user", "content": "Ça va ?"}]


def test_lines_of_text(tmp_path):
    (tmp_path / "asked.txt").write_text("\ufeffOne day \r\n\tthen\u2028more\n", newline="")
    assert read_prompts(tmp_path / "asked.txt") == ["One day ", "\tthen\u2028more"]


def test_lines_of_json(tmp_path):
    lines = [{"prompt": "a\n\nb"}, {"prompt": ""}, {"messages": TALK}]
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read_prompts(tmp_path / "asked.jsonl") == ["a\n\nb", "", TALK]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("asked.csv", "a", r"^prompts must be a \.txt or a \.jsonl file, got .*asked\.csv$"),
        ("asked.txt", "a\n\nb\n \n", r"a line must be a prompt, got\n  line 2: is blank\n  line 4"),
        ("asked.txt", "", "is empty"),
        ("asked.jsonl", "[]", r"with prompt, a text, or messages, got\n  line 1: is \[\]$"),
        ("asked.jsonl", '{"text": "a"}', "line 1: has text, or values of another kind"),
        ("asked.jsonl", "{}", "line 1: has no keys"),
        ("asked.jsonl", '{"prompt": 1}', "line 1: has prompt, or values"),
        ("asked.jsonl", '{"prompt": "\\ud800"}', "line 1: has prompt, or values"),
        ("asked.jsonl", '{"prompt": "a", "id": 1}', "line 1: has prompt, id, or values"),
        ("asked.jsonl", '{"messages": []}', "line 1: has messages, or values"),
        ("asked.jsonl", '{"messages": ["a"]}', "line 1: a message must have a role and a content"),
        ("asked.jsonl", '{"messages": [{"role": "user"}]}', "line 1: a message must have a role"),
        (
            "asked.jsonl",
            '{"messages": [{"role": "user", "content": "a", "name": "b"}]}',
            "a content, both text, and nothing else$",
        ),
    ],
)
def test_what_is_no_prompt_is_refused_by_line(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=said):
        read_prompts(tmp_path / name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^no prompts at .*: there is no such file$"):
        read_prompts(tmp_path / "asked.txt")
