import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from ilo_jax.activations.tokens import token_ids
from ilo_jax.corpora.parallel import Parallel

CORPUS = Parallel(
    languages=("eng_Latn", "deu_Latn"),
    sentences=(("a b c", "a"), ("b b", "c a b a")),
    source="test",
)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1, "c": 2, "q": 3, "?": 4}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


def test_ids_are_by_language_and_sentence(tokenizer):
    ids = token_ids(CORPUS, tokenizer, prefix="", limit=4, vocab=5)
    assert ids == [[[0, 1, 2], [0]], [[1, 1], [2, 0, 1, 0]]]


def test_prefix_is_put_before_every_sentence(tokenizer):
    ids = token_ids(CORPUS, tokenizer, prefix="q ", limit=5, vocab=5)
    assert [[s[0] for s in sentences] for sentences in ids] == [[3, 3], [3, 3]]


def test_sentences_beyond_the_models_limit_are_named(tokenizer):
    message = (
        r"a sentence must have 1 to 2 tokens, the positions of the model; got:\n"
        r"  eng_Latn sentence 1: 3 tokens\n"
        r"  deu_Latn sentence 2: 4 tokens$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(CORPUS, tokenizer, prefix="", limit=2, vocab=5)


def test_many_offenders_are_counted(tokenizer):
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a a",) * 13,), source="test")
    with pytest.raises(ValueError, match=r"eng_Latn sentence 10: 2 tokens\n  and 3 more$"):
        token_ids(corpus, tokenizer, prefix="", limit=1, vocab=5)


def test_a_foreign_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"gives token id 2, but the model has embeddings for ids"):
        token_ids(CORPUS, tokenizer, prefix="", limit=9, vocab=2)
