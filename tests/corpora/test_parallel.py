import dataclasses
import hashlib
import json
from pathlib import Path

import pytest

from ilo_jax.corpora import parallel
from ilo_jax.corpora.languages import PAPER
from ilo_jax.corpora.parallel import SAMPLE, Parallel, read, sample
from tests.corpora.material import plain, refusal

TEXT = {"deu_Latn": ["eins", "zwei", "drei"], "eng_Latn": ["one", "two", "three"]}


def write_folder(folder: Path, suffix: str, text: dict[str, list[str]] = TEXT) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for code, lines in text.items():
        (folder / f"{code}.{suffix}").write_text("".join(f"{s}\n" for s in lines), newline="")
    return folder


def written(folder: Path, kind: str, text: dict[str, list[str]]) -> Path:
    """A corpus of a kind: a folder of text files or of a split, or a table."""
    if kind in ("folder", "dev"):
        write_folder(folder / kind, {"folder": "txt"}.get(kind, kind), text)
        return folder if kind == "dev" else folder / kind
    rows = list(zip(*text.values(), strict=True))
    tsv = ["\t".join(row) for row in [tuple(text), *rows]]
    jsonl = [json.dumps(dict(zip(text, row, strict=True))) for row in rows]
    lines = tsv if kind == "tsv" else jsonl
    return write_bytes(folder / f"t.{kind}", "".join(f"{line}\n" for line in lines).encode())


