"""What documents of any length cost a model, against torch, token by token in windows."""

import math
import re

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from ilo_jax.corpora.documents import place, read_documents
from ilo_jax.corpora.limits import Limits
from ilo_jax.evaluation.documents import as_windows, document_scores, held_out_texts
from ilo_jax.evaluation.likelihood import compiled_likelihood
from ilo_jax.sharding import make_mesh
from tests.evaluation.material import BOS, VOCAB

TEXTS = {
    "one": ["abc ab. " * 40, "x"],
    "two": ["猫坐在垫子上。", "ab" * 24, "Die Katze saß auf der Matte. " * 5],
}
LIMITS = Limits(96, len(VOCAB))


def definition(model, tokenizer, texts: list[str], length: int) -> tuple[float, int]:
    """Bits in float64, and tokens: each is predicted from those before it in its window."""
    bits, count = 0.0, 0
    for text in texts:
        ids = [BOS, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        for first in range(0, len(ids) - 1, length - 1):
            window = ids[first : first + length]
            with torch.no_grad():
                logits = model(torch.tensor([window])).logits[0].double()
            logs = torch.log_softmax(logits, -1) / math.log(2)
            for at in range(1, len(window)):
                bits -= logs[at - 1, window[at]].item()
                count += 1
    return bits, count


@pytest.mark.parametrize("length", [17, 96])
def test_bits_for_a_byte_are_torchs_in_windows(theirs, ours, tokenizer, length):
    windows = as_windows(TEXTS, tokenizer, length=length, limits=ours.config.limits)
    mesh = make_mesh(data=1)
    likelihood = compiled_likelihood(ours.config, mesh, batch_tokens=512, dtype=jnp.float32)
    found = document_scores(ours, windows, likelihood)
    assert windows.languages == ("one", "two")
    for number, texts in enumerate(TEXTS.values()):
        bits, count = definition(theirs, tokenizer, texts, length)
        size = sum(len(text.encode()) for text in texts)
        assert found.tokens[number] == count
        np.testing.assert_allclose(found.bits_per_byte[number], bits / size, rtol=1e-5)
        np.testing.assert_allclose(found.loss[number], bits * math.log(2) / count, rtol=1e-5)


def test_the_digest_knows_tokens_windows_and_languages(tokenizer):
    def digest(texts: dict[str, list[str]], length: int = 17) -> str:
        return as_windows(texts, tokenizer, length=length, limits=LIMITS).digest()

    first = digest(TEXTS)
    others = [digest(TEXTS, 18), digest({"one": TEXTS["one"][:1], "two": ["x", *TEXTS["two"]]})]
    assert first == digest(TEXTS)
    assert len({first, *others}) == 3


def test_held_out_documents_are_taken_by_their_digest_until_there_are_enough(tmp_path):
    for language in "ab":
        texts = [f"{language} {i:03} {'x' * (i % 7)}" for i in range(300)]
        (tmp_path / f"{language}.txt").write_text("\n".join(texts))
    documents = read_documents(tmp_path, held_out=0.2, unit="line")
    every = held_out_texts(documents, most=10**9)
    for language in "ab":
        assert every[language] == sorted(documents.held_out(language), key=place)
    few = held_out_texts(documents, most=100)
    assert few["a"] == every["a"][: len(few["a"])]
    assert 80 < len("".join(few["a"])) <= 100
    assert {name: len(texts) for name, texts in held_out_texts(documents, most=1).items()} == {
        "a": 1,
        "b": 1,
    }


def test_what_cannot_be_judged_by_is_refused(tokenizer):
    def windows(texts: dict[str, list[str]], length: int = 17, limits: Limits = LIMITS) -> object:
        return as_windows(texts, tokenizer, length=length, limits=limits)

    message = "a language must have a text to be judged by, got none in b, c"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        windows({"a": ["x"], "b": [], "c": []})
    message = "a window must have at most as many tokens as the model has positions, 96; got 97"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        windows(TEXTS, 97)
    with pytest.raises(ValueError, match=r"2 tokens or more to predict one, got 1$"):
        windows(TEXTS, 1)
    with pytest.raises(ValueError, match=r"got:\n  one text 2: '<s>'$"):
        windows({"one": ["x", "<s>"]})
    with pytest.raises(ValueError, match="the tokenizer is not this model's"):
        windows(TEXTS, limits=Limits(None, 100))
