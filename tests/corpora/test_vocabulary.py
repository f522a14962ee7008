"""A vocabulary is learnt from what is not held out, each language by its share."""

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from ilo_jax.corpora import vocabulary
from ilo_jax.corpora.documents import Documents, read_documents, sample_documents
from ilo_jax.corpora.shares import sampled
from ilo_jax.corpora.vocabulary import sampled_texts, save_vocabulary, train_vocabulary
from ilo_jax.models.hub.tokenizer import load_tokenizer
from tests.corpora.material import refusal

TEXTS = [
    "It’s 2025: x=1.5;\n\n\tindented  twice ",
    "नमस्ते दुनिया, आप कैसे हैं?",
    "สวัสดีชาวโลก วันนี้อากาศดี",
    "Привет, мир! 12345",
    "مرحبا بالعالم",
    "你好，世界。😀\u0000",
    "",
]


@pytest.fixture(scope="module")
def documents() -> Documents:
    return sample_documents(held_out=0.1)


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def kind(request) -> vocabulary.Kind:
    return request.param


@pytest.fixture(scope="module")
def tokenizer(documents, kind):
    return train_vocabulary(documents, kind=kind, size=600, alpha=0.5, masked=False)


def test_text_of_any_script_is_had_back(tokenizer):
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == 600
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 2)


def test_words_are_not_cut_at_their_vowel_signs(tokenizer):
    words = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("नमस्ते दुनिया abc's 12345")
    lengths = [end - start for _, (start, end) in words]
    assert lengths == [6, 7, 4, 1, 1, 4, 2]  # नमस्ते, दुनिया, abc, ', s, 123, 45; spaces before


@pytest.mark.parametrize("model", ["", "llama", "gpt2", "bert"])
def test_a_saved_one_is_loaded_by_transformers_and_by_us_whatever_the_model(
    tokenizer, tmp_path, model
):
    save_vocabulary(tokenizer, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    if model:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model}))
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert loaded.special_tokens_map == tokenizer.special_tokens_map
        for text in TEXTS:
            ids = loaded(text)["input_ids"]
            assert ids == tokenizer(text)["input_ids"]
            assert loaded.decode(ids, skip_special_tokens=True) == text


def test_a_masked_model_has_its_tokens_around_one_text_or_two(documents):
    words = train_vocabulary(documents, kind="bpe", size=300, alpha=0.5, masked=True)
    assert words.convert_ids_to_tokens([*range(5)]) == ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
    assert (words.cls_token, words.sep_token, words.mask_token) == ("<s>", "</s>", "<mask>")
    assert words.decode(words("one", "two")["input_ids"]) == "<s>one</s>two</s>"


def test_equal_documents_give_equal_tokens_by_bpe(documents):
    made = [
        train_vocabulary(documents, kind="bpe", size=900, alpha=0.5, masked=False) for _ in range(2)
    ]
    first, again = (words.backend_tokenizer.to_str() for words in made)
    assert first == again


def write(folder: Path, texts: dict[str, list[str]]) -> Documents:
    for language, found in texts.items():
        (folder / f"{language}.txt").write_text("\n".join(found))
    return read_documents(folder, held_out=0.1, unit="line")


@pytest.fixture(scope="module")
def uneven(tmp_path_factory) -> Documents:
    """A language of ten times as much text as another, and a hundred times as much as a third."""
    counts = {"large": 5000, "middle": 500, "small": 50}
    return write(
        tmp_path_factory.mktemp("uneven"),
        {name: [f"{name} {i:0{9 - len(name)}}" for i in range(n)] for name, n in counts.items()},
    )


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("most", [10**9, 15_000])
def test_languages_come_by_their_shares_and_held_out_text_never(uneven, alpha, most):
    texts = list(sampled_texts(uneven, alpha=alpha, most=most))
    sizes = {name: each.learnt_bytes for name, each in uneven.census.items()}
    total = min(most, sum(sizes.values()))
    assert 10 * len(texts) == pytest.approx(total, rel=0.03)
    for name, share in sampled(sizes, alpha=alpha).items():
        counts = Counter(text for text in texts if text.startswith(name))
        expected = share * total / 10
        assert counts.total() == pytest.approx(expected, abs=3 * expected**0.5)
        assert max(counts.values()) - min(counts.values()) <= 1
        assert not set(uneven.held_out(name)) & set(texts)


def test_a_vocabulary_that_text_does_not_fill_is_refused(documents, kind):
    def train(size: int) -> object:
        return train_vocabulary(documents, kind=kind, size=size, alpha=0.5, masked=False)

    message = refusal(lambda: train(40_000))
    assert message.startswith("a vocabulary must be no larger than its text can fill: ")
    assert message.endswith(" tokens, got 40000; ask for fewer, or give more text")
    assert refusal(lambda: train(258)) == (
        "a vocabulary must have 259 tokens or more, 256 bytes and the special ones, got 258"
    )
