"""Multiple choice questions in many languages, as lm-evaluation-harness puts them to a model.

Read from the files of XNLI, XCOPA and Belebele as their authors publish them, or from JSONL
in a shape of our own. The templates and their words are those of the harness, version 0.4.13,
so that scores can be held against published ones; each template names its task there.
"""

import reprlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ilo_jax.corpora.lines import filled, is_text, made, parse_object, parse_tsv

DELIMITER = " "
"""What a model reads between context and option; in the harness, `target_delimiter`.

It stands there also where the context is empty, and is part of neither.
"""

LABELS = ("entailment", "neutral", "contradiction")
"""Labels of XNLI, in the order of the numbers that stand for them."""

XNLI = {
    "ar": ("صحيح", "نعم", "لذا", "رقم"),
    "bg": ("правилно", "да", "така", "не"),
    "de": ("richtig", "Ja", "Auch", "Nein"),
    "el": ("σωστός", "Ναί", "Έτσι", "όχι"),
    "en": ("right", "Yes", "Also", "No"),
    "es": ("correcto", "Sí", "Asi que", "No"),
    "fr": ("correct", "Oui", "Aussi", "Non"),
    "hi": ("सही", "हाँ", "इसलिए", "नहीं"),
    "ru": ("правильно", "Да", "Так", "Нет"),
    "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
    "th": ("ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"),
    "tr": ("doğru", "Evet", "Böylece", "Hayır"),
    "ur": ("صحیح", "جی ہاں", "اس لئے", "نہیں"),
    "vi": ("đúng", "Vâng", "Vì vậy", "Không"),
    "zh": ("正确", "是的", "所以", "不是的"),
}
"""The question after a premise, and the answer for each of `LABELS`.

From lm_eval/tasks/xnli/utils.py, mistakes included (in Arabic, "no" is the word for number).
"""

XCOPA = {
    "en": ("because", "therefore"),
    "et": ("sest", "seetõttu"),
    "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"),
    "it": ("perché", "quindi"),
    "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"),
    "ta": ("காரணமாக", "எனவே"),
    "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"),
    "vi": ("bởi vì", "vì vậy"),
    "zh": ("因为", "所以"),
}
"""What comes before a cause, and before an effect.

From lm_eval/tasks/xcopa/utils.py; English, the language of COPA itself, from
lm_eval/tasks/super_glue/copa/utils.py.
"""

LETTERS = ("A", "B", "C", "D")
"""The options of Belebele."""

SHAPES = {"plain": (".jsonl",)} | dict.fromkeys(("xnli", "xcopa", "belebele"), (".jsonl", ".tsv"))
"""Shapes of questions, and the suffixes of the files that may hold them."""


class Question(NamedTuple):
    """A model chooses the option that it finds most likely after the context."""

    context: str
    """May be empty."""
    options: tuple[str, ...]
    """At least two, all different; without `DELIMITER`."""
    answer: int
    """Which option is right, from 0."""
    language: str
    """Its code in the data set; of Belebele, that of FLORES-200."""


def read_questions(
    path: str | Path, *, shape: str = "plain", language: str = ""
) -> tuple[Question, ...]:
    """The questions of a file, one a line.

    A .tsv file begins with the names of its columns, and quotes in it mean nothing. A .jsonl
    file has an object a line, with these names as keys. Columns that are not named here are
    left alone, but for "plain".

    - "plain", .jsonl only: `context`, `options` (a list), `answer` (from 0) and `language`.
    - "xnli": `premise`, `hypothesis` and `label`, or `sentence1`, `sentence2` and
      `gold_label` as in XNLI 1.0; `language`. The context is empty and an option all the
      text: "PREMISE, right? Yes, HYPOTHESIS".
    - "xcopa": `premise`, `choice1`, `choice2`, `question` (cause or effect) and `label`. The
      context is the premise, its full stop replaced by a connective; an option is a choice
      with its first letter in lower case. The harness cuts the last character whatever it
      is, in Thai a letter; here only punctuation goes.
    - "belebele": `flores_passage`, `question`, `mc_answer1` to `mc_answer4`,
      `correct_answer_num` (from 1) and `dialect`. The context is all of them under "P:",
      "Q:" and "A:" to "D:", then "Answer:", and the options are the four letters. From
      lm_eval/tasks/belebele/_default_template_yaml.

    Args:
        path: A .jsonl or .tsv file.
        shape: One of these.
        language: Of all questions, where the file does not say. For "xcopa" it may be empty
            if the file is named as its authors did, test.et.jsonl.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If `shape` or the kind of file is another, or naming all lines, and what in
            them, that are malformed.
    """
    path = Path(path)
    _refuse_unreadable(path, shape)
    make = {"plain": _plain, "xnli": _xnli, "xcopa": _xcopa, "belebele": _belebele}[shape]
    if shape == "xcopa":
        language = language or _named(path)
    lines, what = filled(path), f"{path}: a line must be a question of shape {shape}"
    if path.suffix == ".tsv":
        rows = _rows(lines, path)
        return tuple(made(rows, lambda row: make(row, language), what=what, number=2))
    return tuple(made(lines, lambda line: make(parse_object(line), language), what=what))


def by_language(questions: Iterable[Question]) -> dict[str, list[Question]]:
    """The questions of every language, both in the order in which they come."""
    found: dict[str, list[Question]] = {}
    for question in questions:
        found.setdefault(question.language, []).append(question)
    return found