def write_bytes(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


# Layouts


@pytest.mark.parametrize("split", ["dev", "devtest"])
@pytest.mark.parametrize("asked", [True, False])
def test_a_flores_folder_with_one_split(tmp_path, split, asked):
    write_folder(tmp_path / split, split)
    (tmp_path / "LICENSE.txt").write_text("words")
    corpus = read(tmp_path, split=split if asked else "")
    assert plain(corpus) == TEXT
    assert corpus.source == f"{tmp_path} ({split})"


def test_a_flores_folder_with_both_splits(tmp_path):
    write_folder(tmp_path / "dev", "dev")
    other = {code: [f"{s} more" for s in lines] for code, lines in TEXT.items()}
    write_folder(tmp_path / "devtest", "devtest", other)
    assert plain(read(tmp_path, split="dev")) == TEXT
    assert plain(read(tmp_path, split="devtest")) == other


def test_the_folder_of_a_split_itself(tmp_path):
    write_folder(tmp_path / "devtest", "devtest")
    corpus = read(tmp_path / "devtest")
    assert plain(corpus) == plain(read(tmp_path / "devtest", split="devtest")) == TEXT


def test_a_folder_of_text_files(tmp_path):
    write_folder(tmp_path, "txt")
    (tmp_path / "README.md").write_text("words")
    (tmp_path / "._eng_Latn.txt").write_text("what macOS leaves")
    (tmp_path / "more.txt").mkdir()
    corpus = read(tmp_path)
    assert plain(corpus) == TEXT
    assert corpus.source == str(tmp_path)


def test_a_tsv_table(tmp_path):
    file = tmp_path / "t.tsv"
    file.write_text("eng_Latn\tdeu_Latn\none\teins\ntwo\tzwei\nthree\tdrei\n")
    assert plain(read(file)) == TEXT


def test_a_jsonl_table_whatever_the_order_of_its_keys(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text(
        '{"eng_Latn": "one", "deu_Latn": "eins"}\n{"deu_Latn": "zwei", "eng_Latn": "two"}\n'
        '{"deu_Latn": "drei", "eng_Latn": "three"}'
    )
    assert plain(read(file)) == TEXT


def test_the_path_may_be_a_string(tmp_path):
    assert plain(read(str(write_folder(tmp_path, "txt")))) == TEXT


# What is asked for


@pytest.fixture(params=["folder", "tsv", "jsonl"])
def three(request, tmp_path) -> Path:
    """Three languages whose codes are in no table, in every layout."""
    text = {"b": ["b1", "b2"], "c_Xxxx": ["c1", "c2"], "a": ["a1", "a2"]}
    if request.param == "folder":
        return write_folder(tmp_path, "txt", text)
    file = tmp_path / f"t.{request.param}"
    rows = list(zip(*text.values(), strict=True))
    if request.param == "tsv":
        file.write_text("\n".join("\t".join(row) for row in [tuple(text), *rows]))
    else:
        file.write_text("\n".join(json.dumps(dict(zip(text, r, strict=True))) for r in rows))
    return file


def test_all_languages_come_sorted(three):
    assert read(three).languages == ("a", "b", "c_Xxxx")


def test_asked_languages_keep_their_order(three):
    corpus = read(three, languages=["c_Xxxx", "a"])
    assert corpus.languages == ("c_Xxxx", "a")
    assert corpus.sentences == (("c1", "c2"), ("a1", "a2"))


def test_the_first_sentences(three):
    assert plain(read(three, sentences=1)) == {"a": ["a1"], "b": ["b1"], "c_Xxxx": ["c1"]}
    assert read(three, sentences=2) == read(three)


@pytest.mark.parametrize("sentences", [3, 0, -1])
def test_more_sentences_than_there_are(three, sentences):
    expected = f"sentences must be in [1, 2] for {three}, got {sentences}"
    assert refusal(lambda: read(three, sentences=sentences)) == expected


def test_a_language_asked_for_twice(three):
    expected = f"{three}: a language must come once, got more than once: a, b"
    assert refusal(lambda: read(three, languages=["a", "b", "a", "b"])) == expected


CHOOSE = "; choose with languages=, or leave it empty for all"


def test_all_missing_languages(three):
    expected = f"{three} has no zzz, aa (near: a), c_Yyyy (near: c_Xxxx); it has 3 languages: "
    refused = refusal(lambda: read(three, languages=["zzz", "a", "aa", "c_Yyyy"]))
    assert refused == expected + "a, b, c_Xxxx" + CHOOSE


def test_a_missing_language_in_a_large_corpus(tmp_path):
    codes = [f"a{letter}{letter}_Latn" for letter in "bcdefghijkl"] + ["zho_Hans", "zho_Hant"]
    write_folder(tmp_path, "txt", {code: ["text", "more"] for code in codes})
    assert refusal(lambda: read(tmp_path, languages=["zho_Latn", "zh"])) == (
        f"{tmp_path} has no zho_Latn (near: zho_Hans, zho_Hant), zh (near: zho_Hans, zho_Hant); "
        f"it has 13 languages: {', '.join(codes[:10])}, and 3 more{CHOOSE}"
    )


def test_damage_in_a_language_that_was_not_asked_for_does_not_matter_in_a_folder(tmp_path):
    write_folder(tmp_path, "txt", TEXT | {"xxx": [""]})
    write_bytes(tmp_path / "yyy.txt", b"\xff")
    assert plain(read(tmp_path, languages=["deu_Latn", "eng_Latn"])) == TEXT


def test_a_column_that_is_no_language_does_not_matter_if_languages_are_asked_for(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"id": 1, "a": "x", "note": null}\n{"id": 2, "a": "y", "note": ""}\n')
    assert plain(read(file, languages=["a"])) == {"a": ["x", "y"]}


# Text stays as it is


ODD = ["a\u2028b", "a\x85b", "a\u2029b", "a\x0bb", "a\x0cb", "a\x1cb", 'a "b', '"a" b"']


def test_only_newlines_end_a_line_of_text(tmp_path):
    write_folder(tmp_path, "txt", {"a": ODD})
    assert plain(read(tmp_path)) == {"a": ODD}


def test_only_newlines_end_a_line_of_a_tsv_table_and_quotes_are_text(tmp_path):
    table = "a\tb\n" + "".join(f"{s}\t{s}\n" for s in ODD)
    file = write_bytes(tmp_path / "t.tsv", table.encode())
    assert plain(read(file)) == {"a": ODD, "b": ODD}


@pytest.mark.parametrize("ascii_only", [True, False])
def test_only_newlines_end_a_line_of_a_jsonl_table(tmp_path, ascii_only):
    odd = [*ODD, "a\rb", "a\nb"]
    table = "".join(json.dumps({"a": s}, ensure_ascii=ascii_only) + "\n" for s in odd)
    file = write_bytes(tmp_path / "t.jsonl", table.encode())
    assert plain(read(file)) == {"a": odd}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "one\r\n two\u00a0x \t\r\n\ufeffx\r\n"),
        ("t.tsv", "a\r\none\r\n two\u00a0x \r\n\ufeffx\r\n"),
        ("t.jsonl", '{"a": "one"}\r\n{"a": " two\u00a0x \u3000"}\r\n{"a": "\ufeffx"}\r\n'),
    ],
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("final", [True, False])
def test_byte_order_marks_carriage_returns_and_trailing_space(tmp_path, name, content, mark, final):
    data = mark + content.encode()
    file = write_bytes(tmp_path / name, data if final else data.removesuffix(b"\r\n"))
    path = tmp_path if name == "a.txt" else file
    assert plain(read(path)) == {"a": ["one", " two\u00a0x", "\ufeffx"]}


