"""The 31 languages of the paper, and how to put languages in order for a picture.

Reading a corpus needs none of this: a language without an entry here works as well.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Language(NamedTuple):
    """What is known about a language beside its text."""

    code: str
    """FLORES-200 code: ISO 639-3 language, ISO 15924 script."""
    name: str
    """In English."""
    family: str
    branch: str
    """Branch of the family, such as Germanic or Slavic; empty if the family is that small."""
    script: str
    """ISO 15924 code."""
    region: str
    """Where the language comes from, a subregion of the United Nations' M49 standard."""
    resources: int
    """From 0 (no data to speak of) to 5 (most): the class in the table lang2tax.txt of Joshi
    et al., "The State and Fate of Linguistic Diversity and Inclusion in the NLP World" (ACL
    2020). The table goes by name and holds Slovenian as slovenian (3) and slovene (0), and
    Sinhala as sinhalese (1) and sinhala (0): the higher class stands here. Its mandarin is
    zho_Hans."""


_BANTU = ("Atlantic-Congo", "Bantu")
_MALAYO_POLYNESIAN = ("Austronesian", "Malayo-Polynesian")
_DRAVIDIAN = ("Dravidian", "South-Central Dravidian")
_CELTIC = ("Indo-European", "Celtic")
_GERMANIC = ("Indo-European", "Germanic")
_INDO_ARYAN = ("Indo-European", "Indo-Aryan")
_ROMANCE = ("Indo-European", "Romance")
_SLAVIC = ("Indo-European", "Slavic")
_JAPONIC = ("Japonic", "")
_TAI = ("Kra-Dai", "Tai")
_SINITIC = ("Sino-Tibetan", "Sinitic")

PAPER: tuple[Language, ...] = (
    Language("swe_Latn", "Swedish", *_GERMANIC, "Latn", "Northern Europe", 4),
    Language("nld_Latn", "Dutch", *_GERMANIC, "Latn", "Western Europe", 4),
    Language("bjn_Latn", "Banjar", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 1),
    Language("jav_Latn", "Javanese", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 1),
    Language("tgl_Latn", "Tagalog", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 3),
    Language("ind_Latn", "Indonesian", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 3),
    Language("rus_Cyrl", "Russian", *_SLAVIC, "Cyrl", "Eastern Europe", 4),
    Language("ces_Latn", "Czech", *_SLAVIC, "Latn", "Eastern Europe", 4),
    Language("dan_Latn", "Danish", *_GERMANIC, "Latn", "Northern Europe", 3),
    Language("eng_Latn", "English", *_GERMANIC, "Latn", "Northern Europe", 5),
    Language("ukr_Cyrl", "Ukrainian", *_SLAVIC, "Cyrl", "Eastern Europe", 3),
    Language("tel_Telu", "Telugu", *_DRAVIDIAN, "Telu", "Southern Asia", 1),
    Language("srp_Cyrl", "Serbian", *_SLAVIC, "Cyrl", "Southern Europe", 4),
    Language("fra_Latn", "French", *_ROMANCE, "Latn", "Western Europe", 5),
    Language("tha_Thai", "Thai", *_TAI, "Thai", "South-eastern Asia", 3),
    Language("ban_Latn", "Balinese", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 0),
    Language("zho_Hans", "Chinese (simplified)", *_SINITIC, "Hans", "Eastern Asia", 5),
    Language("deu_Latn", "German", *_GERMANIC, "Latn", "Western Europe", 5),
    Language("sun_Latn", "Sundanese", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 1),
    Language("hin_Deva", "Hindi", *_INDO_ARYAN, "Deva", "Southern Asia", 4),
    Language("pol_Latn", "Polish", *_SLAVIC, "Latn", "Eastern Europe", 4),
    Language("slv_Latn", "Slovenian", *_SLAVIC, "Latn", "Southern Europe", 3),
    Language("yue_Hant", "Cantonese", *_SINITIC, "Hant", "Eastern Asia", 1),
    Language("sin_Sinh", "Sinhala", *_INDO_ARYAN, "Sinh", "Southern Asia", 1),
    Language("spa_Latn", "Spanish", *_ROMANCE, "Latn", "Southern Europe", 5),
    Language("urd_Arab", "Urdu", *_INDO_ARYAN, "Arab", "Southern Asia", 3),
    Language("gle_Latn", "Irish", *_CELTIC, "Latn", "Northern Europe", 2),
    Language("swh_Latn", "Swahili", *_BANTU, "Latn", "Eastern Africa", 2),
    Language("ben_Beng", "Bengali", *_INDO_ARYAN, "Beng", "Southern Asia", 3),
    Language("jpn_Jpan", "Japanese", *_JAPONIC, "Jpan", "Eastern Asia", 5),
    Language("min_Latn", "Minangkabau", *_MALAYO_POLYNESIAN, "Latn", "South-eastern Asia", 1),
)
"""In the paper's order."""


RENAMED = {
    "ajp_Arab": "apc_Arab_sout3123",
    "aka_Latn": "twi_Latn_asan1239",
    "apc_Arab": "apc_Arab_nort3139",
    "est_Latn": "ekk_Latn",
    "grn_Latn": "gug_Latn",
    "kon_Latn": "ktu_Latn",
    "tgl_Latn": "fil_Latn",
    "twi_Latn": "twi_Latn_akua1239",
    "tzm_Tfng": "zgh_Tfng",
    "zho_Hans": "cmn_Hans",
    "zho_Hant": "cmn_Hant",
}
"""What FLORES+ calls the languages of FLORES-200 that it has under other codes: the relabelled ones
of the changelog of github.com/openlanguagedata/flores up to 2.0-rc.3."""


def other_code(code: str) -> str:
    """What the other one of FLORES-200 and FLORES+ calls the same text; mostly the code itself."""
    back = {new: old for old, new in RENAMED.items()}
    return RENAMED.get(code) or back.get(code) or code


def find(code: str) -> Language | None:
    """What is known about a language of the paper, by its code of FLORES-200 or FLORES+.

    None for any other.
    """
    names = {code, other_code(code)}
    return next((language for language in PAPER if language.code in names), None)


def by_family(codes: Iterable[str]) -> list[str]:
    """The codes by family, branch and code; those without an entry last, by code."""

    def key(code: str) -> tuple[bool, str, str, str]:
        language = find(code)
        if language is None:
            return True, "", "", code
        return False, language.family, language.branch, code

    return sorted(codes, key=key)
