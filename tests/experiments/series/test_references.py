"""References of bits per byte: from what was learnt, and never from what was held out."""

from pathlib import Path

from experiments.series import Config
from experiments.series.references import references
from experiments.states import read_monolingual
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.evaluation.compression import ngram_bits_per_byte, xz_bits_per_byte


def test_only_what_was_learnt_is_read(text: Path):
    learnt = Config(text=str(text), unit="line", held_out=0.3)
    corpus = Parallel(("eng_Latn", "zzz_Latn"), (("abc", "hij"), ("abc", "hij")), "a test")
    found = references(learnt, corpus)
    assert list(found) == ["eng_Latn"]
    lines = (text / "eng_Latn.txt").read_text().splitlines()
    before = [line for line in lines if line in set(read_monolingual(learnt).learnt("eng_Latn"))]
    assert 0 < len(before) < len(lines)
    assert found["eng_Latn"].ngram == ngram_bits_per_byte(before, corpus.sentences[0])
    assert found["eng_Latn"].xz == xz_bits_per_byte(before, corpus.sentences[0])