# Refusals


def test_a_missing_path(tmp_path):
    expected = f"no corpus at {tmp_path}/none: there is no such file or folder"
    assert refusal(lambda: read(tmp_path / "none"), FileNotFoundError) == expected


NOT_A_CORPUS = (
    "{} holds no corpus: it must hold <code>.txt or <code>.jsonl files, or <code>.dev, dev.<code> "
    "(or devtest) files, all of them also in folders dev and devtest; it holds {}"
)


def test_a_folder_with_nothing_to_read(tmp_path):
    assert refusal(lambda: read(tmp_path)) == NOT_A_CORPUS.format(tmp_path, "nothing")
    (tmp_path / "dev").mkdir()
    (tmp_path / "eng.csv").touch()
    assert refusal(lambda: read(tmp_path)) == NOT_A_CORPUS.format(tmp_path, "dev, eng.csv")


def test_a_file_of_another_kind(tmp_path):
    file = write_bytes(tmp_path / "t.csv", b"a,b\n")
    expected = f"a corpus must be a folder, a .tsv or a .jsonl file, got {file}; "
    assert refusal(lambda: read(file)) == expected + "text is read by its folder"
    file = write_bytes(tmp_path / "t.tar.gz", b"")
    assert refusal(lambda: read(file)).endswith("t.tar.gz; experiments.inputs.prepare unpacks it")


def test_a_table_that_begins_with_a_sentence(tmp_path):
    file = write_bytes(tmp_path / "t.tsv", b"Good day.\tGuten Tag.\nYes.\tJa.\nNo.\tNein.\n")
    assert refusal(lambda: read(file)) == (
        f"{file}: keys, or line 1, must name languages, without spaces, got\n"
        "  'Good day.'\n  'Guten Tag.'"
    )


def test_two_splits_and_no_choice(tmp_path):
    write_folder(tmp_path / "dev", "dev")
    write_folder(tmp_path / "devtest", "devtest")
    expected = f"{tmp_path} has the splits dev, devtest: choose one with split="
    assert refusal(lambda: read(tmp_path)) == expected


def test_a_split_that_is_not_there(tmp_path):
    write_folder(tmp_path / "devtest", "devtest")
    expected = f"{tmp_path} has no split 'dev': it has devtest"
    assert refusal(lambda: read(tmp_path, split="dev")) == expected


def test_a_split_of_a_corpus_without_splits(three):
    expected = f"{three} has no split 'dev': it has no splits: leave split empty"
    assert refusal(lambda: read(three, split="dev")) == expected


