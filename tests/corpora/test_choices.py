import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ilo_jax.corpora.choices import (
    DELIMITER,
    LETTERS,
    XCOPA,
    XNLI,
    Question,
    by_language,
    read_questions,
)

PLAIN = {"context": "1 + 1 =", "options": ["2", "3", "4"], "answer": 1, "language": "en"}
NLI = {"premise": "It rains.", "hypothesis": "It is wet.", "label": 1}
RELEASED_NLI = {
    "language": "de",
    "gold_label": "contradiction",
    "sentence1": "Es regnet.",
    "sentence2": "Es ist trocken.",
    "label1": "neutral",
    "pairID": "2",
}
COPA = {
    "premise": "Küünlaleek kustus.",
    "choice1": "Ma puhusin tahu peale.",
    "choice2": "Ma panin tiku tahu juurde.",
    "question": "cause",
    "label": 0,
    "idx": 8,
    "changed": False,
}
READING = {
    "link": "https://en.wikibooks.org/wiki/x",
    "question_number": 1,
    "flores_passage": "A passage. ",
    "question": " What is it? ",
    "mc_answer1": "one",
    "mc_answer2": "two",
    "mc_answer3": "three",
    "mc_answer4": "two",
    "correct_answer_num": "4",
    "dialect": "eng_Latn",
    "ds": "2023-05-03",
}


def refusal(call: Callable[[], object], kind: type[Exception] = ValueError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def jsonl(file: Path, *records: object) -> Path:
    return write(file, "".join(json.dumps(record) + "\n" for record in records))


def tsv(file: Path, *records: Mapping[str, object], end: str = "\n") -> Path:
    rows = [list(records[0]), *[list(record.values()) for record in records]]
    return write(file, "".join("\t".join(map(str, row)) + end for row in rows))


WRITERS = {"jsonl": jsonl, "tsv": tsv}


def wrong(file: Path, shape: str, lines: Sequence[str]) -> str:
    said = f"{file}: a line must be a question of shape {shape}, got\n"
    return said + "\n".join(f"  {line}" for line in lines)


# Plain


def test_plain_questions(tmp_path):
    records = [PLAIN, PLAIN | {"context": "", "options": ["x", " x"], "answer": 0, "language": "b"}]
    expected = (Question("1 + 1 =", ("2", "3", "4"), 1, "en"), Question("", ("x", " x"), 0, "b"))
    file = jsonl(tmp_path / "a.jsonl", *records)
    assert read_questions(file) == read_questions(str(file), shape="plain") == expected


def test_plain_questions_in_a_language_that_is_given(tmp_path):
    record = {key: value for key, value in PLAIN.items() if key != "language"}
    file = jsonl(tmp_path / "a.jsonl", record, PLAIN)
    assert [question.language for question in read_questions(file, language="en")] == ["en", "en"]
    assert refusal(lambda: read_questions(file)) == wrong(
        file,
        "plain",
        ["line 1: language must say the language where language= does not, got nothing"],
    )


LISTED = "options must be a list of two texts or more, got "
PLAIN_PROBLEMS = [
    ({"id": 1, "x": 2}, "has also id, x"),
    ({"context": None}, "context must be text, got None"),
    ({"context": "\ud83d"}, "context must be text, got '\\ud83d'"),
    ({"options": "ab"}, f"{LISTED}'ab'"),
    ({"options": ["a"]}, f"{LISTED}['a']"),
    ({"options": ["a", 1]}, f"{LISTED}['a', 1]"),
    ({"options": ["a", " "]}, f"{LISTED}['a', ' ']"),
    ({"options": ["a", "b", "a"]}, "options must differ, got 'a', 'b', 'a'"),
    ({"answer": 3}, "answer must be one of 0, 1, 2, got 3"),
    ({"answer": -1}, "answer must be one of 0, 1, 2, got -1"),
    ({"answer": 1.0}, "answer must be one of 0, 1, 2, got 1.0"),
    ({"answer": True}, "answer must be one of 0, 1, 2, got True"),
    ({"language": ""}, "language must be text and not empty, got: language is ''"),
    ({"language": 7}, "language must be text and not empty, got: language is 7"),
]


def test_all_malformed_plain_questions_are_named(tmp_path):
    for start in (0, 7):
        problems = PLAIN_PROBLEMS[start : start + 7]
        file = jsonl(tmp_path / "a.jsonl", PLAIN, *[PLAIN | change for change, _ in problems])
        expected = [f"line {number}: {said}" for number, (_, said) in enumerate(problems, 2)]
        assert refusal(lambda file=file: read_questions(file)) == wrong(file, "plain", expected)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("context", "context must be text, got nothing"),
        ("options", f"{LISTED}nothing"),
        ("answer", "answer must be one of 0, 1, 2, got nothing"),
    ],
)
def test_missing_fields_of_plain_questions(tmp_path, field, said):
    file = jsonl(tmp_path / "a.jsonl", {k: v for k, v in PLAIN.items() if k != field})
    assert refusal(lambda: read_questions(file)) == wrong(file, "plain", [f"line 1: {said}"])


