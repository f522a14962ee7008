"""What text costs those who know the bytes of what a model has learnt, and nothing else."""

from typing import NamedTuple

from tqdm import tqdm

from experiments.settings import Monolingual
from experiments.states import read_monolingual
from ilo_jax.corpora.parallel import Parallel
from ilo_jax.evaluation.compression import ngram_bits_per_byte, xz_bits_per_byte
from ilo_jax.processes import quiet


class Reference(NamedTuple):
    """Bits for each byte of a language's sentences, by those who have read what was learnt."""

    xz: float
    """See `xz_bits_per_byte`."""
    ngram: float
    """Of byte 5-grams; see `ngram_bits_per_byte`."""


def references(learnt: Monolingual, corpus: Parallel) -> dict[str, Reference]:
    """What sentences cost xz and n-grams, by language.

    Languages of the corpus of which nothing was learnt are left out.

    Args:
        learnt: Which text was.
        corpus: The sentences.

    Raises:
        OSError: If the text is absent or cannot be read.
        ValueError: If it cannot be used.
    """
    documents = read_monolingual(learnt)
    sentences = dict(zip(corpus.languages, corpus.sentences, strict=True))
    shared = [language for language in documents.languages if language in sentences]
    found = {}
    for language in tqdm(shared, "xz and n-grams", leave=False, disable=quiet()):
        texts = list(documents.learnt(language)), sentences[language]
        found[language] = Reference(xz_bits_per_byte(*texts), ngram_bits_per_byte(*texts))
    return found