def test_unequal_numbers_of_sentences(tmp_path):
    text = {"a": ["x"] * 3, "b": ["x"] * 2, "c": ["x"] * 3, "d": []}
    write_folder(tmp_path, "txt", text)
    assert refusal(lambda: read(tmp_path)) == (
        f"{tmp_path}: languages must have as many sentences as each other (choose with "
        "languages= if some are none), got 0 in d; 2 in b; 3 in a, c"
    )


def test_unequal_numbers_are_found_beyond_the_sentences_asked_for(tmp_path):
    write_folder(tmp_path, "txt", {"a": ["x"] * 3, "b": ["x"] * 2})
    assert refusal(lambda: read(tmp_path, sentences=1)).endswith("got 2 in b; 3 in a")


@pytest.mark.parametrize("name", ["a.txt", "t.tsv"])
def test_no_sentences(tmp_path, name):
    file = write_bytes(tmp_path / name, b"a\tb\n" if name == "t.tsv" else b"")
    path = tmp_path if name == "a.txt" else file
    assert refusal(lambda: read(path)) == f"{path} has no sentences"


@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl"])
def test_an_empty_table(tmp_path, name):
    file = write_bytes(tmp_path / name, b"")
    assert refusal(lambda: read(file)) == f"{file} is empty"


EMPTY = (
    "{}: a sentence must not be empty or a placeholder (mend it, or drop_incomplete=True leaves "
    "its line out in all languages), got {}:\n"
)


def test_empty_sentences_of_a_folder(tmp_path):
    write_folder(tmp_path, "txt", {"a": ["x", "", "x", "x"], "b": ["x", "x", "x", " \t\u3000"]})
    lines = f"  {tmp_path}/a.txt line 2: empty\n  {tmp_path}/b.txt line 4: empty"
    expected = EMPTY.format(tmp_path, 2) + lines
    assert refusal(lambda: read(tmp_path)) == expected


def test_many_empty_sentences_are_counted(tmp_path):
    write_folder(tmp_path, "txt", {"a": ["x"] + [""] * 12})
    named = "\n".join(f"  {tmp_path}/a.txt line {n}: empty" for n in range(2, 12))
    expected = EMPTY.format(tmp_path, 12) + f"{named}\n  and 2 more"
    assert refusal(lambda: read(tmp_path)) == expected


def test_empty_sentences_of_tables(tmp_path):
    tsv = write_bytes(tmp_path / "t.tsv", b"a\tb\nx\tx\n\tx\nx\t \r\n")
    jsonl = write_bytes(tmp_path / "t.jsonl", b'{"a": "x", "b": "x"}\n{"a": "x", "b": ""}\n')
    expected = EMPTY.format(tsv, 2) + f"  {tsv}, a, line 3: empty\n  {tsv}, b, line 4: empty"
    assert refusal(lambda: read(tsv)) == expected
    assert refusal(lambda: read(jsonl)) == EMPTY.format(jsonl, 1) + f"  {jsonl}, b, line 2: empty"


def test_a_blank_line_at_the_end_is_an_empty_sentence(tmp_path):
    write_bytes(tmp_path / "a.txt", b"x\n\n")
    line = f"  {tmp_path}/a.txt line 2: empty"
    assert refusal(lambda: read(tmp_path)) == EMPTY.format(tmp_path, 1) + line
    write_bytes(tmp_path / "b.txt", b"x\n")
    assert refusal(lambda: read(tmp_path)).endswith("got 1 in b; 2 in a (the last one blank)")


def test_text_that_is_not_utf_8(tmp_path):
    write_bytes(tmp_path / "a.txt", b"x\nxy\xffz\nx\n")
    write_bytes(tmp_path / "b.txt", b"\xef\xbb\xbf\xe9t\xe9\n")
    write_bytes(tmp_path / "c.txt", b"x\n")
    assert refusal(lambda: read(tmp_path)) == (
        "text must be UTF-8 (iconv -f ENCODING -t UTF-8 converts it), got\n"
        f"  {tmp_path}/a.txt line 2, byte 3: 0xff\n"
        f"  {tmp_path}/b.txt line 1, byte 4: 0xe9"
    )


