import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import token_ids

CORPUS = Parallel(
    languages=("eng_Latn", "deu_Latn"),
    sentences=(("a b c", "a"), ("b b", "c a b a")),
    source="test",
)
VOCAB = {"a": 0, "b": 1, "c": 2, "q": 3, "?": 4, "[": 5, "]": 6}


def words(*, framed: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer that knows a few words, and may put "[" and "]" around a sentence."""
    tokenizer = Tokenizer(models.WordLevel(VOCAB, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[ $A ]", special_tokens=[("[", 5), ("]", 6)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def one_by_one(sentences: Sentences) -> list[list[int]]:
    parts = np.split(sentences.tokens, np.cumsum(sentences.lengths)[:-1])
    return [part.tolist() for part in parts]


def test_ids_are_by_language_and_sentence():
    ids = token_ids(CORPUS, words(), prefix="", limit=4, vocab=7)
    assert list(map(one_by_one, ids)) == [[[0, 1, 2], [0]], [[1, 1], [2, 0, 1, 0]]]
    assert [of_language.lengths.tolist() for of_language in ids] == [[3, 1], [2, 4]]
    assert not any(of_language.special.any() for of_language in ids)


def test_special_tokens_are_kept_and_marked():
    ids = token_ids(CORPUS, words(framed=True), prefix="", limit=6, vocab=7)
    assert list(map(one_by_one, ids)) == [
        [[5, 0, 1, 2, 6], [5, 0, 6]],
        [[5, 1, 1, 6], [5, 2, 0, 1, 0, 6]],
    ]
    for of_language in ids:
        assert of_language.special.dtype == bool
        np.testing.assert_array_equal(of_language.special, of_language.tokens >= 5)


def test_prefix_is_put_before_every_sentence():
    ids = token_ids(CORPUS, words(framed=True), prefix="q ", limit=7, vocab=7)
    assert [[s[:2] for s in one_by_one(sentences)] for sentences in ids] == [[[5, 3]] * 2] * 2
    # A prefix is text: it is part of what is said.
    assert not any(of_language.special[of_language.tokens == 3].any() for of_language in ids)


def test_a_model_without_a_limit_takes_any_length():
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a " * 5000,),), source="test")
    (ids,) = token_ids(corpus, words(), prefix="", limit=None, vocab=7)
    assert ids.lengths.tolist() == [5000]


def test_sentences_beyond_the_models_limit_are_named():
    message = (
        r"^a sentence must have 1 to 2 tokens, the positions of the model; got:\n"
        r"  eng_Latn sentence 1: 3 tokens\n"
        r"  deu_Latn sentence 2: 4 tokens$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(CORPUS, words(), prefix="", limit=2, vocab=7)


def test_special_tokens_take_positions_too():
    with pytest.raises(ValueError, match=r"deu_Latn sentence 2: 6 tokens$"):
        token_ids(CORPUS, words(framed=True), prefix="", limit=5, vocab=7)


def test_sentences_without_tokens_are_named():
    tokenizer = Tokenizer(models.WordLevel(VOCAB, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("b", "removed")
    silent = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a", "b"),), source="test")
    message = r"^a sentence must have 1 to inf tokens, .*\n  eng_Latn sentence 2: 0 tokens$"
    with pytest.raises(ValueError, match=message):
        token_ids(corpus, silent, prefix="", limit=None, vocab=7)


def test_many_offenders_are_counted():
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a a",) * 13,), source="test")
    with pytest.raises(ValueError, match=r"eng_Latn sentence 10: 2 tokens\n  and 3 more$"):
        token_ids(corpus, words(), prefix="", limit=1, vocab=7)


def test_a_foreign_tokenizer_is_refused():
    message = (
        r"^the tokenizer gives token id 6, but the model has embeddings for ids below 6: "
        r"the tokenizer is not this model's$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(CORPUS, words(framed=True), prefix="", limit=9, vocab=6)