def test_lines_that_are_no_objects(tmp_path):
    file = write(tmp_path / "a.jsonl", json.dumps(PLAIN) + '\n\n{"a": x}\n7\n{"a": 1, "a": 2}')
    lines = [
        "line 2: is blank",
        "line 3: Expecting value at character 7",
        "line 4: is 7",
        "line 5: a key must come once, got more than once: a",
    ]
    assert refusal(lambda: read_questions(file)) == wrong(file, "plain", lines)


# XNLI


@pytest.mark.parametrize("suffix", WRITERS)
def test_xnli(tmp_path, suffix):
    file = WRITERS[suffix](tmp_path / f"a.{suffix}", NLI | {"language": "en"})
    options = (
        "It rains., right? Yes, It is wet.",
        "It rains., right? Also, It is wet.",
        "It rains., right? No, It is wet.",
    )
    assert read_questions(file, shape="xnli") == (Question("", options, 1, "en"),)


@pytest.mark.parametrize("suffix", WRITERS)
def test_xnli_as_its_authors_release_it(tmp_path, suffix):
    file = WRITERS[suffix](tmp_path / f"xnli.dev.{suffix}", RELEASED_NLI)
    (question,) = read_questions(file, shape="xnli")
    assert question.options[question.answer] == "Es regnet., richtig? Nein, Es ist trocken."
    assert question.options[0] == "Es regnet., richtig? Ja, Es ist trocken."
    assert (question.context, question.answer, question.language) == ("", 2, "de")


@pytest.mark.parametrize("label", [0, 1, 2])
def test_labels_of_xnli_are_numbers_or_names(tmp_path, label):
    name = ["entailment", "neutral", "contradiction"][label]
    records = [NLI | {"label": one} for one in (label, str(label), name)]
    questions = read_questions(jsonl(tmp_path / "a.jsonl", *records), shape="xnli", language="th")
    assert {(question.answer, question.language) for question in questions} == {(label, "th")}


def test_the_words_of_xnli():
    assert sorted(XNLI) == "ar bg de el en es fr hi ru sw th tr ur vi zh".split()
    assert XNLI["es"] == ("correcto", "Sí", "Asi que", "No")
    assert {len(words) for words in XNLI.values()} == {4}
    assert not [words for words in XNLI.values() if len(set(words[1:])) < 3]


def test_malformed_lines_of_xnli(tmp_path):
    records = [
        NLI,
        {"premise": " ", "label": 0},
        NLI | {"label": 3},
        RELEASED_NLI | {"gold_label": "-"},
        NLI | {"language": "xx"},
        RELEASED_NLI | {"language": "de", "sentence2": 1},
    ]
    file = jsonl(tmp_path / "a.jsonl", *records)
    labels = "entailment, neutral, contradiction, 0, 1, 2"
    texts = "must be text and not empty, got: "
    assert refusal(lambda: read_questions(file, shape="xnli")) == wrong(
        file,
        "xnli",
        [
            "line 1: language must say the language where language= does not, got nothing",
            f"line 2: premise, hypothesis {texts}premise is ' ', hypothesis is nothing",
            f"line 3: label must be one of {labels}, got 3",
            f"line 4: gold_label must be one of {labels}, got '-'",
            "line 5: language must be one of ar, bg, de, el, en, es, fr, hi, ru, sw, th, tr, ur, "
            "vi, zh, got 'xx'",
            f"line 6: sentence1, sentence2 {texts}sentence2 is 1",
        ],
    )