@pytest.mark.parametrize("name", ["t.tsv", "t.jsonl"])
def test_tables_that_are_not_utf_8(tmp_path, name):
    file = write_bytes(tmp_path / name, b"a\nx\xc3\n")
    expected = f"got\n  {file} line 2, byte 2: 0xc3"
    assert refusal(lambda: read(file)).endswith(expected)


def test_ragged_rows_of_a_tsv_table(tmp_path):
    file = write_bytes(tmp_path / "t.tsv", b"a\tb\nx\tx\nx\nx\tx\tx\n\n")
    assert refusal(lambda: read(file)) == (
        f"{file}: a line must have 2 cells, as the header has, got\n"
        "  line 3: 1\n  line 4: 3\n  line 5: none, it is blank"
    )


def test_many_ragged_rows_are_counted(tmp_path):
    file = write_bytes(tmp_path / "t.tsv", b"a\tb\n" + b"x\n" * 12)
    assert refusal(lambda: read(file)).endswith("  line 11: 1\n  and 2 more")


def test_a_column_that_comes_twice(tmp_path):
    file = write_bytes(tmp_path / "t.tsv", b"a\tb\ta \r\nx\tx\tx\n")
    expected = f"{file}: a column must come once, got more than once: a"
    assert refusal(lambda: read(file)) == expected


def test_a_column_without_a_name(tmp_path):
    file = write_bytes(tmp_path / "t.tsv", b"a\tb\t\nx\tx\tx\n")
    assert refusal(lambda: read(file)) == f"{file}: column 3 must have a name, got none"


def test_broken_lines_of_a_jsonl_table(tmp_path):
    lines = ['{"a": "x"}', '{"a": x}', "", '["x"]', '{"a": "x", "a": "y"}', "[" * 3, "7"]
    file = write_bytes(tmp_path / "t.jsonl", "\n".join(lines).encode())
    assert refusal(lambda: read(file)) == (
        f"{file}: a line must be a JSON object, got\n"
        "  line 2: Expecting value at character 7\n"
        "  line 3: is blank\n"
        "  line 4: is ['x']\n"
        "  line 5: a key must come once, got more than once: a\n"
        "  line 6: Expecting value at character 4\n"
        "  line 7: is 7"
    )


def test_lines_of_a_jsonl_table_with_other_keys(tmp_path):
    lines = ['{"a": "x", "b": "x"}', '{"a": "x"}', '{"b": "x", "c": "x"}']
    lines.append('{"a": "x", "b": "x", "c": "x"}')
    file = write_bytes(tmp_path / "t.jsonl", "\n".join(lines).encode())
    assert refusal(lambda: read(file)) == (
        f"{file}: a line must have the keys of line 1, got\n"
        "  line 2: no b\n  line 3: no a, also c\n  line 4: also c"
    )


def test_values_of_a_jsonl_table_that_are_not_text(tmp_path):
    lines = ['{"a": "x", "b": "x"}', '{"a": 1, "b": "\\ud83d"}', '{"a": null, "b": ["x"]}']
    file = write_bytes(tmp_path / "t.jsonl", "\n".join(lines).encode())
    assert refusal(lambda: read(file)) == (
        f"{file}: a sentence must be text, got\n"
        "  a 2: 1\n  a 3: None\n  b 2: '\\ud83d'\n  b 3: ['x']"
    )


# Corpora made by hand


def corpus_of(text: dict[str, list[str]]) -> Parallel:
    return Parallel(tuple(text), tuple(map(tuple, text.values())), "here")


def test_a_corpus_made_by_hand_is_checked_as_well():
    assert refusal(lambda: Parallel(("a", "b"), (("x",),), "here")) == (
        "here: every language must have its sentences, got 2 languages and sentences of 1"
    )
    assert refusal(lambda: Parallel(("a", "a"), (("x",), ("x",)), "here")) == (
        "here: a language must come once, got more than once: a"
    )
    assert refusal(lambda: corpus_of({"a": ["x"], "b": []})) == (
        "here: languages must have as many sentences as each other (choose with languages= if some "
        "are none), got 0 in b; 1 in a"
    )
    assert refusal(lambda: corpus_of({"a": []})) == "here has no sentences"
    assert refusal(lambda: corpus_of({})) == "here has no sentences"
    assert refusal(lambda: corpus_of({"a": [" "]})).endswith("a sentence 1: empty")