def _refuse_unreadable(path: Path, shape: str) -> None:
    if shape not in SHAPES:
        raise ValueError(f"shape must be one of {', '.join(SHAPES)}, got {shape!r}")
    if not path.exists():
        raise FileNotFoundError(f"no questions at {path}: there is no such file")
    if path.suffix not in SHAPES[shape] or not path.is_file():
        kinds = " or ".join(SHAPES[shape])
        raise ValueError(f"questions of shape {shape} must be a {kinds} file, got {path}")


def _named(path: Path) -> str:
    """The language that test.et.jsonl is named by; empty if XCOPA has no such one."""
    code = Path(path.stem).suffix.removeprefix(".")
    return code if code in XCOPA else ""


def _rows(lines: Sequence[str], path: Path) -> list[dict[str, str]]:
    """The lines of a table by the names of its columns."""
    columns = parse_tsv(lines, str(path))
    if len(lines) == 1:
        raise ValueError(f"{path} has no questions, only the names of columns")
    rows = zip(*columns.values(), strict=True)
    return [{name: cell.rstrip() for name, cell in zip(columns, row, strict=True)} for row in rows]


def _plain(record: Mapping[str, Any], language: str) -> Question:
    others = [key for key in record if key not in Question._fields]
    if others:
        raise ValueError(f"has also {', '.join(others)}")
    if not is_text(record.get("context")):
        raise ValueError(f"context must be text, got {_shown(record, 'context')}")
    options = _options(record)
    places = [str(place) for place in range(len(options))]
    answer = _place(record, "answer", places)
    return Question(record["context"], options, answer, _language(record, "language", language))


def _xnli(record: Mapping[str, Any], language: str) -> Question:
    released = "gold_label" in record
    names = ("sentence1", "sentence2") if released else ("premise", "hypothesis")
    premise, hypothesis = _texts(record, *names)
    named = (*LABELS, *map(str, range(len(LABELS))))
    label = _place(record, "gold_label" if released else "label", named) % len(LABELS)
    language = _language(record, "language", language)
    right, *answers = _words(XNLI, language)
    options = tuple(f"{premise}, {right}? {answer}, {hypothesis}" for answer in answers)
    return Question("", options, label, language)


def _xcopa(record: Mapping[str, Any], language: str) -> Question:
    premise, *choices = _texts(record, "premise", "choice1", "choice2")
    relation = _place(record, "question", ("cause", "effect"))
    label = _place(record, "label", ("0", "1"))
    language = _language(record, "language", language)
    context = f"{_without_stop(premise)} {_words(XCOPA, language)[relation]}"
    options = tuple(choice[0].lower() + choice[1:] for choice in choices)
    _refuse_equal(options)
    return Question(context, options, label, language)


def _belebele(record: Mapping[str, Any], language: str) -> Question:
    names = [f"mc_answer{number}" for number in range(1, 5)]
    passage, question, *answers = _texts(record, "flores_passage", "question", *names)
    answer = _place(record, "correct_answer_num", ("1", "2", "3", "4"))
    listed = [f"{letter}: {one}" for letter, one in zip(LETTERS, answers, strict=True)]
    lines = [f"P: {passage}", f"Q: {question.strip()}", *listed, "Answer:"]
    return Question("\n".join(lines), LETTERS, answer, _language(record, "dialect", language))


def _without_stop(sentence: str) -> str:
    """A sentence without the punctuation mark at its end, if there is one."""
    sentence = sentence.strip()
    return sentence[:-1] if unicodedata.category(sentence[-1]).startswith("P") else sentence


def _words(words: Mapping[str, tuple[str, ...]], language: str) -> tuple[str, ...]:
    if language not in words:
        raise ValueError(f"language must be one of {', '.join(words)}, got {language!r}")
    return words[language]


def _language(record: Mapping[str, Any], name: str, given: str) -> str:
    """The language that a record names, or else the one that was given."""
    if name not in record and not given:
        raise ValueError(f"{name} must say the language where language= does not, got nothing")
    (language,) = _texts(record, name) if name in record else (given,)
    if given and language != given:
        raise ValueError(f"{name} must be {given!r} as language= says, got {language!r}")
    return language


def _options(record: Mapping[str, Any]) -> tuple[str, ...]:
    options = record.get("options")
    if not isinstance(options, list) or not all(map(_is_filled, options)) or len(options) < 2:
        shown = _shown(record, "options")
        raise ValueError(f"options must be a list of two texts or more, got {shown}")
    _refuse_equal(options)
    return tuple(options)


def _refuse_equal(options: Sequence[str]) -> None:
    if len(set(options)) < len(options):
        raise ValueError(f"options must differ, got {', '.join(map(repr, options))}")


def _texts(record: Mapping[str, Any], *names: str) -> list[str]:
    """What a record has under these names.

    Raises:
        ValueError: Naming all that are missing, empty or no text.
    """
    wrong = [
        f"{name} is {_shown(record, name)}" for name in names if not _is_filled(record.get(name))
    ]
    if wrong:
        raise ValueError(f"{', '.join(names)} must be text and not empty, got: {', '.join(wrong)}")
    return [record[name] for name in names]


def _is_filled(value: object) -> bool:
    return is_text(value) and bool(str(value).strip())


def _place(record: Mapping[str, Any], name: str, allowed: Sequence[str]) -> int:
    """Which of those allowed a record has under a name, as text or as a number."""
    value = str(record.get(name))
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {_shown(record, name)}")
    return allowed.index(value)


def _shown(record: Mapping[str, Any], name: str) -> str:
    return reprlib.repr(record[name]) if name in record else "nothing"