def test_a_language_that_is_given_must_be_that_of_the_file(tmp_path):
    file = jsonl(tmp_path / "a.jsonl", RELEASED_NLI)
    assert read_questions(file, shape="xnli", language="de")
    assert refusal(lambda: read_questions(file, shape="xnli", language="fr")) == wrong(
        file, "xnli", ["line 1: language must be 'fr' as language= says, got 'de'"]
    )


# XCOPA


@pytest.mark.parametrize("suffix", WRITERS)
def test_xcopa_in_the_language_of_its_file(tmp_path, suffix):
    file = WRITERS[suffix](tmp_path / f"et/test.et.{suffix}", COPA, COPA | {"question": "effect"})
    options = ("ma puhusin tahu peale.", "ma panin tiku tahu juurde.")
    assert read_questions(file, shape="xcopa") == (
        Question("Küünlaleek kustus sest", options, 0, "et"),
        Question("Küünlaleek kustus seetõttu", options, 0, "et"),
    )


def test_the_language_of_xcopa_may_be_given_or_a_column(tmp_path):
    file = jsonl(tmp_path / "test.et.jsonl", COPA)
    assert read_questions(file, shape="xcopa", language="it")[0].context.endswith(" perché")
    file = jsonl(tmp_path / "all.v2.jsonl", COPA | {"language": "en", "label": 1})
    (question,) = read_questions(file, shape="xcopa")
    assert (question.context, question.answer) == ("Küünlaleek kustus because", 1)


@pytest.mark.parametrize(
    ("premise", "context"),
    [
        (" It rains. ", "It rains"),
        ("那人打开水龙头。", "那人打开水龙头"),
        ('He said "yes."', 'He said "yes.'),
        ("ผู้หญิงเกษียณ", "ผู้หญิงเกษียณ"),
        ("หมาเห่า", "หมาเห่า"),
        ("ฉันเปิดนํ้า", "ฉันเปิดนํ้า"),
    ],
)
def test_only_a_mark_at_the_end_of_a_premise_goes(tmp_path, premise, context):
    file = jsonl(tmp_path / "a.th.jsonl", COPA | {"premise": premise})
    assert read_questions(file, shape="xcopa")[0].context == f"{context} เพราะ"


def test_the_words_of_xcopa():
    assert sorted(XCOPA) == "en et ht id it qu sw ta th tr vi zh".split()
    assert XCOPA["tr"] == ("çünkü", "bu yüzden")
    assert {len(set(words)) for words in XCOPA.values()} == {2}


def test_malformed_lines_of_xcopa(tmp_path):
    changes = [
        {"question": "why"},
        {"label": 2},
        {"choice1": None, "choice2": ""},
        {"choice2": "ma puhusin tahu peale."},
    ]
    file = jsonl(tmp_path / "val.et.jsonl", *[COPA | change for change in changes])
    assert refusal(lambda: read_questions(file, shape="xcopa")) == wrong(
        file,
        "xcopa",
        [
            "line 1: question must be one of cause, effect, got 'why'",
            "line 2: label must be one of 0, 1, got 2",
            "line 3: premise, choice1, choice2 must be text and not empty, got: "
            "choice1 is None, choice2 is ''",
            "line 4: options must differ, got 'ma puhusin tahu peale.', 'ma puhusin tahu peale.'",
        ],
    )


def test_languages_that_xcopa_has_not(tmp_path):
    file = jsonl(tmp_path / "val.xx.jsonl", COPA)
    said = "line 1: language must say the language where language= does not, got nothing"
    assert refusal(lambda: read_questions(file, shape="xcopa")) == wrong(file, "xcopa", [said])
    said = (
        "line 1: language must be one of en, et, ht, id, it, qu, sw, ta, th, tr, vi, zh, got 'xx'"
    )
    assert refusal(lambda: read_questions(file, shape="xcopa", language="xx")) == wrong(
        file, "xcopa", [said]
    )


# Belebele


