import itertools

import pytest

from ilo_jax.corpora.languages import PAPER, RENAMED, by_family, find, other_code

ORDER = """swe_Latn nld_Latn bjn_Latn jav_Latn tgl_Latn ind_Latn rus_Cyrl ces_Latn dan_Latn
    eng_Latn ukr_Cyrl tel_Telu srp_Cyrl fra_Latn tha_Thai ban_Latn zho_Hans deu_Latn sun_Latn
    hin_Deva pol_Latn slv_Latn yue_Hant sin_Sinh spa_Latn urd_Arab gle_Latn swh_Latn ben_Beng
    jpn_Jpan min_Latn""".split()

JOSHI = """swedish,4 dutch,4 banjar,1 javanese,1 tagalog,3 indonesian,3 russian,4 czech,4 danish,3
    english,5 ukrainian,3 telugu,1 serbian,4 french,5 thai,3 balinese,0 mandarin,5 german,5
    sundanese,1 hindi,4 polish,4 slovenian,3 slovene,0 cantonese,1 sinhala,0 sinhalese,1 spanish,5
    urdu,3 irish,2 swahili,2 bengali,3 japanese,5 minangkabau,1""".split()
"""The lines of lang2tax.txt that are about these languages, as published."""

SAME = {"slovene": "slovenian", "sinhalese": "sinhala", "mandarin": "chinese (simplified)"}


def test_the_papers_languages_in_its_order():
    assert [language.code for language in PAPER] == ORDER


def test_resources_are_the_highest_published_class():
    classes: dict[str, int] = {}
    for line in JOSHI:
        name, number = line.split(",")
        name = SAME.get(name, name)
        classes[name] = max(int(number), classes.get(name, 0))
    assert {language.name.lower(): language.resources for language in PAPER} == classes


def test_the_script_is_the_codes_own():
    assert [language.script for language in PAPER] == [code[4:] for code in ORDER]


def test_no_entry_is_blank_but_the_branch_of_a_small_family():
    for language in PAPER:
        assert all((language.code, language.name, language.family, language.region))
    assert [language.code for language in PAPER if not language.branch] == ["jpn_Jpan"]


def test_a_branch_belongs_to_one_family():
    families = {(language.branch, language.family) for language in PAPER}
    assert len(families) == len({branch for branch, _ in families})


@pytest.mark.parametrize("code", ORDER)
def test_find(code: str):
    language = find(code)
    assert language is not None
    assert language.code == code


def test_find_knows_no_other_language():
    assert find("xho_Latn") is None
    assert find("") is None


def test_find_knows_the_codes_of_flores_plus():
    for old, new in (("zho_Hans", "cmn_Hans"), ("tgl_Latn", "fil_Latn")):
        assert find(new) == find(old) != None  # noqa: E711
        assert (other_code(old), other_code(new)) == (new, old)
    assert other_code("eng_Latn") == "eng_Latn"
    assert len(set(RENAMED.values())) == len(RENAMED)
    assert not RENAMED.keys() & set(RENAMED.values())


def test_by_family_keeps_families_and_branches_together():
    codes = by_family(ORDER)
    assert sorted(codes) == sorted(ORDER)
    found = [find(code) for code in codes]
    for level in (lambda language: language.family, lambda language: language.branch):
        groups = [level(language) for language in found]
        changes = sum(a != b for a, b in itertools.pairwise(groups))
        assert changes == len(set(groups)) - 1


def test_by_family_puts_unknown_languages_last_and_ignores_the_given_order():
    expected = ["swh_Latn", "ind_Latn", "dan_Latn", "swe_Latn", "pol_Latn", "abc_Latn", "zul_Latn"]
    assert by_family(expected[::-1]) == expected
    assert by_family(expected) == expected
