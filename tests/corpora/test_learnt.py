"""Examples as tokens, against what a tokenizer of words must make of them."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from ilo_jax.corpora.continuations import tokenized
from ilo_jax.corpora.examples import Example
from ilo_jax.corpora.packing import Sentences
from ilo_jax.refusals import SHOWN

BOS, EOS, FIRST = 0, 1, 2
WORDS = [f"w{i}" for i in range(60)]
BOTH: dict[str, Any] = {"bos_token": "<s>", "eos_token": "</s>"}


def tokenizer_of(*, template: str = "$A", **special: str) -> PreTrainedTokenizerFast:
    """Word i is token i + FIRST."""
    vocab = {word: i for i, word in enumerate(["<s>", "</s>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [("<s>", BOS), ("</s>", EOS)]
    words.post_processor = TemplateProcessing(single=template, special_tokens=ends)
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def text_of(count: int, start: int = 0) -> str:
    return " ".join(WORDS[start : start + count])


def ids_of(count: int, start: int = 0) -> list[int]:
    return list(range(FIRST + start, FIRST + start + count))


def apart(sentences: Sentences) -> list[tuple[list[int], int]]:
    """Tokens of each piece, and how many of them are given; those come first."""
    ends = np.cumsum(sentences.lengths)[:-1]
    pairs = zip(np.split(sentences.tokens, ends), np.split(~sentences.target, ends), strict=True)
    found = []
    for tokens, given in pairs:
        assert given.tolist() == sorted(given.tolist(), reverse=True)
        found.append((tokens.tolist(), int(given.sum())))
    return found


def of(*examples: tuple[str, str], row_length: int = 20, **how: Any) -> list[tuple[list[int], int]]:
    pairs = [Example(*example) for example in examples]
    return apart(tokenized(pairs, tokenizer_of(**how), row_length=row_length))


@pytest.mark.parametrize(
    ("how", "before", "after"),
    [
        ({"template": "<s> $A", **BOTH}, [BOS], [EOS]),  # put by the tokenizer
        ({"template": "<s> $A </s>", **BOTH}, [BOS], [EOS]),  # and the end, too: once
        (BOTH, [BOS], [EOS]),  # only known
        ({"eos_token": "</s>"}, [EOS], [EOS]),
        ({"bos_token": "<s>"}, [BOS], []),
    ],
)
def test_a_text_begins_with_what_is_given_and_ends_with_eos(how, before, after):
    expected = [([*before, *ids_of(3), *after], 1), ([*before, *ids_of(2, 5), *after], 1)]
    assert of(("", text_of(3)), ("", text_of(2, 5)), **how) == expected


def test_a_prompt_is_given_and_not_learnt():
    prompt, completion = text_of(2), f" {text_of(3, 10)}"
    whole = [*ids_of(2), *ids_of(3, 10), EOS]
    assert of((prompt, completion), **BOTH) == [(whole, 2)]
    assert of((prompt, completion), template="<s> $A", **BOTH) == [([BOS, *whole], 3)]
    assert of((prompt, completion), eos_token="</s>") == [(whole, 2)]


def test_prompts_and_texts_without_them_keep_their_order():
    found = of(("", "w1"), ("w2", " w3"), ("", "w4 w5"), bos_token="<s>")
    assert found == [([BOS, 3], 1), ([4, 5], 1), ([BOS, 6, 7], 1)]


def test_without_bos_and_eos_there_must_be_a_prompt():
    assert of(("w0", " w1")) == [([2, 3], 1)]
    with pytest.raises(
        ValueError, match=r"^the tokenizer must have a BOS or an EOS token to begin"
    ):
        of(("", "w1"))


def test_a_text_that_is_longer_than_a_row_is_cut_up():
    """A piece begins with the last token of the one before, which is not learnt again."""
    found = of(("", text_of(6)), row_length=4, **BOTH)
    assert found == [([BOS, 2, 3, 4], 1), ([4, 5, 6, 7], 0), ([7, EOS], 0)]


@pytest.mark.parametrize("row_length", [2, 3, 4, 5, 8, 17])
def test_every_token_is_learnt_exactly_once_after_the_one_before_it(row_length):
    """That is: not given, and not the first of its piece, which nobody predicts."""
    tokenizer = tokenizer_of(**BOTH)
    for count in range(1, 40):
        found = tokenized([Example("", text_of(count))], tokenizer, row_length=row_length)
        learnt = []
        for tokens, given in apart(found):
            assert 2 <= len(tokens) <= row_length
            first = max(1, given)
            learnt += zip(tokens[first - 1 : -1], tokens[first:], strict=True)
        whole = [BOS, *ids_of(count), EOS]
        assert learnt == list(itertools.pairwise(whole))
        # As few pieces as may be: each learns one token less than a row has.
        assert len(found.lengths) == -(-(count + 1) // (row_length - 1))


def test_other_examples_change_nothing_of_one():
    examples = [("", text_of(n)) for n in (3, 11, 1)] + [("w0 w1", " w2")]
    alone = [piece for example in examples for piece in of(example, row_length=5, **BOTH)]
    assert of(*examples, row_length=5, **BOTH) == alone


def test_long_examples_with_a_prompt_are_named():
    fits, long = ("w0", f" {text_of(4)}"), ("w0", f" {text_of(5)}")
    assert len(of(fits, row_length=6, **BOTH)) == 1
    message = (
        "an example with a prompt must fit a row of 6 tokens; shorten it or raise row_length; got "
        "7 tokens in example 2, 8 tokens in example 4"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        of(fits, long, ("", text_of(30)), ("w0 w1", f" {text_of(5)}"), row_length=6, **BOTH)


def test_no_more_than_some_long_examples_are_named():
    long = ("w0", f" {text_of(5)}")
    with pytest.raises(ValueError, match=f"7 tokens in example {SHOWN}, and 3 more$"):
        of(*[long] * (SHOWN + 3), row_length=6, **BOTH)
    with pytest.raises(ValueError, match=f"7 tokens in example {SHOWN}$"):
        of(*[long] * SHOWN, row_length=6, **BOTH)


def test_texts_without_tokens_are_named():
    with pytest.raises(ValueError, match=r"a text must have a token .* got:\n  example 2: ' '$"):
        of(("", "w0"), ("", " "), **BOTH)


@pytest.mark.parametrize("template", ["$A", "<s> $A", "<s> $A </s>"])
@pytest.mark.parametrize("ends", [("<s> ", ""), ("", " </s>"), ("<s> <s> ", " </s> </s>")])
def test_the_ends_of_a_text_are_learnt_once(template, ends, caplog):
    """Also where a text has them already, as a template writes it."""
    how, (start, end) = {"template": template, **BOTH}, ends
    expected = of(("", text_of(3)), **how)
    assert not caplog.records
    assert of(("", f"{start}{text_of(3)}{end}"), **how) == expected
    (record,) = caplog.records
    said = "1 of the examples begin or end with special tokens that are put there: each stands once"
    assert record.getMessage() == said


@pytest.mark.parametrize("start", ["<s> ", "<s> <s> "])
def test_the_ends_of_a_prompt_and_its_completion_are_there_once(start):
    how = {"template": "<s> $A </s>", **BOTH}
    expected = of((text_of(2, 5), f" {text_of(3)}"), **how)
    assert of((start + text_of(2, 5), f" {text_of(3)} </s>"), **how) == expected


def test_examples_by_a_chat_template_are_learnt_as_transformers_tokenizes_the_chat():
    tokenizer = tokenizer_of(template="<s> $A </s>", **BOTH)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %} {{ message.content }}{% endfor %}"
        "{% if not add_generation_prompt %} {{ eos_token }}{% endif %}"
    )
    asked = [{"role": "user", "content": "w0 w1"}]
    chat = [*asked, {"role": "assistant", "content": "w2 w3"}]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert isinstance(prompt, str)
    assert isinstance(whole, str)
    expected = tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)
    pair = Example(prompt, whole.removeprefix(prompt))
    assert apart(tokenized([pair], tokenizer, row_length=20)) == [(expected, 3)]


def test_a_completion_of_special_tokens_only_is_named():
    with pytest.raises(ValueError, match=r"the special ones; got:\n  example 2: 'w0 </s>'$"):
        of(("w0", " w1"), ("w0", " </s>"), **BOTH)
