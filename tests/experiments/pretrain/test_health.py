import numpy as np
import pytest

from experiments.pretrain.health import per_byte, per_token
from ilo_jax.corpora.packing import as_sentences, windows
from ilo_jax.evaluation.documents import LanguageTexts
from ilo_jax.evaluation.held_out import TextScores
from ilo_jax.training.masked import Found

CUT = windows(as_sentences([[1] * 5, [1] * 2, [1] * 3]), length=3)
TEXTS = LanguageTexts(("eng", "deu"), np.array([0, 0, 1]), np.array([9, 3, 5]), CUT)


def test_the_loss_is_of_all_tokens_and_not_of_all_languages():
    scores = TextScores(np.array([2.0, 3.0]), np.array([1.0, 4.0]), np.array([30, 10]))
    found = per_byte(scores, TEXTS)
    assert found.loss == pytest.approx((30 * 1 + 10 * 4) / 40)
    assert found.by_language == {"eng": 2.0, "deu": 3.0}


def test_hidden_tokens_of_windows_are_added_up_by_language():
    assert CUT.sentence.tolist() == [0, 0, 1, 2]
    found = per_token(Found(np.array([2.0, 1.0, 3.0, 0.0]), np.array([1, 1, 2, 0])), TEXTS)
    assert found.loss == pytest.approx(6 / 4)
    assert found.by_language == {"eng": 1.5, "deu": 0.0}
