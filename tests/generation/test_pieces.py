import pytest
from tokenizers import Tokenizer, decoders, models
from transformers import AddedToken, PreTrainedTokenizerFast

from ilo_jax.generation.pieces import pieces
from tests.generation.material import byte_fallback, byte_level
from tests.models import saved

DECODERS = ("bloom", "cohere", "gemma", "gpt2", "gpt_neox", "llama", "opt", "phi3", "xglm")


@pytest.mark.parametrize("family", DECODERS)
def test_pieces_after_a_text_are_what_the_tokenizer_decodes(family):
    words = saved.tokenizer(family)
    own = pieces(words, vocab=len(words))
    for sentence in saved.sentences(3):
        tokens = words(sentence, add_special_tokens=False)["input_ids"]
        before = words.decode([tokens[0]])
        text = words.decode([tokens[0], *tokens])
        assert text == before + b"".join(own[token] for token in tokens).decode()
        assert words.decode(tokens, skip_special_tokens=True).strip() == sentence


def test_byte_level_tokens_are_their_bytes():
    words = byte_level()
    ids, own = words.get_vocab(), pieces(words, vocab=len(words))
    assert sorted(piece for piece in own if len(piece) == 1) == [bytes([b]) for b in range(256)]
    assert own[ids["opĠ"]] == b"op "
    assert own[ids["Ã©"]].decode() == "é"
    assert own[ids["ä½"]] == "你".encode()[:2]
    assert own[ids["ping pong"]] == b"ping pong"


def test_byte_tokens_are_their_bytes_and_words_have_their_space():
    words = byte_fallback()
    ids, own = words.get_vocab(), pieces(words, vocab=len(words))
    assert own[:256] == [bytes([byte]) for byte in range(256)]
    texts = {"▁stop": " stop", "▁▁": "  ", "▁": " ", "top": "top", "<0xZZ>": "<0xZZ>"}
    assert {token: own[ids[token]].decode() for token in texts} == texts


def test_words_of_a_tokenizer_that_joins_them_by_spaces():
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "one": 1, "space": 2}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert pieces(tokenizer, vocab=3) == [b" [UNK]", b" one", b" space"]
    words.decoder = decoders.WordPiece("##")
    ids = {"one": 0, "##s": 1, ".": 2}
    words = Tokenizer(models.WordPiece(ids, unk_token="one"))
    words.decoder = decoders.WordPiece("##", cleanup=True)
    assert pieces(PreTrainedTokenizerFast(tokenizer_object=words), vocab=3) == [b" one", b"s", b"."]


def test_special_tokens_and_ids_without_a_token_add_nothing():
    words = byte_level()
    words.add_tokens([AddedToken("<turn>", special=True), AddedToken("<lang>")])
    own = pieces(words, vocab=len(words) + 5)
    ids = words.get_vocab()
    assert [own[ids[token]] for token in ("<s>", "</s>", "<turn>", "<lang>")] == [b""] * 3 + [
        b"<lang>"
    ]
    assert own[-5:] == [b""] * 5


def test_a_model_may_have_fewer_ids_than_its_tokenizer():
    assert len(pieces(byte_level(), vocab=100)) == 100
