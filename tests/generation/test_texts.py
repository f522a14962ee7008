import numpy as np
import pytest

from ilo_jax.corpora.limits import Limits
from ilo_jax.generation.pieces import pieces
from ilo_jax.generation.texts import Stream, prompt_tokens, text_of
from tests.evaluation.material import BOS, EOS, VOCAB, tokenizer_of
from tests.generation.material import byte_fallback, byte_level

LIMITS = Limits(positions=40, vocab=len(VOCAB))
BYTES = [bytes([byte]) for byte in range(256)]
CHAT = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
TALK = [{"role": "user", "content": "ab c"}]


def ids_of(text: str) -> list[int]:
    return tokenizer_of(bos_token="<s>", eos_token="</s>")(text)["input_ids"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ab", [BOS, VOCAB["ab"]]),
        ("<s>ab", [BOS, VOCAB["ab"]]),
        ("ab</s>", [BOS, VOCAB["ab"], EOS]),
        ("", [BOS]),
    ],
)
def test_a_prompt_begins_as_the_tokenizer_begins_a_text_and_has_no_end(text, expected):
    words = tokenizer_of(template="<s> $A </s>", bos_token="<s>", eos_token="</s>")
    assert prompt_tokens([text], words, limits=LIMITS) == [expected]


def test_before_an_empty_prompt_stands_what_stands_before_a_text_that_is_judged():
    assert prompt_tokens([""], tokenizer_of(eos_token="</s>"), limits=LIMITS) == [[EOS]]
    with pytest.raises(ValueError, match="must have a BOS or an EOS token to begin a text with"):
        prompt_tokens([""], tokenizer_of(), limits=LIMITS)


def test_a_conversation_is_as_the_template_of_the_tokenizer_writes_it():
    words = tokenizer_of(template="<s> $A </s>", bos_token="<s>", eos_token="</s>")
    words.chat_template = CHAT
    theirs = words.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    assert theirs == ids_of("<s>[user]ab c</s>[assistant]")
    assert prompt_tokens([TALK], words, limits=LIMITS) == [theirs]
    assert prompt_tokens(["ab c"], words, limits=LIMITS, chat=True) == [theirs]
    # Of the template's own special tokens none is added, and none is missed.
    words.chat_template = "{{ messages[0].content }}"
    assert prompt_tokens([TALK], words, limits=LIMITS) == [ids_of("ab c")]


def test_what_the_template_refuses_is_refused_by_name():
    words = tokenizer_of(bos_token="<s>", eos_token="</s>")
    given = {"limits": LIMITS, "name": lambda index: f"asked.jsonl line {index + 1}"}
    what = "a conversation must be what the tokenizer's chat template takes, got\n  "
    with pytest.raises(
        ValueError, match=r"^a conversation needs a tokenizer with a chat template, got"
    ):
        prompt_tokens(["ab", TALK], words, **given)
    words.chat_template = CHAT
    talk = [{"role": "system", "content": "ab"}, *TALK]
    with pytest.raises(ValueError, match="no system") as refused:
        prompt_tokens([TALK, talk], words, **given)
    assert str(refused.value) == f"{what}asked.jsonl line 2: no system"
    words.chat_template = "{{ messages[0].content + 1 }}"
    with pytest.raises(ValueError, match=r"line 1: can only concatenate str"):
        prompt_tokens([TALK], words, **given)


def test_prompts_that_the_model_has_no_positions_for_are_refused_by_name():
    message = r"must have 1 to 40 tokens, the positions of the model; .*\n  prompt 2: 41 tokens$"
    with pytest.raises(ValueError, match=message):
        prompt_tokens(["a" * 40, "a" * 41], tokenizer_of(), limits=LIMITS)


def cut(said: bytes, stops: list[str]) -> str:
    """The text up to the stop string that is complete first, byte by byte."""
    for end in range(1, len(said) + 1):
        starts = [end - len(s.encode()) for s in stops if said[:end].endswith(s.encode())]
        if starts:
            return said[: min(starts)].decode(errors="replace")
    return said.decode(errors="replace")


@pytest.mark.parametrize("stops", [[], ["é"], ["stop", "topp"], ["aab", "aa\n", "你"]], ids=str)
def test_what_is_shown_on_the_way_is_the_text_in_the_end_whatever_comes_at_a_time(stops):
    rng = np.random.default_rng(0)
    letters = [*"".join(stops).encode(), *"é你 ".encode()]
    cuts = 0
    for _ in range(300):
        said = bytes(rng.choice(letters, 30).tolist())
        stream, shown, rest = Stream(BYTES, stops), "", [*said]
        while rest:
            n = int(rng.integers(1, 4))
            shown += stream.add(rest[:n])
            rest = rest[n:]
            assert cut(said, stops).startswith(shown)
        assert shown + stream.end() == cut(said, stops) == text_of(said, BYTES, stops)
        assert stream.stopped == any(stop.encode() in said for stop in stops)
        cuts += stream.stopped
    assert cuts > 5 or not stops


def test_no_half_of_a_character_is_shown():
    stream = Stream(BYTES)
    shown = [stream.add([byte]) for byte in "a你é".encode()]
    assert shown == ["a", "", "", "你", "", "é"]
    assert stream.add([0xE4]) == ""
    assert stream.end() == "\ufffd"


def test_what_may_become_a_stop_string_is_held_back_until_it_cannot():
    stream = Stream(BYTES, ["\n\nUser:"])
    assert [stream.add([byte]) for byte in b"a\n\nUs"] == ["a", "", "", "", ""]
    assert stream.add(b"a") == "\n\nUsa"
    assert [stream.add(b"\n\nUser"), stream.add(b": b"), stream.add(b"c"), stream.end()] == [""] * 4
    assert stream.stopped


@pytest.mark.parametrize("make", [byte_level, byte_fallback])
def test_text_is_what_the_tokenizer_decodes(make):
    words = make()
    own, rng = pieces(words, vocab=len(words)), np.random.default_rng(0)
    whole = [
        [id] for id, piece in enumerate(own) if piece.decode(errors="ignore").encode() == piece
    ]
    halves = [[own.index(bytes([byte])) for byte in character.encode()] for character in "你é𝛑"]
    start = words.convert_tokens_to_ids("st")
    for _ in range(100):
        some = [(whole, halves)[rng.random() < 0.3] for _ in range(6)]
        tokens = [token for each in some for token in each[rng.integers(len(each))]]
        theirs = words.decode([start, *tokens], skip_special_tokens=True)
        assert "st" + text_of(tokens, own) == theirs