@pytest.mark.parametrize("suffix", WRITERS)
def test_belebele(tmp_path, suffix):
    record = READING if suffix == "jsonl" else {k: str(v).strip() for k, v in READING.items()}
    file = WRITERS[suffix](tmp_path / f"eng_Latn.{suffix}", record)
    passage = "A passage. " if suffix == "jsonl" else "A passage."
    context = f"P: {passage}\nQ: What is it?\nA: one\nB: two\nC: three\nD: two\nAnswer:"
    expected = (Question(context, ("A", "B", "C", "D"), 3, "eng_Latn"),)
    assert read_questions(file, shape="belebele") == expected
    assert expected[0].options == LETTERS
    assert DELIMITER == " "


def test_malformed_lines_of_belebele(tmp_path):
    missing = {key: value for key, value in READING.items() if key not in ("mc_answer3", "dialect")}
    changes = [
        {"correct_answer_num": "0"},
        {"correct_answer_num": 5},
        {"dialect": None},
        {"correct_answer_num": 1},
    ]
    records = [missing, *[READING | change for change in changes]]
    file = jsonl(tmp_path / "a.jsonl", *records)
    names = "flores_passage, question, mc_answer1, mc_answer2, mc_answer3, mc_answer4"
    assert refusal(lambda: read_questions(file, shape="belebele")) == wrong(
        file,
        "belebele",
        [
            f"line 1: {names} must be text and not empty, got: mc_answer3 is nothing",
            "line 2: correct_answer_num must be one of 1, 2, 3, 4, got '0'",
            "line 3: correct_answer_num must be one of 1, 2, 3, 4, got 5",
            "line 4: dialect must be text and not empty, got: dialect is None",
        ],
    )


# Files


def test_carriage_returns_and_quotes_of_a_table(tmp_path):
    record = {"hypothesis": 'It is "wet', "language": "en", "premise": '"Rain"', "label": 2}
    file = tsv(tmp_path / "a.tsv", record, end="\r\n")
    (question,) = read_questions(file, shape="xnli")
    assert question.options[2] == '"Rain", right? No, It is "wet'
    assert question.answer == 2


def test_lines_of_a_table_are_counted_with_its_header(tmp_path):
    file = tsv(tmp_path / "a.et.tsv", COPA, COPA | {"label": 7})
    said = "line 3: label must be one of 0, 1, got '7'"
    assert refusal(lambda: read_questions(file, shape="xcopa")) == wrong(file, "xcopa", [said])


def test_tables_that_are_damaged(tmp_path):
    file = write(tmp_path / "a.tsv", "premise\tlabel\nx\n")
    expected = f"{file}: a line must have 2 cells, as the header has, got\n  line 2: 1"
    assert refusal(lambda: read_questions(file, shape="xnli")) == expected
    write(file, "premise\tlabel\n")
    expected = f"{file} has no questions, only the names of columns"
    assert refusal(lambda: read_questions(file, shape="xnli")) == expected


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_that_are_empty_or_not_utf_8(tmp_path, suffix):
    file = write(tmp_path / f"a.{suffix}", "")
    assert refusal(lambda: read_questions(file, shape="xnli")) == f"{file} is empty"
    write(file, b"x\n\xff")
    expected = f"got\n  {file} line 2, byte 1: 0xff"
    assert refusal(lambda: read_questions(file, shape="xnli")).endswith(expected)


def test_what_cannot_be_read(tmp_path):
    file = tmp_path / "a.tsv"
    assert refusal(lambda: read_questions(file, shape="mmlu")) == (
        "shape must be one of plain, xnli, xcopa, belebele, got 'mmlu'"
    )
    expected = f"no questions at {file}: there is no such file"
    assert refusal(lambda: read_questions(file), FileNotFoundError) == expected
    write(file, "x")
    expected = f"questions of shape plain must be a .jsonl file, got {file}"
    assert refusal(lambda: read_questions(file)) == expected
    (tmp_path / "folder.tsv").mkdir()
    for other in (tmp_path / "folder.tsv", write(tmp_path / "a.csv", "x")):
        expected = f"questions of shape xnli must be a .jsonl or .tsv file, got {other}"
        assert refusal(lambda other=other: read_questions(other, shape="xnli")) == expected


def test_questions_by_language():
    languages: list[Any] = ["b", "a", "b"]
    questions = [Question(str(i), ("x", "y"), 0, one) for i, one in enumerate(languages)]
    found = by_language(iter(questions))
    assert list(found.items()) == [("b", [questions[0], questions[2]]), ("a", [questions[1]])]
    assert by_language([]) == {}
