"""The sample is what its note says; sentences that are not are named, never let through."""

import unicodedata
from collections import Counter

import pytest

from ilo_jax.corpora.languages import PAPER
from ilo_jax.corpora.parallel import SAMPLE, Parallel, sample

CODES = [language.code for language in PAPER]

SCRIPTS = {
    "Latn": {"LATIN"},
    "Cyrl": {"CYRILLIC"},
    "Telu": {"TELUGU"},
    "Thai": {"THAI"},
    "Deva": {"DEVANAGARI"},
    "Sinh": {"SINHALA"},
    "Arab": {"ARABIC"},
    "Beng": {"BENGALI"},
    "Hans": {"CJK"},
    "Hant": {"CJK"},
    "Jpan": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
}
"""First words of the Unicode names of the letters and marks of each script."""

CANTONESE = "嘅喺咗啲佢哋冇唔嚟"
"""Characters of written Cantonese that standard Chinese does without."""

TYPICAL = {
    "swe_Latn": "och att är inte på",
    "nld_Latn": "het een de van naar",
    "bjn_Latn": "nang kada wan lawan inya",
    "jav_Latn": "ing ora sing lan wis",
    "tgl_Latn": "ang ng sa mga ay",
    "ind_Latn": "yang tidak itu dengan dia",
    "rus_Cyrl": "что мы она они он и с",
    "ces_Latn": "se jsme jsem ve že",
    "dan_Latn": "og er ikke på af",
    "eng_Latn": "the of to and is",
    "ukr_Cyrl": "що ми вона вони він і з",
    "srp_Cyrl": "је се да смо су",
    "fra_Latn": "le les des est dans une",
    "ban_Latn": "tiang ane ia tusing suba",
    "deu_Latn": "der die das ist und",
    "sun_Latn": "anu teu geus jeung ka",
    "pol_Latn": "się nie jest w z",
    "slv_Latn": "smo sem ki ker pri v",
    "spa_Latn": "el los la en un",
    "gle_Latn": "an na ag tá sé",
    "swh_Latn": "ya wa kwa na katika",
    "min_Latn": "nan indak ambo inyo jo",
}
"""Common words of the languages that share Latin or Cyrillic script."""


@pytest.fixture(scope="module")
def corpus() -> Parallel:
    return sample()


@pytest.fixture(scope="module")
def text(corpus) -> dict[str, tuple[str, ...]]:
    return dict(zip(corpus.languages, corpus.sentences, strict=True))


def letters(sentence: str) -> str:
    """Letters and the marks that combine with them."""
    return "".join(c for c in sentence if unicodedata.category(c)[0] in "LM")


def script(letter: str) -> str:
    return unicodedata.name(letter).split()[0]


def test_it_holds_the_papers_languages_and_no_other(corpus):
    assert sorted(corpus.languages) == sorted(CODES)


def test_it_is_large_enough_to_try_things_out(corpus):
    assert len(corpus.sentences[0]) >= 32


@pytest.mark.parametrize("code", CODES)
def test_sentences_differ_from_each_other(text, code):
    assert [s for s, count in Counter(text[code]).items() if count > 1] == []


@pytest.mark.parametrize("code", CODES)
def test_every_letter_is_of_the_languages_script(text, code):
    allowed = SCRIPTS[code[4:]]
    foreign = {
        number: [c for c in letters(sentence) if script(c) not in allowed]
        for number, sentence in enumerate(text[code], 1)
    }
    assert {number: found for number, found in foreign.items() if found} == {}


@pytest.mark.parametrize("code", CODES)
def test_every_sentence_holds_letters(text, code):
    assert [number for number, s in enumerate(text[code], 1) if len(letters(s)) < 4] == []


@pytest.mark.parametrize("code", CODES)
def test_text_is_normal_and_visible(text, code):
    """NFC, no control, format or private character, no doubled or leading space."""
    odd = {
        number: sentence
        for number, sentence in enumerate(text[code], 1)
        if sentence != unicodedata.normalize("NFC", sentence)
        or "  " in sentence
        or sentence != sentence.strip()
        or any(unicodedata.category(c) in ("Cc", "Co", "Cn", "Zl", "Zp") for c in sentence)
        or any(c in "\ufeff\u200b\ufffd\u00ad" for c in sentence)
    }
    assert odd == {}


def test_no_sentence_was_copied_from_one_language_to_another(text):
    places: dict[str, list[str]] = {}
    for code, sentences in text.items():
        for number, sentence in enumerate(sentences, 1):
            places.setdefault(letters(sentence).casefold(), []).append(f"{code} {number}")
    assert [found for found in places.values() if len(found) > 1] == []


def encodable(text: str, encoding: str) -> set[str]:
    return {c for c in set(text) if c.encode(encoding, errors="ignore")}


def test_chinese_is_simplified_and_cantonese_traditional(text):
    """GB 2312 has simplified characters only, Big5 traditional ones and HKSCS Hong Kong's own."""
    chinese, cantonese = set("".join(text["zho_Hans"])), set("".join(text["yue_Hant"]))
    assert chinese - encodable("".join(chinese), "gb2312") == set()
    assert cantonese - encodable("".join(cantonese), "big5hkscs") == set()
    assert len(chinese - encodable("".join(chinese), "big5hkscs")) > 50
    assert len(cantonese - encodable("".join(cantonese), "gb2312")) > 50


def test_cantonese_is_written_as_spoken_and_chinese_is_not(text):
    assert set(CANTONESE) - set("".join(text["yue_Hant"])) == set()
    assert set(CANTONESE) & set("".join(text["zho_Hans"])) == set()


def test_japanese_is_in_kana_and_kanji(text):
    scripts = [{script(c) for c in letters(sentence)} for sentence in text["jpn_Jpan"]]
    assert [n for n, found in enumerate(scripts, 1) if "HIRAGANA" not in found] == []
    assert sum("CJK" in found for found in scripts) > len(scripts) / 2
    assert any("KATAKANA" in found for found in scripts)
    together = "".join(text["jpn_Jpan"])
    assert set(together) - encodable(together, "shift_jis") == set()


def share_with(words: set[str], sentences: tuple[str, ...]) -> float:
    """Share of sentences that hold one of the words."""
    plain = ("".join(c if c.isalpha() else " " for c in s.casefold()).split() for s in sentences)
    return sum(not words.isdisjoint(found) for found in plain) / len(sentences)


@pytest.mark.parametrize("code", TYPICAL)
def test_a_file_is_in_the_language_of_its_name(text, code):
    """Its common words are in more of its sentences than of any other language's."""
    shares = {other: share_with(set(TYPICAL[code].split()), s) for other, s in text.items()}
    own = shares.pop(code)
    assert {other: share for other, share in shares.items() if share >= own} == {}


@pytest.mark.parametrize(
    "words", ["Machine-written and unreviewed", "CC0 1.0", "no speaker", "48 short everyday"]
)
def test_the_note_says_what_the_sample_is(words):
    assert words in " ".join((SAMPLE / "README.md").read_text().split())


def test_the_folder_holds_the_sample_and_its_note_only():
    expected = {f"{code}.txt" for code in CODES} | {"README.md"}
    assert {file.name for file in SAMPLE.iterdir()} == expected
