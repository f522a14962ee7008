"""Texts and continuations as tokens, by a tokenizer of bytes."""

import re

import pytest
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora.continuations import continuations, rolling
from tests.evaluation.material import BOS, EOS, VOCAB, split, tokenizer_of


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return tokenizer_of(bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(
    ("special", "prefix"),
    [({"bos_token": "<s>", "eos_token": "</s>"}, BOS), ({"eos_token": "</s>"}, EOS)],
)
def test_a_text_begins_with_bos_or_else_eos(special, prefix):
    texts = split(rolling(["ab", "c"], tokenizer_of(**special)))
    assert texts == [([prefix, 258], [True, False]), ([prefix, VOCAB["c"]], [True, False])]


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_a_tokenizer_that_puts_its_own_bos_gets_no_other(template):
    """And what it puts at the end is not text."""
    tokenizer = tokenizer_of(template=template, bos_token="<s>", eos_token="</s>")
    assert split(rolling(["abc"], tokenizer)) == [([BOS, 258, VOCAB["c"]], [True, False, False])]
    expected = [([BOS, VOCAB["c"], 258], [True, True, False])]
    assert split(continuations(["c"], ["ab"], tokenizer)) == expected


def test_all_special_tokens_at_the_start_are_given():
    tokenizer = tokenizer_of(template="</s> <s> $A", bos_token="<s>")
    assert split(rolling(["ab"], tokenizer)) == [([EOS, BOS, 258], [True, True, False])]


def test_white_space_at_the_end_of_a_context_goes_to_the_option(tokenizer):
    there, here = (continuations([c], [o], tokenizer) for c, o in [("cd \n", "e"), ("cd", " \ne")])
    assert split(there) == split(here)
    assert split(here)[0][1] == [True, True, False, False, False]


@pytest.mark.parametrize("context", ["", " "])
def test_without_a_context_a_prefix_is_given(tokenizer, context):
    tokens, given = split(continuations([context], ["cd"], tokenizer))[0]
    expected = [BOS, *tokenizer(context + "cd")["input_ids"]]
    assert tokens == expected
    assert given == [True] + [False] * (len(expected) - 1)


def test_a_context_keeps_its_own_tokens(tokenizer):
    """Together "ca" and "bd" are c, ab, d; alone the context is c, a, after which comes d."""
    c, a, d = (VOCAB[letter] for letter in "cad")
    assert split(continuations(["ca"], ["bd"], tokenizer)) == [([c, a, d], [True, True, False])]


def test_what_has_no_token_of_its_own_is_refused(tokenizer):
    message = "a text must have a token beside those given and the special ones; got:\n"
    message += "  2: 'cab'\n  3: '\u200b'"
    message = message.encode("unicode_escape").decode().replace("\\n", "\n")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        continuations(["c", "ca", ""], ["d", "b", "\u200b"], tokenizer)
    with pytest.raises(ValueError, match=r"and 2 more$"):
        rolling([""] * 12, tokenizer)


def test_a_tokenizer_with_nothing_to_begin_with_is_refused():
    message = "the tokenizer must have a BOS or an EOS token to begin a text with, got none"
    with pytest.raises(ValueError, match=f"^{message}$"):
        rolling(["ab"], tokenizer_of())


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("start", ["<s>", "<s><s>"])
def test_a_text_that_begins_with_bos_has_it_once(template, start, caplog):
    tokenizer = tokenizer_of(template=template, bos_token="<s>", eos_token="</s>")
    expected = split(rolling(["ab", "c"], tokenizer))
    assert not caplog.records
    assert split(rolling([f"{start}ab", "c"], tokenizer)) == expected
    (record,) = caplog.records
    said = "1 of the texts begin or end with special tokens that are put there: each stands once"
    assert record.getMessage() == said


@pytest.mark.parametrize("template", ["<s> $A", "<s> $A </s>"])
def test_a_context_that_begins_with_bos_has_it_once(template):
    tokenizer = tokenizer_of(template=template, bos_token="<s>", eos_token="</s>")
    for context in ("c", "ca", ""):
        expected = split(continuations([context], ["bd"], tokenizer))
        assert split(continuations([f"<s>{context}"], ["bd"], tokenizer)) == expected


def test_a_context_keeps_the_bos_that_nothing_else_puts_there(tokenizer):
    expected = [([BOS, VOCAB["c"], 258], [True, True, False])]
    assert split(continuations(["<s>c"], ["ab"], tokenizer)) == expected


def test_special_tokens_in_the_middle_of_a_text_stay(tokenizer):
    expected = [([BOS, 258, EOS, BOS, VOCAB["c"]], [True] + [False] * 4)]
    assert split(rolling(["<s>ab</s><s>c"], tokenizer)) == expected


def test_texts_of_special_tokens_only_are_named(tokenizer):
    message = "a text must have a token beside those given and the special ones; got:\n"
    message += "  line 2: '<s>'\n  line 3: '</s>'"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rolling(["ab", "<s>", "</s>"], tokenizer, name=lambda index: f"line {index + 1}")