@pytest.mark.parametrize("code", ["", " \n", "a\udcff"])
def test_a_language_without_a_name_or_with_one_that_was_no_utf_8(code):
    said = f"here: a language must have a name in UTF-8, got {code!a}"
    assert refusal(lambda: corpus_of({code: ["x"], "b": ["x"]})) == said


# What is missing

GAPS = {
    "a": ["one", "", "three", "four", "<range>", "six", "seven"],
    "b": ["one", "two", " \u3000\u200b\ufeff", "four", "-", "six", "seven"],
    "c": ["one", "two", "three", "four", "five", "\u2014", "seven"],
}


@pytest.mark.parametrize("kind", ["folder", "tsv", "jsonl"])
def test_lines_that_lack_a_sentence_are_named_or_left_out_of_all_languages(tmp_path, kind):
    path = written(tmp_path, kind, GAPS)
    refused = refusal(lambda: read(path))
    first, places = (1, "{0}, {1}, line") if kind == "jsonl" else (2, "{0}, {1}, line")
    first, places = (1, "{0}/{1}.txt line") if kind == "folder" else (first, places)
    gaps = [("a", 1, "empty"), ("a", 4, "<range>"), ("b", 2, "empty"), ("b", 4, "-")]
    lines = [
        f"  {places.format(path, code)} {index + first}: {what}"
        for code, index, what in [*gaps, ("c", 5, "\u2014")]
    ]
    assert refused == EMPTY.format(path, 5) + "\n".join(lines)
    corpus = read(path, drop_incomplete=True)
    assert plain(corpus) == {code: ["one", "four", "seven"] for code in "abc"}
    assert corpus.dropped == 4
    assert corpus.name("b", 1) == f"{places.format(path, 'b')} {first + 3}"
    assert read(path, languages=["c"], drop_incomplete=True).dropped == 1
    fewer = read(path, sentences=2, drop_incomplete=True)
    assert len(fewer.sentences[0]) == len(fewer.numbers) == 2


def test_nothing_is_left_out_that_is_a_sentence(tmp_path):
    kept = ["<a> b", "a - b", "...", "?", "1", "\U0001f44d", "<", "a<range>", "[text]"]
    write_folder(tmp_path, "txt", {"a": kept})
    assert plain(read(tmp_path, drop_incomplete=True)) == plain(read(tmp_path)) == {"a": kept}


def test_lines_are_counted_before_any_is_left_out(tmp_path):
    write_folder(tmp_path, "txt", {"a": ["x", "", "y"], "b": ["x", "y"]})
    refused = refusal(lambda: read(tmp_path, drop_incomplete=True))
    assert refused.endswith("got 2 in b; 3 in a")


def test_a_corpus_that_nothing_or_one_line_is_left_of(tmp_path):
    write_folder(tmp_path, "txt", {"a": ["x", "", "y"], "b": ["", "x", "y"]})
    assert refusal(lambda: read(tmp_path, drop_incomplete=True)) == (
        f"{tmp_path}: every language must have two sentences or more, got 1; 2 lines were left out"
    )


def test_a_verse_a_line_is_seven_thousand_in_all_languages(bible: Path):
    corpus = read(bible, languages=BIBLE, drop_incomplete=True)
    assert (len(corpus.sentences[0]), corpus.dropped) == (7783, 7957 - 7783)


