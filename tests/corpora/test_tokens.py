import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora.limits import Limits
from ilo_jax.corpora.packing import Sentences
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.corpora.tokens import token_ids

CORPUS = Parallel(
    languages=("eng_Latn", "deu_Latn"),
    sentences=(("a b c", "a"), ("b b", "c a b a")),
    source="test",
)
VOCAB = {"a": 0, "b": 1, "c": 2, "q": 3, "?": 4, "[": 5, "]": 6}


def words(*, framed: bool = False, **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer that knows a few words, and may put "[" and "]" around a sentence."""
    tokenizer = Tokenizer(models.WordLevel(VOCAB, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[ $A ]", special_tokens=[("[", 5), ("]", 6)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?", **special)


def one_by_one(sentences: Sentences) -> list[list[int]]:
    parts = np.split(sentences.tokens, np.cumsum(sentences.lengths)[:-1])
    return [part.tolist() for part in parts]


def test_ids_are_by_language_and_sentence():
    ids = token_ids(CORPUS, words(), prefix="", limits=Limits(4, 7))
    assert list(map(one_by_one, ids)) == [[[0, 1, 2], [0]], [[1, 1], [2, 0, 1, 0]]]
    assert [of_language.lengths.tolist() for of_language in ids] == [[3, 1], [2, 4]]
    assert not any(of_language.special.any() for of_language in ids)


def test_special_tokens_are_kept_and_marked():
    ids = token_ids(CORPUS, words(framed=True), prefix="", limits=Limits(6, 7))
    assert list(map(one_by_one, ids)) == [
        [[5, 0, 1, 2, 6], [5, 0, 6]],
        [[5, 1, 1, 6], [5, 2, 0, 1, 0, 6]],
    ]
    for of_language in ids:
        assert of_language.special.dtype == bool
        np.testing.assert_array_equal(of_language.special, of_language.tokens >= 5)


def test_prefix_is_put_before_every_sentence():
    ids = token_ids(CORPUS, words(framed=True), prefix="q ", limits=Limits(7, 7))
    assert [[s[:2] for s in one_by_one(sentences)] for sentences in ids] == [[[5, 3]] * 2] * 2
    # A prefix is text: it is part of what is said.
    assert not any(of_language.special[of_language.tokens == 3].any() for of_language in ids)


def test_a_model_without_a_limit_takes_any_length():
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a " * 5000,),), source="test")
    (ids,) = token_ids(corpus, words(), prefix="", limits=Limits(None, 7))
    assert ids.lengths.tolist() == [5000]


def test_sentences_beyond_the_models_limit_are_named():
    message = (
        r"^a sentence must have 1 to 2 tokens, the positions of the model; shorten or mend them, "
        r"or leave their lines out in every language; got:\n"
        r"  eng_Latn sentence 1: 3 tokens\n"
        r"  deu_Latn sentence 2: 4 tokens$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(CORPUS, words(), prefix="", limits=Limits(2, 7))


def test_special_tokens_take_positions_too():
    with pytest.raises(ValueError, match=r"deu_Latn sentence 2: 6 tokens$"):
        token_ids(CORPUS, words(framed=True), prefix="", limits=Limits(5, 7))


def test_sentences_without_tokens_are_named():
    tokenizer = Tokenizer(models.WordLevel(VOCAB, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("b", "removed")
    silent = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a", "b"),), source="test")
    message = r"^a sentence must have 1 to inf tokens, .*\n  eng_Latn sentence 2: 0 tokens$"
    with pytest.raises(ValueError, match=message):
        token_ids(corpus, silent, prefix="", limits=Limits(None, 7))


def test_many_offenders_are_counted():
    corpus = Parallel(languages=("eng_Latn",), sentences=(("a a",) * 13,), source="test")
    with pytest.raises(ValueError, match=r"eng_Latn sentence 10: 2 tokens\n  and 3 more$"):
        token_ids(corpus, words(), prefix="", limits=Limits(1, 7))


def test_a_foreign_tokenizer_is_refused():
    message = (
        r"^the tokenizer gives token id 6, but the model has embeddings for ids below 6: "
        r"the tokenizer is not this model's$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(CORPUS, words(framed=True), prefix="", limits=Limits(9, 6))


BRACKETS = {"bos_token": "[", "eos_token": "]"}
"""Which of the words are special."""


@pytest.mark.parametrize("prefix", ["", "[ q", "[ [ q"])
def test_what_the_tokenizer_puts_is_not_put_twice(prefix, caplog):
    texts = ("a b", "[ a b", "a b ]", "[ a b ]", "[ [ a b ] ]")
    corpus = Parallel(languages=("eng_Latn",), sentences=(texts,), source="test")
    tokenizer = words(framed=True)
    (ids,) = token_ids(corpus, tokenizer, prefix=f"{prefix} ", limits=Limits(None, 7))
    if not prefix:
        expected = tokenizer("a b")["input_ids"]
        assert one_by_one(ids) == [expected] * 5
        np.testing.assert_array_equal(ids.special, ids.tokens >= 5)
    assert all(sentence[:2] in ([5, 0], [5, 3]) for sentence in one_by_one(ids))
    assert [sentence[-2:] for sentence in one_by_one(ids)] == [[1, 6]] * 5
    (record,) = caplog.records
    count = 5 if prefix else 4
    said = "of the sentences begin or end with special tokens that are put there: each stands once"
    assert record.getMessage() == f"{count} {said}"


def test_nothing_is_said_where_nothing_is_there_twice(caplog):
    token_ids(CORPUS, words(framed=True), prefix="", limits=Limits(6, 7))
    assert not caplog.records


@pytest.mark.parametrize("framed", [False, True])
def test_sentences_of_special_tokens_only_are_named(framed):
    tokenizer = words(framed=framed, **BRACKETS)
    corpus = Parallel(
        languages=("eng_Latn", "deu_Latn"),
        sentences=(("a", "[", "?"), ("[ ]", "b ]", "] [")),
        source="test",
    )
    message = (
        r"^a sentence must have a token that is not special; shorten or mend them, or leave their "
        r"lines out in every language; got:\n  eng_Latn sentence 2\n"
        r"  deu_Latn sentence 1\n  deu_Latn sentence 3$"
    )
    with pytest.raises(ValueError, match=message):
        token_ids(corpus, tokenizer, prefix="", limits=Limits(None, 7))
