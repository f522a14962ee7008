import json
from pathlib import Path

import pytest

from experiments.generate.answers import Answers

BLOCKS = [[{"text": f"{block} Ça\u2028\n{line}"} for line in range(3)] for block in range(3)]
BLOCKS[-1].pop()


def written(file: Path, *, blocks: int) -> Path:
    answers = Answers(file, lines=8, block=3)
    for block in BLOCKS[-(-answers.whole // 3) : blocks]:
        answers.add(block)
    return file


def test_lines_are_json_in_order(tmp_path):
    file = written(tmp_path / "said.jsonl", blocks=3)
    read = [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    assert read == [record for block in BLOCKS for record in block]
    assert "Ça" in file.read_text()


def test_cut_anywhere_it_goes_on_behind_the_last_whole_block(tmp_path):
    whole = written(tmp_path / "whole.jsonl", blocks=3).read_bytes()
    one = len(written(tmp_path / "one.jsonl", blocks=1).read_bytes())
    two = len(written(tmp_path / "two.jsonl", blocks=2).read_bytes())
    for size in range(0, len(whole) + 1, 3):
        (tmp_path / "part.jsonl").write_bytes(whole[:size])
        answers = Answers(tmp_path / "part.jsonl", lines=8, block=3)
        expected = 8 if size == len(whole) else 3 * (size >= one) + 3 * (size >= two)
        assert answers.whole == expected
        assert written(tmp_path / "part.jsonl", blocks=3).read_bytes() == whole


def test_a_file_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(OSError, match="absent"):
        Answers(tmp_path / "absent/said.jsonl", lines=8, block=3)