# Line ends


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["folder", "dev", "tsv", "jsonl"])
def test_line_ends_are_alike(tmp_path, kind, end):
    """Of one file with another, too: `eng_Latn` ends its lines otherwise."""
    path = written(tmp_path, kind, TEXT)
    for file in tmp_path.rglob("*.*"):
        if file.is_file() and file.stem != "eng_Latn":
            file.write_bytes(file.read_bytes().replace(b"\n", end.encode()))
    assert plain(read(path)) == TEXT


@pytest.mark.parametrize("kind", ["folder", "tsv", "jsonl"])
def test_a_corpus_of_one_sentence_is_none(tmp_path, kind):
    path = written(tmp_path, kind, {"a": ["one\u2028two\x0bthree"], "b": ["x"]})
    assert refusal(lambda: read(path)) == (
        f"{path}: every language must have two sentences or more, got 1; "
        "lines end in LF, CRLF or CR"
    )


def test_a_sentence_that_is_longer_than_any_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "LONGEST", 5)
    write_folder(tmp_path, "txt", {"a": ["12345", "x"], "b": ["x", "123456"]})
    assert refusal(lambda: read(tmp_path)) == (
        f"{tmp_path}: a sentence must have at most 5 characters (do lines have their ends?), got "
        f"1:\n  {tmp_path}/b.txt line 2: 6 characters"
    )


# Hash


def test_the_hash_is_pinned():
    """Kept hidden states go by it: a change here makes every store out of date."""
    corpus = corpus_of({"eng_Latn": ["one", 'tw"o'], "rus_Cyrl": ["один", "два"]})
    text = r'[["eng_Latn", "rus_Cyrl"], [["one", "tw\"o"], '
    text += r'["\u043e\u0434\u0438\u043d", "\u0434\u0432\u0430"]]]'
    assert corpus.hash == hashlib.sha256(text.encode()).hexdigest()


def test_the_hash_is_of_the_text_and_not_of_its_place(tmp_path):
    write_folder(tmp_path / "txt", "txt")
    write_folder(tmp_path / "flores/dev", "dev")
    first, second = read(tmp_path / "txt"), read(tmp_path / "flores")
    assert first.source != second.source
    assert first.hash == second.hash == corpus_of(TEXT).hash


def test_the_hash_tells_apart_order_codes_and_boundaries():
    corpora = [
        {"a": ["x", "y"], "b": ["z", "w"]},
        {"b": ["z", "w"], "a": ["x", "y"]},
        {"a": ["y", "x"], "b": ["w", "z"]},
        {"a": ["x", "y"], "c": ["z", "w"]},
        {"a": ["z", "w"], "b": ["x", "y"]},
        {"a": ["x", "y"]},
        {"a": ["xy"]},
        {"a": ["x\ny"]},
        {"a": ["x y"]},
        {"a": ['x", "y']},
        {"a": ["x", "y "]},
        {"ab": ["x"], "c": ["y"]},
        {"a": ["x"], "bc": ["y"]},
        {"a": ["x"], "b": ["cy"]},
    ]
    assert len({corpus_of(text).hash for text in corpora}) == len(corpora)


def test_the_source_does_not_change_the_hash():
    corpus = corpus_of(TEXT)
    assert dataclasses.replace(corpus, source="there").hash == corpus.hash


# Real corpora

BIBLE = "ces dan deu eng fra jpn slv spa srp swe swh ukr wol zho".split()


def test_the_sample_is_read_from_the_package():
    assert sample() == read(SAMPLE)
    assert SAMPLE.is_dir()


def test_flores_200(flores: Path):
    codes = [language.code for language in PAPER]
    corpus = read(flores, languages=codes, split="devtest")
    assert corpus.languages == tuple(codes)
    assert {len(sentences) for sentences in corpus.sentences} == {1012}
    assert not [s for text in corpus.sentences for s in text if s != s.rstrip() or "\n" in s]
    assert read(flores / "devtest", languages=codes).hash == corpus.hash
    assert corpus.sentences[0] == read(flores, languages=codes[:1]).sentences[0]


def test_every_language_of_flores_200_can_be_read(flores: Path):
    assert len(read(flores, split="devtest").languages) == 204
